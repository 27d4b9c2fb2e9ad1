"""Depth: CompleteP's table by hand, and what the number of blocks leaves alone."""

import dataclasses
import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import TOL, cases, named, weight

from jaxmup import ABCD, Axis, Parametrization, ParamSpec, optim, parametrization, resolve

# ---- the table, at m_N = 4 and m_L = 16

IN_BLOCK, OUTSIDE = {"depth_ratio": 16}, {}
NAMES: dict[str, ParamSpec] = {
    "embed": weight(None, 4, init_std=1.0, **OUTSIDE),
    "pre-LN": ParamSpec((Axis("output", 64, base=16),), init_std=1.0, **IN_BLOCK),
    "hidden": weight(4, 4, init_std=1.0, **IN_BLOCK),
    "hidden bias": ParamSpec((Axis("output", 64, base=16),), init_std=1.0, **IN_BLOCK),
    "QK norm": ParamSpec((Axis("output", 16),), init_std=1.0, **IN_BLOCK),
    "final LN": ParamSpec((Axis("output", 64, base=16),), init_std=1.0, **OUTSIDE),
    "unembed": weight(4, None, init_std=1.0, **OUTSIDE),
}

# Dey et al., CompleteP, arXiv:2505.01618, Table 1, and Complete(d)P, arXiv:2512.22382, Table 1 (eps
# outside the blocks, QK norm): initial variance, lr, λ and eps at α = 1, then lr and eps at α = ½.
TABLE: dict[str, tuple[Any, ...]] = {
    "embed": (1, 1, 1, 1 / 4, 1, 1 / 4),
    "pre-LN": (1, 1, 1, 1 / 4 / 16, 1 / 4, 1 / 4 / 4),
    "hidden": (1 / 4, 1 / 4, 4, 1 / 4 / 16, 1 / 4 / 4, 1 / 4 / 4),
    "hidden bias": (1, 1, 1, 1 / 4 / 16, 1 / 4, 1 / 4 / 4),
    "QK norm": (1, 1, 1, 1 / 16, 1 / 4, 1 / 4),
    "final LN": (1, 1, 1, 1 / 4, 1, 1 / 4),
}


@pytest.mark.parametrize("gauge", ["table3", "table8"])
@pytest.mark.parametrize("name", TABLE)
def test_complete_p(name, gauge):
    variance, lr, decay, eps, lr_half, eps_half = TABLE[name]
    one, half = (
        resolve(NAMES[name], parametrization("mup", "adamw", gauge=gauge, depth_alpha=alpha))
        for alpha in (1.0, 0.5)
    )
    assert (one.init_std**2, one.lr, one.weight_decay, one.eps) == (variance, lr, decay, eps)
    # λ has no factor of depth at any α: the decay of one step shrinks as the step itself
    assert (half.init_std, half.weight_decay) == (one.init_std, decay)
    assert (half.lr, half.eps) == (lr_half, eps_half)


# unembed: multiplier, variance, lr, λ, eps; CompleteP augments its forward pass, Complete(d)P not
UNEMBED = {"table8": (1 / 4, 1, 1, 1, 1 / 4), "table3": (1, 1 / 16, 1 / 4, 4, 1)}


@pytest.mark.parametrize("gauge", UNEMBED)
def test_complete_p_unembedding(gauge):
    rule = parametrization("mup", "adamw", gauge=gauge, depth_alpha=1.0)
    got = resolve(NAMES["unembed"], rule)
    assert (got.multiplier, got.init_std**2, got.lr, got.weight_decay, got.eps) == UNEMBED[gauge]


# THEORY §5: SGD lr · L^(2α-1), the decay of one step L^(α-1); all normalized optimizers as Adam
STEPS: dict[str, tuple[Any, ...]] = {
    "sgd, 1": ("sgd", 1.0, 16, 1 / 16, 1),
    "sgd, ½": ("sgd", 0.5, 1, 1 / 4, 1),
    "lion, ½": ("lion", 0.5, 1 / 4 / 4, 4, 1 / 4 / 4),
    "muon, 1": ("muon", 1.0, 1, 1, 1 / 16),  # eps (1/L) √(d_in/d_out), arXiv:2512.05620, Table 1
    "adafactor, ½": ("adafactor", 0.5, 1 / 2 / 4, 2, 1 / 4 / 4),
}


