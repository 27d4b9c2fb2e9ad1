"""Every optimizer of optax in another gauge: the same run, from the first step and from the middle.

The exponents are those of THEORY.md, section 3, typed by hand; the runs use the library's.
"""

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import TOL, scale_by_adam_atan2
from optax import contrib

from jaxmup.gauge import regauge

pytestmark = pytest.mark.usefixtures("x64")

CHUNK, CHUNKS, MOVE_AT = 6, 5, 2  # 30 steps, moved at step 12


@dataclasses.dataclass(frozen=True)
class Row:
    """An optimizer.

    Args:
      make: builds it from its hyper-parameters.
      base: those of the first gauge, for the ones that move.
      exponents: of the hyper-parameters.
      state: exponents of the fields of its state; the others stay.
      chain: its description, where the state does not say it all.
      from_scratch: whether one factor on each hyper-parameter is right from the first step.
      tensors: which it trains; Muon's own rule is for matrices.
      shared_start: whether one number begins fields that move differently, so that a state in
        another gauge has to be moved from the first step on.
    """

    make: Callable[..., Any]
    base: dict[str, Any]
    exponents: dict[str, float]
    state: dict[str, float]
    chain: Any = None
    from_scratch: bool = True
    tensors: tuple[str, ...] = ("w1", "b1", "w2")
    shared_start: bool = False


def row(make: Any, hyper: str, state: str = "", chain: Any = None, **kwargs: Any) -> Row:
    """A row from `"name=value:exponent ..."` and `"field:exponent ..."`."""
    base, exponents = {}, {}
    for item in hyper.split():
        name, _, rest = item.partition("=")
        value, _, exponent = rest.partition(":")
        base[name], exponents[name] = float(value), float(exponent)
    fields = dict(item.split(":") for item in state.split())
    return Row(make, base, exponents, {k: float(v) for k, v in fields.items()}, chain, **kwargs)


def chained(*makes: Any) -> Callable[..., Any]:
    """A chain whose transforms each take the hyper-parameters that they have."""

    def make(**hyper: Any) -> Any:
        return optax.chain(*(make(hyper) for make in makes))

    return make


RATE = lambda h: optax.scale_by_learning_rate(h["learning_rate"])  # noqa: E731
ADAM = "learning_rate=.03:-1 eps=.02:1 eps_root=1e-3:2"
DECAYED = f"{ADAM} weight_decay=1:1"
MOMENTS = "mu:1 nu:2"
DOUBLE = {"dtype_momentum": jnp.float64}
MUON = {"muon": "muon", "adam": "adamw"}

