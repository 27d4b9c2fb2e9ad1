"""Tensors that are no plain dense arrays of PyTorch's and numpy's own dtypes."""

import datetime
import time
import zipfile
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from jaxmup import bridge
from jaxmup.bridge._sources import open_checkpoint


class Subclass(torch.Tensor):
    pass


HALF = torch.arange(6.0).reshape(2, 3)
COMPLEX = torch.tensor([1 + 2j, 3 - 4j])

# Views of other elements, and their values.
READ: dict[str, tuple[Any, Any]] = {
    "part of a storage": (torch.arange(6.0)[2:5], [2.0, 3.0, 4.0]),
    "steps": (torch.arange(6.0)[::2], [0.0, 2.0, 4.0]),
    "transposed": (HALF.T, [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]),
    "expanded": (torch.ones(1).expand(3), [1.0, 1.0, 1.0]),
    "permuted": (
        HALF.reshape(1, 2, 3).permute(2, 0, 1),
        [[[0.0, 3.0]], [[1.0, 4.0]], [[2.0, 5.0]]],
    ),
    "conjugated": (COMPLEX.conj(), [1 - 2j, 3 + 4j]),
    "negated": (COMPLEX.conj().imag, [-2.0, 4.0]),
    "scalar": (torch.tensor(3.0), 3.0),
    "empty": (torch.ones(0, 4), np.ones((0, 4)).tolist()),
    "parameter": (torch.nn.Parameter(torch.ones(2)), [1.0, 1.0]),
    "float8": (torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn), [0.5, 2.0]),
    "bfloat16 view": (HALF.to(torch.bfloat16).T, [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]),
    "bool": (torch.tensor([True, False]), [True, False]),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "sparse": (
        lambda: torch.eye(3).to_sparse(),
        r"w: A tensor must be dense. Got .*sparse_coo.*to_dense",
    ),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), r"w: A tensor must be dense. Got .*sparse_csr"),
    "meta": (lambda: torch.ones(2, device="meta"), r"w: A tensor must have values. Got .*'meta'"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        r"w: A tensor must be of numbers.*Got torch.qint8. Use `tensor.dequantize\(\)`",
    ),
    "half complex": (lambda: torch.ones(2, dtype=torch.complex32), r"w: .*Got torch.complex32"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        r"w: A tensor must have one shape.*nested",
    ),
    "subclass": (
        lambda: torch.ones(2).as_subclass(Subclass),
        r"hold tensors alone. It holds .*Subclass",
    ),
    "date": (
        lambda: datetime.datetime(2026, 1, 1),
        r"hold tensors alone. It holds datetime.datetime,",
    ),
}


@pytest.mark.filterwarnings("ignore")  # of PyTorch, about what is a prototype
@pytest.mark.parametrize(("tensor", "values"), READ.values(), ids=READ)
def test_views_are_read_as_their_values(tmp_path, tensor, values):
    torch.save({"w": tensor, "other": torch.ones(1)}, tmp_path / "model.pt")
    for source in (tmp_path / "model.pt", {"w": tensor}):
        array = open_checkpoint(source).read("w")
        assert array.tolist() == values
        assert array.shape == tuple(tensor.shape)
    if not tensor.is_complex():
        (back,) = bridge.as_tensors({"w": array}).values()
        assert torch.equal(back, tensor.detach())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_array_is_refused_by_file_and_name(tmp_path, make, message):
    path = tmp_path / "model.pt"
    torch.save({"ok": torch.ones(1), "w": make()}, path)
    with pytest.raises(ValueError, match=message) as caught:
        bridge.load(path)
    assert str(caught.value).startswith(str(path))
    for advice in ("weights_only", "torch.load", "trust", "\033", "safe_globals"):
        assert advice not in str(caught.value)


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path):
    """A small file may hold any number of zeros; this one holds 256 MB in less than one."""
    good, path = tmp_path / "good.pt", tmp_path / "packed.pt"
    torch.save({"w": torch.ones(4)}, good)
    zeros = bytes(2**25)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            with new.open(name, "w") as part:
                part.write(old.read(name))
                for _ in range(8 if name.endswith("data/0") else 0):
                    part.write(zeros)
    assert path.stat().st_size < 2**20
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=r"packed.pt must be a whole file.*is compressed. Save it"):
        bridge.load(path)
    assert time.perf_counter() - begun < 2


