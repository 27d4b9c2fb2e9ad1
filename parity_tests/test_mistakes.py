"""One mistake at a time, and the comparisons of this suite see it where it must first show."""

from typing import Any

import numpy as np
import optax
import pytest
from torch.optim import Adam, AdamW

from jaxmup import optim
from parity_tests import bridge, cases
from parity_tests.bridge import History
from parity_tests.cases import Case, Shift
from parity_tests.test_matrix import drawn
from parity_tests.test_optimizers import (
    ADAM_LRS,
    B1,
    B2,
    BETAS,
    DECAY,
    LR,
    adam_groups,
    scalings,
)
from parity_tests.tolerances import STANDARD_ERRORS, TOL

# A table in which all four exponents differ from zero somewhere, on unequal widths.
TRAINED = {
    "sgd": Case("momentum", "tp4b", "nnx", 2, "tanh", "unequal", True, 1.0),
    "adam": Case("adamw", "tp4b", "linen", 2, "tanh", "unequal", True, 1.0),
}
ROLES = ["input", "hidden", "output"]

# What a mistake shows in first, in the order in which a step makes them
ORDER = ("outputs", "losses", "gradients", "moments", "params")
FIRST_SEEN_IN = {
    "multiplier": "outputs",
    "grad": "gradients",
    "lr": "params",
    "eps": "params",
    "weight_decay": "params",
}
FACTORS = [
    pytest.param(family, factor, id=f"{family}-{factor}")
    for family, factors in {
        "sgd": ("multiplier", "grad", "lr"),
        "adam": ("multiplier", "grad", "lr", "eps", "weight_decay"),
    }.items()
    for factor in factors
]


def both(family: str, shift: Shift | None) -> tuple[History, History]:
    """The first step of both sides, of which torch's has the mistake."""
    case = TRAINED[family]
    ours, theirs = bridge.jax_history(case), bridge.torch_history(case, "torch.optim", shift)
    return ours.first(), theirs.first()


def see(family: str, shift: Shift, agree: Any, disagree: Any) -> None:
    """Everything before the quantity that shows the mistake agrees, and that one does not."""
    ours, theirs = both(family, shift)
    before = ORDER[: ORDER.index(FIRST_SEEN_IN[shift.factor])]
    agree("one step", *({q: getattr(side, q) for q in before} for side in (ours, theirs)))
    quantity = FIRST_SEEN_IN[shift.factor]
    disagree(getattr(ours, quantity), getattr(theirs, quantity))


@pytest.mark.parametrize("family", TRAINED)
def test_without_a_mistake(family, agree):
    ours, theirs = both(family, None)
    agree("one step", ours[:5], theirs[:5])


# The exponents a, c and d are those of the multiplier, the learning rate and the gradient.
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("factor", ["multiplier", "lr", "grad"])
@pytest.mark.parametrize("family", TRAINED)
def test_exponent(family, factor, role, agree, disagree):
    see(family, Shift(factor, role, power=0.5), agree, disagree)


@pytest.mark.parametrize("role", [*ROLES, "fixed"])
@pytest.mark.parametrize(("family", "factor"), FACTORS)
def test_factor(family, factor, role, agree, disagree):
    see(family, Shift(factor, role, times=1.5), agree, disagree)


# The exponent b and the factor on the initial values show in the initial values alone.
@pytest.mark.parametrize("change", [{"power": 0.5}, {"times": 1.5}], ids=["b", "factor"])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rule", cases.TABLES)
def test_initial_scale(rule, role, change, disagree):
    values, right = drawn("nnx", rule, "adam")
    case = Case("adam", rule, "nnx", 2, "tanh", "wide", True, 2.5)
    wrong = {n: v.init_std for n, v in cases.numbers(case, Shift("init", role, **change)).items()}
    name = next(name for name in right if wrong[name] != right[name])
    measured = np.sqrt(np.mean(np.square(values[name])))
    errors = np.abs(measured / np.array([right[name], wrong[name]]) - 1)
    of_right, of_wrong = errors * np.sqrt(2 * values[name].size)
    assert of_right < STANDARD_ERRORS < of_wrong


