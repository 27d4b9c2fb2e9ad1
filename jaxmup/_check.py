"""One way to refuse: what is concrete is checked where it comes in, what is traced passes.

Concrete is whatever has a value now: numbers of Python and NumPy, and arrays of rank 0. A tracer
has none, so nothing is asked of it.

The room stands leftmost and is the standard library's alone: it tells arrays by what they can do.
"""

import math
import operator
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeGuard

_MOST_CHARACTERS = 200  # of a value in a message


def is_traced(x: object) -> bool:
    """Says if `x` is a value of a program that JAX is tracing."""
    # Nothing is traced before JAX is imported, and the rules must not be what imports it.
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.core.Tracer)


def is_number(x: object) -> TypeGuard[float]:
    """Says if `x` is one real number with a value: of Python or NumPy, or an array of rank 0.

    Booleans and complex numbers are none, nor are strings that read like one.

    Example:
      >>> is_number(2.0), is_number(True), is_number(1j), is_number("2")
      (True, False, False, False)
    """
    if isinstance(x, bool | complex) or is_traced(x):
        return False
    if isinstance(x, int | float):
        return True
    if not hasattr(x, "__float__") or getattr(x, "shape", None) != ():
        return False
    # Raw bytes and bfloat16 are both of NumPy's kind "V", so the small floats go by their name.
    dtype = getattr(x, "dtype", None)
    return getattr(dtype, "kind", "") in ("i", "u", "f") or "float" in str(dtype)


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    may_be_traced: bool = True,
    remedy: str = "",
) -> None:
    """Refuses `value` unless it is a finite real number in a range, or traced.

    Args:
      name: Name of the argument, or path of the leaf.
      value: A number of Python or NumPy, or an array of rank 0.
      above: Largest number that is too small.
      at_least: Smallest number that is allowed.
      below: Smallest number that is too large.
      at_most: Largest number that is allowed.
      may_be_traced: Whether a traced value passes; not where a record keeps it, since a tracer has
        no value after its program has been traced.
      remedy: Sentence on what to do instead.

    Raises:
      TypeError: if it is no real number, as a boolean, a complex number or `None` is none.
      ValueError: if it is not finite, or out of range.

    Example:
      >>> number("lr_scale", -1.0, above=0, remedy="Leave it out for 1.")
      Traceback (most recent call last):
      ...
      ValueError: `lr_scale` must be a finite number above 0. Got -1.0. Leave it out for 1.
    """
    if may_be_traced and is_traced(value):
        return
    if not is_number(value):
        raise TypeError(_message(name, "a real number", value, remedy))
    try:
        x = float(value)
    except OverflowError:  # an integer of Python that no float holds
        x = math.inf
    if not (math.isfinite(x) and above < x < below and at_least <= x <= at_most):
        limits = {"above": above, "of at least": at_least, "below": below, "of at most": at_most}
        range_ = " and ".join(f"{word} {x:g}" for word, x in limits.items() if math.isfinite(x))
        raise ValueError(_message(name, f"a finite number {range_}".rstrip(), value, remedy))


def plain(value: float) -> float:
    """The same number as one of Python, for a record that is hashed, compared and written.

    Example:
      >>> import numpy as np
      >>> plain(np.float32(0.5)), plain(np.int64(3))
      (0.5, 3)
    """
    if type(value) in (int, float):
        return value
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return float(value)


def size(
    name: str,
    value: object,
    *,
    at_least: int = 1,
    may_be_traced: bool = False,
    remedy: str = "",
) -> None:
    """Refuses `value` unless it is an integer of at least `at_least`.

    Args:
      name: Name of the argument.
      value: An integer of Python or NumPy, or an array of rank 0.
      at_least: Smallest integer that is allowed.
      may_be_traced: Whether a traced value passes; most counts shape a program, so they are known
        when it is made.
      remedy: Sentence on what to do instead.

    Raises:
      TypeError: if it is no integer, as a boolean or a float that is whole is none.
      ValueError: if it is too small.

    Example:
      >>> size("num_heads", 0)
      Traceback (most recent call last):
      ...
      ValueError: `num_heads` must be an integer of at least 1. Got 0.
    """
    if may_be_traced and is_traced(value):
        return
    what = f"an integer of at least {at_least}"
    try:
        # Arrays of floats have `__index__` too, and refuse when it is called.
        integer = operator.index(value) if is_number(value) else None  # type: ignore[arg-type]
    except TypeError:
        integer = None
    if integer is None:
        raise TypeError(_message(name, what, value, remedy))
    if integer < at_least:
        raise ValueError(_message(name, what, value, remedy))


