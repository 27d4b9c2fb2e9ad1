"""The coordinate check as an assertion, with its control."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import optax

from jaxmup import _check
from jaxmup._model import MakeModel, Model
from jaxmup._parametrization import Parametrization
from jaxmup._parametrization import parametrization as named_parametrization
from jaxmup.coord_check._batches import Data
from jaxmup.coord_check._coord_check import MakeTx, coord_check
from jaxmup.coord_check._result import CoordCheck, Over, page


def assert_coord_check(
    make_model: MakeModel | Model,
    sizes: Sequence[int],
    data: Data,
    make_tx: optax.GradientTransformation | MakeTx,
    *,
    control: bool = True,
    steps: int = 4,
    parametrization: Parametrization | None = None,
    **options: Any,
) -> CoordCheck:
    """Asserts that `coord_check` passes, and that under a wrong parametrization it fails.

    A check that passes whatever the parametrization says nothing, so a control is run beside it: it
    finds a learning rate that is too small to show anything, for example. Over width the control is
    the standard parametrization, over depth muP that scales nothing with depth.

    Args:
      make_model: Function of a size that makes a model, as for `coord_check`. For the control, one
        of jaxmup layers must have a parameter `parametrization`.
      sizes: Sizes of the models, as for `coord_check`.
      data: One batch, or an iterable of batches, as for `coord_check`.
      make_tx: Function of scalings that returns a transform, as for `coord_check`.
      control: Whether to run the control too.
      steps: Number of steps of the optimizer, as for `coord_check`.
      parametrization: Parametrization under check, as for `coord_check`.
      **options: Further arguments of `coord_check`.

    Returns:
      The check that passed.

    Raises:
      AssertionError: if a row fails or needs more seeds, naming it, or the control passes.
      ValueError: if the control cannot tell the model its parametrization.

    Example:
      >>> import jax, jax.numpy as jnp, jaxmup
      >>> from flax import nnx
      >>> def make_model(width, rngs):
      ...     zeros = nnx.initializers.zeros
      ...     readout = nnx.Linear(width, 2, use_bias=False, kernel_init=zeros, rngs=rngs)
      ...     return nnx.Sequential(nnx.Linear(4, width, rngs=rngs), nnx.relu, readout)
      >>> data = jax.random.normal(jax.random.key(0), (32, 4)), jnp.arange(32) % 2
      >>> adam = lambda scalings: jaxmup.optim.adam(2**-6, scalings)
      >>> check = assert_coord_check(make_model, (64, 128, 256), data, adam)
      >>> check.outcome
      'pass'
    """
    if control and isinstance(data, Iterable) and not isinstance(data, tuple):
        _check.size("steps", steps, at_least=2)
        data = list(itertools.islice(data, steps))  # which are iterated twice
    arguments = (make_model, sizes, data, make_tx)
    check = coord_check(*arguments, parametrization=parametrization, steps=steps, **options)
    if check.outcome != "pass":
        raise AssertionError(failure_message(check))
    if control:
        other = coord_check(*arguments, parametrization=control_of(check), steps=steps, **options)
        if other.outcome != "fail":
            raise AssertionError(
                f"The coordinate check passes, but says nothing: under {_CONTROLS[check.over]} its "
                f"outcome is {other.outcome!r} too: {other.reason} Take a larger learning rate, "
                f"more steps or larger {check.over}s. Its rule was {other.parametrization}."
            )
    return check


_CONTROLS: dict[Over, str] = {
    "width": "the standard parametrization",
    "depth": "muP that scales nothing with depth",
}


def control_of(check: CoordCheck) -> Parametrization:
    """The parametrization under which a check must fail, for the same optimizer.

    Over width it is the standard one, over depth muP that scales nothing with depth.

    Raises:
      ValueError: if the model of the check would not follow it.
    """
    if not check.follows_parametrization:
        raise ValueError(
            f"The control runs the model under {_CONTROLS[check.over]}, so `make_model` must take "
            "one. Its jaxmup layers have their own. Give it a parameter `parametrization` and pass "
            "that on to them, or leave the control out with `control=False`."
        )
    if check.over == "depth":
        return named_parametrization("mup", check.family, depth_alpha=0.0)
    return named_parametrization("standard", check.family)


def failure_message(check: CoordCheck, most: int = 12) -> str:
    """A message that says what is wrong: `print(check)` with another number of rows.

    Args:
      check: Check that has not passed.
      most: Number of rows to list of each outcome.
    """
    _check.made("check", check, "CoordCheck", "jaxmup.coord_check.coord_check")
    return page(check, most)
