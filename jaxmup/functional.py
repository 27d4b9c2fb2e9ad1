"""Pure array functions: the places where multipliers are applied."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxmup import _check
from jaxmup._dtypes import is_floating, wide
from jaxmup._parametrization import MultiplierActsOn

OutSharding: TypeAlias = NamedSharding | PartitionSpec | None
"""The sharding that a layer gives its outputs, in a mesh of explicit axes."""


def scale(x: Array, factor: float | Array, *, always: bool = False) -> Array:
    """`factor · x` in the dtype of `x`, rounded once.

    A Python float would first be rounded to the dtype of `x`: in bfloat16 that is one common
    relative error of up to 0.4 % on every entry. Here the product is taken in float32 at least.

    Args:
      x: Floating-point array of any shape.
      factor: A Python number, of which 1.0 returns `x` itself, or a scalar array, which is always
        multiplied by; dimensionless.
      always: Whether to multiply by 1.0 too. So a layer whose factor depends on the width is the
        same program at every width.

    Raises:
      TypeError: if `x` is an array of integers or flags, which the product would be cut to, or
        no array, or `factor` no number.

    Example:
      >>> scale(jnp.array(3.0, jnp.bfloat16), 1 / 3)
      Array(1, dtype=bfloat16)
    """
    _require_floating("x", x)
    dtype = wide(x.dtype)
    if isinstance(factor, float | int):
        is_left_out = factor == 1.0 and not always
        return x if is_left_out else (x.astype(dtype) * factor).astype(x.dtype)
    if not hasattr(factor, "astype"):
        raise TypeError(f"`factor` must be a number or a scalar array. Got {factor!r}.")
    return (x.astype(dtype) * factor.astype(dtype)).astype(x.dtype)


def scale_smaller(
    inputs: Array,
    kernel: Array,
    multiplier: float | Array,
    *,
    always: bool = False,
    growth: float = 1.0,
) -> tuple[Array, Array]:
    """Puts the multiplier of `W = multiplier · kernel` on the smaller operand of `inputs · W`.

    Either gives the same product; scaling the smaller one writes less memory.

    Args:
      inputs: Activations of any shape.
      kernel: Weights of any shape.
      multiplier: Factor on the kernel; dimensionless.
      always: Whether to multiply by 1.0 too, as in `scale`.
      growth: Number of outputs over that of the base model. With it, what is smaller is decided by
        the base model's sizes, and so is the same at every width; dimensionless.

    Returns:
      `inputs` and `kernel`, one of them scaled.

    Example:
      >>> inputs, kernel = scale_smaller(jnp.ones((1, 8)), jnp.ones((8, 8)), 0.5)
      >>> float(inputs[0, 0]), float(kernel[0, 0])
      (0.5, 1.0)
    """
    is_smaller = inputs.size * growth < kernel.size
    if is_smaller and jnp.issubdtype(inputs.dtype, jnp.floating):
        return scale(inputs, multiplier, always=always), kernel
    return inputs, scale(kernel, multiplier, always=always)


class Factor(NamedTuple):
    """A multiplier, and when it is left out.

    Args:
      value: Multiplier; dimensionless.
      always: Whether to multiply by 1.0 too, as in `scale`.
    """

    value: float | Array
    always: bool = False


def scaled_product(
    product: Callable[[Array, Array, Array | None], Array],
    operands: tuple[Array, Array, Array | None],
    factors: tuple[Factor, Factor],
    acts_on: MultiplierActsOn,
    *,
    growth: float = 1.0,
) -> Array:
    """`product(inputs, m_k · kernel, m_b · bias)`, with `m_k` where it shall act.

    Args:
      product: Function of inputs, kernel and bias, linear in the kernel, with the bias added.
      operands: Inputs, kernel, and bias or `None`.
      factors: Multipliers of kernel and bias.
      acts_on: `"smaller"` of inputs and kernel, or `"output"`, so that the product has both as they
        are.
      growth: Number of outputs over that of the base model, as in `scale_smaller`.

    Example:
      >>> def linear(x, w, b):
      ...     return x @ w + b
      >>> operands = jnp.ones((1, 4)), jnp.ones((4, 1)), jnp.ones(1)
      >>> factors = Factor(0.5), Factor(2.0)
      >>> [float(scaled_product(linear, operands, factors, on)[0, 0])
      ...  for on in ("smaller", "output")]
      [4.0, 4.0]
    """
    (inputs, kernel, bias), (of_kernel, of_bias) = operands, factors
    always = of_kernel.always
    if acts_on == "output":
        if bias is not None:
            bias = scale(bias, of_bias.value / of_kernel.value, always=always or of_bias.always)
        return scale(product(inputs, kernel, bias), of_kernel.value, always=always)
    inputs, kernel = scale_smaller(inputs, kernel, of_kernel.value, always=always, growth=growth)
    if bias is not None:
        bias = scale(bias, of_bias.value, always=of_bias.always)
    return product(inputs, kernel, bias)


def lookup(
    take: Callable[[Array], Array],
    embedding: Array,
    n_rows: int,
    multiplier: float | Array,
    *,
    always: bool = False,
) -> Array:
    """Rows of `multiplier · embedding`: what is smaller of the rows and the table is multiplied.

    Args:
      take: Function that picks the rows from a table.
      embedding: Table of shape `(num_embeddings, features)`.
      n_rows: Number of rows that are picked.
      multiplier: Factor on the embedding; dimensionless.
      always: Whether to multiply by 1.0 too, as in `scale`.

    Example:
      >>> lookup(lambda table: table[jnp.array([1])], jnp.ones((3, 2)), 1, 0.5)
      Array([[0.5, 0.5]], dtype=float32)
    """
    if n_rows < embedding.shape[0]:
        return scale(take(embedding), multiplier, always=always)
    return take(scale(embedding, multiplier, always=always))


@dataclasses.dataclass(frozen=True)
class ScaledAttention:
    """An attention function whose logits are multiplied by `factor`.

    The factor goes on the query, which has been normalized and projected by then. It is part of the
    function, not of a parameter: no gauge moves it.

    Args:
      attention_fn: Attention function, called as `flax.nnx.dot_product_attention` is.
      factor: Factor on the logits; dimensionless.

    Raises:
      TypeError: if `attention_fn` is no function, or `factor` no number.
      ValueError: if `factor` is not finite.
    """

    attention_fn: Callable[..., Array]
    factor: float

    def __post_init__(self) -> None:
        _check.function("attention_fn", self.attention_fn)
        _check.number("factor", self.factor)

    @property
    def __signature__(self) -> inspect.Signature:
        # Flax's attention passes the arguments that it finds in the signature, the mask among them.
        return inspect.signature(self.attention_fn)

    def __call__(self, query: Array, key: Array, value: Array, *args: Any, **kwargs: Any) -> Array:
        """Calls `attention_fn` with `factor · query`."""
        query = scale(query, self.factor, always=True)
        return self.attention_fn(query, key, value, *args, **kwargs)


def top_k_gates(logits: Array, k: int) -> Array:
    """Gates of the `k` experts with the largest logits: their softmax, zero for the others.

    Args:
      logits: Logits of shape `(..., experts)`.
      k: Number of experts that are chosen.

    Returns:
      Shape `(..., experts)`, each row of sum 1, in the dtype of `logits`; taken in float32 at
      least.

    Raises:
      TypeError: if `logits` are no floating-point numbers, or `k` no integer.
      ValueError: if `k` is below 1 or above the number of experts.

    Example:
      >>> top_k_gates(jnp.array([1.0, 3.0, 3.0]), 2)
      Array([0. , 0.5, 0.5], dtype=float32)
    """
    _require_floating("logits", logits)
    _check.size("k", k)
    if k > logits.shape[-1]:
        raise ValueError(f"`k` must be at most the number of experts, {logits.shape[-1]}. Got {k}.")
    dtype = wide(logits.dtype)
    largest, chosen = lax.top_k(logits.astype(dtype), k)
    # A product with one-hot rows: what is not chosen is exactly zero, its gradient too.
    rows = jax.nn.one_hot(chosen, logits.shape[-1], dtype=dtype)
    return jnp.einsum("...k,...ke->...e", jax.nn.softmax(largest), rows).astype(logits.dtype)


def mix(outputs: Array, gates: Array, out_sharding: OutSharding = None) -> Array:
    """The sum of the experts' outputs, weighted by their gates.

    Args:
      outputs: Outputs of shape `(experts, tokens, features)`.
      gates: Gates of shape `(tokens, experts)`.
      out_sharding: Sharding of the result, in a mesh of explicit axes.

    Returns:
      Shape `(tokens, features)`.

    Raises:
      ValueError: if the two are not of the same experts and tokens.

    Example:
      >>> mix(jnp.ones((2, 1, 3)), jnp.array([[0.25, 0.5]]))
      Array([[0.75, 0.75, 0.75]], dtype=float32)
    """
    if outputs.ndim != 3 or gates.shape != outputs.shape[1::-1]:
        raise ValueError(
            "`gates` must be (tokens, experts) where the outputs are (experts, tokens, features). "
            f"Got {gates.shape} beside {outputs.shape}."
        )
    return jnp.einsum("etd,te->td", outputs, gates, out_sharding=out_sharding)


def _require_floating(name: str, x: Array) -> None:
    if not is_floating(x):
        got = f"{x.dtype} {x.shape}" if hasattr(x, "dtype") else type(x).__name__
        raise TypeError(
            f"`{name}` must be an array of floating-point numbers. Got {got}. Use "
            "`jax.numpy.asarray(x, jax.numpy.float32)`, say."
        )
