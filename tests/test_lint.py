"""Lint: what is right has no finding, and every seeded mistake has the one that names it."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import cases, named

import jaxmup
from jaxmup import Axis, Family, Finding, ParamSpec, lint, resolve
from jaxmup._power import Power
from jaxmup._spec import Applied
from jaxmup.optim import (
    adam,
    adamw,
    amsgrad,
    clip_by_global_norm,
    scale_gradients,
    scale_updates,
    sgd,
)

# A block with two widths: d grows from 16 to 64, d_ff from 32 to 96.
IN, OUT = Axis("input", 64, base=16), Axis("output", 64, base=16)
FF_IN, FF_OUT = Axis("input", 96, base=32), Axis("output", 96, base=32)
SPECS: dict[str, ParamSpec] = {
    "embed": ParamSpec((Axis("input", 50), OUT), init_std=0.5),
    "up/kernel": ParamSpec((IN, FF_OUT), init_std=0.25),
    "up/bias": ParamSpec((FF_OUT,)),
    "down": ParamSpec((FF_IN, OUT), init_std=0.2, lr_scale=2.0),
    "square": ParamSpec((IN, OUT), init_std=0.25),
    "scale": ParamSpec((OUT,)),
    "readout": ParamSpec((IN, Axis("output", 10)), init_std=0.25),
    "temperature": ParamSpec(()),
}
HIDDEN = ("down", "square", "up/kernel")
WARM_UP = optax.warmup_cosine_decay_schedule(0.0, 0.03, 100, 1000)
GAUGES = ["table3", "table8", "table9", "tp4b", "unit", "cellarium"]
DECAYS: list[dict[str, Any]] = [
    {"weight_decay_mode": "decoupled", "weight_decay": 0.1},
    {"weight_decay_mode": "coupled", "weight_decay": 0.1},
    {"weight_decay_mode": "independent", "weight_decay": 0.03, "peak_learning_rate": 0.03},
    {"weight_decay_mode": "absolute", "weight_decay": 0.03},
]
BIASES_REST = {path: len(spec.axes) > 1 for path, spec in SPECS.items()}


def rule(words: str) -> jaxmup.Parametrization:
    """The parametrization of `"family gauge"`."""
    family, gauge = words.split()
    return named(f"cellarium {family}" if gauge == "cellarium" else f"mup {family} {gauge}")


def between(direction: Any, *after: Any) -> Callable[[Any], Any]:
    """A chain with `direction` between the library's two factors, and `after` behind them."""
    rate = optax.scale_by_learning_rate(WARM_UP)
    return lambda s: optax.chain(scale_gradients(s), direction, scale_updates(s), *after, rate)


def clipped(scalings: Any) -> Any:
    """A clip that transfers, before Adam."""
    return optax.chain(clip_by_global_norm(1.0, scalings), adam(0.03, scalings))


def labelled(scalings: Any) -> Any:
    """The embedding is frozen by partition."""
    labels = {path: "frozen" if path == "embed" else "trained" for path in scalings}
    return optax.partition(
        {"trained": adamw(0.03, scalings), "frozen": optax.set_to_zero()}, labels
    )


def injected(scalings: Any) -> Any:
    return optax.inject_hyperparams(lambda learning_rate: adamw(learning_rate, scalings))(
        learning_rate=WARM_UP
    )


