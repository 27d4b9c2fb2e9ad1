"""Muon and any direction of optax: by hand, axes of all kinds, and the contract of a transform."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import cases, named, require_close, weight
from optax import contrib

import jaxmup
from jaxmup import Axis, ParamSpec, optim, parametrization, resolve

RULE = named("mup muon table3")
D, H, K, E = (
    Axis("input", 8, base=4),
    Axis("output", 6, base=2),
    Axis("output", 3),
    Axis("batch", 5),
)
HEADS_IN = tuple(Axis("input", axis.size, axis.base) for axis in (H, K))
OUT = Axis("output", 8, base=4)


def spec(*axes: Axis) -> ParamSpec:
    return ParamSpec(axes)


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def step(tx: Any, gradient: Any) -> Any:
    return tx.update(gradient, tx.init(gradient), gradient)[0]


def singular_value() -> float:
    """What 5 Newton-Schulz steps make of the one singular value 1 of a normalized rank-1 matrix."""
    s = 1.0
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


# (r_in, r_out) of a matrix with base fans, arguments, and by hand its factor at learning rate 1
STEPS: dict[str, tuple[Any, ...]] = {
    "square base": ((2, 8), (16, 16), {}, math.sqrt(8 / 2)),
    "wide base": ((2, 8), (4, 16), {}, math.sqrt(16 / 4) * math.sqrt(8 / 2)),
    "narrow base": ((8, 2), (16, 4), {}, math.sqrt(2 / 8)),
    "consistent RMS": ((2, 8), (4, 16), {"consistent_rms": 0.2}, 0.2 * 4 * math.sqrt(8 / 2)),
}


@pytest.mark.parametrize(("ratios", "base", "options", "factor"), cases(STEPS))
def test_the_step_of_a_hidden_matrix(ratios, base, options, factor, x64):
    kinds = zip(("input", "output"), ratios, base, strict=True)
    shapes = {"w": spec(*(Axis(kind, n * r, n) for kind, r, n in kinds))}
    u, v = (draw(n) / np.linalg.norm(draw(n)) for n in shapes["w"].shape)
    tx = optim.muon(1.0, resolve(shapes, RULE), shapes, eps=0.0, **options)
    update = step(tx, {"w": jnp.outer(u, v)})["w"]
    require_close(update, -factor * singular_value() * jnp.outer(u, v), "muon", "float64")


def test_what_is_not_hidden_trains_with_adam(x64):
    shapes = {"in": weight(None, 4), "out": weight(4, None), "hidden": weight(4, 4)}
    scalings = resolve(shapes, RULE)
    gradient = {name: draw(*s.shape) for name, s in shapes.items()}
    update = step(
        optim.muon(0.5, scalings, shapes, eps=0.01, adam_lr_scale=0.1, nesterov=False), gradient
    )
    adam_scalings = resolve(shapes, named("mup adam table3"))
    by_adam = step(optim.adam(0.05, adam_scalings, eps=0.01), gradient)
    for name in ("in", "out"):
        require_close(update[name], by_adam[name], "adam", "float64")
    assert 0.5 * 0.6 < np.linalg.norm(update["hidden"], 2) < 0.5 * 1.3


AXES: dict[str, tuple[Any, ...]] = {
    "kernel": (spec(D, OUT), ((0,), (1,))),
    "query": (spec(D, H, K), ((0,), (1, 2))),
    "output projection": (spec(*HEADS_IN, OUT), ((0, 1), (2,))),
    "experts": (spec(E, D, OUT), ((1,), (2,))),
    "experts in the middle": (spec(D, E, OUT), ((0,), (2,))),
    "transposed": (spec(OUT, D), ((1,), (0,))),
    "input": (spec(Axis("input", 8), OUT), None),
    "readout": (spec(D, Axis("output", 8)), None),
    "bias": (spec(OUT), None),
}


@pytest.mark.parametrize(("shape", "expected"), cases(AXES))
def test_dimension_numbers(shape, expected):
    expected = expected if expected is None else contrib.MuonDimensionNumbers(*expected)
    assert optim.muon_dimension_numbers({"w": shape}) == {"w": expected}


# a kernel of several axes, and how to lay its matrices out: (batch, inputs, outputs)
FLAT: dict[str, tuple[Any, ...]] = {
    "query": (spec(D, H, K), (8, 18), lambda x: x.reshape(1, 8, 18)),
    "output projection": (spec(*HEADS_IN, OUT), (18, 8), lambda x: x.reshape(1, 18, 8)),
    "experts": (spec(E, D, OUT), (8, 8), lambda x: x),
    "experts in the middle": (spec(D, E, OUT), (8, 8), lambda x: x.transpose(1, 0, 2)),
    "transposed": (spec(OUT, D), (8, 8), lambda x: x.T[None]),
}


@pytest.mark.parametrize(("shape", "flat", "matrices"), cases(FLAT))
def test_axes_are_laid_out_as_matrices(shape, flat, matrices, x64):
    """Each as the plain matrix that it is."""
    base = tuple(round(n / r) for n, r in zip(flat, (shape.r_in, shape.r_out), strict=True))
    plain = {"w": spec(Axis("input", flat[0], base[0]), Axis("output", flat[1], base[1]))}
    of_plain = optim.muon(0.5, resolve(plain, RULE), plain, ns_steps=1)
    g = draw(*shape.shape)
    tx = optim.muon(0.5, resolve({"w": shape}, RULE), {"w": shape}, ns_steps=1)
    got, alone = matrices(step(tx, {"w": g})["w"]), matrices(g)
    expected = jnp.stack([step(of_plain, {"w": matrix})["w"] for matrix in alone])
    require_close(got, expected, "muon", "float64")


# ---- the contract

SHAPES = {"hidden": weight(4, 4), "readout": weight(4, None), "bias": ParamSpec((OUT,))}
LION = partial(optim.from_direction, optax.scale_by_lion())


def muon(scalings: Any, learning_rate: Any = 0.1, **options: Any) -> Any:
    return optim.muon(learning_rate, scalings, SHAPES, ns_steps=1, **options)


def lion(scalings: Any, learning_rate: Any = 0.1, **options: Any) -> Any:
    return LION(learning_rate, scalings, optimizer="lion", **options)


@pytest.mark.parametrize("make", [muon, lion])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_program_for_all_steps_and_no_change_of_dtype(make, dtype):
    scalings = resolve(SHAPES, parametrization("mup", make.__name__))
    params = {name: draw(*s.shape).astype(dtype) for name, s in SHAPES.items()}
    tx = make(scalings, optax.cosine_decay_schedule(0.1, 10), weight_decay=0.1)
    traced = jax.jit(tx.update)
    state = tx.init(params)
    kinds = jax.tree.map(lambda x: (x.shape, x.dtype), (params, state))
    for _ in range(3):
        updates, state = traced(params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), (updates, state)) == kinds
    assert traced._cache_size() == 1


def test_an_nnx_state_trains():
    model = jaxmup.models.MLP(8, 3, width=16, base_width=8, depth=2, rngs=nnx.Rngs(0))
    specs, params = jaxmup.nnx.specs(model), nnx.state(model, nnx.Param)
    scalings = resolve(specs, parametrization("mup", "muon"))
    tx = optim.muon(0.1, scalings, specs, ns_steps=1)
    updates = jax.jit(lambda g: step(tx, g))(jax.tree.map(jnp.ones_like, params))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert all(np.all(u < 0) for u in jax.tree.leaves(updates))


def test_arguments_of_an_update_reach_the_direction():
    def update(updates: Any, state: Any, params: Any = None, *, value: Any) -> Any:
        return jax.tree.map(lambda u: u * value, updates), state

    direction = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    scalings = resolve(SHAPES, named("mup sgd table3"))
    tx = optim.from_direction(direction, 1.0, scalings, optimizer="sgd")
    g = {name: draw(*s.shape) for name, s in SHAPES.items()}
    updates, _ = tx.update(g, tx.init(g), g, value=3.0)
    require_close(
        updates,
        jax.tree.map(lambda x: 3.0 * x, step(optim.sgd(1.0, scalings), g)),
        "update",
        "float32",
    )


def test_a_direction_sees_sizes_of_base_width():
    """LAMB's family at (r_in, r_out) = (16, 4): by hand lr ½, eps ¼ and initial values ⅛."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda u, s, w: u + 10 * s + 100 * w, updates, state, params), state

    scalings = {"w": resolve(weight(16, 4), named("mup lamb table3"))}
    direction = optax.GradientTransformation(lambda params: params, update)
    tx = optim.from_direction(direction, 1.0, scalings, optimizer="lamb")
    update = step(tx, {"w": jnp.ones(1)})["w"]
    require_close(update, -0.5 / 8 * np.array([4.0 + 80 + 800]), "update", "float32")


