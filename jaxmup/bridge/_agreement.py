"""Checks that an optax optimizer is torch's: one step of both on tiny tensors, and what they keep.

What an optax transform was built from cannot be read off it, but it can be seen: where moments are
as small as eps, a step depends on every hyper-parameter.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxmup._check import listed
from jaxmup._opt_state import Owners, with_fields
from jaxmup._tree import OptState, Params, PathName, leaves_by_path, map_named
from jaxmup.bridge._moments import Trained
from jaxmup.bridge._optax_states import Standing, fields_of, filled, moments_of
from jaxmup.bridge._torch_run import TorchRun

# Hyper-parameters that are float32 arrays differ from torch's floats by less.
LARGEST = 1e-6
_LONGEST_WAIT = 256  # calls until an update: accumulated gradients


class _Sample(NamedTuple):
    """A tiny tensor, in the units of torch: its moments, its gradient and its value."""

    moments: dict[str, np.ndarray]
    gradient: np.ndarray
    weight: np.ndarray


def require_same_step(
    tx: optax.GradientTransformation,
    params: Params,
    trained: Mapping[PathName, Trained],
    standing: Standing,
) -> None:
    """Raises a `ValueError` unless the next step of `tx` is torch's.

    Args:
      tx: The optax optimizer.
      params: The tree of its parameters.
      trained: Training of each parameter in torch, by name; a missing one is not trained.
      standing: Standing of the run.
    """
    rng = np.random.default_rng(0)
    samples = {
        path: _sample(rng, np.ndim(leaf), trained.get(path))
        for path, leaf in leaves_by_path(params).items()
    }
    expected = {
        path: _torch_update(trained.get(path), (standing.step or 0) + 1, sample)
        for path, sample in samples.items()
    }
    here = {path: _here(sample, trained.get(path)) for path, sample in samples.items()}
    with jax.enable_x64(True):
        got, largest = _update(tx, params, here, standing)
    wrong = list(_differences(got, expected, trained, largest))
    if wrong:
        raise ValueError(
            "The next step of `tx` must be that of torch's optimizer. It differs for"
            f"{listed(wrong)}"
        )


def _sample(rng: np.random.Generator, ndim: int, trained: Trained | None) -> _Sample:
    """Moments around the powers of eps, and a weight that decays as much as it is trained."""
    group = {} if trained is None else trained.group.hyperparameters
    unit = group.get("eps") or 1e-6  # so small that no threshold on gradients is reached
    degrees = {} if trained is None else trained.group.optimizer.moments(group)

    def around(size: float) -> np.ndarray:
        return size * 10 ** rng.uniform(-0.5, 0.5, (2,) * ndim)

    moments = {name: around(unit) ** degree for name, degree in degrees.items()}
    if "grad_avg" in moments:  # a mean is smaller than the root of the mean square
        moments["grad_avg"] = moments["grad_avg"] / 20
    decay = group.get("weight_decay") or 1e-3
    direction = 1.0 if group.get("decoupled_weight_decay") else unit
    return _Sample(moments, around(unit), around(direction / decay))


def _here(sample: _Sample, trained: Trained | None) -> _Sample:
    """The sample in the units of the leaf."""
    if trained is None:
        return sample
    group, factor = trained
    degrees = group.optimizer.moments(group.hyperparameters)
    moments = {name: sample.moments[name] / factor**degree for name, degree in degrees.items()}
    return _Sample(moments, sample.gradient / factor, sample.weight * factor)


def _torch_update(trained: Trained | None, step: int, sample: _Sample) -> np.ndarray:
    """The update that torch's step adds to the leaf."""
    if trained is None:
        return np.zeros_like(sample.weight)
    group, factor = trained
    return factor * group.optimizer.update(group.hyperparameters, step, *sample)


def _update(
    tx: optax.GradientTransformation,
    params: Params,
    samples: Mapping[PathName, _Sample],
    standing: Standing,
) -> tuple[dict[PathName, np.ndarray], float]:
    """The updates of `tx` by path, and how far off the dtypes of its state may leave them."""

    def tree(values: Callable[[_Sample], np.ndarray]) -> Params:
        return map_named(
            lambda _, sample: jnp.asarray(values(sample), jnp.float64), params, samples
        )

    gradients, weights = tree(lambda sample: sample.gradient), tree(lambda sample: sample.weight)
    moments: dict[str, dict[PathName, np.ndarray]] = {}
    for path, sample in samples.items():
        for name, array in sample.moments.items():
            moments.setdefault(name, {})[path] = array
    owners = Owners(samples)
    state = filled(_tiny_state(tx, params, owners), moments, standing, owners)
    updates = jax.tree.map(jnp.zeros_like, weights)
    # Where `optax.MultiSteps` gathers gradients, its first calls update nothing.
    for _ in range(_LONGEST_WAIT):
        updates, state = tx.update(gradients, state, weights)
        if any(np.any(update) for update in jax.tree.leaves(updates)):
            break
    found = {
        path: np.asarray(update, np.float64) for path, update in leaves_by_path(updates).items()
    }
    return found, _rounding(state)


