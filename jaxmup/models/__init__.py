"""Small reference models: what the tools and the tests train."""

from jaxmup.models.cnn import CNN as CNN
from jaxmup.models.gpt import GPT as GPT
from jaxmup.models.mlp import MLP as MLP
