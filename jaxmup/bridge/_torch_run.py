"""The state of an optimizer of torch, checked, by the names of its tensors."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxmup import _check
from jaxmup._check import listed
from jaxmup.bridge._sources import naming
from jaxmup.bridge._tensors import dtype_of, to_numpy
from jaxmup.bridge._torch_optimizers import TORCH_OPTIMIZERS, Group, TorchOptimizer
from jaxmup.bridge._torch_state import require_hyperparameters, require_state


class TorchGroup(NamedTuple):
    """A parameter group.

    Args:
      optimizer: Row of the optimizer.
      hyperparameters: Numbers by torch's names.
      indices: Indices of its tensors.
    """

    optimizer: TorchOptimizer
    hyperparameters: Group
    indices: tuple[int, ...]


class TorchRun(NamedTuple):
    """The state of an optimizer.

    Args:
      groups: Parameter groups.
      names: Names of the tensors by index.
      moments: Arrays kept for each tensor, by the tensor's name and torch's name of the moment.
      step: Number of steps made; `None` where torch counts none.
    """

    groups: tuple[TorchGroup, ...]
    names: Mapping[int, str]
    moments: Mapping[str, Mapping[str, np.ndarray]]
    step: int | None

    def group_of(self) -> dict[str, TorchGroup]:
        """The group of each tensor that is trained."""
        return {self.names[i]: group for group in self.groups for i in group.indices}

    def without(self, names: Collection[str]) -> "TorchRun":
        """The run with some tensors untrained: in the optimizer, and never moved by it."""
        groups = tuple(
            group._replace(indices=tuple(i for i in group.indices if self.names[i] not in names))
            for group in self.groups
        )
        moments = {name: held for name, held in self.moments.items() if name not in names}
        return self._replace(groups=groups, moments=moments)


def read_run(torch_state: Mapping[str, Any], names: Sequence[str] | None) -> TorchRun:
    """Reads the `state_dict()` of an optimizer of torch; its arrays may be numpy's.

    Args:
      torch_state: The state.
      names: Names of the tensors in the order of their indices, where the groups hold none.

    Raises:
      TypeError: if it is no mapping.
      ValueError: if it is no state, or of an optimizer that is not in the table, or names its
        tensors otherwise than `names`, or a moment is not finite, or one of squares is
        negative, or those of the tensors that have made steps have made different numbers of them.
    """
    require_state(torch_state)
    groups = tuple(_group(i, group) for i, group in enumerate(torch_state["param_groups"]))
    by_index = _names(torch_state["param_groups"], names)
    loose = [i for i in torch_state["state"] if i not in by_index]
    if loose:
        raise ValueError(f"The state is of tensors in no parameter group: {loose}.")
    for i, group in enumerate(groups):
        require_hyperparameters(i, group.hyperparameters)
    kept = {
        by_index[i]: _moments(by_index[i], group, torch_state["state"].get(i, {}))
        for group in groups
        for i in group.indices
    }
    counts = {
        by_index[i]: _step(by_index[i], state["step"])
        for i, state in torch_state["state"].items()
        if "step" in state
    }
    counts |= {
        name: 0
        for group in groups
        if group.optimizer.counts
        for name in (by_index[i] for i in group.indices)
        if name not in counts
    }
    # torch passes over what has no gradient: a frozen tensor, or one that the loss does not see.
    untrained = (
        {name for name, count in counts.items() if not count} if any(counts.values()) else ()
    )
    counts = {name: count for name, count in counts.items() if name not in untrained}
    return TorchRun(groups, by_index, kept, _one_step(counts)).without(untrained)


def _group(position: int, group: Mapping[str, Any]) -> TorchGroup:
    optimizer = next((row for row in TORCH_OPTIMIZERS if row.marks <= set(group)), None)
    if optimizer is None:
        raise ValueError(
            "The state must be that of a known torch optimizer. Group "
            f"{position} has the hyper-parameters {sorted(set(group) - {'params'})}. Known are"
            f"{listed(f'{row.name}: {sorted(row.marks)}' for row in TORCH_OPTIMIZERS)}"
        )
    if "betas" in group and group.get("weight_decay") and "decoupled_weight_decay" not in group:
        raise ValueError(
            "Adam adds its weight decay to the gradient, AdamW does not, and a state that an older "
            f"torch has saved does not say which of them it is of. Group {position} decays by "
            f"{group['weight_decay']}. Set `group['decoupled_weight_decay']` to False for Adam or "
            "True for AdamW."
        )
    held = {name: _number(value) for name, value in group.items() if name not in _NOT_NUMBERS}
    return TorchGroup(optimizer, held, tuple(group["params"]))


_NOT_NUMBERS = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}


def _number(value: Any) -> Any:
    """A hyper-parameter without the tensor around it."""
    if isinstance(value, tuple | list):
        return tuple(map(_number, value))
    is_one = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_one else value


def _names(groups: Sequence[Mapping[str, Any]], names: Sequence[str] | None) -> dict[int, str]:
    indices = [i for group in groups for i in group["params"]]
    held = [name for group in groups for name in group.get("param_names", ())]
    if len(held) == len(indices):
        by_index = dict(zip(indices, held, strict=True))
        given = dict(zip(sorted(indices), names or (), strict=False))
        if names is not None and (given != by_index or len(names) != len(held)):
            raise ValueError(
                "`names` must be those that the state has, if it has any. The state has "
                f"{[by_index[i] for i in sorted(indices)]}; `names` are {list(names)}."
            )
        return by_index
    names = () if names is None else names
    if len(indices) != len(names) or len(set(names)) != len(names):
        raise ValueError(
            "Each tensor of the optimizer needs its name, and its state counts them only. It has "
            f"{len(indices)} tensors; the names are {len(names)}. Pass `names`, those of the "
            "parameters in the order in which the optimizer was given them, such as "
            "`[name for name, _ in model.named_parameters()]`, group after group."
        )
    return dict(zip(sorted(indices), names, strict=True))


def _moments(name: str, group: TorchGroup, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    wanted = group.optimizer.moments(group.hyperparameters)
    extra = [
        key for key, value in state.items() if key not in (*wanted, "step") and value is not None
    ]
    if extra:
        raise ValueError(
            f"{group.optimizer.name} with these hyper-parameters keeps {sorted(wanted)}. For "
            f"{name} the state holds {sorted(extra)} too. Is it of another optimizer?"
        )
    found = {key: _array(name, key, state[key]) for key in wanted if state.get(key) is not None}
    missing = [key for key in wanted if key not in found]
    if found and missing:
        raise ValueError(
            f"{group.optimizer.name} keeps {sorted(wanted)}. For {name} the state lacks {missing}."
        )
    for key, array in found.items():
        require_linear(name, key, array, wanted[key])
        wide = array if np.iscomplexobj(array) else array.astype(np.float64)
        if not np.all(np.isfinite(wide)):
            raise ValueError(f"Moments must be finite. `{key}` of {name} is not.")
        if wanted[key] == 2 and np.any(wide < 0):
            raise ValueError(f"A moment of squares must not be negative, and `{key}` of {name} is.")
    return found


def _array(name: str, key: str, value: Any) -> np.ndarray:
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise ValueError(
            f"A moment must be a tensor. `{key}` of {name} is of type {type(value).__name__}."
        )
    with naming("", f"`{key}` of {name}"):
        dtype_of(value)
        return to_numpy(value)


def require_linear(name: str, key: str, moment: np.ndarray, degree: float) -> None:
    """Raises a `ValueError` for a second moment of complex numbers.

    torch squares real and imaginary parts apart, optax the absolute value: neither can be had from
    the other.
    """
    if degree != 1 and np.iscomplexobj(moment):
        raise ValueError(
            f"A second moment must be real. `{key}` of {name} is {moment.dtype}: torch keeps the "
            "squares of real and imaginary parts, optax that of the absolute value. Start the "
            "optimizer anew, or train the two parts as real parameters."
        )


def _step(name: str, value: Any) -> int:
    value = _number(value)
    _check.number(f"step of {name}", value, at_least=0, may_be_traced=False)
    step = float(value)
    if not (math.isfinite(step) and step >= 0 and step.is_integer()):
        raise ValueError(f"A number of steps is an integer, 0 or more. {name} has {step}.")
    return int(step)


def _one_step(counts: Mapping[str, int]) -> int | None:
    if len(set(counts.values())) > 1:
        raise ValueError(
            "Here all parameters of an optimizer share one count of steps. In torch they have made"
            f"{listed(f'{name}: {count}' for name, count in counts.items())}\n"
            "Some had no gradient at some steps; torch passes over them there. Such a run has no "
            "counterpart in one optax optimizer; convert those with fewer steps apart."
        )
    return next(iter(counts.values()), None)
