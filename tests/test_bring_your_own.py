"""`examples/bring_your_own`: what `infer` finds in the Equinox model, and that it trains."""

import importlib.util
import pathlib
import re

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import jaxmup

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "bring_your_own"
SIZES = {"base": 16, "target": 64}


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location(
        "example_of_equinox", EXAMPLE / "language_model.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def specs(example):
    return jaxmup.infer(example.make_model, **SIZES, delta=32, inputs=example.INPUTS)


def test_roles_and_factors_by_hand(specs):
    first = specs.blocks[0]
    assert [specs.embed.weight.role, specs.positions.role, specs.readout.weight.role] == [
        "input",
        "input",
        "output",
    ]
    assert {layer.weight.role for layer in (first.up, first.down)} == {"hidden"}
    # The head size grows fourfold; Equinox divides by its root alone.
    assert first.attention.query_proj.weight.forward_gain == (16 / 64) ** 0.5
    assert first.attention.key_proj.weight.forward_gain == 1


def test_the_readme_names_the_line_of_attention():
    lines = (EXAMPLE / "language_model.py").read_text().splitlines()
    named = {int(n) for n in re.findall(r"language_model\.py:(\d+)", _readme())}
    assert ["self.attention(" in lines[n - 1] for n in named] == [True]


def test_three_lines_train_it(example, specs):
    mup = jaxmup.parametrization("mup", "adam", gauge="table3")
    model = jaxmup.rescale(example.make_model, specs, mup, **SIZES, key=jax.random.key(0))
    tx = jaxmup.optim.adamw(2**-5, jaxmup.resolve(specs, mup))
    batch = next(example.batches(seed=0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)

    def step(carry, _):
        params, state = carry
        loss, gradients = jax.value_and_grad(
            lambda params: example.loss_fn(eqx.combine(params, rest), batch)
        )(params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), loss

    losses = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=10)[1])()
    # At first every byte is about as likely as any other.
    np.testing.assert_allclose(losses[0], np.log(example.BYTES), rtol=0.05)
    assert losses[-1] < losses[0] - 1


def _readme() -> str:
    return (EXAMPLE / "README.md").read_text()
