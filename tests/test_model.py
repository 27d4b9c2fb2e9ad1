"""The user's model: what its factory gets, how it is called, and what of it trains."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases

import jaxmup
from jaxmup import Model, optim
from jaxmup._inputs import Call, as_call, take_arrays
from jaxmup._model import Parts, as_model
from jaxmup._tree import leaves_by_path
from jaxmup.coord_check import coord_check

TABLE3 = jaxmup.parametrization("mup", "adam", gauge="table3")
KEY = jax.random.key(0)
X = jnp.ones((3, 4))
DATA = (np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32), np.arange(16) % 2)


class Pair(NamedTuple):
    tokens: Any
    mask: Any


# ---- inputs


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    cases(
        {
            "an array": (1, (1,), {}),
            "positional": ((1, False), (1, False), {}),
            "none": ((), (), {}),
            "a list": ([1, 2], ([1, 2],), {}),
            "a dict": ({"tokens": 1}, ({"tokens": 1},), {}),
            "a NamedTuple": (Pair(1, 2), (Pair(1, 2),), {}),
            "both": ({"args": (1, 2), "kwargs": {"train": True}}, (1, 2), {"train": True}),
            "one and keywords": ({"args": 1, "kwargs": {"a": 2}}, (1,), {"a": 2}),
            "keywords": ({"kwargs": {"a": 2}}, (), {"a": 2}),
            "a call": (Call((1,), {"a": 2}), (1,), {"a": 2}),
            "another key too": ({"args": 1, "x": 2}, ({"args": 1, "x": 2},), {}),
        }
    ),
)  # fmt: skip
def test_what_inputs_stand_for(inputs, args, kwargs):
    assert as_call(inputs) == Call(args, kwargs)


def test_what_is_no_array_stays_python():
    arrays, static = take_arrays({"x": X, "train": False, "name": "a", "rate": 0.5, "none": None})
    assert len(arrays) == 1
    jax.jit(lambda arrays: _require_flag(static.joined(arrays)))(arrays)


def _require_flag(tree: Any) -> None:
    assert tree["train"] is False
    assert tree["rate"] == 0.5
    assert isinstance(tree["x"], jax.core.Tracer)


class Flagged(nn.Module):
    """Called with a flag that must be Python's, a keyword, and one NamedTuple."""

    width: int

    @nn.compact
    def __call__(self, pair: Pair, train: bool, *, scale: Any) -> Any:
        x = nn.Dense(self.width)(pair.tokens * pair.mask * scale)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(2)(nn.relu(x))


def flagged(width: int, train: bool = True) -> dict[str, Any]:
    del width
    pair = Pair(jax.ShapeDtypeStruct((3, 4), jnp.float32), jnp.ones((3, 1)))
    return {"args": (pair, train), "kwargs": {"scale": 2.0}}


def test_a_module_with_flags_keywords_and_one_tree_of_inputs():
    specs = jaxmup.infer(Flagged, base=8, delta=16, target=32, inputs=flagged)
    model = jaxmup.rescale(Flagged, specs, TABLE3, base=8, target=32, key=KEY, inputs=flagged)
    assert model["params"]["Dense_0"]["kernel"].shape == (4, 32)
    assert specs["Dense_1"]["kernel"].role == "output"


# ---- what a factory gets


def test_a_factory_gets_what_it_has_parameters_for():
    seen: dict[str, Any] = {}

    def make_model(width, rngs, parametrization, *, depth, base_width=3):
        seen.update(width=width, depth=depth, base_width=base_width, p=parametrization)
        return nnx.Linear(4, width, rngs=rngs)

    model = Model(make_model).offering(parametrization=TABLE3, depth=2, step=5)
    assert model.at(8).parameters["kernel"].shape == (4, 8)
    assert seen == {"width": 8, "depth": 2, "base_width": 3, "p": TABLE3}


