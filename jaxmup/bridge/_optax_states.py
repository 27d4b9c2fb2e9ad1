"""Which field of an optax state holds what torch keeps under another name, and filling them."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxmup._tree import listed, path_name

# What a field is: a number of steps, the position of the schedules, the learning rate among
# injected hyper-parameters, the states of other transforms, or what is alike between any two steps.
Kind = Literal["step", "position", "rate", "inner", "at rest"]


class Moment(NamedTuple):
    """A field with an array for each parameter, and torch's name of it."""

    name: str


_ADAM: dict[str, Moment | Kind] = {
    "count": "step",
    "mu": Moment("exp_avg"),
    "nu": Moment("exp_avg_sq"),
}

STATES: dict[str, dict[str, Moment | Kind]] = {
    "ScaleByAdamState": _ADAM,
    "ScaleByAmsgradState": {**_ADAM, "nu_max": Moment("max_exp_avg_sq")},
    "ScaleByRmsState": {"nu": Moment("square_avg")},
    "ScaleByRStdDevState": {"mu": Moment("grad_avg"), "nu": Moment("square_avg")},
    "ScaleByRssState": {"sum_of_squares": Moment("sum")},
    "TraceState": {"trace": Moment("momentum_buffer")},
    "ScaleByScheduleState": {"count": "position"},
    "WrappedScheduleState": {"count": "position"},
    "WeightDecaySchedule": {"count": "position"},
    "InjectHyperparamsState": {"count": "step", "hyperparams": "rate", "inner_state": "inner"},
    "InjectStatefulHyperparamsState": {
        "count": "step",
        "hyperparams": "rate",
        "hyperparams_states": "inner",
        "inner_state": "inner",
    },
    "MaskedState": {"inner_state": "inner"},
    "PartitionState": {"inner_states": "inner"},
    "MultiStepsState": {
        "mini_step": "at rest",
        "gradient_step": "step",
        "inner_opt_state": "inner",
        "acc_grads": "at rest",
        "skip_state": "at rest",
    },
    "ApplyIfFiniteState": {
        "notfinite_count": "at rest",
        "last_finite": "at rest",
        "total_notfinite": "at rest",
        "inner_state": "inner",
    },
    "EmptyState": {},
    "ReadyChainState": {},
    "ScaleGradientsState": {},
    "ScaleUpdatesState": {},
    "ClipByGlobalNormState": {},
}


class Field(NamedTuple):
    """A field of the state of one transform; `path` says where it stands."""

    path: str
    kind: Moment | Kind
    value: Any


def fields_of(state: Any) -> Iterator[Field]:
    """The fields of all transforms in the state of an optimizer.

    Raises:
      ValueError: naming every state that torch has no counterpart of.
    """
    unknown: list[str] = []
    yield from _fields_of(state, "", unknown)
    if unknown:
        raise ValueError(
            "Every state in the chain must have a counterpart in torch. Without one:"
            f"{listed(unknown)}\nKnown are{listed(name for name in STATES if STATES[name])}"
        )


def _fields_of(state: Any, path: str, unknown: list[str]) -> Iterator[Field]:
    for name, part in _parts(state):
        yield from _fields_of(part, f"{path}/{name}".lstrip("/"), unknown)
    row = _row(state)
    if row is None:
        unknown.append(f"{path or '(the state itself)'}: {type(state).__name__}")
        return
    for name, kind in row.items():
        if kind != "inner":
            yield Field(f"{path}/{name}".lstrip("/"), kind, getattr(state, name))


def _parts(state: Any) -> list[tuple[Any, Any]]:
    """The states inside this one, with the names that their paths go on with."""
    if type(state) in (tuple, list):
        return list(enumerate(state))
    if isinstance(state, Mapping):
        return list(state.items())
    row = _row(state) or {}
    return [(name, getattr(state, name)) for name, kind in row.items() if kind == "inner"]


def _row(state: Any) -> dict[str, Moment | Kind] | None:
    if type(state) in (tuple, list) or isinstance(state, Mapping):
        return {}
    row = STATES.get(type(state).__name__)
    return row if row is not None and set(row) == set(getattr(state, "_fields", ())) else None


def with_fields(state: Any, fields: Mapping[str, Any], path: str = "") -> Any:
    """`state` with other values in the fields at these paths."""
    if type(state) in (tuple, list):
        return type(state)(
            with_fields(part, fields, f"{path}/{i}".lstrip("/")) for i, part in enumerate(state)
        )
    if isinstance(state, Mapping):
        return {k: with_fields(v, fields, f"{path}/{k}".lstrip("/")) for k, v in state.items()}
    values = {}
    for name, kind in (_row(state) or {}).items():
        at = f"{path}/{name}".lstrip("/")
        if kind == "inner":
            values[name] = with_fields(getattr(state, name), fields, at)
        elif at in fields:
            values[name] = fields[at]
    return state._replace(**values) if values else state


def leaf_like(value: Any, leaf: Any) -> Array:
    """`value` as an array of the dtype of `leaf`, spread over devices as it is."""
    array = jnp.array(value, leaf.dtype)  # a copy: torch updates its tensors in place
    sharding = getattr(leaf, "sharding", None)
    if sharding is None or len(sharding.device_set) == 1:
        return array
    return jax.device_put(array, sharding)


def filled(
    state: Any,
    moments: Mapping[str, Mapping[str, np.ndarray]],
    step: int | None,
    position: int | None,
    rate: float | None,
) -> Any:
    """`state` with moments and counts put in.

    Args:
      state: that of a new optimizer.
      moments: arrays by torch's name of the moment and the path of the parameter; where one is
        missing, the initial one stays.
      step: number of steps made.
      position: of the schedules.
      rate: the learning rate for `optax.inject_hyperparams`; `None` to leave it.
    """
    counts = {"step": step, "position": position}
    fields: dict[str, Any] = {}
    for field in fields_of(state):
        if isinstance(field.kind, Moment):
            arrays = moments.get(field.kind.name, {})
            fields[field.path] = jax.tree_util.tree_map_with_path(
                lambda path, leaf, arrays=arrays: (
                    leaf_like(arrays[path_name(path)], leaf) if path_name(path) in arrays else leaf
                ),
                field.value,
            )
        elif field.kind in counts:
            fields[field.path] = _count(field, counts[field.kind])
        elif field.kind == "rate" and rate is not None and "learning_rate" in field.value:
            held = jax.tree.map(lambda leaf: leaf_like(rate, leaf), field.value["learning_rate"])
            fields[field.path] = {**field.value, "learning_rate": held}
    return with_fields(state, fields)


def _count(field: Field, count: int | None) -> Any:
    if count is None:
        raise ValueError(
            f"The number of steps must be known where an optimizer counts. `{field.path}` counts, "
            "and torch's SGD does not. Pass `step`, or `scheduler=scheduler.state_dict()`."
        )
    return jax.tree.map(lambda leaf: leaf_like(count, leaf), field.value)