def test_parts_in_one_place_are_refused(tmp_path):
    """An index that names the same bytes many times."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(10_000)}, path)
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        data = next(part for part in file.infolist() if part.filename.endswith("data/0"))
        start, count = file.start_dir, len(file.infolist())
    index = raw[start : raw.index(b"PK\x06\x06", start)]
    (entry,) = (part for part in index.split(b"PK\x01\x02") if data.filename.encode() in part)
    more = b"PK\x01\x02" + entry
    number = (count + 3).to_bytes(2, "little")
    size = (len(index) + 3 * len(more)).to_bytes(4, "little")
    end = b"PK\x05\x06" + bytes(4) + 2 * number + size + start.to_bytes(4, "little") + bytes(2)
    path.write_bytes(raw[:start] + index + 3 * more + end)
    with pytest.raises(ValueError, match=r"model.pt must be a whole file.*overlap"):
        bridge.load(path)


# ---- to PyTorch

ARRAYS = {
    "big-endian": (np.array([1.0, 2.0], ">f4"), [1.0, 2.0]),
    "big-endian integers": (np.array([1, 2], ">i8"), [1, 2]),
    "big-endian complex": (np.array([1 + 2j], ">c8"), [1 + 2j]),
    "reversed": (np.arange(3.0)[::-1], [2.0, 1.0, 0.0]),
    "transposed": (np.arange(4.0).reshape(2, 2).T, [[0.0, 2.0], [1.0, 3.0]]),
    "broadcast": (np.broadcast_to(np.float32(1), (2,)), [1.0, 1.0]),
    "read-only": (np.frombuffer(np.ones(2).tobytes()), [1.0, 1.0]),
    "scalar": (np.array(3.0), 3.0),
    "bfloat16": (np.arange(4).reshape(2, 2).astype(ml_dtypes.bfloat16).T, [[0.0, 2.0], [1.0, 3.0]]),
    "JAX": (jnp.arange(2.0), [0.0, 1.0]),
    "JAX bfloat16": (jnp.asarray([0.5], jnp.bfloat16), [0.5]),
}
NO_TENSORS = {
    "object": np.array([None, 1], object),
    "text": np.array(["a"]),
    "bytes": np.array([b"a"]),
    "record": np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")]),
    "date": np.array(["2026-01-01"], "datetime64[D]"),
    "long double": np.ones(2, np.longdouble),
    "int4": np.ones(2, ml_dtypes.int4),
}


@pytest.mark.parametrize(("array", "values"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_any_order_become_tensors(array, values):
    tensor = bridge.as_tensors({"state": {0: {"w": array}}})["state"][0]["w"]
    assert tensor.tolist() == values
    assert tensor.is_contiguous()
    tensor.add_(1)  # of memory of its own
    assert np.asarray(array).tolist() == values


@pytest.mark.parametrize("array", NO_TENSORS.values(), ids=NO_TENSORS)
def test_what_is_no_tensor_is_refused_by_name(array):
    with pytest.raises(TypeError, match=r"^state/0/w must be of a dtype that PyTorch has. Got "):
        bridge.as_tensors({"state": {0: {"w": array}}})


@pytest.mark.parametrize("array", [NO_TENSORS[n] for n in ("object", "text", "record", "date")])
def test_arrays_without_numbers_are_no_state_dict(array):
    with pytest.raises(ValueError, match=r"^w: A tensor must be of numbers, one an element. Got "):
        bridge.from_torch({"w": array}, {"w": np.ones(array.shape)})


def test_a_state_dict_of_the_other_byte_order():
    made = bridge.from_torch({"w": np.array([1.0, 2.0], ">f4")}, {"w": np.zeros(2, "f4")})
    np.testing.assert_array_equal(made["w"], [1.0, 2.0])
