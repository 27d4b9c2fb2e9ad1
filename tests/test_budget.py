"""Batch size and length of training: the published rules by hand, and what they keep."""

import math
from functools import partial
from typing import Any

import pytest
from helpers import TOL, cases

from jaxmup.budget import Hyperparameters, Run, adjust, factors

BASE = Run(batch_size=64, examples=64000, parameters=1000)
NAMES = ["learning_rate", "weight_decay", "eps", "1 - b1", "1 - b2", "iterations"]

# m_B, m_D, options, and by hand the factors of NAMES
RULES: dict[str, tuple[Any, ...]] = {
    # Complete(d)P, arXiv:2512.22382, Table 1: √(m_B/m_D) twice, √(m_D/m_B), m_B/m_D twice, m_D/m_B
    "batch": (4, 1, {}, 2, 2, 1 / 2, 4, 4, 1 / 4),
    "length": (1, 16, {}, 1 / 4, 1 / 4, 4, 1 / 16, 1 / 16, 16),
    "both": (4, 64, {}, 1 / 4, 1 / 4, 4, 1 / 16, 1 / 16, 16),
    "both alike": (9, 9, {}, 1, 1, 1, 1, 1, 1),
    "smaller": (1 / 4, 1, {}, 1 / 2, 1 / 2, 2, 1 / 4, 1 / 4, 4),
    # the linear rule; the decay of one step, ηλ, is the same as with the other rate
    "linear": (4, 1, {"batch_exponent": 1.0}, 4, 1, 1 / 2, 4, 4, 1 / 4),
    "rate of batch alone": (4, 16, {"length_exponent": 0.0}, 2, 1 / 8, 2, 1 / 4, 1 / 4, 4),
    "measured": (1, 16, {"length_exponent": 0.25}, 1 / 2, 1 / 8, 4, 1 / 16, 1 / 16, 16),
    "betas in steps": (4, 1, {"scale_betas": False}, 2, 2, 1 / 2, 1, 1, 1 / 4),
    # λ not multiplied by the rate: ηλ of above, m_B/m_D
    "independent": (4, 64, {"decay_mode": "independent"}, 1 / 4, 1 / 16, 4, 1 / 16, 1 / 16, 16),
    "λ as it is": (4, 1, {"timescale_exponent": None}, 2, 1, 1 / 2, 4, 4, 1 / 4),
    # Power Lines, arXiv:2505.13738: λ = B TPP^-m / (c η D), and λ ∝ B at fixed η, D
    "Power Lines": (1, 16, {"timescale_exponent": -0.5}, 1 / 4, 1, 4, 1 / 16, 1 / 16, 16),
    "Power Lines, batch": (
        *(4, 1, {"timescale_exponent": -0.5, "batch_exponent": 0.0}),
        *(1, 4, 1 / 2, 4, 4, 1 / 4),
    ),
}


@pytest.mark.parametrize("row", RULES.values(), ids=RULES)
def test_published_rule(row):
    batch, length, options, *expected = row
    table = factors(BASE, Run(64 * batch, 64000 * length, parameters=1000), **options)
    assert list(table) == NAMES
    close = pytest.approx(expected, rel=TOL["rule", "float64"].rtol, abs=0)
    assert [table[name].value for name in NAMES] == close
    assert all(
        "arXiv:" in f.source or f.name == "iterations" or f.formula == "1" for f in table.values()
    )


def test_larger_models_see_fewer_examples_per_parameter():
    target = Run(64, 64000, parameters=16000)
    by = factors(BASE, target, timescale_exponent=-0.5)
    assert by["weight_decay"].value == 1 / 4  # TPP^-m = (1/16)^½


def test_every_factor_reaches_its_hyperparameter():
    old = Hyperparameters(0.5, weight_decay=0.25, eps=1e-6, b1=0.75, b2=0.875)
    new = adjust(old, BASE, Run(128, 64000 * 8))
    assert new == Hyperparameters(0.25, 0.125, 2e-6, b1=0.9375, b2=0.96875)
    assert adjust(old, BASE, BASE) == old
    assert adjust(Hyperparameters(0.5), BASE, Run(128, 64000 * 8)).weight_decay is None
    assert adjust(old, BASE, Run(128, 64000 * 8), scale_betas=False).b1 == 0.75


@pytest.mark.parametrize("exponents", [(0.5, 0.5), (1.0, 0.0), (0.5, 0.3)])
def test_the_time_scale_of_decay_is_a_fixed_part_of_the_run(exponents):
    old, target = Hyperparameters(0.5, weight_decay=0.25), Run(96, 640000)
    by_batch, by_length = exponents
    options = {"batch_exponent": by_batch, "length_exponent": by_length, "scale_betas": False}
    new = adjust(old, BASE, target, **options)
    parts = [
        h.learning_rate * h.weight_decay * run.examples / run.batch_size
        for h, run in ((old, BASE), (new, target))
    ]
    assert parts[0] == pytest.approx(parts[1], rel=TOL["rule", "float64"].rtol, abs=0)


def test_iterations():
    assert (BASE.iterations, Run(64, 100).iterations, Run(64, 10).iterations) == (1000, 2, 1)


GROWN = partial(adjust, Hyperparameters(0.1), BASE)
BAD: dict[str, tuple[Any, ...]] = {
    "batch": (lambda: Run(0, 1), r"`batch_size` must be a finite number above 0. Got 0"),
    "examples": (lambda: Run(1, math.nan), r"`examples` must be .* Got nan"),
    "parameters": (lambda: Run(1, 1, -1), r"`parameters` must be .* Got -1"),
    "rate": (lambda: Hyperparameters(-0.1), r"`learning_rate` must be .* Got -0.1"),
    "decay": (lambda: Hyperparameters(1.0, 0.0), r"`weight_decay` must be .* `None` is for none"),
    "eps": (lambda: Hyperparameters(1.0, eps=math.inf), r"`eps` must be .* Got inf"),
    "b2": (lambda: Hyperparameters(1.0, b2=1.0), r"`b2` must be .* least 0 and below 1. Got 1.0"),
    "no average left": (lambda: GROWN(Run(64 * 16, 64000)), r"`b1` must .* scale_betas=False"),
    "no parameters": (
        lambda: GROWN(Run(64, 64000), timescale_exponent=-0.5),
        r"both runs must say .* Pass `parameters`",
    ),
    "mode": (lambda: GROWN(BASE, decay_mode="l2"), r"'decoupled', 'independent'. Got 'l2'"),
}


NO_NUMBERS: dict[str, tuple[Any, ...]] = {
    "batch": (lambda: Run(True, 1), r"`batch_size` must be a real number. Got True"),
    "parameters": (lambda: Run(1, 1, "1e9"), r"`parameters` must be a real number. Got '1e9'"),
    "rate": (lambda: Hyperparameters(None), r"`learning_rate` must be a real number. Got None"),
    "b1": (lambda: Hyperparameters(1.0, b1="0.9"), r"`b1` must be a real number. Got '0.9'"),
    "exponent": (lambda: GROWN(BASE, batch_exponent=1j), r"`batch_exponent` .* Got 1j"),
}


@pytest.mark.parametrize(("make", "message"), cases(NO_NUMBERS))
def test_what_is_no_number_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(("make", "message"), cases(BAD))
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
