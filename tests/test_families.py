"""Families of optimizers: their rules by hand, every gauge one run, and what width leaves alone."""

import dataclasses
import json
from functools import cache, partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import TOL, cases, require_close, scale_by_adam_atan2, weight
from optax import contrib

import jaxmup
from jaxmup import Axis, ParamSpec, Scaling, optim, parametrization, resolve
from jaxmup._families import FAMILIES, OPTIMIZERS, Family, OptimizerName, family_of, shampoo
from jaxmup._power import Power

# ---- the rules, by hand

# family, (r_in, r_out), by hand in the gauge without multipliers: lr, eps, and the family that the
# numbers are for
NUMBERS: dict[str, tuple[Any, ...]] = {
    # Qiu et al., arXiv:2512.05620, Table 1: √(d_out/d_in), eps √(d_in/d_out)
    "Muon, hidden": ("muon", (16, 4), 1 / 2, 2, "muon"),
    "Muon, hidden, leads": ("muon", (4, 16), 2, 1 / 2, "muon"),
    "Muon, input": ("muon", (None, 4), 1, 1 / 4, "adam"),
    "Muon, output": ("muon", (16, None), 1 / 16, 1, "adam"),
    "Muon, fixed": ("muon", (None, None), 1, 1, "adam"),
    # the same: (d_out/d_in)^(1 - e_L - e_R), eps d_in/d_out of a Gram matrix
    "Shampoo ¼ ¼": ("shampoo", (16, 4), 1 / 2, 2, "shampoo"),
    "Shampoo ¼ ¼, output": ("shampoo", (16, None), 1 / 4, 4, "shampoo"),
    "Shampoo ¼ ¼, input": ("shampoo", (None, 16), 4, 1 / 4, "shampoo"),
    "Shampoo ½ ½": (shampoo(0.5, 0.5), (16, 4), 1, 2, "shampoo(0.5, 0.5)"),
    "Shampoo ½ ¼": (shampoo(0.5, 0.25), (256, 1), 1 / 4, 16, "shampoo(0.5, 0.25)"),
    # trust ratios: the step has the size of the weight, r_in^-½ √(r_out/r_in) = 1/8
    "LAMB": ("lamb", (16, 4), 1 / 16 * 8, 1 / 4, "adafactor"),
    "LARS, output": ("lars", (16, None), 1, 1, "adafactor"),
    # a rule of the user's: Adam's, times the root of r_out
    "own": (Family("own", 0, 0, unit=Power(r_out=-0.5)), (16, 4), 2 / 16, 1 / 4, "own"),
}


@pytest.mark.parametrize(("family", "ratios", "lr", "eps", "trained_with"), cases(NUMBERS))
def test_numbers_by_hand(family, ratios, lr, eps, trained_with):
    got = resolve(weight(*ratios), parametrization("mup", family, gauge="table3"))
    assert (got.lr, got.eps, got.family.name) == (lr, eps, trained_with)
    assert got.weight_decay == 1 / lr


@pytest.mark.parametrize("gauge", ["table8", "table9", "tp4b", "unit", "ntk", "mean_field"])
@pytest.mark.parametrize("family", ["muon", "shampoo", shampoo(0.5, 0.5)], ids=str)
def test_gauges_move_lr_and_eps_by_theory(family, gauge):
    """THEORY §3: lr·θ^(-1-k+j), eps·θ, and d takes the gradient's share."""
    for shape in ((16, 4), (None, 4), (16, None)):
        spec = weight(*shape, init_std=0.5)
        here = resolve(spec, parametrization("mup", family, gauge=gauge))
        table3 = resolve(spec, parametrization("mup", family, gauge="table3"))
        m, k = here.multiplier, family_of(family).gradient_degree
        moved = (table3.lr * m ** (-1 - k) / here.grad**k, table3.eps * m * here.grad)
        assert (here.lr, here.eps) == pytest.approx(moved, rel=TOL["rule", "float64"].rtol, abs=0)
        if gauge == "tp4b":
            assert here.eps == 1


