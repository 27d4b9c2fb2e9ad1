"""Names of leaves: one a leaf, whatever container holds it."""

import jax.numpy as jnp
import pytest
from flax import nnx

import jaxmup
from jaxmup import Axis, ParamSpec, manifest, optim
from jaxmup._tree import leaves_by_path, map_named, named_leaves

KERNEL = ParamSpec((Axis("input", 8, base=2), Axis("output", 8, base=2)))
BIAS = ParamSpec((Axis("output", 8, base=2),))
MUP = jaxmup.parametrization("mup", "adam", gauge="table3")
# Both are called "a/b".
SPECS = {"a": {"b": KERNEL}, "a/b": BIAS}
PARAMS = {"a": {"b": jnp.ones((8, 8))}, "a/b": jnp.ones(8)}


USES = {
    "resolve": lambda path: jaxmup.resolve(SPECS, MUP),
    "explain": lambda path: jaxmup.explain(SPECS, MUP),
    "lint": lambda path: jaxmup.lint(SPECS, MUP, params=PARAMS),
    "manifest": lambda path: manifest.write(path / "m.json", SPECS, MUP),
    "fold": lambda path: jaxmup.gauge.fold(PARAMS, {"a/b": jaxmup.resolve(BIAS, MUP)}),
    "an optimizer": lambda path: optim.adam(1.0, {"a/b": jaxmup.resolve(BIAS, MUP)}).init(PARAMS),
    "infer": lambda path: jaxmup.infer(
        lambda n: {"a": {"b": jnp.ones((n, n))}, "a/b": jnp.ones(n)},
        base=2,
        delta=4,
        target=8,
        rules={"a/b": ("output",)},
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_two_leaves_of_one_name_are_an_error_that_names_both(use, tmp_path):
    with pytest.raises(ValueError, match=r"(?s)a name of its own.*\['a'\]\['b'\].*\['a/b'\]"):
        use(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_orbax_restores_without_a_target_has_the_names_of_its_variables():
    """It stores `{"value": array}` in place of each variable."""
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    raw = {"kernel": {"value": jnp.ones((2, 3))}, "bias": {"value": jnp.zeros(3)}}
    assert set(leaves_by_path(raw)) == set(leaves_by_path(nnx.state(layer, nnx.Param)))


def test_a_parameter_may_be_called_value():
    names = [name for name, _ in named_leaves({"query": 1, "key": 2, "value": 3})]
    assert names == ["key", "query", "value"]
    nested = [name for name, _ in named_leaves({"head": {"key": 1, "value": 2}})]
    assert nested == ["head/key", "head/value"]


def test_leaves_are_mapped_by_name_in_any_container():
    tree = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Param)
    ranks = map_named(lambda leaf, value: leaf.ndim + value, tree, {"kernel": 10, "bias": 20})
    assert leaves_by_path(ranks) == {"kernel": 12, "bias": 21}
