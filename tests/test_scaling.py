"""The numbers of one parameter: by hand at unequal widths, and what holds at every width."""

import dataclasses
import itertools
import re
from fractions import Fraction
from typing import Any

import pytest
from helpers import TOL, cases, exponents, named, of_role, weight
from hypothesis import example, given
from hypothesis import strategies as st

from jaxmup import Axis, Parametrization, ParamSpec, Scaling, parametrization, resolve
from jaxmup._scaling import what_is_applied
from jaxmup._spec import Applied

SIGMA = 0.5

# words, (r_in, r_out), then by hand from THEORY §1.3, σ = 1/2: multiplier, init_std, lr, grad, eps
NUMBERS: dict[str, tuple[Any, ...]] = {
    # the whole rule in the gauge without multipliers; the growth of the output lags behind
    "table3, lags": ("mup adam table3", (16, 4), 1, SIGMA / 8, 1 / 16, 1, 1 / 4),
    "table3, lags, SGD": ("mup sgd table3", (16, 4), 1, SIGMA / 8, 1 / 4, 1, 1),
    "table3, leads": ("mup adam table3", (4, 16), 1, SIGMA / 2, 1 / 4, 1, 1 / 16),
    "table3, leads, SGD": ("mup sgd table3", (4, 16), 1, SIGMA / 2, 4, 1, 1),
    # a target narrower than the base: the factors of growth, inverted
    "narrower hidden": ("mup adam table3", (1 / 4, 1 / 4), 1, SIGMA * 2, 4, 1, 4),
    "narrower input": ("mup adam table3", (None, 1 / 4), 1, SIGMA, 1, 1, 4),
    "narrower input, SGD": ("mup sgd table3", (None, 1 / 4), 1, SIGMA, 1 / 4, 1, 1),
    "narrower output": ("mup adam table3", (1 / 4, None), 1, SIGMA * 4, 4, 1, 1),
    "narrower output, SGD": ("mup sgd table3", (1 / 4, None), 1, SIGMA * 4, 4, 1, 1),
    "narrower, lags": ("mup adam table3", (1 / 16, 1 / 4), 1, SIGMA * 8, 16, 1, 4),
    "narrower, leads, SGD": ("mup sgd table3", (1 / 4, 1 / 16), 1, SIGMA * 2, 1 / 4, 1, 1),
    # the other gauges: THEORY §3 with θ the new multiplier
    "table8 output": ("mup adam table8", (16, None), 1 / 16, SIGMA, 1, 1, 1 / 16),
    "table9, lags": ("mup adam table9", (16, 4), 1 / 2, SIGMA / 4, 1 / 8, 1, 1 / 8),
    "table9, lags, SGD": ("mup sgd table9", (16, 4), 1 / 2, SIGMA / 4, 1, 1, 1),
    "table9, leads": ("mup adam table9", (4, 16), 2, SIGMA / 4, 1 / 8, 1, 1 / 8),
    "table9, powers cancel": ("mup sgd table9", (3, 3), 1, SIGMA * 3**-0.5, 1, 1, 1),
    "tp4b, lags": ("mup adam tp4b", (16, 4), 1, SIGMA / 8, 1 / 16, 4, 1),
    "tp4b, lags, SGD": ("mup sgd tp4b", (16, 4), 1, SIGMA / 8, 1 / 16, 4, 1),
    "unit, lags": ("mup adam unit", (16, 4), 1 / 16, 1, 1, 1, 1 / 64),
    "unit, lags, SGD": ("mup sgd unit", (16, 4), 1 / 16, 1, 64, 1, 1),
    "mean field, lags": ("mean_field adam", (16, 4), 1 / 8, SIGMA, 1 / 2, 1, 1 / 32),
    # the other parametrizations
    "standard": ("standard sgd", (16, 4), 1, SIGMA / 4, 1, 1, 1),
    "ntk": ("ntk adam", (16, 4), 1 / 4, SIGMA, 1 / 8, 1, 1 / 8),
    "ntk, SGD": ("ntk sgd", (16, 4), 1 / 4, SIGMA, 1, 1, 1),
    "Adafactor": ("mup adafactor table3", (16, 4), 1, SIGMA / 8, 1 / 2, 1, 1 / 4),
    # one width a layer, fan_in here: d = 2 is right for square layers only (THEORY §2.1.4)
    "cellarium": ("cellarium adam", (16, 4), 1 / 16, SIGMA * 4, 1, 256, 1),
    "cellarium, SGD": ("cellarium sgd", (16, 4), 1, SIGMA / 4, 1, 1, 1),
    "unit at base": ("mup adam unit", (1, 1), SIGMA, 1, 2, 1, SIGMA),
    "fixed": ("mup adam tp4b", (None, None), 1, SIGMA, 1, 1, 1),
}


