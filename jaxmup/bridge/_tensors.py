"""Tensors of PyTorch as arrays of numpy, and back."""

from collections.abc import Hashable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import jax
import ml_dtypes
import numpy as np

from jaxmup import _extras


class TensorLike(Protocol):
    """A tensor of PyTorch, or any array; it may be abstract."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...


TorchTensor: TypeAlias = Any
"""A `torch.Tensor`, whose package the types must not need."""
Key = TypeVar("Key", bound=Hashable)


def shape_of(tensor: TensorLike) -> tuple[int, ...]:
    """The shape of a tensor.

    Raises:
      ValueError: if it has none, as a nested tensor.
    """
    try:
        return tuple(tensor.shape)
    except RuntimeError:  # of PyTorch, whose words are about its own code
        raise ValueError(
            f"A tensor must have one shape. Got a nested one of type {type(tensor).__name__}. Use "
            "`tensor.to_padded_tensor(0.0)` in torch."
        ) from None


def dtype_of(tensor: TensorLike) -> np.dtype:
    """The dtype of a tensor, which is of numbers.

    Raises:
      ValueError: if it is quantized, packed, or of objects, text or records.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    except TypeError:
        dtype = np.dtype(object)
    if not _is_of_numbers(dtype):
        remedy = "Use `tensor.dequantize()` in torch." if name.startswith("q") else ""
        raise ValueError(
            f"A tensor must be of numbers, one an element. Got {tensor.dtype}. {remedy}".rstrip()
        )
    return dtype


def _is_of_numbers(dtype: np.dtype) -> bool:
    if dtype.kind in "biuf":
        return True
    small = getattr(ml_dtypes, dtype.name, None)
    return dtype.kind == "c" if small is None else dtype.itemsize <= 2 and dtype.kind != "c"


def to_numpy(tensor: TensorLike) -> np.ndarray:
    """The values of a tensor of PyTorch, or of any array; shared where that is possible.

    A view of other elements (part of a storage, transposed, conjugated) becomes its values, and
    bytes of the other order are turned.

    Raises:
      ValueError: if there are no values, or not one for each element, as in sparse tensors.
    """
    detach = getattr(tensor, "detach", None)
    if detach is None:
        array = np.asarray(tensor)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    _require_dense(tensor)
    dtype = dtype_of(tensor)
    try:
        held = detach().cpu().resolve_conj().resolve_neg().contiguous()
        if dtype.isbuiltin == 1:
            return held.numpy()
        # PyTorch refuses to give numpy a dtype that numpy lacks: the bytes go as integers.
        raw = held.reshape(-1).view(_torch_integer(dtype.itemsize)).numpy()
        return raw.view(dtype).reshape(tuple(held.shape))
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"A tensor must give its values. Got one of type {type(tensor).__name__}, which raises "
            f"{type(error).__name__}. Save `tensor.detach().cpu().clone()`, of a plain tensor."
        ) from None


def _require_dense(tensor: TorchTensor) -> None:
    if str(tensor.device) == "meta":
        raise ValueError(
            "A tensor must have values. Got one on the device 'meta', which has none. Load the "
            "weights before they are saved."
        )
    if str(tensor.layout) != "torch.strided":
        raise ValueError(
            f"A tensor must be dense. Got the layout {tensor.layout}. Use `tensor.to_dense()` in "
            "torch."
        )


def _torch_integer(size: int) -> object:
    torch = _extras.require("torch", "A tensor of PyTorch", "torch")
    return {1: torch.uint8, 2: torch.int16}[size]


def as_tensors(state: Mapping[Key, object]) -> dict[Key, Any]:
    """Tensors of PyTorch with the values of arrays, for `load_state_dict`.

    Args:
      state: Arrays by name, of numpy or JAX, in any byte order and layout. Mappings in it are
        converted too; what is neither stays as it is.

    Raises:
      ModuleNotFoundError: if PyTorch is not installed.
      TypeError: naming an array whose dtype PyTorch lacks, as of text, objects and records.

    Example:
      >>> as_tensors({"w": np.ones(2, ">f4"), "lr": 0.1})  # doctest: +SKIP
      {'w': tensor([1., 1.]), 'lr': 0.1}
    """
    torch = _extras.require("torch", "A tensor of PyTorch", "torch")

    def tensor(path: str, array: np.ndarray) -> TorchTensor:
        native = array.dtype.newbyteorder("=")
        target, is_small = getattr(torch, native.name, None), hasattr(ml_dtypes, native.name)
        is_packed = is_small and "int" in native.name
        if not isinstance(target, torch.dtype) or not _is_of_numbers(native) or is_packed:
            raise TypeError(
                f"{path} must be of a dtype that PyTorch has. Got {array.dtype} {array.shape}. "
                "Leave it out, or convert it first."
            )
        array = np.array(array, native, order="C")  # memory that PyTorch may write to
        if not is_small:
            return torch.from_numpy(array)
        raw = array.reshape(-1).view("u1" if array.itemsize == 1 else "i2")
        return torch.from_numpy(raw).view(target).reshape(array.shape)

    def converted(path: str, value: object) -> object:
        if isinstance(value, Mapping):
            return {name: converted(f"{path}/{name}", held) for name, held in value.items()}
        if isinstance(value, np.ndarray | jax.Array):
            return tensor(path, np.asarray(value))
        return value

    return {name: converted(str(name), value) for name, value in state.items()}
