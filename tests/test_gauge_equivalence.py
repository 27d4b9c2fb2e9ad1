"""One physics in every gauge: the same run, in other stored weights, to 1e-12 in float64."""

import dataclasses
import itertools
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import TOL, cases, named

from jaxmup import Axis, Parametrization, ParamSpec, Scaling, resolve
from jaxmup.optim import adam, adamw, amsgrad, scale_gradients, scale_updates, sgd

pytestmark = pytest.mark.usefixtures("x64")

BASE, STEPS = 16, 20
GAUGES = ["table8", "table9", "tp4b", "unit", "cellarium"]  # each is compared with table3
EPS = 0.01  # the size of a gradient at base width, so that it matters
RATE = optax.cosine_decay_schedule(0.03, 2 * STEPS)

# each mode of weight decay, as strong as a step
DECAYS: list[dict[str, Any]] = [
    {"weight_decay_mode": "decoupled", "weight_decay": 1.0},
    {"weight_decay_mode": "coupled", "weight_decay": 1.0},
    {"weight_decay_mode": "independent", "weight_decay": 0.03, "peak_learning_rate": 0.03},
    {"weight_decay_mode": "absolute", "weight_decay": 0.03},
]

# the optimizer of each family, from the scalings
SGD = {
    "sgd": partial(sgd, 0.3),
    "sgd, momentum": partial(sgd, 0.1, momentum=0.9),
    "sgd, Nesterov": partial(sgd, 0.1, momentum=0.9, nesterov=True),
    **{f"sgd, {kwargs['weight_decay_mode']}": partial(sgd, RATE, **kwargs) for kwargs in DECAYS},
}
ADAM = {
    "adam": partial(adam, 0.03, eps=EPS),
    "adam, labml": partial(adam, 0.03, eps=EPS, convention="labml"),
    "adam, eps inside the root": partial(adam, 0.03, eps=0.0, eps_root=EPS**2),
    "amsgrad": partial(amsgrad, RATE, eps=EPS),
    "amsgrad, optax": partial(amsgrad, RATE, eps=EPS, convention="optax"),
    **{
        f"adamw, {kwargs['weight_decay_mode']}": partial(adamw, RATE, eps=EPS, **kwargs)
        for kwargs in DECAYS
    },
}
OPTIMIZERS: dict[str, Any] = SGD | ADAM


def specs(n: int) -> dict[str, ParamSpec]:
    """The parameters of a network with two hidden layers of n units."""
    fan_in, fan_out = Axis("input", n, BASE), Axis("output", n, BASE)
    return {
        "w1": ParamSpec((Axis("input", 5), fan_out), init_std=0.5),
        "b1": ParamSpec((fan_out,), init_std=0.3),
        "w2": ParamSpec((fan_in, fan_out), init_std=0.3),
        "b2": ParamSpec((fan_out,), init_std=0.3),
        "w3": ParamSpec((fan_in, Axis("output", 3)), init_std=0.3),
        "b3": ParamSpec((Axis("output", 3),), init_std=0.3),
    }


