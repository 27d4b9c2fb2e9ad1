"""`examples/train_gpt`: killed, moved to other meshes, gauges and processes, it is one run."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "train_gpt"
CONFIG = """
text = ""
context = 16
batch_size = 8
steps = 28
seed = 0
width = 32
base_width = 16
num_layers = 2
num_heads = 2
dtype = "float32"
remat = false
gauge = "table8"
learning_rate = 0.0156
warmup = 5
clip = 1.0
weight_decay = 0.1
save_every = 4
mesh = { data = 2, fsdp = 2, tensor = 2 }
"""
OTHER = "{ data = 1, fsdp = 2, tensor = 2 }"
# Losses of a GPT in float32 over meshes that sum in other orders, over 28 steps.
ROUNDING = 1e-6


def configured(folder: pathlib.Path, **changes: str) -> pathlib.Path:
    """A file with `CONFIG` and some of its entries changed."""
    lines = [line for line in CONFIG.splitlines() if line.partition(" ")[0] not in changes]
    path = folder / f"config{len(list(folder.glob('config*')))}.toml"
    path.write_text("\n".join([*lines, *(f"{name} = {to}" for name, to in changes.items())]))
    return path


def environment(cache: pathlib.Path, devices: int) -> dict[str, str]:
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLE), *(p for p in sys.path if p)]),
    }


def started(cache: pathlib.Path, devices: int, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, str(EXAMPLE / "train.py"), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment(cache, devices), **pipes)


def losses(folder: pathlib.Path) -> list[float]:
    """The losses of a run, in the order of its steps."""
    rows = [line.split(",") for line in (folder / "loss.csv").read_text().splitlines()[1:]]
    assert [int(step) for step, _ in rows] == list(range(len(rows)))
    return [float(loss) for _, loss in rows]


# One process trains the run and goes on from its step 20 elsewhere, and tries what is refused.
RUNS = """
import json, pathlib, shutil, sys
import jax
from program import make_mesh, read_config
from train import locked, train

top = pathlib.Path(sys.argv[1])
configs = [read_config(pathlib.Path(path)) for path in sys.argv[2:]]
config, on_four, on_one, table3, steps, wide, odd = configs

def of_step_20(name):
    shutil.copytree(top / "whole", top / name)
    for later in ("24", "28"):
        shutil.rmtree(top / name / "checkpoints" / later)
    return top / name

train(config, top / "whole")
train(on_four, of_step_20("on four"))
unfinished = of_step_20("on one") / "checkpoints" / "24.orbax-checkpoint-tmp"
unfinished.mkdir()
(unfinished / "model").write_text("half of it")
train(on_one, top / "on one")
train(table3, top / "table3", source=of_step_20("source"))

def refused(config, folder):
    try:
        train(config, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

broken = of_step_20("broken")
shutil.rmtree(broken / "checkpoints" / "20" / "model")
other_model = of_step_20("other model")
kept = json.loads((other_model / "config.json").read_text())
(other_model / "config.json").write_text(json.dumps(kept | {"width": 64}))
before = sorted(p.name for p in (top / "whole").rglob("*"))
with locked(top / "whole"):
    second = refused(config, top / "whole")
print(json.dumps({
    "another config": refused(steps, top / "whole"),
    "second job": second,
    "untouched": before == sorted(p.name for p in (top / "whole").rglob("*")),
    "broken": refused(config, broken),
    "other model": refused(wide, other_model),
    "mesh": refused(odd, top / "odd"),
}))
"""


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def refusals(top):
    """Runs of eight devices and fewer in folders of `top`; what was refused, by name."""
    one = "{ data = 1, fsdp = 1, tensor = 1 }"
    configs = [
        configured(top),
        configured(top, mesh=OTHER),
        configured(top, mesh=one),
        configured(top, mesh=OTHER, gauge='"table3"'),
        configured(top, steps="50", learning_rate="0.1"),
        configured(top, width="64"),
        configured(top, mesh="{ data = 1, fsdp = 1, tensor = 3 }"),
    ]
    command = [sys.executable, "-c", RUNS, str(top), *map(str, configs)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(top / "cache", 8)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def whole(top, refusals):
    """The losses of the run that nothing disturbed."""
    found = losses(top / "whole")
    assert len(found) == 28
    assert found[-1] < found[0] - 1
    assert (top / "whole" / "loss.png").stat().st_size > 0
    return found


@pytest.mark.parametrize("name", ["on four", "on one", "table3"])
def test_goes_on_elsewhere(top, whole, name):
    """From eight devices to four, to one beside half a checkpoint, and into another gauge."""
    assert losses(top / name)[:20] == whole[:20]
    assert losses(top / name) == pytest.approx(whole, rel=ROUNDING)
    assert losses(top / name)[20:] != whole[20:]  # it was trained, not copied


def test_killed_it_goes_on_bit_for_bit(top, whole):
    config, folder = configured(top), top / "killed"
    process = started(top / "cache", 8, config, folder)
    end = time.monotonic() + 120
    while not (folder / "checkpoints" / "8").exists() and time.monotonic() < end:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 8 <= len(losses(folder)) < 28
    with (folder / "loss.csv").open("a") as file:
        file.write("27,")  # the line in the middle of which it was
    process = started(top / "cache", 8, config, folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-3000:]
    assert losses(folder) == whole


def test_two_processes_train_as_one(top, whole):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = (configured(top, mesh=OTHER), top / "two", "--processes", address, 2)
    processes = [started(top / "cache", 2, *arguments, index) for index in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output[-3000:]
    assert losses(top / "two") == pytest.approx(whole, rel=ROUNDING)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("another config", ["steps: 28 in the folder, 50 now", "learning_rate: 0.0156"]),
        ("second job", ["Another job"]),
        ("broken", ["model"]),
        ("other model", ["blocks/blocks/attention/key/kernel", "64"]),
        ("mesh", ["'tensor': 3"]),
    ],
)
def test_refused(refusals, name, words):
    for word in words:
        assert word in refusals[name]
    assert refusals["untouched"]
