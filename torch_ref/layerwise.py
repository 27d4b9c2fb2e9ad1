"""The backward pass of a chain of layers, three ways that end with equal parameters.

The first holds the gradients of the whole network at once, the other two those of one layer or
of one parameter.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]
LossFunction = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]


def three_layers(
    inputs: int, width: int, outputs: int, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[nn.Module]:
    """A three-layer tanh network as a list of layers; equal seeds give equal weights.

    Maps (..., inputs) to (..., outputs); entries of a weight have variance 1 / fan_in.

    Examples:
      >>> layers = three_layers(4, 8, 2)
      >>> nn.Sequential(*layers)(torch.zeros(5, 4, dtype=torch.float64)).shape
      torch.Size([5, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = [(inputs, width), (width, width), (width, outputs)]
    linears = [nn.Linear(fan_in, fan_out, dtype=dtype) for fan_in, fan_out in sizes]
    for linear in linears:
        nn.init.normal_(linear.weight, std=linear.in_features**-0.5, generator=generator)
        nn.init.zeros_(linear.bias)
    first, second, last = linears
    return [nn.Sequential(first, nn.Tanh()), nn.Sequential(second, nn.Tanh()), last]


def train_whole(
    layers: Sequence[nn.Module],
    batches: Batches,
    loss_function: LossFunction,
    make_optimizer: MakeOptimizer,
) -> list[float]:
    """One backward pass, then one optimizer over all parameters.

    Args:
      layers: applied first to last; trained in place.
      batches: pairs of input and target, one a step.
      loss_function: maps (output, target) to a scalar.
      make_optimizer: builds an optimizer from parameters.

    Returns:
      The loss before each step.

    Examples:
      >>> batch = (torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64))
      >>> sgd = lambda params: torch.optim.SGD(params, lr=0.1)
      >>> losses = train_whole(three_layers(4, 8, 3), [batch] * 9, nn.MSELoss(), sgd)
      >>> len(losses), losses[-1] < losses[0]
      (9, True)
    """
    network = nn.Sequential(*layers)
    optimizer = make_optimizer(network.parameters())
    losses = []
    for x, target in batches:
        loss = loss_function(network(x), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses


def train_by_layer(
    layers: Sequence[nn.Module],
    batches: Batches,
    loss_function: LossFunction,
    make_optimizer: MakeOptimizer,
) -> list[float]:
    """An explicit backward pass per layer, each with an optimizer of its own.

    The forward pass cuts the graph between layers. From the last layer to the first, dL/dy of a
    layer's output gives dL/dx of its input and the gradients of its parameters, which are used
    and freed before the next layer's exist. Arguments and result as `train_whole`.

    Examples:
      >>> batch = (torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64))
      >>> sgd = lambda params: torch.optim.SGD(params, lr=0.1)
      >>> losses = train_by_layer(three_layers(4, 8, 3), [batch] * 9, nn.MSELoss(), sgd)
      >>> len(losses), losses[-1] < losses[0]
      (9, True)
    """
    optimizers = [make_optimizer(layer.parameters()) for layer in layers]
    losses = []
    for x, target in batches:
        inputs, outputs = _cut_forward(layers, x)
        loss, grad = _loss_and_gradient(loss_function, outputs[-1], target)
        for i in reversed(range(len(layers))):
            # dL/dx uses the weights before their update: backward first, then step.
            outputs[i].backward(grad)
            optimizers[i].step()
            optimizers[i].zero_grad(set_to_none=True)
            grad = inputs[i].grad
        losses.append(loss)
    return losses


def train_by_hook(
    layers: Sequence[nn.Module],
    batches: Batches,
    loss_function: LossFunction,
    make_optimizer: MakeOptimizer,
) -> list[float]:
    """One backward pass in which each parameter steps as soon as its gradient has arrived.

    Every parameter has an optimizer of its own; a hook steps it and frees the gradient. Arguments
    and result as `train_whole`. The hooks are removed at the end.

    Examples:
      >>> batch = (torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64))
      >>> sgd = lambda params: torch.optim.SGD(params, lr=0.1)
      >>> losses = train_by_hook(three_layers(4, 8, 3), [batch] * 9, nn.MSELoss(), sgd)
      >>> len(losses), losses[-1] < losses[0]
      (9, True)
    """
    network = nn.Sequential(*layers)
    optimizers = {parameter: make_optimizer([parameter]) for parameter in network.parameters()}

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()  # pyright: ignore[reportArgumentType]
        parameter.grad = None

    handles = [p.register_post_accumulate_grad_hook(step) for p in network.parameters()]
    losses = []
    try:
        for x, target in batches:
            loss = loss_function(network(x), target)
            loss.backward()
            losses.append(loss.item())
    finally:
        for handle in handles:
            handle.remove()
    return losses


def _cut_forward(layers: Sequence[nn.Module], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    inputs, outputs = [], []
    for layer in layers:
        inputs.append(x.detach().requires_grad_())
        outputs.append(layer(inputs[-1]))
        x = outputs[-1]
    return inputs, outputs


def _loss_and_gradient(
    loss_function: LossFunction, output: Tensor, target: Tensor
) -> tuple[float, Tensor | None]:
    leaf = output.detach().requires_grad_()
    loss = loss_function(leaf, target)
    loss.backward()
    return loss.item(), leaf.grad
