"""Measured scales for a whole model.

The pass is one compiled program, in which all modules of a kind are traced once and XLA compiles
the kernels of each. Its time to compile grows with depth, as that of a training step does. Modules
compiled one by one, with the rest of the model dispatched operation by operation, would compile in
a time that does not, but only a chain of equal layers has so few operations beside its modules: a
GPT of 8 blocks took twice as long (10.6 against 5.3 s of CPU), a CNN four times (13.1 and 3.4 s).

`calibrate` can be traced itself, such as by `jax.jit` or the coordinate check's `vmap` over seeds:
then it looks at no value.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax import Array

from jaxmup import _check
from jaxmup._tree import Tree
from jaxmup.empirical._choose import named
from jaxmup.empirical._measurable import LossFn, compiled
from jaxmup.empirical._models import (
    AnyModel,
    HeldArrays,
    count_examples,
    held,
    measurable,
    observed,
)
from jaxmup.empirical._redraw import redrawn
from jaxmup.empirical._report import problems, statistics_of
from jaxmup.empirical._require import require_inputs_of
from jaxmup.empirical._solve import solve
from jaxmup.empirical._tally import Tally, any_traced, namespace
from jaxmup.empirical._use import Settings, plain, sign

GradientMode = Literal["scaled", "true"]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A calibrated model.

    Args:
      model: NNX model, or variables of the Linen module, with scales; a new one.
      scales: Scales of each module, by name and in the order of the calls: a dict of scalars, or of
        one entry for each module of a stack.
      passes: Number of forward and backward passes: 1, unless a module is used several times.
      warnings: Measurements that say nothing, a sentence each.
    """

    model: Any
    scales: Mapping[str, Mapping[str, Array]]
    passes: int
    warnings: tuple[str, ...]


