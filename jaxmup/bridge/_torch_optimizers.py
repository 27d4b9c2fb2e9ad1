"""The optimizers of `torch.optim`: one row for each, its step written from torch's formula.

A group holds hyper-parameters under torch's names; a state holds what torch keeps for one tensor.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxmup._opt_state import TRANSFORMS

Group: TypeAlias = Mapping[str, Any]
"""The hyper-parameters of a parameter group, by torch's names."""
TensorMoments: TypeAlias = Mapping[str, np.ndarray]
"""The moments that torch keeps for one tensor, by its names."""

# torch's names of the moments that transforms of optax keep, by transform and field.
TORCH_NAMES: dict[str, dict[str, str]] = {
    "scale_by_adam": {"mu": "exp_avg", "nu": "exp_avg_sq"},
    "scale_by_amsgrad": {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    "scale_by_rms": {"nu": "square_avg"},
    "scale_by_stddev": {"nu": "square_avg", "mu": "grad_avg"},
    "scale_by_rss": {"sum_of_squares": "sum"},
    "trace": {"trace": "momentum_buffer"},
}


class TorchOptimizer(NamedTuple):
    """An optimizer of torch.

    Args:
      name: Name of its class.
      counts: Whether it counts the steps of each tensor.
      marks: Hyper-parameters that no other optimizer has together.
      transforms: From a group, the transforms of optax that keep what it keeps, in their order.
      update: From a group, the number of the step (1 at the first), moments, gradient and weight,
        what is added to the weight.
      counterpart: From a group, the expression that makes the same optimizer here.
    """

    name: str
    counts: bool
    marks: frozenset[str]
    transforms: Callable[[Group], tuple[str, ...]]
    update: Callable[[Group, int, TensorMoments, np.ndarray, np.ndarray], np.ndarray]
    counterpart: Callable[[Group], str]

    def moments(self, group: Group) -> dict[str, float]:
        """For each moment, by torch's name, the power of the gradient that it has the unit of."""
        found: dict[str, float] = {}
        degree: float = 1  # of what the next transform receives; first of all, gradients
        for name in self.transforms(group):
            transform = TRANSFORMS[name]
            for field, torch_name in TORCH_NAMES[name].items():
                found[torch_name] = transform.fields[field].degree(degree)
            degree = transform.returns.degree(degree)
        return found


def _sgd_transforms(group: Group) -> tuple[str, ...]:
    return ("trace",) if group["momentum"] else ()


def _sgd(
    group: Group, step: int, moments: TensorMoments, gradient: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    gradient = _with_l2(group, gradient, weight)
    if not group["momentum"]:
        return -group["lr"] * gradient
    buffer = group["momentum"] * moments["momentum_buffer"] + (1 - group["dampening"]) * gradient
    direction = gradient + group["momentum"] * buffer if group["nesterov"] else buffer
    return -group["lr"] * direction


def _sgd_counterpart(group: Group) -> str:
    dampening = group["dampening"] if group["momentum"] else 0
    nesterov = ", nesterov=True" if group["nesterov"] else ""
    return _chain(
        group,
        f"optax.scale({1 - dampening!r})" if dampening else None,
        f"optax.trace({group['momentum']!r}{nesterov})" if group["momentum"] else None,
    )


def _adam_transforms(group: Group) -> tuple[str, ...]:
    return ("scale_by_amsgrad" if group["amsgrad"] else "scale_by_adam",)


def _adam(
    group: Group, step: int, moments: TensorMoments, gradient: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    (b1, b2), decoupled = group["betas"], group.get("decoupled_weight_decay", False)
    gradient = _with_l2({**group, "weight_decay": 0} if decoupled else group, gradient, weight)
    first = b1 * moments["exp_avg"] + (1 - b1) * gradient
    second = b2 * moments["exp_avg_sq"] + (1 - b2) * gradient**2
    if group["amsgrad"]:  # torch takes the maximum first and corrects the bias afterwards
        second = np.maximum(moments["max_exp_avg_sq"], second)
    root = np.sqrt(second) / np.sqrt(1 - b2**step)
    direction = first / (1 - b1**step) / (root + group["eps"])
    return -group["lr"] * (direction + (group["weight_decay"] * weight if decoupled else 0))


def _adam_counterpart(group: Group) -> str:
    (b1, b2), eps = group["betas"], group["eps"]
    library, amsgrad = ("jaxmup.optim", ", amsgrad=True") if group["amsgrad"] else ("optax", "")
    decoupled = group.get("decoupled_weight_decay", False)
    decay = _decay(group) if decoupled else None
    adam = f"{library}.scale_by_adam({b1!r}, {b2!r}, {eps!r}{amsgrad})"
    return _chain({**group, "weight_decay": 0} if decoupled else group, adam, decay)


def _rmsprop_transforms(group: Group) -> tuple[str, ...]:
    direction = "scale_by_stddev" if group["centered"] else "scale_by_rms"
    return (direction, "trace") if group["momentum"] else (direction,)


def _rmsprop(
    group: Group, step: int, moments: TensorMoments, gradient: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    decay, gradient = group["alpha"], _with_l2(group, gradient, weight)
    square = decay * moments["square_avg"] + (1 - decay) * gradient**2
    if group["centered"]:
        square = square - (decay * moments["grad_avg"] + (1 - decay) * gradient) ** 2
    direction = gradient / (np.sqrt(square) + group["eps"])
    if group["momentum"]:
        direction = group["momentum"] * moments["momentum_buffer"] + direction
    return -group["lr"] * direction


def _rmsprop_counterpart(group: Group) -> str:
    name = "scale_by_stddev" if group["centered"] else "scale_by_rms"
    return _chain(
        group,
        f"optax.{name}({group['alpha']!r}, {group['eps']!r}, eps_in_sqrt=False)",
        # `optax.rmsprop` has its trace after the learning rate, which a schedule then moves.
        f"optax.trace({group['momentum']!r})" if group["momentum"] else None,
    )


def _adagrad(
    group: Group, step: int, moments: TensorMoments, gradient: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    gradient = _with_l2(group, gradient, weight)
    root = np.sqrt(moments["sum"] + gradient**2)
    rate = group["lr"] / (1 + (step - 1) * group["lr_decay"])
    return -rate * gradient / (root + group["eps"])


def _adagrad_counterpart(group: Group) -> str:
    initial = group["initial_accumulator_value"]
    rate = f"lambda t: {group['lr']!r} / (1 + {group['lr_decay']!r} * t)"
    return _chain(
        {**group, "lr": _Expression(rate)} if group["lr_decay"] else group,
        f"jaxmup.optim.scale_by_adagrad({group['eps']!r}, initial_accumulator_value={initial!r})",
    )


class _Expression(str):
    """Code that is printed as it is."""

    def __repr__(self) -> str:
        return str(self)


def _with_l2(group: Group, gradient: np.ndarray, weight: np.ndarray) -> np.ndarray:
    gradient = -gradient if group.get("maximize") else gradient
    return gradient + group["weight_decay"] * weight


def _decay(group: Group) -> str | None:
    decay = group["weight_decay"]
    return f"optax.add_decayed_weights({decay!r})" if decay else None


def _chain(group: Group, *direction: str | None) -> str:
    parts = (
        "optax.scale(-1.0)" if group.get("maximize") else None,
        _decay(group),
        *direction,
        f"optax.scale_by_learning_rate({group['lr']!r})",
    )
    return f"optax.chain({', '.join(part for part in parts if part is not None)})"


TORCH_OPTIMIZERS = (
    TorchOptimizer(
        "SGD",
        False,
        frozenset({"momentum", "dampening", "nesterov"}),
        _sgd_transforms,
        _sgd,
        _sgd_counterpart,
    ),
    TorchOptimizer(
        "Adam or AdamW",
        True,
        frozenset({"betas", "eps", "amsgrad"}),
        _adam_transforms,
        _adam,
        _adam_counterpart,
    ),
    TorchOptimizer(
        "RMSprop",
        True,
        frozenset({"alpha", "eps", "momentum", "centered"}),
        _rmsprop_transforms,
        _rmsprop,
        _rmsprop_counterpart,
    ),
    TorchOptimizer(
        "Adagrad",
        True,
        frozenset({"lr_decay", "eps", "initial_accumulator_value"}),
        lambda _: ("scale_by_rss",),
        _adagrad,
        _adagrad_counterpart,
    ),
)
