"""Claim: fused with the update, a chain of layers takes less memory than PyTorch's best forms.

16 layers of width 1536 without biases, ReLU, a batch of 8, float32, Adam and SGD. Each form trains
in a process of its own: the peak of its memory in a steady step beyond what it had before the step,
in units of the bytes of the parameters, as the kernel counts it (Linux alone). A layer is 1/16 =
0.0625 of them. PyTorch's forms are those of `torch_ref.layerwise`: all gradients first, layer by
layer, and hooks that update each parameter as its gradient appears.
"""

import argparse
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _record import RESULTS, write_record

OUT = RESULTS / "fused_layers.json"
LAYERS, WIDTH, BATCH, RATE, STEPS = 16, 1536, 8, 1e-3, 5
BYTES = 4 * LAYERS * WIDTH**2
OURS = ("plain", "fused", "remat + fused", "layer by layer")
THEIRS = ("torch: plain", "torch: layer by layer", "torch: hook")


class Meter:
    """The most memory of this process since it was set to zero, beyond that of then."""

    def reset(self) -> None:
        gc.collect()
        time.sleep(0.5)  # until other threads have freed what the step before left
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.start = self._read("VmRSS")

    @property
    def peak(self) -> int:
        return self._read("VmHWM") - self.start

    def _read(self, name: str) -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])  # type: ignore[index]


def jax_peak(form: str, optimizer: str) -> int:
    """The peak of the last step of one of our forms."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxmup import fused

    def layer(w: Any, x: Any) -> Any:
        return jax.nn.relu(x @ w)

    def loss(y: Any) -> Any:
        return jnp.mean(y**2)

    def loss_of_stack(params: Any, x: Any) -> Any:
        return loss(jax.lax.scan(lambda x, w: (layer(w, x), None), x, params)[0])

    tx, x = getattr(optax, optimizer)(RATE), jnp.ones((BATCH, WIDTH))
    step: Callable[..., Any]
    params: Any
    if form == "layer by layer":
        step = fused.layer_by_layer([layer] * LAYERS, loss, tx)
        params = [jax.random.normal(jax.random.key(i), (WIDTH, WIDTH)) for i in range(LAYERS)]
        params = [w / WIDTH**0.5 for w in params]
        state = [tx.init(w) for w in params]
    else:
        in_form = fused.in_form(fused.value_and_update(loss_of_stack, tx), form)  # type: ignore[arg-type]
        step = jax.jit(in_form, donate_argnums=(0, 1))
        params = jax.random.normal(jax.random.key(0), (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5
        state = tx.init(params)
    meter = Meter()
    for _ in range(STEPS):
        meter.reset()
        _, params, state = step(params, state, x)
        jax.block_until_ready((params, state))
    return meter.peak


def torch_peak(form: str, optimizer: str) -> int:
    """The peak of the last step of one of PyTorch's forms."""
    import torch
    from torch import nn

    from torch_ref import layerwise

    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    train = {
        "torch: plain": layerwise.train_whole,
        "torch: layer by layer": layerwise.train_by_layer,
        "torch: hook": layerwise.train_by_hook,
    }[form]
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU()) for _ in range(LAYERS)]
    meter, target = Meter(), torch.zeros(BATCH, WIDTH)

    def batches() -> Iterator[tuple[Any, Any]]:
        for _ in range(STEPS):
            meter.reset()
            yield torch.ones(BATCH, WIDTH), target

    train(layers, batches(), nn.MSELoss(), lambda params: make(params, lr=RATE))
    return meter.peak


def main() -> None:
    """Measures every form and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.alone:
        form, optimizer = args.alone
        print(json.dumps((torch_peak if form in THEIRS else jax_peak)(form, optimizer)))
        return
    peaks: dict[str, dict[str, float]] = {}
    for optimizer in ("adam", "sgd"):
        peaks[optimizer] = {form: peak(form, optimizer, args.repeats) for form in OURS + THEIRS}
        for form, found in peaks[optimizer].items():
            print(f"{optimizer:5} {form:22} {found:.3f}", flush=True)
    holds = {
        f"{optimizer}: {ours} at most {theirs}": found[ours] <= found[theirs]
        for optimizer, found in peaks.items()
        for ours in OURS[1:]
        for theirs in THEIRS[1:]
    }
    print(json.dumps(holds, indent=1))
    measured = {"layers": LAYERS, "width": WIDTH, "batch": BATCH, "peaks": peaks, "holds": holds}
    write_record(args.out, measured, "jax", "optax", "torch", "jaxmup")


def peak(form: str, optimizer: str, repeats: int) -> float:
    """Median over processes, in units of the parameters."""
    command = [sys.executable, __file__, "--alone", form, optimizer]
    # Else the C library keeps freed arrays for later, and what a step takes is there before it.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    runs = (
        subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        for _ in range(repeats)
    )
    return statistics.median(json.loads(run.stdout.splitlines()[-1]) for run in runs) / BYTES


if __name__ == "__main__":
    main()
