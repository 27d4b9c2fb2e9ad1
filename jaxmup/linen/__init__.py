"""Flax Linen layers with an abcd-parametrization, drop-in for those of `flax.linen`."""

from jaxmup.linen._attention import MultiHeadDotProductAttention as MultiHeadDotProductAttention
from jaxmup.linen._blocks import GatedMLP as GatedMLP
from jaxmup.linen._blocks import MixtureOfExperts as MixtureOfExperts
from jaxmup.linen._blocks import Residual as Residual
from jaxmup.linen._embed import Embed as Embed
from jaxmup.linen._linear import Conv as Conv
from jaxmup.linen._linear import ConvTranspose as ConvTranspose
from jaxmup.linen._linear import Dense as Dense
from jaxmup.linen._linear import DenseGeneral as DenseGeneral
from jaxmup.linen._linear import Einsum as Einsum
from jaxmup.linen._norm import BatchNorm as BatchNorm
from jaxmup.linen._norm import GroupNorm as GroupNorm
from jaxmup.linen._norm import LayerNorm as LayerNorm
from jaxmup.linen._norm import RMSNorm as RMSNorm
from jaxmup.linen._recurrent import GRUCell as GRUCell
from jaxmup.linen._recurrent import LSTMCell as LSTMCell
from jaxmup.linen._recurrent import SimpleCell as SimpleCell
from jaxmup.linen._specs import multipliers as multipliers
from jaxmup.linen._specs import specs as specs
