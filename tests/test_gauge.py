"""Running models moved to another gauge, transforms that do not depend on it, and refusals."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from helpers import TOL, cases, named, require_close
from optax import contrib

import jaxmup
from jaxmup import gauge
from jaxmup._tree import leaves_by_path

BASE, WIDTH = 16, 32
RATE = optax.cosine_decay_schedule(0.03, 40)
X = np.random.default_rng(0).normal(size=(24, 8))
Y = np.random.default_rng(1).normal(size=(24, 3))


class Mlp(nnx.Module):
    """Three layers of jaxmup, or of Flax where there is no rule."""

    def __init__(
        self,
        rule: Any,
        stored: Any = jnp.float64,
        width: int = WIDTH,
        base: int = BASE,
        **kwargs: Any,
    ):
        rngs = nnx.Rngs(0)

        def linear(n_in: int, n_out: int, **bases: int) -> nnx.Linear:
            if rule is None:
                return nnx.Linear(n_in, n_out, param_dtype=stored, rngs=rngs, **kwargs)
            layer = functools.partial(jaxmup.nnx.Linear, parametrization=rule, init_std=0.3)
            stds = {} if kwargs else {"bias_init_std": 0.3}
            return layer(n_in, n_out, param_dtype=stored, rngs=rngs, **bases, **stds, **kwargs)

        self.a = linear(8, width, base_out_features=BASE)
        self.b = linear(width, width, base_in_features=BASE, base_out_features=BASE)
        self.c = linear(width, 3, base_in_features=BASE)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.c(nnx.relu(self.b(jnp.tanh(self.a(x)))))


class LinenMlp(nn.Module):
    rule: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = functools.partial(
            jaxmup.linen.Dense,
            parametrization=self.rule,
            param_dtype=jnp.float64,
            init_std=0.3,
            bias_init_std=0.3,
        )
        x = jnp.tanh(dense(WIDTH, base_features=BASE, name="a")(x))
        x = nn.relu(dense(WIDTH, base_in_features=BASE, base_features=BASE, name="b")(x))
        return dense(3, base_in_features=BASE, name="c")(x)


def square_error(predicted: jax.Array) -> jax.Array:
    wide = jnp.promote_types(predicted.dtype, jnp.float32)
    return jnp.mean((predicted.astype(wide) - jnp.asarray(Y, wide)) ** 2)


def chain(scalings: Any, **kwargs: Any) -> Any:
    """Clipping, a schedule and weight decay, all of them at work."""
    return optax.chain(
        jaxmup.optim.clip_by_global_norm(0.5, scalings),
        jaxmup.optim.adamw(RATE, scalings, eps=0.01, weight_decay=1.0, **kwargs),
    )


class NnxRun:
    """Training of an NNX model."""

    def __init__(self, words: str, make: Any):
        self.rule, self.make = named(words), make
        self.model = Mlp(self.rule)
        self.optimizer = nnx.Optimizer(self.model, make(self.scalings()), wrt=nnx.Param)

    def scalings(self) -> Any:
        return jaxmup.resolve(jaxmup.nnx.specs(self.model), self.rule)

    def train(self, steps: int) -> None:
        @nnx.jit
        def step(model: Any, optimizer: Any) -> None:
            optimizer.update(model, nnx.grad(lambda model: square_error(model(X)))(model))

        for _ in range(steps):
            step(self.model, self.optimizer)

    def move(self, words: str, **kwargs: Any) -> None:
        old, self.rule = self.rule, named(words)
        run = gauge.regauge_run(self.model, self.optimizer.opt_state, old, self.rule, **kwargs)
        assert not run.hyperparameters
        self.model = run.params
        self.optimizer = nnx.Optimizer(self.model, self.make(self.scalings()), wrt=nnx.Param)
        self.optimizer.opt_state = run.opt_state

    def effective(self) -> dict[str, Any]:
        return leaves_by_path(gauge.fold(nnx.state(self.model, nnx.Param), self.scalings()))


class LinenRun:
    """Training of a Linen module."""

    def __init__(self, words: str, make: Any):
        self.rule, self.make = named(words), make
        self.params = LinenMlp(self.rule).init(jax.random.key(0), X)["params"]
        self.state = make(self.scalings()).init(self.params)

    def specs(self) -> Any:
        return jaxmup.linen.specs(LinenMlp(self.rule), X)

    def scalings(self) -> Any:
        return jaxmup.resolve(self.specs(), self.rule)

    def train(self, steps: int) -> None:
        module, tx = LinenMlp(self.rule), self.make(self.scalings())

        @jax.jit
        def step(params: Any, state: Any) -> Any:
            gradients = jax.grad(lambda p: square_error(module.apply({"params": p}, X)))(params)
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(steps):
            self.params, self.state = step(self.params, self.state)

    def move(self, words: str, **kwargs: Any) -> None:
        new = named(words)
        run = gauge.regauge_run(
            self.params, self.state, self.rule, new, specs=self.specs(), **kwargs
        )
        assert not run.hyperparameters
        self.rule, self.params, self.state = new, run.params, run.opt_state

    def effective(self) -> dict[str, Any]:
        return leaves_by_path(gauge.fold(self.params, self.scalings()))


def wrapped(make: Any) -> Any:
    """`make` inside transforms that hold the state of others."""

    def build(scalings: Any) -> Any:
        injected = optax.inject_hyperparams(make, static_args=("scalings",))(scalings=scalings)
        return optax.apply_if_finite(
            optax.MultiSteps(injected, 2, accumulator_dtype=jnp.float64), 3
        )

    return build


def stock(scalings: Any) -> Any:
    """An optimizer of optax between the transforms of the library."""
    return optax.chain(
        jaxmup.optim.scale_gradients(scalings),
        optax.adam(RATE, eps=0.01),
        jaxmup.optim.scale_updates(scalings),
    )


def in_reference(scalings: Any) -> Any:
    inner = chain(gauge.reference_scalings(scalings))
    return gauge.in_reference_gauge(inner, scalings)


def lion(scalings: Any) -> Any:
    return jaxmup.optim.from_direction(
        optax.scale_by_lion(), RATE, scalings, optimizer="lion", weight_decay=1.0
    )


def lamb(scalings: Any) -> Any:
    direction = optax.chain(optax.scale_by_adam(eps=0.01), optax.scale_by_trust_ratio())
    return jaxmup.optim.from_direction(direction, 0.1, scalings, optimizer="lamb")


def momentum(scalings: Any) -> Any:
    return jaxmup.optim.from_direction(optax.trace(0.9), 0.1, scalings, optimizer="momentum")


ADAM, SGD = "cellarium adam, mup adam table8, mup adam unit", "mup sgd table9, mup sgd table3"
RUNS = {
    "NNX, adamw": (NnxRun, chain, ADAM),
    "Linen, adamw": (LinenRun, chain, ADAM),
    "Linen, amsgrad": (
        LinenRun,
        lambda s: jaxmup.optim.amsgrad(RATE, s, eps=0.01, eps_root=1e-4),
        "mup adam table9, mup adam tp4b, mup adam table3",
    ),
    "Linen, momentum": (LinenRun, lambda s: jaxmup.optim.sgd(0.1, s, momentum=0.9), SGD),
    "Linen, Lion": (LinenRun, lion, ADAM),
    "Linen, LAMB": (LinenRun, lamb, "mup lamb table8, mup lamb table9, mup lamb unit"),
    "Linen, momentum as a direction": (LinenRun, momentum, SGD),
    "Linen, wrapped": (LinenRun, wrapped(lambda scalings: chain(scalings)), ADAM),
    "Linen, stock Adam": (LinenRun, stock, "cellarium adam, mup adam tp4b"),
    "Linen, in the reference gauge": (LinenRun, in_reference, ADAM),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("make_run", "make", "gauges"), cases(RUNS))
def test_a_run_continued_in_another_gauge_is_the_same_run(make_run, make, gauges):
    first, *others = gauges.split(", ")
    uninterrupted, moving = make_run(first, make), make_run(first, make)
    uninterrupted.train(8 * (1 + len(others)))
    moving.train(8)
    for other in others:
        moving.move(other)
        moving.train(8)
    require_close(moving.effective(), uninterrupted.effective(), "trajectory", "float64")


# Weights stored in an arbitrary gauge, and what cannot move there by itself.
MULTIPLIERS = {"w1": 0.07, "b1": 11.0, "w2": 3.0}


def arbitrary(multipliers: dict[str, float]) -> dict[str, jaxmup.Scaling]:
    plain = jaxmup.resolve(jaxmup.ParamSpec(()), named("mup adam table3"))
    return {n: dataclasses.replace(plain, multiplier=m, shape=None) for n, m in multipliers.items()}


def trained(tx: Any, multipliers: dict[str, float], zero: str | None = None) -> dict[str, Any]:
    """The effective weights after each of 20 steps; `zero` names one that starts at 0."""
    random = np.random.default_rng(2)
    shapes = {"w1": (8, 6), "b1": (6,), "w2": (6, 3)}
    drawn = {name: random.normal(size=shape) * (name != zero) for name, shape in shapes.items()}
    m = multipliers

    def loss(w: dict[str, jax.Array]) -> jax.Array:
        hidden = jnp.tanh(X @ (m["w1"] * w["w1"]) + (m["b1"] * w["b1"])[None])
        return square_error(hidden @ (m["w2"] * w["w2"]))

    def step(carry: Any, _: None) -> Any:
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), {name: m[name] * w[name] for name in w}

    w = {name: jnp.asarray(drawn[name] / m[name]) for name in drawn}
    return jax.lax.scan(step, (w, tx.init(w)), length=20)[1]


EXACT = {
    "clipping by global norm": (optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.3)), None),
    "LAMB, zero initialization": (optax.lamb(0.03), "w2"),
    "Adafactor, zero initialization": (
        optax.adafactor(0.1, min_dim_size_to_factor=2, dtype_momentum=jnp.float64),
        "w2",
    ),
    "RAdam from the first step": (optax.radam(0.1, eps=0.01, b2=0.9), None),
    "Lion, refined": (
        optax.chain(optax.scale_by_lion(mode="refined"), optax.scale_by_learning_rate(0.1)),
        None,
    ),
    "Prodigy": (contrib.prodigy(estim_lr0=1e-2), None),
    "DoG": (contrib.dog(1.0, ("learning_rate", 1e-2)), None),
    "schedule-free": (contrib.schedule_free_adamw(0.03), None),
    "Muon": (contrib.muon(0.1), None),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("tx", "zero"), cases(EXACT))
def test_in_the_reference_gauge_every_transform_is_exact(tx, zero):
    plain = trained(tx, dict.fromkeys(MULTIPLIERS, 1.0), zero)
    moved = trained(gauge.in_reference_gauge(tx, arbitrary(MULTIPLIERS)), MULTIPLIERS, zero)
    require_close(moved, plain, "regauged", "float64")
    without = trained(tx, MULTIPLIERS, zero)
    norm = np.linalg.norm
    difference = max(norm(without[n] - plain[n]) / norm(plain[n]) for n in plain)
    assert not difference <= TOL["negative control", "float64"].rtol


def test_in_reference_gauge_passes_extra_arguments_on_and_needs_no_parameters():
    tx = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), lambda u, s, p=None, *, value: (value * u["b"], s)
    )
    ours = gauge.in_reference_gauge(tx, arbitrary({"b": 0.5}))
    gradients = {"b": jnp.ones(1)}
    with pytest.raises(ValueError, match="must be those of the parameters"):
        ours.init({"other": jnp.ones(1)})
    with pytest.raises(TypeError, match="value"):
        ours.update(gradients, ours.init(gradients))


def radam(theta: float, rectified: float = -1.0) -> Any:
    """RAdam in the gauge θ: with b2 = 0.9 its first 5 steps are momentum's, with their exponent."""

    def rate(count: jax.Array) -> jax.Array:
        return 0.1 * jnp.where(count < 5, theta**-2, theta**rectified)

    return optax.radam(rate, b2=0.9, eps=0.01 * theta)