# THEORY §3: degree of the step in the gradient and in the weight is -1 - p + j for an lr that moves
# by θ^p; Muon's and Shampoo's rows as printed.
LR_MOVES_BY: dict[str, str] = {
    "sgd": "sgd momentum nesterov",
    "adam": "adam adamw amsgrad nadam radam adamax adabelief yogi rmsprop adagrad lion sign_sgd"
    " adam_atan2 adafactor_unscaled",
    "adafactor": "adafactor lamb lars",
    "muon": "muon",
    "shampoo": "shampoo",
}


def test_every_optimizer_has_its_family_and_source():
    assert {
        name: " ".join(n for n, o in OPTIMIZERS.items() if o.family.name == name)
        for name in FAMILIES
    } == LR_MOVES_BY
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))
    for name in OPTIMIZERS:
        assert parametrization("mup", name).family == OPTIMIZERS[name].family
    assert all(o.source.rstrip("12345.").split()[0] for o in OPTIMIZERS.values())


BAD: dict[str, tuple[Any, ...]] = {
    "unknown": (lambda: parametrization("mup", "soap"), ValueError, r"one of 'sgd', .* Got 'soap'"),
    "borrowed name": (lambda: parametrization("mup", Family("adam", 1, 0)), ValueError, "its own"),
    "degree": (lambda: Family("own", float("nan"), 0), ValueError, r"finite number. Got nan"),
    "degree text": (lambda: Family("own", 0, "1"), TypeError, r"`weight_degree` .* Got '1'"),
    "shampoo": (lambda: shampoo(0.25, None), TypeError, r"`right` must be a real number. Got None"),
    "unit": (lambda: Family("own", 0, 0, unit=2.0), TypeError, r"must be a `Power`. Got 2.0"),
}


@pytest.mark.parametrize(("make", "error", "message"), cases(BAD))
def test_bad_families_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- a network whose widths grow at different rates

X, Y = (np.random.default_rng(seed).normal(size=(8, n)) for seed, n in ((2, 8), (3, 4)))


def specs(k: float, n1: int, n2: int) -> dict[str, ParamSpec]:
    """Two hidden layers of n1 k and n2 k² units; the readout starts at zero."""
    one, two = (round(n1 * k), n1), (round(n2 * k**2), n2)
    return {
        "w1": ParamSpec((Axis("input", 8), Axis("output", *one)), init_std=8**-0.5),
        "b1": ParamSpec((Axis("output", *one),)),
        "w2": ParamSpec((Axis("input", *one), Axis("output", *two)), init_std=n1**-0.5),
        "b2": ParamSpec((Axis("output", *two),)),
        "w3": ParamSpec((Axis("input", *two), Axis("output", 4))),
        "b3": ParamSpec((Axis("output", 4),)),
    }


def forward(w: dict[str, Any]) -> tuple[Any, Any, Any]:
    h1 = X @ w["w1"] + w["b1"][None]
    h2 = jnp.tanh(h1) @ w["w2"] + w["b2"][None]
    return h1, h2, jnp.tanh(h2) @ w["w3"] + w["b3"][None]


@jax.jit
@jax.vmap
def gradients(w: dict[str, Any]) -> dict[str, Any]:
    """Of the loss with respect to the effective weights; the first axis is the seed."""
    return jax.grad(lambda w: jnp.mean((forward(w)[2] - Y) ** 2))(w)


def start(shapes: dict[str, ParamSpec], scalings: dict[str, Scaling], seeds: int) -> dict[str, Any]:
    """Stored weights; those of a narrower network are cut out of those of a wider one."""
    rng, n = np.random.default_rng(1), [shapes[name].axes[0].base_size for name in ("b1", "b2")]
    widest = {name: rng.normal(size=(seeds, *spec.shape)) for name, spec in specs(2, *n).items()}

    def draw(name: str, spec: ParamSpec) -> Any:
        window = widest[name][:, *(slice(size) for size in spec.shape)]
        return jnp.asarray((scalings[name].init_std or 0.0) * window)

    return {name: draw(name, spec) for name, spec in shapes.items()}