@pytest.mark.parametrize(
    ("make_model", "size", "expected"),
    cases(
        {
            "a number": (lambda width, depth: (width, depth), 8, (8, 2)),
            "keywords win": (lambda width, depth: (width, depth), {"width": 8, "depth": 3}, (8, 3)),
            "a configuration": (lambda config, depth: (config["n"], depth), {"n": 8}, (8, 2)),
            "partial": (functools.partial(lambda width, depth: (width, depth), depth=4), 8, (8, 4)),
            "keywords of any name": (lambda width, **others: (width, others), 8, (8, {})),
        }
    ),
)  # fmt: skip
def test_size_and_offer_of_a_factory(make_model, size, expected):
    assert Model(make_model).offering(depth=2).make(size) == expected


def test_a_key_is_given_as_key_or_as_rngs_unless_the_size_has_it():
    drawn = Model(lambda width, key: {"w": jax.random.normal(key, (width,))})
    expected = jax.random.normal(jax.random.key(1), (4,))
    assert np.array_equal(drawn.at(4).draw(jax.random.key(1)).params["w"], expected)
    taken = Model(lambda width, key: {"w": jnp.full(width, key)})
    given = taken.at({"width": 4, "key": 7.0})
    assert drawn.at(4).is_drawn
    assert not given.is_drawn
    assert given.draw(KEY).params["w"].tolist() == [7.0] * 4


BAD = {
    "no function": (lambda: Model(3), TypeError, "`make_model` must be a function"),
    "apply": (lambda: Model(Flagged, apply=3), TypeError, "`apply` must be a function"),
    "twice": (
        lambda: as_model(Model(Flagged, inputs=X), inputs=X),
        TypeError,
        "A `Model` says itself what `inputs` says",
    ),
    "it raises": (
        lambda: Model(lambda width: [][width]).at(4, "base"),
        ValueError,
        "must build `base` = 4. It raised IndexError",
    ),
    "no inputs": (
        lambda: Model(Flagged).at(4).parts,
        TypeError,
        "`inputs` must be given for a Linen module",
    ),
    "other inputs": (
        lambda: Model(Flagged, inputs=X).at(4).parts,
        ValueError,
        "`size` = 4 must be called with its `inputs`. It raised TypeError",
    ),
    "two leaves of one name": (
        lambda: Model(lambda width: {"a": {"b": X}, "a/b": X}).at(4).parameters,
        ValueError,
        r"(?s)share one:.*tree\['a'\]\['b'\].*tree\['a/b'\]",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), cases(BAD))
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# ---- leaves that are no parameters


def with_others(width: int, key: Any) -> dict[str, Any]:
    first, second = jax.random.split(key)
    return {
        "w": jax.random.normal(first, (4, width)),
        "v": jax.random.normal(second, (width, 2)) / width**0.5,
        "table": jnp.arange(4),
        "repeat": 2,
        "flag": True,
        "activation": jnp.tanh,
        "none": None,
    }


def call_others(tree: Any, x: Any) -> Any:
    h = tree["activation"](x[:, tree["table"]] @ tree["w"])
    return jnp.tile(h @ tree["v"], (1, tree["repeat"]))


def test_leaves_that_are_no_floating_arrays_are_carried_along_in_every_tool():
    sizes = {"base": 8, "target": 16}
    specs = jaxmup.infer(with_others, delta=12, inputs=X, apply=call_others, **sizes)
    assert set(leaves_by_path(specs)) == {"w", "v"}
    model = jaxmup.rescale(with_others, specs, TABLE3, key=KEY, **sizes)
    assert model["repeat"] == 2
    assert model["flag"] is True
    assert model["activation"] is jnp.tanh
    assert model["table"].tolist() == [0, 1, 2, 3]
    instance = Model(with_others).at(16)
    params, rest = instance.split(model, KEY)
    tx = optim.adam(0.1, jaxmup.resolve(specs, TABLE3))

    def loss(params):
        return jnp.square(call_others(instance.join(Parts(params, rest)), X)).mean()

    updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
    moved = instance.join(Parts(optax.apply_updates(params, updates), rest))
    assert moved["table"].dtype == jnp.int32
    assert not np.array_equal(moved["w"], model["w"])
    check = coord_check(
        with_others, (8, 16), DATA, lambda scalings: optim.adam(2**-6, scalings),
        apply=call_others, seeds=2,
    )  # fmt: skip
    assert {v.name for v in check.verdicts} <= {"w", "v", "output"}


