"""The direction of Adam and AMSGrad, in the conventions of three libraries."""

import math
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxmup import _check
from jaxmup._tree import OptState, Params, Tree, Updates, wide
from jaxmup.optim._checks import (
    require_decay_rate,
    require_dtype,
    require_gradients,
    require_not_negative,
    values_of_leaves,
)
from jaxmup.optim._leaves import leaves_with_none, like, without_float0, zeros_like

Convention = Literal["torch", "labml", "optax"]
Eps = ArrayLike | Tree  # a number, or a tree of numbers with the names of the parameters
AdamState = optax.ScaleByAdamState | optax.ScaleByAmsgradState


def scale_by_adam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: Eps = 1e-8,
    eps_root: Eps = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    amsgrad: bool = False,
    nesterov: bool = False,
    convention: Convention = "torch",
) -> optax.GradientTransformation:
    r"""Adam's or AMSGrad's direction, in the convention of the library that it is to agree with.

    With `m` and `v` the moments after t steps and :math:`c_i = 1 - b_i^t` the bias corrections, the
    update is

    .. math::
      \frac{m / c_1}{\sqrt{v / c_2 + eps_{root}} + eps} \quad \text{("torch", "optax")}, \qquad
      \frac{m \sqrt{c_2} / c_1}{\sqrt{v + eps_{root}} + eps} \quad \text{("labml")}.

    "labml" (its optimized update) puts `eps` beside the uncorrected root: its effective `eps` is
    :math:`eps / \sqrt{c_2}`, larger at first. With `amsgrad`, v is replaced by a running maximum.
    "torch" and "labml" take the maximum of the raw v and correct it afterwards; "optax" takes the
    maximum of :math:`v / c_2`, which remembers the large corrections of the first steps for ever.
    The two differ by percents, not by rounding. With `nesterov`, :math:`m / c_1` becomes
    :math:`b_1 m / (1 - b_1^{t+1}) + (1 - b_1) g / c_1`, as in optax; torch's NAdam has a schedule
    of :math:`b_1` besides.

    The second moment of a complex gradient is that of :math:`|g|`, as in optax. torch takes the
    real and the imaginary part for two numbers; for its steps, let the parameters be these two.

    Args:
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Constant added to the root, in units of the gradient: a number, or a tree of numbers with
        the names of the parameters.
      eps_root: Constant added inside the root, in units of the squared gradient: a number or a
        tree.
      mu_dtype: Dtype of the first moment; `None` for that of the parameter.
      amsgrad: Whether to divide by the running maximum of the second moment.
      nesterov: Whether the momentum is Nesterov's.
      convention: Library whose formula to follow, where they differ.

    Returns:
      A transform with the state of the optax transform of the same kind, `optax.ScaleByAdamState`
      or `optax.ScaleByAmsgradState`.

    Raises:
      TypeError: if a decay or an eps is no number, `mu_dtype` no dtype, or `amsgrad` or `nesterov`
        no boolean; at `update`, if an update is of integers.
      ValueError: if a decay, an eps or `convention` is out of range; at `init` and `update`, if a
        tree of eps has other names than the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> tx = scale_by_adam()
      >>> updates, _ = tx.update(jnp.array([4.0, -2.0]), tx.init(jnp.zeros(2)))
      >>> updates
      Array([ 1., -1.], dtype=float32)

    References:
      Kingma and Ba, "Adam", arXiv:1412.6980, Algorithm 1 and Section 2.
      Reddi, Kale and Kumar, "On the Convergence of Adam and Beyond", arXiv:1904.09237, Algorithm 2.
      Dozat, "Incorporating Nesterov Momentum into Adam", ICLR Workshop (2016), Algorithm 2.
    """
    require_decay_rate("b1", b1)
    require_decay_rate("b2", b2)
    require_not_negative("eps", eps)
    require_not_negative("eps_root", eps_root)
    _check.one_of("convention", convention, get_args(Convention))
    require_dtype("mu_dtype", mu_dtype)
    _check.flag("amsgrad", amsgrad)
    _check.flag("nesterov", nesterov)

    def init(params: Params) -> AdamState:
        count, mu, nu = jnp.zeros([], jnp.int32), zeros_like(params, mu_dtype), zeros_like(params)
        values_of_leaves("eps", eps, nu)
        values_of_leaves("eps_root", eps_root, nu)
        if amsgrad:
            return optax.ScaleByAmsgradState(count, mu, nu, zeros_like(params))
        return optax.ScaleByAdamState(count, mu, nu)

    def update(
        updates: Updates, state: OptState, params: Params | None = None
    ) -> tuple[Updates, AdamState]:
        del params
        updates = without_float0(updates)
        require_gradients(updates)
        count = jnp.asarray(optax.safe_increment(state.count))
        correction = _Correction.at(b1, b2, count, convention, amsgrad, nesterov)
        eps_of, root_of = (
            values_of_leaves(name, value, updates)
            for name, value in (("eps", eps), ("eps_root", eps_root))
        )
        trees = (updates, *state[1:])
        columns = zip(eps_of, root_of, *map(leaves_with_none, trees), strict=True)
        leaves = [
            _update_leaf(b1, b2, correction, e, root, g, *moments)
            if g is not None
            else (None, *moments)
            for e, root, g, *moments in columns
        ]
        # Each tree keeps its own structure: in an NNX state it holds the metadata of a variable.
        direction, *moments = (like(tree, [x[i] for x in leaves]) for i, tree in enumerate(trees))
        return direction, type(state)(count, *moments)

    return optax.GradientTransformation(init, update)


