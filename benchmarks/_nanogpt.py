"""nanoGPT-mup's GPT and its training step, of the library's layers and rules.

As in EleutherAI/nanoGPT-mup, branch completep, commit 6f8bc3b: learned positions, layer norms and
biases, a tied readout, exact GELU, every matrix and embedding from N(0, 0.02²) at base width, AdamW
(0.9, 0.95) with decay 0.1 of matrices and embeddings alone, eps 1e-12, gradients clipped to norm 1.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxmup
from jaxmup import Parametrization
from jaxmup.models import GPT

BASE_LAYERS, INIT_STD, RATE = 2, 0.02, 1e-3
Step = Callable[[nnx.State, optax.OptState, jax.Array, jax.Array], tuple[Any, ...]]


def make_gpt(
    vocabulary: int,
    rule: Parametrization,
    *,
    layers: int,
    width: int,
    base_width: int,
    head: int,
    context: int,
    rngs: nnx.Rngs,
) -> GPT:
    """The model; `head` is the number of features of a head."""
    return GPT(
        vocabulary,
        width=width,
        num_layers=layers,
        num_heads=width // head,
        base_width=base_width,
        base_num_heads=base_width,  # heads of one feature: the published logits are q · k / d
        base_num_layers=BASE_LAYERS,
        positions="learned",
        context=context,
        norm="layer",
        feed_forward="plain",
        activation=functools.partial(jax.nn.gelu, approximate=False),
        use_bias=True,
        tied=True,
        init_std=INIT_STD,
        stacked=True,
        parametrization=rule,
        rngs=rngs,
    )


def optimizer(rule: Parametrization, model: GPT) -> optax.GradientTransformation:
    """AdamW behind a clip of the gradients as they are."""
    scalings = jaxmup.resolve(jaxmup.nnx.specs(model), rule)
    own = {"b1": 0.9, "b2": 0.95, "eps": 1e-12, "weight_decay": 0.1, "mask": decays}
    return optax.chain(optax.clip_by_global_norm(1.0), jaxmup.optim.adamw(RATE, scalings, **own))


def decays(params: Any) -> Any:
    """Whether a parameter is a matrix or an embedding."""

    def of(path: tuple[Any, ...], _: Any) -> bool:
        return any(getattr(key, "key", None) in ("kernel", "embedding") for key in path)

    return jax.tree_util.tree_map_with_path(of, params)


def make_step(rule: Parametrization, model: GPT) -> tuple[Step, optax.GradientTransformation]:
    """A jitted step of training, and its optimizer.

    From parameters, the optimizer's state, tokens and targets to parameters, state, the loss in
    nats, and the mean of |x| over the residual stream behind the last block, before the update.
    Parameters and state are donated.
    """
    graph, _, rest = nnx.split(model, nnx.Param, ...)
    tx = optimizer(rule, model)

    def loss_fn(params: nnx.State, tokens: jax.Array, targets: jax.Array) -> Any:
        model = nnx.merge(graph, params, rest)
        stream = model.embed(tokens) + model.positions(jnp.arange(tokens.shape[-1]))[None]
        stream = model.blocks(stream)
        logits = model.embed.attend(model.norm(stream))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
        return loss, jnp.abs(stream).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, tokens: jax.Array, targets: jax.Array) -> tuple[Any, ...]:
        (loss, size), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, tokens, targets)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, size

    return step, tx
