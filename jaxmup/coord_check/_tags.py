"""Names for values inside a function, and how to get at them from outside.

A tagged value carries its name in the program (JAX's own `checkpoint_name`), so nothing has to be
threaded through the function that computes it: `collecting` evaluates the traced program and keeps
the tagged values, from the inside of scans, of rematerialized and of compiled functions too. A tag
that nobody collects is the identity.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike

from jaxmup._program import (
    Atom,
    ClosedJaxpr,
    Equation,
    Literal,
    Loop,
    Node,
    Var,
    aval_of,
    bind,
    called,
    evaluate,
    is_call,
    is_scan,
    run_inside,
    scopes,
)
from jaxmup._tree import Tree

_TAG = "jaxmup.coord_check:"
_SCOPE = re.compile(r"coord_check:([^/()]*)")
_SLASH = "|"  # JAX puts slashes between scopes
LOGITS = "logits"
# What stands between logits and their softmax at times.
_MOVES = frozenset({"transpose", "reshape", "squeeze", "convert_element_type"})


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value"],
    meta_fields=["name", "scanned", "is_logits"],
)
@dataclasses.dataclass(frozen=True)
class Found:
    """A tagged value, or several of the same place.

    Args:
      name: Its tag; one that is met several times gets `#1`, `#2`, ... from the second on.
      value: The array, with the `scanned` axes in front.
      scanned: Number of scans that it was found inside of.
      is_logits: Whether it is the input of a softmax, whose masked entries are far below all
        others.
    """

    name: str
    value: Array
    scanned: int = 0
    is_logits: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value in its place."""
        return self.value.shape[self.scanned :]


def tag(name: str, values: Tree) -> Tree:
    """`values` unchanged, recorded by the coordinate check under this name.

    For models that are plain functions; the layers of Flax are recorded without it. Outside of a
    coordinate check it does nothing.

    Args:
      name: Name of the values in the table.
      values: Array or tree of arrays, of which those of floating-point numbers are recorded.

    Example:
      >>> tag("features", jnp.ones(2))
      Array([1., 1.], dtype=float32)
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string. Got {name!r}.")

    def named(path: tuple[Any, ...], leaf: ArrayLike) -> ArrayLike:
        if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):
            raise TypeError(
                f"`values` must be an array or a tree of arrays. Got {leaf!r} under the name "
                f"{name!r}."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        return checkpoint_name(leaf, _TAG + name + jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(named, values)


def scope(name: str) -> contextlib.AbstractContextManager[Any]:
    """A context whose attention logits are recorded under this name."""
    return jax.named_scope("coord_check:" + name.replace("/", _SLASH))


def collecting(
    function: Callable[..., Tree], *examples: Tree
) -> Callable[..., tuple[Tree, list[Found]]]:
    """`function`, which then returns its result and the values tagged inside it.

    Attention logits are found without a tag: they are what a softmax over the last axis of at least
    three takes.

    Args:
      function: Function of trees of arrays.
      *examples: Arguments that it will be called with, or shapes and dtypes of them.

    Example:
      >>> def model(x):
      ...     layer = lambda h, w: (tag("layer", h * w), None)
      ...     return jax.lax.scan(layer, x, jnp.arange(1.0, 4.0))[0]
      >>> x = jnp.ones(())
      >>> result, (found,) = collecting(model, x)(x)
      >>> float(result), found.name, found.value
      (6.0, 'layer', Array([1., 2., 6.], dtype=float32))
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(*examples)

    def collected(*args: Tree) -> tuple[Tree, list[Found]]:
        tagged = _Tagged()
        results = tagged.evaluate(program, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results), _numbered(tagged.found)

    return collected


def _numbered(found: Sequence[Found]) -> list[Found]:
    """Each found value with a name of its own."""
    names = numbered(one.name for one in found)
    return [dataclasses.replace(one, name=name) for one, name in zip(found, names, strict=True)]


def numbered(names: Iterable[str]) -> list[str]:
    """Names of which each is met once.

    Example:
      >>> numbered(["layer", "other", "layer"])
      ['layer', 'other', 'layer#1']
    """
    uses: dict[str, int] = {}
    each = []
    for name in names:
        use = uses[name] = uses.get(name, -1) + 1
        each.append(f"{name}#{use}" if use else name)
    return each


def tag_of(node: Node) -> str | None:
    """The tag that a value of a program has; `None` if it has none."""
    if not (node.equations and _is_tag(node.equations[0])):
        return None
    return node.equations[0].params["name"].removeprefix(_TAG)


def logits_in(nodes: Sequence[Node]) -> dict[str, Node]:
    """The attention logits of a program that has been taken apart, by the names `collecting` gives.

    Args:
      nodes: The values of the program, in order.
    """
    maxima = [
        node.parents[0]
        for node in nodes
        if node.op == "reduce_max" and node.equations and _over_last_axis(node.equations[0])
    ]
    subtracted = {_origin(node.parents[0]) for node in nodes if node.op == "sub"}
    chosen = {one for one in maxima if _origin(one) in subtracted}
    logits = [node for node in nodes if node in chosen]
    return dict(zip(numbered(map(_name_of_logits, logits)), logits, strict=True))