@pytest.mark.usefixtures("x64")
def test_radam_has_two_exponents_from_the_first_step():
    plain = trained(radam(1.0), dict.fromkeys(MULTIPLIERS, 1.0))

    def moved(rectified: float) -> dict[str, Any]:
        each = {name: radam(theta, rectified) for name, theta in MULTIPLIERS.items()}
        return trained(optax.partition(each, {name: name for name in each}), MULTIPLIERS)

    require_close(moved(-1.0), plain, "regauged", "float64")
    with pytest.raises(AssertionError):
        require_close(moved(-2.0), plain, "negative control", "float64")


def measured_norm(scalings: Any, gradients: Any) -> float:
    """The norm that decides, from what a threshold far below it leaves."""
    clipped, _ = jaxmup.optim.clip_by_global_norm(1e-3, scalings).update(
        gradients, optax.EmptyState()
    )
    left = max(
        jax.tree.leaves(jax.tree.map(lambda c, g: jnp.max(jnp.abs(c / g)), clipped, gradients))
    )
    return float(1e-3 / left)


def gradients_at(words: str, width: int) -> tuple[Any, Any]:
    """Scalings and gradients at the first step, of weights drawn as the parametrization says."""
    rule = named(words)
    model = Mlp(rule, jnp.float32, width)
    gradients = nnx.grad(lambda model: square_error(model(jnp.asarray(X, jnp.float32))))(model)
    return jaxmup.resolve(jaxmup.nnx.specs(model), rule), nnx.state(gradients)


