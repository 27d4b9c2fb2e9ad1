"""The state of an optimizer, from torch and to it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._opt_state import FieldKind, Owners
from jaxmup._tree import OptState, Params, PathName, leaves_by_path
from jaxmup.bridge._agreement import (
    require_at_rest,
    require_same_moments,
    require_same_step,
    require_started,
)
from jaxmup.bridge._moments import Tensor, tensors_of, trained_by_path
from jaxmup.bridge._optax_states import Moments, Standing, fields_of, filled, moments_of
from jaxmup.bridge._plan import Plan, put
from jaxmup.bridge._torch_run import TorchGroup, TorchRun, read_run, require_linear


class ParameterGroup(NamedTuple):
    """A parameter group of torch.

    Args:
      optimizer: Name of its class in `torch.optim`.
      hyperparameters: Numbers by torch's names.
      paths: Names of its parameters here.
      counterpart: Expression that makes the same optimizer here.
    """

    optimizer: str
    hyperparameters: Mapping[str, Any]
    paths: tuple[PathName, ...]
    counterpart: str


def parameter_groups(
    torch_state: Mapping[str, Any], plan: Plan, *, names: Sequence[str] | None = None
) -> list[ParameterGroup]:
    """The parameter groups of a torch optimizer, by the names that their parameters have here.

    `optax.partition` needs them: a label for each parameter, and an optimizer for each label.

    Args:
      torch_state: `optimizer.state_dict()`, of torch tensors or numpy arrays.
      plan: Plan of the weights, from `jaxmup.bridge.plan`.
      names: Names of the tensors; see `optimizer_from_torch`.

    Raises:
      ValueError: as `optimizer_from_torch`, where it concerns `torch_state`.

    Example:
      >>> from jaxmup import bridge
      >>> weight, params = np.ones((3, 2), "f4"), {"kernel": np.ones((2, 3), "f4")}
      >>> plan = bridge.plan({"weight": weight}, params)
      >>> sgd = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
      >>> state = {"state": {}, "param_groups": [{**sgd, "params": [0]}]}
      >>> (group,) = parameter_groups(state, plan, names=["weight"])
      >>> group.paths
      ('kernel',)
      >>> group.counterpart
      'optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(0.1))'
    """
    run = read_run(torch_state, names)
    paths = {
        name: tuple(place.path for place in tensor.places)
        for tensor in tensors_of(plan, run)
        for name in tensor.names
    }
    return [
        ParameterGroup(
            group.optimizer.name,
            group.hyperparameters,
            tuple(dict.fromkeys(path for i in group.indices for path in paths[run.names[i]])),
            group.optimizer.counterpart(group.hyperparameters),
        )
        for group in run.groups
    ]


def optimizer_from_torch(
    torch_state: Mapping[str, Any],
    plan: Plan,
    tx: optax.GradientTransformation,
    model: nnx.Module | Params,
    *,
    names: Sequence[str] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    step: int | None = None,
) -> OptState:
    """The state with which `tx` goes on where an optimizer of torch stands.

    Moments go through the layout of their weight. What `tx` was built from cannot be read off it,
    so it makes one step on tiny tensors beside torch's formula, and must agree: `eps` outside the
    root, how weight decays, whose AMSGrad it is, every hyper-parameter of every parameter group,
    and the learning rate at the position of its schedule. Clipping by a norm is not seen, since
    torch does it outside the optimizer.

    Args:
      torch_state: `optimizer.state_dict()` of SGD, Adam, AdamW, RMSprop or Adagrad, of torch
        tensors or numpy arrays.
      plan: Plan of the weights, from `jaxmup.bridge.plan`.
      tx: The optimizer here. `parameter_groups` says what it must be.
      model: NNX module, or a tree of parameters, such as Linen's `variables["params"]`.
      names: Names of the tensors, in the order in which torch's optimizer was given them, such as
        `[name for name, _ in model.named_parameters()]`, group after group. Not needed where it was
        given `model.named_parameters()` themselves.
      scheduler: `scheduler.state_dict()`, where schedules do not stand at the number of steps. It
        must have made a step after each one of the optimizer.
      step: Number of steps made, where torch does not count them (SGD).

    Returns:
      For an NNX module the state of an `nnx.Optimizer`, to be assigned to `optimizer.opt_state`;
      otherwise a state such as `tx.init(params)` returns.

    Raises:
      ValueError: if `torch_state` is no state, or of another optimizer; if tensors lack a name, or
        a name is not in `plan`, or not the one that `torch_state` holds; if moments are missing, of
        another shape or not finite; if parameters that have made steps have made different numbers
        of them; if a state in the chain of `tx` has no counterpart in torch or the other way round,
        or if their next steps differ, naming the parameters and the optimizer that would not. A
        parameter that has made none, as one without a gradient, must stand still under `tx` too.

    Example:
      >>> from jaxmup import bridge
      >>> weight, params = np.ones((3, 2), "f4"), {"kernel": np.ones((2, 3), "f4")}
      >>> plan = bridge.plan({"weight": weight}, params)
      >>> sgd = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
      >>> kept = {0: {"momentum_buffer": 2 * weight}}
      >>> state = {"state": kept, "param_groups": [{**sgd, "params": [0]}]}
      >>> tx = optax.sgd(0.1, momentum=0.9)
      >>> optimizer_from_torch(state, plan, tx, params, names=["weight"])[0].trace["kernel"]
      Array([[2., 2., 2.],
             [2., 2., 2.]], dtype=float32)
    """
    run = read_run(torch_state, names)
    tensors = tensors_of(plan, run)
    params = params_of(model)
    owners = Owners(leaves_by_path(params))
    trained = trained_by_path(tensors)
    state = _initial_state(tx, model)
    require_same_moments(state, trained, owners)
    require_started(run)
    standing = _standing(run, scheduler, step)
    require_same_step(tx, params, trained, standing)
    return filled(state, _moments(tensors, run, params), standing, owners)


def optimizer_to_torch(
    opt_state: OptState,
    plan: Plan,
    tx: optax.GradientTransformation,
    model: nnx.Module | Params,
    torch_state: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """The state with which an optimizer of torch goes on where `tx` stands.

    Args:
      opt_state: State of `tx`, or `optimizer.opt_state` of an `nnx.Optimizer`.
      plan: Plan of the weights, from `jaxmup.bridge.plan`.
      tx: The optimizer here. Its next step must be that of torch's optimizer.
      model: NNX module, or a tree of parameters.
      torch_state: `optimizer.state_dict()` of torch's optimizer: its parameter groups count, with
        the learning rates of the next step; what it has in its state does not.
      names: Names of the tensors; see `optimizer_from_torch`.
      step: Number of steps made, where `tx` does not count them.

    Returns:
      Arrays of numpy where torch has tensors: `optimizer.load_state_dict(as_tensors(result))`.

    Raises:
      ValueError: as `optimizer_from_torch`; also if gradients have been accumulated since the last
        step, for which torch has no place.

    Example:
      >>> from jaxmup import bridge
      >>> weight, params = np.ones((3, 2), "f4"), {"kernel": np.ones((2, 3), "f4")}
      >>> plan = bridge.plan({"weight": weight}, params)
      >>> sgd = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
      >>> state = {"state": {}, "param_groups": [{**sgd, "params": [0]}]}
      >>> tx = optax.sgd(0.1, momentum=0.9)
      >>> moved = optimizer_to_torch(tx.init(params), plan, tx, params, state, names=["weight"])
      >>> moved["state"][0]["momentum_buffer"].shape
      (3, 2)
    """
    run = read_run({**torch_state, "state": {}}, names)
    params = params_of(model)
    owners = Owners(leaves_by_path(params))
    held = _held(opt_state, owners)
    run = run.without(_left_still(tensors_of(plan, run), held))
    tensors = tensors_of(plan, run)
    trained = trained_by_path(tensors)
    require_same_moments(opt_state, trained, owners)
    require_at_rest(opt_state, _initial_state(tx, model))
    counted, position = _count(opt_state, "steps"), _count(opt_state, "position")
    step = next((n for n in (counted, step, position) if n is not None), None)
    require_same_step(tx, params, trained, Standing(step, position, _one_rate(run)))
    by_name: dict[str, dict[str, np.ndarray]] = {}
    for tensor in tensors:
        degrees = tensor.group.optimizer.moments(tensor.group.hyperparameters)
        for key, degree in degrees.items():
            arrays = [place.of(held[key][place.path]) for place in tensor.places]
            for place, array in zip(tensor.places, arrays, strict=True):
                require_linear(place.path, key, array, degree)
            for name in tensor.names:
                by_name.setdefault(name, {})[key] = tensor.to_torch(arrays, degree)
    return {"state": _torch_states(run, by_name, step), "param_groups": torch_state["param_groups"]}


def schedule_position(opt_state: OptState) -> int | None:
    """The position of an optimizer's schedules: the `last_epoch` of torch's schedulers.

    In torch such a scheduler is made with `last_epoch = position - 1`, and then sets the learning
    rates of the next step.

    Args:
      opt_state: State of an optax optimizer; `optimizer.opt_state` of an `nnx.Optimizer`.

    Returns:
      The number of steps that the schedules have seen; `None` if there are none.

    Raises:
      ValueError: if a state in the chain is not known, or two schedules stand apart.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = optax.sgd(optax.cosine_decay_schedule(0.1, 10))
      >>> schedule_position(tx.init({"w": jnp.ones(1)}))
      0
    """
    return _count(opt_state, "position")


def params_of(model: nnx.Module | Params) -> Params:
    """The tree of parameters of an NNX module, or the tree itself."""
    return nnx.state(model, nnx.Param) if isinstance(model, nnx.Module) else model


def _initial_state(tx: optax.GradientTransformation, model: nnx.Module | Params) -> OptState:
    if isinstance(model, nnx.Module):
        return nnx.Optimizer(model, tx, wrt=nnx.Param).opt_state
    return tx.init(model)


def _held(state: OptState, owners: Owners) -> dict[str, dict[PathName, np.ndarray]]:
    """The moments in a state, by torch's name of the moment and the name of the parameter."""
    held: dict[str, dict[PathName, np.ndarray]] = {}
    for name, path, leaf in moments_of(state, owners):
        held.setdefault(name, {})[path] = np.asarray(leaf)
    return held