def flag(name: str, value: object, *, remedy: str = "") -> None:
    """Refuses `value` unless it is a boolean: a number or a string would be taken for true.

    Args:
      name: Name of the argument.
      value: A boolean of Python or NumPy.
      remedy: Sentence on what to do instead.

    Raises:
      TypeError: if it is none.

    Example:
      >>> flag("nesterov", 0.9)
      Traceback (most recent call last):
      ...
      TypeError: `nesterov` must be True or False. Got 0.9.
    """
    # An array of JAX may be traced, and what it is for decides how a program is made.
    is_numpys = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    if not isinstance(value, bool) and not (is_numpys and value.dtype.kind == "b"):  # type: ignore[attr-defined]
        raise TypeError(_message(name, "True or False", value, remedy))


def function(name: str, value: object, *, remedy: str = "") -> None:
    """Refuses `value` unless it can be called.

    Args:
      name: Name of the argument.
      value: A function.
      remedy: Sentence on what to do instead.

    Raises:
      TypeError: if it cannot be called.

    Example:
      >>> function("loss_fn", 3)
      Traceback (most recent call last):
      ...
      TypeError: `loss_fn` must be a function. Got 3.
    """
    if not callable(value):
        raise TypeError(_message(name, "a function", value, remedy))


def transform(
    name: str, value: object, *, remedy: str = "Use `optax.adam(learning_rate)`, say."
) -> None:
    """Refuses `value` unless it is an optax transform, told by its `init` and `update`.

    Args:
      name: Name of the argument.
      value: An `optax.GradientTransformation`.
      remedy: Sentence on what to do instead.

    Raises:
      TypeError: if it is none, such as `optax.adam` without its arguments.

    Example:
      >>> transform("tx", "adam")
      Traceback (most recent call last):
      ...
      TypeError: `tx` must be an optax transform. Got 'adam'. Use `optax.adam(learning_rate)`, say.
    """
    if not all(callable(getattr(value, method, None)) for method in ("init", "update")):
        raise TypeError(_message(name, "an optax transform", value, remedy))


def key(name: str, value: object) -> None:
    """Refuses `value` unless it is a key of `jax.random`, typed or of the old kind, or traced.

    Args:
      name: Name of the argument.
      value: A key.

    Raises:
      TypeError: if it is none, such as a seed.

    Example:
      >>> key("key", 0)
      Traceback (most recent call last):
      ...
      TypeError: `key` must be a key of `jax.random`. Got 0. Use `jax.random.key(0)`.
    """
    dtype = str(getattr(value, "dtype", ""))
    if not dtype.startswith(("key<", "uint32")):
        seed = value if isinstance(value, int) else 0
        raise TypeError(
            _message(name, "a key of `jax.random`", value, f"Use `jax.random.key({seed})`.")
        )


def made(name: str, value: object, kind: str, by: str) -> None:
    """Refuses `value` unless it is of a class of this name, which tools make for each other.

    By its name, since a room that shows what a tool has made need not load the tool.

    Args:
      name: Name of the argument.
      value: An object.
      kind: Name of its class, or of a base of it.
      by: Name of what makes it.

    Raises:
      TypeError: if it is of another class.

    Example:
      >>> made("result", 3, "Result", "jaxmup.transfer.measure")
      Traceback (most recent call last):
      ...
      TypeError: `result` must be of type `Result`. Got 3. `jaxmup.transfer.measure` makes it.
    """
    if not any(base.__name__ == kind for base in value.__class__.__mro__):
        raise TypeError(_message(name, f"of type `{kind}`", value, f"`{by}` makes it."))