def plain_norm(scalings: Any, gradients: Any) -> float:
    """What a stock clip measures: the norm of the gradients that the optimizer is fed."""
    scaled, _ = jaxmup.optim.scale_gradients(scalings).update(gradients, optax.EmptyState())
    return float(optax.tree.norm(scaled))


def slope(words: str, norm: Any) -> float:
    """The power of the width with which the norm grows."""
    widths = [32, 512]
    norms = [norm(*gradients_at(words, width)) for width in widths]
    return float(np.polyfit(np.log(widths), np.log(norms), 1)[0])


@pytest.mark.parametrize("words", ["mup adam table8", "mup sgd table9", "cellarium adam"])
def test_the_norm_that_is_clipped_is_the_same_at_every_width(words):
    assert abs(slope(words, measured_norm)) < 0.1


def test_a_plain_norm_grows_with_the_width():
    assert slope("cellarium adam", plain_norm) > 0.5


def test_at_base_width_clipping_is_optax_own():
    scalings, gradients = gradients_at("mup adam table8", BASE)
    ours, _ = jaxmup.optim.clip_by_global_norm(0.01, scalings).update(gradients, optax.EmptyState())
    theirs, _ = optax.clip_by_global_norm(0.01).update(gradients, optax.EmptyState())
    require_close(jax.tree.leaves(ours), jax.tree.leaves(theirs), "update", "float32")
    ours, _ = jaxmup.optim.clip_by_global_norm(1e3, scalings).update(gradients, optax.EmptyState())
    jax.tree.map(np.testing.assert_array_equal, ours, gradients)


