"""Transforms by kinds of leaves: low precision, complex, empty, scalar, of integers, unlearned."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import cases, named, require_close

import jaxmup
from jaxmup import Axis, ParamSpec, gauge, optim

OUT, IN = Axis("output", 8, base=2), Axis("input", 8, base=2)
SPECS = {"w": ParamSpec((IN, OUT)), "b": ParamSpec((OUT,)), "s": ParamSpec(())}
SPECS["empty"] = ParamSpec((Axis("output", 1),))
SHAPES = {**{name: spec.shape for name, spec in SPECS.items()}, "empty": (0,)}


def of_any_shape(words: str) -> Any:
    """Scalings that an empty leaf may have too, as a shard of a parameter is one."""
    scalings = jaxmup.resolve(SPECS, named(words))
    return jax.tree.map(lambda scaling: dataclasses.replace(scaling, shape=None), scalings)


BY = {name: of_any_shape(f"mup {name}") for name in ("adam", "sgd", "muon", "lamb")}
ADAM = BY["adam"]
LAMB = optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio())
ADAFACTOR = optax.scale_by_factored_rms(min_dim_size_to_factor=4)

EVERY_TX: dict[str, Any] = {
    "sgd": partial(optim.sgd, 0.5, BY["sgd"]),
    "momentum": partial(optim.sgd, 0.5, BY["sgd"], momentum=0.9, nesterov=True),
    "adam": partial(optim.adam, 0.5, ADAM, nesterov=True),
    **{
        f"adamw {mode}": partial(
            optim.adamw,
            0.5,
            ADAM,
            weight_decay=optax.linear_schedule(0.1, 0.2, 4),
            weight_decay_mode=mode,
            peak_learning_rate=1.0,
            mask=lambda params: jax.tree.map(lambda x: x.ndim != 1, params),
        )
        for mode in ("decoupled", "independent", "coupled", "absolute")
    },
    "amsgrad": partial(optim.amsgrad, 0.5, ADAM),
    "muon": partial(optim.muon, 0.5, BY["muon"], SPECS, weight_decay=0.1),
    "lion": partial(
        optim.from_direction, optax.scale_by_lion(), 0.5, ADAM, optimizer="lion", weight_decay=0.1
    ),
    "lamb": partial(optim.from_direction, LAMB, 0.5, BY["lamb"], optimizer="lamb"),
    "scale_by_adam": optim.scale_by_adam,
    "scale_by_adam amsgrad": partial(optim.scale_by_adam, amsgrad=True, convention="optax"),
    "scale_by_adagrad": optim.scale_by_adagrad,
    "clip": partial(optim.clip_by_global_norm, 0.1, ADAM),
    "scale_gradients": partial(optim.scale_gradients, ADAM),
    "scale_updates": partial(optim.scale_updates, ADAM),
    "in_reference_gauge": partial(optim.in_reference_gauge, optax.adamw(0.1), ADAM),
    "in_reference_gauge sgd": partial(
        optim.in_reference_gauge, optax.sgd(0.1, momentum=0.9), BY["sgd"]
    ),
}
OF_REAL = ("muon",)  # its iteration transposes matrices without conjugating them
each_tx = pytest.mark.parametrize("make", EVERY_TX.values(), ids=EVERY_TX)
PHASE = 0.6 + 0.8j


def drawn(seed: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Numbers away from zero, so that the sign of no entry hangs on a rounding."""
    rng = np.random.default_rng(seed)
    numbers = {n: rng.uniform(0.5, 1.5, s) * rng.choice([-1, 1], s) for n, s in SHAPES.items()}
    return {name: jnp.asarray(x, dtype) for name, x in numbers.items()}


def run(tx: Any, params: Any, *gradients: Any) -> tuple[Any, Any]:
    """The last update, and the states after each step."""
    states = [tx.init(params)]
    updates = None
    for g in gradients:
        updates, state = tx.update(g, states[-1], params)
        states.append(state)
    return updates, states


@each_tx
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_every_float_keeps_its_dtype_and_shape(make, dtype):
    """Scalars and empty leaves among them."""
    updates, states = run(make(), *(drawn(seed, dtype) for seed in range(3)))
    for name, shape in SHAPES.items():
        assert (updates[name].dtype, updates[name].shape) == (dtype, shape)
        if make is not EVERY_TX["in_reference_gauge"]:  # optax's own Adam divides in eight bits
            assert np.all(np.isfinite(updates[name].astype(jnp.float32)))
    types = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), s) for s in states]
    assert types[0] == types[1] == types[2]
    if dtype == jnp.bfloat16:
        params, *gradients = (drawn(seed, dtype) for seed in range(3))
        wide = [jax.tree.map(lambda x: x.astype(jnp.float32), t) for t in (params, *gradients)]
        require_close(updates["b"], run(make(), *wide)[0]["b"], "update", "bfloat16")


