"""Weights from PyTorch to Flax and back."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from flax import nnx

from jaxmup import _check
from jaxmup._check import listed
from jaxmup._tree import Specs, Tree
from jaxmup.bridge import _pairs
from jaxmup.bridge._flax_model import FlaxModel, LeafArrays, open_model
from jaxmup.bridge._model_settings import Settings
from jaxmup.bridge._pairs import Pairs
from jaxmup.bridge._plan import Entry, Plan
from jaxmup.bridge._planning import make_plan
from jaxmup.bridge._sources import (
    Checkpoint,
    StateDictOrFile,
    naming,
    open_checkpoint,
    require_one,
    with_aliases,
)
from jaxmup.bridge._unsaid import with_unsaid

M = TypeVar("M", bound=nnx.Module | Tree)


def plan(
    state_dict_or_file: StateDictOrFile,
    model: nnx.Module | Tree,
    pairs: Pairs | None = None,
    *,
    specs: Specs | None = None,
    multipliers: Mapping[str, float] | None = None,
    settings: Settings | None = None,
) -> Plan:
    """The conversion that `from_torch` would do, from names and shapes alone.

    Print it to see every tensor, its leaf, both shapes and the transform; and what outputs depend
    on that no tensor holds, such as eps. Nothing is read but headers, and a state dict and a model
    may both be abstract.

    Args:
      state_dict_or_file: State dict, or the path of a file of one; see `from_torch`.
      model: NNX module, or a tree with arrays; see `from_torch`.
      pairs: Paths of Flax for names that don't say it themselves; see `from_torch`.
      specs: For a tree, the `ParamSpec` of its parameters; see `from_torch`.
      multipliers: Multipliers of PyTorch's layers; see `from_torch`.
      settings: Module of PyTorch or configuration that says what no tensor holds; see `from_torch`.

    Raises:
      As `from_torch`.

    Example:
      >>> from flax import nnx
      >>> shapes = {"weight": np.empty((3, 2)), "bias": np.empty(3)}
      >>> print(plan(shapes, nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
      weight  kernel  (3, 2) → (2, 3)  transposed
      bias    bias    (3) → (3)        as it is
    """
    checkpoint = opened_by(pairs, state_dict_or_file)
    return plan_of(checkpoint, open_model(model, specs), pairs, multipliers, settings)


def plan_of(
    checkpoint: Checkpoint,
    opened: FlaxModel,
    pairs: Pairs | None,
    multipliers: Mapping[str, float] | None = None,
    settings: Settings | None = None,
) -> Plan:
    """The plan for a checkpoint and a model that have been opened.

    Raises:
      OSError: if a file of settings cannot be read.
      TypeError: if `settings` is no module, configuration or path.
      ValueError: with the file in front.
    """
    for name, multiplier in (multipliers or {}).items():
        _check.number(f"multipliers[{name!r}]", multiplier, above=0)
    unknown = [n for n in multipliers or {} if n not in {s.name for s in checkpoint.sources}]
    if unknown:
        raise ValueError(
            f"`multipliers` must be of tensors of the checkpoint. Not in it:{listed(unknown)}\n"
            "`jaxmup.bridge.abcd_multipliers` makes those of abcd layers."
        )
    with naming(checkpoint.where, ""):
        made = make_plan(checkpoint.sources, opened.leaves, pairs, checkpoint.tied, multipliers)
        _require_floats(made, opened)
    return with_unsaid(made, opened.layers, settings)


def from_torch(
    state_dict_or_file: StateDictOrFile,
    model: M,
    pairs: Pairs | None = None,
    *,
    specs: Specs | None = None,
    multipliers: Mapping[str, float] | None = None,
    settings: Settings | None = None,
    allow_nan: bool = False,
) -> M:
    """A model of Flax with the weights of a model of PyTorch.

    Layers are matched by shape first: what fits one place only goes there. Where several fit, words
    that names share decide, and for equal names but for their numbers, the order of the numbers.
    What is still open is an error that lists it, and so is what is left over on either side.

    Dtypes are those of the checkpoint. If a jaxmup layer applies a multiplier m, it stores the
    weight over m, so that the effective weight is PyTorch's.

    Args:
      state_dict_or_file: State dict, of tensors or of any arrays; or the path of a file: of
        safetensors, of an index of safetensors (`model.safetensors.index.json`), or of
        `torch.save`, which PyTorch's restricted unpickler reads (`weights_only=True`).
      model: NNX module, or a tree with arrays, such as Linen's variables or an Equinox module. It
        is left as it is, and may be abstract (`nnx.eval_shape`, `jax.eval_shape`). Leaves that are
        no arrays are carried along.
      pairs: Paths of Flax for names that don't say it themselves: from a tensor or module of
        PyTorch to a leaf or layer, such as `{"h.*.ln_1": "blocks/*/attention_norm"}`. Several
        modules with one layer are tied. `None` for a path leaves a tensor out, and paths under the
        name `""`, such as `{"": "rope/*"}`, keep the values of the model. A path may come
        with how PyTorch stores the tensor: `("attention", "q|k|v")` holds layers under
        `attention`, one after another, `"heads q|k|v"` head by head, `"4 q|v|k"` in four blocks;
        `{"attn.q|k|v": "attention/qkv"}` leads several modules to one layer, and
        `("attention/qkv", "heads")` or `"8 groups"` says that they do not stand one after another;
        `("fc", "flatten 512,7,7")` takes a feature map that was flattened with its channels first;
        `("readout", "as wte.weight")` fills a layer with a tensor that is stored once, under its
        other name;
        `"linear"`, `"conv1d"` (inputs first), `"conv"` and `"conv_transpose"` say which of two
        layouts a square weight has.
      specs: For a tree, the `ParamSpec` of its parameters, if its layers apply multipliers. An NNX
        module has its own.
      multipliers: Multipliers of PyTorch's layers that apply any, by the name of the tensor;
        dimensionless.
      settings: What says that no tensor holds and outputs depend on, to be compared with the layers
        of `model`: the module of PyTorch itself, or a configuration of Hugging Face, as an object,
        a mapping or the path of its `config.json`. Compared are eps, momentum of running averages,
        groups, strides, dilation and padding, and GELU where a module holds it; the rest is in
        `plan(...).unsaid`.
      allow_nan: Whether a tensor may hold NaN.

    Returns:
      A model like `model`.

    Raises:
      OSError: if a file cannot be read.
      TypeError: if `model` has no arrays, or a state dict is no mapping.
      ValueError: naming the file and the tensors, if a file is damaged or holds more than tensors,
        if tensors or leaves are left over, cannot be told apart, or hold NaN, if two leaves have
        one name, if specs are of another model, or if JAX would change a dtype.

    Warns:
      UserWarning: if a dense layer may take a flattened feature map, and no pair says so; or a pair
        leads a tensor to a leaf which their names say is another, such as `k_proj` to `query`; or
        `settings` are other than those of the layers.

    Example:
      >>> from flax import nnx
      >>> state = {"weight": np.arange(6.0, dtype="f4").reshape(3, 2), "bias": np.zeros(3, "f4")}
      >>> layer = from_torch(state, nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
      >>> layer.kernel[...]
      Array([[0., 2., 4.],
             [1., 3., 5.]], dtype=float32)
    """
    checkpoint = opened_by(pairs, state_dict_or_file)
    opened = open_model(model, specs)
    made = plan_of(checkpoint, opened, pairs, multipliers, settings)
    _warn(made)
    kept = _values({path: opened.values[path] for path in made.kept})
    leaves = made.leaves(lambda entry: converted(entry, checkpoint, allow_nan=allow_nan))
    return opened.build({**leaves, **kept})


def to_torch(
    model: nnx.Module | Tree,
    like: StateDictOrFile,
    pairs: Pairs | None = None,
    *,
    specs: Specs | None = None,
    multipliers: Mapping[str, float] | None = None,
    allow_nan: bool = False,
) -> dict[str, np.ndarray]:
    """The state dict of a model of PyTorch with the weights of a model of Flax.

    The way back of `from_torch`, by the same plan and the same pairs.

    Args:
      model: NNX module, or a tree with arrays, such as Linen's variables.
      like: State dict, or the path of a file of one, whose names and shapes the result has; its
        values are not read.
      pairs: Paths of Flax for names that don't say it themselves; see `from_torch`.
      specs: For a tree, the `ParamSpec` of its parameters; see `from_torch`.
      multipliers: Multipliers of PyTorch's layers; see `from_torch`.
      allow_nan: Whether a leaf may hold NaN.

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
    checkpoint = opened_by(pairs, like)
    opened = open_model(model, specs)
    made = plan_of(checkpoint, opened, pairs, multipliers)
    _warn(made)
    leaves = _values(opened.values)
    if not allow_nan:
        _refuse_nan(leaves)
    tensors = made.backward(leaves.__getitem__)
    with naming(checkpoint.where, ""):
        require_one(checkpoint.tied, tensors.__getitem__, held(made))
    second = _pairs.aliases(pairs)
    return {name: x for name, x in tensors.items() if name not in second}


def opened_by(pairs: Pairs | None, state_dict_or_file: StateDictOrFile) -> Checkpoint:
    """The checkpoint, with the second names that pairs give to its tensors.

    Raises:
      ValueError: naming the file, and second names of no tensor.
    """
    checkpoint = open_checkpoint(state_dict_or_file)
    with naming(checkpoint.where, ""):
        return with_aliases(checkpoint, _pairs.aliases(pairs))


def held(made: Plan) -> frozenset[str]:
    """Names of the tensors that have a leaf."""
    return frozenset(s.name for entry in made.entries if entry.targets for s in entry.sources)


def _warn(made: Plan) -> None:
    for note in made.notes:
        _check.warn(note)


def converted(entry: Entry, checkpoint: Checkpoint, *, allow_nan: bool) -> list[np.ndarray]:
    """The arrays of the leaves of one entry, from a checkpoint of PyTorch.

    Raises:
      ValueError: naming file and tensors.
    """
    names = [source.name for source in entry.reads]
    with naming(checkpoint.where, ", ".join(names)):
        arrays = [checkpoint.read(name) for name in names]
        if not allow_nan and entry.targets:
            _refuse_nan(dict(zip(names, arrays, strict=True)))
        return entry.forward(arrays)


def reverted(entry: Entry, leaves: Checkpoint, *, allow_nan: bool) -> list[np.ndarray]:
    """The arrays of the tensors of one entry, from a file of leaves.

    Raises:
      ValueError: naming file and leaves.
    """
    places = entry.reads_back
    with naming(leaves.where, ", ".join(map(str, places))):
        arrays = [place.of(leaves.read(place.path)) for place in places]
        if not allow_nan:
            _refuse_nan(dict(zip(map(str, places), arrays, strict=True)))
        return entry.backward(arrays)


def _refuse_nan(arrays: Mapping[str, np.ndarray]) -> None:
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


def _count_nan(array: np.ndarray) -> int:
    # What differs from itself: `np.isnan` does not know every dtype of ml_dtypes.
    return 0 if _is_integer(array.dtype) else int(np.count_nonzero(array != array))


def _values(leaves: LeafArrays) -> dict[str, np.ndarray]:
    abstract = [path for path, x in leaves.items() if not hasattr(x, "__array__")]
    if abstract:
        raise ValueError(
            "What is converted or kept must have values in the model. These are abstract:"
            f"{listed(abstract)}"
        )
    return {path: np.asarray(x) for path, x in leaves.items()}


def _require_floats(made: Plan, opened: FlaxModel) -> None:
    """Raises a `ValueError` where a tensor of integers would become a weight, or the reverse."""
    dtypes = {leaf.path: leaf.dtype for leaf in opened.leaves}
    wrong = [
        f"{source.name} is of {source.dtype}, {place} of {dtypes[place.path]}"
        for entry in made.entries
        for source in entry.sources
        for place in entry.targets
        if _is_integer(source.dtype) != _is_integer(dtypes[place.path])
    ]
    if wrong:
        raise ValueError(
            f"Tensors and leaves must both be of floats or both of integers.{listed(wrong)}"
        )


def _is_integer(dtype: np.dtype) -> bool:
    return dtype.kind in "biu"
