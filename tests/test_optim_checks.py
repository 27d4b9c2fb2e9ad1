"""What every optimizer refuses, whatever the kind of number; and leaves without a gradient."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from helpers import cases, named, require_close

import jaxmup
from jaxmup import Axis, Family, ParamSpec, optim

OUT, IN = Axis("output", 8, base=2), Axis("input", 8, base=2)
SPECS = {"w": ParamSpec((IN, OUT)), "b": ParamSpec((OUT,))}
PARAMS = {"w": jnp.ones((8, 8)), "b": jnp.ones(8)}
ADAM, SGD, MUON = (jaxmup.resolve(SPECS, named(f"mup {name}")) for name in ("adam", "sgd", "muon"))
LION = partial(optim.from_direction, optax.scale_by_lion(), optimizer="lion")

# maker of an optimizer whose arguments all are right
MAKE: dict[str, Any] = {
    "sgd": partial(optim.sgd, scalings=SGD),
    "adam": partial(optim.adam, scalings=ADAM),
    "adamw": partial(optim.adamw, scalings=ADAM),
    "amsgrad": partial(optim.amsgrad, scalings=ADAM),
    "muon": partial(optim.muon, scalings=MUON, specs=SPECS),
    "from_direction": partial(LION, scalings=ADAM),
}
TRANSFORMS: dict[str, Any] = {
    "scale_by_adam": optim.scale_by_adam,
    "scale_by_adagrad": optim.scale_by_adagrad,
    "clip_by_global_norm": partial(optim.clip_by_global_norm, scalings=ADAM),
}

# every number of every optimizer, by its range
DECAYS = {"weight_decay": "at least 0", "peak_learning_rate": "above 0"}
OF_ADAM = {"b1": "rate", "b2": "rate", "eps": "at least 0", "eps_root": "at least 0", **DECAYS}
NUMBERS: dict[str, dict[str, str]] = {
    "sgd": {"momentum": "rate", **DECAYS},
    "adam": OF_ADAM,
    "adamw": OF_ADAM,
    "amsgrad": OF_ADAM,
    "muon": {
        **dict.fromkeys(("beta", "adam_b1", "adam_b2"), "rate"),
        **dict.fromkeys(("eps", "adam_eps_root"), "at least 0"),
        **dict.fromkeys(("adam_lr_scale", "consistent_rms"), "above 0"),
        **DECAYS,
    },
    "from_direction": DECAYS,
    "scale_by_adam": {k: v for k, v in OF_ADAM.items() if k not in DECAYS},
    "scale_by_adagrad": {"eps": "at least 0", "initial_accumulator_value": "at least 0"},
    "clip_by_global_norm": {"max_norm": "above 0"},
}
NUMBERS = {
    name: ({"learning_rate": "at least 0"} if name in MAKE else {}) | numbers
    for name, numbers in NUMBERS.items()
}
EVERY = [(name, number) for name, numbers in NUMBERS.items() for number in numbers]
# `None` means something else there
OR_NONE = ("momentum", "weight_decay", "peak_learning_rate", "consistent_rms")

KINDS = {
    "Python": float,
    "np.float32": np.float32,
    "np.array": np.array,
    "jnp": jnp.asarray,
    "bfloat16": partial(jnp.asarray, dtype=jnp.bfloat16),
    "ml_dtypes": ml_dtypes.bfloat16,
}
OUTSIDE = {
    "at least 0": [-0.5, float("nan"), float("inf"), -float("inf")],
    "above 0": [0.0, -0.5, float("nan"), float("inf")],
    "rate": [-0.5, 1.0, 2.0, float("nan")],
}
NO_NUMBER = {
    "None": None,
    "True": True,
    "np.True_": np.True_,
    "bool array": jnp.asarray(True),
    "1j": 1j,
    "complex array": jnp.asarray(0.5j),
    "str": "0.1",
    "list": [0.1],
    "rank 1": np.array([0.1]),
    "jnp rank 1": jnp.array([0.1]),
    "tuple": (0.1,),
}
# These come in trees, in which each leaf is checked.
TREES = {("scale_by_adam", "eps"), ("scale_by_adam", "eps_root"), ("scale_by_adagrad", "eps")}


def make(name: str, **arguments: Any) -> Any:
    if name in TRANSFORMS:
        return TRANSFORMS[name](**arguments)
    return MAKE[name](**{"learning_rate": 0.5} | arguments)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_number_out_of_range_is_refused_whatever_its_kind(name, number, kind):
    for value in OUTSIDE[NUMBERS[name][number]]:
        with pytest.raises(ValueError, match=f"^`{number}` must be a finite number"):
            make(name, **{number: kind(value)})


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_an_integer_beyond_every_float_is_refused(name, number):
    with pytest.raises(ValueError, match=f"^`{number}` must be a finite number"):
        make(name, **{number: 10**400})


@pytest.mark.parametrize("value", NO_NUMBER.values(), ids=NO_NUMBER)
@pytest.mark.parametrize(("name", "number"), EVERY)
def test_what_is_no_number_is_refused(name, number, value):
    if value is None and number in OR_NONE:
        return
    in_tree = (name, number) in TREES and isinstance(value, list | tuple)
    value = [*value, True] if in_tree else value
    with pytest.raises(TypeError, match=rf"^`{number}( of 1)?` must be a real number. Got "):
        make(name, **{number: value})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_number_in_range_is_taken_whatever_its_kind(name, number, kind):
    make(name, **{number: kind(0.5)})


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_traced_number_is_taken(name, number):
    def trained(value):
        tx = make(name, **{number: value})
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]

    if number != "consistent_rms":  # a static factor of each matrix
        jax.eval_shape(trained, 0.5)


@pytest.mark.parametrize("name", MAKE)
def test_a_learning_rate_may_be_zero_or_a_schedule(name):
    for rate in (0, 0.0, np.float32(0), jnp.zeros(())):
        tx = make(name, learning_rate=rate)
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    make(name, learning_rate=optax.warmup_cosine_decay_schedule(0.0, 0.5, 10, 100))


@pytest.mark.parametrize("name", MAKE)
def test_rates_of_a_schedule_that_starts_at_zero_may_be_injected(name):
    """Outside of `jit` the values of a schedule are concrete."""
    factory = optax.inject_hyperparams(
        lambda learning_rate: make(name, learning_rate=learning_rate)
    )
    tx = factory(learning_rate=optax.linear_schedule(0.0, 0.5, 2))
    state = tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(PARAMS, state, PARAMS)
    assert all(np.all(leaf < 0) for leaf in jax.tree.leaves(updates))


DTYPES = {
    "sgd": ("accumulator_dtype", {"momentum": 0.9}),
    **{name: ("mu_dtype", {}) for name in ("adam", "adamw", "amsgrad", "muon", "scale_by_adam")},
}


@pytest.mark.parametrize(("name", "argument", "more"), [(k, *v) for k, v in DTYPES.items()])
def test_a_moment_is_of_floating_point_numbers(name, argument, more):
    for dtype in (int, jnp.int8, "uint8", bool, np.dtype("int32")):
        with pytest.raises(ValueError, match=f"^`{argument}` must be a dtype of floating-point"):
            make(name, **more, **{argument: dtype})
    for dtype in (3, "floaty", object()):
        with pytest.raises(TypeError, match=f"^`{argument}` must be a dtype of floating-point"):
            make(name, **more, **{argument: dtype})
    for dtype in (None, float, jnp.bfloat16, "float32", np.dtype("float16")):
        make(name, **more, **{argument: dtype})


MASKS = {
    "number": (3, r"\(the mask\): 3"),
    "string": ("bias", r"\(the mask\): 'bias'"),
    "zero": ({"w": 0, "b": True}, "w: 0"),
    "array": ({"w": jnp.ones((8, 8), bool), "b": True}, "w: "),
    "function of numbers": (lambda params: jax.tree.map(lambda x: x.ndim, params), "b: 1"),
}


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(("mask", "message"), cases(MASKS))
def test_a_mask_is_of_booleans(name, mask, message):
    argument = "weight_decay_mask" if name == "muon" else "mask"  # as optax names them
    invariant = f"`{argument}` must be a tree of booleans"
    with pytest.raises(TypeError, match=rf"(?s){invariant}.*\n  {message}"):
        make(name, weight_decay=0.1, **{argument: mask}).init(PARAMS)
    if not callable(mask):
        with pytest.raises(TypeError, match=invariant):  # at construction, and without decay too
            make(name, weight_decay=None, **{argument: mask})


@pytest.mark.parametrize(
    "mask", [True, {"w": np.True_, "b": jnp.asarray(False)}, {"w": True, "b": False}]
)
def test_masks_that_are_taken(mask):
    tx = make("sgd", mask=mask, weight_decay=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
    assert np.all(updates["w"] < 0)


COUNTS = {"ns_steps": (0, -1), "ns_coeffs": ((1.0, np.nan, 2.0), (1.0, 2.0), ())}
NO_COUNTS = {"ns_steps": (5.0, True, "5", None), "ns_coeffs": ((1.0, "2", 2.0), (True, 1.0, 2.0))}


def test_the_iteration_of_muon():
    for argument, values in COUNTS.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^`{argument}` must be"):
                make("muon", **{argument: value})
    for argument, values in NO_COUNTS.items():
        for value in values:
            with pytest.raises(TypeError, match=f"^`{argument}` must be"):
                make("muon", **{argument: value})
    with pytest.raises(ValueError, match=r"^`preconditioning` must be one of 'frobenius', "):
        make("muon", preconditioning="none")
    rows = ((3.0, -4.0, 2.0), (3.4, -4.7, 2.0))
    make("muon", ns_steps=np.int32(3), ns_coeffs=rows)
    make("muon", ns_coeffs=np.array(rows))


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-3),
    "a schedule": lambda: optax.lion(optax.constant_schedule(1e-3)),
    "labels": lambda: optax.partition(
        {"w": optax.adamw(1e-3), "b": optax.sgd(0.1)}, {"w": "w", "b": "b"}
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_whole_optimizer_is_no_direction(optimizer):
    with pytest.raises(ValueError, match="`direction` must be what comes before the learning rate"):
        optim.from_direction(optimizer(), 0.1, ADAM, optimizer="adam")

    def inside(rate):
        return optim.from_direction(optimizer(), rate, ADAM, optimizer="adam").init(PARAMS)

    with pytest.raises(ValueError, match="`direction` must be"):
        jax.eval_shape(inside, 0.1)


DIRECTIONS = {
    "refuses small models": optax.stateless(
        lambda u, _: {"w": u["w"] @ jnp.ones((8, 8)), "b": u["b"]}
    ),
    "needs a value": optax.scale_by_backtracking_linesearch(3),
    "nothing": optax.set_to_zero(),
    "noise": optax.add_noise(1.0, 0.5, jax.random.key(0)),
    "centralize": optax.chain(optax.centralize(), optax.scale_by_sign()),
}


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_a_direction_that_cannot_be_judged_is_taken(direction):
    optim.from_direction(direction, 0.1, ADAM, optimizer="adam")


# ---- the scalings of another model

WIDER = {"w": ParamSpec((Axis("input", 16, base=2), OUT)), "b": ParamSpec((OUT,))}
OTHER_WIDTH = r"(?s)`scalings` must be those of the parameters.*differ:\n  w: \(16, 8\), \(8, 8\)"
WITH_SCALINGS = {
    **{name: (tx.func, tx.keywords, {"learning_rate": 0.5}) for name, tx in MAKE.items()},
    "from_direction": (LION, {"scalings": ADAM}, {"learning_rate": 0.5}),
    "clip_by_global_norm": (optim.clip_by_global_norm, {"scalings": ADAM}, {"max_norm": 1.0}),
    "scale_gradients": (optim.scale_gradients, {"scalings": ADAM}, {}),
    "scale_updates": (optim.scale_updates, {"scalings": ADAM}, {}),
    "in_reference_gauge": (optim.in_reference_gauge, {"scalings": ADAM}, {"tx": optax.adam(0.1)}),
}


def of_shape(name: str, specs: Any, change: Any = lambda scaling: scaling) -> Any:
    """The transform with scalings of other specs."""
    function, keywords, more = WITH_SCALINGS[name]
    family = keywords["scalings"]["w"].family.name
    scalings = jax.tree.map(change, jaxmup.resolve(specs, named(f"mup {family}")))
    keywords = keywords | {"scalings": scalings} | ({"specs": specs} if "specs" in keywords else {})
    return function(**keywords, **more)


@pytest.mark.parametrize("name", WITH_SCALINGS)
def test_scalings_of_another_width_are_refused(name):
    tx = of_shape(name, WIDER)
    with pytest.raises(ValueError, match=OTHER_WIDTH):
        tx.init(PARAMS)
    with pytest.raises(ValueError, match=OTHER_WIDTH):
        jax.eval_shape(tx.init, PARAMS)
    of_shape(name, SPECS).init(PARAMS)


@pytest.mark.parametrize("name", WITH_SCALINGS)
def test_scalings_without_a_shape_are_for_parts_of_parameters(name):
    of_shape(name, WIDER, lambda s: dataclasses.replace(s, shape=None)).init(PARAMS)


@pytest.mark.parametrize("name", WITH_SCALINGS)
def test_scalings_of_a_stack_serve_its_layers(name):
    """As `jax.vmap` and `jaxmup.fused.per_layer` show them to a transform."""
    stacked = {key: spec.with_batch_axis(0, 3) for key, spec in SPECS.items()}
    tx = of_shape(name, stacked)
    stacks = jax.tree.map(lambda x: jnp.stack([x] * 3), PARAMS)
    jax.eval_shape(tx.init, stacks)
    jax.eval_shape(jax.vmap(tx.init), stacks)
    jax.eval_shape(tx.init, jax.tree.map(lambda x: x[:2], stacks))
    with pytest.raises(ValueError, match="those of the parameters"):
        tx.init(jax.tree.map(lambda x: x[:, :4], stacks))


def test_a_family_of_the_same_name_is_another_one():
    mine, other = Family("mine", 0, 0), Family("mine", 1, 0)
    scalings = jaxmup.resolve(SPECS, jaxmup.parametrization("mup", mine))
    LION.func(optax.scale_by_lion(), 0.1, scalings, optimizer=mine).init(PARAMS)
    with pytest.raises(
        ValueError, match=r"family 'mine'. Got\n  b: Family\(name='mine', gradient_"
    ):
        optim.from_direction(optax.scale_by_lion(), 0.1, scalings, optimizer=other)


# ---- leaves without a gradient

EVERY_TX: dict[str, Any] = {
    **{
        f"{name}, {mode}": partial(MAKE[name], 0.5, weight_decay=0.1, weight_decay_mode=mode)
        for name in ("sgd", "adam", "amsgrad", "muon", "from_direction")
        for mode in ("decoupled", "independent", "absolute")
    },
    "coupled": partial(optim.adamw, 0.5, ADAM, weight_decay=0.1, weight_decay_mode="coupled"),
    "momentum": partial(optim.sgd, 0.5, SGD, momentum=0.9, nesterov=True),
    "mask": partial(optim.adamw, 0.5, ADAM, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "scale_by_adam": optim.scale_by_adam,
    "eps of leaves": partial(optim.scale_by_adam, eps={"w": 0.1, "b": 0.2}),
    "scale_by_adagrad": optim.scale_by_adagrad,
    "clip_by_global_norm": partial(optim.clip_by_global_norm, 0.1, ADAM),
    "scale_gradients": partial(optim.scale_gradients, ADAM),
    "scale_updates": partial(optim.scale_updates, ADAM),
    "in_reference_gauge": partial(optim.in_reference_gauge, optax.adamw(0.1), ADAM),
    "from lamb": lambda: optim.from_direction(
        optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
        0.5,
        jaxmup.resolve(SPECS, named("mup lamb")),
        optimizer="lamb",
    ),
}
REST: dict[str, Any] = {
    "step": jnp.arange(3),
    "flag": True,
    "count": 3,
    "act": jnp.tanh,
    "name": "mlp",
    "none": None,
    "inner": {"table": np.arange(2), "act": jax.nn.relu},
}
NO_GRADIENTS = jax.tree.map(lambda _: None, REST)


def steps(tx: Any, params: Any, gradients: Any, count: int = 2) -> Any:
    state = tx.init(params)
    for _ in range(count):
        updates, state = tx.update(gradients, state, params)
    return updates


@pytest.mark.parametrize("make", EVERY_TX.values(), ids=EVERY_TX)
def test_what_does_not_train_is_passed_over(make):
    """As in a tree of Equinox, whose integers and functions have the gradient `None`."""
    gradients = jax.tree.map(lambda x: -0.25 * x, PARAMS)
    alone = steps(make(), PARAMS, gradients)
    updates = steps(make(), {**PARAMS, **REST}, {**gradients, **NO_GRADIENTS})
    assert {name: updates.pop(name) for name in REST} == NO_GRADIENTS
    require_close(updates, alone, "update", "float32")


# Those whose every transform passes over it; the moments of optax's `scale_by_adam` and
# `scale_by_lion` do not.
OURS = {
    name: make
    for name, make in EVERY_TX.items()
    if not name.startswith(("muon", "from", "in_reference_gauge"))
}


@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_a_parameter_without_a_gradient_is_passed_over(make):
    gradients = {"w": -0.25 * PARAMS["w"], "b": None}
    updates = steps(make(), PARAMS, gradients)
    assert updates["b"] is None
    assert np.all(np.isfinite(updates["w"]))
    frozen = steps(make(), {**PARAMS, "b": None}, gradients)
    require_close(updates["w"], frozen["w"], "update", "float32")


def test_moments_of_a_leaf_without_a_gradient_stay():
    for tx in (optim.scale_by_adam(amsgrad=True), optim.scale_by_adagrad()):
        _, state = tx.update(PARAMS, tx.init(PARAMS))
        _, later = tx.update({**PARAMS, "b": None}, state)
        assert jax.tree.structure(later) == jax.tree.structure(state)
        for before, now in zip(state, later, strict=True):
            if isinstance(before, dict):
                assert np.all(before["b"] == now["b"])
                assert np.all(before["w"] != now["w"])


@pytest.mark.parametrize("make", EVERY_TX.values(), ids=EVERY_TX)
def test_a_floating_array_without_a_scaling_is_still_refused(make):
    more = {**PARAMS, "new": jnp.ones(8)}
    if make in (optim.scale_by_adam, optim.scale_by_adagrad):
        return  # they take no scalings, and one eps for all
    with pytest.raises(ValueError, match=r"without an entry:\n  new \(8,\)"):
        steps(make(), more, more)
