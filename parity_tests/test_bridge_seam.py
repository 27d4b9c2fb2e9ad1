"""A run that moves between torch and JAX in the middle is the run that stays in either."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR

import jaxmup
from jaxmup import bridge
from jaxmup._tree import leaves_by_path, map_named
from jaxmup.models import MLP
from parity_tests.published import TWINS, double

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
        lambda p: AdamW(p, LR, eps=EPS, weight_decay=DECAY),
        optax.adamw(LR, eps=EPS, weight_decay=DECAY),
    ),
    "AMSGrad": Optimizer(
        lambda p: Adam(p, LR, eps=EPS, amsgrad=True),
        chain(jaxmup.optim.scale_by_adam(eps=EPS, amsgrad=True)),
    ),
    "RMSprop": Optimizer(
        lambda p: RMSprop(p, LR, eps=EPS, momentum=0.5),
        chain(optax.scale_by_rms(0.99, EPS, eps_in_sqrt=False), optax.trace(0.5)),
    ),
    "Adagrad": Optimizer(
        lambda p: Adagrad(p, LR, eps=EPS), chain(jaxmup.optim.scale_by_adagrad(EPS))
    ),
}


class Data(NamedTuple):
    """Inputs and labels of each step, in torch's layout."""

    inputs: list[np.ndarray]
    labels: list[np.ndarray]


@functools.cache
def data(name: str) -> Data:
    rng = np.random.default_rng(1)
    inputs = [TWINS[name].inputs(rng) for _ in range(20)]
    return Data(inputs, [TWINS[name].labels(rng, x) for x in inputs])


def torch_model(name: str) -> torch.nn.Module:
    """The model at the start, always the same."""
    torch.manual_seed(0)
    return TWINS[name].torch().double()


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
        inputs = TWINS[name].here(data(name).inputs[step])
        gradients, rest = gradient(
            *nnx.split(model, nnx.Param, ...), inputs, jnp.asarray(data(name).labels[step])
        )
        nnx.update(model, rest)
        graph, state = nnx.split((model, optimizer))
        nnx.update((model, optimizer), trained(graph, state, gradients))


@functools.cache
def abstract_model(name: str) -> nnx.Module:
    return nnx.eval_shape(TWINS[name].flax)


def converted(name: str, model: torch.nn.Module, optimizer: Any, tx: Any, **kwargs: Any) -> Any:
    """Model and optimizer here, from torch."""
    twins = TWINS[name]
    abstract = abstract_model(name)
    plan = bridge.plan(model.state_dict(), abstract, twins.pairs)
    here = bridge.from_torch(model.state_dict(), abstract, twins.pairs)
    ours = nnx.Optimizer(here, tx, wrt=nnx.Param)
    ours.opt_state = bridge.optimizer_from_torch(
        optimizer.state_dict(), plan, tx, here, names=names_of(model), **kwargs
    )
    return here, ours, plan