@jax.tree_util.register_pytree_node_class
class Scaled:
    """A tree that is called, as Equinox's modules are."""

    def __init__(self, w: Any, times: int):
        self.w, self.times = w, times

    def __call__(self, x: Any) -> Any:
        return self.times * x @ self.w

    def tree_flatten(self):
        return (self.w, self.times), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def test_a_tree_that_can_be_called_needs_no_apply():
    instance = Model(lambda width, key: Scaled(jnp.ones((4, width)), 3)).at(2)
    outputs, _ = instance.call(instance.draw(KEY), as_call(X))
    assert outputs.tolist() == [[12.0, 12.0]] * 3


# ---- the subset that trains


class Adapted(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.frozen = nnx.Linear(4, width, rngs=rngs)
        self.lora = nnx.LoRALinear(width, width, lora_rank=2, rngs=rngs)
        self.out = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(self.lora(nnx.relu(self.frozen(x))))


LORA = {"lora/lora/lora_a", "lora/lora/lora_b"}


@pytest.mark.parametrize(
    "wrt",
    [nnx.LoRAParam, "*/lora_*", ["*/lora_a", "*/lora_b"], lambda name, leaf: "lora_" in name],
    ids=["a filter of Flax", "a pattern", "patterns", "a predicate"],
)
def test_only_the_subset_has_specs_scalings_and_an_optimizer(wrt):
    specs = jaxmup.infer(Adapted, base=8, delta=16, target=32, wrt=wrt, inputs=X)
    assert set(leaves_by_path(specs)) == LORA
    model = jaxmup.rescale(Adapted, specs, TABLE3, base=8, target=32, key=KEY, wrt=wrt)
    plain = Adapted(32, rngs=nnx.Rngs(KEY))
    assert np.array_equal(model.frozen.kernel[...], plain.frozen.kernel[...])
    tx = optim.adam(0.1, jaxmup.resolve(specs, TABLE3))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.LoRAParam)
    wanted = nnx.DiffState(0, nnx.LoRAParam)
    gradients = nnx.grad(lambda model: jnp.square(model(X)).mean(), argnums=wanted)(model)
    optimizer.update(model, gradients)
    assert np.array_equal(model.frozen.kernel[...], plain.frozen.kernel[...])
    assert not np.array_equal(model.lora.lora.lora_b[...], plain.lora.lora.lora_b[...])


def test_a_frozen_part_stays_in_a_run():
    model = Model(Adapted, wrt="*/lora_*")
    check = coord_check(model, (8, 16), DATA, lambda scalings: optim.adam(2**-6, scalings), seeds=1)
    assert {row["name"] for row in check.rows if row["quantity"] == "weight"} == LORA


def test_a_subset_of_a_linen_module_and_of_a_tree():
    linen = Model(Flagged, inputs=flagged(1), wrt="*/kernel").at(8)
    assert set(linen.parameters) == {"Dense_0/kernel", "Dense_1/kernel"}
    parts = linen.draw(KEY)
    assert set(leaves_by_path(parts.rest.state["params"])) == {"Dense_0/bias", "Dense_1/bias"}
    assert jax.tree.structure(linen.join(parts)) == jax.tree.structure(
        Flagged(8).init(KEY, *flagged_call().args, **flagged_call().kwargs)
    )
    tree = Model(with_others, wrt="v").at(8)
    assert set(tree.parameters) == {"v"}


def flagged_call() -> Call:
    return as_call(flagged(1)).with_zeros()


# ---- keys, collections and axes of a call


def test_a_call_of_a_linen_module_draws_anew_each_time():
    model = Model(Flagged, inputs=flagged(1)).at(8)
    parts = model.draw(KEY)
    call = as_call({"args": (Pair(X, jnp.ones((3, 1))), True), "kwargs": {"scale": 2.0}})
    first, rest = model.call(parts, call)
    second, _ = model.call(Parts(parts.params, rest), call)
    again, _ = model.call(parts, call)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    calm = Model(Flagged, inputs=flagged(1, train=False)).at(8)
    assert not calm.needs_key