@pytest.mark.parametrize("words", ["mup adam table8", "cellarium adam", "mup adam unit"])
def test_folded_weights_are_those_of_a_plain_model(words):
    rule = named(words)
    model = Mlp(rule, jnp.float32)
    scalings, params = jaxmup.resolve(jaxmup.nnx.specs(model), rule), nnx.state(model, nnx.Param)
    plain = Mlp(None, jnp.float32)
    folded = gauge.fold(params, scalings)
    nnx.update(plain, folded)
    require_close(plain(jnp.float32(X)), model(jnp.float32(X)), "layer", "float32")
    back = gauge.unfold(folded, scalings)
    require_close(jax.tree.leaves(back), jax.tree.leaves(params), "layer", "float32")


# Two axes that grow by 4 and 16, and what two rules ask of it differently, by hand from the tables.
HIDDEN = jaxmup.ParamSpec((jaxmup.Axis("input", 64, 16), jaxmup.Axis("output", 256, 16)))
SQUARE_HIDDEN = jaxmup.ParamSpec((jaxmup.Axis("input", 64, 16), jaxmup.Axis("output", 64, 16)))
EQUIVALENT = {
    "gauges of muP": ("mup adam table8", "mup adam table9", HIDDEN, {}),
    "with d": ("mup adam tp4b", "mup adam unit", HIDDEN, {}),
    "SGD": ("mup sgd table3", "mup sgd table9", HIDDEN, {}),
    "the compatibility table, square": ("mup adam table3", "cellarium adam", SQUARE_HIDDEN, {}),
    # Cellarium divides eps by fan_in twice over, muP by fan_in and by fan_out.
    "the compatibility table": ("mup adam table3", "cellarium adam", HIDDEN, {"eps": 4.0}),
    "standard": ("mup adam table3", "standard adam", HIDDEN, {"learning rate": 4.0, "eps": 16.0}),
    "standard, SGD": ("mup sgd table3", "standard sgd", HIDDEN, {"learning rate": 1 / 4}),
}


@pytest.mark.parametrize(("p", "q", "spec", "expected"), cases(EQUIVALENT))
def test_equivalent_names_what_differs_and_by_what_factor(p, q, spec, expected):
    found = gauge.equivalent(named(p), named(q), {"w": spec}, p.split()[1])
    assert {d.quantity: pytest.approx(d.factor, rel=1e-12) for d in found.differences} == expected
    assert bool(found) == (not expected)
    assert all(quantity in str(found) for quantity in expected)


READOUT = jaxmup.ParamSpec((jaxmup.Axis("input", 64, 16), jaxmup.Axis("output", 10)))


@pytest.mark.parametrize("family", ["sgd", "adam", "adafactor", "muon", "shampoo"])
def test_moved_scalings_are_those_of_the_other_table(family):
    """Table 8 multiplies a readout by 1/4 here, Table 9 by 1/2, Table 3 by 1."""
    table3, table8, table9, tp4b = (
        jaxmup.resolve({"w": READOUT}, named(f"mup {family} {name}"))["w"]
        for name in ("table3", "table8", "table9", "tp4b")
    )
    for moved, expected in (
        (gauge.regauge_scalings(table8, 4.0), table3),
        (gauge.regauge_scalings(table8, 2.0), table9),
        (gauge.reference_scalings(tp4b), table3),
    ):
        got, wanted = dataclasses.asdict(moved), dataclasses.asdict(expected)
        assert got.pop("family") == wanted.pop("family")
        assert got.pop("shape") == wanted.pop("shape") == (64, 10)
        assert got.pop("batch_axes") == wanted.pop("batch_axes") == ()
        assert got.pop("init_std") is wanted.pop("init_std") is None
        assert got == pytest.approx(wanted, rel=1e-15)


