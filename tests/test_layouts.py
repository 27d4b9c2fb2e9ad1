"""Layouts over eight devices: the numbers of one device, and the collectives of flax + optax.

`layouts.py` trains every model under every layout in one process; the tests judge what it prints.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

LAYOUTS = ("data", "fsdp", "tensor", "fsdp x tensor")
# Kernels and embeddings, each with two moments: 9 of a GPT's stacked blocks, 4 of the others.
SHARDED = {"gpt": 27, "plain": 12, "linen": 12}
EXACT = 1e-11  # float64, of sums in other orders


@pytest.fixture(scope="module")
def report():
    """What the process found, which took all of the time."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [sys.executable, str(pathlib.Path(__file__).with_name("layouts.py"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("api", ["gpt", "plain", "linen"])
def test_trains_as_on_one_device(report, api, layout):
    found = report["layouts"][f"{api}, {layout}"]
    assert found["apart"] < EXACT
    assert found["moved"] > 0.5
    assert found["programs"] == 1
    assert found["sharded"] == (0 if layout == "data" else SHARDED[api])


def test_goes_on_over_fewer_devices_and_in_another_gauge(report):
    assert report["moved on"] < EXACT


@pytest.mark.parametrize("layout", ["fsdp", "fsdp x tensor"])
@pytest.mark.parametrize("optimizer", ["adamw", "clip", "muon"])
def test_communicates_as_flax_and_optax(report, optimizer, layout):
    theirs, own = report["collectives"][f"{optimizer}, {layout}"]
    assert sum(theirs.values()) > 5
    assert own == theirs
