"""Flax NNX layers with an abcd-parametrization, drop-in for those of `flax.nnx`."""

from jaxmup.nnx._attention import MultiHeadAttention as MultiHeadAttention
from jaxmup.nnx._blocks import GatedMLP as GatedMLP
from jaxmup.nnx._blocks import MixtureOfExperts as MixtureOfExperts
from jaxmup.nnx._blocks import Residual as Residual
from jaxmup.nnx._conv import Conv as Conv
from jaxmup.nnx._conv import ConvTranspose as ConvTranspose
from jaxmup.nnx._embed import Embed as Embed
from jaxmup.nnx._gauge import regauged as regauged
from jaxmup.nnx._gauge import trace_multipliers as trace_multipliers
from jaxmup.nnx._layer import Multiplier as Multiplier
from jaxmup.nnx._linear import Einsum as Einsum
from jaxmup.nnx._linear import Linear as Linear
from jaxmup.nnx._linear import LinearGeneral as LinearGeneral
from jaxmup.nnx._lora import LoRA as LoRA
from jaxmup.nnx._norm import BatchNorm as BatchNorm
from jaxmup.nnx._norm import GroupNorm as GroupNorm
from jaxmup.nnx._norm import LayerNorm as LayerNorm
from jaxmup.nnx._norm import RMSNorm as RMSNorm
from jaxmup.nnx._recurrent import GRUCell as GRUCell
from jaxmup.nnx._recurrent import LSTMCell as LSTMCell
from jaxmup.nnx._recurrent import SimpleCell as SimpleCell
from jaxmup.nnx._specs import specs as specs
from jaxmup.nnx._stack import Stack as Stack
