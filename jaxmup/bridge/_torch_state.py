"""The form of an optimizer's state in torch, looked at before anything is read of it."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NoReturn

from jaxmup import _check

_REMEDY = "Pass `optimizer.state_dict()`."
# Hyper-parameters of the optimizers that are known, by their kind.
_NUMBERS = ("lr", "momentum", "dampening", "weight_decay", "eps", "alpha", "lr_decay")
_NUMBERS += ("initial_accumulator_value",)
_FLAGS = ("nesterov", "amsgrad", "centered", "maximize", "decoupled_weight_decay")


def require_state(torch_state: object) -> None:
    """Refuses what is no `state_dict()` of an optimizer of torch, by its form.

    Raises:
      TypeError: if it is no mapping.
      ValueError: naming the part that is of another form.
    """
    if not isinstance(torch_state, Mapping):
        raise TypeError(
            "`torch_state` must be the state of a torch optimizer, a mapping. Got "
            f"{type(torch_state).__name__}. {_REMEDY}"
        )
    if not {"state", "param_groups"} <= set(torch_state):
        raise ValueError(
            "The state of a torch optimizer has the keys 'state' and 'param_groups'. Got "
            f"{sorted(map(str, torch_state))}. {_REMEDY}"
        )
    state, groups = torch_state["state"], torch_state["param_groups"]
    if not isinstance(state, Mapping):
        _refuse("state", "a mapping from tensors to what is kept for each", state)
    for index, kept in state.items():
        if not (isinstance(kept, Mapping) and all(isinstance(name, str) for name in kept)):
            _refuse(f"state[{index!r}]", "a mapping of names", kept)
    if not _is_list(groups) or not groups:
        _refuse("param_groups", "a list of groups", groups)
    for i, group in enumerate(groups):
        if not (isinstance(group, Mapping) and all(isinstance(name, str) for name in group)):
            _refuse(f"param_groups[{i}]", "a mapping of names", group)
    indices = [index for i, group in enumerate(groups) for index in _indices(i, group)]
    if len({type(index) for index in indices}) > 1 or len(set(indices)) < len(indices):
        _refuse("param_groups", "groups of different tensors, all by number or by name", groups)


def _indices(position: int, group: Mapping[str, Any]) -> Sequence[Hashable]:
    indices = group.get("params")
    where = f"param_groups[{position}]"
    if not _is_list(indices) or not all(type(index) in (int, str) for index in indices):
        _refuse(f"{where}['params']", "a list of the numbers of tensors", indices)
    names = group.get("param_names", ())
    if "param_names" in group and not (
        _is_list(names)
        and len(names) == len(indices)
        and all(isinstance(name, str) for name in names)
    ):
        _refuse(f"{where}['param_names']", "a list with a name for each tensor", names)
    return indices


def require_hyperparameters(position: int, held: Mapping[str, Any]) -> None:
    """Refuses hyper-parameters that torch would not have taken, of any known optimizer.

    Raises:
      TypeError: if a number is none, or a flag no boolean.
      ValueError: if one is missing or out of range.
    """
    missing = [name for name in ("lr", "weight_decay") if name not in held]
    if missing:
        raise ValueError(f"A parameter group must have {missing}. Group {position} has not.")
    where = f"param_groups[{position}]"
    for name in _NUMBERS:
        if name in held:
            _check.number(f"{where}[{name!r}]", held[name], at_least=0, may_be_traced=False)
    for name in _FLAGS:
        if held.get(name) is not None:  # as states of older versions have some
            _check.flag(f"{where}[{name!r}]", held[name])
    betas = held.get("betas", (0.0, 0.0))
    if not (isinstance(betas, tuple) and len(betas) == 2):
        _refuse(f"{where}['betas']", "two numbers", betas)
    for beta in betas:
        _check.number(f"{where}['betas']", beta, at_least=0, below=1, may_be_traced=False)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _refuse(where: str, what: str, got: object) -> NoReturn:
    raise ValueError(f"`{where}` must be {what}. Got {_check.shown(got)}. {_REMEDY}")
