"""Check of a running state: updates that the parameters' dtype rounds away."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup._dtypes import is_floating
from jaxmup._finding import Finding
from jaxmup._tree import OptState, Params, PathName, leaves_by_path

if TYPE_CHECKING:
    import optax

_SHARE = 0.1  # of the entries that have an update


def check_rounding(
    tx: "optax.GradientTransformation", params: Params, opt_state: OptState
) -> Iterator[Finding]:
    """Finds parameters in low precision of which a step leaves many entries as they were.

    The step is the one that the state makes of a gradient of zero: that of the momentum and of
    weight decay, as large as a step of the run. Entries without an update do not count.

    Args:
      tx: Optimizer of the run.
      params: Parameters of the run.
      opt_state: State of the optimizer.
    """
    leaves = leaves_by_path(params)
    low = tuple(name for name, x in leaves.items() if _is_low(x))
    if not low or any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves.values()):
        return
    try:
        shares = _shares(tx, params, opt_state)
    except Exception as error:  # whatever a transform of the user's raises
        line = str(error).partition("\n")[0]
        yield Finding(
            "not-checked",
            f"The optimizer did not update the parameters from its state ({line}), so that the "
            "updates that low precision rounds away were not counted.",
            low,
            "Parameters in low precision may stand still.",
            "Pass the state and the parameters of the same run, and the optimizer that made them.",
        )
        return
    found = tuple(name for name in low if shares[name] > _SHARE)
    if found:
        worst = max(found, key=shares.__getitem__)
        yield Finding(
            "lost-updates",
            f"A step leaves entries as they were, since {leaves[worst].dtype.name} rounds their "
            f"updates away; most of all in {worst}, {shares[worst]:.0%} of them.",
            found,
            "Updates shrink against the weights as the width grows, and with the learning rate, so "
            "that larger models and later steps stand still: what transfers is the rounding.",
            "Keep the parameters in float32 and compute in low precision: `dtype=jnp.bfloat16` of "
            "the layers, with `param_dtype` as it is.",
        )


def _is_low(x: object) -> bool:
    dtype = getattr(x, "dtype", None)
    return dtype is not None and is_floating(x) and np.dtype(dtype).itemsize < 4


def _shares(
    tx: "optax.GradientTransformation", params: Params, opt_state: OptState
) -> dict[PathName, float]:
    """The share of each parameter's updates that change nothing."""
    import optax

    @jax.jit
    def counted(params: Params, opt_state: OptState) -> tuple[list[jax.Array], list[jax.Array]]:
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), opt_state, params)
        moved = jax.tree.leaves(optax.apply_updates(params, updates))
        given = zip(jax.tree.leaves(params), jax.tree.leaves(updates), moved, strict=True)
        lost, all_of_them = [], []
        for before, update, after in given:
            has_one = update != 0
            lost.append(jnp.sum(has_one & (before == after)))
            all_of_them.append(jnp.sum(has_one))
        return lost, all_of_them

    lost, of = counted(params, opt_state)
    names = leaves_by_path(params)
    return {name: int(a) / max(int(b), 1) for name, a, b in zip(names, lost, of, strict=True)}