@pytest.mark.parametrize(("family", "alpha", "lr", "decay", "eps"), cases(STEPS))
def test_other_optimizers_in_depth(family, alpha, lr, decay, eps):
    rule = parametrization("mup", family, gauge="table3", depth_alpha=alpha)
    got = resolve(NAMES["hidden"], rule)
    assert (got.lr, got.weight_decay, got.eps) == (lr, decay, eps)
    assert rule.residual_multiplier(16) == 16**-alpha
    assert str(rule).endswith(f"depth^-{alpha:g})")


def test_standard_scales_nothing_with_depth():
    rule = parametrization("standard", "adam")
    assert rule.residual_multiplier(16) == 1.0
    assert resolve(NAMES["hidden"], rule).lr == resolve(weight(4, 4), rule).lr == 1.0


IDENTITY = {role: ABCD(0, 0, 0, 0) for role in ("input", "hidden", "output")}
MUP, MINE = named("mup adam"), Parametrization.from_table("mine", "adam", IDENTITY)
SILENT = r"says nothing about depth, which has grown by 16. Pass `depth_alpha=1.0`"
BAD: dict[str, tuple[Any, ...]] = {
    "no rule": (lambda: resolve({"a": NAMES["hidden"]}, MUP), r"^a: .*table8 \(adam\) " + SILENT),
    "no rule, multiplier": (lambda: MUP.residual_multiplier(16), SILENT),
    "no rule, table": (lambda: resolve(NAMES["hidden"], MINE), SILENT),
    "too small": (
        lambda: parametrization("mup", depth_alpha=0.4),
        r"at most 1. Got 0.4",
    ),
    "too large": (
        lambda: parametrization("mup", depth_alpha=1.1),
        r"at most 1. Got 1.1",
    ),
    "standard": (lambda: parametrization("standard", depth_alpha=1.0), r"Got name='standard'"),
    "cellarium, 0": (lambda: parametrization("cellarium", depth_alpha=0.0), r"at least 0.5"),
    "cellarium": (lambda: parametrization("cellarium", depth_alpha=1.0), r"name='cellarium'"),
    "depth": (lambda: ParamSpec((), depth_ratio=0.0), r"`depth_ratio` must be a finite .* Got 0.0"),
    "multiplier": (lambda: MUP.residual_multiplier(math.inf), r"`depth_ratio` must be .* Got inf"),
    "gain": (lambda: ParamSpec((), forward_gain=-1.0), r"`forward_gain` must be .* Got -1.0"),
}


@pytest.mark.parametrize("gauge", ["table3", "table8", "unit"])
@pytest.mark.parametrize(("name", "optimizer"), [("mup", "adam"), ("mup", "sgd"), ("ntk", "adam")])
def test_nothing_is_scaled_with_depth_by_an_exponent_of_zero(name, optimizer, gauge):
    rule = parametrization(name, optimizer, gauge=gauge, depth_alpha=0.0)
    assert [rule.residual_multiplier(r) for r in (0.5, 1.0, 64.0)] == [1.0, 1.0, 1.0]
    assert rule != parametrization(name, optimizer, gauge=gauge)
    assert str(rule).endswith(f"({optimizer}, depth^-0)")
    for spec in NAMES.values():
        of_base_depth = dataclasses.replace(spec, depth_ratio=1.0)
        assert resolve(spec, rule) == resolve(of_base_depth, rule)


def test_the_standard_parametrization_adds_blocks_as_they_are():
    standard = parametrization("standard", "adam")
    assert standard == parametrization("standard", "adam", depth_alpha=0.0)
    assert standard.residual_multiplier(4.0) == 1.0


@pytest.mark.parametrize(("make", "message"), cases(BAD))
def test_bad_depth_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- what the number of blocks leaves alone

DEPTHS, WIDTH, SEEDS = [2, 4, 8, 16], 32, 6
X, Y = (np.random.default_rng(seed).normal(size=(8, n)) for seed, n in ((2, 8), (3, 4)))


