"""The optax transforms: Adam's formulas, each leaf's factors, weight decay, the common contract."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState
from helpers import TOL, cases, named, require_close
from helpers import exponents as numbers
from jax.nn import initializers

import jaxmup
from jaxmup import Axis, ParamSpec, optim
from jaxmup._families import FAMILIES

# One parameter of each role; what grows has grown by 4. Two shapes only, which saves compilation.
GROWS, STAYS = {"size": 4, "base": 1}, {"size": 4}
SPECS = {
    "bias": ParamSpec((Axis("output", **GROWS),)),
    "embed": ParamSpec((Axis("input", **STAYS), Axis("output", **GROWS))),
    "fixed": ParamSpec((Axis("output", **STAYS),)),
    "hidden": ParamSpec((Axis("input", **GROWS), Axis("output", **GROWS))),
    "readout": ParamSpec((Axis("input", **GROWS), Axis("output", **STAYS))),
}


def scalings(rule: str = "mup adam") -> dict[str, Any]:
    return jaxmup.resolve(SPECS, named(rule))


def draw(seed: int, dtype: Any = np.float32) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=spec.shape), dtype) for name, spec in SPECS.items()}


def full(value: float) -> dict[str, jax.Array]:
    return {name: jnp.full(spec.shape, value) for name, spec in SPECS.items()}


def updates_of(tx: Any, params: Any, *gradients: Any) -> list[Any]:
    """The updates of each step, at the same parameters."""
    state, updates = tx.init(params), []
    for g in gradients:
        update, state = tx.update(g, state, params)
        updates.append(update)
    return updates


# ---- Adam and AMSGrad, in three conventions


def by_hand(gradients, convention, amsgrad, b1=0.9, b2=0.99, eps=0.1, eps_root=0.0):
    """Adam (arXiv:1412.6980, Algorithm 1 and Section 2) and AMSGrad (arXiv:1904.09237)."""
    m = v = largest = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat, corrected = m / (1 - b1**t), 1 - b2**t
        match convention:
            case "optax":
                largest = np.maximum(largest, v / corrected) if amsgrad else v / corrected
                yield m_hat / (np.sqrt(largest + eps_root) + eps)
            case "torch":
                largest = np.maximum(largest, v) if amsgrad else v
                yield m_hat / (np.sqrt(largest / corrected + eps_root) + eps)
            case "labml":
                largest = np.maximum(largest, v) if amsgrad else v
                yield m_hat * np.sqrt(corrected) / (np.sqrt(largest + eps_root) + eps)


def shrinking(dtype: Any) -> np.ndarray:
    """Gradients of 30 steps that fall by e³, so that a maximum is one."""
    steps = np.arange(30)[:, None]
    return (np.random.default_rng(0).normal(size=(30, 5)) * np.exp(-steps / 10)).astype(dtype)


def directions(tx: Any, gradients: np.ndarray) -> np.ndarray:
    def step(state, g):
        update, state = tx.update(g, state)
        return state, update

    return np.asarray(jax.lax.scan(step, tx.init(gradients[0]), jnp.asarray(gradients))[1])


each_amsgrad = pytest.mark.parametrize("amsgrad", [False, True], ids=["adam", "amsgrad"])
each_convention = pytest.mark.parametrize("convention", ["torch", "labml", "optax"])


@each_amsgrad
@each_convention
@pytest.mark.parametrize("eps_root", [0.0, 0.01])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_is_its_formula(convention, amsgrad, eps_root, dtype, x64):
    settings = {"b2": 0.99, "eps": 0.1, "eps_root": eps_root}
    tx = optim.scale_by_adam(**settings, amsgrad=amsgrad, convention=convention)
    gradients = shrinking(dtype)
    expected = np.stack(list(by_hand(np.float64(gradients), convention, amsgrad, **settings)))
    require_close(directions(tx, gradients), expected, "adam", dtype)


STOCK = {False: optax.scale_by_adam, True: optax.scale_by_amsgrad}


@each_amsgrad
def test_the_optax_convention_is_optax(amsgrad, x64):
    settings = {"b1": 0.8, "b2": 0.99, "eps": 0.1, "eps_root": 0.01}
    tx = optim.scale_by_adam(**settings, amsgrad=amsgrad, convention="optax")
    stock = STOCK[amsgrad](**settings)
    gradients = shrinking(np.float64)
    require_close(directions(tx, gradients), directions(stock, gradients), "adam", "float64")
    state, expected = tx.init(gradients[0]), stock.init(gradients[0])
    for g in gradients[:3]:
        _, state = tx.update(g, state)
        _, expected = stock.update(g, expected)
    require_close(state, expected, "adam", "float64")


@pytest.mark.parametrize(
    ("convention", "amsgrad"), [("torch", True), ("labml", True), ("labml", False)]
)
def test_the_other_conventions_are_not(convention, amsgrad, x64):
    gradients = shrinking(np.float64)
    tx = optim.scale_by_adam(b2=0.99, eps=0.1, amsgrad=amsgrad, convention=convention)
    stock = directions(STOCK[amsgrad](b2=0.99, eps=0.1), gradients)
    apart = np.max(np.abs(directions(tx, gradients) - stock)) / np.max(np.abs(stock))
    assert apart > TOL["negative control", "float64"].rtol


@pytest.mark.parametrize(
    ("convention", "update"),
    # labml: eps / √(1 - 0.999) = 0.31622776601683794 beside |g| = 1
    [("torch", 1 / 1.01), ("optax", 1 / 1.01), ("labml", 0.7597469266479578)],
)
def test_effective_eps_of_the_first_step(convention, update, x64):
    tx = optim.scale_by_adam(eps=0.01, convention=convention)
    require_close(directions(tx, np.ones((1, 1))), np.full((1, 1), update), "adam", "float64")


def test_eps_of_each_leaf():
    tx = optim.scale_by_adam(eps={"a": 1.0, "b": jnp.array(3.0)})
    tree = {"a": jnp.ones(4), "b": jnp.ones(4)}
    (updates,) = updates_of(tx, tree, tree)
    require_close(updates, {"a": np.full(4, 0.5), "b": np.full(4, 0.25)}, "update", "float32")


# ---- the factors of each leaf

# Factors on lr, gradient (d) and eps of bias, embed, fixed, hidden, readout where widths grow by 4:
# Tensor Programs V, Tables 3, 8, 9 (lr) and Appendix B.3 (eps); Tensor Programs IVb, Section 2 (d);
# cellarium's own table.
ONES = "1 1 1 1 1"
FACTORS = {
    "sgd table8": (optim.sgd, "mup sgd table8", "4 4 1 1 4", ONES, ""),
    "sgd table3": (optim.sgd, "mup sgd table3", "4 4 1 1 1/4", ONES, ""),
    "sgd table9": (optim.sgd, "mup sgd table9", ONES, ONES, ""),
    "sgd standard": (optim.sgd, "standard sgd", ONES, ONES, ""),
    "adam table8": (optim.adam, "mup adam table8", "1 1 1 1/4 1", ONES, "1/4 1/4 1 1/4 1/4"),
    "adam table3": (optim.adam, "mup adam table3", "1 1 1 1/4 1/4", ONES, "1/4 1/4 1 1/4 1"),
    "adamw table9": (optim.adamw, "mup adam table9", "½ ½ 1 1/4 ½", ONES, "½ ½ 1 1/4 ½"),
    "amsgrad table8": (optim.amsgrad, "mup adam table8", "1 1 1 1/4 1", ONES, "1/4 1/4 1 1/4 1/4"),
    "adam tp4b": (optim.adam, "mup adam tp4b", "1 1 1 1/4 1", "4 4 1 4 4", ONES),
    "adam cellarium": (optim.adam, "cellarium adam", ONES, "4 4 1 16 4", ONES),
}


def each_leaf(values: Any) -> dict[str, np.ndarray]:
    return {name: np.full(SPECS[name].shape, x) for name, x in zip(SPECS, values, strict=True)}


@pytest.mark.parametrize(("chain", "rule", "lr", "d", "eps"), cases(FACTORS))
def test_the_step_of_each_leaf(chain, rule, lr, d, eps):
    lr, d, eps = (np.array(numbers(row)) for row in (lr, d, eps))
    if not eps.size:
        (updates,) = updates_of(chain(0.5, scalings(rule)), full(0.0), full(1.0))
        require_close(updates, each_leaf(-0.5 * lr * d), "update", "float32")
        return
    # |gradient| = eps = 1 at base width, then gradient² = eps_root = 1
    beside = chain(0.5, scalings(rule), eps=1.0)
    inside = chain(0.5, scalings(rule), eps=0.0, eps_root=1.0)
    got = [*updates_of(beside, full(0.0), full(1.0)), *updates_of(inside, full(0.0), full(1.0))]
    expected = [each_leaf(-0.5 * lr * d / size) for size in (d + eps, np.sqrt(d**2 + eps**2))]
    require_close(got, expected, "update", "float32")


@pytest.mark.parametrize("rule", ["mup adam tp4b", "cellarium adam"])
def test_stock_optax_fits_between_the_two_factors(rule, x64):
    chained = optax.chain(
        optim.scale_gradients(scalings(rule)),
        optax.adam(0.5, eps=0.1),
        optim.scale_updates(scalings(rule)),
    )
    ready = optim.adam(0.5, scalings(rule), eps=0.1, convention="optax")
    args = [draw(seed, np.float64) for seed in range(3)]
    require_close(updates_of(chained, *args), updates_of(ready, *args), "adam", "float64")


# ---- weight decay

# What a step of zero gradient takes off hidden and readout weights of 1, with λ = 0.1 and eps 0.1.
# Under a schedule the learning rate is 0.5 at a peak of 1.
SCHEDULE = {"learning_rate": lambda _: 0.5, "peak_learning_rate": 1.0}
CONSTANT = {"learning_rate": 0.5}
DECAY = {
    "decoupled table8": ("mup adam table8", "decoupled", CONSTANT, 0.05, 0.05),
    "decoupled table3": ("mup adam table3", "decoupled", CONSTANT, 0.05, 0.05),
    "decoupled table9": ("mup adam table9", "decoupled", CONSTANT, 0.05, 0.05),
    "decoupled schedule": ("mup adam table3", "decoupled", SCHEDULE, 0.05, 0.05),
    "decoupled sgd": ("mup sgd table3", "decoupled", CONSTANT, 0.05, 0.05),
    "independent table8": ("mup adam table8", "independent", CONSTANT, 0.1, 0.1),
    "independent table3": ("mup adam table3", "independent", CONSTANT, 0.1, 0.1),
    "independent schedule": ("mup adam table3", "independent", SCHEDULE, 0.05, 0.05),
    "independent sgd": ("mup sgd table8", "independent", CONSTANT, 0.1, 0.1),
    "absolute table8": ("mup adam table8", "absolute", CONSTANT, 0.1, 0.1),
    "absolute table3": ("mup adam table3", "absolute", SCHEDULE, 0.1, 0.1),
    "absolute sgd": ("mup sgd table8", "absolute", CONSTANT, 0.1, 0.1),
    # g = λ · eps / lr and eps, by leaf: (0.1, 0.025), (0.025, 0.025); (0.1, 0.025), (0.4, 0.1)
    "coupled table8": ("mup adam table8", "coupled", CONSTANT, 0.5 / 4 * 0.8, 0.5 * 0.5),
    "coupled table3": ("mup adam table3", "coupled", SCHEDULE, 0.5 / 4 * 0.8, 0.5 / 4 * 0.8),
    "coupled sgd": ("mup sgd table3", "coupled", CONSTANT, 0.05, 0.05),
}


@pytest.mark.parametrize(("rule", "mode", "learning_rate", "hidden", "readout"), cases(DECAY))
def test_weight_decay(rule, mode, learning_rate, hidden, readout):
    chain, eps = (optim.sgd, {}) if "sgd" in rule else (optim.adamw, {"eps": 0.1})
    tx = chain(
        scalings=scalings(rule),
        weight_decay=0.1,
        weight_decay_mode=mode,
        mask={name: name in ("hidden", "readout") for name in SPECS},
        **learning_rate,
        **eps,
    )
    (updates,) = updates_of(tx, full(1.0), full(0.0))
    expected = full(0.0)
    expected["hidden"] -= hidden
    expected["readout"] -= readout
    require_close(updates, expected, "update", "float32")


def test_a_mask_may_be_a_function():
    tx = optim.adamw(
        0.5, scalings(), mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    )
    (updates,) = updates_of(tx, full(1.0), full(0.0))
    decays = {name: bool(np.any(update)) for name, update in updates.items()}
    assert decays == {name: len(spec.axes) > 1 for name, spec in SPECS.items()}


# ---- the contract that every optimizer keeps

OPTIMIZERS = {
    "sgd": (optim.sgd, "sgd", {}, optax.sgd, {}),
    "momentum": (optim.sgd, "sgd", {"momentum": 0.9}, optax.sgd, {}),
    "nesterov": (optim.sgd, "sgd", {"momentum": 0.9, "nesterov": True}, optax.sgd, {}),
    "adam": (optim.adam, "adam", {"eps": 0.1}, optax.adam, {}),
    "adamw": (optim.adamw, "adam", {"eps": 0.1, "weight_decay": 0.1}, optax.adamw, {}),
    "amsgrad": (optim.amsgrad, "adam", {"eps": 0.1}, optax.amsgrad, {"convention": "optax"}),
}


@pytest.fixture(params=OPTIMIZERS)
def make(request):
    """`make(learning_rate, scalings=None, **more)`: the optimizer under test."""
    chain, family, settings, *_ = OPTIMIZERS[request.param]

    def make(learning_rate=0.5, tree=None, **more):
        tree = scalings(f"mup {family} table3") if tree is None else tree
        return chain(learning_rate, tree, **settings, **more)

    make.chain, make.family, make.settings = chain, family, settings
    return make


@pytest.mark.parametrize(
    ("chain", "family", "settings", "stock", "more"), OPTIMIZERS.values(), ids=OPTIMIZERS
)
def test_at_base_width_it_is_optax(chain, family, settings, stock, more, x64):
    at_base = {
        name: dataclasses.replace(
            spec, axes=tuple(Axis(axis.kind, 4, axis.base and 4) for axis in spec.axes)
        )
        for name, spec in SPECS.items()
    }
    tx = chain(0.5, jaxmup.resolve(at_base, named(f"mup {family}")), **settings, **more)
    args = [draw(seed, np.float64) for seed in range(4)]
    require_close(
        updates_of(tx, *args), updates_of(stock(0.5, **settings), *args), "adam", "float64"
    )


def as_state(tree: Any) -> nnx.State:
    return nnx.State({name: nnx.Param(leaf) for name, leaf in tree.items()})


def as_lists(tree: Any) -> list[Any]:
    bias, embed, *rest = tree.values()
    return [bias, [embed], tuple(rest)]


@pytest.mark.parametrize("container", [as_state, as_lists], ids=["nnx.State", "lists"])
def test_trees_of_any_kind(make, container):
    tree = scalings(f"mup {make.family} table3")
    trees = [draw(seed) for seed in range(3)]
    expected = updates_of(make(), *trees)
    inside = as_lists(tree) if container is as_lists else nnx.State(tree)
    got = updates_of(make(tree=inside), *map(container, trees))
    assert jax.tree.structure(got[0]) == jax.tree.structure(container(trees[0]))
    require_close(jax.tree.leaves(got), jax.tree.leaves(expected), "update", "float32")
    if container is as_state:  # a plain dict serves a State, and a State a dict
        got = updates_of(make(tree=tree), *map(container, trees))
        require_close(jax.tree.leaves(got), jax.tree.leaves(expected), "update", "float32")
        require_close(updates_of(make(tree=inside), *trees), expected, "update", "float32")


def test_it_trains_an_nnx_model_under_jit(make):
    model = jaxmup.nnx.Linear(4, 4, base_in_features=2, rngs=nnx.Rngs(0))
    tree = jaxmup.resolve(jaxmup.nnx.specs(model), named(f"mup {make.family}"))
    params, tx = nnx.to_pure_dict(nnx.state(model)), make(tree=tree)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(
            model, nnx.grad(lambda model: jnp.sum(model(jnp.ones((1, 4))) ** 2))(model)
        )

    gradients = nnx.grad(lambda model: jnp.sum(model(jnp.ones((1, 4))) ** 2))(model)
    expected = optax.apply_updates(params, updates_of(tx, params, nnx.to_pure_dict(gradients))[0])
    step(model, optimizer)
    require_close(nnx.to_pure_dict(nnx.state(model)), expected, "update", "float32")


def test_it_trains_a_linen_train_state(make):
    init = nn.with_partitioning(initializers.ones, (None, "model"))  # boxed parameters
    layer = jaxmup.linen.Dense(4, base_in_features=2, kernel_init=init)
    params = layer.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    specs = jaxmup.linen.specs(layer, jnp.ones((1, 4)))
    tx = make(tree=jaxmup.resolve(specs, named(f"mup {make.family}")))
    state = TrainState.create(apply_fn=layer.apply, params=params, tx=tx)
    trained = state.apply_gradients(grads=params).params
    assert jax.tree.structure(trained) == jax.tree.structure(params)
    plain = nn.unbox(params)
    expected = optax.apply_updates(plain, updates_of(tx, plain, plain)[0])
    require_close(nn.unbox(trained), expected, "update", "float32")


def test_it_compiles_once_and_donates(make):
    tx = make()

    def step(params, state, gradients):
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))
    params = first = draw(0)
    state = tx.init(params)
    for seed in range(3):
        params, state = compiled(params, state, draw(seed))
    assert compiled._cache_size() == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first))


def test_a_schedule_keeps_the_factors(make):
    trees = [draw(seed) for seed in range(4)]
    scheduled = updates_of(make(optax.polynomial_schedule(1.0, 0.25, 1, 3)), *trees)
    expected = [
        jax.tree.map(lambda update, lr=lr: lr * update, updates)
        for lr, updates in zip((1.0, 0.75, 0.5), updates_of(make(1.0), *trees), strict=True)
    ]
    require_close(scheduled, expected, "update", "float32")


def test_inject_hyperparams(make):
    injected = optax.inject_hyperparams(make.chain)(
        learning_rate=0.5, scalings=scalings(f"mup {make.family} table3"), **make.settings
    )
    params, gradients = draw(0), draw(1)
    state = injected.init(params)
    state.hyperparams["learning_rate"] = jnp.array(2.0)
    (expected,) = updates_of(make(2.0), params, gradients)
    require_close(injected.update(gradients, state, params)[0], expected, "update", "float32")


def test_multi_steps(make):
    params, one, two = (draw(seed) for seed in range(3))
    mean = jax.tree.map(lambda x, y: (x + y) / 2, one, two)
    nothing, update = updates_of(optax.MultiSteps(make(), 2), params, one, two)
    require_close(nothing, full(0.0), "update", "float32")
    require_close(update, updates_of(make(), params, mean)[0], "update", "float32")


def test_learning_rates_under_vmap(make):
    params, gradients, rates = draw(0), draw(1), (0.25, 1.0)
    together = jax.vmap(lambda lr: updates_of(make(lr), params, gradients)[0])(jnp.array(rates))
    apart = [updates_of(make(lr), params, gradients)[0] for lr in rates]
    stacked = jax.tree.map(lambda *updates: jnp.stack(updates), *apart)
    require_close(together, stacked, "update", "float32")


def test_masked(make):
    mask = {name: name in ("bias", "readout") for name in SPECS}
    params, gradients = draw(0), draw(1)
    (expected,) = updates_of(make(), params, gradients)
    expected = {name: (expected if mask[name] else gradients)[name] for name in SPECS}
    (got,) = updates_of(optax.masked(make(), mask), params, gradients)
    require_close(got, expected, "update", "float32")


def test_bfloat16_stays_bfloat16(make):
    params, tx = draw(0, jnp.bfloat16), make()
    state = tx.init(params)
    updates, after = tx.update(draw(1, jnp.bfloat16), state, params)
    assert {update.dtype for update in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    (expected,) = updates_of(make(), draw(0), draw(1))
    require_close(updates, expected, "update", "bfloat16")


@pytest.mark.parametrize("chain", [optim.adam, optim.adamw, optim.amsgrad])
def test_mu_dtype(chain):
    tx, params = chain(0.5, scalings(), mu_dtype=jnp.bfloat16), draw(0)
    updates, after = tx.update(draw(1), tx.init(params), params)
    dtypes = {
        name: {x.dtype.name for x in optax.tree.get(after, name).values()} for name in ("mu", "nu")
    }
    assert dtypes == {"mu": {"bfloat16"}, "nu": {"float32"}}
    assert {update.dtype.name for update in updates.values()} == {"float32"}


# ---- errors

MIXED = scalings() | {"hidden": dataclasses.replace(scalings()["hidden"], family=FAMILIES["sgd"])}
INDEPENDENT = {"learning_rate": lambda _: 1.0, "weight_decay_mode": "independent"}
BAD_ARGUMENTS = {
    "lr NaN": ({"learning_rate": np.nan}, "`learning_rate` .* at least 0. Got nan"),
    "lr -1": ({"learning_rate": -1.0}, "`learning_rate` .* at least 0. Got -1.0"),
    "λ -1": ({"weight_decay": -1.0}, "`weight_decay` .* at least 0. Got -1.0"),
    "λ NaN": ({"weight_decay": np.nan}, "`weight_decay` .* at least 0. Got nan"),
    "b1": ({"b1": 1.0}, "`b1` .* below 1. Got 1.0"),
    "b2": ({"b2": -0.1}, "`b2` .* at least 0 and below 1. Got -0.1"),
    "eps": ({"eps": -1.0}, "`eps` .* at least 0. Got -1.0"),
    "eps_root": ({"eps_root": np.nan}, "`eps_root` .* at least 0. Got nan"),
    "convention": ({"convention": "keras"}, "`convention` .*'torch', 'labml', 'optax'.* 'keras'"),
    "mode": ({"weight_decay_mode": "l2"}, "`weight_decay_mode` .*'decoupled'.* Got 'l2'"),
    "no peak": (INDEPENDENT, "Pass the schedule's largest value as `peak_learning_rate`"),
    "no peak of 0": (INDEPENDENT | {"learning_rate": 0.0}, "`learning_rate` .* above 0. Got 0.0"),
    "peak 0": (INDEPENDENT | {"peak_learning_rate": 0.0}, "`peak_.* above 0. Got 0.0"),
    "peak -1": (INDEPENDENT | {"peak_learning_rate": -1.0}, "`peak_.* above 0. Got -1.0"),
    "peak NaN": (INDEPENDENT | {"peak_learning_rate": np.nan}, "`peak_.* above 0. Got nan"),
    "mixed families": ({"scalings": MIXED}, "family 'adam'. Got\n  hidden: sgd\nL"),
    "other family": (
        {"scalings": scalings("mup sgd")},
        "(?s)family 'adam'. Got\n  bias: sgd\n.*readout: sgd",
    ),
}


@pytest.mark.parametrize("chain", [optim.adamw, optim.amsgrad])
@pytest.mark.parametrize(("arguments", "message"), cases(BAD_ARGUMENTS))
def test_bad_arguments(chain, arguments, message):
    with pytest.raises(ValueError, match=message):
        chain(**{"learning_rate": 1.0, "scalings": scalings(), "weight_decay": 0.1} | arguments)


def test_factors_of_mixed_families():
    with pytest.raises(ValueError, match=r"(?s)one family. Got.*\n  fixed: adam\n  hidden: sgd"):
        optim.scale_updates(MIXED)


@pytest.mark.parametrize("chain", [optim.adam, optim.adamw, optim.amsgrad, optim.sgd])
def test_specs_are_no_scalings(chain):
    with pytest.raises(TypeError, match=r"(?s)`Scaling` at each leaf. Got\n  bias: ParamSpec\n"):
        chain(1.0, SPECS)


# A parameter more, w, and one less, bias.
OTHER = {name: leaf for name, leaf in full(0.0).items() if name != "bias"} | {"w": jnp.ones((2, 3))}
OTHER_PATHS = r"(?s)those of the param.*entry:\n  w \(2, 3\)\n.*without a parameter:\n  bias\b"


def test_other_paths_are_an_error_at_init(make):
    with pytest.raises(ValueError, match=OTHER_PATHS):
        make().init(OTHER)


@pytest.mark.parametrize("transform", [optim.scale_gradients, optim.scale_updates])
def test_other_paths_are_an_error_at_update(transform):
    with pytest.raises(ValueError, match=OTHER_PATHS):
        transform(scalings()).update(OTHER, optax.EmptyState())


def test_eps_of_other_paths_is_an_error():
    with pytest.raises(ValueError, match=OTHER_PATHS):
        optim.scale_by_adam(eps=dict.fromkeys(SPECS, 1.0)).init(OTHER)


def test_a_negative_eps_of_a_leaf_is_an_error():
    with pytest.raises(ValueError, match=r"`eps of a` .* at least 0. Got -1.0"):
        optim.scale_by_adam(eps={"a": -1.0}).init({"a": jnp.ones(1)})


def test_decay_needs_the_parameters():
    tx = optim.adamw(1.0, scalings())
    with pytest.raises(ValueError, match="Weight decay needs the parameters"):
        tx.update(full(0.0), tx.init(full(0.0)))