# Gauges far from the first, by powers of two where widths have grown by 4: a shift of a by t moves
# b by -t; d undoes it for Adam, twice t on c for SGD.
ABCD = jaxmup.ABCD
FAR = {
    "adam": {
        "input": ABCD(a=4, b=-4, c=-4, d=5),
        "hidden": ABCD(a=-4, b=4.5, c=5, d=-3),
        "output": ABCD(a=2.5, b=-1.5, c=-1.5, d=2.5),
    },
    "sgd": {
        "input": ABCD(a=4, b=-4, c=-9, d=0),
        "hidden": ABCD(a=-4, b=4.5, c=8, d=0),
        "output": ABCD(a=2.5, b=-1.5, c=-4, d=0),
    },
}
OPTIMIZERS = {
    "sgd": ("sgd", lambda s: jaxmup.optim.sgd(0.1, s, momentum=0.9)),
    "adam": ("adam", lambda s: jaxmup.optim.adam(2**-8, s, eps=1e-6)),
    "adamw": ("adam", lambda s: jaxmup.optim.adamw(2**-8, s, eps=1e-6, weight_decay=0.1)),
    "amsgrad": ("adam", lambda s: jaxmup.optim.amsgrad(2**-8, s, eps=1e-6)),
}


def final_weights(optimizer: str, dtype: Any, far: bool, as_arguments: bool) -> dict[str, Any]:
    """The effective weights after 200 steps in one gauge or the other."""
    family, make = OPTIMIZERS[optimizer]
    rule = named(f"mup {family}")
    model = Mlp(rule, jnp.float32, width=64, dtype=dtype)
    model = jaxmup.nnx.trace_multipliers(model) if as_arguments else model
    state = make(jaxmup.resolve(jaxmup.nnx.specs(model), rule)).init(nnx.state(model, nnx.Param))
    if far:
        to = jaxmup.Parametrization.from_table("far", family, FAR[family])
        run = gauge.regauge_run(model, state, rule, to)
        model, state, rule = run.params, run.opt_state, to
    scalings = jaxmup.resolve(jaxmup.nnx.specs(model), rule)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def train(params: Any, state: Any, rest: Any, arguments: Any) -> Any:
        given = gauge.from_arguments(scalings, arguments) if as_arguments else scalings
        tx = make(given)

        def loss(params: Any) -> jax.Array:
            predicted = nnx.merge(graph, params, rest)(jnp.float32(X)).astype(jnp.float32)
            return jnp.mean((predicted - jnp.float32(Y)) ** 2)

        def step(_: int, carry: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 200, step, (params, state))

    trained, _ = train(params, state, rest, gauge.as_arguments(scalings))
    return leaves_by_path(gauge.fold(trained, scalings))


BITS = [(optimizer, dtype) for optimizer in OPTIMIZERS for dtype in ("float32", "bfloat16")]


@pytest.mark.parametrize(("optimizer", "dtype"), BITS)
def test_as_arguments_powers_of_two_change_no_bit(optimizer, dtype):
    first, far = (final_weights(optimizer, dtype, far, True) for far in (False, True))
    jax.tree.map(np.testing.assert_array_equal, far, first)


@pytest.mark.parametrize(("optimizer", "dtype"), BITS)
def test_as_constants_they_change_roundings_alone(optimizer, dtype):
    first, far = (final_weights(optimizer, dtype, far, False) for far in (False, True))
    require_close(far, first, "constant gauge", dtype)


@pytest.mark.usefixtures("x64")
def test_sophia_moves_where_one_theta_serves_all():
    """Its estimate of the Hessian mixes parameters, so no other movement is exact."""
    weights = {"a": jnp.asarray(X[0]), "b": jnp.asarray(X[1])}

    def loss(weights: Any, theta: float) -> jax.Array:
        a, b = theta * weights["a"], theta * weights["b"]
        return jnp.sum(jnp.tanh(a * b) ** 2 + 0.1 * a**2 + 0.3 * (b - 1) ** 2)

    @jax.jit
    def train(weights: Any, state: Any, theta: float, hyper: dict[str, float]) -> Any:
        tx = contrib.sophia(**hyper, update_interval=3)
        objective = functools.partial(loss, theta=theta)

        def step(_: int, carry: Any) -> Any:
            weights, state = carry
            gradients = jax.grad(objective)(weights)
            updates, state = tx.update(gradients, state, weights, obj_fn=objective)
            return optax.apply_updates(weights, updates), state

        return jax.lax.fori_loop(0, 6, step, (weights, state))

    hyper = {"learning_rate": 0.1, "eps": 0.3, "gamma": 0.5, "weight_decay": 0.3}
    weights, state = train(weights, contrib.sophia(0.1).init(weights), 1.0, hyper)
    run = gauge.regauge(weights, state, 3.0, chain="sophia")
    moved = {name: value * run.hyperparameters[name] for name, value in hyper.items()}
    ours, _ = train(run.params, run.opt_state, 3.0, moved)
    expected, _ = train(weights, state, 1.0, hyper)
    require_close(jax.tree.map(lambda w: 3.0 * w, ours), expected, "regauged", "float64")
    with pytest.raises(ValueError, match="shared"):
        gauge.regauge(weights, state, {"a": 2.0, "b": 3.0})


