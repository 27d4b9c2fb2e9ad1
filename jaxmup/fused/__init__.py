"""Backward fused with the update."""

from jaxmup.fused._clip import Clip as Clip
from jaxmup.fused._clip import clip_by_global_norm as clip_by_global_norm
from jaxmup.fused._live import LiveGradients as LiveGradients
from jaxmup.fused._live import live_gradients as live_gradients
from jaxmup.fused._memory import Form as Form
from jaxmup.fused._memory import Memory as Memory
from jaxmup.fused._memory import MemoryReport as MemoryReport
from jaxmup.fused._memory import in_form as in_form
from jaxmup.fused._memory import memory_report as memory_report
from jaxmup.fused._per_layer import per_layer as per_layer
from jaxmup.fused._step import Step as Step
from jaxmup.fused._step import value_and_update as value_and_update
from jaxmup.fused._unrolled import layer_by_layer as layer_by_layer