def run(shapes: Any, scalings: Any, tx: Any, seeds: int, steps: int) -> list[dict[str, Any]]:
    """The effective weights before and after each step."""
    multipliers = {name: s.multiplier for name, s in scalings.items()}
    w = start(shapes, scalings, seeds)
    state, update = jax.vmap(tx.init)(w), jax.vmap(tx.update)
    effective = [{name: multipliers[name] * w[name] for name in w}]
    for _ in range(steps):
        stored = {name: multipliers[name] * g for name, g in gradients(effective[-1]).items()}
        updates, state = update(stored, state, w)
        w = optax.apply_updates(w, updates)
        effective.append({name: multipliers[name] * w[name] for name in w})
    return effective


# optimizer: its direction, a learning rate, and optax's own chain that it is at base width. Every
# eps is the size of a gradient, so that it matters.
EPS = 0.01
ADAFACTOR = (optax.scale_by_factored_rms(min_dim_size_to_factor=8), optax.clip_by_block_rms(1.0))
DIRECTIONS: dict[str, tuple[Any, ...]] = {
    "sgd": (optax.identity(), 0.1, optax.sgd(0.1)),
    "nesterov": (optax.trace(0.9, nesterov=True), 0.05, optax.sgd(0.05, 0.9, True)),
    "adam": (optax.scale_by_adam(eps=EPS), 0.01, optax.adam(0.01, eps=EPS)),
    "nadam": (optax.scale_by_adam(eps=EPS, nesterov=True), 0.01, optax.nadam(0.01, eps=EPS)),
    "radam": (optax.scale_by_radam(eps=EPS), 0.05, optax.radam(0.05, eps=EPS)),
    "adamax": (optax.scale_by_adamax(eps=EPS), 0.01, optax.adamax(0.01, eps=EPS)),
    "adabelief": (
        optax.scale_by_belief(eps=EPS),
        0.01,
        optax.adabelief(0.01, eps=EPS, eps_root=1e-16),
    ),
    "yogi": (optax.scale_by_yogi(), 0.01, optax.yogi(0.01)),
    "rmsprop": (optax.scale_by_rms(eps=EPS**2), 0.003, optax.rmsprop(0.003, eps=EPS**2)),
    "adagrad": (optax.scale_by_rss(eps=EPS**2), 0.01, optax.adagrad(0.01, eps=EPS**2)),
    "adam_atan2": (
        scale_by_adam_atan2(),
        0.01,
        optax.chain(scale_by_adam_atan2(), optax.scale_by_learning_rate(0.01)),
    ),
    "lion": (optax.scale_by_lion(), 0.003, optax.lion(0.003, weight_decay=0.0)),
    "sign_sgd": (optax.scale_by_sign(), 0.003, optax.sign_sgd(0.003)),
    "adafactor_unscaled": (
        optax.chain(*ADAFACTOR),
        0.01,
        optax.adafactor(0.01, min_dim_size_to_factor=8, multiply_by_parameter_scale=False),
    ),
    "adafactor": (
        optax.chain(*ADAFACTOR, optax.scale_by_param_block_rms()),
        0.03,
        optax.adafactor(0.03, min_dim_size_to_factor=8),
    ),
    "lamb": (
        optax.chain(optax.scale_by_adam(eps=EPS), optax.scale_by_trust_ratio()),
        0.03,
        optax.lamb(0.03, eps=EPS),
    ),
    "lars": (
        optax.scale_by_trust_ratio(eps=EPS),
        0.03,
        optax.lars(0.03, eps=EPS, trust_coefficient=1.0, momentum=0.0),
    ),
}
MUON = {"eps": EPS, "adam_b2": 0.99}


def optimizer(name: str, shapes: Any, scalings: Any, **decay: Any) -> Any:
    if name == "muon":
        return optim.muon(0.02, scalings, shapes, **MUON, **decay)
    direction, learning_rate, _ = DIRECTIONS[name]
    return optim.from_direction(direction, learning_rate, scalings, optimizer=name, **decay)


NAMES = [*DIRECTIONS, "muon"]


