"""Numbers of the size that a model keeps as arrays, which are no inputs of unknown size."""

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from zoo.case import Case

VOCABULARY, LENGTH = 11, 6


class Module(nnx.Module):
    """Decoder whose `√width` is an array of the module."""

    def __init__(self, width, d_ff, rngs):
        self.table = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.scale = nnx.data(jnp.array(width**0.5))
        self.up = nnx.Linear(width, d_ff, rngs=rngs)
        self.down = nnx.Linear(d_ff, width, rngs=rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)

    def __call__(self, tokens):
        x = self.table(tokens) * self.scale
        x = x + self.down(nnx.relu(self.up(x)))
        return self.table.attend(self.norm(x))


class Decoder(nn.Module):
    """The same in Linen, as a variable of a collection of its own."""

    width: int
    d_ff: int

    @nn.compact
    def __call__(self, tokens):
        scale = self.variable("constants", "scale", lambda: jnp.sqrt(jnp.full(1, self.width)))
        table = nn.Embed(VOCABULARY, self.width, name="table")
        x = table(tokens) * scale.value
        h = nn.relu(nn.Dense(self.d_ff, name="up")(x))
        x = x + nn.Dense(self.width, name="down")(h)
        return table.attend(nn.RMSNorm(name="norm")(x))


# The stream is added to what layers with biases write, so it keeps its size: the table times √n
# has (1/r)^½, its product with a stream of order 0 is left with r^½, which the norm carries.
ANSWER = """
table/embedding   - out*     1   7   7^-1/2
up/kernel         in* out*   7   5   1
up/bias           out*       1   5   1
down/kernel       in* out*   5   7   1
down/bias         out*       1   7   1
norm/scale        out*       1   7   7^-1/2
"""
SIZES = {
    "base": {"width": 16, "d_ff": 24},
    "target": {"width": 112, "d_ff": 120},
    "inputs": jnp.zeros((2, LENGTH), jnp.int32),
}
CASES = {
    "of a module": Case(Module, ANSWER, **SIZES),
    "of a collection": Case(Decoder, ANSWER, **SIZES),
}