def _left_still(
    tensors: Sequence[Tensor], held: Mapping[str, Mapping[PathName, np.ndarray]]
) -> set[str]:
    """Tensors of which torch would keep moments and the state here keeps none."""
    kept = {path for arrays in held.values() for path in arrays}
    return (
        {
            name
            for tensor in tensors
            if tensor.group.optimizer.moments(tensor.group.hyperparameters)
            and not any(place.path in kept for place in tensor.places)
            for name in tensor.names
        }
        if kept
        else set()
    )


def _standing(run: TorchRun, scheduler: Mapping[str, Any] | None, step: int | None) -> Standing:
    """The standing of torch's run."""
    if step is not None:
        _check.size("step", step, at_least=0, remedy="It is the number of steps made.")
    if None not in (step, run.step) and step != run.step:
        raise ValueError(f"`step` must be what torch has counted, {run.step}. Got {step}.")
    step = run.step if step is None else step
    if scheduler is None:
        return Standing(step, step, _one_rate(run))
    if "last_epoch" not in scheduler:
        raise ValueError(
            "`scheduler` must be the `state_dict()` of a scheduler, with 'last_epoch'. Got the "
            f"keys {sorted(map(str, scheduler))}."
        )
    return Standing(step, int(scheduler["last_epoch"]), _one_rate(run))