@jax.jit
def gradients(w: dict[str, jax.Array], multipliers: dict[str, float]) -> dict[str, jax.Array]:
    """Of the loss on fixed data with respect to the stored weights; one program for all gauges."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 5)), random.normal(size=(64, 3))

    def loss(w):
        w = effective(w, multipliers)
        h = jnp.tanh(x @ w["w1"] + w["b1"][None])
        h = jnp.tanh(h @ w["w2"] + w["b2"][None])
        return jnp.mean((h @ w["w3"] + w["b3"][None] - y) ** 2)

    return jax.grad(loss)(w)


def effective(w: dict[str, jax.Array], multipliers: dict[str, float]) -> dict[str, jax.Array]:
    return {name: multipliers[name] * w[name] for name in w}


def run(n: int, scalings: dict[str, Scaling], tx: Any) -> dict[str, np.ndarray]:
    """The effective weights `W = m w` after each step."""
    random = np.random.default_rng(1)
    noise = {name: random.normal(size=spec.shape) for name, spec in specs(n).items()}
    w = {name: jnp.asarray(s.init_std * noise[name]) for name, s in scalings.items()}
    multipliers = {name: s.multiplier for name, s in scalings.items()}
    state, steps = tx.init(w), []
    for _ in range(STEPS):
        updates, state = tx.update(gradients(w, multipliers), state, w)
        w = optax.apply_updates(w, updates)
        steps.append(effective(w, multipliers))
    return jax.tree.map(lambda *weights: np.stack(weights), *steps)


def rule(optimizer: str, gauge: str) -> Parametrization:
    family = "sgd" if optimizer in SGD else "adam"
    return named(f"cellarium {family}" if gauge == "cellarium" else f"mup {family} {gauge}")


def resolved(n: int, optimizer: str, gauge: str) -> dict[str, Scaling]:
    return resolve(specs(n), rule(optimizer, gauge))


@cache
def trajectory(n: int, optimizer: str, gauge: str) -> dict[str, np.ndarray]:
    scalings = resolved(n, optimizer, gauge)
    return run(n, scalings, OPTIMIZERS[optimizer](scalings))


def deviation(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    """The largest relative difference of a parameter over the whole trajectory."""
    norm = np.linalg.norm
    return max(norm(ours[name] - w) / norm(w) for name, w in reference.items())


WIDTHS = [("sgd", 32), ("adam", 32), *((optimizer, 160) for optimizer in OPTIMIZERS)]


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize(("optimizer", "n"), WIDTHS)
def test_trajectories_agree_in_every_gauge(optimizer, n, gauge):
    moved = deviation(trajectory(n, optimizer, gauge), trajectory(n, optimizer, "table3"))
    assert moved <= TOL["trajectory", "float64"].rtol


# What one optimizer has between the library's transforms, and whether that is the same run.
STOCK: dict[str, tuple[Any, ...]] = {
    "tp4b, Adam": ("adam", "tp4b", optax.adam(0.03, eps=EPS), True),
    "tp4b, momentum": ("sgd, momentum", "tp4b", optax.sgd(0.1, momentum=0.9), True),
    "cellarium, Adam": ("adam", "cellarium", optax.adam(0.03, eps=EPS), True),
    "table8, Adam: one eps is wrong": ("adam", "table8", optax.adam(0.03, eps=EPS), False),
}


@pytest.mark.parametrize(("optimizer", "gauge", "stock", "same"), cases(STOCK))
def test_stock_optimizer_between_the_transforms(optimizer, gauge, stock, same):
    scalings = resolved(160, optimizer, gauge)
    tx = optax.chain(scale_gradients(scalings), stock, scale_updates(scalings))
    moved = deviation(run(160, scalings, tx), trajectory(160, optimizer, "table3"))
    agrees = moved <= TOL["trajectory", "float64"].rtol
    assert agrees if same else moved > TOL["negative control", "float64"].rtol


# Which factors are not 1 for every parameter, by hand from the tables.
FACTORS = {
    ("sgd", "table3"): "init_std lr",
    ("sgd", "table8"): "multiplier init_std lr",
    ("sgd", "table9"): "multiplier init_std",
    ("sgd", "tp4b"): "multiplier init_std lr grad",
    ("sgd", "unit"): "multiplier init_std lr",
    ("sgd", "cellarium"): "multiplier init_std",
    ("adam", "table3"): "init_std lr eps",
    ("adam", "table8"): "multiplier init_std lr eps",
    ("adam", "table9"): "multiplier init_std lr eps",
    ("adam", "tp4b"): "multiplier init_std lr grad",
    ("adam", "unit"): "multiplier init_std lr eps",
    ("adam", "cellarium"): "multiplier init_std grad",
    ("sgd, decoupled", "table3"): "weight_decay",
    ("sgd, coupled", "table8"): "weight_decay",
    ("adamw, decoupled", "tp4b"): "weight_decay",
    ("adamw, coupled", "table9"): "weight_decay",
}
CONTROLS = [(*where, field) for where, fields in FACTORS.items() for field in fields.split()]


@pytest.mark.parametrize(("optimizer", "gauge", "field"), CONTROLS)
def test_leaving_out_any_factor_is_another_run(optimizer, gauge, field):
    def without(name: str, scaling: Scaling) -> Scaling:
        left_out = specs(32)[name].init_std if field == "init_std" else 1.0
        return dataclasses.replace(scaling, **{field: left_out})

    wrong = {name: without(name, s) for name, s in resolved(32, optimizer, gauge).items()}
    moved = deviation(
        run(32, wrong, OPTIMIZERS[optimizer](wrong)), trajectory(32, optimizer, gauge)
    )
    assert moved > TOL["negative control", "float64"].rtol


# ---- a constant factor of the forward pass, carried by the weights of a model that lacks it

F, GAINED = 0.25, ("w2", "b2")
GAINS = [
    *itertools.product(["sgd, momentum", "adamw, decoupled"], ["table3", "tp4b", "cellarium"]),
    *itertools.product(["amsgrad", "adamw, coupled", "sgd, coupled"], ["table9", "unit"]),
]


def changed(scalings: dict[str, Scaling], **fields: Any) -> dict[str, Scaling]:
    """The scalings, these fields of the layer with the factor multiplied by the value."""
    of = {
        name: {key: getattr(scalings[name], key) * x for key, x in fields.items()}
        for name in GAINED
    }
    return scalings | {name: dataclasses.replace(scalings[name], **of[name]) for name in GAINED}


def carried(optimizer: str, gauge: str) -> dict[str, Scaling]:
    shapes = specs(32)
    shapes |= {name: dataclasses.replace(shapes[name], forward_gain=F) for name in GAINED}
    return resolve(shapes, rule(optimizer, gauge))


def in_the_forward_pass(optimizer: str, gauge: str) -> dict[str, np.ndarray]:
    scalings = resolved(32, optimizer, gauge)
    return run(32, changed(scalings, multiplier=F), OPTIMIZERS[optimizer](scalings))


@pytest.mark.parametrize(("optimizer", "gauge"), GAINS)
def test_a_gain_carried_by_the_weights_is_one_of_the_forward_pass(optimizer, gauge):
    scalings = carried(optimizer, gauge)
    ours = run(32, scalings, OPTIMIZERS[optimizer](scalings))
    moved = deviation(ours, in_the_forward_pass(optimizer, gauge))
    assert moved <= TOL["trajectory", "float64"].rtol


# which fields carry the gain, each taken out by its power
WITHOUT_GAIN: dict[str, tuple[Any, ...]] = {
    "initial values": ("adam", "table3", {"init_std": 1 / F}),
    "lr, Adam": ("adam", "table3", {"lr": 1 / F}),
    "lr, SGD": ("sgd", "table3", {"lr": 1 / F}),
    "eps": ("adam", "table3", {"eps": F}),
    "d": ("adam", "tp4b", {"grad": 1 / F}),
    "weight decay": ("adamw, decoupled", "table3", {"weight_decay": F}),
}


@pytest.mark.parametrize(("optimizer", "gauge", "fields"), cases(WITHOUT_GAIN))
def test_leaving_a_gain_out_is_another_run(optimizer, gauge, fields):
    scalings = changed(carried(optimizer, gauge), **fields)
    moved = deviation(
        run(32, scalings, OPTIMIZERS[optimizer](scalings)), in_the_forward_pass(optimizer, gauge)
    )
    assert moved > TOL["negative control", "float64"].rtol