def test_a_function_is_given_the_key_that_it_asks_for():
    def apply(tree: Any, x: Any, key: Any) -> Any:
        return x @ tree["w"] + jax.random.normal(key, ())

    model = Model(lambda width: {"w": jnp.zeros((4, width))}, apply=apply).at(2)
    parts = model.draw(KEY)
    first, rest = model.call(parts, as_call(X))
    second, _ = model.call(Parts(parts.params, rest), as_call(X))
    assert first[0, 0] != second[0, 0]


class Normalized(nn.Module):
    """Has statistics that change, over a named axis."""

    width: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.BatchNorm(use_running_average=False, axis_name="devices", momentum=0.5)(x)
        return nn.Dense(2)(nn.relu(nn.Dense(self.width)(x)))


def test_statistics_change_and_a_named_axis_is_there():
    model = Model(Normalized, inputs=X, axis_names=("devices",)).at(8)
    parts = model.draw(KEY)
    outputs, rest = model.call(parts, as_call(X))
    assert outputs.shape == (3, 2)
    assert rest["batch_stats"]["BatchNorm_0"]["mean"].tolist() == [0.5] * 4
    rows = coord_check(
        Model(Normalized, axis_names=("devices",)), (8, 16), DATA,
        lambda scalings: optim.adam(2**-6, scalings), seeds=1,
    ).rows  # fmt: skip
    assert rows


def test_intermediate_values_are_no_state():
    class Sowing(nnx.Module):
        def __init__(self, width, rngs):
            self.linear = nnx.Linear(4, width, rngs=rngs)

        def __call__(self, x):
            self.seen = nnx.Intermediate(x)
            return self.linear(x)

    model = Model(Sowing).at(2)
    parts = model.draw(KEY)
    _, rest = model.call(parts, as_call(X))
    assert jax.tree.structure(rest) == jax.tree.structure(parts.rest)


def test_a_module_is_called_as_apply_says():
    class Encoder(nn.Module):
        width: int

        def setup(self):
            self.dense = nn.Dense(self.width)

        def encode(self, x):
            return self.dense(x)

    model = Model(Encoder, inputs=X, apply=lambda module, x: module.encode(x)).at(8)
    assert set(model.parameters) == {"dense/kernel", "dense/bias"}
    outputs, _ = model.call(model.draw(KEY), as_call(X))
    assert outputs.shape == (3, 8)
    assert (
        jaxmup.infer(
            Encoder, base=8, delta=16, target=32, inputs=X, apply=lambda module, x: module.encode(x)
        )["dense"]["kernel"].role
        == "input"
    )


class FlaggedLayers(nn.Module):
    """A flag in the place of an argument, in a module of jaxmup layers."""

    width: int

    @nn.compact
    def __call__(self, x: Any, train: bool, scale: Any = 1.0) -> Any:
        x = jaxmup.linen.Dense(self.width, base_features=4)(x * scale if train else x)
        return jaxmup.linen.Dense(2, base_in_features=4)(x)


def test_layers_of_jaxmup_declare_their_specs_in_a_module_with_flags():
    inputs = {"args": (jax.ShapeDtypeStruct((3, 4), jnp.float32), True), "kwargs": {"scale": X}}
    specs = Model(FlaggedLayers, inputs=inputs).at(8).specs
    assert {name: spec.role for name, spec in leaves_by_path(specs).items()} == {
        "Dense_0/bias": "input",
        "Dense_0/kernel": "input",
        "Dense_1/bias": "fixed",
        "Dense_1/kernel": "output",
    }
    assert Model(Flagged, inputs=flagged(1)).at(8).specs is None


def test_explain_and_lint_take_a_model_in_place_of_its_specs():
    def make_model(width, rngs):
        return jaxmup.nnx.Linear(4, width, base_out_features=8, rngs=rngs)

    mup = jaxmup.parametrization("mup", "adam")
    module, instance = make_model(16, rngs=nnx.Rngs(0)), Model(make_model).at(16)
    expected = str(jaxmup.explain(jaxmup.nnx.specs(module), mup))
    assert str(jaxmup.explain(module, mup)) == str(jaxmup.explain(instance, mup)) == expected
    assert jaxmup.lint(instance, mup) == jaxmup.lint(jaxmup.nnx.specs(module), mup)
    with pytest.raises(TypeError, match="`specs` must be a tree with a `ParamSpec`"):
        jaxmup.explain({"w": jnp.ones(3)}, mup)
