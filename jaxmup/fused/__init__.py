"""Backward fused with the update."""

from jaxmup.fused._clip import Clip as Clip
from jaxmup.fused._clip import clip_by_global_norm as clip_by_global_norm
from jaxmup.fused._step import Step as Step
from jaxmup.fused._step import value_and_update as value_and_update