@pytest.mark.parametrize("name", NAMES)
def test_at_base_width_it_is_optax(name, x64):
    """The readout starts at zero and the biases do: where trust ratios and floors are special."""
    shapes = specs(1, 12, 12)
    scalings = resolve(shapes, parametrization("mup", name, gauge="table3"))
    if name == "muon":
        stock = contrib.muon(
            0.02, **MUON, muon_weight_dimension_numbers=optim.muon_dimension_numbers(shapes)
        )
    else:
        stock = DIRECTIONS[name][2]
    ours, theirs = (
        run(shapes, scalings, tx, 1, 4) for tx in (optimizer(name, shapes, scalings), stock)
    )
    require_close(ours, theirs, "adam", "float64")


@cache
def in_table3(name: str) -> Any:
    return in_gauge(name, "table3")


def in_gauge(name: str, gauge: Any) -> Any:
    shapes = specs(2, 4, 8)
    scalings = resolve(shapes, parametrization("mup", name, gauge=gauge))
    return run(shapes, scalings, optimizer(name, shapes, scalings, weight_decay=0.3), 1, 4)


@pytest.mark.parametrize(
    ("name", "gauge"),
    [*((name, "table9") for name in NAMES), ("adamax", "tp4b"), ("lars", "tp4b"), ("muon", "tp4b")],
)
def test_every_gauge_is_one_run(name, gauge, x64):
    require_close(in_gauge(name, gauge), in_table3(name), "trajectory", "float64")


# ---- what the width leaves alone

WIDTHS = [1.0, 1.5, 2.0]  # of n1 = 32 k and n2 = 256 k²: the hidden matrix grows at unequal rates
SEEDS = 12


@cache
def sizes(name: str, physics: Any, k: float, **changed: Any) -> np.ndarray:
    """RMS of what each weight and bias adds to its layer after 3 steps, and of each layer's change.

    A weight is measured on the activations that it met at first, so that its own rule shows.
    """
    shapes = specs(k, 32, 256)
    scalings = resolve(shapes, parametrization(physics, name, gauge="table3"))
    scalings["w2"] = dataclasses.replace(scalings["w2"], **changed)
    w = run(shapes, scalings, optimizer(name, shapes, scalings), SEEDS, 3)
    moved = {leaf: w[-1][leaf] - w[0][leaf] for leaf in w[0]}
    before, after = (jax.vmap(forward)(each) for each in (w[0], w[-1]))
    h1, h2 = (jnp.tanh(h) for h in before[:2])
    changes = [b - a for a, b in zip(before, after, strict=True)]
    own = [X @ moved["w1"], moved["b1"], h1 @ moved["w2"], moved["b2"], h2 @ moved["w3"]]
    return np.array([np.sqrt(np.mean(np.square(x))) for x in (*own, *changes)])


def slopes(name: str, physics: Any = "mup", widths: Any = WIDTHS, **changed: Any) -> np.ndarray:
    """Of log size against log k."""
    at_base = sizes(name, "mup", widths[0])  # where every factor is 1
    measured = [at_base, *(sizes(name, physics, k, **changed) for k in widths[1:])]
    return np.polyfit(np.log(widths), np.log(measured), 1)[0]


@pytest.mark.parametrize("name", NAMES)
def test_width_leaves_every_change_alone(name, x64):
    assert np.max(np.abs(slopes(name))) <= TOL["slope", "float64"].rtol


@pytest.mark.parametrize("name", ["sgd", "adam", "adafactor", "muon"])
def test_the_standard_parametrization_does_not(name, x64):
    ends = [WIDTHS[0], WIDTHS[-1]]
    assert np.max(slopes(name, "standard", ends)) > TOL["wrong slope", "float64"].rtol


# The power of k by which a step of the hidden matrix is off where its learning rate has no factor:
# by THEORY §1.3, for r_in = k and r_out = k², SGD lacks k, Adam k^-1 and Muon k^½.
WITHOUT: dict[str, tuple[Any, ...]] = {
    "sgd": ("sgd", "lr", -1.0),
    "adam": ("adam", "lr", 1.0),
    "muon": ("muon", "lr", -0.5),
    "lion": ("lion", "lr", 1.0),
}