CORRECT: dict[str, tuple[Any, ...]] = {
    **{f"adamw, {g}": (f"adam {g}", lambda s: adamw(WARM_UP, s, weight_decay=0.1)) for g in GAUGES},
    **{f"sgd, {g}": (f"sgd {g}", lambda s: sgd(0.1, s, weight_decay=0.1)) for g in GAUGES},
    **{f"clip, {g}": (f"adam {g}", clipped) for g in GAUGES},
    **{
        f"adamw, {kwargs['weight_decay_mode']}": (
            "adam unit",
            lambda s, kwargs=kwargs: adamw(WARM_UP, s, **kwargs),
        )
        for kwargs in DECAYS
    },
    **{
        f"momentum, {kwargs['weight_decay_mode']}": (
            "sgd table8",
            lambda s, kwargs=kwargs: sgd(WARM_UP, s, momentum=0.9, nesterov=True, **kwargs),
        )
        for kwargs in DECAYS
    },
    "a large eps": ("adam table8", lambda s: adam(0.03, s, eps=0.01)),
    "eps inside the root": ("adam table3", lambda s: adam(0.03, s, eps=0.0, eps_root=1e-8)),
    "no eps, with decay": ("adam table9", lambda s: adamw(0.03, s, eps=0.0, weight_decay=0.1)),
    "amsgrad": ("adam table8", lambda s: amsgrad(0.03, s, convention="optax")),
    "bfloat16 moments": ("adam table8", lambda s: adam(0.03, s, mu_dtype=jnp.bfloat16)),
    "a mask": ("adam table8", lambda s: adamw(0.03, s, weight_decay=0.1, mask=BIASES_REST)),
    "frozen": ("adam table8", labelled),
    "inject_hyperparams": ("adam table8", injected),
    "MultiSteps": ("adam table8", lambda s: optax.MultiSteps(adamw(0.03, s), 3)),
    "MultiSteps of SGD": ("sgd table3", lambda s: optax.MultiSteps(sgd(0.03, s), 3)),
    "apply_if_finite": ("adam table8", lambda s: optax.apply_if_finite(adam(0.03, s), 3)),
    "centralized": ("adam table8", lambda s: optax.chain(optax.centralize(), adam(0.03, s))),
    "stock Adam in tp4b": ("adam tp4b", between(optax.scale_by_adam(eps=0.01))),
    "stock RAdam in tp4b": ("adam tp4b", between(optax.scale_by_radam())),
    "stock Yogi in tp4b": ("adam tp4b", between(optax.scale_by_yogi())),
    "stock Adagrad in tp4b": ("adam tp4b", between(optax.scale_by_rss())),
    "stock AdamW in cellarium": ("adam cellarium", between(optax.adamw(-1.0, weight_decay=0.1))),
    "Lion": ("adam table8", between(optax.scale_by_lion())),
    "decay after the factor": (
        "adam tp4b",
        between(optax.scale_by_adam(), optax.add_decayed_weights(0.1)),
    ),
    "clip of entries in tp4b": (
        "adam tp4b",
        between(optax.chain(optax.clip(1.0), optax.scale_by_adam())),
    ),
    "stock clip in table9": (
        "adam table9",
        lambda s: optax.chain(optax.clip_by_global_norm(1.0), adam(0.03, s)),
    ),
    "LAMB": (
        "lamb tp4b",
        between(optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio())),
    ),
    "standard": ("adam standard", lambda s: adam(0.03, s)),
}


@pytest.mark.parametrize(("words", "make"), cases(CORRECT))
def test_what_is_right_has_no_finding(words, make):
    parametrization = named("standard adam") if words == "adam standard" else rule(words)
    assert lint(SPECS, parametrization, tx=make(resolve(SPECS, parametrization))) == []


def without(path: str, kind: str) -> dict[str, Any]:
    """Specs in which the axes of this kind of a parameter were forgotten."""
    axes = (
        dataclasses.replace(axis, base=None) if axis.kind == kind else axis
        for axis in SPECS[path].axes
    )
    return {"specs": SPECS | {path: dataclasses.replace(SPECS[path], axes=tuple(axes))}}


def all_bases(base: Callable[[Axis], int | None]) -> dict[str, Any]:
    """Specs in which each axis that grows has another base."""
    specs = {
        path: dataclasses.replace(
            spec,
            axes=tuple(
                dataclasses.replace(axis, base=base(axis)) if axis.grows else axis
                for axis in spec.axes
            ),
        )
        for path, spec in SPECS.items()
    }
    return {"specs": specs}


def forgotten_d_ff() -> dict[str, Any]:
    specs = SPECS | {
        "up/kernel": ParamSpec((IN, Axis("output", 96)), init_std=0.25),
        "up/bias": ParamSpec((Axis("output", 96),)),
        "down": ParamSpec((Axis("input", 96), OUT), init_std=0.2),
    }
    return {"specs": specs, "base": shapes({p: s.base_shape for p, s in SPECS.items()})}


def shapes(by_path: dict[str, tuple[int, ...]]) -> Any:
    return {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in by_path.items()}


def wrong_base(**base: Any) -> dict[str, Any]:
    square = ParamSpec((Axis("input", 64, base=32), OUT), init_std=0.25)
    return {"specs": SPECS | {"square": square}, **base}


def layers_of_another_gauge() -> dict[str, Any]:
    model = nnx.eval_shape(
        lambda: jaxmup.models.MLP(
            8,
            10,
            width=64,
            depth=2,
            base_width=16,
            parametrization=named("mup adam table3"),
            rngs=nnx.Rngs(0),
        )
    )
    return {"specs": jaxmup.nnx.specs(model)}


