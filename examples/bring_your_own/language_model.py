"""A small language model in Equinox that knows nothing of muP, its data and its loss."""

from collections.abc import Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import jaxmup

CONTEXT, BATCH_SIZE, HEADS, BYTES = 64, 16, 4, 256
INPUTS = jax.ShapeDtypeStruct((CONTEXT,), jnp.int32)
"""What one call of the model takes: a sequence of bytes."""


class Block(eqx.Module):
    """Causal attention and a hidden layer, each behind a norm and beside a residual."""

    attention_norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    hidden_norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, key: Array):
        keys = jax.random.split(key, 3)
        self.attention_norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(HEADS, width, key=keys[0])
        self.hidden_norm = eqx.nn.LayerNorm(width)
        self.up = eqx.nn.Linear(width, 4 * width, key=keys[1])
        self.down = eqx.nn.Linear(4 * width, width, key=keys[2])

    def __call__(self, x: Array) -> Array:
        """Shape `(length, width)` to the same."""
        causal = jnp.tril(jnp.ones((len(x), len(x)), bool))
        normed = jax.vmap(self.attention_norm)(x)
        x = x + self.attention(normed, normed, normed, mask=causal)
        hidden = jax.vmap(self.up)(jax.vmap(self.hidden_norm)(x))
        return x + jax.vmap(self.down)(jax.nn.gelu(hidden))


class LanguageModel(eqx.Module):
    """From bytes to the logits of the next ones; positions are learned."""

    embed: eqx.nn.Embedding
    positions: Array
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear

    def __init__(self, width: int, key: Array):
        keys = jax.random.split(key, 5)
        self.embed = eqx.nn.Embedding(BYTES, width, key=keys[0])
        self.positions = 0.1 * jax.random.normal(keys[1], (CONTEXT, width))
        self.blocks = [Block(width, keys[2]), Block(width, keys[3])]
        self.norm = eqx.nn.LayerNorm(width)
        self.readout = eqx.nn.Linear(width, BYTES, key=keys[4])

    def __call__(self, tokens: Array) -> Array:
        """Logits of shape `(length, BYTES)` for integer tokens `(length,)`."""
        x = jax.vmap(self.embed)(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return jax.vmap(self.readout)(jax.vmap(self.norm)(x))


def make_model(width: int, key: Array) -> LanguageModel:
    """The model of a width: all that jaxmup asks for."""
    return LanguageModel(width, key)


def loss_fn(model: LanguageModel, batch: Array) -> Array:
    """Mean cross-entropy of the next byte, in nats."""
    logits = jax.vmap(model)(batch[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


def batches(seed: int) -> Iterator[np.ndarray]:
    """Pieces of the source of Python's standard library."""
    text, rng = jaxmup.data.text().train, np.random.default_rng(seed)
    while True:
        yield _pieces(text, rng.integers(len(text) - CONTEXT, size=BATCH_SIZE))


def evaluation() -> np.ndarray:
    """Pieces that were held out."""
    text = jaxmup.data.text().held_out
    return _pieces(text, np.linspace(0, len(text) - CONTEXT - 1, 64).astype(int))


def _pieces(text: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return text[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int32)