@pytest.mark.usefixtures("x64")
def test_under_a_partition_every_branch_moves_by_its_own_rule():
    params = {"w": jnp.asarray(X), "b": jnp.asarray(X[0])}
    label = {"w": "adam", "b": "sgd"}
    theta = {"w": 3.0, "b": 5.0}
    tx = optax.partition({"adam": optax.adam(RATE), "sgd": optax.sgd(0.1, momentum=0.9)}, label)
    _, state = tx.update(params, tx.init(params), params)
    run = gauge.regauge(params, state, theta)
    adam, sgd = (run.opt_state.inner_states[name].inner_state for name in ("adam", "sgd"))
    before = state.inner_states["adam"].inner_state[0]
    np.testing.assert_allclose(adam[0].nu["w"], 9 * before.nu["w"], rtol=1e-15)
    before = state.inner_states["sgd"].inner_state[0]
    np.testing.assert_allclose(sgd[0].trace["b"], 5 * before.trace["b"], rtol=1e-15)
    assert run.hyperparameters["learning_rate"] == {"w": 1 / 3, "b": pytest.approx(1 / 25)}


def test_what_a_mask_lets_by_moves_as_it_came():
    direction = optax.masked(optax.scale_by_adam(), {"w": True, "b": False})
    params, state = state_of(optax.chain(direction, optax.trace(0.9), optax.scale(-0.1)))
    run = gauge.regauge(params, (state[0], optax.TraceState(params), state[2]), 4.0)
    np.testing.assert_array_equal(run.opt_state[1].trace["w"], 1.0)
    np.testing.assert_array_equal(run.opt_state[1].trace["b"], 4.0)
    assert run.hyperparameters["learning_rate"] == {"w": 1 / 4, "b": 1 / 16}


def state_of(tx: Any, params: Any = None) -> Any:
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(3)} if params is None else params
    return params, tx.init(params)


BOTH = {"w": 2.0, "b": 3.0}
REFUSED = {
    "unknown state": (optax.lbfgs(), BOTH, None, "ScaleByLBFGSState.*in_reference_gauge"),
    "no order": (optax.named_chain(("one", optax.adam(0.1))), BOTH, None, "itself.: a mapping"),
    "another optimizer": (optax.adam(0.1), BOTH, "rmsprop", "ScaleByAdamState"),
    "no optimizer": (optax.adam(0.1), BOTH, "adma", "Known:"),
    "an open place": (
        optax.adafactor(0.1, momentum=0.9),
        BOTH,
        None,
        "before or after 4: EmaState.*chain='adafactor'",
    ),
    "no learning rate": (optax.scale_by_adam(), BOTH, None, "Pass the state of the whole"),
    "a shared number": (
        optax.inject_hyperparams(optax.adam)(0.1),
        BOTH,
        None,
        r"hyperparams\['learning_rate'\].* by different factors",
    ),
    "an unknown hyper-parameter": (
        optax.inject_hyperparams(optax.adamw)(0.1),
        2.0,
        None,
        "'weight_decay'.*chain='adamw'",
    ),
    "a schedule": (
        optax.inject_hyperparams(optax.adam)(RATE),
        2.0,
        None,
        "scheduled hyper-parameter",
    ),
    "a global norm": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        BOTH,
        ("clip_by_global_norm", "sgd"),
        "shared by parameters",
    ),
    "a missing theta": (optax.sgd(0.1), {"w": 2.0}, None, "without an entry:\n  b"),
    "no theta": (optax.sgd(0.1), 0.0, None, "finite number above 0"),
}