def drawn(stds: Callable[[str, ParamSpec], float], **more: Any) -> dict[str, Any]:
    """Parameters with these standard deviations."""
    random = np.random.default_rng(0)
    params = {p: stds(p, s) * random.normal(size=s.shape) for p, s in SPECS.items()}
    return {"params": params, **more}


def right_std(path: str, spec: ParamSpec) -> float:
    # Table 8: hidden matrices by 1/sqrt(r_in), all others as at base width; up tapers from 4 to 3
    return {"up/kernel": 0.25 * math.sqrt(1 / 4 * 3 / 4), "down": 0.2 / math.sqrt(3)}.get(
        path, 0.125 if path == "square" else spec.init_std or 1.0
    )


def but(path: str, std: float) -> Callable[[str, ParamSpec], float]:
    return lambda p, spec: std if p == path else right_std(p, spec)


def chain(words: str, make: Callable[[Any], Any], asked: str | None = None) -> dict[str, Any]:
    """A chain made from the scalings of `words`, where those of `asked` are meant."""
    return {
        "parametrization": rule(asked or words),
        "tx": make(resolve(SPECS, rule(words))),
    }


def dropped(path: str, scalings: Any) -> Any:
    return {**scalings, path: dataclasses.replace(scalings[path], lr=1.0)}


def own_rate(scalings: Any) -> Any:
    labels = {path: "readout" if path == "readout" else "rest" for path in scalings}
    rates = {"rest": optax.identity(), "readout": optax.scale(0.1)}
    return optax.chain(adam(0.03, scalings), optax.partition(rates, labels))


