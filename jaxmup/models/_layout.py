"""A model over a mesh of devices: Flax's metadata for kernels, shardings of activations."""

import dataclasses
import math
from typing import Any

import jax
from flax.core import spmd
from flax.typing import LogicalRules
from jax import Array
from jax.sharding import PartitionSpec

from jaxmup import _check

LOGICAL_AXES = ("batch", "length", "embed", "heads", "mlp", "vocab", "layers")
"""Names of the axes of a transformer's activations and kernels, as in Flax's guides."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of a mesh along which a model lies, by the names of its own axes.

    Args:
      rules: Axes of the mesh for each name in `LOGICAL_AXES`; `None` for no layout.
    """

    rules: LogicalRules | None = None

    @classmethod
    def of(cls, given: LogicalRules | None) -> "Layout":
        """The layout by the given rules and those of Flax's context, where there are any.

        Raises:
          TypeError: if `given` are no pairs.
          ValueError: if a given name is unknown, or the context maps it otherwise.
        """
        context = dict(spmd.get_logical_axis_rules())
        if given is None and not context:
            return cls()
        own = _pairs(() if given is None else given)
        for name in own:
            _check.one_of("sharding_rules", name, LOGICAL_AXES)
        merged = dict(spmd.composite_rules(tuple(context.items()), tuple(own.items())))
        # As they were given: Flax compares them with those of its context again.
        return cls(tuple((name, merged.get(name)) for name in LOGICAL_AXES))

    def require_fit(self, **sizes: int) -> None:
        """Refuses a mesh that lacks an axis of the rules, or does not divide a size of the model.

        Args:
          **sizes: Sizes of the axes of the kernels, by name.

        Raises:
          ValueError: naming the axes of the model and of the mesh.
        """
        mesh = jax.sharding.get_abstract_mesh()
        if self.rules is None or mesh.empty:
            return
        rules, devices = dict(self.rules), dict(mesh.shape)
        wrong = []
        for name, size in sizes.items():
            axes = _names(rules[name])
            unknown = [axis for axis in axes if axis not in devices]
            number = math.prod(devices.get(axis, 1) for axis in axes)
            if unknown:
                wrong.append(f"{name} over {unknown[0]!r}, which the mesh lacks")
            elif size % number:
                over = " and ".join(map(repr, axes))
                wrong.append(f"{name} of {size} over {over} of {number} devices")
        if wrong:
            raise ValueError(
                f"`sharding_rules` must fit the model and the mesh {devices}. They do not at"
                f"{_check.listed(wrong)}\nChoose sizes that are multiples, or other rules."
            )

    def metadata(self, *names: str | None) -> dict[str, Any]:
        """The metadata of a kernel whose axes have these names."""
        if self.rules is None:
            return {}
        return {"out_sharding": names, "sharding_rules": self.rules}

    def activation(self, *names: str | None) -> PartitionSpec | None:
        """The sharding of an activation for `out_sharding`; `None` where Flax takes none.

        An axis of the mesh that shards two axes goes to the later one: features before tokens.
        """
        if self.rules is None or not _is_explicit(jax.sharding.get_abstract_mesh()):
            return None
        return self._spec(names)

    def stream(self, tokens: Array) -> PartitionSpec | None:
        """The `activation` of the residual stream; without rules it lies as its tokens do."""
        if self.rules is None and _is_explicit(jax.sharding.get_abstract_mesh()):
            return PartitionSpec(*jax.typeof(tokens).sharding.spec, None)
        return self.activation("batch", "length", None)

    def constrain(self, x: Array, *names: str | None) -> Array:
        """The activation, bound to its sharding in a mesh of automatic axes."""
        mesh = jax.sharding.get_abstract_mesh()
        if self.rules is None or mesh.empty or not mesh.are_all_axes_auto:
            return x
        return jax.lax.with_sharding_constraint(x, self._spec(names))

    def _spec(self, names: tuple[str | None, ...]) -> PartitionSpec:
        used, entries = set[str](), []
        rules: dict[str | None, Any] = dict(self.rules or ())
        for name in reversed(names):
            axes = tuple(axis for axis in _names(rules.get(name)) if axis not in used)
            used |= set(axes)
            entries.append(axes[0] if len(axes) == 1 else axes or None)
        return PartitionSpec(*reversed(entries))


def is_on_mesh() -> bool:
    """True inside of a mesh of devices."""
    return not jax.sharding.get_abstract_mesh().empty


def _is_explicit(mesh: Any) -> bool:
    return not mesh.empty and mesh.are_all_axes_explicit


def _names(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) else axes


def _pairs(given: Any) -> dict[str, Any]:
    try:
        pairs = dict(given)
        return {name: tuple(x) if isinstance(x, list) else x for name, x in pairs.items()}
    except (TypeError, ValueError):
        raise TypeError(
            "`sharding_rules` must be pairs of a name and the axes of the mesh, such as "
            f"(('batch', 'data'), ('mlp', 'model')). Got {given!r}."
        ) from None
