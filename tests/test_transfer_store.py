"""Trials on disk: what a crash leaves, what is refused, what goes on; and shared between hosts."""

import dataclasses
import errno
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import pytest
from test_transfer import TINY, made_up

import jaxmup
from jaxmup import transfer
from jaxmup.transfer._models import classification
from jaxmup.transfer._store import Store, open_store, trial_from_json, trial_to_json

IDENTITY = {"config": {"steps": 3, "sweep": {}}, "devices": "1 x cpu"}
CONFIG = dataclasses.replace(TINY, parametrizations=("mup",), depth=1, learning_rates=(0.1, 1.0))
TRIALS = [
    transfer.Trial("mup", 8, 0.1, 0, 0.1 + 0.2, (("b2", 0.9), ("depth", 2)), (1.5, None)),
    transfer.Trial("mup", 8, 0.1, 1, None),
    transfer.Trial("mup", 16, 0.1, 0, 1e-300),
]


def record(directory, trials=TRIALS, identity=IDENTITY) -> bytes:
    with open_store(directory, identity) as store:
        store.append(trials)
    return (directory / "trials.jsonl").read_bytes()


def known(directory, identity=IDENTITY) -> list[transfer.Trial]:
    with open_store(directory, identity) as store:
        return list(store.known.values())


def test_trials_come_back_to_the_bit(tmp_path):
    content = record(tmp_path / "new" / "folder")
    assert known(tmp_path / "new" / "folder") == TRIALS
    assert content.count(b"\n") == 4
    assert [trial_from_json(trial_to_json(t)) for t in TRIALS] == TRIALS


def test_a_known_trial_is_not_recorded_again(tmp_path):
    content = record(tmp_path, TRIALS[:2])
    assert record(tmp_path, TRIALS[:2]) == content
    assert record(tmp_path, TRIALS) == record(tmp_path / "at once", TRIALS)


def test_a_crash_at_any_byte_loses_the_last_trial_alone(tmp_path):
    content = record(tmp_path)
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(0, len(content), 7):
        (tmp_path / "trials.jsonl").write_bytes(content[:size])
        whole = sum(end <= size for end in ends[1:])
        assert known(tmp_path) == TRIALS[:whole]
        assert record(tmp_path) == content


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    before = record(tmp_path, TRIALS[:1])
    write = os.write

    def fill(descriptor, content):
        if len(content) < 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(OSError, match="No space left"):
            record(tmp_path)
    assert (tmp_path / "trials.jsonl").read_bytes() == before
    assert known(tmp_path) == TRIALS[:1]


def test_a_second_sweep_in_a_directory_is_refused(tmp_path):
    with open_store(tmp_path, IDENTITY), pytest.raises(ValueError, match="one sweep at a time"):
        record(tmp_path)
    assert known(tmp_path) == []


def test_a_record_of_another_sweep_is_refused_with_the_differences(tmp_path):
    before = record(tmp_path)
    other = {"config": {"steps": 4, "sweep": {"b2": [0.9]}}, "devices": "1 x cpu"}
    with pytest.raises(ValueError, match="differs in") as refusal:
        known(tmp_path, other)
    assert "config.steps: 3 there, 4 here; config.sweep.b2: None there, [0.9] here" in str(
        refusal.value
    )
    assert (tmp_path / "trials.jsonl").read_bytes() == before


@pytest.mark.parametrize("line", [b"{}\n", b"[1]\n", b"not JSON\n", b'{"loss": 1.0}\n'])
def test_a_file_that_holds_no_trials_is_refused(tmp_path, line):
    content = record(tmp_path) + line
    (tmp_path / "trials.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"trials\.jsonl, line 5: It must be (a trial|JSON)"):
        known(tmp_path)
    assert (tmp_path / "trials.jsonl").read_bytes() == content


def test_without_a_file_trials_are_kept_in_memory():
    store = Store()
    store.append(TRIALS)
    assert list(store.known.values()) == TRIALS


class StopHereError(Exception):
    pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    result = transfer.measure(CONFIG, classification(made_up()), directory=directory)
    return result, (directory / "trials.jsonl").read_bytes()


def test_a_sweep_that_was_stopped_goes_on_and_ends_with_the_same_bits(undisturbed, tmp_path):
    task = classification(made_up())

    def stop(progress):
        if progress.width == 16:
            raise StopHereError

    with pytest.raises(StopHereError):
        transfer.measure(CONFIG, task, stop, tmp_path)
    half = (tmp_path / "trials.jsonl").read_bytes()
    lines = undisturbed[1].splitlines(keepends=True)
    assert half == b"".join(lines[: 1 + 4])
    (tmp_path / "trials.jsonl").write_bytes(half + lines[5][:20])
    assert transfer.measure(CONFIG, task, directory=tmp_path) == undisturbed[0]
    assert (tmp_path / "trials.jsonl").read_bytes() == undisturbed[1]


def test_a_sweep_that_is_done_is_read_and_not_trained(undisturbed, tmp_path, monkeypatch):
    (tmp_path / "trials.jsonl").write_bytes(undisturbed[1])
    monkeypatch.setattr("jaxmup.transfer._train.trainer", lambda *_: pytest.fail("it trains"))
    task = classification(made_up())
    assert transfer.measure(CONFIG, task, directory=tmp_path) == undisturbed[0]
    with pytest.raises(ValueError, match=r"config\.steps: 3 there, 4 here"):
        transfer.measure(dataclasses.replace(CONFIG, steps=4), task, directory=tmp_path)


TWO_HOSTS = """
import sys, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
address, index = sys.argv[1], int(sys.argv[2])
bind = {"coordinator_bind_address": address} if index == 0 else {}
jax.distributed.initialize(address, 2, index, **bind)
from test_transfer_store import CONFIG, classification, made_up, transfer, trial_to_json
result = transfer.measure(CONFIG, classification(made_up()), directory=sys.argv[3])
import json; print(json.dumps([trial_to_json(trial) for trial in result.trials]))
"""


def test_two_hosts_share_a_sweep_and_both_have_all_of_it(undisturbed, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    folder = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(folder), str(pathlib.Path(jaxmup.__file__).parents[1])])
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                TWO_HOSTS,
                address,
                str(i),
                str(tmp_path),
                str(len(jax.local_devices())),
            ],
            env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    printed = [process.communicate(timeout=240)[0] for process in processes]
    expected = [trial_to_json(trial) for trial in undisturbed[0].trials]
    assert [json.loads(text.splitlines()[-1]) for text in printed] == [expected, expected]
    shares = [(tmp_path / name).read_bytes() for name in ("trials.jsonl", "trials.1.jsonl")]
    assert [share.count(b"\n") - 1 for share in shares] == [4, 4]
