"""The AMSGrad counter-example, against values of the PyTorch implementations and `torch_ref`."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import torch_ref
from jaxmup.optim import scale_by_adam
from notebooks import counterexample

# The two PyTorch implementations in float64 (t starts at 0, eps 1e-16 beside the uncorrected root):
# x seen before the update of a step, and the average regret after it.
STEPS = [1_000, 10_000, 50_000, 100_000, 200_000]
SEEN = {
    "adam": [0.1957, 1.0, 0.9805, 0.9599, 0.9444],
    "amsgrad": [0.0057, -0.0557, -0.3865, -0.7967, -0.99979],
}
REGRET = {"adam": {200_000: 0.5045, 10_000_000: 0.4979}}
REGRET["amsgrad"] = {200_000: 0.3632, 10_000_000: 0.3300}
LIMIT_CYCLE = {"adam": (0.943, 1.0), "amsgrad": (-1.0, -0.946)}
SECONDS = 2.0

EITHER = pytest.mark.parametrize("optimizer", ["adam", "amsgrad"])


@EITHER
def test_reference_values(optimizer, agree):
    trajectory = counterexample.run(optimizer)
    seen = dict(zip(trajectory.step.tolist(), trajectory.x, strict=True))
    agree("printed", [[seen[step] for step in STEPS]], [SEEN[optimizer]])
    regret = dict(zip(trajectory.step.tolist(), trajectory.average_regret, strict=True))
    expected = REGRET[optimizer]
    agree("printed", [[regret[step] for step in expected]], [list(expected.values())])


@EITHER
def test_limit_cycle(optimizer):
    # 1009 is prime to 101: the records pass through every phase of the cycle.
    x = counterexample.run(optimizer, 1009 * 9_900, record_every=1009).x[-1_000:]
    assert (x.min().round(3), x.max().round(3)) == LIMIT_CYCLE[optimizer]


def test_amsgrad_comes_near_the_optimum_after_127_thousand_steps():
    trajectory = counterexample.run("amsgrad", 200_000)
    assert trajectory.step[np.argmax(trajectory.x < -0.99)] == 127_000


@EITHER
def test_equals_the_reference(optimizer, agree):
    ours = counterexample.run(optimizer, 20_000, record_every=1)
    theirs = torch_ref.counterexample.run(optimizer, 20_000, record_every=1)
    assert ours.step.tolist() == theirs.step.tolist()
    agree("counter-example", ours.x[None], theirs.x[None])
    agree("counter-example", ours.average_regret[None], theirs.average_regret[None])


@EITHER
def test_equals_the_transform(optimizer, agree):
    tx = optax.chain(
        scale_by_adam(0.9, 0.99, 1e-16, amsgrad=optimizer == "amsgrad", convention="labml"),
        optax.scale(-1e-2),
    )

    def step(carry, t):
        x, state = carry
        gradient = jax.grad(counterexample.objective, argnums=1)(t, x)
        update, state = tx.update(gradient, state)
        return (jnp.clip(x + update, -1.0, 1.0), state), x

    start = jnp.zeros(())
    _, x = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(20_000))
    trajectory = counterexample.run(optimizer, 20_000, record_every=1)
    agree("counter-example", trajectory.x[None], x[None])


@EITHER
def test_ten_million_steps_are_one_short_loop(optimizer, note):
    counterexample.run(optimizer)  # compiles
    start = time.process_time()
    counterexample.run(optimizer)
    seconds = time.process_time() - start
    note(f"counter-example, {optimizer}: {counterexample.STEPS:,} steps in {seconds:.2f} s")
    assert seconds < SECONDS


def test_record_every_changes_what_is_recorded_alone():
    often = counterexample.run("adam", 6_000, record_every=100)
    seldom = counterexample.run("adam", 6_000, record_every=2_000)
    assert seldom.step.tolist() == [2_000, 4_000, 6_000]
    assert seldom.x.tolist() == often.x[19::20].tolist()
    assert seldom.average_regret.tolist() == often.average_regret[19::20].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("sgd",), r"`optimizer` must be one of \('adam', 'amsgrad'\). Got 'sgd'"),
        (("adam", 0), "`record_every` must be a positive divisor of `steps`. Got .* steps=0"),
        (("adam", 1_500), "a positive divisor of `steps`. Got record_every=1000, steps=1500"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        counterexample.run(*options)