def names_of(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def move_back(name: str, here: Any, ours: Any, plan: Any, model: Any, optimizer: Any) -> None:
    """Loads what was trained here into a model and an optimizer of torch."""
    state = bridge.to_torch(here, model.state_dict(), TWINS[name].pairs)
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
    state = bridge.to_torch(model, like.state_dict(), TWINS[name].pairs)
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


def test_groups_and_schedule(agree: Any) -> None:
    """Biases that don't decay and learn at another rate; a schedule that goes on where it stood."""

    def factor(step: Any) -> Any:
        return 1 / (1 + 0.25 * step)

    def start(model: torch.nn.Module, last_epoch: int) -> tuple[AdamW, LambdaLR]:
        biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
        kernels = [p for n, p in model.named_parameters() if n.endswith("weight")]
        groups = [
            {"params": kernels, "weight_decay": DECAY, "initial_lr": LR},
            {"params": biases, "weight_decay": 0.0, "lr": 3 * LR, "initial_lr": 3 * LR},
        ]
        optimizer = AdamW(groups, LR)  # type: ignore[arg-type]
        return optimizer, LambdaLR(optimizer, factor, last_epoch)

    whole, model, back = (torch_model("MLP") for _ in range(3))
    optimizer, scheduler = start(whole, -1)
    train_torch("MLP", whole, optimizer, range(STEPS), scheduler)

    optimizer, scheduler = start(model, -1)
    train_torch("MLP", model, optimizer, range(SEAM), scheduler)
    names = [n for end in ("weight", "bias") for n in names_of(model) if n.endswith(end)]
    abstract = abstract_model("MLP")
    plan = bridge.plan(model.state_dict(), abstract)
    kernels, biases = bridge.parameter_groups(optimizer.state_dict(), plan, names=names)
    assert kernels.paths == ("hidden/0/kernel", "hidden/1/kernel", "readout/kernel")
    assert biases.hyperparameters["lr"] == 3 * LR * factor(SEAM)
    tx = optax.partition(
        {
            "kernels": optax.adamw(lambda t: LR * factor(1.0 * t), weight_decay=DECAY),
            "biases": optax.adamw(lambda t: 3 * LR * factor(t), weight_decay=0.0),
        },
        lambda params: map_named(
            lambda _, label: label,
            params,
            dict.fromkeys(kernels.paths, "kernels") | dict.fromkeys(biases.paths, "biases"),
        ),
    )
    here = bridge.from_torch(model.state_dict(), abstract)
    ours = nnx.Optimizer(here, tx, wrt=nnx.Param)
    arguments = {"names": names, "scheduler": scheduler.state_dict()}
    ours.opt_state = bridge.optimizer_from_torch(
        optimizer.state_dict(), plan, tx, here, **arguments
    )
    train_here("MLP", here, ours, range(SEAM, SEAM + 2))

    back.load_state_dict(bridge.as_tensors(bridge.to_torch(here, back.state_dict())))
    position = bridge.schedule_position(ours.opt_state)
    optimizer, scheduler = start(back, position - 1)
    moved = bridge.optimizer_to_torch(
        ours.opt_state, plan, tx, here, optimizer.state_dict(), names=names
    )
    optimizer.load_state_dict(bridge.as_tensors(moved))
    train_torch("MLP", back, optimizer, range(SEAM + 2, STEPS), scheduler)
    agree("seam", weights("MLP", back), weights("MLP", whole))


GAUGES = {
    "SGD": (
        lambda groups: SGD(groups, SGD_LR, momentum=MOMENTUM),
        lambda scalings: jaxmup.optim.sgd(SGD_LR, scalings, momentum=MOMENTUM),
    ),
    "AdamW": (
        lambda groups: AdamW(groups, LR, eps=EPS, weight_decay=0.0),
        lambda scalings: jaxmup.optim.adam(LR, scalings, eps=EPS),
    ),
}


@pytest.mark.parametrize("optimizer", GAUGES)
def test_into_another_gauge(optimizer: str, agree: Any) -> None:
    """MuP in torch by learning rates alone goes on in a gauge with multipliers, and comes back."""
    make, ours_of = GAUGES[optimizer]
    family: Any = "sgd" if optimizer == "SGD" else "adam"
    table3, table8 = (
        jaxmup.parametrization("mup", family, gauge=gauge) for gauge in ("table3", "table8")
    )

    def mlp(rule: jaxmup.Parametrization) -> MLP:
        sizes = {"width": 8, "depth": 2, "base_width": 2}
        rngs = nnx.Rngs(0)
        return MLP(3, 4, **sizes, parametrization=rule, activation=jnp.tanh, rngs=rngs)

    scalings = leaves_by_path(jaxmup.resolve(jaxmup.nnx.specs(mlp(table3)), table3))
    empty = double(mlp(table8))

    def groups(model: torch.nn.Module) -> list[dict[str, Any]]:
        by_path = {n: n.replace(".", "/").replace("weight", "kernel") for n in names_of(model)}
        return [
            {"params": [p], "lr": base * scalings[by_path[n]].lr}
            | ({"eps": EPS * scalings[by_path[n]].eps} if family == "adam" else {})
            for n, p in model.named_parameters()
        ]

    base = SGD_LR if family == "sgd" else LR
    whole, model, back = (torch_model("MLP") for _ in range(3))
    train_torch("MLP", whole, make(groups(whole)), range(STEPS))
    theirs = make(groups(model))
    train_torch("MLP", model, theirs, range(SEAM))

    plan = bridge.plan(model.state_dict(), empty)
    assert {entry.factor for entry in plan.entries} != {1.0}
    here = bridge.from_torch(model.state_dict(), empty)
    tx = ours_of(jaxmup.resolve(jaxmup.nnx.specs(here), table8))
    ours = nnx.Optimizer(here, tx, wrt=nnx.Param)
    arguments = {"names": names_of(model), "step": SEAM}
    ours.opt_state = bridge.optimizer_from_torch(theirs.state_dict(), plan, tx, here, **arguments)
    train_here("MLP", here, ours, range(SEAM, SEAM + 2))

    back.load_state_dict(bridge.as_tensors(bridge.to_torch(here, back.state_dict())))
    theirs = make(groups(back))
    moved = bridge.optimizer_to_torch(
        ours.opt_state, plan, tx, here, theirs.state_dict(), **arguments
    )
    theirs.load_state_dict(bridge.as_tensors(moved))
    train_torch("MLP", back, theirs, range(SEAM + 2, STEPS))
    agree("seam", weights("MLP", back), weights("MLP", whole))


def two_biases(params: Any) -> Any:
    """Labels for what torch has as two parameters, whose sum moves twice as fast."""
    names = leaves_by_path(params)
    return map_named(
        lambda _, label: label,
        params,
        {name: "both" if "dense_h/bias" in name else "one" for name in names},
    )


WHOLE_MODELS = {
    "GPT": optax.adamw(LR, eps=EPS, weight_decay=DECAY),
    "ResNet": optax.adamw(LR, eps=EPS, weight_decay=DECAY),
    "LSTM": optax.partition(
        {
            "both": optax.adamw(2 * LR, eps=EPS, weight_decay=DECAY / 2),
            "one": optax.adamw(LR, eps=EPS, weight_decay=DECAY),
        },
        two_biases,
    ),
}


@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_whole_model(name: str, agree: Any) -> None:
    """Logits, gradients, 20 steps of AdamW of which torch makes the first three, and logits."""
    tx = WHOLE_MODELS[name]
    model = torch_model(name)
    theirs = AdamW(model.parameters(), LR, eps=EPS, weight_decay=DECAY)
    inputs = data(name).inputs[0]
    train_torch(name, model, theirs, range(SEAM))
    here, ours, plan = converted(name, model, theirs, tx)

    agree("one step", logits_here(name, here, inputs), logits_in_torch(model, inputs))
    theirs.zero_grad()
    torch_loss(name, model, SEAM).backward()
    expected = {k: p.grad.numpy()[None] for k, p in model.named_parameters() if p.grad is not None}
    labels = jnp.asarray(data(name).labels[SEAM])
    graph, params, rest = nnx.split(here, nnx.Param, ...)
    found, _ = gradient(graph, params, rest, TWINS[name].here(data(name).inputs[SEAM]), labels)
    leaves = leaves_by_path(found) | leaves_by_path(rest)
    moved = plan.backward(lambda path: np.asarray(leaves[path]))
    for one, other in BIASES.items():
        moved |= {other: moved[one]} if one in moved else {}
    agree("gradients", {k: moved[k][None] for k in expected}, expected)

    train_torch(name, model, theirs, range(SEAM, 20))
    train_here(name, here, ours, range(SEAM, 20))
    agree("whole model", summed(weights(name, here)), summed(weights(name, model)))
    if name != "ResNet":  # Flax's running variance is of the batch, torch's of the population
        agree("whole model", logits_here(name, here, inputs), logits_in_torch(model, inputs))


BIASES = {f"lstm.bias_ih_l{i}": f"lstm.bias_hh_l{i}" for i in range(2)}


def summed(arrays: Arrays) -> Arrays:
    """The two biases of a cell as their sum."""
    sums = {k: arrays[k] + arrays[other] for k, other in BIASES.items() if k in arrays}
    return {k: x for k, x in arrays.items() if k not in BIASES.values()} | sums


def logits_in_torch(model: torch.nn.Module, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model.eval()(torch.tensor(inputs)).numpy()[None]
    model.train()
    return logits


def logits_here(name: str, model: Any, inputs: np.ndarray) -> np.ndarray:
    graph, state = nnx.split(nnx.view(model, use_running_average=True, raise_if_not_found=False))
    run = jit(lambda graph, state, inputs: nnx.merge(graph, state, copy=True)(inputs))
    return np.asarray(run(graph, state, TWINS[name].here(inputs)))[None]


FORMS: dict[str, dict[str, Any]] = {
    "a rate that is a tensor": {"lr": torch.tensor(LR, dtype=torch.float64)},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_one_optimizer_are_one(form: dict[str, Any], agree: Any) -> None:
    """Torch's own states of them hold what that of the plain one holds, and are taken alike."""

    def state_of(**form: Any) -> Any:
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 2).double()
        optimizer = Adam(module.named_parameters(), **{"lr": LR, "eps": EPS, **form})
        for _ in range(SEAM):
            optimizer.zero_grad()
            module(torch.ones(4, 3, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
        plan = bridge.plan(module.state_dict(), params)
        tx = optax.adam(LR, eps=EPS)
        return bridge.optimizer_from_torch(optimizer.state_dict(), plan, tx, params)

    params = {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}
    plain, other = leaves_by_path(state_of()), leaves_by_path(state_of(**form))
    for path, leaf in plain.items():
        agree("seam", np.asarray(other[path])[None], np.asarray(leaf)[None])
