"""The fields of an optax state that torch has a counterpart of, read and filled."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxmup._check import listed
from jaxmup._opt_state import TRANSFORMS, Field, Link, Owners, walk, where, with_fields
from jaxmup._tree import OptState, PathName, Tree
from jaxmup.bridge._torch_optimizers import TORCH_NAMES

Moments: TypeAlias = Mapping[str, Mapping[PathName, np.ndarray]]
"""Moments by torch's name of the moment and the name of the parameter."""


class Counterpart(NamedTuple):
    """A field of an optax state.

    Args:
      field: The field.
      torch_name: Name that torch has for the moment in it; `None` if it holds no moment.
    """

    field: Field
    torch_name: str | None

    @property
    def where(self) -> str:
        """The path of the field, for messages."""
        return where(self.field.path)


def fields_of(state: OptState) -> list[Counterpart]:
    """The fields of all transforms in the state of an optimizer.

    Raises:
      ValueError: naming every state that torch has no counterpart of.
    """
    walked = walk(state)
    unknown = walked.unknown + [
        f"{where(link.path)}: {type(link.state).__name__}"
        for link in walked.links
        if not _has_counterpart(link)
    ]
    if unknown:
        known = [state for name in TORCH_NAMES for state in TRANSFORMS[name].states]
        raise ValueError(
            "Every state in the chain must have a counterpart in torch. Without one:"
            f"{listed(unknown)}\nMoments are known of{listed(known)}"
        )
    return [
        Counterpart(field, TORCH_NAMES.get(link.name, {}).get(field.name))
        for link in walked.links
        for field in link.fields
    ]


def _has_counterpart(link: Link) -> bool:
    names = TORCH_NAMES.get(link.name, {})
    return all(
        field.name in names if field.kind == "moment" else field.kind not in ("apart", "other")
        for field in link.fields
    )


def moments_of(state: OptState, owners: Owners) -> Iterator[tuple[str, PathName, Array]]:
    """The moments in a state: torch's name, the parameter, and the array."""
    for field, name in fields_of(state):
        if name is not None:
            for owner, leaf in owners.leaves(field.value):
                if owner is not None:
                    yield name, owner, leaf


def leaf_like(value: ArrayLike, leaf: Array) -> Array:
    """`value` as an array of the dtype of `leaf`, spread over devices as it is."""
    # torch updates its tensors in place, and JAX copies when its device gets to it. So the copy is
    # numpy's, made now.
    array = jnp.asarray(np.array(value, order="C"), leaf.dtype)
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or len(sharding.device_set) == 1:
        return array
    return jax.device_put(array, sharding)


class Standing(NamedTuple):
    """The standing of a run.

    Args:
      step: Number of steps made; `None` if it is not known.
      position: Position of the schedules; `None` if it is not known.
      rate: Learning rate for `optax.inject_hyperparams`; `None` to leave it.
    """

    step: int | None
    position: int | None
    rate: float | None


def filled(state: OptState, moments: Moments, standing: Standing, owners: Owners) -> OptState:
    """`state` with moments, counts and the learning rate put in.

    Args:
      state: State of a new optimizer.
      moments: Moments that are put in; where one is missing, the initial one stays.
      standing: Numbers that the counters are set to.
      owners: Owners of the leaves of the state.

    Raises:
      ValueError: if an optimizer counts and the number of steps is not known.
    """
    counts = {"steps": standing.step, "position": standing.position}
    values = {}
    for counterpart in fields_of(state):
        field, name = counterpart
        if name is not None:
            values[field.path] = _with_moments(field.value, moments.get(name, {}), owners)
        elif field.kind in counts:
            values[field.path] = _count(counterpart, counts[field.kind])
        elif field.kind == "rates" and standing.rate is not None:
            values[field.path] = _with_rate(field.value, standing.rate)
    return with_fields(state, values)


def _with_moments(tree: Tree, arrays: Mapping[PathName, np.ndarray], owners: Owners) -> Tree:
    def filled_leaf(owner: PathName | None, leaf: Array) -> Array:
        array = None if owner is None else arrays.get(owner)
        return leaf if array is None else leaf_like(array, leaf)

    return owners.map(filled_leaf, tree)


def _with_rate(held: Mapping[str, Tree], rate: float) -> dict[str, Tree]:
    """The injected hyper-parameters with this learning rate, if they hold one."""
    return {
        name: jax.tree.map(lambda leaf: leaf_like(rate, leaf), value)
        if name == "learning_rate"
        else value
        for name, value in held.items()
    }


def _count(counterpart: Counterpart, count: int | None) -> Tree:
    if count is None:
        raise ValueError(
            "The number of steps must be known where an optimizer counts. "
            f"`{counterpart.where}` counts, and torch's SGD does not. Pass `step`, or "
            "`scheduler=scheduler.state_dict()`."
        )
    return jax.tree.map(lambda leaf: leaf_like(count, leaf), counterpart.field.value)