# ---------------------------------------------------------------------------------- optimizers

EPS = 1e-2


def torchs(make: Any, *, amsgrad: bool = False, **decay: Any) -> bridge.Tree:
    groups = adam_groups(eps=EPS, **decay)
    return bridge.torch_steps(lambda g: make(g, betas=BETAS, amsgrad=amsgrad), groups).params


def ours(make: Any, **options: Any) -> bridge.Tree:
    return bridge.jax_steps(make(LR, scalings("adam"), B1, B2, EPS, **options)).params


@pytest.mark.parametrize("amsgrad", [False, True], ids=["adam", "amsgrad"])
def test_place_of_eps(amsgrad, agree, disagree):
    make = optim.amsgrad if amsgrad else optim.adam
    expected = torchs(Adam, amsgrad=amsgrad)
    agree("hundred steps", ours(make, convention="torch"), expected)
    disagree(ours(make, convention="labml"), expected)


def test_eps_inside_the_root(disagree):
    inside = {"eps": 0.0, "eps_root": EPS}
    tx = optim.adam(LR, scalings("adam"), B1, B2, **inside)
    disagree(bridge.jax_steps(tx).params, torchs(Adam))


def test_bias_correction_before_the_maximum(agree, disagree):
    expected = torchs(Adam, amsgrad=True)
    agree("hundred steps", ours(optim.amsgrad, convention="torch"), expected)
    disagree(ours(optim.amsgrad, convention="optax"), expected)


def test_no_maximum(disagree):
    disagree(ours(optim.adam), torchs(Adam, amsgrad=True))


@pytest.mark.parametrize("wrong", ["coupled", "absolute", "independent"])
def test_weight_decay_of_another_mode(wrong, agree, disagree):
    expected = torchs(AdamW, decay=DECAY)
    decay = {"weight_decay": DECAY}
    agree("hundred steps", ours(optim.adam, **decay, weight_decay_mode="decoupled"), expected)
    disagree(ours(optim.adam, **decay, weight_decay_mode=wrong), expected)


def chained(*, decay_first: bool) -> bridge.Tree:
    """AdamW by hand, with its decay before or after the factors on the learning rate."""
    given = scalings("adam")
    eps = {name: EPS * scaling.eps for name, scaling in given.items()}
    scaled, decay = optim.scale_updates(given), optax.add_decayed_weights(DECAY)
    tx = optax.chain(
        optim.scale_by_adam(B1, B2, eps),
        *((decay, scaled) if decay_first else (scaled, decay)),
        optax.scale(-LR),
    )
    return bridge.jax_steps(tx).params


def test_decay_before_or_after_scaling(agree, disagree):
    # torch multiplies the rate of a group into its decay: that is decay before scaling. After it,
    # decay takes the base model's rate, as torch's does where the group's coefficient makes up.
    groups = adam_groups(eps=EPS)
    before = {name: group | {"weight_decay": DECAY} for name, group in groups.items()}
    after = {n: group | {"weight_decay": DECAY / ADAM_LRS[n]} for n, group in groups.items()}
    expected = {
        decay_first: bridge.torch_steps(lambda g: AdamW(g, betas=BETAS), given).params
        for decay_first, given in ((True, before), (False, after))
    }
    agree("hundred steps", chained(decay_first=True), expected[True])
    agree("hundred steps", chained(decay_first=False), expected[False])
    disagree(chained(decay_first=True), expected[False])
    disagree(chained(decay_first=False), expected[True])


def test_what_counts_as_disagreement_is_far_from_what_counts_as_rounding():
    assert TOL["disagreement"].largest >= 1e6 * TOL["hundred steps"].largest