@pytest.mark.parametrize(
    ("words", "ratios", "multiplier", "init_std", "lr", "grad", "eps"), cases(NUMBERS)
)
def test_numbers_by_hand(words, ratios, multiplier, init_std, lr, grad, eps):
    got = resolve(weight(*ratios, init_std=SIGMA), named(words))
    assert (got.multiplier, got.init_std, got.lr) == (multiplier, init_std, lr)
    assert (got.grad, got.eps, got.weight_decay) == (grad, eps, 1 / lr)
    assert got.family.name == words.split()[1]


# α = 4: words, role, then by hand at r = 4, σ = 1/2: multiplier, init_std, lr, weight_decay
LR_SCALES: dict[str, tuple[Any, ...]] = {
    "mup scales the rate, Adam": ("mup adam table3", "hidden", 1, SIGMA / 2, 1, 1),
    "mup scales the rate, SGD": ("mup sgd table3", "input", 1, SIGMA, 16, 1 / 16),
    "mup scales the rate, fixed": ("mup adam table8", "fixed", 1, SIGMA, 4, 1 / 4),
    # √α on W = m w, so that α acts as √α on the step of Adam and as α on that of SGD
    "cellarium, Adam, hidden": ("cellarium adam", "hidden", 2 / 4, SIGMA * 2 / 2, 1, 1),
    "cellarium, Adam, input": ("cellarium adam", "input", 2, SIGMA / 2, 1, 1),
    "cellarium, SGD, input": ("cellarium sgd", "input", 2 * 2, SIGMA / 2 / 2, 1, 1),
    "cellarium, SGD, output": ("cellarium sgd", "output", 2 / 2, SIGMA / 2 / 2, 1, 1),
    "cellarium, fixed": ("cellarium adam", "fixed", 2, SIGMA / 2, 1, 1),
}


@pytest.mark.parametrize(
    ("words", "role", "multiplier", "init_std", "lr", "weight_decay"), cases(LR_SCALES)
)
def test_lr_scale(words, role, multiplier, init_std, lr, weight_decay):
    got = resolve(of_role(role, 4, init_std=SIGMA, lr_scale=4), named(words))
    assert got.norm * got.multiplier == resolve(of_role(role, 4), named("mup sgd table3")).norm
    assert (got.multiplier, got.init_std, got.lr) == (multiplier, init_std, lr)
    assert got.weight_decay == weight_decay


# words, (r_in, r_out), and by hand m9/m with m9 = r_in^-½ r_out^½ (THEORY §3.4: the norms of ∂L/∂W
# of input, hidden and output grow as n^-½, 1, n^½)
NORMS: dict[str, tuple[Any, ...]] = {
    "table3, input": ("mup adam table3", (None, 16), 4),
    "table3, hidden": ("mup sgd table3", (16, 4), 1 / 2),
    "table3, output": ("mup adam table3", (16, None), 1 / 4),
    "table8, output": ("mup adam table8", (16, None), 4),
    "table9": ("mup adam table9", (16, 4), 1),
    "tp4b, before d": ("mup adam tp4b", (16, 4), 1 / 2),
    "Muon": ("mup muon table3", (16, 4), 1 / 2),
    "cellarium, hidden": ("cellarium adam", (16, 16), 16),
    "standard, as it is": ("standard adam", (16, 4), 1),
}


@pytest.mark.parametrize(("words", "ratios", "norm"), cases(NORMS))
def test_norm_by_hand(words, ratios, norm):
    assert resolve(weight(*ratios), named(words)).norm == norm


# words, then by hand the powers of the gain f (THEORY §3 with θ = 1/f) in init_std, lr, grad, eps,
# norm and weight_decay
GAINS: dict[str, tuple[str, str]] = {
    "Adam": ("mup adam table3", "1 1 0 -1 1 -1"),
    "Adam, d": ("mup adam tp4b", "1 1 1 0 1 -1"),
    "SGD": ("mup sgd table9", "1 2 0 0 1 -2"),
    "SGD, d": ("mup sgd tp4b", "1 1 1 0 1 -1"),
    "Adafactor": ("mup adafactor table8", "1 0 0 -1 1 0"),
    "Muon": ("mup muon table3", "1 1 0 -1 1 -1"),
    "cellarium, Adam": ("cellarium adam", "1 1 1 0 1 -1"),
    "cellarium, SGD": ("cellarium sgd", "1 2 0 0 1 -2"),
}


@pytest.mark.parametrize(("words", "powers"), cases(GAINS))
def test_forward_gain(words, powers):
    plain, carries = (
        resolve(weight(16, 4, init_std=SIGMA, forward_gain=f), named(words)) for f in (1.0, 0.25)
    )
    fields = ("init_std", "lr", "grad", "eps", "norm", "weight_decay")
    moved = [getattr(carries, name) / getattr(plain, name) for name in fields]
    assert (moved, carries.multiplier) == ([0.25**p for p in exponents(powers)], plain.multiplier)


def make(physics: tuple[Any, ...], gauge: Any) -> Parametrization:
    name, family, alignment = physics
    return parametrization(name, family, gauge=gauge, alignment=alignment)