@each_tx
def test_a_complex_leaf_turns_with_its_gradient(make):
    """A symmetry of |g|²: a phase of weights and gradients is a phase of the steps.

    Of g² it is none; nor of torch's squares of real and imaginary part.
    """
    real = [drawn(seed) for seed in range(4)]
    turned = [jax.tree.map(lambda x: (PHASE * x).astype(jnp.complex64), t) for t in real]
    if make is EVERY_TX["muon"]:
        with pytest.raises(TypeError, match=r"real matrices. Got complex numbers in\n  w\n"):
            run(make(), *turned)
        return
    expected, _ = run(make(), *real)
    updates, _ = run(make(), *turned)
    back = jax.tree.map(lambda x: x / PHASE, updates)
    require_close(jax.tree.map(jnp.real, back), expected, "update", "float32")
    assert all(x.dtype == jnp.complex64 for x in jax.tree.leaves(updates))
    assert all(np.all(np.abs(x.imag) < 1e-5) for x in jax.tree.leaves(back))


# The first step on 3 + 4i, by hand: g/|g| of what divides by the root of |g|².
FIRST = {
    "adam": (optim.scale_by_adam, 0.6 + 0.8j),
    "amsgrad": (partial(optim.scale_by_adam, amsgrad=True), 0.6 + 0.8j),
    "labml": (partial(optim.scale_by_adam, eps=0.0, convention="labml"), 0.6 + 0.8j),
    "adagrad": (optim.scale_by_adagrad, 0.6 + 0.8j),
    "eps inside": (partial(optim.scale_by_adam, eps=0.0, eps_root=144.0), (3 + 4j) / 13),
}


@pytest.mark.parametrize(("make", "step"), cases(FIRST))
def test_the_first_step_on_a_complex_gradient(make, step):
    gradient = jnp.asarray([3 + 4j], jnp.complex64)
    updates, state = run(make(), gradient, gradient)
    np.testing.assert_allclose(updates, [step], rtol=1e-6)
    assert all(np.all(x.imag == 0) for x in jax.tree.leaves(state[-1][-1]))  # its second moment


@pytest.mark.parametrize("nesterov", [False, True])
def test_complex_adam_is_optax(nesterov, x64):
    params, *gradients = (
        jax.tree.map(lambda a, b: a + 1j * b, drawn(i, float), drawn(i + 10, float))
        for i in range(6)
    )
    ours, state = run(optim.scale_by_adam(nesterov=nesterov), params, *gradients)
    stock, other = run(optax.scale_by_adam(nesterov=nesterov), params, *gradients)
    for got, expected in ((ours, stock), (state[-1].nu, other[-1].nu)):
        parts = [jax.tree.map(lambda x: jnp.stack([x.real, x.imag]), t) for t in (got, expected)]
        require_close(*parts, "adam", "float64")
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, other)


WHOLE = {
    "int32": jnp.ones((8, 8), int),
    "uint8": jnp.ones((8, 8), jnp.uint8),
    "bool": jnp.ones((8, 8), bool),
    "int of numpy": np.ones((8, 8), int),
    "object": np.ones((8, 8), object),
    "float0": np.zeros((8, 8), jax.dtypes.float0),
}


@each_tx
@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_are_refused(make, kind):
    """A leaf with a scaling is a parameter. `scale_by_adam` and `scale_by_adagrad` have none."""
    params, gradients = drawn(0), drawn(1)
    whole = {**params, "w": WHOLE[kind]}
    if make not in (EVERY_TX[n] for n in EVERY_TX if n.startswith("scale_by")):
        shape = r"w: \w+ \(8, 8\)"
        with pytest.raises(
            TypeError, match=f"^`params` must be arrays of floating-point.*\n  {shape}"
        ):
            make().init(whole)
    if kind != "float0":  # of a parameter of integers, which does not train
        with pytest.raises(TypeError, match=r"^`updates` must be arrays of floating-point"):
            make().update({**gradients, "w": WHOLE[kind]}, make().init(params), params)


@each_tx
def test_a_derivative_of_integers_is_none(make):
    params, gradients = drawn(0), drawn(1)
    expected, _ = run(make(), params, gradients, gradients)
    step = {"step": jnp.arange(3), "inner": {"n": jnp.ones((), int)}}
    nothing = jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), step)
    both = {**gradients, **nothing}
    updates, _ = run(make(), {**params, **step}, both, both)
    assert (updates.pop("step"), updates.pop("inner")) == (None, {"n": None})
    require_close(updates, expected, "update", "float32")


