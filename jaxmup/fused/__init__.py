"""The backward pass fused with the optimizer's update: one layer's gradients exist at a time.

For a model that scans a block over stacked parameters, `value_and_update` takes the place of
`jax.value_and_grad` and of the update, and ends with the same numbers::

    step = jax.jit(fused.value_and_update(loss_fn, tx), donate_argnums=(0, 1))
    loss, params, state = step(params, state, batch)

It works on the program that JAX traces of the loss: it finds the loops over stacked parameters,
runs each forward keeping what the block's own backward pass needs, and back with the part of the
optimizer's program that belongs to one of its layers. So the model is written as ever, in Flax's
NNX or Linen or plain functions.

`memory_report` says what a step takes of memory in each form, `live_gradients` proves that XLA has
fused an unrolled model by itself, and `layer_by_layer` is the explicit form for running eagerly.
"""

from jaxmup.fused._clip import GlobalNormClip as GlobalNormClip
from jaxmup.fused._clip import global_norm_clip as global_norm_clip
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
