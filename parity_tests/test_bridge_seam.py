"""A run that moves between torch and JAX in the middle is the run that stays in either."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

import jaxmup
from jaxmup import bridge
from jaxmup._tree import leaves_by_path
from parity_tests.published import PAIRS, Pair

STEPS, SEAM = 8, 3
LR, SGD_LR, MOMENTUM, DECAY = 0.01, 0.1, 0.9, 0.1
EPS = 1e-5  # the bias of a key has no gradient but rounding, which a small eps would magnify
Arrays = dict[str, np.ndarray]


# Programs that are made quickly rather than well: each runs a few times.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
jit = functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)


class Optimizer(NamedTuple):
    """An optimizer of torch, given its parameters, and its counterpart."""

    theirs: Callable[[Any], torch.optim.Optimizer]
    ours: optax.GradientTransformation


def chain(*transforms: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(*transforms, optax.scale_by_learning_rate(LR))


OPTIMIZERS = {
    "SGD": Optimizer(
        lambda p: SGD(p, SGD_LR, momentum=MOMENTUM), optax.sgd(SGD_LR, momentum=MOMENTUM)
    ),
    "Adam": Optimizer(lambda p: Adam(p, LR, eps=EPS), optax.adam(LR, eps=EPS)),
    "AdamW": Optimizer(
        lambda p: AdamW(p, LR, eps=EPS, weight_decay=DECAY), optax.adamw(LR, eps=EPS, weight_decay=DECAY)
    ),
    "AMSGrad": Optimizer(
        lambda p: Adam(p, LR, eps=EPS, amsgrad=True), chain(jaxmup.optim.scale_by_adam(eps=EPS, amsgrad=True))
    ),
    "RMSprop": Optimizer(
        lambda p: RMSprop(p, LR, eps=EPS, momentum=0.5),
        chain(optax.scale_by_rms(0.99, EPS, eps_in_sqrt=False), optax.trace(0.5)),
    ),
    "Adagrad": Optimizer(lambda p: Adagrad(p, LR, eps=EPS), chain(jaxmup.optim.scale_by_adagrad(EPS))),
}


class Data(NamedTuple):
    """Inputs and labels of each step, in torch's layout."""

    inputs: list[np.ndarray]
    labels: list[np.ndarray]


@functools.cache
def data(name: str) -> Data:
    rng = np.random.default_rng(1)
    inputs = [PAIRS[name].inputs(rng) for _ in range(20)]
    return Data(inputs, [PAIRS[name].labels(rng, x) for x in inputs])


def torch_model(name: str) -> torch.nn.Module:
    """The model at the start, always the same."""
    torch.manual_seed(0)
    return PAIRS[name].torch().double()


def train_torch(name: str, model: Any, optimizer: Any, steps: range, scheduler: Any = None) -> None:
    for step in steps:
        optimizer.zero_grad()
        torch_loss(name, model, step).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def torch_loss(name: str, model: Any, step: int) -> torch.Tensor:
    logits = model(torch.tensor(data(name).inputs[step]))
    labels = torch.tensor(data(name).labels[step])
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


@jit
def gradient(graph: Any, params: Any, rest: Any, inputs: Any, labels: Any) -> Any:
    """The gradient, and what the forward pass has left in what is no parameter."""

    def loss(params: Any) -> Any:
        model = nnx.merge(graph, params, rest, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(inputs), labels)
        return losses.mean(), nnx.split(model, nnx.Param, ...)[2]

    return jax.grad(loss, has_aux=True)(params)


@jit
def trained(graph: Any, state: Any, gradients: Any) -> Any:
    model, optimizer = nnx.merge(graph, state, copy=True)
    optimizer.update(model, gradients)
    return nnx.state((model, optimizer))


def train_here(name: str, model: Any, optimizer: nnx.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = PAIRS[name].here(data(name).inputs[step])
        gradients, rest = gradient(
            *nnx.split(model, nnx.Param, ...), inputs, jnp.asarray(data(name).labels[step])
        )
        nnx.update(model, rest)
        graph, state = nnx.split((model, optimizer))
        nnx.update((model, optimizer), trained(graph, state, gradients))


@functools.cache
def abstract_model(name: str) -> nnx.Module:
    return nnx.eval_shape(PAIRS[name].flax)


def converted(name: str, model: torch.nn.Module, optimizer: Any, tx: Any, **kwargs: Any) -> Any:
    """Model and optimizer here, from torch."""
    pair = PAIRS[name]
    abstract = abstract_model(name)
    plan = bridge.plan(model.state_dict(), abstract, pair.rules)
    here = bridge.from_torch(model.state_dict(), abstract, pair.rules)
    ours = nnx.Optimizer(here, tx, wrt=nnx.Param)
    ours.opt_state = bridge.optimizer_from_torch(
        optimizer.state_dict(), plan, tx, here, names=names_of(model), **kwargs
    )
    return here, ours, plan


def names_of(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def move_back(name: str, here: Any, ours: Any, plan: Any, model: Any, optimizer: Any) -> None:
    """Loads what was trained here into a model and an optimizer of torch."""
    state = bridge.to_torch(here, model.state_dict(), PAIRS[name].rules)
    model.load_state_dict(bridge.as_tensors(state))
    moved = bridge.optimizer_to_torch(
        ours.opt_state,
        plan,
        ours.tx,
        here,
        optimizer.state_dict(),
        names=names_of(model),
        step=SEAM,
    )
    optimizer.load_state_dict(bridge.as_tensors(moved))


def weights(name: str, model: Any) -> Arrays:
    """The parameters, by torch's names and in its layout; each is one step."""
    if isinstance(model, torch.nn.Module):
        return {k: p.detach().numpy()[None] for k, p in model.named_parameters()}
    like = torch_model(name)
    state = bridge.to_torch(model, like.state_dict(), PAIRS[name].rules)
    return {k: state[k][None] for k in names_of(like)}


@functools.cache
def whole_run(name: str, optimizer: str) -> tuple[Arrays, Arrays]:
    """The parameters after all steps in torch, and what its optimizer keeps."""
    model = torch_model(name)
    theirs = OPTIMIZERS[optimizer].theirs(model.parameters())
    train_torch(name, model, theirs, range(STEPS))
    return weights(name, model), kept(theirs)


def kept(optimizer: torch.optim.Optimizer) -> Arrays:
    return {
        f"{i}/{key}": np.asarray(value)[None]
        for i, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["MLP", "CNN", "GPT"])
def test_no_seam(name: str, optimizer: str, agree: Any) -> None:
    make, tx = OPTIMIZERS[optimizer]
    expected, moments = whole_run(name, optimizer)

    model = torch_model(name)
    theirs = make(model.parameters())
    here, ours, plan = converted(name, model, theirs, tx, step=0)
    train_here(name, here, ours, range(SEAM))
    back = torch_model(name)
    theirs_back = make(back.parameters())
    move_back(name, here, ours, plan, back, theirs_back)
    train_torch(name, back, theirs_back, range(SEAM, STEPS))
    agree("seam", weights(name, back), expected)
    agree("seam", kept(theirs_back), moments)

    train_torch(name, model, theirs, range(SEAM))
    here, ours, _ = converted(name, model, theirs, tx, step=SEAM)
    train_here(name, here, ours, range(SEAM, STEPS))
    agree("seam", weights(name, here), expected)
