"""The convex problem on which Adam ends at the worst point and AMSGrad at the best.

Ten million steps are one compiled loop, a fraction of a second on one core.
"""

import functools
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array, lax

Optimizer = Literal["adam", "amsgrad"]

STEPS = 10_000_000
LEARNING_RATE = 1e-2
B1, B2 = 0.9, 0.99
EPS = 1e-16
OPTIMUM = -1.0


class Trajectory(NamedTuple):
    """The record of a run, as three arrays of one length.

    Args:
      step: Number of each step, counted from 1; int64.
      x: Point seen by each step, before its update; float64.
      average_regret: Mean of `f_t(x_t) - f_t(-1)` up to and with each step; float64.
    """

    step: npt.NDArray[np.int64]
    x: npt.NDArray[np.float64]
    average_regret: npt.NDArray[np.float64]


def objective(t: Any, x: Any) -> Array:
    """`f_t(x) = 1010 x` if t mod 101 = 1, else `-10 x`.

    The sum over 101 steps is `10 x`, so -1 is the best fixed point of [-1, 1].

    Args:
      t: Step, counted from 0; an integer.
      x: Number in [-1, 1].

    Example:
      >>> [float(objective(t, 0.5)) for t in (0, 1, 2, 102)]
      [-5.0, 505.0, -5.0, 505.0]

    References:
      Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", arXiv:1904.09237, Section 5.
    """
    return jnp.where(t % 101 == 1, 1010.0, -10.0) * x


def run(optimizer: Optimizer, steps: int = STEPS, *, record_every: int = 1000) -> Trajectory:
    r"""Follows x for `steps` steps in float64, from x = 0 and t = 0.

    .. math::
      x_{t+1} = clip(x_t - \eta\, u_t,\ -1,\ 1)

    where u is the direction of `jaxmup.optim.scale_by_adam` in the convention "labml" (`eps` beside
    the uncorrected root), with lr 1e-2, betas (0.9, 0.99), eps 1e-16. Adam ends in a limit cycle at
    the wrong end, AMSGrad in one at the right end, near which it first comes after 127,000 steps.

    Args:
      optimizer: Name of the optimizer, `"adam"` or `"amsgrad"`.
      steps: Number of steps.
      record_every: Distance between records, the first of which is of step `record_every`; must
        divide `steps`.

    Raises:
      ValueError: if `optimizer` is unknown, or `record_every` is no positive divisor of `steps`.

    Example:
      >>> trajectory = run("amsgrad", 200_000)
      >>> trajectory.step[-1], round(trajectory.x[-1], 5)
      (np.int64(200000), np.float64(-0.99979))

    References:
      Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", arXiv:1904.09237, Section 5.
    """
    if optimizer not in get_args(Optimizer):
        raise ValueError(f"`optimizer` must be one of {get_args(Optimizer)}. Got {optimizer!r}.")
    if not (steps > 0 and record_every > 0 and steps % record_every == 0):
        raise ValueError(
            "`record_every` must be a positive divisor of `steps`. Got "
            f"record_every={record_every!r}, steps={steps!r}."
        )
    with jax.enable_x64(True):
        x, regret = _compiled(optimizer == "amsgrad", steps // record_every, record_every)
    step = record_every * np.arange(1, steps // record_every + 1)
    return Trajectory(step, np.asarray(x), np.asarray(regret) / step)


class _Carry(NamedTuple):
    t: Array
    x: Array
    seen: Array  # x before the last update
    mu: Array
    nu: Array
    nu_max: Array
    b1_power: Array  # b1^t
    b2_power: Array
    regret: Array  # summed


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(amsgrad: bool, records: int, record_every: int) -> tuple[Array, Array]:
    """The points seen and the regret, summed, at each record.

    The inner of the two scans outputs nothing and is not unrolled; so its body is small enough for
    XLA to emit the loop as native code, without a dispatch for each operation. `scale_by_adam` is
    written out in it, to keep the powers of the betas as products: computed from the count, as the
    transform does, they take three times as long as all the rest.
    """

    def step(carry: _Carry, _: None) -> tuple[_Carry, None]:
        t, x = carry.t, carry.x
        loss, gradient = jax.value_and_grad(objective, argnums=1)(t, x)
        mu = B1 * carry.mu + (1 - B1) * gradient
        nu = B2 * carry.nu + (1 - B2) * jnp.square(gradient)
        nu_max = jnp.maximum(carry.nu_max, nu) if amsgrad else nu
        b1_power, b2_power = B1 * carry.b1_power, B2 * carry.b2_power
        size = jnp.sqrt(1 - b2_power) / (1 - b1_power)
        moved = jnp.clip(x - LEARNING_RATE * mu * size / (jnp.sqrt(nu_max) + EPS), -1.0, 1.0)
        regret = carry.regret + loss - objective(t, OPTIMUM)
        return _Carry(t + 1, moved, x, mu, nu, nu_max, b1_power, b2_power, regret), None

    def record(carry: _Carry, _: None) -> tuple[_Carry, tuple[Array, Array]]:
        carry, _ = lax.scan(step, carry, None, length=record_every)
        return carry, (carry.seen, carry.regret)

    zero, one = jnp.zeros(()), jnp.ones(())
    t = jnp.zeros((), jnp.int64)
    start = _Carry(t, zero, zero, zero, zero, zero, one, one, zero)
    return lax.scan(record, start, None, length=records)[1]
