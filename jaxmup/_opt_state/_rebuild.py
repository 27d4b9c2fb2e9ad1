"""A state with other values in some of its fields."""

from collections.abc import Mapping
from typing import Any

from jaxmup._opt_state._walk import StatePath
from jaxmup._tree import OptState


def with_fields(state: OptState, values: Mapping[StatePath, Any]) -> OptState:
    """`state` with other values at these paths.

    Args:
      state: State of an optax optimizer.
      values: Values that are put in, by path; what has no value is not copied.

    Example:
      >>> import optax
      >>> with_fields((optax.TraceState(1), optax.EmptyState()), {(0, "trace"): 2})
      (TraceState(trace=2), EmptyState())
    """
    if () in values:
        return values[()]
    inside: dict[Any, dict[StatePath, Any]] = {}
    for (key, *rest), value in values.items():
        inside.setdefault(key, {})[tuple(rest)] = value
    if not inside:
        return state
    if isinstance(state, Mapping):
        return {
            key: with_fields(part, inside[key]) if key in inside else part
            for key, part in state.items()
        }
    if type(state) in (tuple, list):
        parts = enumerate(state)
        return type(state)(with_fields(x, inside[i]) if i in inside else x for i, x in parts)
    parts = {name: with_fields(getattr(state, name), rest) for name, rest in inside.items()}
    return state._replace(**parts)