@pytest.mark.parametrize(("tx", "theta", "described", "message"), cases(REFUSED))
def test_what_cannot_move_exactly_is_refused(tx, theta, described, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        gauge.regauge(*state_of(tx), theta, chain=described)


def test_without_a_word_the_last_stateless_transform_is_the_learning_rate():
    decay, rate = optax.add_decayed_weights(0.1), optax.scale(-0.1)
    params, state = state_of(optax.chain(decay, optax.trace(0.9), rate))
    state = (state[0], optax.TraceState(params), state[2])
    run = gauge.regauge(params, state, 2.0)
    np.testing.assert_array_equal(run.opt_state[1].trace["b"], 2.0)
    assert run.hyperparameters == {"learning_rate": 0.25}


def test_a_described_state_moves():
    class Kept(NamedTuple):
        root: Any

    params, (_, rest) = state_of(optax.chain(optax.identity(), optax.scale(-0.1)))
    state = (Kept(params), rest)
    described = {"Kept": gauge.Transform(("Kept",), {"root": gauge.Movement(update=2)})}
    run = gauge.regauge(params, state, 4.0, transforms=described)
    np.testing.assert_array_equal(run.opt_state[0].root["b"], 16.0)


def test_injected_hyperparameters_move_in_the_state():
    params, state = state_of(optax.inject_hyperparams(optax.adamw)(0.5, weight_decay=0.25))
    run = gauge.regauge(params, state, 4.0, chain="adamw")
    moved = run.opt_state.hyperparams
    assert (moved["learning_rate"], moved["weight_decay"], moved["b1"]) == (
        0.125,
        1.0,
        np.float32(0.9),
    )
    assert not run.hyperparameters


@pytest.mark.parametrize("theta", [0.1, 0.3, 3.7, 7.0])
def test_what_stays_is_not_returned_for_a_rounding(theta):
    params, state = state_of(optax.lamb(0.1))
    run = gauge.regauge(params, state, theta, chain="lamb")
    assert set(run.hyperparameters) == {"eps", "eps_root", "weight_decay"}


def test_only_gauges_of_one_physics_are_moved_between():
    model = Mlp(named("mup adam"), jnp.float32)
    state = optax.adam(0.1).init(nnx.state(model, nnx.Param))
    with pytest.raises(ValueError, match=r"(?s)b/kernel: learning rate × 2.*equivalent"):
        gauge.regauge_run(model, state, named("mup adam"), named("standard adam table8"))
    tx = jaxmup.optim.sgd(0.1, jaxmup.resolve(jaxmup.nnx.specs(model), named("mup sgd")))
    state = tx.init(nnx.state(model, nnx.Param))
    with pytest.raises(ValueError, match="family of the optimizer"):
        gauge.regauge_run(model, state, named("mup adam"), named("mup adam table3"))


# What is no parameter, what has another shape, and what has the name of another.
TABLE = jnp.arange(6).reshape(3, 2)


def of_both(words: str, spec: jaxmup.ParamSpec = READOUT) -> Any:
    return jaxmup.resolve({"w": spec}, named(words))


def test_leaves_that_are_no_parameters_stay_as_they_are():
    """Tables of integers, flags and functions, and what an optimizer keeps for them."""
    params = {"w": jnp.ones((64, 10)), "table": TABLE, "on": True, "act": jnp.tanh, "none": None}
    table8, table3 = of_both("mup adam table8"), of_both("mup adam table3")
    folded = gauge.fold(params, table8)
    np.testing.assert_array_equal(folded["w"], 0.25)
    back = gauge.unfold(folded, table8)
    np.testing.assert_array_equal(back["w"], 1.0)

    arrays = {"w": params["w"], "table": TABLE}
    ones = jax.tree.map(jnp.ones_like, arrays)
    adam = optax.adam(0.1).init(arrays)
    state = (adam[0]._replace(mu=ones, nu=ones), adam[1])
    runs = [
        gauge.regauge(params, state, 0.25),
        gauge.regauge(params, state, {"w": 0.25, "table": 3.0}),
        gauge.regauge_run(params, state, table3, table8),
        gauge.regauge_run(params, state, *map(named, PAIR), specs={"w": READOUT}),
    ]
    for run in runs:
        np.testing.assert_array_equal(run.params["w"], 4.0)
        np.testing.assert_array_equal(run.opt_state[0].nu["w"], 1 / 16)
        np.testing.assert_array_equal(run.opt_state[0].nu["table"], 1)
    for tree in (folded, back, *(run.params for run in runs)):
        assert all(tree[name] is params[name] for name in ("table", "on", "act", "none"))


PAIR = ("mup adam table3", "mup adam table8")
OTHER_WIDTH = jaxmup.ParamSpec((jaxmup.Axis("input", 32, 16), jaxmup.Axis("output", 10)))


@pytest.mark.parametrize(
    "move",
    [
        lambda params, scalings: gauge.fold(params, scalings),
        lambda params, scalings: gauge.unfold(params, scalings),
        lambda params, scalings: gauge.regauge_run(
            params, optax.sgd(0.1).init(params), scalings, scalings
        ),
        lambda params, scalings: gauge.regauge_run(
            params, optax.sgd(0.1).init(params), *map(named, PAIR), specs={"w": OTHER_WIDTH}
        ),
    ],
    ids=["fold", "unfold", "scalings", "specs"],
)
def test_another_width_of_equal_paths_is_refused(move):
    with pytest.raises(ValueError, match=r"differ:\n  w: \(32, 10\), \(64, 10\)"):
        move({"w": jnp.ones((64, 10))}, of_both("mup adam table8", OTHER_WIDTH))


def test_scalings_without_a_shape_are_for_any():
    (scaling,) = of_both("mup adam table8").values()
    folded = gauge.fold({"w": jnp.ones(2)}, {"w": dataclasses.replace(scaling, shape=None)})
    np.testing.assert_array_equal(folded["w"], 0.25)


def test_two_leaves_of_one_name_are_refused():
    specs = {"a": {"b": READOUT}, "a/b": READOUT}
    params = jax.tree.map(lambda _: jnp.ones((64, 10)), specs)
    scalings = jax.tree.map(lambda spec: jaxmup.resolve(spec, named(PAIR[1])), specs)
    state = optax.sgd(0.1).init(params)
    for move in (
        lambda: gauge.fold(params, scalings),
        lambda: gauge.regauge(params, state, 2.0),
        lambda: gauge.regauge_run(params, state, scalings, scalings),
        lambda: gauge.regauge_scalings(scalings, 2.0),
    ):
        with pytest.raises(ValueError, match=r"tree\['a'\]\['b'\]\n.*tree\['a/b'\]"):
            move()


def test_what_orbax_restores_without_a_target_folds(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    layer = jaxmup.nnx.Linear(8, 2, base_in_features=4, rngs=nnx.Rngs(0))
    scalings = jaxmup.resolve(jaxmup.nnx.specs(layer), named(PAIR[1]))
    state = nnx.state(layer, nnx.Param)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        raw = checkpointer.restore(tmp_path / "state")
    assert set(raw["kernel"]) == {"value"}
    folded = gauge.fold(raw, scalings)
    np.testing.assert_array_equal(folded["kernel"]["value"], 0.5 * layer.kernel[...])
    tx = jaxmup.optim.adam(0.1, scalings)
    moved = gauge.regauge(raw, tx.init(state), 2.0)
    np.testing.assert_array_equal(moved.params["kernel"]["value"], 0.5 * layer.kernel[...])


@pytest.mark.parametrize("theta", [True, None, "2", 1j, jnp.ones(2)], ids=str)
def test_a_theta_must_be_a_number(theta):
    params = {"w": jnp.ones((64, 10))}
    with pytest.raises((TypeError, ValueError), match="theta"):
        gauge.regauge(params, optax.sgd(0.1).init(params), theta)
    with pytest.raises((TypeError, ValueError), match="theta"):
        gauge.regauge_scalings(of_both("mup adam"), theta)


# A family of the user's own: LAMB's steps, but proportional to the square root of the gradient.
ROOT = jaxmup.Family("root", gradient_degree=0.5, weight_degree=0)


def test_a_family_of_ones_own_passes():
    """Exponents by hand: with k = 1/2 the learning rate moves by θ^-3/2, eps by θ."""
    table8, table3 = (
        jaxmup.parametrization("mup", ROOT, gauge=gauge) for gauge in ("table8", "table3")
    )
    scalings = {"w": jaxmup.resolve(READOUT, table8)}
    moved = gauge.regauge_scalings(scalings, 4.0)["w"]
    assert moved.lr / scalings["w"].lr == 4.0**-1.5
    assert moved.eps / scalings["w"].eps == 4.0
    assert moved.family is ROOT
    found = gauge.reference_scalings(scalings)["w"]
    expected = jaxmup.resolve(READOUT, table3)
    assert (found.multiplier, found.lr, found.eps, found.family) == (
        1.0,
        pytest.approx(expected.lr, rel=1e-15),
        expected.eps,
        ROOT,
    )
    assert gauge.equivalent(table8, table3, {"w": READOUT}, ROOT)
    params = {"w": jnp.ones((64, 10))}
    direction = optax.stateless(lambda u, _: jax.tree.map(lambda x: jnp.sqrt(jnp.abs(x)), u))
    tx = jaxmup.optim.from_direction(direction, 0.1, scalings, optimizer=ROOT)
    run = gauge.regauge_run(params, tx.init(params), table8, table3, specs={"w": READOUT})
    np.testing.assert_array_equal(run.params["w"], 0.25)
