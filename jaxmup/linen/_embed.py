"""Embeddings, tied readouts among them."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxmup import functional
from jaxmup._axes import embedding_axes
from jaxmup._parameter import Parameter, as_parametrization
from jaxmup._readout import tied_readout_ratio
from jaxmup.linen._layer import Layer, once


class Embed(Layer, nn.Embed):
    r"""`flax.linen.Embed` under an abcd-parametrization: rows of `m · embedding`.

    At base width it is `flax.linen.Embed` bit for bit. The standard deviation does not change with
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

    Raises:
      ValueError: at the first call, if a size, base, standard deviation or scale is out of range, a
        dtype is not a floating-point one, or `init_std` comes with an `embedding_init`.

    Example:
      >>> import jaxmup
      >>> embed = jaxmup.linen.Embed(50, 128, base_features=64)
      >>> spec = jaxmup.linen.specs(embed, jnp.array([1, 2]))["embedding"]
      >>> spec.role, spec.r_out
      ('input', 2.0)

    References:
      Yang et al., "Tensor Programs V", arXiv:2203.03466, Appendix B.1 and Tables 8, 9.
    """

    base_features: int | None = None
    init_std: float | None = None

    def setup(self) -> None:
        """Makes the embedding."""
        params, multipliers = self.make_parameters(self._declared())
        self.embedding = params["embedding"]
        self.multiplier = multipliers["embedding"]

    def __call__(self, inputs: Array) -> Array:
        """The embeddings of integer `inputs`: one more axis, of size `features`."""
        inputs = jnp.asarray(inputs)
        return functional.lookup(
            lambda table: self.call_flax(nn.Embed, {"embedding": table}, inputs),
            self.embedding,
            inputs.size,
            self.multiplier,
            always=self._declared()["embedding"].applied.varies,
        )

    def attend(self, query: Array) -> Array:
        """The logits of `query` of shape `(..., features)`: `(..., num_embeddings)`.

        Raises:
          ValueError: if under the parametrization one eps cannot be right for both uses.
        """
        spec = self._declared()["embedding"].spec
        ratio = tied_readout_ratio(spec, once(as_parametrization, self.parametrization))

        def product(query: Array, table: Array, _: Array | None) -> Array:
            return self.call_flax(nn.Embed, {"embedding": table}, query, method="attend")

        factor = functional.Factor(self.multiplier * ratio, spec.role != "fixed")
        operands = jnp.asarray(query), self.embedding, None
        factors = factor, functional.Factor(1.0)
        return functional.scaled_product(product, operands, factors, self.multiplier_acts_on())

    @nn.nowrap
    def _declared(self) -> Mapping[str, Parameter]:
        axes = once(embedding_axes, self.num_embeddings, self.features, self.base_features)
        return self.declare(axes)
