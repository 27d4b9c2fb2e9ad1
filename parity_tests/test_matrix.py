"""Networks of both Flax APIs against torch: rules, initial values, every number of 100 steps."""

import functools
import itertools
from typing import Any

import jax
import numpy as np
import pytest

import jaxmup
from parity_tests import bridge, cases
from parity_tests.cases import CASES, Case
from parity_tests.tolerances import STANDARD_ERRORS

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=str)

# torch has all of them; the reference has the Adam family.
PEERS = [
    pytest.param(case, peer, id=f"{case}-{peer}")
    for case in CASES
    for peer in ("torch.optim", "torch_ref")
    if peer == "torch.optim" or case.family == "adam"
]
EVERY_PEER = pytest.mark.parametrize(("case", "peer"), PEERS)

COLUMNS = range(len(Case._fields) - 1)


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(COLUMNS, 2)])
def test_the_table_covers_every_pair_of_values(one, other):
    seen = {(case[one], case[other]) for case in CASES}
    values = [sorted({case[column] for case in CASES}) for column in (one, other)]
    assert seen == set(itertools.product(*values))


def test_the_table_has_every_value():
    values = [{case[column] for case in CASES} for column in COLUMNS]
    optimizers = {"sgd", "momentum", "nesterov", "adam", "adamw", "adam_l2"}
    assert values[0] == optimizers | {"amsgrad", "amsgrad_decoupled"}
    assert values[1] == set(cases.TABLES)
    assert values[2:5] == [{"linen", "nnx"}, {1, 2, 3, 4}, {"tanh", "relu"}]
    assert values[5:] == [{"square", "unequal"}, {True, False}, {1.0, 2.5}]
    assert len(set(CASES)) == len(CASES)


@EVERY_CASE
def test_rules(case, agree):
    specs = bridge.named(bridge.jax_model(case).specs)
    expected = cases.numbers(case)
    roles = {name: cases.role(case, int(name[0]), name[2:]) for name in expected}
    assert {name: spec.role for name, spec in specs.items()} == roles
    scalings = jaxmup.resolve(specs, bridge.parametrization(case))
    fields = cases.Numbers._fields
    numbers = {name: [getattr(s, field) for field in fields] for name, s in scalings.items()}
    agree("rule", numbers, {name: list(n) for name, n in expected.items()})


@functools.cache
def drawn(api: str, rule: str, optimizer: str) -> tuple[dict[str, Any], dict[str, float]]:
    """What a wide network starts with, and the standard deviations that it must have."""
    case = Case(optimizer, rule, api, 2, "tanh", "wide", True, 2.5)
    values = bridge.named(bridge.jax_model(case).init(jax.random.key(0)))
    return values, {name: n.init_std for name, n in cases.numbers(case).items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("rule", cases.TABLES)
@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_initial_statistics(api, rule, optimizer):
    values, expected = drawn(api, rule, optimizer)
    errors = {
        name: (np.sqrt(np.mean(np.square(w))) / expected[name] - 1) * np.sqrt(2 * w.size)
        for name, w in values.items()
    }
    assert errors.keys() == expected.keys()
    assert max(map(abs, errors.values())) < STANDARD_ERRORS


@EVERY_CASE
def test_forward(case, agree):
    ours, theirs = bridge.jax_history(case), bridge.torch_history(case, "torch.optim")
    agree("one step", ours.first().outputs, theirs.first().outputs)
    agree("one step", ours.first().losses, theirs.first().losses)


@EVERY_CASE
def test_gradients(case, agree):
    ours, theirs = bridge.jax_history(case), bridge.torch_history(case, "torch.optim")
    agree("one step", ours.first().gradients, theirs.first().gradients)


@EVERY_PEER
def test_one_step(case, peer, agree):
    ours, theirs = bridge.jax_history(case).first(), bridge.torch_history(case, peer).first()
    agree("one step", ours.params, theirs.params)
    agree("one step", ours.moments, theirs.moments)


@EVERY_PEER
def test_hundred_steps(case, peer, agree):
    ours, theirs = bridge.jax_history(case), bridge.torch_history(case, peer)
    assert len(ours.losses) == cases.STEPS
    agree("hundred steps", ours.losses, theirs.losses)
    agree("hundred steps", ours.params, theirs.params)
    agree("hundred steps", ours.moments, theirs.moments)


@EVERY_PEER
def test_state_after_the_run(case, peer, agree):
    ours, theirs = bridge.jax_history(case), bridge.torch_history(case, peer)
    expected = {
        "sgd": set(),
        "momentum": {"trace"},
        "nesterov": {"trace"},
        "amsgrad": {"mu", "nu", "nu_max"},
        "amsgrad_decoupled": {"mu", "nu", "nu_max"},
    }.get(case.optimizer, {"mu", "nu"})
    assert {name.split("/")[0] for name in ours.moments} == expected
    assert ours.count == theirs.count == (None if case.family == "sgd" else cases.STEPS)
    last = slice(-1, None)
    agree("hundred steps", ours.only(last).moments, theirs.only(last).moments)


@EVERY_CASE
def test_the_network_moved_and_stayed_finite(case):
    history = bridge.jax_history(case)
    start, end = bridge.weights(case), {name: w[-1] for name, w in history.params.items()}
    assert all(np.abs(end[name] - start[name]).max() > 0 for name in start)
    assert np.isfinite(history.losses).all()


LOW_PRECISION = CASES[::9]  # one of each optimizer


@pytest.mark.parametrize("case", LOW_PRECISION, ids=str)
def test_float32(case, agree):
    case = case._replace(dtype="float32")
    ours, theirs = bridge.jax_history(case), bridge.torch_history(case, "torch.optim")
    assert {array.dtype for array in ours.params.values()} == {np.dtype("float32")}
    agree("one step, float32", ours.first()[:5], theirs.first()[:5])
    agree("hundred steps, float32", ours[:5], theirs[:5])


@pytest.mark.parametrize("case", LOW_PRECISION, ids=str)
def test_bfloat16_compute(case, agree):
    case = case._replace(dtype="bfloat16")
    ours, theirs = bridge.jax_history(case), bridge.torch_history(case, "torch.optim")
    assert {array.dtype for array in ours.params.values()} == {np.dtype("float32")}
    agree("one step, bfloat16", ours.first()[:5], theirs.first()[:5])
    agree("losses, bfloat16", ours.losses, theirs.losses)
    agree("weights, bfloat16", ours.params, theirs.params)


def test_low_precision_has_every_optimizer():
    assert [case.optimizer for case in LOW_PRECISION] == list(dict.fromkeys(c[0] for c in CASES))
