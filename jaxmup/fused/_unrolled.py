"""The backward pass of a chain of layers, one layer and its update at a time."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxmup import _check
from jaxmup._program import is_inexact
from jaxmup._tree import OptState, Params, Tree
from jaxmup.fused._order import zero_after

Layer: TypeAlias = Callable[[Params, Tree], Tree]
"""A function of parameters and an input to an output."""


def layer_by_layer(
    layers: Sequence[Layer],
    loss_fn: Callable[..., Array],
    tx: optax.GradientTransformation,
) -> Callable[..., tuple[Array, list[Params], list[OptState]]]:
    """A training step for those who run eagerly: each layer is a compiled program of its own.

    Forward, it keeps the input of each layer. Backward, from the last layer to the first, it
    computes a layer again from its input, pulls the gradient back through it, updates its
    parameters in place and goes on to the one before; the gradients and the activations of one
    layer exist at a time. Each layer has an optimizer state of its own, so that `tx` acts layer by
    layer: a global norm is that of a layer.

    An unrolled model inside one `jax.jit` needs none of this: see `live_gradients`. Do not compile
    this step as a whole; parameters and states are donated, so use those that it returns.

    Args:
      layers: Functions of a layer's parameters and the output of the layer before. Layers that are
        the same function are compiled once for each shape.
      loss_fn: Function of the last output and any other arguments to a real scalar.
      tx: The optimizer.

    Returns:
      A function from `(params, states, x, *args)`, with a list of parameters and one of states
      `tx.init(p)`, to `(loss, params, states)`.

    Raises:
      TypeError: if a layer or `loss_fn` is no function, or `tx` no transform.
      ValueError: if there are no layers; at the step, if there are not as many
        parameters and states as layers.

    Example:
      >>> import jax.numpy as jnp
      >>> layers = [lambda w, x: jnp.tanh(x @ w)] * 3
      >>> params, tx = [jnp.ones((4, 4)) for _ in layers], optax.sgd(0.1)
      >>> step = layer_by_layer(layers, lambda y: jnp.sum(y**2), tx)
      >>> loss, params, states = step(params, [tx.init(w) for w in params], jnp.ones((2, 4)))
      >>> round(float(loss), 3)
      7.989
    """
    if not layers:
        raise ValueError("`layers` must be one function or more. Got none.")
    for i, layer in enumerate(layers):
        _check.function(f"layers[{i}]", layer)
    _check.function("loss_fn", loss_fn)
    _check.transform("tx", tx)
    # By function, so that equal layers share what is compiled.
    forward = {layer: jax.jit(layer) for layer in layers}
    backward = {layer: _compiled_backward(layer, tx) for layer in layers}
    value_and_grad = jax.jit(jax.value_and_grad(loss_fn))

    def step(
        params: Sequence[Params], states: Sequence[OptState], x: Tree, *args: Any
    ) -> tuple[Array, list[Params], list[OptState]]:
        if not len(params) == len(states) == len(layers):
            raise ValueError(
                "Each layer must have parameters and a state. Got "
                f"{len(layers)} layers, {len(params)} parameters and {len(states)} states."
            )
        inputs = []
        for layer, weights in zip(layers, params, strict=True):
            inputs.append(x)
            x = forward[layer](weights, x)
        loss, gradient = value_and_grad(x, *args)
        new_params, new_states = list(params), list(states)
        for i in reversed(range(len(layers))):
            # Popped, the input of the layer is freed as soon as its gradient is there.
            new_params[i], new_states[i], gradient = backward[layers[i]](
                params[i], states[i], inputs.pop(), gradient
            )
        return loss, new_params, new_states

    return step


def _compiled_backward(layer: Layer, tx: optax.GradientTransformation) -> Callable[..., Any]:
    def backward(
        params: Params, state: OptState, x: Tree, gradient: Tree
    ) -> tuple[Params, OptState, Tree]:
        _, pull_back = jax.vjp(layer, params, x)
        of_params, of_x = pull_back(gradient)
        # Parameters are read for the gradient of x; updated before that, XLA would copy them.
        is_read = zero_after(of_x) == 0
        of_params = jax.tree.map(
            lambda g: jnp.where(is_read, g, 0) if is_inexact(g) else g, of_params
        )
        updates, state = tx.update(of_params, state, params)
        return optax.apply_updates(params, updates), state, of_x

    return jax.jit(backward, donate_argnums=(0, 1))
