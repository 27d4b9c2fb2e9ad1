"""What a case of the zoo needs to be trained: initial values, a batch and a loss."""

import functools
import inspect
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmup import Model
from jaxmup.coord_check import LineCheck, line_check
from jaxmup.optim import adam
from zoo.case import Case

EXAMPLES = 8
"""Examples of a batch, where the case has two."""
FACTORS = (2, 8)
"""Sizes over those of the base model that are compared: four times the width."""
RATE, STEPS = 2**-6, 6
"""Learning rate at the smaller size, and steps, of Adam."""
AMONG = ("experts", "e")
"""Sizes of what is chosen among, whose largest grows as the root of a logarithm."""
PLAIN = frozenset(f"zoo.{name}" for name in ("small", "clip", "lora", "mamba2", "moe", "s5"))
"""Where models are functions of trees, whose initial values say nothing."""
INTEGERS = 4
"""Integers are below this: tokens, labels, experts and nodes of the smallest graph."""


def model_of(case: Case) -> Model:
    """The model of a case, its parameters drawn at sizes that suit their uses."""
    make_model = case.make_model
    module = getattr(getattr(make_model, "func", make_model), "__module__", "")
    if module in PLAIN:
        make_model = functools.partial(_drawn, make_model)
    return Model(make_model, inputs=batch_of(case)[0], apply=case.apply, wrt=case.wrt)


def sizes_of(case: Case, factors: tuple[int, ...], more: int = 1) -> list[dict[str, int]]:
    """The sizes of the base model times each factor, in all that grows.

    Of heads and their size, which are factors of one axis, only the size grows.

    Args:
      case: The case.
      factors: Factor of each model.
      more: What the sizes of `AMONG` are multiplied by beside.
    """
    grows = {name for name, size in case.base.items() if case.sizes["delta"][name] != size}
    grows -= {"heads"} & grows if "head_size" in grows else set()
    grows -= {"h"} & grows if "d" in grows else set()
    beside = {name: more if name in AMONG else 1 for name in grows}
    return [
        {k: n * (f * beside[k] if k in grows else 1) for k, n in case.base.items()} for f in factors
    ]


def batch_of(case: Case) -> tuple[Any, Any]:
    """Random inputs in the shapes of a case, and targets that `loss_fn` does without."""
    random = np.random.default_rng(0)

    def drawn(x: Any) -> Any:
        if not hasattr(x, "shape") or jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        if not x.shape:  # a seed
            return jnp.zeros((), jnp.uint32)
        shape = (EXAMPLES if x.shape[:1] == (2,) else n for n in x.shape[:1])
        shape = (*shape, *x.shape[1:])
        if jnp.issubdtype(x.dtype, np.integer):
            return jnp.asarray(random.integers(INTEGERS, size=shape), x.dtype)
        return jnp.asarray(random.normal(size=shape), x.dtype)

    return case.batch or jax.tree.map(drawn, case.inputs), jnp.zeros(1)


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


def _drawn(make_model: Any, key: jax.Array, **sizes: int) -> Any:
    """Parameters of the shapes that a factory of a plain model makes."""
    keys = {"key": key} if "key" in inspect.signature(make_model).parameters else {}
    shapes = jax.eval_shape(functools.partial(make_model, **keys, **sizes))
    with_paths, tree = jax.tree.flatten_with_path(shapes)
    values = [
        _values(path[-1].key, x, jax.random.fold_in(key, zlib.crc32(str(path).encode())))
        for path, x in with_paths
    ]
    return jax.tree.unflatten(tree, values)


def _values(name: str, x: Any, key: jax.Array) -> jax.Array:
    noise = jax.random.normal(key, x.shape, x.dtype)
    if name == "head":  # so that logits do not fall with the width before they have learned
        return jnp.zeros(x.shape, x.dtype)
    if name == "eigenvalues":  # of states that decay
        return noise / 10 - 1
    if x.ndim < 2:
        return 1 + noise / 10
    if name.startswith("embed"):
        return noise
    return noise / math.sqrt(max(x.shape[-2], x.shape[0] if x.ndim > 2 else 1))


def line_check_of(
    case: Case,
    *,
    factors: tuple[int, ...] = FACTORS,
    more: int = 1,
    rate: float = RATE,
    steps: int = STEPS,
    **options: Any,
) -> LineCheck:
    """The growth of every value of a case's program, trained with Adam; arguments of `sizes_of`."""
    return line_check(
        model_of(case),
        sizes_of(case, factors, more),
        batch_of(case),
        lambda scalings: adam(rate, scalings),
        loss_fn=loss_fn,
        steps=steps,
        **options,
    )
