"""A convolutional network: features double where the image halves."""

import jax
from flax import nnx
from jax import Array

from jaxmup import _check
from jaxmup._parametrization import Parametrization, ParametrizationName
from jaxmup.nnx import Conv, GroupNorm, Linear


class CNN(nnx.Module):
    """`num_stages` convolutions of 3 x 3, each with a group norm and a ReLU, and a linear readout.

    The first keeps the image's size and has `width` features; each further one halves the image and
    doubles the features. The readout reads their mean over the image.

    Args:
      in_features: Number of channels of the images; it does not grow.
      out_features: Size of the last axis of the outputs; it does not grow.
      width: Number of features of the first convolution.
      num_stages: Number of convolutions, at least 1.
      base_width: `width` of the base model.
      num_groups: Number of groups of a group norm; it divides `width`.
      parametrization: A `Parametrization`, or its name (then for the Adam family).
      rngs: Random keys for the initial values.

    Raises:
      ValueError: if a size is not a positive integer, or `width` is no multiple of `num_groups`.

    Example:
      >>> import jax.numpy as jnp
      >>> model = CNN(1, 10, width=16, num_stages=2, base_width=8, rngs=nnx.Rngs(0))
      >>> model(jnp.ones((2, 8, 8, 1))).shape
      (2, 10)
      >>> [conv.kernel.shape for conv in model.convs]
      [(3, 3, 1, 16), (3, 3, 16, 32)]
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        width: int,
        num_stages: int,
        base_width: int,
        num_groups: int = 4,
        parametrization: Parametrization | ParametrizationName = "mup",
        rngs: nnx.Rngs,
    ):
        sizes = {"width": width, "num_stages": num_stages, "base_width": base_width}
        for name, size in {**sizes, "num_groups": num_groups}.items():
            _check.size(name, size)
        if width % num_groups:
            raise ValueError(
                "`width` must be a multiple of `num_groups`, the groups of a norm. Got "
                f"{width} and {num_groups}."
            )
        shared = {"parametrization": parametrization, "rngs": rngs}
        sizes = [in_features] + [width * 2**i for i in range(num_stages)]
        bases = [None] + [base_width * 2**i for i in range(num_stages)]
        self.convs = nnx.List(
            Conv(
                sizes[i],
                sizes[i + 1],
                (3, 3),
                strides=1 if i == 0 else 2,
                base_in_features=bases[i],
                base_out_features=bases[i + 1],
                **shared,
            )
            for i in range(num_stages)
        )
        self.norms = nnx.List(
            GroupNorm(size, num_groups=num_groups, base_num_features=base, **shared)
            for size, base in zip(sizes[1:], bases[1:], strict=True)
        )
        self.readout = Linear(sizes[-1], out_features, base_in_features=bases[-1], **shared)

    def __call__(self, images: Array) -> Array:
        """Shape `(batch, height, width, in_features)` to `(batch, out_features)`."""
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
        return self.readout(x.mean((1, 2)))