@pytest.mark.parametrize(("name", "field", "power"), cases(WITHOUT))
def test_a_hidden_matrix_without_its_rule(name, field, power, x64):
    ends = [WIDTHS[0], WIDTHS[-1]]
    off = slopes(name, "mup", ends, **{field: 1.0})[2]
    assert abs(off - power) <= TOL["slope", "float64"].rtol


# ---- a family of one's own passes wherever a known one does

# By hand at (r_in, r_out) = (16, 4) without multipliers. Steps are lr · weight^½, and the weight is
# 1/8 of the base's: √(1/16) · √(4/16). A step of 1/16 needs lr = √8 / 16.
OWN = Family("root", gradient_degree=0, weight_degree=0.5)


def test_own_family_resolves_by_hand():
    got = resolve(weight(16, 4), parametrization("mup", OWN, gauge="table3"))
    assert got.family is OWN
    assert got.lr == pytest.approx(8**0.5 / 16, rel=TOL["rule", "float64"].rtol)


@pytest.mark.parametrize("gauge", ["table8", "table9", "tp4b", "unit"])
def test_own_family_has_reference_scalings(gauge):
    spec = weight(16, 4, init_std=0.5)
    here, table3 = (
        resolve({"w": spec}, parametrization("mup", OWN, gauge=name)) for name in (gauge, "table3")
    )
    got = jaxmup.gauge.reference_scalings(here)["w"]
    for field in ("multiplier", "grad", "lr", "eps", "weight_decay", "init_gain"):
        expected = getattr(table3["w"], field)
        assert getattr(got, field) == pytest.approx(expected, rel=1e-12), field
    assert got.family is OWN
    names = [parametrization("mup", OWN, gauge=name) for name in (gauge, "table3")]
    assert jaxmup.gauge.equivalent(*names, {"w": spec}, OWN)


def test_own_family_trains_in_the_reference_gauge():
    specs = {"w": weight(16, 4)}
    scalings = resolve(specs, parametrization("mup", OWN, gauge="table9"))
    tx = optim.in_reference_gauge(
        optim.from_direction(
            optax.scale_by_sign(),
            0.5,
            jaxmup.gauge.reference_scalings(scalings),
            optimizer=OWN,
        ),
        scalings,
    )
    params = {"w": jnp.ones(specs["w"].shape)}
    updates, _ = tx.update(params, tx.init(params), params)
    # by hand: the effective weight moves by lr · init_gain^½ = 1/16 of the base's
    moved = updates["w"] * scalings["w"].multiplier
    require_close(moved, jnp.full_like(moved, -0.5 / 16), "update", "float32")


def test_own_family_is_explained():
    table = jaxmup.explain({"w": weight(16, 4)}, parametrization("mup", OWN))
    assert "(root)" in str(table)
    assert json.loads(table.json())["parameters"][0]["target"]["family"] == "root"


def test_own_family_is_checked_by_training():
    """Its steps follow the gradient, which the check knows by its record."""
    own = Family("own sgd", gradient_degree=1, weight_degree=0, eps=None)

    def make_model(width, rngs):
        return nnx.Sequential(
            jaxmup.nnx.Linear(4, width, base_out_features=8, rngs=rngs),
            jaxmup.nnx.Linear(width, 3, base_in_features=8, rngs=rngs),
        )

    x, y = (
        np.random.default_rng(seed).normal(size=(16, n)).astype(np.float32)
        for seed, n in ((0, 4), (1, 3))
    )
    check = jaxmup.coord_check.coord_check(
        make_model,
        (8, 16),
        (x, y),
        partial(optim.from_direction, optax.identity(), 0.1, optimizer=own),
        parametrization=parametrization("mup", own),
        seeds=2,
        steps=2,
    )
    assert check.family == own
    # As of SGD, whose steps are open where gradients are; a step of unknown degree is not.
    known = jaxmup.coord_check.coord_check(
        make_model,
        (8, 16),
        (x, y),
        partial(optim.sgd, 0.1),
        parametrization=parametrization("mup", "sgd"),
        seeds=2,
        steps=2,
    )
    expected = [(one.quantity, one.name, one.expected) for one in known.verdicts]
    assert [(one.quantity, one.name, one.expected) for one in check.verdicts] == expected
