"""Flax Linen layers with an abcd-parametrization, drop-in for those of `flax.linen`."""

from jaxmup.linen._linear import Conv as Conv
from jaxmup.linen._linear import ConvTranspose as ConvTranspose
from jaxmup.linen._linear import Dense as Dense
from jaxmup.linen._linear import DenseGeneral as DenseGeneral
from jaxmup.linen._linear import Einsum as Einsum
from jaxmup.linen._specs import multipliers as multipliers
from jaxmup.linen._specs import specs as specs