MUTATIONS: dict[str, tuple[Any, ...]] = {
    # specs
    "a hidden matrix marked as output": (without("square", "output"), "undeclared-axis", "square"),
    "a hidden matrix marked as input": (without("square", "input"), "undeclared-axis", "square"),
    "the readout forgotten": (without("readout", "input"), "readout", "readout"),
    "a bias forgotten": (without("up/bias", "output"), "undeclared-axis", "up/bias"),
    "d_ff forgotten": (forgotten_d_ff(), "undeclared-axis", "down up/bias up/kernel"),
    "base equal to the target": (all_bases(lambda axis: axis.size), "no-growth", ""),
    "no base": (all_bases(lambda axis: None), "no-growth", ""),
    "one wrong base": (wrong_base(), "base-mismatch", "square"),
    "one wrong base, base model known": (
        wrong_base(base=shapes({p: s.base_shape for p, s in SPECS.items()})),
        "base-mismatch",
        "square",
    ),
    "axes exchanged": (
        {
            "specs": SPECS
            | {"up/kernel": ParamSpec((Axis("output", 64, base=16), Axis("input", 96, base=32)))}
        },
        "axis-kinds",
        "up/kernel",
    ),
    "specs of another model": (
        {"params": shapes({p: s.base_shape for p, s in SPECS.items()})},
        "shape-mismatch",
        "down embed readout scale square up/bias up/kernel",
    ),
    "a parameter without a spec": (
        {
            "params": shapes({"new": (64,), **{p: s.shape for p, s in SPECS.items()}}),
            "tx": optax.adam(0.1),
        },
        "shape-mismatch",
        "new",
    ),
    "a stock optimizer, with scalings of other models too": (
        {
            "parametrization": None,
            "scalings": resolve({"new": SPECS["scale"], **SPECS}, rule("adam table8")),
            "tx": optax.adam(0.1, eps=0.0),
        },
        "learning-rate",
        " ".join(HIDDEN),
    ),
    "layers of another gauge": (layers_of_another_gauge(), "layer-mismatch", "readout/kernel"),
    # initial values
    "an initializer at the base's scale": (drawn(but("square", 0.25)), "initial-std", "square"),
    "scaled twice": (drawn(but("down", 0.2 / 3)), "initial-std", "down"),
    "fan-in of the target in the readout": (
        drawn(but("readout", 0.125)),
        "initial-std",
        "readout",
    ),
    "a plain model not rescaled": (
        {
            "specs": {"w": ParamSpec((IN, OUT))},
            "base": {"w": 0.25 * np.random.default_rng(0).normal(size=(16, 16))},
            "params": {"w": 0.25 * np.random.default_rng(1).normal(size=(64, 64))},
        },
        "initial-std",
        "w",
    ),
    "zeros instead of ones": (
        {
            "specs": {"scale": ParamSpec((OUT,))},
            "base": {"scale": np.ones(16)},
            "params": {"scale": np.zeros(64)},
        },
        "initial-std",
        "scale",
    ),
    # scalings
    "one rule dropped": (
        {"scalings": dropped("square", resolve(SPECS, rule("adam table8")))},
        "scalings-mismatch",
        "square",
    ),
    "scalings of another family": (
        {"scalings": resolve(SPECS, rule("sgd table3")), "parametrization": rule("adam table3")},
        "scalings-mismatch",
        " ".join(sorted(SPECS)),
    ),
    "a parameter without a scaling": (
        {"scalings": {p: s for p, s in resolve(SPECS, rule("adam table8")).items() if p != "down"}},
        "scalings-mismatch",
        "down",
    ),
    # learning rates
    "a stock optimizer": (
        chain("adam tp4b", lambda s: optax.chain(scale_gradients(s), optax.adam(0.03))),
        "learning-rate",
        " ".join(HIDDEN),
    ),
    "a stock optimizer, SGD": (
        chain("sgd table3", lambda s: optax.sgd(0.03, momentum=0.9)),
        "learning-rate",
        "down embed readout scale up/bias up/kernel",
    ),
    "a stock optimizer with injected hyper-parameters": (
        chain("adam table8", lambda s: optax.inject_hyperparams(optax.adam)(WARM_UP, eps=0.0)),
        "learning-rate",
        " ".join(HIDDEN),
    ),
    "the factor twice": (
        chain("adam table8", lambda s: optax.chain(adam(0.03, s), scale_updates(s))),
        "learning-rate",
        " ".join(HIDDEN),
    ),
    "the factor of one parameter dropped": (
        chain("adam table8", lambda s: adam(0.03, dropped("square", s))),
        "learning-rate",
        "square",
    ),
    "absolute rates behind the factor": (
        chain(
            "adam table8",
            lambda s: optax.chain(adam(1.0, s), optax.scale_by_sign(), optax.scale(0.03)),
        ),
        "learning-rate",
        " ".join(HIDDEN),
    ),
    "a rate of its own for one parameter": (
        chain("adam table8", own_rate),
        "learning-rate",
        "readout",
    ),
    "the chain of another gauge": (
        chain("adam table3", lambda s: adam(0.03, s), asked="adam table8"),
        "learning-rate",
        "readout",
    ),
    "SGD with the scalings of Adam": (
        chain("adam table8", lambda s: optax.chain(optax.sgd(0.03), scale_updates(s))),
        "family-mismatch",
        "",
    ),
    "Adam with the scalings of SGD": (
        chain("sgd table8", lambda s: optax.chain(optax.adam(0.03), scale_updates(s))),
        "family-mismatch",
        "",
    ),
    "LAMB with the scalings of Adam": (
        chain(
            "adam tp4b",
            between(optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio())),
        ),
        "family-mismatch",
        "",
    ),
    # eps and clips
    "eps not scaled": (chain("adam table8", between(optax.scale_by_adam())), "eps", ""),
    "gradients not scaled": (
        chain("adam tp4b", lambda s: optax.chain(optax.adam(0.03), scale_updates(s))),
        "eps",
        "",
    ),
    "one clip of entries": (
        chain("sgd table8", lambda s: optax.chain(optax.clip(1.0), sgd(0.03, s))),
        "entry-clip",
        "",
    ),
    "one clip of entries, where layers have one norm but not one size": (
        chain("sgd table9", lambda s: optax.chain(optax.clip(1.0), sgd(0.03, s))),
        "entry-clip",
        "",
    ),
    "a stock clip by global norm": (
        chain("adam table8", lambda s: optax.chain(optax.clip_by_global_norm(1.0), adam(0.03, s))),
        "global-clip",
        "",
    ),
    "a stock clip by global norm of two parameters": (
        {
            "specs": {path: SPECS[path] for path in ("square", "readout")},
            "tx": optax.chain(
                optax.clip_by_global_norm(1.0),
                adam(
                    0.03,
                    {p: resolve(SPECS, rule("adam table8"))[p] for p in ("square", "readout")},
                ),
            ),
        },
        "global-clip",
        "",
    ),
    "a stock clip by global norm, SGD": (
        chain("sgd table3", lambda s: optax.chain(optax.clip_by_global_norm(9.0), sgd(WARM_UP, s))),
        "global-clip",
        "",
    ),
    # weight decay
    "decay inside the factor": (
        chain("adam tp4b", between(optax.adamw(-1.0, weight_decay=0.1))),
        "weight-decay",
        " ".join(HIDDEN),
    ),
    "decay before Adam": (
        chain(
            "adam table8",
            lambda s: optax.chain(optax.add_decayed_weights(0.1), adam(0.03, s)),
        ),
        "weight-decay",
        "",
    ),
    "decay before SGD": (
        chain("sgd table3", lambda s: optax.chain(optax.add_decayed_weights(0.1), sgd(0.03, s))),
        "weight-decay",
        "down embed readout scale up/bias up/kernel",
    ),
    "decay behind the learning rate": (
        chain("adam table8", lambda s: optax.chain(adam(0.03, s), optax.add_decayed_weights(0.1))),
        "weight-decay",
        " ".join(sorted(SPECS)),
    ),
    # what raises an error in training
    "a mask of another model": (
        chain("adam table8", lambda s: adamw(0.03, s, mask={"elsewhere": True})),
        "optimizer-error",
        "",
    ),
    "a chain made for another model": (
        {"tx": adam(0.03, resolve({"other": SPECS["square"]}, rule("adam table8")))},
        "optimizer-error",
        "",
    ),
}