class _Correction(NamedTuple):
    """The bias corrections of a step, folded into scalars.

    Numerator and denominator of the update are multiplied by `√c2`, which leaves one factor on the
    first moment and one on eps, so that a leaf is divided once.
    """

    size: Array  # on the first moment
    gradient: Array | None  # on the gradient beside it, where the momentum is Nesterov's
    eps: Array  # on eps, and squared on eps_root
    maximum: Array | None  # on the second moment, before its maximum

    @classmethod
    def at(
        cls,
        b1: ArrayLike,
        b2: ArrayLike,
        count: Array,
        convention: Convention,
        amsgrad: bool,
        nesterov: bool,
    ) -> "_Correction":
        c1, c2 = _bias_correction(b1, count), _bias_correction(b2, count)
        one, root = jnp.ones_like(c2), jnp.sqrt(c2)
        is_raw = amsgrad and convention == "optax"
        above = one if is_raw else root
        size, gradient = above / c1, None
        if nesterov:
            size = b1 * above / _bias_correction(b1, count + 1)
            gradient = (1 - b1) * above / c1
        if is_raw:
            return cls(size, gradient, eps=one, maximum=one / c2)
        return cls(size, gradient, eps=one if convention == "labml" else root, maximum=None)


def _bias_correction(decay: ArrayLike, count: Array) -> Array:
    """`1 - decay^count`; subtracted in float32 it would lose digits while it is small."""
    log = math.log(decay) if isinstance(decay, int | float) and decay > 0 else jnp.log(decay)
    return -jnp.expm1(count * log)


def _update_leaf(
    b1: ArrayLike,
    b2: ArrayLike,
    correction: _Correction,
    eps: ArrayLike,
    eps_root: ArrayLike,
    g: Array,
    mu: Array,
    nu: Array,
    nu_max: Array | None = None,
) -> tuple[Array, ...]:
    """The direction of a leaf and its new moments, computed in float32 at least."""
    g_wide = g.astype(wide(g.dtype))
    real = g_wide.real.dtype
    size, beside = (jnp.asarray(x, real) for x in (correction.size, eps * correction.eps))
    m = b1 * mu.astype(g_wide.dtype) + (1 - b1) * g_wide
    v = b2 * nu.real.astype(real) + (1 - b2) * abs_square(g_wide)
    moments = (m.astype(mu.dtype), v.astype(nu.dtype))
    if nu_max is not None:
        v = v if correction.maximum is None else v * correction.maximum.astype(real)
        v = jnp.maximum(nu_max.real.astype(real), v)
        moments = (*moments, v.astype(nu_max.dtype))
    if not (isinstance(eps_root, int | float) and eps_root == 0):  # adding 0 costs a pass
        v = v + jnp.asarray(eps_root * correction.eps**2, real)
    ahead = m * size
    if correction.gradient is not None:
        ahead = ahead + g_wide * correction.gradient.astype(real)
    direction = ahead / (jnp.sqrt(v) + beside)
    return direction.astype(g.dtype), *moments  # type: ignore[return-value]


def abs_square(x: Array) -> Array:
    """The square of the absolute value, which is real.

    Example:
      >>> float(abs_square(jnp.asarray(3.0 + 4.0j)))
      25.0
    """
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)
