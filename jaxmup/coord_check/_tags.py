"""Names for values inside a function, and how to get at them from outside.

A tagged value carries its name in the jaxpr (JAX's own `checkpoint_name`), so nothing has to be
threaded through the function that computes it: `collecting` evaluates the jaxpr and keeps the
tagged values, from the inside of scans, of rematerialized and of compiled functions too. A tag that
nobody collects is the identity.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

_TAG = "jaxmup.coord_check:"
_SCOPE = re.compile(r"coord_check:([^/()]*)")
_SLASH = "|"  # JAX puts slashes between scopes
LOGITS = "logits"


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value"],
    meta_fields=["name", "scanned", "is_logits"],
)
@dataclasses.dataclass(frozen=True)
class Found:
    """A tagged value, or several of the same place.

    Args:
      name: its tag; one that is met several times gets `#1`, `#2`, ... from the second on.
      value: an array, with the `scanned` axes in front.
      scanned: how many scans it was found inside of.
      is_logits: whether the input of a softmax, whose masked entries are far below all others.
    """

    name: str
    value: Array
    scanned: int = 0
    is_logits: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the value in its place."""
        return self.value.shape[self.scanned :]


def tag(name: str, values: Any) -> Any:
    """`values` unchanged, recorded by the coordinate check under this name.

    For models that are plain functions; the layers of Flax are recorded without it. Outside of a
    coordinate check it does nothing.

    Args:
      name: what to call them.
      values: an array or a tree of arrays, of which those of floating-point numbers are recorded.

    Example:
      >>> tag("features", jnp.ones(2))
      Array([1., 1.], dtype=float32)
    """

    def named(path: tuple[Any, ...], leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        return checkpoint_name(leaf, _TAG + name + jax.tree_util.keystr(path))

    return jax.tree_util.tree_map_with_path(named, values)


def scope(name: str) -> Any:
    """A context whose attention logits are recorded under this name."""
    return jax.named_scope("coord_check:" + name.replace("/", _SLASH))


def collecting(
    function: Callable[..., Any], *examples: Any
) -> Callable[..., tuple[Any, list[Found]]]:
    """`function`, which then returns its result and the values tagged inside it.

    Attention logits are found without a tag: they are what a softmax over the last axis of at least
    three takes.

    Args:
      function: of trees of arrays.
      *examples: what it will be called with, or the shapes of that.

    Example:
      >>> def model(x):
      ...     layer = lambda h, w: (tag("layer", h * w), None)
      ...     return jax.lax.scan(layer, x, jnp.arange(1.0, 4.0))[0]
      >>> x = jnp.ones(())
      >>> result, (found,) = collecting(model, x)(x)
      >>> float(result), found.name, found.value
      (6.0, 'layer', Array([1., 2., 6.], dtype=float32))
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*examples)

    def collected(*args: Any) -> tuple[Any, list[Found]]:
        tagged = _Tagged()
        results = tagged.evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results), _numbered(tagged.found)

    return collected


def _numbered(found: Sequence[Found]) -> list[Found]:
    """Each found value with a name of its own."""
    uses: dict[str, int] = {}
    numbered = []
    for one in found:
        use = uses[one.name] = uses.get(one.name, -1) + 1
        numbered.append(dataclasses.replace(one, name=f"{one.name}#{use}") if use else one)
    return numbered


class _Tagged:
    """Evaluates a jaxpr and keeps the tagged values.

    Args:
      scope: the name of the module that the jaxpr is inside of.
    """

    def __init__(self, scope: str = ""):
        self.scope = scope
        self.found: list[Found] = []

    def evaluate(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if hasattr(atom, "val") else values[atom]

        logits = _logits(jaxpr)
        for eqn in jaxpr.eqns:
            inputs = [read(atom) for atom in eqn.invars]
            with eqn.ctx.manager:
                outputs = self._apply(eqn, inputs)
            values.update(zip(eqn.outvars, outputs, strict=True))
            for variable, value in zip(eqn.outvars, outputs, strict=True):
                if variable in logits:
                    name = "/".join(filter(None, [self._scope_of(eqn), LOGITS]))
                    self.found.append(Found(name, value, is_logits=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _apply(self, eqn: Any, inputs: Sequence[Any]) -> list[Any]:
        name = eqn.primitive.name
        if name == "name" and eqn.params["name"].startswith(_TAG):
            self.found.append(Found(eqn.params["name"].removeprefix(_TAG), inputs[0]))
            return list(inputs)
        if name in _INSIDE and any(_has_tags(jaxpr) for jaxpr in _jaxprs(eqn)):
            return getattr(self, _INSIDE[name])(eqn, inputs)
        params = eqn.primitive.get_bind_params(eqn.params)
        outputs = eqn.primitive.bind(*inputs, **params)
        return list(outputs) if eqn.primitive.multiple_results else [outputs]

    def _inline(self, eqn: Any, inputs: Sequence[Any]) -> list[Any]:
        results, found = self._inside(eqn)(inputs)
        self.found += found
        return results

    def _remat(self, eqn: Any, inputs: Sequence[Any]) -> list[Any]:
        options = {name: eqn.params[name] for name in ("policy", "prevent_cse")}
        results, found = jax.checkpoint(self._inside(eqn), **options)(inputs)
        self.found += found
        return results

    def _scan(self, eqn: Any, inputs: Sequence[Any]) -> list[Any]:
        consts, carry, xs = _arguments_of_scan(eqn.params, inputs)
        inside = self._inside(eqn)

        def body(carry: Any, xs: Any) -> Any:
            results, found = inside([*consts, *carry, *xs])
            return results[: len(carry)], (results[len(carry) :], found)

        options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
        last, (ys, found) = jax.lax.scan(body, carry, xs, **options)
        self.found += [dataclasses.replace(one, scanned=one.scanned + 1) for one in found]
        return [*last, *ys]

    def _inside(self, eqn: Any) -> Callable[[Sequence[Any]], tuple[list[Any], list[Found]]]:
        """The function that the equation applies, which returns what is tagged inside it too."""
        (jaxpr,) = _jaxprs(eqn)

        def evaluate(inputs: Sequence[Any]) -> tuple[list[Any], list[Found]]:
            inner = _Tagged(self._scope_of(eqn))
            return inner.evaluate(jaxpr.jaxpr, jaxpr.consts, inputs), inner.found

        return evaluate

    def _scope_of(self, eqn: Any) -> str:
        names = _SCOPE.findall(str(eqn.source_info.name_stack))
        return names[-1].replace(_SLASH, "/") if names else self.scope


# What the inside of a function is evaluated by; tags inside any other are not seen.
_INSIDE: Mapping[str, str] = {
    "jit": "_inline",
    "pjit": "_inline",
    "closed_call": "_inline",
    "custom_jvp_call": "_inline",
    "checkpoint": "_remat",
    "remat2": "_remat",
    "scan": "_scan",
}


def _arguments_of_scan(
    params: Mapping[str, Any], inputs: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """The constants, the carry and what is scanned over."""
    if "ft_in" in params:  # JAX 0.12
        consts, carry, xs = params["ft_in"].update(inputs).unpack()
        return list(consts), list(carry), list(xs)
    end = params["num_consts"] + params["num_carry"]
    return (
        list(inputs[: params["num_consts"]]),
        list(inputs[params["num_consts"] : end]),
        list(inputs[end:]),
    )


def _jaxprs(eqn: Any) -> list[Any]:
    """The closed jaxprs among the parameters of an equation."""
    return [
        value if hasattr(value, "jaxpr") else jax.extend.core.ClosedJaxpr(value, ())
        for value in eqn.params.values()
        if hasattr(value, "jaxpr") or hasattr(value, "eqns")
    ]


def _has_tags(closed: Any) -> bool:
    jaxpr = closed.jaxpr
    return bool(_logits(jaxpr)) or any(
        (eqn.primitive.name == "name" and eqn.params["name"].startswith(_TAG))
        or (eqn.primitive.name in _INSIDE and any(map(_has_tags, _jaxprs(eqn))))
        for eqn in jaxpr.eqns
    )


def _logits(jaxpr: Any) -> set[Any]:
    """The inputs of softmaxes: arrays that their own maximum over the last axis is taken from."""
    maxima = {eqn.invars[0] for eqn in _named(jaxpr, "reduce_max") if _over_last_axis(eqn)}
    return {
        eqn.invars[0]
        for eqn in _named(jaxpr, "sub")
        if not hasattr(eqn.invars[0], "val") and eqn.invars[0] in maxima
    }


def _over_last_axis(eqn: Any) -> bool:
    ndim = len(eqn.invars[0].aval.shape)
    return ndim >= 3 and tuple(eqn.params["axes"]) == (ndim - 1,)


def _named(jaxpr: Any, name: str) -> Iterator[Any]:
    return (eqn for eqn in jaxpr.eqns if eqn.primitive.name == name)