@pytest.mark.parametrize(("mutation", "name", "where"), cases(MUTATIONS))
def test_every_mutation_has_the_finding_that_names_it(mutation, name, where):
    setup = {"specs": SPECS, "parametrization": rule("adam table8"), **mutation}
    findings = lint(setup.pop("specs"), setup.pop("parametrization"), **setup)
    skipped = [finding for finding in findings if finding.check == "not-checked"]
    if name in ("shape-mismatch", "layer-mismatch", "scalings-mismatch"):
        # Where a parameter has no scaling of its own, a chain cannot be tried, and that is said.
        findings = [finding for finding in findings if finding not in skipped]
        assert bool(skipped) == ("tx" in mutation)
    assert {finding.check for finding in findings} == {name}
    assert sorted(path for finding in findings for path in finding.where) == where.split()
    assert all(finding.what and finding.why and finding.mend for finding in findings)


def test_nothing_is_found_in_fresh_parameters_of_the_right_size():
    base = {path: np.ones(spec.base_shape) for path, spec in SPECS.items() if not spec.init_std}
    assert lint(SPECS, rule("adam table8"), **drawn(right_std)) == []
    ones = {p: np.ones(s.shape) for p, s in SPECS.items() if not s.init_std}
    plain = {path: SPECS[path] for path in base}
    assert lint(plain, rule("adam table8"), params=ones, base=base) == []


def test_a_model_of_nnx_as_it_is_used():
    mup = named("mup adam unit")
    model = jaxmup.models.MLP(
        8, 10, width=64, depth=2, base_width=16, parametrization=mup, rngs=nnx.Rngs(0)
    )
    specs, params = jaxmup.nnx.specs(model), nnx.state(model, nnx.Param)
    optimizer = nnx.Optimizer(model, adamw(0.01, resolve(specs, mup)), wrt=nnx.Param)
    state = optimizer.opt_state
    assert lint(specs, mup, tx=optimizer.tx, params=params, opt_state=state) == []


def test_a_model_of_linen_as_it_is_used():
    layer, inputs = jaxmup.linen.Dense(64, base_features=16), jnp.ones((1, 8))
    params = layer.init(jax.random.key(0), inputs)["params"]
    specs = jaxmup.linen.specs(layer, inputs)
    mup = named("mup sgd table8")
    assert lint(specs, mup, tx=sgd(0.01, resolve(specs, mup)), params=params) == []


def test_weights_that_have_been_trained_are_not_taken_for_initial_ones():
    trained = drawn(but("square", 5.0))["params"]
    tx = optax.sgd(0.1, momentum=0.9)  # counts no steps
    for state in (tx.init(trained), running(1e-8, 1, lambda path: 1.0)["opt_state"]):
        assert lint(SPECS, rule("adam table8"), params=trained, opt_state=state) == []


def test_a_scalar_weighs_as_much_in_a_norm_as_a_matrix():
    specs = {"a scalar": SPECS["temperature"]} | {p: SPECS[p] for p in ("readout", "scale")}
    scalings = resolve(specs, rule("adam table8"))
    assert lint(specs, rule("adam table8"), tx=clipped(scalings)) == []


def test_equal_sizes_are_a_coincidence_if_the_base_model_says_so():
    # as many positions as the target has units
    specs = SPECS | {"positions": ParamSpec((Axis("input", 64), OUT), init_std=0.02)}
    (finding,) = lint(specs)
    assert (finding.check, finding.where) == ("undeclared-axis", ("positions",))
    assert lint(specs, base=shapes({p: s.base_shape for p, s in specs.items()})) == []


def test_a_head_size_may_be_as_large_as_the_number_of_heads():
    heads, size = Axis("output", 8, base=2), Axis("output", 8)
    specs = {
        "query": ParamSpec((IN, heads, size)),
        "norm": ParamSpec((size,)),
        "scale": SPECS["scale"],
    }
    assert lint(specs) == []


