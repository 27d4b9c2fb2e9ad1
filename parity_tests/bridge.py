"""The same network, weights, batches and optimizer in jaxmup and in torch, and what each did.

The one module of the suite that knows both sides. Initial weights are drawn once, in numpy, and
loaded into both. Everything that it returns is numpy in jaxmup's layout, under the names
`"layer/kernel"`, of shape `(fan_in, fan_out)`, and `"layer/bias"`.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jax import Array, lax

import jaxmup
import torch_ref
from parity_tests import cases
from parity_tests.cases import Case, Numbers, Shift

Tree = dict[str, np.ndarray]


class History(NamedTuple):
    """The steps of one side; every array has them as its first axis.

    Args:
      outputs: Outputs of the network before the update.
      losses: Mean squared errors before the update.
      gradients: Gradients as the optimizer sees them, with the factor d.
      params: Stored parameters after the update.
      moments: Moments of the optimizer after the update, as `"mu/0/kernel"`; the names are optax's.
      count: Number of steps that the optimizer has counted; `None` if it counts none.
    """

    outputs: np.ndarray
    losses: np.ndarray
    gradients: Tree
    params: Tree
    moments: Tree
    count: int | None

    def first(self) -> "History":
        """The first step alone."""
        return self.only(slice(1))

    def only(self, steps: slice) -> "History":
        """Some of the steps."""
        trees = ({name: array[steps] for name, array in tree.items()} for tree in self[2:5])
        return History(self.outputs[steps], self.losses[steps], *trees, self.count)


# ------------------------------------------------------------------------------ drawn in numpy


@functools.cache
def weights(case: Case) -> Tree:
    """Initial parameters, with the standard deviations of the parametrization."""
    rng = np.random.default_rng(0)
    return {name: n.init_std * rng.standard_normal(_shape(case, name)) for name, n in _given(case)}


@functools.cache
def batches(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `(steps, batch, inputs)` and targets `(steps, batch, outputs)`; a batch a step."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((cases.STEPS, cases.BATCH, cases.INPUTS))
    noise = rng.standard_normal((cases.STEPS, cases.BATCH, cases.OUTPUTS))
    return x, np.stack([x.prod(-1), x.sum(-1)], -1) + noise


def _given(case: Case) -> list[tuple[str, Numbers]]:
    return list(cases.numbers(case).items())


def _shape(case: Case, name: str) -> tuple[int, ...]:
    layer, leaf = int(name.split("/")[0]), name.split("/")[1]
    fan_in, fan_out = case.sizes[layer : layer + 2]
    return (fan_in, fan_out) if leaf == "kernel" else (fan_out,)


# -------------------------------------------------------------------------------------- jaxmup

STORED = {"float64": jnp.float64, "float32": jnp.float32, "bfloat16": jnp.float32}
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class LinenNetwork(flax.linen.Module):
    """Layers with an activation between them."""

    layers: tuple[jaxmup.linen.Dense, ...]
    activation: Callable[[Array], Array]

    def __call__(self, x: Array) -> Array:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class NNXNetwork(flax.nnx.Module):
    """Layers with an activation between them."""

    def __init__(self, layers: list[jaxmup.nnx.Linear], activation: Callable[[Array], Array]):
        self.layers = flax.nnx.List(layers)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class JaxModel(NamedTuple):
    """A network of either API as functions of its parameters."""

    apply: Callable[[Any, Array], Array]
    params: Any  # abstract
    specs: Any
    init: Callable[[Array], Any]


def parametrization(case: Case) -> jaxmup.Parametrization:
    """The parametrization of a case in jaxmup."""
    if case.rule in ("cellarium", "standard"):
        return jaxmup.parametrization(case.rule, case.family)
    return jaxmup.parametrization("mup", case.family, gauge=case.rule)


def jax_model(case: Case) -> JaxModel:
    """The network of a case."""
    layers = [
        {
            "base_in_features": None if i == 0 else cases.BASE,
            "base_out_features": None if i == case.depth else cases.BASE,
            "use_bias": case.bias,
            "param_dtype": STORED[case.dtype],
            "dtype": jnp.bfloat16 if case.dtype == "bfloat16" else None,
            "parametrization": parametrization(case),
            "init_std": cases.KERNEL_STD,
            "bias_init_std": cases.BIAS_STD if case.bias else None,
            "lr_scale": case.alpha,
        }
        for i in range(case.depth + 1)
    ]
    make = _linen_model if case.api == "linen" else _nnx_model
    return make(case.sizes, layers, ACTIVATIONS[case.activation])


def _linen_model(sizes: list[int], layers: list[dict[str, Any]], activation: Any) -> JaxModel:
    named = [
        {"base_features" if k == "base_out_features" else k: v for k, v in layer.items()}
        for layer in layers
    ]
    dense = [jaxmup.linen.Dense(n, **kwargs) for n, kwargs in zip(sizes[1:], named, strict=True)]
    module = LinenNetwork(tuple(dense), activation)
    inputs = jnp.zeros((1, sizes[0]), layers[0]["param_dtype"])

    def init(key: Array) -> Any:
        return module.init(key, inputs)["params"]

    return JaxModel(
        apply=lambda params, x: jnp.asarray(module.apply({"params": params}, x)),
        params=jax.eval_shape(init, jax.random.key(0)),
        specs=jaxmup.linen.specs(module, inputs),
        init=init,
    )


def _nnx_model(sizes: list[int], layers: list[dict[str, Any]], activation: Any) -> JaxModel:
    def make(key: Array) -> NNXNetwork:
        rngs = flax.nnx.Rngs(key)
        pairs = zip(sizes[:-1], sizes[1:], layers, strict=True)
        linear = [jaxmup.nnx.Linear(n, m, **kwargs, rngs=rngs) for n, m, kwargs in pairs]
        return NNXNetwork(linear, activation)

    abstract = flax.nnx.eval_shape(lambda: make(jax.random.key(0)))
    graph, params = flax.nnx.split(abstract)
    return JaxModel(
        apply=lambda params, x: flax.nnx.merge(graph, params)(x),
        params=params,
        specs=jaxmup.nnx.specs(abstract),
        init=lambda key: flax.nnx.state(make(key), flax.nnx.Param),
    )


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of parameters, specs, scalings or moments of either API."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    found = re.search(r"(\d+).*(kernel|bias)", jax.tree_util.keystr(path))
    assert found is not None, path
    return "/".join(found.groups())


def _load(params: Any, values: Tree) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(values[_name(path)], leaf.dtype), params
    )


def jax_optimizer(case: Case, scalings: Any) -> optax.GradientTransformation:
    """The optimizer of a case, in jaxmup's words."""
    optim, (b1, b2) = jaxmup.optim, cases.BETAS
    adam = {"learning_rate": cases.ADAM_LR, "scalings": scalings, "b1": b1, "b2": b2}
    adam |= {"eps": cases.EPS}
    match case.optimizer:
        case "sgd":
            return optim.sgd(cases.LR["sgd"], scalings)
        case "momentum" | "nesterov" as name:
            nesterov = name == "nesterov"
            return optim.sgd(cases.LR[name], scalings, cases.MOMENTUM, nesterov)
        case "adam":
            return optim.adam(**adam)
        case "adamw":
            return optim.adamw(**adam, weight_decay=cases.DECAY)
        case "adam_l2":
            return optim.adam(**adam, weight_decay=cases.DECAY, weight_decay_mode="coupled")
        case "amsgrad":
            return optim.amsgrad(**adam)
        case "amsgrad_decoupled":
            return optim.amsgrad(**adam, weight_decay=cases.DECAY)
    raise ValueError(f"unknown optimizer {case.optimizer!r}")