def test_a_direction_of_another_degree_keeps_its_size():
    """1/g is of degree -1, as Shampoo(½, ½): whatever g is divided by comes back; by hand lr 1."""
    family = jaxmup.shampoo(0.5, 0.5)
    scalings = {"w": resolve(weight(16, 4), parametrization("mup", family, gauge="table3"))}
    inverse = optax.stateless(lambda updates, _: jax.tree.map(lambda u: 1 / u, updates))
    tx = optim.from_direction(inverse, 1.0, scalings, optimizer=family)
    require_close(step(tx, {"w": jnp.full(1, 5.0)})["w"], np.array([-0.2]), "update", "float32")


OF_ADAM, OF_MUON = (resolve(SHAPES, parametrization("mup", name)) for name in ("adam", "muon"))
OTHERS = resolve({"x": SHAPES["hidden"]}, RULE)
BAD: dict[str, tuple[Any, ...]] = {
    "Adam's scalings": (lambda: muon(OF_ADAM), r"must be of the family 'muon' at the hidden"),
    "SGD's scalings": (lambda: muon(resolve(SHAPES, named("mup sgd"))), r"family 'muon'. Got\n"),
    "Muon's, in Adam": (lambda: optim.adam(0.1, OF_MUON), r"family 'adam'. Got\n  hidden: muon"),
    "Muon's, in Lion": (lambda: lion(OF_MUON), r"family 'adam'. Got\n  hidden: muon"),
    "other paths": (lambda: muon(OTHERS), r"`scalings` must be those of .*\n.*\n  bias \(8,\)"),
    "scale": (lambda: muon(OF_MUON, adam_lr_scale=0.0), r"`adam_lr_scale` must be .* Got 0.0"),
    "coupled": (
        lambda: muon(OF_MUON, weight_decay=0.1, weight_decay_mode="coupled"),
        r"mode 'coupled' adds to the gradient.* Got the family 'muon'",
    ),
    "unknown family": (
        lambda: LION(0.1, OF_ADAM, optimizer="lions"),
        r"one of 'sgd'.* Got 'lions'",
    ),
    "mixed": (
        lambda: optim.scale_updates({**OF_ADAM, "x": resolve(SHAPES["bias"], named("mup sgd"))}),
        r"must be for one family. Got",
    ),
}


@pytest.mark.parametrize(("make", "message"), cases(BAD))
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_two_factors_take_scalings_of_muon():
    tx = optax.chain(optim.scale_gradients(OF_MUON), optim.scale_updates(OF_MUON))
    tx.init({name: jnp.zeros(s.shape) for name, s in SHAPES.items()})