def running(eps: float, steps: int, size: Callable[[str], float]) -> dict[str, Any]:
    """The state of Adam after some steps on gradients of these sizes, and its parameters."""
    scalings = resolve(SPECS, rule("adam table8"))
    params = {path: jnp.zeros(spec.shape) for path, spec in SPECS.items()}
    tx = adam(0.03, scalings, eps=eps)
    state = tx.init(params)
    gradients = {path: jnp.full(x.shape, size(path)) for path, x in params.items()}
    for _ in range(steps):
        _, state = tx.update(gradients, state, params)
    return {"params": params, "opt_state": state, "eps": eps}


# In table 8 the eps of parameters whose outputs grow by 4 is 1/4 of the base model's: 2.5e-9.
STATES: dict[str, tuple[Any, ...]] = {
    "far above": (3, lambda path: 1e-5, ""),
    "just above": (3, lambda path: 1.1e-8, ""),
    "below at one parameter": (3, lambda path: 2.4e-9 if path == "square" else 1.0, "square"),
    "just above at one parameter": (3, lambda path: 2.6e-9 if path == "square" else 1.0, ""),
    "no gradient at all": (3, lambda path: 0.0 if path == "embed" else 1.0, ""),
}


@pytest.mark.parametrize(("steps", "size", "where"), cases(STATES))
def test_eps_above_the_second_moment(steps, size, where):
    findings = lint(SPECS, rule("adam table8"), **running(1e-8, steps, size))
    assert [f.check for f in findings] == ["eps-dominates"] * bool(where)
    assert [path for finding in findings for path in finding.where] == where.split()


class Wrapped(NamedTuple):
    """The state of a transform that no table knows."""

    inner: Any


@pytest.mark.parametrize(
    ("wrap", "seen"),
    [
        (lambda state: state, True),
        (lambda state: Wrapped(state), True),
        (lambda state: (optax.MaskedState(state),), True),
        (lambda state: jaxmup.optim._reference.ReferenceGaugeState(state), True),
        # What is accumulated here are squares of steps, which no eps stands beside.
        (lambda state: optax.ScaleByAdaDeltaState(state[1].nu, state[1].nu), False),
    ],
    ids=["Adam", "unknown", "masked", "in the reference gauge", "Adadelta"],
)
def test_second_moments_are_found_where_they_stand(wrap, seen):
    found = running(1e-8, 3, lambda path: 2.4e-9 if path == "square" else 1.0)
    findings = lint(SPECS, rule("adam table8"), **{**found, "opt_state": wrap(found["opt_state"])})
    assert [f.where for f in findings] == [("square",)] * seen


