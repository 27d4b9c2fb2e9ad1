"""The measurements of each module, as a table and as warnings."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from jax import Array

from jaxmup._tree import Tree
from jaxmup.empirical._measurable import LossFn, ModuleName, compiled
from jaxmup.empirical._models import (
    AnyModel,
    HeldArrays,
    count_examples,
    held,
    measurable,
    observed,
)
from jaxmup.empirical._solve import measured_under
from jaxmup.empirical._tally import Seen, Tally, fixed, members
from jaxmup.empirical._use import Settings, plain
from jaxmup.empirical._variables import Variables

COLUMNS = ("activations", "gradients", "updates")


@dataclasses.dataclass(frozen=True)
class ModuleStatistics:
    """The measurements of one module, all dimensionless.

    Args:
      module: Name of the module, with an index if it is one of a stack.
      activations: RMS of the outputs.
      gradients: RMS of the gradient that leaves through the inputs, per example; `None` if none
        can, as of token ids.
      updates: RMS of the change of the outputs per learning rate.
      dead: Fraction of the output features that get no gradient from the whole batch; 0 for a
        module with several uses, of which it is not known.
    """

    module: str
    activations: float
    gradients: float | None
    updates: float
    dead: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Two measurements of one model side by side.

    Args:
      before: Statistics of each module, in the order of the calls.
      after: Statistics of each module of the calibrated model.
    """

    before: tuple[ModuleStatistics, ...]
    after: tuple[ModuleStatistics, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The bad signs in the calibrated model, a sentence each."""
        return problems(self.after)

    def __str__(self) -> str:
        """A table with a line for each module."""
        width = max(len("module"), *(len(row.module) for row in self.before))
        head = "".join(f"{name:>23}" for name in COLUMNS)
        lines = [f"{'module':<{width}}{head}"]
        for before, after in zip(self.before, self.after, strict=True):
            pairs = ((getattr(before, name), getattr(after, name)) for name in COLUMNS)
            cells = "".join(f"{_number(a):>11} → {_number(b):>9}" for a, b in pairs)
            lines.append(f"{before.module:<{width}}{cells}")
        return "\n".join([*lines, *self.warnings])


def report(
    model: AnyModel,
    calibrated: nnx.Module | Variables,
    inputs: Tree,
    loss_fn: LossFn,
    *,
    variables: HeldArrays = None,
    modules: Sequence[str] | None = None,
    num_examples: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Activations, gradients and updates of each module before and after.

    Args:
      model: NNX model, Linen module, or `Instance` of either.
      calibrated: Model that `calibrate` returned: an NNX model, or the variables of the Linen
        module.
      inputs: Arguments of the call, as for `calibrate`, of any data.
      loss_fn: Loss of the outputs, as for `calibrate`.
      variables: Variables of the Linen module before; of an `Instance` the model before.
      modules: Names of the modules, as for `calibrate`.
      num_examples: Number of examples, as for `calibrate`.
      arguments: Further keyword arguments of the call.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> from jaxmup.empirical import calibrate
      >>> layer, x = nnx.Linear(4, 4, rngs=nnx.Rngs(0)), jnp.eye(4)
      >>> loss = lambda y: jnp.square(y - 1).mean()
      >>> found = report(layer, calibrate(layer, x, loss).model, x, loss)
      >>> [round(row.activations, 3) for row in found.after]
      [1.0]
    """
    common = {"modules": modules, "num_examples": num_examples, "arguments": arguments}
    before = statistics(model, inputs, loss_fn, variables=variables, **common)
    if isinstance(model, nnx.Module) and isinstance(calibrated, nnx.Module):
        after = statistics(calibrated, inputs, loss_fn, **common)
    else:
        after = statistics(model, inputs, loss_fn, variables=calibrated, **common)
    return Report(before, after)


def statistics(
    model: AnyModel,
    inputs: Tree,
    loss_fn: LossFn,
    *,
    variables: HeldArrays = None,
    modules: Sequence[str] | None = None,
    num_examples: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[ModuleStatistics, ...]:
    """RMS of activations, gradients and updates of each module, with the scales that it has.

    Numbers that are not finite are returned, not refused.

    Args:
      model: NNX model, Linen module, or `Instance` of either.
      inputs: Arguments of the call, as for `calibrate`.
      loss_fn: Loss of the outputs, as for `calibrate`.
      variables: Variables of a Linen module; of an `Instance` the model, or `None` to draw it.
      modules: Names of the modules, as for `calibrate`.
      num_examples: Number of examples, as for `calibrate`.
      arguments: Further keyword arguments of the call.

    Raises:
      TypeError, ValueError: as `calibrate`.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> layer = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))
      >>> layer.kernel[...] = 2 * jnp.eye(4)
      >>> [row] = statistics(layer, jnp.ones((1, 4)), jnp.sum)
      >>> row.activations, row.gradients, row.updates  # 2, dL/dx = 2, and |x|² = 4
      (2.0, 2.0, 4.0)
    """
    given = held(model, variables, inputs, arguments)
    measured, scales = measurable(given, modules, loss_fn)
    seen = observed(measured)
    scaled = not scales or any("scale_grad_x" in found for found in scales.values())
    settings = Settings(count_examples(given.inputs, num_examples), scaled, plain)
    applied = {name: _given(scales.get(name), one) for name, one in seen.items()}
    pass_ = compiled(measured, settings, seen)
    return statistics_of(measured_under(applied, measured, pass_, seen).tallies, seen)


def _given(scales: Mapping[str, Array] | None, seen: Seen) -> np.ndarray:
    if scales is None:
        return fixed(seen)
    update = scales.get("scale_grad_y", scales.get("learning_rate", 1.0))
    gradient = np.asarray(scales.get("scale_grad_x", 1.0)) * scales.get("scale_grad_y", 1.0)
    return fixed(seen, scales["scale_actv_y"], gradient, update)


def statistics_of(
    tallies: Mapping[ModuleName, Tally], seen: Mapping[ModuleName, Seen]
) -> tuple[ModuleStatistics, ...]:
    """The statistics of each module, those of a stack one by one."""
    return tuple(
        _statistics(member, Tally(*(field[index] for field in found)), seen[name].gradient)
        for name, found in tallies.items()
        for index, member in members(name, seen[name].lead)
    )


def _statistics(name: ModuleName, found: Tally, has_gradient: bool) -> ModuleStatistics:
    uses = max(float(found.uses), 1.0)
    activations, gradients, updates = (
        float(np.sqrt(x / uses)) for x in (found.activation, found.gradient, found.update)
    )
    # The fractions of several uses add up, but a feature is dead only if it is so in all of them.
    dead = float(found.dead) if uses == 1 else 0.0
    return ModuleStatistics(name, activations, gradients if has_gradient else None, updates, dead)


def problems(rows: Iterable[ModuleStatistics]) -> tuple[str, ...]:
    """The bad signs, a sentence each."""
    return tuple(f"{row.module}: {problem}" for row in rows for problem in _problems(row))


def _problems(row: ModuleStatistics) -> Iterable[str]:
    for what in COLUMNS:
        value = getattr(row, what)
        if value is not None and not np.isfinite(value):
            yield f"{what} are not finite"
        if value == 0:
            yield f"{what} are zero, and say nothing of their scale"
    if 0 < row.dead < 1:
        yield f"{row.dead:.0%} of the features are dead: no gradient from the whole batch"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