def _tiny_state(tx: optax.GradientTransformation, params: Params, owners: Owners) -> OptState:
    """The state that `tx` begins with, with a tiny tensor for each of the true size."""
    shapes = {path: np.shape(leaf) for path, leaf in leaves_by_path(params).items()}

    def tiny(owner: PathName | None, leaf: Array) -> Array:
        if owner is None or leaf.shape != shapes[owner]:
            return leaf
        return jnp.full((2,) * leaf.ndim, leaf.ravel()[0] if leaf.size else 0, leaf.dtype)

    # `init` has to see the true shapes, which it may compare with those that it was built for. In
    # one program with what becomes of them, XLA makes no array of that size.
    @jax.jit
    def begun() -> OptState:
        state = tx.init(jax.tree.map(lambda leaf: jnp.zeros(np.shape(leaf), jnp.float64), params))
        fields = [part.field for part in fields_of(state)]
        return with_fields(state, {field.path: owners.map(tiny, field.value) for field in fields})

    return begun()


def _rounding(state: OptState) -> float:
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return max([LARGEST, *(8 * float(jnp.finfo(dtype).eps) for dtype in floats)])


def _differences(
    got: Mapping[PathName, np.ndarray],
    expected: Mapping[PathName, np.ndarray],
    trained: Mapping[PathName, Trained],
    largest: float,
) -> Iterator[str]:
    """A line for each path whose updates differ, with the optimizer that would not."""
    for path, update in expected.items():
        if path not in trained:
            if np.any(got[path]):
                yield f"{path}: torch does not train it. Use `optax.partition` with `set_to_zero`"
            continue
        gap, size = np.abs(got[path] - update), np.abs(update)
        with np.errstate(divide="ignore"):  # at a learning rate of 0 no gap is a small one
            relative = np.divide(gap, size, where=gap > 0, out=np.zeros_like(gap))
        difference = np.max(relative, initial=0.0)
        if not difference <= largest:
            group, factor = trained[path]
            units = "" if factor == 1.0 else f" in torch's units, {factor:g} times smaller"
            counterpart = group.optimizer.counterpart(group.hyperparameters)
            yield f"{path}: by {difference:.1e}. torch's is `{counterpart}`{units}"


def require_same_moments(
    state: OptState, trained: Mapping[PathName, Trained], owners: Owners
) -> None:
    """Raises a `ValueError` unless each leaf has the moments here that it has in torch."""
    kept: dict[PathName, list[str]] = {path: [] for path in trained}
    for name, path, _ in moments_of(state, owners):
        kept.setdefault(path, []).append(name)
    wrong = []
    for path, (group, _) in trained.items():
        wanted = group.optimizer.moments(group.hyperparameters)
        if sorted(kept[path]) != sorted(wanted):
            counterpart = group.optimizer.counterpart(group.hyperparameters)
            wrong.append(f"{path}: torch {sorted(wanted)}, `tx` {kept[path]}; use `{counterpart}`")
    if wrong:
        raise ValueError(
            f"`tx` must keep for each parameter what torch keeps. It differs for{listed(wrong)}"
        )


def require_started(run: TorchRun) -> None:
    """Raises a `ValueError` for a dampened momentum that has not begun: torch dampens it later."""
    for group in run.groups:
        held = group.hyperparameters
        if held.get("dampening") and held["momentum"]:
            late = [run.names[i] for i in group.indices if not run.moments[run.names[i]]]
            if late:
                raise ValueError(
                    "torch's SGD does not dampen the gradient of its first step, and nothing in "
                    f"optax does the same. Convert after it. There was no step of{listed(late)}"
                )


def require_at_rest(state: OptState, initial: OptState) -> None:
    """Raises a `ValueError` if something has gathered since the last step."""
    for part, other in zip(fields_of(state), fields_of(initial), strict=True):
        held, begun = jax.tree.leaves(part.field.value), jax.tree.leaves(other.field.value)
        at_rest = all(np.array_equal(a, b) for a, b in zip(held, begun, strict=True))
        if part.field.kind == "gathered" and not at_rest:
            raise ValueError(
                f"Convert right after a step: torch's optimizer has no place for `{part.where}`, "
                "which holds what was gathered since the last one."
            )