def _origin(node: Node) -> Node:
    while node.parents and node.op in _MOVES:
        node = node.parents[0]
    return node


def _name_of_logits(node: Node) -> str:
    scope = next(filter(None, map(_innermost_scope, reversed(node.path))), "")
    return "/".join(filter(None, [scope, LOGITS]))


def _innermost_scope(equation: Equation) -> str:
    names = _SCOPE.findall(scopes(equation))
    return names[-1].replace(_SLASH, "/") if names else ""


class _Tagged:
    """Evaluates a program and keeps the tagged values.

    Args:
      scope: Name of the module that the program is inside of.
    """

    def __init__(self, scope: str = ""):
        self.scope = scope
        self.found: list[Found] = []

    def evaluate(self, program: ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
        """The results of the program."""
        logits = _logits(program)

        def hook(equation: Equation, inputs: list[Any]) -> list[Any]:
            results = self._apply(equation, inputs)
            for variable, value in zip(equation.outvars, results, strict=True):
                if variable in logits:
                    name = "/".join(filter(None, [self._scope_of(equation), LOGITS]))
                    self.found.append(Found(name, value, is_logits=True))
            return results

        return evaluate(program, inputs, hook)

    def _apply(self, equation: Equation, inputs: list[Any]) -> list[Any]:
        if _is_tag(equation):
            self.found.append(Found(equation.params["name"].removeprefix(_TAG), inputs[0]))
            return inputs
        # What holds no tag stays whole: a custom derivative is opened only where it must be.
        if not any(map(_has_tags, _programs(equation))):
            return bind(equation, inputs)
        # Tags inside of a scan come back with an axis of iterations; nothing else could carry them
        # out of a loop, so that a tag inside of a `while` is lost.
        results, found = run_inside(equation, inputs, partial(self._run, equation))  # type: ignore[misc]
        nested = int(is_scan(equation))
        self.found += [dataclasses.replace(one, scanned=one.scanned + nested) for one in found]
        return results

    def _run(
        self, equation: Equation, program: ClosedJaxpr, inputs: list[Any]
    ) -> tuple[list[Any], list[Found]]:
        """Runs a program inside of an equation; returns its results and what is tagged there."""
        inner = _Tagged(self._scope_of(equation))
        return inner.evaluate(program, inputs), inner.found

    def _scope_of(self, equation: Equation) -> str:
        # JAX names the inside of a call anew, so the innermost name that is there is the module's.
        return _innermost_scope(equation) or self.scope


def _programs(equation: Equation) -> list[ClosedJaxpr]:
    """The programs that an equation runs and whose tags are seen."""
    if is_call(equation):
        return [called(equation)]
    return [Loop.of(equation).body] if is_scan(equation) else []


def _is_tag(equation: Equation) -> bool:
    return equation.primitive.name == "name" and equation.params["name"].startswith(_TAG)


def _has_tags(program: ClosedJaxpr) -> bool:
    return bool(_logits(program)) or any(
        _is_tag(equation) or any(map(_has_tags, _programs(equation)))
        for equation in program.jaxpr.eqns
    )


def _logits(program: ClosedJaxpr) -> set[Var]:
    """The inputs of softmaxes: arrays that their own maximum over the last axis is taken from.

    So is every softmax that is safe from overflow computed, `jax.nn.softmax` and those by hand.
    Some move axes between, as `jax.nn.dot_product_attention` does.
    """
    made_by = {v: eqn for eqn in program.jaxpr.eqns for v in eqn.outvars}

    def origin(atom: Atom) -> Atom:
        while not isinstance(atom, Literal) and (eqn := made_by.get(atom)) and _only_moves(eqn):
            atom = eqn.invars[0]
        return atom

    maxima = [eqn.invars[0] for eqn in _named(program, "reduce_max") if _over_last_axis(eqn)]
    first = [origin(eqn.invars[0]) for eqn in _named(program, "sub")]
    subtracted = {one for one in first if not isinstance(one, Literal)}
    return {one for one in maxima if not isinstance(one, Literal) and origin(one) in subtracted}


def _only_moves(equation: Equation) -> bool:
    return equation.primitive.name in _MOVES


def _over_last_axis(equation: Equation) -> bool:
    # Attention's logits have axes of queries and keys and one more; the logits of a loss may have
    # two, and are no logits of attention.
    ndim = len(aval_of(equation.invars[0]).shape)
    return ndim >= 3 and tuple(equation.params["axes"]) == (ndim - 1,)


def _named(program: ClosedJaxpr, name: str) -> Iterator[Equation]:
    return (equation for equation in program.jaxpr.eqns if equation.primitive.name == name)