ROWS = {
    "sgd": row(optax.sgd, "learning_rate=.3:-2"),
    "momentum": row(partial(optax.sgd, momentum=0.9), "learning_rate=.1:-2", "trace:1"),
    "Nesterov": row(
        partial(optax.sgd, momentum=0.9, nesterov=True), "learning_rate=.1:-2", "trace:1"
    ),
    "momentum, L2": row(
        chained(
            lambda h: optax.add_decayed_weights(h["weight_decay"]),
            lambda _: optax.trace(0.9),
            RATE,
        ),
        "learning_rate=.05:-2 weight_decay=.3:2",
        "trace:1",
        ("add_decayed_weights", "trace", "scale_by_learning_rate"),
    ),
    "momentum, decoupled decay": row(
        chained(
            lambda _: optax.trace(0.9),
            lambda h: optax.add_decayed_weights(h["weight_decay"]),
            RATE,
        ),
        "learning_rate=.1:-2 weight_decay=.3:2",
        "trace:1",
        ("trace", "add_decayed_weights", "scale_by_learning_rate"),
    ),
    "adam": row(optax.adam, ADAM, MOMENTS),
    "adam, L2": row(
        chained(
            lambda h: optax.add_decayed_weights(h["weight_decay"]),
            lambda h: optax.scale_by_adam(eps=h["eps"]),
            RATE,
        ),
        "learning_rate=.03:-1 eps=.02:1 weight_decay=.3:2",
        MOMENTS,
        ("add_decayed_weights", "scale_by_adam", "scale_by_learning_rate"),
    ),
    "adam, independent decay": row(
        chained(
            lambda h: optax.scale_by_adam(eps=h["eps"]),
            RATE,
            lambda _: optax.add_decayed_weights(-0.02),
        ),
        "learning_rate=.03:-1 eps=.02:1",
        MOMENTS,
        ("scale_by_adam", "scale_by_learning_rate", "add_decayed_weights"),
    ),
    "adamw": row(optax.adamw, DECAYED, MOMENTS, "adamw"),
    "nadamw": row(partial(optax.adamw, nesterov=True), DECAYED, MOMENTS, "nadamw"),
    "adam-atan2": row(
        chained(lambda _: scale_by_adam_atan2(), RATE), "learning_rate=.03:-1", MOMENTS
    ),
    "amsgrad": row(optax.amsgrad, ADAM, "mu:1 nu:2 nu_max:2"),
    "adabelief": row(optax.adabelief, ADAM.replace("eps=.02", "eps=.1"), MOMENTS),
    "adan": row(
        partial(optax.adan, b2=0.5), DECAYED.replace(".03", ".1"), "m:1 v:1 g:1 n:2", "adan"
    ),
    "ademamix": row(contrib.ademamix, DECAYED, "m1:1 m2:1 nu:2", "ademamix"),
    "simplified ademamix": row(
        contrib.simplified_ademamix,
        "learning_rate=.003:-1 eps=.02:1 eps_root=1e-3:2 weight_decay=3:1",
        "m:1 n:2",
        "simplified_ademamix",
    ),
    "adamax": row(
        optax.adamaxw, "learning_rate=.03:-1 eps=.05:1 weight_decay=1:1", "mu:1 nu:1", "adamaxw"
    ),
    "radam, from the middle": row(
        partial(optax.radam, b2=0.9), ADAM, MOMENTS, "radam", from_scratch=False
    ),
    "yogi": row(optax.yogi, "learning_rate=.03:-1 eps=.05:1", MOMENTS, shared_start=True),
    "adopt": row(contrib.adopt, "learning_rate=.03:-1 eps=.05:1", "nu:2", "adopt"),
    "novograd": row(optax.novograd, DECAYED, "nu:2"),
    "rmsprop, eps inside": row(
        optax.rmsprop, "learning_rate=.03:-1 eps=1e-3:2 initial_scale=.01:2", "nu:2"
    ),
    "rmsprop, eps beside": row(
        partial(optax.rmsprop, eps_in_sqrt=False),
        "learning_rate=.03:-1 eps=.02:1 initial_scale=.01:2",
        "nu:2",
        "rmsprop(eps_in_sqrt=False)",
    ),
    "rmsprop, centered, momentum": row(
        partial(optax.rmsprop, centered=True, momentum=0.9),
        "learning_rate=.01:-1 eps=1e-3:2 initial_scale=.01:2",
        "mu:1 nu:2 trace:-1",
    ),
    "adagrad": row(
        optax.adagrad,
        "learning_rate=.1:-1 eps=.01:2 initial_accumulator_value=.01:2",
        "sum_of_squares:2",
    ),
    "adadelta": row(
        optax.adadelta, "learning_rate=1:-2 eps=1e-2:2 weight_decay=.1:2", "e_g:2 e_x:2", "adadelta"
    ),
    "sm3": row(
        chained(lambda h: optax.scale_by_sm3(eps=h["eps"]), RATE),
        "learning_rate=.1:-1 eps=.01:2",
        "mu:2",
    ),
    "lion": row(optax.lion, "learning_rate=.01:-1 weight_decay=2:1", "mu:1", "lion"),
    "lion, smooth": row(
        chained(lambda h: optax.scale_by_lion(mode="smooth", smooth_beta=h["smooth_beta"]), RATE),
        "learning_rate=.03:-1 smooth_beta=20:-1",
        "mu:1",
    ),
    "sign_sgd": row(optax.sign_sgd, "learning_rate=.01:-1", chain="sign_sgd"),
    "signum": row(optax.signum, "learning_rate=.01:-1", "ema:1", "signum"),
    "rprop": row(
        optax.rprop,
        "learning_rate=.01:-1 min_step_size=.005:-1 max_step_size=.03:-1",
        "step_sizes:-1 prev_updates:-1",
    ),
    "muon": row(contrib.muon, "learning_rate=.03:-1 eps=.3:1 weight_decay=1:1", "mu:1 nu:2", MUON),
    "muon, adaptive": row(
        partial(contrib.muon, adaptive=True),
        "learning_rate=.1:-2 eps=.3:1 weight_decay=.3:2",
        "mu:1",
        {"muon": "muon(adaptive=True)", "adam": "adamw"},
        tensors=("w1", "w2"),
    ),
    "optimistic adam": row(
        partial(optax.optimistic_adam_v2, alpha=1.0, beta=0.5), ADAM, MOMENTS, "optimistic_adam"
    ),
    "optimistic gradient descent": row(
        partial(optax.optimistic_gradient_descent, alpha=1.0, beta=0.5),
        "learning_rate=.3:-2",
        "previous_gradient:1",
    ),
    "adafactor": row(
        partial(
            optax.adafactor,
            min_dim_size_to_factor=2,
            momentum=0.9,
            weight_decay_rate=0.01,
            **DOUBLE,
        ),
        "learning_rate=.1:0 eps=1e-3:2",
        "v_row:2 v_col:2 v:2 ema:-1",
        "adafactor",
    ),
    "adafactor, no parameter scaling": row(
        partial(
            optax.adafactor,
            min_dim_size_to_factor=2,
            momentum=0.9,
            multiply_by_parameter_scale=False,
            weight_decay_rate=0.01,
            **DOUBLE,
        ),
        "learning_rate=.1:-1 eps=1e-3:2",
        "v_row:2 v_col:2 v:2 ema:-1",
        "adafactor(multiply_by_parameter_scale=False)",
    ),
    "lamb": row(optax.lamb, DECAYED.replace(".03:-1", ".03:0"), MOMENTS, "lamb"),
    "lars": row(
        partial(optax.lars, trust_coefficient=0.1),
        "learning_rate=.3:0 weight_decay=.3:2 eps=.3:1",
        "trace:-1",
        "lars",
    ),
    "fromage": row(partial(optax.fromage, min_norm=0.0), "learning_rate=.03:0", "", "fromage"),
    "schedule-free adamw": row(
        contrib.schedule_free_adamw,
        "learning_rate=.03:-1 eps=.02:1 weight_decay=1:1",
        "nu:2 z:-1 max_lr:-1 weight_sum:-2",
        "schedule_free_adamw",
    ),
    "schedule-free sgd": row(
        contrib.schedule_free_sgd,
        "learning_rate=.3:-2 weight_decay=.3:2",
        "z:-1 max_lr:-2 weight_sum:-4",
        "schedule_free_sgd",
    ),
    "clip, momentum": row(
        chained(lambda h: optax.clip(h["max_delta"]), lambda _: optax.trace(0.9), RATE),
        "learning_rate=.1:-2 max_delta=.05:1",
        "trace:1",
        ("clip", "trace", "scale_by_learning_rate"),
    ),
    "clip by block RMS, momentum": row(
        chained(
            lambda h: optax.clip_by_block_rms(h["threshold"]), lambda _: optax.trace(0.9), RATE
        ),
        "learning_rate=.1:-2 threshold=.05:1",
        "trace:1",
        ("clip_by_block_rms", "sgd"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """Where a run stands: for each tensor its stored value, its state and its hyper-parameters."""

    weights: dict[str, jax.Array]
    states: dict[str, Any]
    hyper: dict[str, dict[str, float]]
    multipliers: dict[str, float]


def thetas() -> dict[str, float]:
    exponents = np.random.default_rng(2).uniform(-1, 1, size=3)
    return dict(zip(("w1", "b1", "w2"), 30.0**exponents, strict=True))


def start(row: Row) -> Run:
    random = np.random.default_rng(0)
    shapes = {"w1": (5, 6), "b1": (6,), "w2": (6, 3)}
    weights = {name: jnp.asarray(random.normal(size=shape) * 0.5) for name, shape in shapes.items()}
    states = {name: row.make(**row.base).init(weights[name]) for name in row.tensors}
    return Run(weights, states, dict.fromkeys(weights, row.base), dict.fromkeys(weights, 1.0))


def loss(weights: dict[str, jax.Array], multipliers: dict[str, float]) -> jax.Array:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(32, 5)), random.normal(size=(32, 3))
    w = {name: multipliers[name] * weights[name] for name in weights}
    return jnp.mean((jnp.tanh(x @ w["w1"] + w["b1"][None]) @ w["w2"] - y) ** 2)


@cache
def stepper(name: str) -> Callable[..., Any]:
    """A compiled chunk of steps of this row; its numbers are arguments."""
    row = ROWS[name]

    def step(carry: Any, hyper: Any, multipliers: Any) -> Any:
        weights, states = dict(carry[0]), dict(carry[1])
        gradients = jax.grad(loss)(carry[0], multipliers)
        for leaf in row.tensors:
            tx = row.make(**hyper[leaf])
            update, states[leaf] = tx.update(gradients[leaf], states[leaf], weights[leaf])
            weights[leaf] = weights[leaf] + update
        return weights, states

    @jax.jit
    def chunk(weights: Any, states: Any, hyper: Any, multipliers: Any) -> Any:
        return jax.lax.fori_loop(
            0, CHUNK, lambda _, carry: step(carry, hyper, multipliers), (weights, states)
        )

    return chunk


def trajectory(name: str, move_at: int | None, left_out: str | None = None) -> dict[str, Any]:
    """The effective weights after each chunk; `left_out` is a number that is not moved."""
    run, steps = start(ROWS[name]), []
    for i in range(CHUNKS):
        if i == move_at:
            run = moved(ROWS[name], run, left_out, anew=i == 0)
        weights, states = stepper(name)(run.weights, run.states, run.hyper, run.multipliers)
        run = dataclasses.replace(run, weights=weights, states=states)
        steps.append({leaf: run.multipliers[leaf] * w for leaf, w in weights.items()})
    return {leaf: np.stack([step[leaf] for step in steps]) for leaf in steps[0]}


def moved(row: Row, run: Run, left_out: str | None, anew: bool) -> Run:
    """The run in another gauge; `anew` takes the state that the moved optimizer begins with."""
    weights, states, hyper = dict(run.weights), dict(run.states), dict(run.hyper)
    multipliers = dict(run.multipliers)
    for leaf, theta in thetas().items():
        multipliers[leaf] *= theta
        if leaf not in row.tensors:
            weights[leaf] = weights[leaf] / theta
            continue
        new = regauge(run.weights[leaf], run.states[leaf], theta, chain=row.chain)
        factors = {n: new.hyperparameters.get(n, 1.0) for n in row.base if n != left_out}
        weights[leaf], states[leaf] = new.params, new.opt_state
        hyper[leaf] = {n: value * factors.get(n, 1.0) for n, value in row.base.items()}
        if anew and not row.shared_start:
            states[leaf] = row.make(**hyper[leaf]).init(weights[leaf])
        if left_out in row.state:
            states[leaf] = with_field_of(states[leaf], run.states[leaf], left_out)
    return Run(weights, states, hyper, multipliers)


def with_field_of(state: Any, other: Any, field: str) -> Any:
    """`state` with this field, wherever it is, taken from `other`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x, y: y if any(getattr(k, "name", None) == field for k in path) else x,
        state,
        other,
    )


@cache
def reference(name: str) -> dict[str, np.ndarray]:
    return trajectory(name, None)


def deviation(name: str, ours: dict[str, np.ndarray]) -> float:
    norm = np.linalg.norm
    return max(norm(ours[leaf] - w) / norm(w) for leaf, w in reference(name).items())


MOVES = [(name, at) for name, row in ROWS.items() for at in (0, MOVE_AT) if at or row.from_scratch]


@pytest.mark.parametrize(("name", "at"), MOVES)
def test_a_run_in_another_gauge_is_the_same_run(name, at):
    assert deviation(name, trajectory(name, at)) <= TOL["regauged", "float64"].rtol


@pytest.mark.parametrize("name", ROWS)
def test_every_number_moves_as_the_table_says(name):
    row, run, theta = ROWS[name], start(ROWS[name]), 2.0
    weights, states = stepper(name)(run.weights, run.states, run.hyper, run.multipliers)
    new = regauge(weights["w1"], states["w1"], theta, chain=row.chain)
    expected = {n: theta**p for n, p in row.exponents.items() if p}
    assert {n: f for n, f in new.hyperparameters.items() if n in row.base} == expected

    def check(path: Any, before: Any, after: Any) -> None:
        fields = [getattr(key, "name", None) for key in path]
        exponent = sum(row.state.get(field, 0.0) for field in fields)
        np.testing.assert_array_equal(after, before * theta**exponent if exponent else before)

    jax.tree_util.tree_map_with_path(check, states["w1"], new.opt_state)


# What only begins a state is left out at the first step, the others in the middle.
BEGINS = {"initial_scale", "initial_accumulator_value", "rprop learning_rate"}
LEFT_OUT = [
    (name, number, 0 if {number, f"{name} {number}"} & BEGINS else MOVE_AT)
    for name, row in ROWS.items()
    for number in (*(n for n, p in row.exponents.items() if p), *row.state)
]


@pytest.mark.parametrize(("name", "number", "at"), LEFT_OUT)
def test_leaving_out_any_exponent_is_another_run(name, number, at):
    moved_by = deviation(name, trajectory(name, at, left_out=number))
    assert not moved_by <= TOL["negative control", "float64"].rtol  # not a number is another run