def test_the_maximum_counts_in_amsgrad_and_variables_of_nnx_are_looked_into():
    mup = named("mup adam table8")
    model = jaxmup.models.MLP(8, 10, width=64, depth=1, base_width=16, rngs=nnx.Rngs(0))
    specs = jaxmup.nnx.specs(model)
    optimizer = nnx.Optimizer(model, amsgrad(0.01, resolve(specs, mup), b2=0.5), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    for size in (1.0, *[1e-12] * 60):
        gradients = jax.tree.map(lambda x, size=size: jnp.full_like(x, size), params)
        optimizer.update(model, gradients)
    assert lint(specs, mup, opt_state=optimizer.opt_state, b2=0.5) == []
    tiny = jax.tree.map(
        lambda x: 1e-30 * x if jnp.issubdtype(x.dtype, jnp.floating) else x, optimizer.opt_state
    )
    (finding,) = lint(specs, mup, opt_state=tiny, b2=0.5)
    assert (finding.check, len(finding.where)) == ("eps-dominates", 4)


def test_parameters_of_any_size_are_never_made():
    """A hidden matrix of 2^40 elements, and abstract parameters."""
    vast = ParamSpec((Axis("input", 2**20, base=64), Axis("output", 2**20, base=64)))
    specs = {"hidden": vast, "embed": ParamSpec((Axis("input", 2**17), vast.axes[1]))}
    mup = rule("adam table8")
    params = shapes({path: spec.shape for path, spec in specs.items()})
    assert lint(specs, mup, tx=adamw(0.01, resolve(specs, mup)), params=params) == []
    (finding,) = lint(specs, mup, tx=optax.adam(0.01, eps=0.0), params=params)
    assert (finding.check, finding.where) == ("learning-rate", ("hidden",))


def test_a_chain_that_cannot_be_tried_says_so():
    def only_whole(updates, state, params=None):
        del params
        if any(u.size != 4096 for u in jax.tree.leaves(updates)):
            raise ValueError("whole matrices only")
        return updates, state

    tx = optax.GradientTransformation(lambda _: optax.EmptyState(), only_whole)
    (finding,) = lint({"w": SPECS["square"]}, rule("adam table8"), tx=tx)
    assert (finding.check, "whole matrices only" in finding.what) == ("not-checked", True)
    (finding,) = lint(SPECS, rule("adam table8"), tx=optax.set_to_zero())
    assert finding.check == "not-checked"


NOT_CHECKED: dict[str, tuple[Any, ...]] = {
    "muon": (named("mup muon"), "family 'muon' depend on the shape of a matrix", HIDDEN),
    "shampoo": (named("mup shampoo"), "'shampoo' depend on the shape of a matrix", tuple(SPECS)),
    "a shape of one's own": (
        jaxmup.parametrization("mup", Family("mine", 0, 0, unit=Power(r_in=-0.5))),
        "family 'mine' depend on the shape",
        tuple(SPECS),
    ),
    "a degree of one's own": (
        jaxmup.parametrization("mup", Family("mine", 0.5, 0)),
        "family 'mine' grow as the gradient to the power of 0.5",
        tuple(SPECS),
    ),
    "two families": (
        jaxmup.parametrization("mup", Family("mine", 0, 0, hidden_only=True)),
        "several families, 'adam' and 'mine'",
        (),
    ),
}


@pytest.mark.parametrize(("parametrization", "reason", "where"), cases(NOT_CHECKED))
def test_a_chain_that_is_not_judged_is_said_not_to_be(parametrization, reason, where):
    (finding,) = lint(SPECS, parametrization, tx=optax.adam(1.0))
    assert (finding.check, sorted(finding.where)) == ("not-checked", sorted(where))
    assert reason in finding.what
    for check in ("family", "learning rates", "eps", "weight decay", "clips"):
        assert check in finding.what
    assert lint(SPECS, parametrization) == []


def test_the_chain_of_parameters_that_cannot_be_resolved_is_said_not_to_be_tried():
    other = dataclasses.replace(SPECS["square"], applied=Applied(0.5, 1.0))
    findings = lint(SPECS | {"square": other}, rule("adam table8"), tx=optax.adam(1.0))
    assert [(f.check, f.where) for f in findings] == [
        ("layer-mismatch", ("square",)),
        ("not-checked", ("square",)),
    ]


def test_a_family_of_ones_own_is_judged_as_a_known_one():
    """Its steps have one size for every entry, whatever the gradient, and no eps."""
    signs = jaxmup.parametrization("mup", Family("signs", 0, 0, eps=None), gauge="table3")
    scalings = resolve(SPECS, signs)
    right = optax.chain(optax.scale_by_sign(), scale_updates(scalings), optax.scale(-0.1))
    assert lint(SPECS, signs, tx=right) == []
    assert {f.check for f in lint(SPECS, signs, tx=optax.sign_sgd(0.1))} == {"learning-rate"}
    assert {f.check for f in lint(SPECS, signs, tx=optax.sgd(0.1))} == {"family-mismatch"}


def test_what_does_not_train_is_passed_over():
    params = drawn(right_std)["params"]
    rest: dict[str, Any] = {"step": jnp.arange(3), "act": jnp.tanh, "count": 3}
    mup = rule("adam table8")
    tx = adamw(0.01, resolve(SPECS, mup))
    assert lint(SPECS, mup, params=params | rest, tx=tx) == []


@pytest.mark.parametrize("value", [None, True, "1", -1.0, np.float32(-1), math.nan])
@pytest.mark.parametrize("name", ["eps", "b2"])
def test_numbers_are_checked(name, value):
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must be a"):
        lint(SPECS, rule("adam table8"), **{name: value})


BAD_INPUT: dict[str, tuple[Any, ...]] = {
    "arrays for specs": (({"w": np.ones(2)},), {}, TypeError, "`specs` must be a tree"),
    "a name": ((SPECS, "mup"), {}, TypeError, "`parametrization` must be a `Parametrization`"),
    "specs for scalings": ((SPECS,), {"scalings": SPECS}, TypeError, "`scalings` must be a tree"),
    "an abstract state": (
        (SPECS, rule("adam table8")),
        {"opt_state": shapes({"nu": (1,)})},
        ValueError,
        "`opt_state` must be that of a running optimizer",
    ),
    "a chain alone": ((SPECS,), {"tx": optax.adam(1.0)}, ValueError, "Pass the one that is meant"),
}


@pytest.mark.parametrize(("args", "kwargs", "error", "message"), cases(BAD_INPUT))
def test_bad_input(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        lint(*args, **kwargs)


# Mistakes that the library refuses before there is anything to lint.
REFUSED: dict[str, tuple[Any, ...]] = {
    "scalings of another family": (
        lambda: adam(0.03, resolve(SPECS, rule("sgd table3"))),
        "family 'adam'",
    ),
    "layers of another gauge": (
        lambda: resolve(layers_of_another_gauge()["specs"], rule("adam table8")),
        "same parametrization",
    ),
    "d_ff forgotten in the delta": (
        lambda: jaxmup.infer(
            lambda d, d_ff: nnx.Sequential(
                nnx.Linear(8, d, rngs=nnx.Rngs(0)),
                nnx.Linear(d, d_ff, rngs=nnx.Rngs(0)),
                nnx.Linear(d_ff, d, rngs=nnx.Rngs(0)),
                nnx.Linear(d, 10, rngs=nnx.Rngs(0)),
            ),
            base={"d": 16, "d_ff": 64},
            delta={"d": 32, "d_ff": 64},
            target={"d": 64, "d_ff": 256},
            inputs=np.ones((1, 8), np.float32),
        ),
        "layers/2/kernel",
    ),
}


@pytest.mark.parametrize(("refused", "message"), cases(REFUSED))
def test_what_the_library_refuses(refused, message):
    with pytest.raises(ValueError, match=message):
        refused()


def test_a_finding_reads_well():
    finding = Finding("eps", "One eps.", tuple("abcdef"), "Steps shrink with width.", "Scale it.")
    assert finding.text(20).splitlines() == [
        "eps: One eps.",
        "  where: a, b, c, d",
        "         and 2 more",
        "  why:   Steps",
        "         shrink with",
        "         width.",
        "  mend:  Scale it.",
    ]


# ---- updates that are rounded away


def after_one_step(dtype, lr, weights):
    """A state after one step of Adam, whose next step without a gradient is 0.67 of the first.

    The moments are then 0.9 · 0.1 / 0.19 and the root of 0.999 · 0.001 / 0.001999.
    """
    specs = {"w": ParamSpec((Axis("input", 4, base=4), Axis("output", 2)))}
    scalings = jaxmup.resolve(specs, named("mup adam"))
    params = {"w": jnp.broadcast_to(jnp.array(weights, dtype), (4, 2))}
    tx = jaxmup.optim.adam(lr, scalings)
    _, opt_state = tx.update({"w": jnp.ones((4, 2), dtype)}, tx.init(params), params)
    return specs, {"scalings": scalings, "tx": tx, "params": params, "opt_state": opt_state}


@pytest.mark.parametrize(
    ("dtype", "lr", "weights", "share"),
    [
        # Below 1, numbers of bfloat16 are 2^-8 apart, so that less than 2^-9 is rounded away.
        ("bfloat16", 2**-10, (1.0, 1.0), "100%"),
        ("bfloat16", 2**-10, (1.0, 2**-4), "50%"),
        ("bfloat16", 2**-7, (1.0, 1.0), None),
        ("float16", 2**-12, (1.0, 1.0), "100%"),
        ("float16", 2**-10, (1.0, 1.0), None),
        ("float32", 2**-10, (1.0, 1.0), None),
    ],
)
def test_updates_that_are_rounded_away_are_found(dtype, lr, weights, share):
    specs, run = after_one_step(dtype, lr, weights)
    found = [f for f in jaxmup.lint(specs, **run) if f.check == "lost-updates"]
    assert [(f.where, f"{share} of them" in f.what) for f in found] == [(("w",), True)] * bool(
        share
    )


def test_updates_are_counted_of_a_running_state_alone():
    specs, run = after_one_step("bfloat16", 2**-10, (1.0, 1.0))
    for name in ("tx", "params", "opt_state"):
        found = jaxmup.lint(specs, **{key: x for key, x in run.items() if key != name})
        assert "lost-updates" not in {f.check for f in found}
    run["opt_state"] = run["tx"].init(run["params"])
    assert "lost-updates" not in {f.check for f in jaxmup.lint(specs, **run)}
    run["opt_state"] = optax.sgd(0.1, momentum=0.9).init(run["params"])
    (finding,) = [f for f in jaxmup.lint(specs, **run) if f.check == "not-checked"]
    assert "rounds away were not counted" in finding.what
    assert finding.where == ("w",)