@functools.cache
def jax_history(case: Case) -> History:
    """Trains the network of a case with jaxmup: one compiled scan over the steps."""
    model = jax_model(case)
    scalings = jaxmup.resolve(model.specs, parametrization(case))
    tx, prescale = jax_optimizer(case, scalings), jaxmup.optim.scale_gradients(scalings)

    def loss(params: Any, x: Array, y: Array) -> tuple[Array, Array]:
        outputs = model.apply(params, x)
        return jnp.mean(jnp.square(outputs.astype(y.dtype) - y)), outputs

    def step(carry: Any, batch: tuple[Array, Array]) -> tuple[Any, Any]:
        params, state = carry
        (value, outputs), grads = jax.value_and_grad(loss, has_aux=True)(params, *batch)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen, _ = prescale.update(grads, prescale.init(params))
        return (params, state), (outputs, value, seen, params, _moments(state))

    @jax.jit
    def train(params: Any, data: Any) -> Any:
        return lax.scan(step, (params, tx.init(params)), data)

    data = tuple(jnp.asarray(array, STORED[case.dtype]) for array in batches(case))
    (_, state), recorded = train(_load(model.params, weights(case)), data)
    outputs, losses, gradients, params, moments = recorded
    count = _fields(state).get("count")
    return History(
        np.asarray(outputs.astype(losses.dtype)),
        np.asarray(losses),
        _numpy(named(gradients)),
        _numpy(named(params)),
        _flat(moments),
        None if count is None else int(count),
    )