def stack(depth: int) -> dict[str, ParamSpec]:
    """Blocks of two matrices, stacked; all of one width, that of the base."""
    grows = {"size": WIDTH, "base": WIDTH}
    hidden = ParamSpec(
        (Axis("input", **grows), Axis("output", **grows)),
        init_std=WIDTH**-0.5,
        depth_ratio=depth / 2,
    ).with_batch_axis(0, depth)
    return {
        "in": ParamSpec((Axis("input", 8), Axis("output", **grows)), init_std=8**-0.5),
        "a": hidden,
        "b": hidden,
        "out": ParamSpec((Axis("input", **grows), Axis("output", 4)), init_std=1 / WIDTH),
    }


def block(h: Any, a: Any, b: Any) -> Any:
    return jnp.tanh(h @ a) @ b


def streams(w: dict[str, Any], multiplier: Any) -> Any:
    """What enters each block, and what leaves the last."""

    def add(h: Any, ab: Any) -> tuple[Any, Any]:
        return h + multiplier * block(h, *ab), h

    last, entering = jax.lax.scan(add, X @ w["in"], (w["a"], w["b"]))
    return entering, last


@jax.jit
def gradients(w: dict[str, Any], multiplier: Any) -> dict[str, Any]:
    def loss(w: dict[str, Any]) -> Any:
        return jnp.mean((streams(w, multiplier)[1] @ w["out"] - Y) ** 2)

    return jax.vmap(jax.grad(loss))(w)


def draw(depth: int, scalings: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    shapes = stack(depth)
    return {
        name: jnp.asarray(scalings[name].init_std * rng.normal(size=(SEEDS, *spec.shape)))
        for name, spec in shapes.items()
    }


@cache
def measured(depth: int, family: str, alpha: float | None) -> tuple[float, ...]:
    """RMS of the gradient at first, of what 4 steps change in the last features, and in a block.

    A block is measured on the features that entered it at first. `alpha` is `None` for blocks that
    are scaled with nothing.
    """
    specs = stack(depth)
    if alpha is None:
        specs = {name: dataclasses.replace(spec, depth_ratio=1.0) for name, spec in specs.items()}
    rule = parametrization("mup", family, gauge="table3", depth_alpha=alpha)
    multiplier = rule.residual_multiplier(specs["a"].depth_ratio)
    scalings = resolve(specs, rule)
    # eps of the size of the gradient at base depth, so that it matters
    tx = optim.sgd(0.1, scalings) if family == "sgd" else optim.adam(0.01, scalings, eps=1e-3)
    before = w = draw(depth, scalings)
    state, first = tx.init(w), gradients(w, multiplier)
    for _ in range(4):
        updates, state = tx.update(gradients(w, multiplier), state, w)
        w = optax.apply_updates(w, updates)
    follow = jax.vmap(streams, (0, None))
    (entered, start), (_, end) = follow(before, multiplier), follow(w, multiplier)
    inside = jax.vmap(jax.vmap(block))
    moved = inside(entered, w["a"], w["b"]) - inside(entered, before["a"], before["b"])
    return tuple(float(np.sqrt(np.mean(np.square(x)))) for x in (first["a"], end - start, moved))


def depth_slopes(family: str, alpha: float | None) -> np.ndarray:
    sizes = [measured(depth, family, alpha) for depth in DEPTHS]
    return np.polyfit(np.log(DEPTHS), np.log(sizes), 1)[0]


# THEORY §5: the gradient falls as L^-α, the last features change alike, a block's own as L^(α-1)
# (so that below α = 1 the blocks are lazy).
STABLE: dict[str, tuple[Any, ...]] = {
    "Adam, CompleteP": ("adam", 1.0, -1.0, 0.0, 0.0),
    "Adam, α = ½": ("adam", 0.5, -0.5, 0.0, -0.5),
    "SGD, CompleteP": ("sgd", 1.0, -1.0, 0.0, 0.0),
}


@pytest.mark.parametrize(("family", "alpha", "gradient", "last", "inside"), cases(STABLE))
def test_features_change_alike_at_every_depth(family, alpha, gradient, last, inside, x64):
    off = np.abs(depth_slopes(family, alpha) - [gradient, last, inside])
    assert np.max(off) <= TOL["slope", "float64"].rtol


def test_unscaled_blocks_do_not(x64):
    assert depth_slopes("adam", None)[1] > TOL["wrong slope", "float64"].rtol