@each_tx
@pytest.mark.parametrize("name", ["w", "b", "empty"])
def test_a_parameter_without_a_gradient_stands_still(make, name):
    """Its moments stay, as the tree of the state does: one program serves all steps."""
    params, *gradients = (drawn(seed) for seed in range(3))
    without = [{**g, name: None} for g in gradients]
    updates, states = run(make(), params, *without)
    assert updates[name] is None
    assert len({jax.tree.structure(state) for state in states}) == 1
    if make is EVERY_TX["adamw coupled"]:
        return  # the decay moves the moments of a gradient of zeros
    zeros = [{**g, name: jnp.zeros_like(g[name])} for g in gradients]
    expected, expected_states = run(make(), params, *zeros)
    del updates[name], expected[name]
    require_close(updates, expected, "update", "float32")
    require_close(
        jax.tree.leaves(states[-1]), jax.tree.leaves(expected_states[-1]), "update", "float32"
    )


@pytest.mark.parametrize("name", ["momentum", "lion", "lamb", "in_reference_gauge sgd"])
def test_without_gradient_and_parameters_it_is_refused(name):
    params, gradients = drawn(0), {**drawn(1), "b": None}
    tx = EVERY_TX[name]()
    with pytest.raises(ValueError, match=r"needs the parameters where.*\n  b\nCall `update\("):
        tx.update(gradients, tx.init(params))


# ---- gauges

MOVES = {
    "fold": lambda params: gauge.fold(params, ADAM),
    "unfold": lambda params: gauge.unfold(params, ADAM),
    "scalings": lambda params: gauge.regauge_run(params, optax.EmptyState(), ADAM, ADAM),
    "specs": lambda params: gauge.regauge_run(
        params, optax.EmptyState(), *map(named, ("mup adam unit", "mup adam table3")), specs=SPECS
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_gauge_does_not_round_whole_numbers_away(move, kind):
    with pytest.raises(TypeError, match=r"^`params` must be arrays.*\n  w: .*\nGive integers"):
        move({**drawn(0), "w": WHOLE[kind]})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float8_e4m3fn, jnp.complex64])
def test_every_float_folds(dtype):
    unit = of_any_shape("mup adam table8")
    params = {
        name: jnp.full(shape, PHASE if dtype == jnp.complex64 else 2, dtype)
        for name, shape in SHAPES.items()
    }
    scalings = {**unit, "w": gauge.regauge_scalings(unit["w"], 0.5)}
    folded = gauge.fold(params, scalings)
    np.testing.assert_array_equal(
        folded["w"].astype(jnp.complex64), params["w"].astype(jnp.complex64) / 2
    )
    back = gauge.unfold(folded, scalings)
    for name, leaf in params.items():
        assert back[name].dtype == dtype
        np.testing.assert_array_equal(back[name].astype(jnp.complex64), leaf.astype(jnp.complex64))


@pytest.mark.parametrize("x", WHOLE.values(), ids=WHOLE)
def test_scale_refuses_whole_numbers(x):
    for factor in (0.5, 1.0):
        with pytest.raises(TypeError, match=r"`x` must be an array of floating-point numbers. Got"):
            jaxmup.functional.scale(x, factor)


# ---- lint

# The standard deviation of a hidden matrix is divided by √(8 / 2) (arXiv:2203.03466, Table 3).
STD = {name: ParamSpec(s.axes, init_std=2.0 if name == "w" else 1.0) for name, s in SPECS.items()}
FINDINGS: dict[str, tuple[Any, list[str]]] = {
    "float32": (1.0, []),
    "complex": (PHASE, []),
    "int32": (1, ["not-floating"]),
    "bool": (True, ["not-floating"]),
    "nan": (float("nan"), ["not-finite"]),
    "inf": (float("inf"), ["not-finite"]),
    "complex nan": (complex(1, float("nan")), ["not-finite"]),
    "too large": (2.0, ["initial-std"]),
}


@pytest.mark.parametrize(("value", "checks"), cases(FINDINGS))
def test_lint_looks_at_values(value, checks):
    params = {name: jnp.ones(spec.shape) for name, spec in STD.items()}
    params["w"] = jnp.full((8, 8), value)
    findings = jaxmup.lint(STD, named("mup sgd table3"), params=params)
    found = [f.check for f in findings if f.where == ("w",)]
    assert found == checks
    assert all(f.where == ("w",) for f in findings if f.check.startswith("not-"))


def test_lint_looks_at_low_precision():
    params = {name: jnp.ones(s.shape, jnp.float8_e4m3fn) for name, s in SPECS.items()}
    params["b"] = params["b"].at[3].set(jnp.nan)
    (finding,) = (f for f in jaxmup.lint(SPECS, params=params) if f.check == "not-finite")
    assert (finding.where, finding.what[:34]) == (("b",), "The parameter holds 1 values of 8 ")


def test_lint_looks_at_the_state():
    params = drawn(0)
    state = optax.adam(0.1).init(params)
    bad = state[0]._replace(count=3, nu={**params, "b": jnp.full(8, jnp.inf)})
    findings = jaxmup.lint(SPECS, named("mup adam"), opt_state=(bad, state[1]))
    (finding,) = (f for f in findings if f.check == "not-finite")
    assert finding.where == ("0/nu/b",)
