"""Two LSTMs of other sizes, one on the other, in Equinox."""

import equinox as eqx
import jax
import jax.numpy as jnp

from zoo.case import Case


class Net(eqx.Module):
    first: eqx.nn.LSTMCell
    second: eqx.nn.LSTMCell
    head: eqx.nn.Linear

    def __init__(self, width, top, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.LSTMCell(4, width, key=keys[0])
        self.second = eqx.nn.LSTMCell(width, top, key=keys[1])
        self.head = eqx.nn.Linear(top, 3, key=keys[2])

    def __call__(self, sequence):
        def step(states, x):
            first = self.first(x, states[0])
            second = self.second(first[0], states[1])
            return (first, second), None

        start = tuple(
            (jnp.zeros(cell.hidden_size), jnp.zeros(cell.hidden_size))
            for cell in (self.first, self.second)
        )
        (_, (last, _)), _ = jax.lax.scan(step, start, sequence)
        return self.head(last)


# Four gates are beside each other on one axis, which grows as the hidden size.
ANSWER = """
first/weight_ih    out* in    1   7   1
first/weight_hh    out* in*   7   7   1
first/bias         out*       1   7   1
second/weight_ih   out* in*   7   5   1
second/weight_hh   out* in*   5   5   1
second/bias        out*       1   5   1
head/weight        - in*      5   1   1
head/bias          -          1   1   1
"""
CASES = {
    "": Case(
        Net,
        ANSWER,
        base={"width": 16, "top": 8},
        target={"width": 112, "top": 40},
        inputs=jnp.zeros((2, 6, 4)),
        apply=lambda model, x: jax.vmap(model)(x),
    )
}
