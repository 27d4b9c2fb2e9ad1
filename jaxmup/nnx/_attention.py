"""Attention."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax.nn.initializers import zeros

from jaxmup._axes import Bases, Sizes
from jaxmup._parameter import as_parametrization
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup._readout import logits_factor
from jaxmup._spec import Axis
from jaxmup.functional import ScaledAttention
from jaxmup.nnx._keys import Keys
from jaxmup.nnx._linear import LinearGeneral
from jaxmup.nnx._norm import LayerNorm


class MultiHeadAttention(nnx.MultiHeadAttention):
    r"""`flax.nnx.MultiHeadAttention` under an abcd-parametrization.

    At base width it is `flax.nnx.MultiHeadAttention` bit for bit. Heads may grow in number or in
    size. Where their size d grows from d0, the logits are `√d0 · q · k / d`: what `attention_fn`
    divides by `√d` is multiplied by `√(d0 / d)` (for `standard` and `ntk`, by 1). With fewer key
    and value heads than query heads, their kernels scale as without sharing. The gains of
    the QK norm belong to one head, and grow with its size only.

    Args:
      num_heads: Number of query heads.
      in_features: Size of the last axis of the queries.
      qkv_features: `num_heads` times the size of a head; `None` for `in_features`.
      out_features: Size of the last axis of the outputs; `None` for `in_features`.
      num_kv_heads: Number of key and value heads; `None` for `num_heads`.
      in_kv_features: Size of the last axis of keys and values; `None` for `in_features`.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_num_heads: `num_heads` of the base model; `None` if it does not grow.
      base_head_dim: Size of a head in the base model; `None` if it does not grow.
      base_in_features: `in_features` of the base model; `None` if it does not grow.
      base_out_features: `out_features` of the base model; `None` if it does not grow. Where
        `out_features` is `None`, it is `base_in_features`.
      base_num_kv_heads: `num_kv_heads` of the base model; `None` if it does not grow. Where
        `num_kv_heads` is `None`, it is `base_num_heads`.
      base_in_kv_features: `in_kv_features` of the base model; `None` if it does not grow. Where
        `in_kv_features` is `None`, it is `base_in_features`.
      init_std: Standard deviation of normal kernels at base width, instead of `kernel_init`.
      zero_query: Whether the query kernel starts at zero, so that attention starts uniform at every
        width.
      zero_out: Whether the output kernel starts at zero.
      lr_scale: Factor α on the learning rate of all parameters; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      rngs: Random keys, as `flax.nnx.MultiHeadAttention` takes them.
      **flax: Other arguments of `flax.nnx.MultiHeadAttention`.

    Raises:
      ValueError: if a size, base, standard deviation or scale is out of range, a dtype is not a
        floating-point one, or `init_std` comes with a `kernel_init`.

    Example:
      >>> from flax import nnx
      >>> import jaxmup
      >>> attention = jaxmup.nnx.MultiHeadAttention(
      ...     8, 128, base_num_heads=4, base_in_features=64, decode=False, rngs=nnx.Rngs(0)
      ... )
      >>> jaxmup.nnx.specs(attention)["out"]["kernel"].r_in
      2.0

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Definition 4.1, Appendices D.2 and E.2.
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        qkv_features: int | None = None,
        out_features: int | None = None,
        num_kv_heads: int | None = None,
        in_kv_features: int | None = None,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_num_heads: int | None = None,
        base_head_dim: int | None = None,
        base_in_features: int | None = None,
        base_out_features: int | None = None,
        base_num_kv_heads: int | None = None,
        base_in_kv_features: int | None = None,
        init_std: float | None = None,
        zero_query: bool = False,
        zero_out: bool = False,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        rngs: nnx.Rngs,
        **flax: Any,
    ):
        keys: Any = Keys(rngs)
        super().__init__(
            num_heads,
            in_features,
            qkv_features,
            out_features,
            num_kv_heads,
            in_kv_features,
            rngs=keys,
            **{**flax, **dict.fromkeys(_INITIALIZERS, zeros)},
        )
        if out_features is None:
            base_out_features = base_in_features
        if in_kv_features is None:
            base_in_kv_features = base_in_features
        if num_kv_heads is None:
            base_num_kv_heads = base_num_heads
        shared: dict[str, Any] = {
            "parametrization": parametrization,
            "lr_scale": lr_scale,
            "depth_ratio": depth_ratio,
            "rngs": keys.again(),
        }
        queries, keys = (in_features, base_in_features), (self.in_kv_features, base_in_kv_features)
        heads = (self.num_heads, self.head_dim), (base_num_heads, base_head_dim)
        kv_heads = (self.num_kv_heads, self.head_dim), (base_num_kv_heads, base_head_dim)
        outputs = self.out_features, base_out_features
        linear = {"init_std": init_std, **shared}
        into = {**_arguments(flax, "qkv"), **linear}
        onto = {**_arguments(flax, "out"), "axis": (-2, -1), **linear}
        # In Flax's order, which is that of the draws.
        self.query = _linear(queries, heads, zero=zero_query, **into)
        self.key = _linear(keys, kv_heads, **into)
        self.value = _linear(keys, kv_heads, **into)
        if self.normalize_qk:
            self.query_ln = self._head_norm("query", base_head_dim, flax, shared)
            self.key_ln = self._head_norm("key", base_head_dim, flax, shared)
        self.out = _linear(heads, outputs, zero=zero_out, **onto)
        head = Axis("output", self.head_dim, base_head_dim)
        factor = logits_factor(head, as_parametrization(parametrization))
        self.attention_fn = ScaledAttention(self.attention_fn, factor)

    def _head_norm(
        self, name: str, base_head_dim: int | None, flax: Mapping[str, Any], shared: dict[str, Any]
    ) -> LayerNorm:
        return LayerNorm(
            self.head_dim,
            base_num_features=base_head_dim,
            use_bias=False,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            promote_dtype=self.ln_promote_dtype,
            scale_metadata=flax.get(f"{name}_ln_scale_metadata", {}),
            **shared,
        )


_INITIALIZERS = ("kernel_init", "bias_init", "out_kernel_init", "out_bias_init")


def _linear(
    inputs: tuple[Sizes, Bases],
    outputs: tuple[Sizes, Bases],
    *,
    zero: bool = False,
    **arguments: Any,
) -> LinearGeneral:
    """A layer between axes given by their sizes, now and in the base model."""
    if zero:
        arguments |= {"kernel_init": zeros, "init_std": None}
    bases = {"base_in_features": inputs[1], "base_out_features": outputs[1]}
    return LinearGeneral(inputs[0], outputs[0], **bases, **arguments)


def _arguments(flax: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The arguments that Flax's attention passes on to its linear layers.

    Args:
      flax: Arguments of Flax's attention.
      part: Part of the attention, `"qkv"` or `"out"`.
    """
    of_values = ("kernel_init", "bias_init", "kernel_metadata", "bias_metadata")
    own = {name: f"{part}_{name}" for name in ("promote_dtype", "dot_general", "dot_general_cls")}
    names = {name: name for name in (*of_values, "dtype", "param_dtype", "precision", "use_bias")}
    if part == "out":
        own |= {name: f"out_{name}" for name in of_values if flax.get(f"out_{name}")}
    return {name: flax[theirs] for name, theirs in (names | own).items() if theirs in flax}
