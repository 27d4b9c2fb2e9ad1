"""Measures: a checkpoint of 10 GB is converted in under 2 GB of memory.

The checkpoint is a sparse file of safetensors, 80 matrices of bfloat16 with one value that is not
zero in each; the model is abstract. A process of its own converts it, and the most memory that it
ever had resident, mapped pages of files included, is the system's count. Needs 11 GB of disk.

    python benchmarks/convert_memory.py --out benchmarks/results/convert_memory.json
"""

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from _record import RESULTS, write_record
from flax import nnx

from jaxmup import bridge
from jaxmup.bridge import _safetensors

LAYERS, WIDTH = 80, 8192
DTYPE = np.dtype(ml_dtypes.bfloat16)
LARGEST = 2e9  # bytes


class Tower(nnx.Module):
    """Linear layers one after another."""

    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List(
            nnx.Linear(WIDTH, WIDTH, use_bias=False, param_dtype=DTYPE, rngs=rngs)
            for _ in range(LAYERS)
        )


def write_sparse(path: Path) -> None:
    """Layer i has the value i + 1 in row i and column 2i of PyTorch's weight, and zeros."""
    form = _safetensors.ShapeDtype((WIDTH, WIDTH), DTYPE)
    arrays = {f"layers.{i}.weight": form for i in range(LAYERS)}
    with _safetensors.writing(path, arrays):
        pass
    file = _safetensors.Reader(path)
    for source in file.sources:
        number = int(source.name.split(".")[1])
        where = file.read(source.name).offset + (number * WIDTH + 2 * number) * DTYPE.itemsize
        with path.open("r+b") as raw:
            raw.seek(where)
            raw.write(np.array(number + 1, DTYPE).tobytes())


def convert(folder: Path, results: Any) -> None:
    """Runs the conversion and reports seconds and the peak of resident bytes, before and after."""
    model = nnx.eval_shape(lambda: Tower(nnx.Rngs(0)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    conversion = bridge.conversion(folder / "torch.safetensors", model, to="flax")
    conversion.write(folder / "flax.safetensors")
    seconds = time.perf_counter() - start
    results.put((before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds))


def check(path: Path) -> None:
    """Every leaf has its one value in its place."""
    file = _safetensors.Reader(path)
    assert len(file.sources) == LAYERS
    for i in range(LAYERS):
        leaf = file.read(f"layers/{i}/kernel")
        assert leaf[2 * i, i] == i + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "convert_memory.json")
    parser.add_argument("--folder", type=Path, default=None, help="where there are 11 GB")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        source = folder / "torch.safetensors"
        write_sparse(source)
        spawn = multiprocessing.get_context("spawn")
        results = spawn.Queue()
        process = spawn.Process(target=convert, args=(folder, results))
        process.start()
        before, peak, seconds = results.get()
        process.join()
        check(folder / "flax.safetensors")
        measured = {
            "claim": "a checkpoint of 10 GB is converted in under 2 GB of memory",
            "checkpoint_bytes": source.stat().st_size,
            "tensors": LAYERS,
            "bytes_resident_before": before,
            "peak_bytes_resident": peak,
            "allowed_bytes": int(LARGEST),
            "seconds": round(seconds, 1),
            "holds": peak < LARGEST,
        }
    finally:
        shutil.rmtree(folder)
    print(measured)
    write_record(arguments.out, measured, "jaxmup", "jax", "flax", "numpy", "safetensors")
    if not measured["holds"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
