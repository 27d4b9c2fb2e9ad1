"""Inputs that are refused: for every public function what it was given, and what is said of it.

A message says what must be so, what was received and what to do instead; a fragment of it stands
beside each input. `test_bad_inputs.py` makes the calls.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx

import jaxmup
from jaxmup import (
    Axis,
    ParamSpec,
    bridge,
    budget,
    coord_check,
    data,
    empirical,
    functional,
    fused,
    gauge,
    linen,
    manifest,
    models,
    optim,
    parity,
    plots,
    report,
    transfer,
)
from jaxmup import nnx as layers


class Bad(NamedTuple):
    """An input that is refused.

    Args:
      of: Name of the public function or class, after `jaxmup.`.
      call: Call with the input.
      error: Type of the exception.
      says: Part of its message.
    """

    of: str
    call: Callable[[], Any]
    error: type[Exception]
    says: str


P = jaxmup.parametrization
IN, OUT = Axis("input", 8, base=2), Axis("output", 8, base=2)
W, B = ParamSpec((IN, OUT)), ParamSpec((OUT,))
SPECS = {"w": W, "b": B}
PARAMS = {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}
MUP, SGD = P("mup", "adam"), P("mup", "sgd")
ADAM = jaxmup.resolve(SPECS, MUP)
OF_SGD = jaxmup.resolve(SPECS, SGD)
MUON = jaxmup.resolve(SPECS, P("mup", "muon"))
NAN, INF = float("nan"), float("inf")
X = np.ones((4, 8), np.float32)
Y = np.zeros((4, 8), np.float32)


def make(width: int, key: Any = None) -> Any:
    """A plain model."""
    key = jax.random.key(0) if key is None else key
    return {"a": jax.random.normal(key, (8, width)), "b": jax.random.normal(key, (width, 8))}


def apply(params: Any, x: Any) -> Any:
    return x @ params["a"] @ params["b"]


def squares(outputs: Any, targets: Any = 0.0) -> Any:
    return jnp.mean((outputs - targets) ** 2)


def path(content: bytes | str, name: str = "file") -> Path:
    """A file with this content, in a folder of its own."""
    file = Path(tempfile.mkdtemp(), name)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def init(module: nn.Module, *inputs: Any) -> Any:
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)


HEAD = ParamSpec((IN, Axis("output", 10)))
RULES = {"a": ("input", "output"), "b": ("input", "output")}
OF_MAKE = {
    "a": ParamSpec((Axis("input", 8), Axis("output", 32, base=8))),
    "b": ParamSpec((Axis("input", 32, base=8), Axis("output", 8))),
}
MODEL = jaxmup.Model(make, inputs=X, apply=apply)

CORE = [
    Bad("Axis", lambda: Axis("width", 8), ValueError, "`kind` must be one of"),
    Bad(
        "Axis",
        lambda: Axis("input", 0),
        ValueError,
        "`size` must be an integer of at least 1. Got 0",
    ),
    Bad("Axis", lambda: Axis("input", 8.0), TypeError, "`size` must be an integer"),
    Bad("Axis", lambda: Axis("input", True), TypeError, "`size` must be an integer"),
    Bad("Axis", lambda: Axis("input", 8, base=-2), ValueError, "`base` must be an integer"),
    Bad("Axis", lambda: Axis("input", 8, base="2"), TypeError, "`base` must be an integer"),
    Bad("ParamSpec", lambda: ParamSpec(IN), TypeError, "`axes`"),
    Bad("ParamSpec", lambda: ParamSpec((8, 8)), TypeError, "`axes`"),
    Bad("ParamSpec", lambda: ParamSpec((IN,), init_std=-1.0), ValueError, "`init_std`"),
    Bad("ParamSpec", lambda: ParamSpec((IN,), init_std=NAN), ValueError, "`init_std`"),
    Bad("ParamSpec", lambda: ParamSpec((IN,), lr_scale=0.0), ValueError, "`lr_scale`"),
    Bad("ParamSpec", lambda: ParamSpec((IN,), lr_scale="2"), TypeError, "`lr_scale`"),
    Bad("ParamSpec", lambda: ParamSpec((IN,), depth_ratio=0), ValueError, "`depth_ratio`"),
    Bad("ParamSpec", lambda: ParamSpec((IN,), forward_gain=-1), ValueError, "`forward_gain`"),
    Bad("parametrization", lambda: P("muP"), ValueError, "must be one of"),
    Bad("parametrization", lambda: P("mup", "adamm"), ValueError, "must be one of"),
    Bad("parametrization", lambda: P("mup", None), (TypeError, ValueError), "optimizer"),
    Bad("parametrization", lambda: P("mup", "adam", gauge="table4"), ValueError, "gauge"),
    Bad("parametrization", lambda: P("mup", depth_alpha=2.0), ValueError, "`depth_alpha`"),
    Bad("parametrization", lambda: P("mup", depth_alpha="0.5"), TypeError, "`depth_alpha`"),
    Bad(
        "parametrization", lambda: P("mup", optax.adam(1e-3)), (TypeError, ValueError), "optimizer"
    ),
    Bad("Parametrization", lambda: MUP.row("norm"), ValueError, "role"),
    Bad("Family", lambda: jaxmup.Family("", 0, 0), ValueError, "`name` must not be"),
    Bad("Family", lambda: jaxmup.Family("mine", NAN, 0), ValueError, "gradient_degree"),
    Bad("Family", lambda: jaxmup.Family("mine", "1", 0), TypeError, "gradient_degree"),
    Bad("Power", lambda: jaxmup.Power(r_in="1"), TypeError, "r_in"),
    Bad("Power", lambda: jaxmup.Power(r_in=INF), ValueError, "r_in"),
    Bad("ABCD", lambda: jaxmup.ABCD(NAN, 0, 0, 0), ValueError, "`a`"),
    Bad("shampoo", lambda: jaxmup.shampoo(-1.0), ValueError, "left"),
    Bad("shampoo", lambda: jaxmup.shampoo(0.25, "0.25"), TypeError, "right"),
    Bad("resolve", lambda: jaxmup.resolve(SPECS, "mup"), TypeError, "`parametrization` must be"),
    Bad("resolve", lambda: jaxmup.resolve(PARAMS, MUP), TypeError, "`specs` must be a tree"),
    Bad("resolve", lambda: jaxmup.resolve(None, MUP), TypeError, "`specs` must be a tree"),
    Bad("resolve", lambda: jaxmup.resolve({"w": W, "b": None, "c": 3}, MUP), TypeError, "c: int"),
    Bad("explain", lambda: jaxmup.explain(PARAMS, MUP), TypeError, "`specs` must be a tree"),
    Bad("explain", lambda: jaxmup.explain(SPECS, None), TypeError, "`parametrization` must be"),
    Bad(
        "explain",
        lambda: jaxmup.explain(SPECS, MUP, learning_rate=0),
        ValueError,
        "`learning_rate`",
    ),
    Bad(
        "explain",
        lambda: jaxmup.explain(SPECS, MUP, learning_rate=True),
        TypeError,
        "`learning_rate`",
    ),
    Bad("explain", lambda: jaxmup.explain(SPECS, MUP).text(width=-3), ValueError, "`width`"),
    Bad("explain", lambda: jaxmup.explain({"a": {"b": W}, "a/b": W}, MUP), ValueError, "share one"),
    Bad("lint", lambda: jaxmup.lint(PARAMS), TypeError, "`specs` must be a tree"),
    Bad("lint", lambda: jaxmup.lint(SPECS, "mup"), TypeError, "`parametrization` must be"),
    Bad("lint", lambda: jaxmup.lint(SPECS, MUP, eps=-1), ValueError, "`eps` must be"),
    Bad("lint", lambda: jaxmup.lint(SPECS, MUP, b2=1.0), ValueError, "`b2` must be"),
    Bad("lint", lambda: jaxmup.lint(SPECS, tx=optax.adam(1.0)), ValueError, "`tx` and `opt_state`"),
    Bad("lint", lambda: jaxmup.lint(SPECS, MUP, tx="adam"), TypeError, "`tx`"),
    Bad("lint", lambda: jaxmup.lint(SPECS, scalings=SPECS), TypeError, "`scalings` must be a tree"),
    Bad("Model", lambda: jaxmup.Model(3), TypeError, "make_model"),
    Bad("Model", lambda: jaxmup.Model(make, apply=3), TypeError, "apply"),
    Bad(
        "infer",
        lambda: jaxmup.infer(make, base=8, delta=8, target=32, inputs=X, apply=apply),
        ValueError,
        "delta",
    ),
    Bad("infer", lambda: jaxmup.infer(3, base=8, delta=12, target=32), TypeError, "make_model"),
    Bad(
        "infer",
        lambda: jaxmup.infer(make, base=-8, delta=12, target=32, inputs=X, apply=apply),
        ValueError,
        "base",
    ),
    Bad(
        "infer",
        lambda: jaxmup.infer(make, base="8", delta=12, target=32, inputs=X, apply=apply),
        ValueError,
        "`make_model` must build `base` = '8'",
    ),
    Bad(
        "infer",
        lambda: jaxmup.infer(
            make, base=8, delta=12, target=32, inputs=X, apply=apply, rules={"a": "output"}
        ),
        (TypeError, ValueError),
        "rule",
    ),
    Bad(
        "infer",
        lambda: jaxmup.infer(
            make,
            base=8,
            delta=12,
            target=32,
            inputs=X,
            apply=apply,
            rules={"nothing": ("input", "output")},
        ),
        ValueError,
        "nothing",
    ),
    Bad(
        "infer",
        lambda: jaxmup.infer(make, base=8, delta=12, target=32, inputs=X[:, :4], apply=apply),
        (TypeError, ValueError),
        "shape",
    ),
    Bad(
        "rescale",
        lambda: jaxmup.rescale(make, SPECS, "mup", base=8, target=32, key=jax.random.key(0)),
        TypeError,
        "`parametrization` must be",
    ),
    Bad(
        "rescale",
        lambda: jaxmup.rescale(make, OF_MAKE, MUP, base=8, target=32, key=0),
        TypeError,
        "key",
    ),
    Bad(
        "rescale",
        lambda: jaxmup.rescale(make, SPECS, MUP, base=8, target=32, key=jax.random.key(0)),
        ValueError,
        "specs",
    ),
]

OPTIM = [
    Bad(
        "optim.sgd",
        lambda: optim.sgd("0.1", OF_SGD),
        TypeError,
        "`learning_rate` must be a real number",
    ),
    Bad("optim.sgd", lambda: optim.sgd(0.1, SPECS), TypeError, "`scalings` must be a tree"),
    Bad("optim.sgd", lambda: optim.sgd(0.1, ADAM), ValueError, "must be for the family 'sgd'"),
    Bad("optim.sgd", lambda: optim.sgd(0.1, OF_SGD, momentum=1.0), ValueError, "`momentum`"),
    Bad(
        "optim.sgd", lambda: optim.sgd(0.1, OF_SGD, nesterov=True), ValueError, "needs a `momentum`"
    ),
    Bad(
        "optim.sgd",
        lambda: optim.sgd(0.1, OF_SGD, 0.9, nesterov=0.9),
        TypeError,
        "`nesterov` must be True or",
    ),
    Bad(
        "optim.sgd",
        lambda: optim.sgd(0.1, OF_SGD, 0.9, accumulator_dtype=int),
        ValueError,
        "`accumulator_dtype`",
    ),
    Bad(
        "optim.adam", lambda: optim.adam(NAN, ADAM), ValueError, "`learning_rate` must be a finite"
    ),
    Bad("optim.adam", lambda: optim.adam(0.1, ADAM, b1=-0.1), ValueError, "`b1`"),
    Bad(
        "optim.adam",
        lambda: optim.adam(0.1, ADAM, convention="keras"),
        ValueError,
        "`convention` must be one of",
    ),
    Bad(
        "optim.adam",
        lambda: optim.adam(0.1, ADAM).init({"w": PARAMS["w"]}),
        ValueError,
        "Entries without a parameter",
    ),
    Bad(
        "optim.adam",
        lambda: optim.adam(0.1, ADAM).init({**PARAMS, "w": jnp.ones((8, 4))}),
        ValueError,
        "w: (8, 8), (8, 4)",
    ),
    Bad(
        "optim.adam",
        lambda: optim.adam(0.1, ADAM).init({**PARAMS, "w": jnp.ones((8, 8), int)}),
        TypeError,
        "w: int32 (8, 8)",
    ),
    Bad(
        "optim.adamw",
        lambda: optim.adamw(0.1, ADAM, weight_decay=-0.1),
        ValueError,
        "`weight_decay` must be a finite",
    ),
    Bad(
        "optim.adamw",
        lambda: optim.adamw(0.1, ADAM, weight_decay="0.1"),
        TypeError,
        "a number or a schedule",
    ),
    Bad(
        "optim.adamw",
        lambda: optim.adamw(0.1, ADAM, weight_decay_mode="l2"),
        ValueError,
        "`weight_decay_mode` must be one of",
    ),
    Bad(
        "optim.adamw",
        lambda: optim.adamw(0.1, ADAM, mask=3),
        TypeError,
        "`mask` must be a tree of booleans",
    ),
    Bad(
        "optim.adamw",
        lambda: optim.adamw(lambda s: 0.1, ADAM, weight_decay_mode="independent"),
        ValueError,
        "`peak_learning_rate`",
    ),
    Bad(
        "optim.adamw",
        lambda: optim.adamw(0.1, ADAM, peak_learning_rate=0.0),
        ValueError,
        "`peak_learning_rate`",
    ),
    Bad(
        "optim.adamw",
        lambda: optim.adamw(0.1, ADAM).update(PARAMS, optim.adamw(0.1, ADAM).init(PARAMS)),
        ValueError,
        "needs the parameters",
    ),
    Bad("optim.amsgrad", lambda: optim.amsgrad(-0.1, ADAM), ValueError, "`learning_rate`"),
    Bad(
        "optim.amsgrad",
        lambda: optim.amsgrad(0.1, OF_SGD),
        ValueError,
        "must be for the family 'adam'",
    ),
    Bad("optim.muon", lambda: optim.muon(0.1, ADAM, SPECS), ValueError, "family 'muon'"),
    Bad("optim.muon", lambda: optim.muon(0.1, MUON, PARAMS), TypeError, "`specs` must be a tree"),
    Bad(
        "optim.muon",
        lambda: optim.muon(0.1, MUON, {"w": W}),
        ValueError,
        "`scalings` must be those",
    ),
    Bad("optim.muon", lambda: optim.muon(0.1, MUON, SPECS, ns_steps=2.5), TypeError, "`ns_steps`"),
    Bad(
        "optim.muon",
        lambda: optim.muon(0.1, MUON, SPECS, ns_coeffs="muon"),
        TypeError,
        "`ns_coeffs`",
    ),
    Bad(
        "optim.muon",
        lambda: optim.muon(0.1, MUON, SPECS, (1.0, 2.0)),
        ValueError,
        "`ns_coeffs` must be three",
    ),
    Bad(
        "optim.muon",
        lambda: optim.muon(0.1, MUON, SPECS, preconditioning="none"),
        ValueError,
        "`preconditioning`",
    ),
    Bad(
        "optim.muon",
        lambda: optim.muon(0.1, MUON, SPECS, weight_decay_mask="w"),
        TypeError,
        "`weight_decay_mask`",
    ),
    Bad(
        "optim.muon",
        lambda: optim.muon(0.1, MUON, SPECS).init(jax.tree.map(lambda x: x * 1j, PARAMS)),
        TypeError,
        "Muon orthogonalizes real",
    ),
    Bad(
        "optim.muon_dimension_numbers",
        lambda: optim.muon_dimension_numbers(PARAMS),
        TypeError,
        "`specs` must be a tree",
    ),
    Bad(
        "optim.from_direction",
        lambda: optim.from_direction(optax.adam(0.1), 0.1, ADAM, optimizer="adam"),
        ValueError,
        "must be what comes before",
    ),
    Bad(
        "optim.from_direction",
        lambda: optim.from_direction(optax.scale_by_lion(), 0.1, ADAM, optimizer="lio"),
        ValueError,
        "optimizer",
    ),
    Bad(
        "optim.from_direction",
        lambda: optim.from_direction(None, 0.1, ADAM, optimizer="adam"),
        TypeError,
        "`direction`",
    ),
    Bad(
        "optim.from_direction",
        lambda: optim.from_direction(optax.scale_by_adam, 0.1, ADAM, optimizer="adam"),
        TypeError,
        "`direction`",
    ),
    Bad(
        "optim.in_reference_gauge", lambda: optim.in_reference_gauge(None, ADAM), TypeError, "`tx`"
    ),
    Bad(
        "optim.in_reference_gauge",
        lambda: optim.in_reference_gauge(optax.adam, ADAM),
        TypeError,
        "`tx`",
    ),
    Bad(
        "optim.in_reference_gauge",
        lambda: optim.in_reference_gauge(optax.adam(0.1), PARAMS),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad("optim.scale_by_adam", lambda: optim.scale_by_adam(b2=1.0), ValueError, "`b2`"),
    Bad(
        "optim.scale_by_adam", lambda: optim.scale_by_adam(eps={"w": -1.0}), ValueError, "eps of w"
    ),
    Bad(
        "optim.scale_by_adam",
        lambda: optim.scale_by_adam(eps={"w": 1.0}).init(PARAMS),
        ValueError,
        "`eps` must be those",
    ),
    Bad(
        "optim.scale_by_adam",
        lambda: optim.scale_by_adam(amsgrad="yes"),
        TypeError,
        "`amsgrad` must be True or",
    ),
    Bad(
        "optim.scale_by_adam",
        lambda: optim.scale_by_adam(mu_dtype="float33"),
        TypeError,
        "`mu_dtype`",
    ),
    Bad(
        "optim.scale_by_adam",
        lambda: optim.scale_by_adam().update(
            {"w": jnp.ones(2, int)}, optim.scale_by_adam().init({"w": jnp.ones(2)})
        ),
        TypeError,
        "w: int32 (2,)",
    ),
    Bad("optim.scale_by_adagrad", lambda: optim.scale_by_adagrad(eps=None), TypeError, "`eps`"),
    Bad(
        "optim.scale_by_adagrad",
        lambda: optim.scale_by_adagrad(initial_accumulator_value=-1),
        ValueError,
        "`initial_accumulator_value`",
    ),
    Bad(
        "optim.scale_gradients",
        lambda: optim.scale_gradients(SPECS),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad(
        "optim.scale_gradients",
        lambda: optim.scale_gradients(ADAM).init({"w": jnp.ones((8, 8))}),
        ValueError,
        "Entries without a parameter",
    ),
    Bad(
        "optim.scale_updates",
        lambda: optim.scale_updates({"a": ADAM["w"], "b": OF_SGD["b"]}),
        ValueError,
        "must be for one family",
    ),
    Bad(
        "optim.scale_updates",
        lambda: optim.scale_updates(ADAM).update(
            {"w": jnp.ones((8, 8), bool), "b": jnp.ones(8)}, None
        ),
        TypeError,
        "w: bool",
    ),
    Bad(
        "optim.clip_by_global_norm",
        lambda: optim.clip_by_global_norm(0.0, ADAM),
        ValueError,
        "`max_norm`",
    ),
    Bad(
        "optim.clip_by_global_norm",
        lambda: optim.clip_by_global_norm("1", ADAM),
        TypeError,
        "`max_norm`",
    ),
]

GAUGE = [
    Bad("gauge.fold", lambda: gauge.fold(PARAMS, SPECS), TypeError, "`scalings` must be a tree"),
    Bad(
        "gauge.fold",
        lambda: gauge.fold({"w": jnp.ones((8, 8), int), "b": jnp.ones(8)}, ADAM),
        TypeError,
        "w: int32",
    ),
    Bad(
        "gauge.fold",
        lambda: gauge.fold({"w": jnp.ones((8, 8))}, ADAM),
        ValueError,
        "Entries without a parameter",
    ),
    Bad(
        "gauge.unfold",
        lambda: gauge.unfold({"w": PARAMS["w"].T[:4], "b": jnp.ones(8)}, ADAM),
        ValueError,
        "(8, 8), (4, 8)",
    ),
    Bad(
        "gauge.unfold", lambda: gauge.unfold(None, ADAM), ValueError, "Entries without a parameter"
    ),
    Bad(
        "gauge.regauge",
        lambda: gauge.regauge(PARAMS, optax.adam(0.1).init(PARAMS), 0.0),
        ValueError,
        "theta",
    ),
    Bad(
        "gauge.regauge",
        lambda: gauge.regauge(PARAMS, optax.adam(0.1).init(PARAMS), {"w": 2.0}),
        ValueError,
        "`theta` must be those",
    ),
    Bad(
        "gauge.regauge",
        lambda: gauge.regauge(PARAMS, {"mine": jnp.ones(3)}, 2.0),
        ValueError,
        "movement",
    ),
    Bad(
        "gauge.regauge",
        lambda: gauge.regauge(PARAMS, optax.adam(0.1).init(PARAMS), 2.0, chain="adamm"),
        ValueError,
        "adamm",
    ),
    Bad(
        "gauge.regauge",
        lambda: gauge.regauge(
            PARAMS, optax.adam(0.1).init(PARAMS), 2.0, transforms={"ScaleByAdamState": 3}
        ),
        TypeError,
        "transforms",
    ),
    Bad(
        "gauge.regauge_run",
        lambda: gauge.regauge_run(PARAMS, optax.EmptyState(), MUP, MUP),
        TypeError,
        "`specs` must be given",
    ),
    Bad(
        "gauge.regauge_run",
        lambda: gauge.regauge_run(PARAMS, optax.EmptyState(), "mup", MUP, specs=SPECS),
        TypeError,
        "`from_`",
    ),
    Bad(
        "gauge.regauge_run",
        lambda: gauge.regauge_run(
            PARAMS, optax.EmptyState(), MUP, P("standard", "adam"), specs=SPECS
        ),
        ValueError,
        "one physics",
    ),
    Bad(
        "gauge.regauge_scalings",
        lambda: gauge.regauge_scalings(SPECS, 2.0),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad("gauge.regauge_scalings", lambda: gauge.regauge_scalings(ADAM, -2.0), ValueError, "theta"),
    Bad(
        "gauge.reference_scalings",
        lambda: gauge.reference_scalings(PARAMS),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad(
        "gauge.as_arguments",
        lambda: gauge.as_arguments(SPECS),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad("gauge.as_arguments", lambda: gauge.as_arguments(ADAM, int), ValueError, "`dtype`"),
    Bad(
        "gauge.from_arguments",
        lambda: gauge.from_arguments(SPECS, {}),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad(
        "gauge.from_arguments",
        lambda: gauge.from_arguments(ADAM, {"lr": {}}),
        ValueError,
        "`arguments`",
    ),
    Bad(
        "gauge.equivalent",
        lambda: gauge.equivalent("mup", "mupp", SPECS, "adam"),
        ValueError,
        "must be one of",
    ),
    Bad(
        "gauge.equivalent",
        lambda: gauge.equivalent("mup", "mup", PARAMS, "adam"),
        TypeError,
        "`specs` must be a tree",
    ),
    Bad(
        "gauge.equivalent",
        lambda: gauge.equivalent("mup", "mup", SPECS, "adamm"),
        ValueError,
        "must be one of",
    ),
    Bad("gauge.Transform", lambda: gauge.Transform("MyState"), TypeError, "`states`"),
    Bad(
        "gauge.Transform",
        lambda: gauge.Transform(("MyState",), {"mu": 1.0}),
        TypeError,
        "`fields['mu']` must be a",
    ),
    Bad(
        "gauge.in_reference_gauge",
        lambda: gauge.in_reference_gauge(optax.adam(1.0), SPECS),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad(
        "functional.scale",
        lambda: functional.scale(jnp.ones(2, int), 0.5),
        TypeError,
        "`x` must be an array of floating",
    ),
    Bad("functional.scale", lambda: functional.scale(jnp.ones(2), "0.5"), TypeError, "`factor`"),
    Bad("functional.scale", lambda: functional.scale([1.0, 2.0], 0.5), TypeError, "`x`"),
    Bad(
        "functional.scale_smaller",
        lambda: functional.scale_smaller(jnp.ones((9, 8)), jnp.ones((8, 8), int), 0.5),
        TypeError,
        "floating-point",
    ),
    Bad(
        "functional.scaled_product",
        lambda: functional.scaled_product(
            lambda x, w, b: x @ w,
            (jnp.ones((9, 8)), jnp.ones((8, 8), int), None),
            (functional.Factor(0.5), functional.Factor(1.0)),
            "smaller",
        ),
        TypeError,
        "floating-point",
    ),
    Bad(
        "optim.state_shardings",
        lambda: optim.state_shardings(optax.adam(0.1), {"w": jnp.ones(3)}),
        ValueError,
        "`params` must be laid out over a mesh",
    ),
    Bad(
        "functional.lookup",
        lambda: functional.lookup(lambda t: t[:1], jnp.ones((8, 8), int), 1, 0.5),
        TypeError,
        "floating-point",
    ),
    Bad(
        "functional.top_k_gates", lambda: functional.top_k_gates(jnp.ones(3), 4), ValueError, "`k`"
    ),
    Bad(
        "functional.top_k_gates", lambda: functional.top_k_gates(jnp.ones(3), 0), ValueError, "`k`"
    ),
    Bad(
        "functional.top_k_gates",
        lambda: functional.top_k_gates(jnp.ones(3, int), 1),
        TypeError,
        "`logits`",
    ),
    Bad(
        "functional.mix",
        lambda: functional.mix(jnp.ones((2, 3, 4)), jnp.ones((3, 5))),
        ValueError,
        "`gates`",
    ),
    Bad(
        "functional.ScaledAttention",
        lambda: functional.ScaledAttention(3, 0.5),
        TypeError,
        "`attention_fn`",
    ),
    Bad(
        "functional.ScaledAttention",
        lambda: functional.ScaledAttention(nnx.dot_product_attention, NAN),
        ValueError,
        "`factor`",
    ),
]

FUSED = [
    Bad(
        "fused.value_and_update",
        lambda: fused.value_and_update(3, optax.sgd(0.1)),
        TypeError,
        "`loss_fn`",
    ),
    Bad(
        "fused.value_and_update",
        lambda: fused.value_and_update(squares, optax.sgd),
        TypeError,
        "`tx`",
    ),
    Bad(
        "fused.value_and_update",
        lambda: fused.value_and_update(squares, optax.sgd(0.1), has_aux=1),
        TypeError,
        "`has_aux`",
    ),
    Bad(
        "fused.value_and_update",
        lambda: fused.value_and_update(squares, optax.sgd(0.1), clip=1.0),
        TypeError,
        "`clip`",
    ),
    Bad(
        "fused.value_and_update",
        lambda: fused.value_and_update(squares, optax.sgd(0.1), update_size=1.5),
        TypeError,
        "`update_size`",
    ),
    Bad(
        "fused.value_and_update",
        lambda: fused.value_and_update(squares, optax.sgd(0.1), update_size=-1),
        ValueError,
        "`update_size`",
    ),
    Bad(
        "fused.value_and_update",
        lambda: jax.eval_shape(
            fused.value_and_update(lambda p: p["w"], optax.sgd(0.1)),
            PARAMS,
            optax.sgd(0.1).init(PARAMS),
        ),
        (TypeError, ValueError),
        "loss",
    ),
    Bad(
        "fused.Step",
        lambda: jax.eval_shape(
            fused.value_and_update(lambda p: jnp.sum(p["w"]), optax.sgd(0.1)),
            {**PARAMS, "table": jnp.arange(3)},
            optax.sgd(0.1).init(PARAMS),
        ),
        TypeError,
        "table: int32 (3,)",
    ),
    Bad(
        "fused.Step",
        lambda: jax.eval_shape(
            fused.value_and_update(lambda p: jnp.sum(p["w"]), optax.sgd(0.1)),
            PARAMS,
            optax.sgd(0.1).init(PARAMS),
        ),
        ValueError,
        "must run a block over stacked parameters",
    ),
    Bad("fused.global_norm_clip", lambda: fused.global_norm_clip(-1.0), ValueError, "`max_norm`"),
    Bad("fused.global_norm_clip", lambda: fused.global_norm_clip("1"), TypeError, "`max_norm`"),
    Bad(
        "fused.global_norm_clip",
        lambda: fused.global_norm_clip(1.0, SPECS),
        TypeError,
        "`scalings` must be a tree",
    ),
    Bad(
        "fused.in_form",
        lambda: fused.in_form(fused.value_and_update(squares, optax.sgd(0.1)), "fast"),
        ValueError,
        "`form` must be one of",
    ),
    Bad("fused.in_form", lambda: fused.in_form(squares, "plain"), TypeError, "`step`"),
    Bad(
        "fused.layer_by_layer",
        lambda: fused.layer_by_layer([], squares, optax.sgd(0.1)),
        ValueError,
        "`layers`",
    ),
    Bad(
        "fused.layer_by_layer",
        lambda: fused.layer_by_layer([3], squares, optax.sgd(0.1)),
        TypeError,
        "`layers[0]` must be a function",
    ),
    Bad("fused.live_gradients", lambda: fused.live_gradients(squares, PARAMS), TypeError, "`step`"),
    Bad(
        "fused.memory_report", lambda: fused.memory_report(squares, PARAMS, ()), TypeError, "`step`"
    ),
    Bad(
        "fused.memory_report",
        lambda: fused.memory_report(
            fused.value_and_update(squares, optax.sgd(0.1)), PARAMS, (), forms=("fast",)
        ),
        ValueError,
        "`forms`",
    ),
    Bad("fused.per_layer", lambda: fused.per_layer(3, "w"), TypeError, "`tx`"),
    Bad("fused.per_layer", lambda: fused.per_layer(optax.sgd(0.1)), ValueError, "`paths`"),
    Bad(
        "fused.per_layer",
        lambda: fused.per_layer(optax.sgd(0.1), "nothing").init(PARAMS),
        ValueError,
        "nothing",
    ),
]


def spread(directory: str) -> Any:
    return transfer.Config(widths=(8, 16), steps=2)


def tx_of(scalings: Any) -> Any:
    return optim.adam(0.01, scalings)


def linear(**options: Any) -> Any:
    return layers.Linear(8, 4, **{"base_in_features": 2, "rngs": rngs()} | options)


WEIGHT = {"weight": np.ones((4, 8), np.float32)}
KERNEL = {"kernel": np.ones((8, 4), np.float32)}
PLAN = bridge.plan(WEIGHT, KERNEL)
TORCH_SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
TORCH_STATE = {"state": {}, "param_groups": [{**TORCH_SGD, "params": [0]}]}
MOMENTUM = optax.sgd(0.1, momentum=0.9)

BRIDGE = [
    Bad("bridge.plan", lambda: bridge.plan(3, KERNEL), TypeError, "must be a mapping or a file"),
    Bad(
        "bridge.plan",
        lambda: bridge.plan({"weight": 3}, KERNEL),
        ValueError,
        "must map names to tensors",
    ),
    Bad(
        "bridge.plan",
        lambda: bridge.plan({"weight": np.array(["a"])}, KERNEL),
        ValueError,
        "must be of numbers",
    ),
    Bad(
        "bridge.plan",
        lambda: bridge.plan(WEIGHT, {"kernel": np.ones((8, 5), np.float32)}),
        ValueError,
        "kernel",
    ),
    Bad(
        "bridge.plan",
        lambda: bridge.plan(WEIGHT, KERNEL, {"kernel": 3}),
        TypeError,
        "A pair must map a name",
    ),
    Bad(
        "bridge.plan",
        lambda: bridge.plan(WEIGHT, KERNEL, multipliers={"nothing": 2.0}),
        ValueError,
        "nothing",
    ),
    Bad(
        "bridge.plan",
        lambda: bridge.plan(WEIGHT, KERNEL, multipliers={"weight": 0.0}),
        ValueError,
        "weight",
    ),
    Bad(
        "bridge.plan",
        lambda: bridge.plan(path("x", "model.txt"), KERNEL),
        ValueError,
        "must end in .safetensors",
    ),
    Bad("bridge.from_torch", lambda: bridge.from_torch({}, KERNEL), ValueError, "kernel"),
    Bad(
        "bridge.from_torch", lambda: bridge.from_torch(WEIGHT, 3), (TypeError, ValueError), "model"
    ),
    Bad(
        "bridge.from_torch",
        lambda: bridge.from_torch({"weight": NAN * WEIGHT["weight"]}, KERNEL),
        ValueError,
        "weight",
    ),
    Bad(
        "bridge.from_torch",
        lambda: bridge.from_torch("/nowhere/model.safetensors", KERNEL),
        FileNotFoundError,
        "/nowhere/model.safetensors",
    ),
    Bad(
        "bridge.to_torch",
        lambda: bridge.to_torch({"kernel": NAN * KERNEL["kernel"]}, WEIGHT),
        ValueError,
        "kernel",
    ),
    Bad(
        "bridge.to_torch",
        lambda: bridge.to_torch(KERNEL, {"weight": np.ones((5, 8), np.float32)}),
        ValueError,
        "kernel",
    ),
    Bad(
        "bridge.to_abcd",
        lambda: bridge.to_abcd(KERNEL, {"weight": np.ones(3)}, MUP),
        ValueError,
        "weight (3)",
    ),
    Bad(
        "bridge.to_abcd",
        lambda: bridge.to_abcd(KERNEL, WEIGHT, MUP),
        ValueError,
        "of a layer of jaxmup",
    ),
    Bad(
        "bridge.abcd_multipliers",
        lambda: bridge.abcd_multipliers({"a": 3}),
        TypeError,
        "jaxmup.bridge.AbcdLayer",
    ),
    Bad(
        "bridge.AbcdLayer",
        lambda: bridge.AbcdLayer("hiden", "adam", 8, 2),
        ValueError,
        "`role` must be one of",
    ),
    Bad(
        "bridge.AbcdLayer", lambda: bridge.AbcdLayer("hidden", "adam", 0, 2), ValueError, "`width`"
    ),
    Bad("bridge.from_mup", lambda: bridge.from_mup(WEIGHT, {}, KERNEL), ValueError, "weight"),
    Bad(
        "bridge.from_mup",
        lambda: bridge.from_mup(WEIGHT, {"weight": (2, 2)}, KERNEL, output_mult=0.0),
        ValueError,
        "`output_mult`",
    ),
    Bad(
        "bridge.from_mup",
        lambda: bridge.from_mup(WEIGHT, 3, KERNEL),
        TypeError,
        "`base_shapes` must be",
    ),
    Bad(
        "bridge.mup_parameters",
        lambda: bridge.mup_parameters(WEIGHT, {"weight": (2, 2)}, "fc"),
        TypeError,
        "`readouts` must be a list",
    ),
    Bad(
        "bridge.mup_parameters",
        lambda: bridge.mup_parameters(WEIGHT, {"weight": (2, 2)}, ["fc"]),
        ValueError,
        "`readouts` must be modules",
    ),
    Bad(
        "bridge.mup_parameters",
        lambda: bridge.mup_parameters(WEIGHT, {"weight": (2,)}, []),
        ValueError,
        "weight",
    ),
    Bad(
        "bridge.read_base_shapes",
        lambda: bridge.read_base_shapes(path("a: [1, {}]", "x.bsh")),
        ValueError,
        "x.bsh",
    ),
    Bad(
        "bridge.read_base_shapes",
        lambda: bridge.read_base_shapes("/nowhere.bsh"),
        FileNotFoundError,
        "/nowhere.bsh",
    ),
    Bad(
        "bridge.conversion",
        lambda: bridge.conversion(path("x", "m.txt"), KERNEL, to="flax"),
        ValueError,
        "must end in",
    ),
    Bad(
        "bridge.conversion",
        lambda: bridge.conversion(path("x", "m.safetensors"), KERNEL, to="flax"),
        ValueError,
        "m.safetensors must be a whole file",
    ),
    Bad(
        "bridge.conversion",
        lambda: bridge.conversion(path("x", "m.safetensors"), KERNEL, to="jax"),
        ValueError,
        "`to`",
    ),
    Bad(
        "bridge.load",
        lambda: bridge.load(path(b"\xff" * 40, "m.safetensors")),
        ValueError,
        "m.safetensors must be a whole file",
    ),
    Bad(
        "bridge.load",
        lambda: bridge.load(path("{", "m.safetensors.index.json")),
        ValueError,
        "an index must be JSON",
    ),
    Bad("bridge.load", lambda: bridge.load(path("x", "m.gguf")), ValueError, "must end in"),
    Bad("bridge.load", lambda: bridge.load(3), TypeError, "must be a mapping or a file"),
    Bad(
        "bridge.save",
        lambda: bridge.save(path("x", "m.safetensors"), {"w": np.array(["a"])}),
        ValueError,
        "w must have one of the dtypes",
    ),
    Bad(
        "bridge.save",
        lambda: bridge.save("/nowhere/m.safetensors", {"w": np.ones(2)}),
        FileNotFoundError,
        "/nowhere",
    ),
    Bad(
        "bridge.as_tensors",
        lambda: bridge.as_tensors({"w": np.array(["a"])}),
        TypeError,
        "w must be of a dtype that PyTorch has",
    ),
    Bad(
        "bridge.parameter_groups",
        lambda: bridge.parameter_groups({}, PLAN),
        ValueError,
        "'state' and 'param_groups'",
    ),
    Bad(
        "bridge.parameter_groups",
        lambda: bridge.parameter_groups(TORCH_STATE, PLAN),
        ValueError,
        "Pass `names`",
    ),
    Bad(
        "bridge.parameter_groups",
        lambda: bridge.parameter_groups(TORCH_STATE, PLAN, names=["other"]),
        ValueError,
        "Not in it:\n  other",
    ),
    Bad(
        "bridge.optimizer_from_torch",
        lambda: bridge.optimizer_from_torch(
            TORCH_STATE, PLAN, MOMENTUM, KERNEL, names=["weight"], step=-1
        ),
        ValueError,
        "`step`",
    ),
    Bad(
        "bridge.optimizer_from_torch",
        lambda: bridge.optimizer_from_torch(
            TORCH_STATE, PLAN, optax.adam(0.1), KERNEL, names=["weight"]
        ),
        ValueError,
        "moment",
    ),
    Bad(
        "bridge.optimizer_from_torch",
        lambda: bridge.optimizer_from_torch(
            {**TORCH_STATE, "state": {0: {"momentum_buffer": NAN * WEIGHT["weight"]}}},
            PLAN,
            MOMENTUM,
            KERNEL,
            names=["weight"],
        ),
        ValueError,
        "Moments must be finite",
    ),
    Bad(
        "bridge.optimizer_from_torch",
        lambda: bridge.optimizer_from_torch(3, PLAN, MOMENTUM, KERNEL),
        TypeError,
        "`torch_state` must be",
    ),
    Bad(
        "bridge.optimizer_to_torch",
        lambda: bridge.optimizer_to_torch(
            (), PLAN, MOMENTUM, KERNEL, TORCH_STATE, names=["weight"]
        ),
        ValueError,
        "moment",
    ),
    Bad(
        "bridge.schedule_position",
        lambda: bridge.schedule_position(optax.scale_by_lbfgs().init(PARAMS)),
        ValueError,
        "must have a counterpart in torch",
    ),
]

HYPER = budget.Hyperparameters(0.1)
SMALL, LARGE = budget.Run(32, 1e6), budget.Run(64, 1e6)
TOOLS = [
    Bad(
        "budget.Hyperparameters", lambda: budget.Hyperparameters(0.0), ValueError, "`learning_rate`"
    ),
    Bad("budget.Hyperparameters", lambda: budget.Hyperparameters(0.1, b1=1.0), ValueError, "`b1`"),
    Bad(
        "budget.Hyperparameters",
        lambda: budget.Hyperparameters("0.1"),
        TypeError,
        "`learning_rate`",
    ),
    Bad("budget.Run", lambda: budget.Run(0, 1e6), ValueError, "`batch_size`"),
    Bad("budget.Run", lambda: budget.Run(32, NAN), ValueError, "`examples`"),
    Bad("budget.adjust", lambda: budget.adjust(0.1, SMALL, LARGE), TypeError, "`hyperparameters`"),
    Bad("budget.adjust", lambda: budget.adjust(HYPER, 32, LARGE), TypeError, "`base`"),
    Bad(
        "budget.adjust",
        lambda: budget.adjust(HYPER, SMALL, LARGE, batch_exponent="0.5"),
        TypeError,
        "`batch_exponent`",
    ),
    Bad(
        "budget.adjust",
        lambda: budget.adjust(HYPER, SMALL, LARGE, decay_mode="coupled"),
        ValueError,
        "`decay_mode`",
    ),
    Bad(
        "budget.adjust",
        lambda: budget.adjust(HYPER, SMALL, LARGE, scale_betas="no"),
        TypeError,
        "`scale_betas`",
    ),
    Bad("budget.factors", lambda: budget.factors(SMALL, 64), TypeError, "`target`"),
    Bad(
        "budget.factors",
        lambda: budget.factors(SMALL, LARGE, length_exponent=NAN),
        ValueError,
        "`length_exponent`",
    ),
    Bad("corrected", lambda: jaxmup.corrected(3, {}), TypeError, "`apply` must be a function"),
    Bad(
        "corrected",
        lambda: jaxmup.corrected(apply, {"w": 3}),
        TypeError,
        "`ParamSpec` at each leaf",
    ),
    Bad("corrected", lambda: jaxmup.corrected(apply, None), TypeError, "`ParamSpec` at each leaf"),
    Bad(
        "coord_check.line_check",
        lambda: coord_check.line_check(make, (8,), (X, Y), tx_of, apply=apply, rules=RULES),
        ValueError,
        "`sizes` must be at least two",
    ),
    Bad(
        "coord_check.line_check",
        lambda: coord_check.line_check(make, (8, 16), (X, Y), 3, apply=apply, rules=RULES),
        TypeError,
        "`make_tx`",
    ),
    Bad(
        "coord_check.line_check",
        lambda: coord_check.line_check(make, (8, 16), (X, Y), tx_of, apply=apply, steps=0),
        ValueError,
        "`steps` must be an integer of at least 1",
    ),
    Bad(
        "coord_check.line_check",
        lambda: coord_check.line_check(make, (8, 16), (X, Y), tx_of, apply=apply, seeds=0),
        ValueError,
        "`seeds` must be an integer of at least 1",
    ),
    Bad(
        "coord_check.write_line_record",
        lambda: coord_check.write_line_record(3, "lines.jsonl"),
        TypeError,
        "`check` must be",
    ),
    Bad(
        "coord_check.read_line_record",
        lambda: coord_check.read_line_record("missing.jsonl"),
        OSError,
        "missing.jsonl",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(make, (8,), (X, Y), tx_of, apply=apply, rules=RULES),
        ValueError,
        "sizes",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(make, (8, 8), (X, Y), tx_of, apply=apply, rules=RULES),
        ValueError,
        "sizes",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(make, 8, (X, Y), tx_of, apply=apply, rules=RULES),
        TypeError,
        "sizes",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(make, (8, 16), X, tx_of, apply=apply, rules=RULES),
        TypeError,
        "A batch must be a tuple",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(
            make, (8, 16), (NAN * X, Y), tx_of, apply=apply, rules=RULES
        ),
        ValueError,
        "finite",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(make, (8, 16), (X, Y), 3, apply=apply, rules=RULES),
        TypeError,
        "make_tx",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(
            make, (8, 16), (X, Y), tx_of, apply=apply, rules=RULES, steps=0
        ),
        ValueError,
        "`steps`",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(
            make, (8, 16), (X, Y), tx_of, apply=apply, rules=RULES, seeds=True
        ),
        TypeError,
        "`seeds`",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(
            make, (8, 16), (X, Y), tx_of, apply=apply, rules=RULES, tolerance=-1
        ),
        ValueError,
        "`tolerance`",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(
            make, (8, 16), (X, Y), tx_of, apply=apply, rules=RULES, confidence=95
        ),
        ValueError,
        "`confidence`",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(
            make, (8, 16), (X, Y), tx_of, apply=apply, rules=RULES, over="time"
        ),
        ValueError,
        "`over`",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(3, (8, 16), (X, Y), tx_of),
        TypeError,
        "make_model",
    ),
    Bad(
        "coord_check.coord_check",
        lambda: coord_check.coord_check(
            make, (8, 16), (X, Y), tx_of, apply=apply, rules=RULES, parametrization="mup"
        ),
        TypeError,
        "`parametrization`",
    ),
    Bad(
        "coord_check.assert_coord_check",
        lambda: coord_check.assert_coord_check(
            make, (8, 16), (X, Y), tx_of, apply=apply, rules=RULES, steps=2.5
        ),
        TypeError,
        "`steps`",
    ),
    Bad(
        "coord_check.assert_coord_check",
        lambda: coord_check.assert_coord_check(make, (8, 16), (X, Y), tx_of, tol=1),
        TypeError,
        "tol",
    ),
    Bad("coord_check.tag", lambda: coord_check.tag(3, jnp.ones(2)), TypeError, "name"),
    Bad(
        "coord_check.tag", lambda: coord_check.tag("x", "y"), TypeError, "`values` must be an array"
    ),
    Bad(
        "coord_check.failure_message", lambda: coord_check.failure_message(3), TypeError, "`check`"
    ),
    Bad("coord_check.to_lines", lambda: coord_check.to_lines(3), TypeError, "`check`"),
    Bad(
        "coord_check.write_record",
        lambda: coord_check.write_record(3, path("")),
        TypeError,
        "`check`",
    ),
    Bad("coord_check.read_record", lambda: coord_check.read_record(path("")), ValueError, "file"),
    Bad(
        "coord_check.read_record",
        lambda: coord_check.read_record(path('{"format":"other"}\n')),
        ValueError,
        "line 1: A record must be of format",
    ),
    Bad(
        "coord_check.read_record",
        lambda: coord_check.read_record("/nowhere"),
        FileNotFoundError,
        "/nowhere",
    ),
    Bad("data.batch_order", lambda: data.batch_order(0, 4, 2, 0), ValueError, "`examples`"),
    Bad("data.batch_order", lambda: data.batch_order(8, 0, 2, 0), ValueError, "`batch_size`"),
    Bad("data.batch_order", lambda: data.batch_order(8, 4, 2.5, 0), TypeError, "`steps`"),
    Bad("data.batch_order", lambda: data.batch_order(8, 4, 2, -1), ValueError, "`seed`"),
    Bad(
        "data.sequences",
        lambda: data.sequences(np.arange(4), 8, 2, 0, 0),
        ValueError,
        "must be longer than a sequence",
    ),
    Bad(
        "data.sequences", lambda: data.sequences(np.arange(40), 0, 2, 0, 0), ValueError, "`context`"
    ),
    Bad(
        "data.sequences",
        lambda: data.sequences(np.arange(40), 8, 0, 0, 0),
        ValueError,
        "`batch_size`",
    ),
    Bad("data.text", lambda: data.text("/nowhere.txt"), FileNotFoundError, "/nowhere.txt"),
    Bad("data.text", lambda: data.text(path("x" * 100), limit=0), ValueError, "`limit`"),
    Bad("data.text", lambda: data.text(path("")), ValueError, "file"),
    Bad(
        "manifest.write",
        lambda: manifest.write(path(""), PARAMS, MUP),
        TypeError,
        "`specs` must be a tree",
    ),
    Bad(
        "manifest.write",
        lambda: manifest.write(path(""), SPECS, "mup"),
        TypeError,
        "`parametrization` must be",
    ),
    Bad(
        "manifest.write",
        lambda: manifest.write("/nowhere/manifest", SPECS, MUP),
        FileNotFoundError,
        "/nowhere",
    ),
    Bad("manifest.read", lambda: manifest.read(path("")), ValueError, "line 1: It must be JSON"),
    Bad("manifest.read", lambda: manifest.read(path("[" * 100_000)), ValueError, "file"),
    Bad("manifest.read", lambda: manifest.read(path('{"format": "other"}')), ValueError, "file"),
    Bad("manifest.read", lambda: manifest.read("/nowhere"), FileNotFoundError, "/nowhere"),
    Bad(
        "manifest.check",
        lambda: manifest.check("/nowhere", SPECS, MUP),
        FileNotFoundError,
        "/nowhere",
    ),
    Bad(
        "manifest.check",
        lambda: manifest.check(path(""), SPECS, MUP),
        ValueError,
        "line 1: It must be JSON",
    ),
    Bad("parity.compare", lambda: list(parity.compare(0)), ValueError, "`steps`"),
    Bad("parity.compare", lambda: list(parity.compare(2.5)), TypeError, "`steps`"),
    Bad("plots.coord_check_figure", lambda: plots.coord_check_figure(3), TypeError, "`check`"),
    Bad("plots.curves_figure", lambda: plots.curves_figure(3), TypeError, "`result`"),
    Bad("plots.optima_figure", lambda: plots.optima_figure(3), TypeError, "`result`"),
    Bad("plots.transfer_figure", lambda: plots.transfer_figure(None), TypeError, "`result`"),
    Bad("plots.empirical_figure", lambda: plots.empirical_figure(3), TypeError, "`report`"),
    Bad("plots.memory_figure", lambda: plots.memory_figure(3), TypeError, "`report`"),
    Bad("plots.new_figure", lambda: plots.new_figure(-1, 2), ValueError, "`width`"),
    Bad("plots.png", lambda: plots.png(3), TypeError, "`figure`"),
    Bad(
        "plots.png",
        lambda: plots.png(plots.new_figure(1, 1), dots_per_inch=0),
        ValueError,
        "`dots_per_inch`",
    ),
    Bad("plots.svg", lambda: plots.svg(3, "a", "b", {}), TypeError, "`figure`"),
    Bad("report.html", lambda: report.html(3), TypeError, "`result`"),
    Bad("report.markdown", lambda: report.markdown(None), TypeError, "`result`"),
]

CONFIG = {"widths": (8, 16), "steps": 2, "learning_rates": (0.1,), "seeds": (0,)}
TRIAL = transfer.Trial("mup", 8, 0.1, 0, 1.0)
TRANSFER = [
    Bad("transfer.quality", lambda: transfer.quality([TRIAL], cost=1.0), TypeError, "`cost`"),
    Bad("transfer.quality", lambda: transfer.quality([]), ValueError, "trial"),
    Bad("transfer.Config", lambda: transfer.Config(widths=()), ValueError, "`widths`"),
    Bad("transfer.Config", lambda: transfer.Config(widths=(8, 8)), ValueError, "`widths`"),
    Bad("transfer.Config", lambda: transfer.Config(widths=8), TypeError, "`widths`"),
    Bad("transfer.Config", lambda: transfer.Config(widths=(8, 16.5)), TypeError, "`widths`"),
    Bad(
        "transfer.Config",
        lambda: transfer.Config(learning_rates=(0.1, -0.1)),
        ValueError,
        "`learning_rates`",
    ),
    Bad(
        "transfer.Config",
        lambda: transfer.Config(learning_rates=()),
        ValueError,
        "`learning_rates`",
    ),
    Bad("transfer.Config", lambda: transfer.Config(seeds=()), ValueError, "`seeds`"),
    Bad("transfer.Config", lambda: transfer.Config(seeds=(0, 0)), ValueError, "`seeds`"),
    Bad("transfer.Config", lambda: transfer.Config(steps=0), ValueError, "`steps`"),
    Bad("transfer.Config", lambda: transfer.Config(steps=True), TypeError, "`steps`"),
    Bad("transfer.Config", lambda: transfer.Config(warmup=-1), ValueError, "`warmup`"),
    Bad("transfer.Config", lambda: transfer.Config(warmup=100, steps=10), ValueError, "`warmup`"),
    Bad("transfer.Config", lambda: transfer.Config(batch_size=0), ValueError, "`batch_size`"),
    Bad("transfer.Config", lambda: transfer.Config(depth=0), ValueError, "`depth`"),
    Bad("transfer.Config", lambda: transfer.Config(optimizer="lion"), ValueError, "`optimizer`"),
    Bad(
        "transfer.Config",
        lambda: transfer.Config(parametrizations=("mup", "mup")),
        ValueError,
        "`parametrizations`",
    ),
    Bad(
        "transfer.Config",
        lambda: transfer.Config(parametrizations=()),
        ValueError,
        "`parametrizations`",
    ),
    Bad(
        "transfer.Config",
        lambda: transfer.Config(parametrizations="mup"),
        (TypeError, ValueError),
        "`parametrizations`",
    ),
    Bad("transfer.Config", lambda: transfer.Config(search="bayes"), ValueError, "`search`"),
    Bad("transfer.Config", lambda: transfer.Config(search="random"), ValueError, "`samples`"),
    Bad(
        "transfer.Config", lambda: transfer.Config(sweep={"momentum": (0.1,)}), ValueError, "sweep"
    ),
    Bad("transfer.Config", lambda: transfer.Config(base_width=-1), ValueError, "`base_width`"),
    Bad("transfer.Task", lambda: transfer.Task(3, [(X, Y)], (X, Y)), TypeError, "make_model"),
    Bad(
        "transfer.Task",
        lambda: transfer.Task(make, [(X, Y)], (X, Y), loss_fn=3),
        TypeError,
        "`loss_fn`",
    ),
    Bad("transfer.task_of", lambda: transfer.task_of(3), TypeError, "`config`"),
    Bad(
        "transfer.task_of",
        lambda: transfer.task_of(transfer.Config(model="nowhere:model", **CONFIG)),
        (ValueError, TypeError),
        "nowhere",
    ),
    Bad("transfer.measure", lambda: transfer.measure(3), TypeError, "`config`"),
    Bad(
        "transfer.measure",
        lambda: transfer.measure(transfer.Config(**CONFIG), 3),
        TypeError,
        "`task`",
    ),
    Bad(
        "transfer.measure",
        lambda: transfer.measure(transfer.Config(**CONFIG), progress=3),
        TypeError,
        "`progress`",
    ),
    Bad("transfer.analyze", lambda: transfer.analyze([]), ValueError, "Got 0 trials"),
    Bad("transfer.analyze", lambda: transfer.analyze([3]), TypeError, "`trials`"),
    Bad(
        "transfer.analyze", lambda: transfer.analyze([TRIAL], scale="log10"), ValueError, "`scale`"
    ),
    Bad("transfer.analyze", lambda: transfer.analyze([TRIAL], over="depth"), ValueError, "depth"),
    Bad(
        "transfer.cross_entropy",
        lambda: transfer.cross_entropy(lambda x: x, (X, np.zeros(3, int))),
        ValueError,
        "(3,)",
    ),
    Bad("transfer.log2_grid", lambda: transfer.log2_grid(-300.0, 1.0), ValueError, "-120 <= low"),
    Bad("transfer.log2_grid", lambda: transfer.log2_grid(1.0, 0.5), ValueError, "low=1, high=0.5"),
    Bad(
        "transfer.log2_grid", lambda: transfer.log2_grid(0.1, 1.0, 0), ValueError, "a step above 0"
    ),
    Bad("transfer.log2_grid", lambda: transfer.log2_grid("0.1", 1.0), TypeError, "`low`"),
    Bad("transfer.read_record", lambda: transfer.read_record(path("")), ValueError, "file"),
    Bad(
        "transfer.read_record",
        lambda: transfer.read_record(path("[" * 100_000)),
        ValueError,
        "file",
    ),
    Bad(
        "transfer.read_record",
        lambda: transfer.read_record("/nowhere"),
        FileNotFoundError,
        "/nowhere",
    ),
    Bad("transfer.write_record", lambda: transfer.write_record(3, path("")), TypeError, "`result`"),
    Bad("transfer.to_record", lambda: transfer.to_record(3), TypeError, "`result`"),
    Bad("transfer.training_curves", lambda: transfer.training_curves([3]), TypeError, "`trials`"),
    Bad(
        "transfer.transferred_curves",
        lambda: transfer.transferred_curves(3, [TRIAL]),
        TypeError,
        "`analysis`",
    ),
    Bad(
        "transfer.write_atomically",
        lambda: transfer.write_atomically("/nowhere/x", b""),
        FileNotFoundError,
        "/nowhere",
    ),
]

DENSE = nnx.Linear(8, 4, rngs=rngs())
CALIBRATE = partial(empirical.calibrate, DENSE, X)
EMPIRICAL = [
    Bad("empirical.calibrate", lambda: empirical.calibrate(3, X, squares), TypeError, "model"),
    Bad("empirical.calibrate", lambda: CALIBRATE(3), TypeError, "loss_fn"),
    Bad(
        "empirical.calibrate",
        lambda: CALIBRATE(squares, gradients="real"),
        ValueError,
        "`gradients`",
    ),
    Bad(
        "empirical.calibrate",
        lambda: CALIBRATE(squares, optimizer="lion"),
        ValueError,
        "`optimizer`",
    ),
    Bad(
        "empirical.calibrate",
        lambda: CALIBRATE(squares, num_examples=0),
        ValueError,
        "`num_examples`",
    ),
    Bad(
        "empirical.calibrate",
        lambda: CALIBRATE(squares, modules=["nothing"]),
        ValueError,
        "nothing",
    ),
    Bad(
        "empirical.calibrate", lambda: CALIBRATE(squares, key=0), TypeError, "a key of `jax.random`"
    ),
    Bad("empirical.calibrate", lambda: CALIBRATE(squares, redraw="no"), TypeError, "`redraw`"),
    Bad("empirical.statistics", lambda: empirical.statistics(3, X, squares), TypeError, "model"),
    Bad(
        "empirical.statistics",
        lambda: empirical.statistics(DENSE, NAN * X, squares),
        ValueError,
        "finite",
    ),
    Bad(
        "empirical.statistics",
        lambda: empirical.statistics(DENSE, X, squares, modules=["nothing"]),
        ValueError,
        "nothing",
    ),
    Bad("empirical.wrap", lambda: empirical.wrap(3, X), TypeError, "model"),
    Bad(
        "empirical.wrap",
        lambda: empirical.wrap(DENSE, X, modules=["nothing"]),
        ValueError,
        "nothing",
    ),
    Bad(
        "empirical.report",
        lambda: empirical.report(DENSE, 3, X, squares),
        TypeError,
        "variables of type int",
    ),
    Bad("empirical.learning_rates", lambda: empirical.learning_rates(3), TypeError, "model"),
    Bad("empirical.absorb_scales", lambda: empirical.absorb_scales(3), TypeError, "model"),
    Bad("empirical.absorb_scales", lambda: empirical.absorb_scales(DENSE), ValueError, "calibrat"),
    Bad("empirical.apply", lambda: empirical.apply(3, {}, X), TypeError, "module"),
    Bad(
        "empirical.calibrate_exponents",
        lambda: empirical.calibrate_exponents(make, [8], X, squares),
        ValueError,
        "sizes",
    ),
    Bad(
        "empirical.calibrate_exponents",
        lambda: empirical.calibrate_exponents(make, [8, 16], X, squares, seeds=1),
        ValueError,
        "`seeds`",
    ),
]


def nnx_layer(name: str, *sizes: Any, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(layers, name)(*sizes, **{"rngs": rngs()} | options)


def stack_of_two() -> layers.Stack:
    return layers.Stack(lambda r: layers.Linear(2, 2, rngs=r), 2, rngs=rngs())


def linen_layer(name: str, *sizes: Any, **options: Any) -> Callable[[], Any]:
    return lambda: init(getattr(linen, name)(*sizes, **options), jnp.ones((2, 8)))


def block(x: Any) -> Any:
    return x


LAYERS = [
    Bad("nnx.Linear", nnx_layer("Linear", 8, 4, base_in_features=0), ValueError, "base"),
    Bad("nnx.Linear", nnx_layer("Linear", 8, 4, base_in_features=2.0), TypeError, "base"),
    Bad(
        "nnx.Linear",
        nnx_layer("Linear", 8, 4, param_dtype=int),
        (TypeError, ValueError),
        "param_dtype",
    ),
    Bad(
        "nnx.Linear", nnx_layer("Linear", 8, 4, parametrization="muP"), ValueError, "must be one of"
    ),
    Bad("nnx.Linear", nnx_layer("Linear", 8, 4, lr_scale=0.0), ValueError, "`lr_scale`"),
    Bad("nnx.Linear", nnx_layer("Linear", 8, 4, depth_ratio=-1), ValueError, "`depth_ratio`"),
    Bad("nnx.Linear", nnx_layer("Linear", 8, 4, init_std=NAN), ValueError, "`init_std`"),
    Bad(
        "nnx.LinearGeneral",
        nnx_layer("LinearGeneral", (8,), (4,), base_in_features=(2, 2)),
        ValueError,
        "base",
    ),
    Bad(
        "nnx.Einsum",
        nnx_layer("Einsum", "ab,bc->ac", (8, 4), base_shape=(2,)),
        (TypeError, ValueError),
        "base",
    ),
    Bad("nnx.Conv", nnx_layer("Conv", 8, 4, (3,), base_in_features=-2), ValueError, "base"),
    Bad(
        "nnx.ConvTranspose",
        nnx_layer("ConvTranspose", 8, 4, (3,), base_in_features="2"),
        TypeError,
        "base",
    ),
    Bad("nnx.Embed", nnx_layer("Embed", 8, 4, base_features=0), ValueError, "base"),
    Bad("nnx.BatchNorm", nnx_layer("BatchNorm", 8, base_num_features=0), ValueError, "base"),
    Bad("nnx.LayerNorm", nnx_layer("LayerNorm", 8, base_num_features=2.5), TypeError, "base"),
    Bad("nnx.RMSNorm", nnx_layer("RMSNorm", 8, base_num_features=True), TypeError, "base"),
    Bad(
        "nnx.GroupNorm",
        nnx_layer("GroupNorm", 8, num_groups=2, base_num_features=0),
        ValueError,
        "base",
    ),
    Bad("nnx.LSTMCell", nnx_layer("LSTMCell", 8, 8, base_in_features=0), ValueError, "base"),
    Bad("nnx.GRUCell", nnx_layer("GRUCell", 8, 8, base_in_features=0), ValueError, "base"),
    Bad("nnx.SimpleCell", nnx_layer("SimpleCell", 8, 8, base_in_features=0), ValueError, "base"),
    Bad("nnx.LoRA", nnx_layer("LoRA", 8, 2, 4, base_in_features=0), ValueError, "base"),
    Bad(
        "nnx.MultiHeadAttention",
        nnx_layer("MultiHeadAttention", 2, 8, base_num_heads=0),
        ValueError,
        "base",
    ),
    Bad("nnx.MultiHeadAttention", nnx_layer("MultiHeadAttention", 3, 8), ValueError, "heads"),
    Bad("nnx.GatedMLP", nnx_layer("GatedMLP", 8, 16, base_in_features=0), ValueError, "base"),
    Bad("nnx.MixtureOfExperts", nnx_layer("MixtureOfExperts", 8, 16, 4, 5), ValueError, "top_k"),
    Bad(
        "nnx.MixtureOfExperts",
        nnx_layer("MixtureOfExperts", 8, 16, 0, 1),
        ValueError,
        "num_experts",
    ),
    Bad("nnx.Residual", lambda: layers.Residual(3), TypeError, "block"),
    Bad(
        "nnx.Residual", lambda: layers.Residual(block, depth_ratio=0.0), ValueError, "`depth_ratio`"
    ),
    Bad(
        "nnx.Stack",
        lambda: layers.Stack(lambda r: nnx.Linear(8, 8, rngs=r), 0, rngs=rngs()),
        ValueError,
        "num_blocks",
    ),
    Bad("nnx.Stack", lambda: layers.Stack(3, 2, rngs=rngs()), TypeError, "make_block"),
    Bad("nnx.Stack", lambda: stack_of_two()[2], IndexError, "one of 2 blocks. Got 2"),
    Bad("nnx.Stack", lambda: stack_of_two()[-3], IndexError, "one of 2 blocks. Got -3"),
    Bad("nnx.Stack", lambda: stack_of_two()[0:1], TypeError, "slice"),
    Bad(
        "nnx.MultiHeadAttention",
        nnx_layer("MultiHeadAttention", 2, 8, init_std=0.0),
        ValueError,
        "`init_std`",
    ),
    Bad(
        "nnx.MultiHeadAttention",
        nnx_layer("MultiHeadAttention", 2, 8, init_std=0.1, kernel_init=nnx.initializers.ones),
        ValueError,
        "`init_std` and `kernel_init` both",
    ),
    Bad("nnx.specs", lambda: layers.specs(3), TypeError, "model"),
    Bad("nnx.specs", lambda: layers.specs(DENSE), ValueError, "Every parameter needs a ParamSpec"),
    Bad("nnx.specs", lambda: layers.specs(linear(), given={"nothing": W}), ValueError, "nothing"),
    Bad("nnx.regauged", lambda: layers.regauged(linear(), "mup"), TypeError, "`parametrization`"),
    Bad("nnx.regauged", lambda: layers.regauged(3, MUP), TypeError, "model"),
    Bad("nnx.trace_multipliers", lambda: layers.trace_multipliers(3), TypeError, "model"),
    Bad("linen.Dense", linen_layer("Dense", 4, base_in_features=0), ValueError, "base"),
    Bad(
        "linen.Dense",
        linen_layer("Dense", 4, param_dtype=int),
        (TypeError, ValueError),
        "param_dtype",
    ),
    Bad(
        "linen.Dense", linen_layer("Dense", 4, parametrization="muP"), ValueError, "must be one of"
    ),
    Bad(
        "linen.DenseGeneral",
        linen_layer("DenseGeneral", (4,), base_in_features=(2, 2)),
        ValueError,
        "base",
    ),
    Bad(
        "linen.Einsum",
        linen_layer("Einsum", (8, 4), "ab,bc->ac", base_shape=(2,)),
        (TypeError, ValueError),
        "base",
    ),
    Bad("linen.Conv", linen_layer("Conv", 4, (3,), base_in_features=0), ValueError, "base"),
    Bad(
        "linen.ConvTranspose",
        linen_layer("ConvTranspose", 4, (3,), base_in_features=0),
        ValueError,
        "base",
    ),
    Bad(
        "linen.Embed",
        lambda: init(linen.Embed(8, 4, base_features=0), jnp.ones(2, int)),
        ValueError,
        "base",
    ),
    Bad(
        "linen.BatchNorm",
        linen_layer("BatchNorm", use_running_average=True, base_features=0),
        ValueError,
        "base",
    ),
    Bad("linen.LayerNorm", linen_layer("LayerNorm", base_features=0), ValueError, "base"),
    Bad("linen.RMSNorm", linen_layer("RMSNorm", base_features=0), ValueError, "base"),
    Bad("linen.GroupNorm", linen_layer("GroupNorm", 2, base_features=0), ValueError, "base"),
    Bad(
        "linen.LSTMCell",
        lambda: init(
            linen.LSTMCell(8, base_in_features=0), (jnp.ones((2, 8)),) * 2, jnp.ones((2, 8))
        ),
        ValueError,
        "base",
    ),
    Bad(
        "linen.GRUCell",
        lambda: init(linen.GRUCell(8, base_in_features=0), jnp.ones((2, 8)), jnp.ones((2, 8))),
        ValueError,
        "base",
    ),
    Bad(
        "linen.SimpleCell",
        lambda: init(linen.SimpleCell(8, base_in_features=0), jnp.ones((2, 8)), jnp.ones((2, 8))),
        ValueError,
        "base",
    ),
    Bad("linen.GatedMLP", linen_layer("GatedMLP", 16, base_in_features=0), ValueError, "base"),
    Bad("linen.MixtureOfExperts", linen_layer("MixtureOfExperts", 16, 4, 5), ValueError, "top_k"),
    Bad(
        "linen.MultiHeadDotProductAttention",
        lambda: init(linen.MultiHeadDotProductAttention(2, base_num_heads=0), jnp.ones((2, 3, 8))),
        ValueError,
        "base",
    ),
    Bad("linen.Residual", lambda: init(linen.Residual(3), X), TypeError, "block"),
    Bad(
        "linen.Residual",
        lambda: init(linen.Residual(block, depth_ratio=0.0), X),
        ValueError,
        "`depth_ratio`",
    ),
    Bad("linen.specs", lambda: linen.specs(3, X), TypeError, "module"),
    Bad(
        "linen.specs",
        lambda: linen.specs(nn.Dense(4), X),
        ValueError,
        "Every parameter needs a ParamSpec",
    ),
    Bad("linen.multipliers", lambda: linen.multipliers(3, X), TypeError, "module"),
    Bad(
        "models.MLP",
        lambda: models.MLP(8, 4, width=0, depth=2, base_width=8, rngs=rngs()),
        ValueError,
        "`width`",
    ),
    Bad(
        "models.MLP",
        lambda: models.MLP(8, 4, width=8, depth=0, base_width=8, rngs=rngs()),
        ValueError,
        "`depth`",
    ),
    Bad(
        "models.CNN",
        lambda: models.CNN(3, 4, width=8, num_stages=0, base_width=8, rngs=rngs()),
        ValueError,
        "`num_stages`",
    ),
    Bad(
        "models.CNN",
        lambda: models.CNN(3, 4, width=6, num_stages=1, base_width=8, rngs=rngs()),
        ValueError,
        "num_groups",
    ),
    Bad(
        "models.GPT",
        lambda: models.GPT(8, width=9, num_layers=1, num_heads=2, base_width=8, rngs=rngs()),
        ValueError,
        "num_heads",
    ),
    Bad(
        "models.GPT",
        lambda: models.GPT(8, width=8, num_layers=0, num_heads=2, base_width=8, rngs=rngs()),
        ValueError,
        "`num_layers`",
    ),
    Bad(
        "models.GPT",
        lambda: models.GPT(
            8, width=8, num_layers=1, num_heads=2, base_width=8, positions="none", rngs=rngs()
        ),
        ValueError,
        "`positions`",
    ),
    Bad(
        "models.GPT",
        lambda: models.GPT(
            8, width=8, num_layers=1, num_heads=2, base_width=8, positions="learned", rngs=rngs()
        ),
        ValueError,
        "`context`",
    ),
    *(
        Bad(
            "models.GPT",
            lambda bad=bad: models.GPT(
                8, width=8, num_layers=1, num_heads=2, base_width=8, rngs=rngs(), **bad
            ),
            ValueError,
            f"`{name}`",
        )
        for bad in ({"init_std": -0.1}, {"logit_scale": 0.0}, {"logit_scale": float("nan")})
        for name in bad
    ),
]

BAD = [*CORE, *OPTIM, *GAUGE, *FUSED, *BRIDGE, *TOOLS, *TRANSFER, *EMPIRICAL, *LAYERS]