_STATES = (optax.ScaleByAdamState, optax.ScaleByAmsgradState, optax.TraceState)


def _fields(state: Any) -> dict[str, Any]:
    """The state of the optimizer in a chain: its count and moments, or nothing."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, _STATES))
    return next((node._asdict() for node in nodes if isinstance(node, _STATES)), {})


def _moments(state: Any) -> dict[str, Any]:
    return {name: tree for name, tree in _fields(state).items() if name != "count"}


def _flat(moments: dict[str, Any]) -> Tree:
    return _numpy(
        {f"{kind}/{k}": v for kind, tree in moments.items() for k, v in named(tree).items()}
    )


def _numpy(tree: dict[str, Any]) -> Tree:
    return {name: np.asarray(leaf) for name, leaf in tree.items()}


# --------------------------------------------------------------------------------------- torch

TORCH_STORED = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32}
TORCH_ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
MISPLACED_EPS = "torch_ref with eps beside the uncorrected root"
# torch's names of the moments, and optax's
MOMENTS = {
    "momentum_buffer": "trace",
    "exp_avg": "mu",
    "exp_avg_sq": "nu",
    "max_exp_avg_sq": "nu_max",
}


def torch_layers(case: Case, given: dict[str, Numbers]) -> list[torch_ref.ScaledLinear]:
    """The layers of a case with their initial weights.

    Those of the rule "cellarium" are the reference layer itself, with its own tables; of the others
    the numbers are given.
    """
    layers = []
    for i, (fan_in, fan_out) in enumerate(zip(case.sizes[:-1], case.sizes[1:], strict=True)):
        if case.rule == "cellarium":
            layer = torch_ref.MuLinear(
                fan_in,
                fan_out,
                layer=cases.role(case, i, "kernel"),  # pyright: ignore[reportArgumentType]
                optimizer=case.family,  # pyright: ignore[reportArgumentType]
                base_width=cases.BASE,
                lr_scale=case.alpha,
                weight_init_std=cases.KERNEL_STD,
                bias_init_std=cases.BIAS_STD,
                bias=case.bias,
                dtype=TORCH_STORED[case.dtype],
            )
        else:
            layer = torch_ref.ScaledLinear(
                fan_in,
                fan_out,
                weight=_scale(given[f"{i}/kernel"]),
                bias=_scale(given[f"{i}/bias"]) if case.bias else None,
                dtype=TORCH_STORED[case.dtype],
            )
        layers.append(layer)
    with torch.no_grad():
        for name, parameter in torch_parameters(layers).items():
            parameter.copy_(torch.from_numpy(weights(case)[name].T))
    return layers


def _scale(n: Numbers) -> torch_ref.ParameterScale:
    return torch_ref.ParameterScale(n.init_std, n.multiplier, n.grad, n.lr)


def torch_parameters(layers: list[torch_ref.ScaledLinear]) -> dict[str, torch.nn.Parameter]:
    """The stored parameters; a kernel of torch is the transpose of one of jaxmup."""
    leaves = {"weight_unscaled": "kernel", "bias_unscaled": "bias"}
    return {
        f"{i}/{leaves[name]}": parameter
        for i, layer in enumerate(layers)
        for name, parameter, _ in layer.scaled_parameters()
    }


def torch_optimizer(
    case: Case, peer: str, parameters: dict[str, torch.nn.Parameter], given: dict[str, Numbers]
) -> torch.optim.Optimizer:
    """The optimizer of a case from `torch.optim` or from `torch_ref`, one group a parameter."""
    lr = cases.LR.get(case.optimizer, cases.ADAM_LR)
    groups = [
        {
            "params": [parameter],
            "lr": lr * given[name].lr,
            "weight_decay": _weight_decay(case, given[name]),
        }
        | ({} if case.family == "sgd" else {"eps": cases.EPS * given[name].eps})
        for name, parameter in parameters.items()
    ]
    if case.family == "sgd":
        momentum = 0.0 if case.optimizer == "sgd" else cases.MOMENTUM
        return torch.optim.SGD(groups, momentum=momentum, nesterov=case.optimizer == "nesterov")
    decoupled, amsgrad = case.optimizer in DECOUPLED, case.optimizer.startswith("amsgrad")
    if peer == "torch.optim":
        make = torch.optim.AdamW if decoupled else torch.optim.Adam
        return make(groups, betas=cases.BETAS, amsgrad=amsgrad)
    return torch_ref.Adam(
        groups,
        betas=cases.BETAS,
        amsgrad=amsgrad,
        decay="decoupled" if decoupled else "coupled",
        optimized_update=peer == MISPLACED_EPS,
    )


DECOUPLED = ("adamw", "amsgrad_decoupled")


def _weight_decay(case: Case, n: Numbers) -> float:
    if case.optimizer in DECOUPLED:
        return cases.DECAY * n.weight_decay
    # L2 is added to the gradient. It keeps its ratio to that if it grows as eps does.
    return cases.DECAY * n.weight_decay * n.eps if case.optimizer == "adam_l2" else 0.0


@functools.cache
def torch_history(case: Case, peer: str, shift: Shift | None = None) -> History:
    """Trains the network of a case with torch.

    Args:
      case: what to train.
      peer: whose optimizer, `"torch.optim"` or `"torch_ref"`, or `MISPLACED_EPS`.
      shift: a mistake in the rule, to see that it shows.
    """
    given = cases.numbers(case, shift)
    layers = torch_layers(case, given)
    parameters = torch_parameters(layers)
    optimizer = torch_optimizer(case, peer, parameters, given)
    activation = TORCH_ACTIVATIONS[case.activation]()
    network = torch.nn.Sequential(*(step for layer in layers for step in (layer, activation)))[:-1]
    data = (torch.from_numpy(array).to(TORCH_STORED[case.dtype]) for array in batches(case))
    steps = [
        _torch_step(network, optimizer, parameters, x, y, case.dtype == "bfloat16")
        for x, y in zip(*data, strict=True)
    ]
    outputs, losses, gradients, params, moments = zip(*steps, strict=True)
    counts = {int(state["step"]) for state in optimizer.state.values() if "step" in state}
    assert len(counts) < 2
    return History(
        np.stack(outputs),
        np.stack(losses),
        *(_stack(trees) for trees in (gradients, params, moments)),
        counts.pop() if counts else None,
    )


def _torch_step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, torch.nn.Parameter],
    x: torch.Tensor,
    y: torch.Tensor,
    bfloat16: bool,
) -> tuple[np.ndarray, np.ndarray, Tree, Tree, Tree]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        outputs = network(x)
    outputs = outputs.to(y.dtype)
    loss = (outputs - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    moments = _torch_moments(optimizer, parameters)
    return (
        _copied(outputs),
        _copied(loss),
        {name: _copied(p.grad).T for name, p in parameters.items()},
        {name: _copied(p).T for name, p in parameters.items()},
        {name: moment.T for name, moment in moments.items()},
    )


def _torch_moments(
    optimizer: torch.optim.Optimizer, parameters: dict[str, torch.nn.Parameter]
) -> Tree:
    return {
        f"{MOMENTS[field]}/{name}": _copied(value)
        for name, parameter in parameters.items()
        for field, value in optimizer.state[parameter].items()
        if field in MOMENTS and value is not None
    }


def _copied(tensor: Any) -> np.ndarray:
    return tensor.detach().numpy().copy()


def _stack(trees: tuple[Tree, ...]) -> Tree:
    return {name: np.stack([tree[name] for tree in trees]) for name in trees[0]}


# ----------------------------------------------------------------------------- optimizers alone

# A kernel (8, 12) and a bias (12,) at 2 and 3 times the base widths.
SPECS = {
    "0/kernel": jaxmup.ParamSpec((jaxmup.Axis("input", 8, 4), jaxmup.Axis("output", 12, 4))),
    "0/bias": jaxmup.ParamSpec((jaxmup.Axis("output", 12, 4),)),
}


@functools.cache
def start() -> Tree:
    """Initial parameters."""
    rng = np.random.default_rng(2)
    return {name: rng.standard_normal(spec.shape) for name, spec in SPECS.items()}


@functools.cache
def gradients() -> Tree:
    """Gradients of 120 steps, with rows of zeros of all kinds.

    Of the kernel one row never gets a gradient and one gets none for 60 steps in the middle; the
    bias gets none in the first 60 steps.
    """
    rng = np.random.default_rng(3)
    found = {name: rng.standard_normal((120, *spec.shape)) for name, spec in SPECS.items()}
    found["0/kernel"][:, 0] = 0.0
    found["0/kernel"][30:90, 1] = 0.0
    found["0/bias"][:60] = 0.0
    return found


class Steps(NamedTuple):
    """The steps of an optimizer on `gradients()`; every array has them as its first axis."""

    params: Tree
    moments: Tree


def jax_steps(tx: optax.GradientTransformation) -> Steps:
    """Feeds the gradients to an optax optimizer."""

    def step(carry: Any, grads: Any) -> tuple[Any, Any]:
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, _moments(state))

    params = {name: jnp.asarray(w) for name, w in start().items()}
    run = jax.jit(lambda params, grads: lax.scan(step, (params, tx.init(params)), grads)[1])
    history, moments = run(params, {name: jnp.asarray(g) for name, g in gradients().items()})
    return Steps(_numpy(history), _flat(moments))


def torch_steps(
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    groups: dict[str, dict[str, float]],
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None,
    accumulate: int = 1,
) -> Steps:
    """Feeds the gradients to a torch optimizer.

    Args:
      make: makes the optimizer from parameter groups.
      groups: hyper-parameters of each parameter's own group.
      schedule: makes a scheduler.
      accumulate: the optimizer steps once in so many gradients, with their mean.
    """
    parameters = {
        name: torch.nn.Parameter(torch.from_numpy(w.copy())) for name, w in start().items()
    }
    optimizer = make([{"params": [p], **groups[name]} for name, p in parameters.items()])
    scheduler = None if schedule is None else schedule(optimizer)
    steps = []
    for t in range(len(gradients()["0/kernel"])):
        for name, parameter in parameters.items():
            (parameter * torch.from_numpy(gradients()[name][t] / accumulate)).sum().backward()
        if (t + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
        params = {name: p.detach().numpy().copy() for name, p in parameters.items()}
        steps.append(Steps(params, _torch_moments(optimizer, parameters)))
    return Steps(*(_stack(trees) for trees in zip(*steps[accumulate - 1 :], strict=True)))