def one_of(name: str, value: object, options: Collection[object], *, remedy: str = "") -> None:
    """Refuses `value` unless it is one of `options`, of the same type and equal.

    Args:
      name: Name of the argument.
      value: Anything; it need not have a hash.
      options: Values that are allowed.
      remedy: Sentence on what to do instead.

    Raises:
      ValueError: naming the options.

    Example:
      >>> one_of("over", "time", ("width", "depth"))
      Traceback (most recent call last):
      ...
      ValueError: `over` must be one of 'width', 'depth'. Got 'time'.
    """
    if not any(type(value) is type(option) and value == option for option in options):
        raise ValueError(_message(name, f"one of {', '.join(map(repr, options))}", value, remedy))


def same_tree(
    name: str,
    entries: Mapping[str, Any],
    leaves: Mapping[str, Any],
    *,
    may_have_more: bool = False,
    remedy: str = "",
) -> None:
    """Refuses `entries` unless they have the names of `leaves`, and their shapes where both have.

    Args:
      name: Name of the argument that holds the entries.
      entries: Entry of each parameter by name, such as its `ParamSpec`; an entry whose shape is
        `None` is for a parameter of any shape. One that has a method `fits` says by it whether a
        shape is its own.
      leaves: Leaf of each parameter by name, such as its array.
      may_have_more: Whether entries without a leaf pass, as where `optax.masked` took leaves out.
      remedy: Sentence on what to do instead.

    Raises:
      ValueError: listing the names that only one of them has, and the shapes that differ.

    Example:
      >>> same_tree("specs", {"kernel": 1.0}, {"kernel": 2.0, "bias": 3.0})
      Traceback (most recent call last):
      ...
      ValueError: `specs` must be those of the parameters.
      Parameters without an entry:
        bias
    """
    missing = [_shaped(n, leaves[n]) for n in leaves if n not in entries]
    more = [] if may_have_more else [_shaped(n, entries[n]) for n in entries if n not in leaves]
    differ = [
        f"{n}: {_shape(entries[n])}, {_shape(leaf)}"
        for n, leaf in leaves.items()
        if n in entries and not _fits(entries[n], leaf)
    ]
    parts = {
        "Parameters without an entry": missing,
        "Entries without a parameter": more,
        "Shapes of entry and parameter that differ": differ,
    }
    if any(parts.values()):
        found = "\n".join(f"{title}:{listed(lines)}" for title, lines in parts.items() if lines)
        raise ValueError(f"`{name}` must be those of the parameters.\n{found}\n{remedy}".rstrip())


def listed(names: Iterable[str]) -> str:
    """Names as an indented list, one a line."""
    return "".join(f"\n  {name}" for name in names)


def _shape(entry: Any) -> tuple[int, ...] | None:
    shape = getattr(entry, "shape", None)
    return None if shape is None else tuple(shape)


def _fits(entry: Any, leaf: Any) -> bool:
    own, shape = _shape(entry), _shape(leaf)
    if own is None or shape is None:
        return True
    return entry.fits(shape) if hasattr(entry, "fits") else own == shape


def _shaped(name: str, entry: Any) -> str:
    return name if _shape(entry) is None else f"{name} {_shape(entry)}"


def _message(name: str, what: str, value: object, remedy: str) -> str:
    return f"`{name}` must be {what}. Got {shown(value)}. {remedy}".rstrip()


def shown(value: object) -> str:
    """`repr(value)` on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"an object of type {type(value).__name__} too long to show"
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def warn(message: str) -> None:
    """Warns at the user's line: that of the first caller who is neither jaxmup nor JAX."""
    level, frame = 1, sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _PASSED_BY:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


_PASSED_BY = frozenset({"jaxmup", "jax", "flax", "optax", "contextlib", "functools"})
