"""Small reference models: what the tools and the tests train."""

from jaxmup.models.mlp import MLP as MLP
