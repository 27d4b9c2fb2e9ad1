"""Refusals of a model, of its data and of what was measured, each naming a module."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxmup._check import listed
from jaxmup._tree import PathName, Tree, leaves_by_path
from jaxmup.empirical._tally import Seen, Tally, any_traced, real_dtype


def require_parameters(name: str, params: Mapping[PathName, Array]) -> DTypeLike:
    """The real dtype of a module's parameters.

    Raises:
      ValueError: if one is an integer.
    """
    wrong = {
        path: leaf.dtype
        for path, leaf in params.items()
        if not jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    if wrong:
        raise ValueError(
            f"Parameters must be floating-point or complex, or nothing can be learned. {name} has "
            f"{ {path: str(dtype) for path, dtype in wrong.items()} }. Hold what is not trained in "
            "another kind of variable, or choose the modules to calibrate by `modules`."
        )
    return real_dtype(params)


def require_output(name: str, outputs: Tree) -> None:
    """Raises a `ValueError` unless the module returns one floating-point or complex array."""
    if not isinstance(outputs, jax.Array) or not jnp.issubdtype(outputs.dtype, jnp.inexact):
        got = jax.tree.map(lambda x: getattr(x, "dtype", type(x).__name__), outputs)
        raise ValueError(
            "A module must return one floating-point or complex array, through which a gradient "
            f"can pass. {name} returned {got}. Choose the modules to calibrate by `modules`."
        )


def require_called(names: Iterable[str], seen: Mapping[str, Seen]) -> None:
    """Raises a `ValueError` naming the modules that a run doesn't call."""
    missing = [name for name in names if name not in seen]
    if missing:
        raise ValueError(
            "Every module to calibrate must be called, and at most within scans that stack its "
            f"parameters. Never called:{listed(missing)}\n"
            "Leave them out by `modules`, or out of the model."
        )


def require_inputs(inputs: tuple[Any, ...], first: str) -> None:
    """Raises a `ValueError` unless the inputs are finite, and not all of them zero.

    Inputs that are traced have no values to look at.

    Args:
      inputs: Positional arguments of the model's call.
      first: Name of the module that is called first.
    """
    if any_traced(inputs):
        return
    arrays = {
        path: np.asarray(leaf)
        for path, leaf in leaves_by_path(inputs).items()
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)
    }
    infinite = [path for path, array in arrays.items() if not np.all(np.isfinite(array))]
    if infinite:
        raise ValueError(
            f"The inputs must be finite. Input {', '.join(infinite)} of the model has NaN or "
            f"infinite entries, which reach {first} first. Clean the data."
        )
    zero = [path for path, array in arrays.items() if not np.any(array)]
    if arrays and len(zero) == len(arrays):
        raise ValueError(
            f"The inputs must not all be zero, or nothing can be measured. Input {', '.join(zero)} "
            f"of the model is, so {first} sees nothing. Calibrate with a batch of real data."
        )


def require_finite(tallies: Mapping[str, Tally]) -> None:
    """Raises a `ValueError` naming the module where a value that isn't finite appears first."""
    # What is not finite spreads forwards through activations and backwards through gradients: where
    # it appears first is where it came from.
    forwards = list(tallies)
    backwards = forwards[::-1]
    for field, order in (("activation", forwards), ("gradient", backwards), ("update", backwards)):
        for name in order:
            if not np.all(np.isfinite(getattr(tallies[name], field))):
                raise ValueError(
                    f"Everything measured must be finite. The {field} of {name} is not. Look at "
                    "its parameters, and at what comes before it on the way there."
                )


def require_uses(tallies: Mapping[str, Tally]) -> None:
    """Raises a `ValueError` unless the loss depends on the output of every module."""
    without = [name for name, found in tallies.items() if not np.all(found.uses > 0)]
    if without:
        raise ValueError(
            "The loss must depend on the outputs of every module to calibrate. It doesn't on those "
            f"of{listed(without)}\nIs `loss_fn` a function of what the model returns, and is "
            "every module's output used? Leave others out by `modules`."
        )


def require_inputs_of(readouts: Iterable[str], seen: Mapping[str, Seen]) -> None:
    """Raises a `ValueError` unless a gradient can leave each readout."""
    without = [name for name in readouts if not seen[name].gradient]
    if without:
        raise ValueError(
            "A readout must have an input that a gradient can pass to, since it is scaled by how "
            f"much that moves its outputs. There is none of{listed(without)}\nLeave it out of "
            "`readouts`."
        )


def require_single_use(readouts: Iterable[str], shared: Collection[str]) -> None:
    """Raises a `ValueError` if a readout has several uses."""
    wrong = [name for name in readouts if name in shared]
    if wrong:
        raise ValueError(
            "A readout must be used once and share no parameter, or its gain is not that of one "
            f"use. Used several times:{listed(wrong)}\nLeave it out of `readouts`."
        )


def require_gradient(tallies: Mapping[str, Tally]) -> None:
    """Raises a `ValueError` if the gradient is zero everywhere."""
    if not any(np.any(r.update) or np.any(r.gradient) for r in tallies.values()):
        raise ValueError(
            "The loss must depend on the outputs of the model. Its gradient is zero in every "
            f"module, from {list(tallies)[-1]} backwards. Calibrate with another loss or batch."
        )


def require_change(tallies: Mapping[str, Tally]) -> None:
    """Raises a `ValueError` naming modules that work, but whose parameters get no gradient."""
    wrong = [
        name
        for name, r in tallies.items()
        # A gradient that reaches no use says nothing, and outputs of zero may hide a step.
        if np.any((r.reached > 0) & (r.activation > 0) & (r.update == 0))
    ]
    if wrong:
        raise ValueError(
            "A module must be differentiable in its parameters. A gradient reaches these, and "
            f"their own parameters get none:{listed(wrong)}\n"
            "Does it round, compare, or stop gradients? Leave it out by `modules`."
        )


def require_measurable(tallies: Mapping[str, Tally]) -> None:
    """Raises a `ValueError` naming a module that cannot be calibrated, and why."""
    require_uses(tallies)
    require_finite(tallies)
    require_change(tallies)
    require_gradient(tallies)
