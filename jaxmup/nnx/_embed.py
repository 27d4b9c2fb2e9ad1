"""Embeddings, tied readouts among them."""

from typing import Any

from flax import nnx
from jax import Array

from jaxmup import functional
from jaxmup._axes import embedding_axes
from jaxmup._parameter import as_parametrization
from jaxmup._parametrization import MultiplierActsOn, Parametrization, ParametrizationName
from jaxmup._readout import tied_readout_ratio
from jaxmup._spec import ParamSpec
from jaxmup.functional import OutSharding
from jaxmup.nnx._layer import (
    SPEC,
    Multiplier,
    hold_multipliers,
    multiplier_of,
    scaled_arguments,
    varies,
    with_arrays,
)


class Embed(nnx.Embed):
    r"""`flax.nnx.Embed` under an abcd-parametrization: rows of `m · embedding`.

    At base width it is `flax.nnx.Embed` bit for bit. The standard deviation does not change with
    the width: `embedding_init` is called with the base shape. A vocabulary is no width.

    `attend` ties a readout to the embedding. One tensor has one gauge: its logits are
    `m · r^-1 · query · embeddingᵀ` under muP, with r the width ratio of the features, and it learns
    from both uses.

    Args:
      num_embeddings: Size of the vocabulary.
      features: Size of an embedding.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      base_features: `features` of the base model; `None` if it does not grow.
      init_std: Standard deviation of a normal embedding, instead of `embedding_init`.
      lr_scale: Factor α on the learning rate; dimensionless.
      depth_ratio: Number of residual blocks over that of the base model; 1.0 outside of them.
      **flax: Other arguments of `flax.nnx.Embed`.

    Raises:
      ValueError: if a size, base, standard deviation or scale is out of range, a dtype is not a
        floating-point one, or `init_std` comes with an `embedding_init`.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> import jaxmup
      >>> embed = jaxmup.nnx.Embed(50, 128, base_features=64, rngs=nnx.Rngs(0))
      >>> embed.attend(embed(jnp.array([1, 2]))).shape
      (2, 50)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B.1 and Tables 8, 9.
    """

    embedding_multiplier: float | Multiplier
    multiplier_acts_on: MultiplierActsOn

    def __init__(
        self,
        num_embeddings: int,
        features: int,
        *,
        parametrization: Parametrization | ParametrizationName = "mup",
        base_features: int | None = None,
        init_std: float | None = None,
        lr_scale: float = 1.0,
        depth_ratio: float = 1.0,
        **flax: Any,
    ):
        arguments = scaled_arguments(
            super().__init__,
            embedding_axes(num_embeddings, features, base_features),
            flax,
            parametrization,
            lr_scale=lr_scale,
            depth_ratio=depth_ratio,
            init_std=init_std,
        )
        super().__init__(num_embeddings, features, **arguments)
        hold_multipliers(self, parametrization)
        self.parametrization = as_parametrization(parametrization)

    def __call__(self, inputs: Array, out_sharding: OutSharding = None) -> Array:
        """The embeddings of integer `inputs`: one more axis, of size `features`."""

        def take(embedding: Array) -> Array:
            layer = with_arrays(self, embedding=embedding)
            return nnx.Embed.__call__(layer, inputs, out_sharding)

        multiplier = multiplier_of(self, "embedding")
        always, table = varies(self.embedding), self.embedding[...]
        return functional.lookup(take, table, inputs.size, multiplier, always=always)

    def attend(self, query: Array, out_sharding: OutSharding = None) -> Array:
        """The logits of `query` of shape `(..., features)`: `(..., num_embeddings)`.

        Raises:
          ValueError: if under the parametrization one eps cannot be right for both uses.
        """
        spec: ParamSpec = self.embedding.get_metadata()[SPEC]
        ratio = tied_readout_ratio(spec, self.parametrization)
        multiplier = multiplier_of(self, "embedding") * ratio

        def product(query: Array, embedding: Array, _: Array | None) -> Array:
            return nnx.Embed.attend(with_arrays(self, embedding=embedding), query, out_sharding)

        factors = functional.Factor(multiplier, spec.role != "fixed"), functional.Factor(1.0)
        operands = query, self.embedding[...], None
        return functional.scaled_product(product, operands, factors, self.multiplier_acts_on)