FAMILIES = {"sgd": (1, 0), "adam": (0, 0), "adafactor": (0, 1)}  # degree in gradient, in weight
GAUGES = ["table3", "table8", "table9", "tp4b", "unit", "ntk", "mean_field"]
ROLES = ["input", "hidden", "output", "fixed"]
WAYS = [None, "full", "none"]
PHYSICS = [*itertools.product(["mup", "standard", "ntk", "mean_field"], FAMILIES, WAYS)]
RULES = [*itertools.starmap(make, itertools.product(PHYSICS, GAUGES)), named("cellarium adam")]

physics, gauges, rules = (st.sampled_from(choices) for choices in (PHYSICS, GAUGES, RULES))
sizes = st.integers(1, 64)
axes = st.builds(Axis, st.sampled_from(["input", "output"]), sizes, st.none() | sizes)
shapes = st.lists(axes, max_size=4).map(tuple)
scales = st.floats(0.01, 100)


def close(expected: Any) -> Any:
    return pytest.approx(expected, rel=TOL["rule", "float64"].rtol, abs=0)


def factors(rule: Parametrization, shape: tuple[Axis, ...]) -> tuple[float, ...]:
    """All factors of a parameter of σ = 1, whose initial scale is then a factor too."""
    return dataclasses.astuple(resolve(ParamSpec(shape, init_std=1.0), rule))[:-3]


def of_effective_weight(scaling: Scaling) -> tuple[float, ...]:
    """Initial scale, step and eps of W = m w, which no gauge may change."""
    m, k, j = scaling.multiplier, *FAMILIES[scaling.family.name]
    eps = scaling.eps if k else scaling.eps / (m * scaling.grad)
    return m * scaling.init_std, scaling.lr * scaling.grad**k * m ** (1 + k - j), eps


@given(physics, gauges, shapes, scales, scales)
def test_gauges_have_one_physics(physics, gauge, shape, sigma, alpha):
    spec = ParamSpec(shape, sigma, alpha)
    ours, reference = resolve(spec, make(physics, gauge)), resolve(spec, make(physics, "table3"))
    assert of_effective_weight(ours) == close(of_effective_weight(reference))
    assert ours.lr * ours.weight_decay == close(1)
    assert ours.norm * ours.multiplier == close(reference.norm)
    assert ours.init_std == close(sigma * ours.init_gain)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.gauge != "unit"], ids=str)
def test_everything_is_exactly_1_at_base_width(rule):
    specs = [of_role(role, 1, init_std=0.3) for role in ROLES]
    got = resolve(specs, rule)
    assert got == [Scaling(1.0, 0.3, *[1.0] * 6, rule.family, spec.shape) for spec in specs]


@given(rules, st.sampled_from(ROLES), sizes, sizes, sizes, sizes)
def test_factors_compose(rule, role, a, b, c, d):
    def grown(size: int, base: int) -> tuple[float, ...]:
        return factors(rule, of_role(role, Fraction(size, base)).axes)

    one_after_the_other = [x * y for x, y in zip(grown(a, b), grown(c, d), strict=True)]
    assert grown(a * c, b * d) == close(one_after_the_other)


@given(rules, shapes)
@example(make(("mup", "adam", None), "table3"), (Axis("input", 64, 16), Axis("output", 16, 64)))
def test_the_way_back_is_the_inverse(rule, shape):
    back = tuple(Axis(axis.kind, axis.base_size, axis.base and axis.size) for axis in shape)
    there_and_back = zip(factors(rule, shape), factors(rule, back), strict=True)
    assert [x * y for x, y in there_and_back] == close([1] * 8)


@given(rules, shapes.flatmap(lambda shape: st.tuples(st.just(shape), st.permutations(shape))))
def test_the_order_of_the_axes_does_not_matter(rule, orders):
    assert factors(rule, orders[0]) == factors(rule, tuple(orders[1]))


def test_a_layer_of_another_gauge_is_refused():
    built = weight(4, None, init_std=SIGMA)
    built = dataclasses.replace(built, applied=what_is_applied(built, named("mup adam table3")))
    message = (
        "head/kernel: A parameter must be resolved under the parametrization that its layer "
        "applies. mup/table8 (adam) asks for Applied(multiplier=0.25, init_gain=1.0); the layer "
        "of the parameter of shape (64, 10) was built with Applied(multiplier=1.0, init_gain=0.25)"
    )
    assert resolve(built, named("mup sgd table3")).init_std == SIGMA / 4
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve({"head": {"kernel": built}}, named("mup adam table8"))


PLAIN = Applied(multiplier=1.0, init_gain=None)


def test_a_plain_model_applies_no_multiplier():
    head, hidden = (weight(4, r_out, init_std=SIGMA, applied=PLAIN) for r_out in (None, 4))
    assert resolve(head, named("mup adam table3")).init_gain == 1 / 4
    assert resolve(hidden, named("mup adam table8")).init_gain == 1 / 2  # which asks for none here
    message = (
        "head: A plain model applies no multiplier. mup/table8 (adam) asks for 0.25 on the "
        "parameter of shape (64, 10). Use gauge='table3', which asks for none."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve({"head": head}, named("mup adam table8"))
