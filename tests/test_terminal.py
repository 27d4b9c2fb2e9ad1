"""What reaches the terminal, the network and other processes, whatever names and terminals are."""

import codecs
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_commands import make_files
from watched import ENVIRONMENT, watched

from jaxmup import bridge, cli
from jaxmup.cli import _transfer

HOSTILE = """
import jax, jax.numpy as jnp, numpy as np
import jaxmup
NAME = "$\\\\bad{$|`x`\\x1b[2J\\x9b1m\\r\\n<b>\\u202e"
def make(width, key):
    first, second = jax.random.split(key)
    return {NAME: jax.random.normal(first, (4, width)), "b": jax.random.normal(second, (width, 3))}
def apply(model, x): return x @ model[NAME] @ model["b"]
def batch(): return np.ones((4, 4), np.float32), np.zeros(4, int)
def convertible(width): return {NAME: jnp.zeros((width,))}
def inputs(width): return np.ones((4, 4), np.float32)
model = jaxmup.Model(make, inputs=inputs, apply=apply)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    make_files(tmp_path)
    (tmp_path / "hostile.py").write_text(HOSTILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(_transfer, "_use_every_core", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    yield tmp_path
    for name in ("hostile", "users"):
        sys.modules.pop(name, None)


CONTROL = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e"]


def obeyed(text: str) -> set[str]:
    """The characters that a terminal would obey, but for line breaks."""
    return {c for c in CONTROL if c != "\n" and c in text}


@pytest.mark.parametrize("form", ["table", "markdown", "json"])
def test_a_name_of_control_sequences_is_written_out(here, capsys, form):
    command = ["explain", "hostile:model", "--target", "16", "--base", "8", "--format", form]
    assert cli.run(command) == 0
    printed = capsys.readouterr().out
    assert obeyed(printed) == set()
    if form == "json":
        assert len(json.loads(printed)["parameters"]) == 2
    if form == "markdown":
        rows = [line for line in printed.splitlines() if line.startswith("| $")]
        assert len(rows) == 1
        assert r"\|\`x\`" in rows[0]
        assert r"\<b>" in rows[0]


def test_a_coordinate_check_of_such_names_ends_with_its_plot(here, capsys):
    command = ["coord-check", "hostile:model", "--data", "hostile:batch", "--sizes", "8,16"]
    command += ["--seeds", "2", "--steps", "2", "--every", "--out", "out"]
    assert cli.run(command) == 1
    printed = capsys.readouterr()
    assert obeyed(printed.out + printed.err) == set()
    assert r"\x1b[2J" in printed.out
    assert Path("out/coord_check.png").read_bytes().startswith(b"\x89PNG")


def test_a_conversion_of_such_names(here, capsys):
    sys.path.insert(0, str(here))
    name = __import__("hostile").NAME
    bridge.save("hostile.safetensors", {name: np.ones(4, np.float32)})
    command = ["convert", "hostile.safetensors", "out.safetensors", "--to", "flax"]
    assert cli.run([*command, "--model", "hostile:convertible", "--size", "4"]) in (0, 2)
    printed = capsys.readouterr()
    assert r"\x1b[2J" in printed.out + printed.err
    assert obeyed(printed.out + printed.err) == set()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("command", ["transfer", "explain", "convert", "--help"])
def test_a_terminal_of_few_characters(here, monkeypatch, encoding, command):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert cli.run(COMMANDS.get(command, [command])) == 0
    for stream in streams:
        stream.flush()
        assert stream.errors == "strict"  # as it was
    assert codecs.decode(streams[0].buffer.getvalue(), encoding).strip()


COMMANDS = {
    name: command.split()
    for name, command in {
        "transfer": "transfer --width 8,16 --seeds 2 --steps 2 --log2-range -6:-3:1 --out out "
        "--model users:make --data users:data --evaluation users:evaluation",
        "coord-check": "coord-check users:Layers --data users:batch --sizes 8,16 --seeds 2 "
        "--steps 2 --out out",
        "explain": "explain users:Layers --target 64 --base 8",
        "convert": "convert torch.safetensors new.safetensors --to flax --model users:one --size 2",
    }.items()
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_opens_a_socket_or_starts_a_process(here, command):
    done = watched(COMMANDS[command], here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == ("1" if command == "coord-check" else "0")


def test_the_audit_hook_would_see_a_socket_and_a_process(here):
    for call in ("import socket; socket.socket()", "import os; os.system('true')"):
        (here / "loud.py").write_text(f"def make(width):\n    {call}\n")
        done = watched(["explain", "loud:make", "--target", "8"], here)
        assert "AssertionError: [(" in done.stderr


def test_a_working_directory_that_was_removed(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    program = "import os, sys; os.rmdir(os.getcwd()); from jaxmup import cli; sys.exit(cli.run())"
    for command in (["explain", "users:make", "--target", "8"], COMMANDS["transfer"]):
        gone.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", program, *command],
            env=ENVIRONMENT,
            cwd=gone,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("Error: The current folder must be there")


def test_an_interrupted_import_says_so(tmp_path):
    program = """
import sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from jaxmup import cli
sys.exit(cli.run(["explain", "users:make", "--target", "8"]))
"""
    make_files(tmp_path)
    for module in ("rich", "jaxmup.cli._app", "jax", "users"):
        done = subprocess.run(
            [sys.executable, "-B", "-c", program, module],
            env=ENVIRONMENT,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (130, "Interrupted.\n"), module


def test_output_that_nobody_reads_is_no_failed_check(tmp_path):
    make_files(tmp_path)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-B", "-m", "jaxmup", *COMMANDS["explain"]]
    with os.fdopen(write, "w") as output:
        done = subprocess.run(
            command, env=ENVIRONMENT, cwd=tmp_path, stdout=output, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "Error: The output was closed before all of it was written.\n"


def test_the_help_says_what_the_exit_codes_mean(capsys):
    for command in ("transfer", "coord-check", "explain", "convert", "parity"):
        assert cli.run([command, "--help"]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "Exit code: 0 if all went well and every check passed, 1 if a check" in printed
