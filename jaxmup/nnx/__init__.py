"""Flax NNX layers with an abcd-parametrization, drop-in for those of `flax.nnx`."""

from jaxmup.nnx._gauge import regauged as regauged
from jaxmup.nnx._gauge import trace_multipliers as trace_multipliers
from jaxmup.nnx._layer import Multiplier as Multiplier
from jaxmup.nnx._linear import Linear as Linear
from jaxmup.nnx._specs import specs as specs
