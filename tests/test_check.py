"""What is refused where it comes in, and with which words."""

import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import cases

from jaxmup import _check
from jaxmup._spec import Axis, ParamSpec

NUMBERS = {
    "int": 2,
    "float": 2.0,
    "np.float32": np.float32(2),
    "np.float64": np.float64(2),
    "np.int8": np.int8(2),
    "np.uint16": np.uint16(2),
    "np.longdouble": np.longdouble(2),
    "np.array": np.array(2.0),
    "jnp.array": jnp.array(2.0),
    "jnp int": jnp.array(2),
    "bfloat16": jnp.array(2.0, jnp.bfloat16),
    "np bfloat16": np.array(2.0, ml_dtypes.bfloat16),
    "bfloat16 scalar": ml_dtypes.bfloat16(2),
    "float8": jnp.array(2.0, jnp.float8_e4m3fn),
}
NONE = {
    "None": None,
    "True": True,
    "np.bool": np.True_,
    "array of a bool": np.array(True),
    "jnp bool": jnp.array(True),
    "complex": 2j,
    "np.complex64": np.complex64(2),
    "array of a complex": jnp.array(2j),
    "str": "2",
    "bytes": b"2",
    "np.str": np.str_("2"),
    "raw": np.zeros((), "V4"),
    "fraction": Fraction(2),
    "decimal": Decimal(2),
    "list": [2.0],
    "rank 1": np.array([2.0]),
    "jnp rank 1": jnp.array([2.0]),
    "objects": np.array(2.0, dtype=object),
    "random key": jax.random.key(0),
    "function": abs,
    "type": float,
}


@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
def test_a_number_is_one_of_python_or_numpy_or_an_array_of_rank_0(value):
    assert _check.is_number(value)
    _check.number("x", value, above=1.5, at_most=2)


@pytest.mark.parametrize("value", NONE.values(), ids=NONE)
def test_nothing_else_is_a_number(value):
    assert not _check.is_number(value)
    with pytest.raises(TypeError, match=r"^`x` must be a real number. Got "):
        _check.number("x", value)
    with pytest.raises(TypeError, match=r"^`x` must be an integer of at least 1. Got "):
        _check.size("x", value)


KINDS = [float, np.float32, np.array, jnp.array]
# range, and by hand: the least that passes, the most, what is too small, too large, and the words
RANGES: dict[str, tuple[Any, ...]] = {
    "any": ({}, -1e30, 1e30, -math.inf, math.inf, "a finite number. "),
    "above": ({"above": 0}, 2**-126, 3.0, 0.0, math.inf, "a finite number above 0. "),
    "at least": ({"at_least": 0}, 0.0, 3.0, -(2**-126), math.inf, "a finite number of at least 0"),
    "rate": ({"at_least": 0, "below": 1}, 0.0, 0.5, -0.5, 1.0, "of at least 0 and below 1. Got"),
    "part": ({"above": 0, "at_most": 1}, 0.5, 1.0, 0.0, 1.5, "above 0 and of at most 1. Got"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("limits", "least", "most", "small", "large", "words"), cases(RANGES))
def test_ranges(limits, least, most, small, large, words, kind):
    for value in (least, most):
        _check.number("x", kind(value), **limits)
    for value in (small, large, math.nan):
        with pytest.raises(ValueError, match=words):
            _check.number("x", kind(value), **limits)


LARGE = {"401 digits": 10**400, "5001 digits": 10**5000}  # repr refuses the second


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_beyond_every_float_is_not_finite(value, sign):
    with pytest.raises(ValueError, match="must be a finite number") as caught:
        _check.number("x", sign * value)
    assert len(str(caught.value)) < 300


def test_what_is_traced_passes_unless_it_is_kept():
    def traced(x: Any) -> Any:
        assert _check.is_traced(x)
        assert not _check.is_number(x)
        _check.number("x", x, above=5)
        with pytest.raises(TypeError, match="`x` must be a real number"):
            _check.number("x", x, may_be_traced=False)
        with pytest.raises(TypeError, match="`x` must be an integer"):
            _check.size("x", x)
        return x

    jax.jit(traced)(1)
    jax.grad(traced)(1.0)
    jax.vmap(traced)(jnp.ones(2))
    assert not _check.is_traced(jnp.ones(()))


SIZES = {"int": 3, "np.int64": np.int64(3), "array": np.array(3), "jnp": jnp.array(3)}


@pytest.mark.parametrize("value", SIZES.values(), ids=SIZES)
def test_sizes(value):
    _check.size("n", value, at_least=3)
    with pytest.raises(ValueError, match=r"an integer of at least 4. Got .*3.*. Count it."):
        _check.size("n", value, at_least=4, remedy="Count it.")


@pytest.mark.parametrize("value", [3.0, np.float32(3), np.array(3.0), jnp.array(3.0), "3", True])
def test_a_float_that_is_whole_is_no_size(value):
    with pytest.raises(TypeError, match=r"`n` must be an integer of at least 1. Got"):
        _check.size("n", value)


@pytest.mark.parametrize("value", ["z", 1.0, True, None, ["a"], np.array(["a", "b"]), {}])
def test_one_of(value):
    for option in ("a", "b", 1):
        _check.one_of("x", option, ("a", "b", 1))
    with pytest.raises(ValueError, match=r"^`x` must be one of 'a', 'b', 1. Got .* Take a.$"):
        _check.one_of("x", value, ("a", "b", 1), remedy="Take a.")


SPEC = ParamSpec((Axis("output", 8, base=4),))
LEAVES = {"w": np.zeros(8), "b": np.zeros(())}
# entries, whether more may be there, and the message, whole
TREES: dict[str, tuple[Any, ...]] = {
    "missing": ({"w": SPEC}, False, "Parameters without an entry:\n  b ()"),
    "more": ({"w": 1, "b": 2, "c": SPEC}, False, "Entries without a parameter:\n  c (8,)"),
    "shape": (
        {"w": SPEC, "b": SPEC},
        False,
        "Shapes of entry and parameter that differ:\n  b: (8,), ()",
    ),
    "all": (
        {"w": np.zeros(3), "c": 1},
        False,
        "Parameters without an entry:\n  b ()\nEntries without a parameter:\n  c\n"
        "Shapes of entry and parameter that differ:\n  w: (3,), (8,)",
    ),
    "may have more, shape": (
        {"w": np.zeros(3), "b": 1, "c": 1},
        True,
        "Shapes of entry and parameter that differ:\n  w: (3,), (8,)",
    ),
}


@pytest.mark.parametrize(("entries", "more", "message"), cases(TREES))
def test_trees_that_differ(entries, more, message):
    with pytest.raises(ValueError, match="specs") as caught:
        _check.same_tree("specs", entries, LEAVES, may_have_more=more, remedy="Make them anew.")
    assert str(caught.value) == (
        f"`specs` must be those of the parameters.\n{message}\nMake them anew."
    )


class AnyShape:
    shape = None


@pytest.mark.parametrize("entry", [SPEC, 1.0, None, AnyShape()])
def test_trees_that_are_the_same(entry):
    _check.same_tree("specs", {"w": entry, "b": 1.0}, LEAVES)
    _check.same_tree("specs", {"w": entry, "b": 1.0, "c": 1.0}, LEAVES, may_have_more=True)


def test_it_needs_nothing_but_the_standard_library():
    """A number of Python is checked, and JAX isn't imported for it."""
    code = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('c', {_check.__file__!r})\n"
        "c = u.module_from_spec(spec); spec.loader.exec_module(c)\n"
        "c.number('x', 1.0); c.size('n', 1)\n"
        "assert not {'jax', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
