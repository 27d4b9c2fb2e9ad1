"""What was measured of each module, as a table and as warnings."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax import Array

from jaxmup.empirical._record import Record, Seen, fixed, members
from jaxmup.empirical._solve import compiled, measured
from jaxmup.empirical._subject import count_examples, make_subject, observed
from jaxmup.empirical._use import Settings, plain

COLUMNS = ("activations", "gradients", "updates")


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of one module, all dimensionless.

    Args:
      module: its name, with an index if it is one of a stack.
      activations: RMS of the outputs.
      gradients: RMS of the gradient that leaves through the inputs, per example; `None` if none
        can, as of token ids.
      updates: RMS of the change of the outputs per learning rate.
      dead: fraction of the output features that get no gradient from the whole batch; 0 for a
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
      before: of each module, in the order of the calls.
      after: the same, calibrated.
    """

    before: tuple[Row, ...]
    after: tuple[Row, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no good sign in the calibrated model, a sentence each."""
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
    model: Any,
    calibrated: Any,
    inputs: Any,
    loss_fn: Callable[..., Array],
    *,
    variables: Mapping[str, Any] | None = None,
    modules: Sequence[str] | None = None,
    num_examples: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Report:
    """Activations, gradients and updates of each module before and after.

    Args:
      model: an NNX model, or a Linen module.
      calibrated: what `calibrate` made of it: an NNX model, or the variables of the Linen module.
      inputs: as of `calibrate`; not necessarily the same.
      loss_fn: the same.
      variables: of the Linen module, before.
      modules: the same as of `calibrate`.
      num_examples: the same.
      arguments: the same.

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
    after = (
        statistics(calibrated, inputs, loss_fn, **common)
        if variables is None
        else statistics(model, inputs, loss_fn, variables=calibrated, **common)
    )
    return Report(before, after)


def statistics(
    model: Any,
    inputs: Any,
    loss_fn: Callable[..., Array],
    *,
    variables: Mapping[str, Any] | None = None,
    modules: Sequence[str] | None = None,
    num_examples: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[Row, ...]:
    """What a pass measures of each module, with the scales that the model has.

    Its arguments are those of `calibrate`. What is not finite is reported, not refused.

    Example:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> layer = nnx.Linear(4, 4, use_bias=False, rngs=nnx.Rngs(0))
      >>> layer.kernel[...] = 2 * jnp.eye(4)
      >>> [row] = statistics(layer, jnp.ones((1, 4)), jnp.sum)
      >>> row.activations, row.gradients, row.updates  # 2, dL/dx = 2, and |x|² = 4
      (2.0, 2.0, 4.0)
    """
    subject, scales = make_subject(model, variables, modules, inputs, arguments, loss_fn)
    seen = observed(subject, inputs)
    scaled = not scales or any("scale_grad_x" in found for found in scales.values())
    settings = Settings(count_examples(inputs, num_examples), scaled, plain)
    pass_ = compiled(subject, settings, seen)
    applied = {name: _given(scales.get(name), one) for name, one in seen.items()}
    return rows_of(measured(subject, pass_, seen, applied).records, seen)


def _given(scales: Mapping[str, Array] | None, seen: Seen) -> np.ndarray:
    if scales is None:
        return fixed(seen)
    update = scales.get("scale_grad_y", scales.get("learning_rate", 1.0))
    gradient = np.asarray(scales.get("scale_grad_x", 1.0)) * scales.get("scale_grad_y", 1.0)
    return fixed(seen, scales["scale_actv_y"], gradient, update)


def rows_of(records: Mapping[str, Record], seen: Mapping[str, Seen]) -> tuple[Row, ...]:
    """A row for each module, those of a stack one by one."""
    return tuple(
        _row(row, Record(*(field[index] for field in record)), seen[name].gradient)
        for name, record in records.items()
        for index, row in members(name, seen[name].lead)
    )


def _row(name: str, record: Record, has_gradient: bool) -> Row:
    uses = max(float(record.uses), 1.0)
    activations, gradients, updates = (
        float(np.sqrt(x / uses)) for x in (record.activation, record.gradient, record.update)
    )
    dead = float(record.dead) if uses == 1 else 0.0
    return Row(name, activations, gradients if has_gradient else None, updates, dead)


def problems(rows: Iterable[Row]) -> tuple[str, ...]:
    """What is no good sign, a sentence each."""
    return tuple(f"{row.module}: {problem}" for row in rows for problem in _problems(row))


def _problems(row: Row) -> Iterable[str]:
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