def _one_rate(run: TorchRun) -> float | None:
    """The learning rate, if all groups have one."""
    rates = {group.hyperparameters["lr"] for group in run.groups}
    return rates.pop() if len(rates) == 1 else None


def _moments(tensors: Sequence[Tensor], run: TorchRun, params: Params) -> Moments:
    """The moments by torch's name of the moment and the name of the parameter."""
    shapes = {path: np.shape(leaf) for path, leaf in leaves_by_path(params).items()}
    moments: dict[str, dict[str, np.ndarray]] = {}
    for tensor in tensors:
        degrees = tensor.group.optimizer.moments(tensor.group.hyperparameters)
        for key, array in run.moments[tensor.names[0]].items():
            parts = tensor.to_jax(array, degrees[key])
            for place, part in zip(tensor.places, parts, strict=True):
                put(moments.setdefault(key, {}), place, shapes[place.path], part)
    return moments


def _count(state: OptState, kind: FieldKind) -> int | None:
    """The number that all counters of this kind have reached; `None` if there are none."""
    counts = {
        part.where: int(np.asarray(jax.tree.leaves(part.field.value)[0]))
        for part in fields_of(state)
        if part.field.kind == kind
    }
    if len(set(counts.values())) > 1:
        raise ValueError(
            "All parts of an optimizer must have made the same number of steps. Got"
            f"{listed(f'{path}: {count}' for path, count in counts.items())}"
        )
    return next(iter(counts.values()), None)


def _torch_states(
    run: TorchRun, moments: Mapping[str, dict[str, np.ndarray]], step: int | None
) -> dict[int, dict[str, np.ndarray]]:
    """The state that torch keeps, by the index of the tensor."""
    states: dict[int, dict[str, np.ndarray]] = {}
    for group in run.groups:
        for index in group.indices:
            held = dict(moments.get(run.names[index], {}))
            if group.optimizer.counts:
                held = {"step": _step(group, step), **held}
            if held:
                states[index] = held
    return states


def _step(group: TorchGroup, step: int | None) -> np.ndarray:
    if step is None:
        raise ValueError(
            f"torch's {group.optimizer.name} counts its steps, and `tx` does not. Pass `step`."
        )
    return np.asarray(step, np.float32)
