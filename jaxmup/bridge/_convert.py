"""Weights from PyTorch to Flax and back."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxmup._tree import listed
from jaxmup.bridge import _sources, _target
from jaxmup.bridge._layouts import Array
from jaxmup.bridge._pairs import Pairs
from jaxmup.bridge._plan import Entry, Plan, put
from jaxmup.bridge._planning import make_plan

StateDict = Mapping[str, Any] | str | os.PathLike[str]


def plan(
    source: StateDict,
    target: Any,
    pairs: Pairs | None = None,
    *,
    specs: Any = None,
    multipliers: Mapping[str, float] | None = None,
) -> Plan:
    """What `from_torch` would do, from names and shapes alone.

    Print it to see every tensor, its leaf, both shapes and the transform. The arguments are those
    of `from_torch`; nothing is read but headers, and a `state_dict` and a model may both be
    abstract.

    Raises:
      As `from_torch`.

    Example:
      >>> from flax import nnx
      >>> shapes = {"weight": np.empty((3, 2)), "bias": np.empty(3)}
      >>> print(plan(shapes, nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
      weight  kernel  (3, 2) → (2, 3)  transposed
      bias    bias    (3) → (3)        as it is
    """
    checkpoint = _sources.open_checkpoint(source)
    return plan_of(checkpoint, _target.read(target, specs), pairs, multipliers)


def plan_of(
    checkpoint: _sources.Checkpoint,
    target: _target.Target,
    pairs: Pairs | None,
    multipliers: Mapping[str, float] | None = None,
) -> Plan:
    """The plan for a checkpoint and a model that have been opened.

    Raises:
      ValueError: with the file in front.
    """
    with _sources.naming(checkpoint.where, ""):
        made = make_plan(checkpoint.sources, target.leaves, pairs, checkpoint.tied, multipliers)
        _require_floats(made, target)
    return made


def from_torch(
    state_dict_or_file: StateDict,
    target: Any,
    pairs: Pairs | None = None,
    *,
    specs: Any = None,
    multipliers: Mapping[str, float] | None = None,
    allow_nan: bool = False,
) -> Any:
    """A model of Flax with the weights of a model of PyTorch.

    Layers are matched by shape first: what fits one place only goes there. Where several fit, words
    that names share decide, and for equal names but for their numbers, the order of the numbers.
    What is still open is an error that lists it, and so is what is left over on either side.

    Dtypes are those of the checkpoint. If a jaxmup layer applies a multiplier m, it stores the
    weight over m, so that the effective weight is PyTorch's.

    Args:
      state_dict_or_file: a `state_dict()`, of tensors or of any arrays; or the path of a file: of
        safetensors, of an index of safetensors (`model.safetensors.index.json`), or of
        `torch.save`, which PyTorch's restricted unpickler reads (`weights_only=True`).
      target: an NNX module, or a tree of arrays such as Linen's variables. It is left as it is, and
        may be abstract (`nnx.eval_shape`, `jax.eval_shape`).
      pairs: for names that don't say it themselves, from a tensor or module of PyTorch to a leaf or
        layer of Flax, such as `{"h.*.ln_1": "blocks/*/attention_norm"}`. Several modules with one
        layer are tied. `None` for a path leaves a tensor out.
      specs: the `ParamSpec` of a tree's parameters, if its layers apply multipliers. An NNX module
        has its own.
      multipliers: of layers of PyTorch that apply any, by the name of the tensor; dimensionless.
      allow_nan: whether a tensor may hold NaN.

    Returns:
      A model like `target`.

    Raises:
      OSError: if a file cannot be read.
      TypeError: if `target` is no model, or a state dict no mapping.
      ValueError: naming the file and the tensors, if a file is damaged or holds more than tensors,
        if tensors or leaves are left over, cannot be told apart, or hold NaN, or if JAX would
        change a dtype.

    Example:
      >>> from flax import nnx
      >>> state = {"weight": np.arange(6.0, dtype="f4").reshape(3, 2), "bias": np.zeros(3, "f4")}
      >>> layer = from_torch(state, nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
      >>> layer.kernel[...]
      Array([[0., 2., 4.],
             [1., 3., 5.]], dtype=float32)
    """
    checkpoint = _sources.open_checkpoint(state_dict_or_file)
    opened = _target.read(target, specs)
    made = plan_of(checkpoint, opened, pairs, multipliers)
    leaves = forward(made, checkpoint, allow_nan=allow_nan)
    return opened.build(leaves)


def to_torch(
    model: Any,
    like: StateDict,
    pairs: Pairs | None = None,
    *,
    specs: Any = None,
    multipliers: Mapping[str, float] | None = None,
    allow_nan: bool = False,
) -> dict[str, Array]:
    """The state dict of a model of PyTorch with the weights of a model of Flax.

    The way back of `from_torch`, by the same plan and the same pairs.

    Args:
      model: an NNX module, or a tree of arrays such as Linen's variables.
      like: a state dict, or a file of one, whose names and shapes the result has; its values are
        not read.
      pairs: see `from_torch`.
      specs: see `from_torch`.
      multipliers: see `from_torch`.
      allow_nan: whether a leaf may hold NaN.

    Returns:
      Arrays of numpy by name, in the dtypes of `model`. `save` writes them, `as_tensors` makes
      tensors of them. What Flax has no place for is zero: the counters of batch norms, and the
      second bias of a recurrent layer, whose sum is in the first.

    Raises:
      As `from_torch`.

    Example:
      >>> from flax import nnx
      >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> state = to_torch(layer, {"weight": np.empty((3, 2)), "bias": np.empty(3)})
      >>> bool((state["weight"] == layer.kernel[...].T).all())
      True
    """
    checkpoint = _sources.open_checkpoint(like)
    opened = _target.read(model, specs)
    made = plan_of(checkpoint, opened, pairs, multipliers)
    _require_values(opened)
    leaves = {path: np.asarray(x) for path, x in opened.values.items()}
    if not allow_nan:
        _require_no_nan(leaves)
    return made.backward(leaves.__getitem__)


def forward(made: Plan, checkpoint: _sources.Checkpoint, *, allow_nan: bool) -> dict[str, Array]:
    """The leaves of a checkpoint by path, one tensor at a time."""
    leaves: dict[str, Array] = {}
    for entry in made.entries:
        for place, array in zip(
            entry.targets, converted(entry, checkpoint, allow_nan=allow_nan), strict=True
        ):
            put(leaves, place, made.shapes[place.path], array)
    return leaves


def converted(entry: Entry, checkpoint: _sources.Checkpoint, *, allow_nan: bool) -> list[Array]:
    """What the targets of one entry get.

    Raises:
      ValueError: naming file and tensors.
    """
    names = [source.name for source in entry.sources]
    with _sources.naming(checkpoint.where, ", ".join(names)):
        arrays = [checkpoint.read(name) for name in names]
        if not allow_nan and entry.targets:
            _require_no_nan(dict(zip(names, arrays, strict=True)))
        return entry.forward(arrays)


def reverted(entry: Entry, leaves: _sources.Checkpoint, *, allow_nan: bool) -> list[Array]:
    """What the sources of one entry get, from a file of leaves.

    Raises:
      ValueError: naming file and leaves.
    """
    with _sources.naming(leaves.where, ", ".join(map(str, entry.targets))):
        arrays = [leaves.read(place.path)[place.row] for place in entry.targets]
        if not allow_nan:
            _require_no_nan(dict(zip(map(str, entry.targets), arrays, strict=True)))
        return entry.backward(arrays)


def _require_no_nan(arrays: Mapping[str, Array]) -> None:
    wrong = [
        f"{name}: {count} of {array.size}"
        for name, array in arrays.items()
        if (count := _count_nan(array))
    ]
    if wrong:
        raise ValueError(
            f"Weights must not be NaN. These are:{listed(wrong)}\n"
            "With allow_nan=True they are converted as they are."
        )


def _count_nan(array: Array) -> int:
    return int(np.count_nonzero(array != array)) if array.dtype.kind not in "biu" else 0


def _require_values(target: _target.Target) -> None:
    abstract = [path for path, x in target.values.items() if not hasattr(x, "__array__")]
    if abstract:
        raise ValueError(f"A model must have values to convert. These have none:{listed(abstract)}")


def _require_floats(made: Plan, target: _target.Target) -> None:
    """Raises a `ValueError` where a tensor of integers would become a weight, or the reverse."""
    kinds = {leaf.path: leaf.dtype for leaf in target.leaves}
    wrong = [
        f"{source.name} is of {source.dtype}, {place} of {kinds[place.path]}"
        for entry in made.entries
        for source in entry.sources
        for place in entry.targets
        if _is_integer(source.dtype) != _is_integer(kinds[place.path])
    ]
    if wrong:
        raise ValueError(
            f"Tensors and leaves must both be of floats or both of integers.{listed(wrong)}"
        )


def _is_integer(dtype: Any) -> bool:
    return dtype.kind in "biu"
