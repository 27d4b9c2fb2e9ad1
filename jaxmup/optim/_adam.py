"""The direction of Adam and AMSGrad, in the conventions of three libraries."""

import math
from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxmup import _check
from jaxmup._tree import OptState, Params, Tree, Updates
from jaxmup.optim._checks import (
    require_decay_rate,
    require_dtype,
    require_not_negative,
    values_of_leaves,
)
from jaxmup.optim._leaves import leaves_with_none, like, zeros_like

Convention = Literal["torch", "labml", "optax"]
Eps = ArrayLike | Tree  # a number, or a tree of numbers with the names of the parameters
AdamState = optax.ScaleByAdamState | optax.ScaleByAmsgradState


def scale_by_adam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: Eps = 1e-8,
    eps_root: Eps = 0.0,
    *,
    amsgrad: bool = False,
    convention: Convention = "torch",
    mu_dtype: DTypeLike | None = None,
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
    The two differ by percents, not by rounding.

    Args:
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Constant added to the root, in units of the gradient: a number, or a tree of numbers with
        the names of the parameters.
      eps_root: Constant added inside the root, in units of the squared gradient: a number or a
        tree.
      amsgrad: Whether to divide by the running maximum of the second moment.
      convention: Library whose formula to follow, where they differ.
      mu_dtype: Dtype of the first moment; `None` for that of the parameter.

    Returns:
      A transform with the state of the optax transform of the same kind, `optax.ScaleByAdamState`
      or `optax.ScaleByAmsgradState`.

    Raises:
      TypeError: if a decay or an eps is no number, or `mu_dtype` no dtype.
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
    """
    require_decay_rate("b1", b1)
    require_decay_rate("b2", b2)
    require_not_negative("eps", eps)
    require_not_negative("eps_root", eps_root)
    _check.one_of("convention", convention, get_args(Convention))
    require_dtype("mu_dtype", mu_dtype)

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
        count = jnp.asarray(optax.safe_increment(state.count))
        correction = _Correction.at(b1, b2, count, convention, amsgrad)
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
    eps: Array  # on eps, and squared on eps_root
    maximum: Array | None  # on the second moment, before its maximum

    @classmethod
    def at(
        cls, b1: ArrayLike, b2: ArrayLike, count: Array, convention: Convention, amsgrad: bool
    ) -> "_Correction":
        c1, c2 = _bias_correction(b1, count), _bias_correction(b2, count)
        one, root = jnp.ones_like(c2), jnp.sqrt(c2)
        if amsgrad and convention == "optax":
            return cls(size=one / c1, eps=one, maximum=one / c2)
        return cls(size=root / c1, eps=one if convention == "labml" else root, maximum=None)


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
    wide = jnp.promote_types(g.dtype, jnp.float32)
    size, beside = (jnp.asarray(x, wide) for x in (correction.size, eps * correction.eps))
    g_wide = g.astype(wide)
    m = b1 * mu.astype(wide) + (1 - b1) * g_wide
    v = b2 * nu.astype(wide) + (1 - b2) * jnp.square(g_wide)
    moments = (m.astype(mu.dtype), v.astype(nu.dtype))
    if nu_max is not None:
        v = v if correction.maximum is None else v * correction.maximum.astype(wide)
        v = jnp.maximum(nu_max.astype(wide), v)
        moments = (*moments, v.astype(nu_max.dtype))
    if not (isinstance(eps_root, int | float) and eps_root == 0):  # adding 0 costs a pass
        v = v + jnp.asarray(eps_root * correction.eps**2, wide)
    direction = m * size / (jnp.sqrt(v) + beside)
    return direction.astype(g.dtype), *moments  # type: ignore[return-value]