def calibrate(
    model: AnyModel,
    inputs: Tree,
    loss_fn: LossFn,
    *,
    variables: HeldArrays = None,
    modules: Sequence[str] | None = None,
    readouts: Sequence[str] = (),
    redraw: bool = True,
    key: Array | None = None,
    gradients: GradientMode = "scaled",
    optimizer: Literal["sgd", "adam"] = "sgd",
    num_examples: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Calibration:
    r"""A model whose modules have activations, gradients and updates of RMS 1, from one pass.

    Every chosen module `f` with parameters θ becomes

    .. math::
      y = s_y\, f(\theta, x), \qquad
      g_\theta = s_{gy}\, s_y J_\theta^T g_y, \qquad
      g_x = s_{gx} s_{gy}\, s_y J_x^T g_y

    with three scales, `scale_actv_y`, `scale_grad_x` and `scale_grad_y`, for which, on these
    inputs,

    1. the outputs have RMS 1: :math:`s_y = 1 / RMS(f)`;
    2. the gradient that leaves through the inputs has RMS 1 per example;
    3. a step of SGD with learning rate 1 on the module's own parameters changes the outputs by
       RMS 1, to first order.

    A module sees inputs that are scaled already, and a gradient that is, so one forward and one
    backward pass find all scales, each where it is measured. The module's own share of the third
    is measured in the same backward pass. All of it is one compiled program.

    **Several uses.** A module that is called several times, or shares a parameter, has one scale
    for all: the mean over its uses of the mean squares is 1, and the update is that of all uses
    together. One pass cannot know that scale, so a few more find it, of one more compiled program;
    their number does not depend on the depth. Where scans or `vmap` stack modules, each has its own
    scale. Of several inputs, the one with the largest gradient counts.

    **Readouts.** A readout sums over n features into a number of outputs that does not grow. For
    outputs of RMS 1 its weights are of size :math:`n^{-1/2}`; as the features move along them, the
    outputs change by :math:`n^{1/2}`, and wide models behave unlike narrow ones. The modules that
    `readouts` names have a gain of 1 instead: inputs that move by RMS 1 where their gradient points
    move the outputs by RMS 1,

    .. math::
      s_y = RMS(J_x^T f) / RMS(J_x J_x^T f),

    which is muP's rule for them, and makes the outputs themselves fall as :math:`n^{-1/2}`.

    **Batch.** The loss is taken to be a mean over `num_examples`, so that the gradient of one
    example is `num_examples` times what arrives, and the second property speaks of that: the scales
    do not depend on the batch size. For a sum over examples, give 1.

    **Gradients.** With `gradients="scaled"`, what `jax.grad` returns for the calibrated model is
    not its gradient: each module scales what passes through it. SGD is meant to use that. An
    optimizer that divides by the size of the gradient, such as Adam, undoes it. With
    `gradients="true"` nothing is scaled backwards, `jax.grad` is the gradient, and the third
    property holds with a `learning_rate` for each module, see `learning_rates`; the second is left
    to the model.

    **Tracing.** Within `jax.jit` or `jax.vmap` values cannot be looked at: nothing is refused or
    warned of, and a module with several uses gets scales that are NaN.

    Running statistics are not updated: whatever the pass changes in the model's state is dropped.

    Args:
      model: NNX model, Linen module, or `Instance` of either, such as
        `jaxmup.Model(make_model).at(64)`; it is not changed. A calibrated one is calibrated anew.
      inputs: Arguments of the call: an array or any tree as the one argument, a tuple of positional
        arguments, or `{"args": ..., "kwargs": ...}`. What is no array stays as it is, such as the
        flag `train=False`. `None` for those that an `Instance` has.
      loss_fn: Loss, a scalar, of the outputs of the model.
      variables: Variables of a Linen module; of an `Instance` the model as a user holds it, or
        `None` to draw it with `key`.
      modules: Names of the modules to wrap, where `*` matches any text, such as
        `["blocks/*/attention"]`; `None` for every module with parameters that holds no other.
      readouts: Names of the modules among them, such as `["readout"]`, that have a gain of 1
        instead of outputs of RMS 1; each is used once. A model that is to grow wants them.
      redraw: Whether weights are drawn from a unit normal and biases set to zero. Gains, and
        parameters that are no weights, are always kept.
      key: Key with which they are drawn, by NumPy; `None` for `jax.random.key(0)`.
      gradients: Treatment of gradients, `"scaled"` or `"true"`.
      optimizer: Optimizer whose step the third property is about, `"sgd"` or `"adam"`; of Adam it
        is the first step, the sign of the gradient.
      num_examples: Number of examples that the loss is a mean over; `None` for the length of the
        first axis of the inputs.
      arguments: Further keyword arguments of the call, and of `apply` of a Linen module, such as
        `rngs`.

    Raises:
      TypeError: if `model` is of neither API.
      ValueError: naming the module: if one is never called, has integer parameters, or isn't
        differentiable, the loss doesn't depend on its outputs, or something is not finite; if the
        inputs have NaN or are all zero; if a pattern matches nothing; if a readout has several
        uses, or no input that a gradient passes to.

    References:
      Yang, Simon, Bernstein, "A Spectral Condition for Feature Learning", arXiv:2310.17813,
      Condition 1: every layer has a norm from RMS to RMS of order 1; the gain estimates it.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = nnx.Linear(8, 8, rngs=nnx.Rngs(0))
      >>> x = jax.random.normal(jax.random.key(1), (64, 8))
      >>> calibrated = calibrate(layer, x, lambda y: jnp.square(y - 1).mean()).model
      >>> float(jnp.sqrt(jnp.square(calibrated(x)).mean()).round(5))
      1.0
    """
    _check.function("loss_fn", loss_fn)
    _check.flag("redraw", redraw)
    if key is not None:
        _check.key("key", key)
    _check.one_of("gradients", gradients, get_args(GradientMode))
    _check.one_of("optimizer", optimizer, ("sgd", "adam"))
    if optimizer == "adam" and gradients == "scaled":
        raise ValueError(
            '`optimizer` must be "sgd", or "adam" with `gradients="true"`, since Adam undoes any '
            f"scale of its gradients. Got {optimizer!r} with gradients={gradients!r}."
        )
    given = held(model, variables, inputs, arguments, key)
    count = count_examples(given.inputs, num_examples)
    measured, _ = measurable(given, modules, loss_fn)
    seen = observed(measured)
    if redraw:
        measured = redrawn(measured, key, seen)
    direction = plain if optimizer == "sgd" else sign
    found = named(measured.names.values(), readouts, "a module to calibrate")
    require_inputs_of(found, seen)
    settings = Settings(count, gradients == "scaled", direction, found)
    solution = solve(measured, compiled(measured, settings, seen), seen, found)
    scales = {name: _scales(tally, gradients) for name, tally in solution.tallies.items()}
    on_device = jax.device_put(scales)  # which sorts them
    scales = {name: on_device[name] for name in scales}
    warnings = () if any_traced(scales) else problems(statistics_of(solution.tallies, seen))
    return Calibration(measured.scaled(scales), scales, solution.passes, warnings)


def _scales(tally: Tally, gradients: GradientMode) -> dict[str, Array | np.ndarray]:
    """The scales that a tally stands for; all uses of the module had the same."""
    mean, xp = tally.per_use(), namespace(tally)
    size = xp.sqrt(mean.update)
    update = xp.where(size > 0, mean.update_scale / xp.where(size > 0, size, 1), 1.0)
    if gradients == "true":
        return {"scale_actv_y": mean.activation_scale, "learning_rate": update}
    return {
        "scale_actv_y": mean.activation_scale,
        "scale_grad_x": mean.gradient_scale / update,
        "scale_grad_y": update,
    }
