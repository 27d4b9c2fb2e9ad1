"""What a case of the zoo needs to be trained: initial values, a batch and a loss."""

import functools
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup import Model
from zoo.case import Case

EXAMPLES = 8
"""Examples of a batch, where the case has two."""
INTEGERS = 4
"""Integers are below this: tokens, labels, experts and nodes of the smallest graph."""


def model_of(case: Case) -> Model:
    """The model of a case, whose parameters are drawn."""
    make_model = case.make_model
    if getattr(make_model, "__module__", "") == "zoo.small":
        make_model = functools.partial(_drawn, make_model)
    return Model(make_model, inputs=batch_of(case)[0], apply=case.apply, wrt=case.wrt)


def sizes_of(case: Case, factors: tuple[int, ...] = (1, 4)) -> list[dict[str, int]]:
    """The sizes of the base model times each factor, in all that grows."""
    grows = {name for name, size in case.base.items() if case.sizes["delta"][name] != size}
    return [{k: n * (f if k in grows else 1) for k, n in case.base.items()} for f in factors]


def batch_of(case: Case) -> tuple[Any, Any]:
    """Random inputs in the shapes of a case, and targets that `loss_fn` does without."""
    random = np.random.default_rng(0)

    def drawn(x: Any) -> Any:
        if not hasattr(x, "shape") or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        shape = (EXAMPLES if x.shape[:1] == (2,) else n for n in x.shape[:1])
        shape = (*shape, *x.shape[1:])
        if jnp.issubdtype(x.dtype, np.integer):
            return jnp.asarray(random.integers(INTEGERS, size=shape), x.dtype)
        return jnp.asarray(random.normal(size=shape), x.dtype)

    return jax.tree.map(drawn, case.inputs), jnp.zeros(1)


def loss_fn(outputs: Any, _: Any) -> jax.Array:
    """Cross-entropy over the last axis of every output with random labels that stay."""
    losses = []
    for i, x in enumerate(jax.tree.leaves(outputs)):
        if not jnp.issubdtype(x.dtype, np.floating):
            continue
        x = x.astype(jnp.float32)
        if x.ndim == 0 or x.shape[-1] == 1:
            losses.append(jnp.mean((x - 1) ** 2))
            continue
        # Of an axis that grows the labels are among the first entries, which all sizes have.
        labels = np.random.default_rng(i).integers(min(x.shape[-1], 4), size=x.shape[:-1])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(x), labels[..., None], -1)
        losses.append(-jnp.mean(chosen))
    return sum(losses, start=jnp.zeros(()))


def _drawn(make_model: Any, key: jax.Array, **sizes: int) -> Mapping[str, jax.Array]:
    """Parameters of the shapes that a table's factory makes, at a size that suits their use."""
    return {
        name: _values(name, x, jax.random.fold_in(key, zlib.crc32(name.encode())))
        for name, x in make_model(**sizes).items()
    }


def _values(name: str, x: jax.Array, key: jax.Array) -> jax.Array:
    noise = jax.random.normal(key, x.shape, x.dtype)
    if x.ndim < 2:
        return 1 + noise / 10
    if name.startswith("embed"):
        return noise
    return noise / math.sqrt(max(x.shape[-2], x.shape[0] if x.ndim > 2 else 1))
