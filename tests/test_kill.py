"""Processes that are killed or terminated at any moment: nothing lost, nothing left behind.

`benchmarks/kill_resume.py` does the same to whole commands, twenty times each.
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from test_transfer import made_up
from test_transfer_store import CONFIG

import jaxmup
from jaxmup import _files, bridge, transfer
from jaxmup.transfer._models import classification

ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join(
        map(str, [pathlib.Path(__file__).parent, pathlib.Path(jaxmup.__file__).parents[1]])
    ),
}
SAVE = """
import sys, numpy as np
from jaxmup import _files, bridge
if sys.argv[2] == "named":
    _files._unnamed = lambda folder: None
arrays = {str(i): np.full((256, 1024), i, np.float32) for i in range(8)}
print("ready", flush=True)
while True:
    bridge.save(sys.argv[1], arrays)
"""
TRAIN = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
from test_transfer_store import CONFIG, classification, made_up, transfer
print("ready", flush=True)
transfer.measure(CONFIG, classification(made_up()), directory=sys.argv[1])
"""


def started(program: str, *arguments: object) -> subprocess.Popen:
    """A process that has imported what it needs."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen, by: signal.Signals) -> int:
    process.send_signal(by)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.parametrize("kind", ["unnamed", "named"])
def test_a_file_is_whole_or_not_there_and_nothing_is_beside_it(tmp_path, kind):
    path = tmp_path / "file.safetensors"
    bridge.save(path, {"old": np.ones(2)})
    moments = random.Random(0)
    for by in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        process = started(SAVE, path, kind)
        time.sleep(moments.uniform(0, 0.1))
        assert ended(process, by) == -by
        found = bridge.load(path)
        assert list(found) in (["old"], [str(i) for i in range(8)])
        assert all((array == int(name)).all() for name, array in found.items() if name != "old")
        left = [one for one in tmp_path.iterdir() if one != path]
        # A file with a name outlives a process that could not clean up, until the next write.
        assert len(left) <= (by == signal.SIGKILL and kind == "named")
    bridge.save(path, {"new": np.ones(2)})
    assert list(tmp_path.iterdir()) == [path]


def test_what_another_process_is_writing_is_not_removed(tmp_path):
    path = tmp_path / "file"
    with _files._open_part(path) as first:
        first.name = first.name or _files._name_of_part(path)
        if not first.name.exists():
            _files._link(first.file.fileno(), first.name)
        code = "import sys; from jaxmup import _files; _files.write_atomically(sys.argv[1], b'x')"
        subprocess.run([sys.executable, "-c", code, str(path)], env=ENVIRONMENT, check=True)
        assert first.name.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_a_sweep_that_was_killed_or_terminated_goes_on_to_the_same_bytes(tmp_path):
    task = classification(made_up())
    begin = time.perf_counter()
    result = transfer.measure(CONFIG, task, directory=tmp_path / "undisturbed")
    seconds = time.perf_counter() - begin
    whole = (tmp_path / "undisturbed/trials.jsonl").read_bytes()
    moments = random.Random(1)
    for i, by in enumerate((signal.SIGKILL, signal.SIGTERM)):
        directory = tmp_path / str(i)
        process = started(TRAIN, directory, len(jax.local_devices()))
        time.sleep(moments.uniform(0, seconds))
        ended(process, by)
        trials = directory / "trials.jsonl"
        half = trials.read_bytes() if trials.exists() else b""
        assert whole.startswith(half[: half.rfind(b"\n") + 1])
        assert transfer.measure(CONFIG, task, directory=directory) == result
        assert trials.read_bytes() == whole
        assert list(directory.iterdir()) == [trials]
