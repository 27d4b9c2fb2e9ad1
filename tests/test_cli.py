"""The command line: what it writes, what it refuses, how it reads."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jaxmup import cli, transfer
from jaxmup.cli import _transfer

TINY = ["transfer", "--width", "8,16", "--seeds", "1", "--depth", "1", "--steps", "2"]
TINY += ["--batch-size", "8", "--log2-range", "-4:-2:1"]


@pytest.fixture(autouse=True)
def _one_device(monkeypatch):
    """Leaves the number of devices of this process alone, and the terminal wide."""
    monkeypatch.setattr(_transfer, "_use_every_core", lambda: None)
    monkeypatch.setenv("COLUMNS", "100")


def test_transfer_writes_a_record_and_a_plot_and_prints_a_table(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert cli.run([*TINY, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "transfer.html",
        "transfer.json",
        "transfer.png",
        "trials.jsonl",
    ]
    result = transfer.read_record(out / "transfer.json")
    assert result.config == transfer.Config(
        widths=(8, 16),
        learning_rates=(1 / 16, 1 / 8, 1 / 4),
        seeds=(0,),
        depth=1,
        batch_size=8,
        steps=2,
        base_width=8,
    )
    assert (out / "transfer.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "transfer.html").read_text().startswith("<!DOCTYPE html>")
    printed = capsys.readouterr()
    words = ["width", "drift per doubling", "width 16 at the best rate of width 8", "its own best"]
    assert [word for word in words if word not in " ".join(printed.out.split())] == []
    assert " ".join(result.analyses[1].verdict.split()) in " ".join(printed.out.split())


def pretend(config: transfer.Config, *_) -> transfer.Result:
    """A result without training."""
    trials = tuple(
        transfer.Trial(name, width, rate, seed, 1.0)
        for name in config.parametrizations
        for width in config.widths
        for rate in config.grid
        for seed in config.seeds
    )
    return transfer.Result(config, trials, (transfer.analyze(trials),))


def test_options_reach_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(_transfer, "_measure", pretend)
    options = ["--width", "8", "--width", "16", "--learning-rates", "0.2,0.1", "--base-width", "4"]
    options += [
        "--optimizer",
        "sgd",
        "--parametrization",
        "mup",
        "--seeds",
        "2",
        "--steps",
        "1",
        "--batch-size",
        "4",
        "--search",
        "random",
        "--samples",
        "2",
        "--sweep",
        "weight_decay=0,0.5",
        "--sweep",
        "depth=1,2",
    ]
    assert cli.run(["transfer", *options, "--out", str(tmp_path)]) == 0
    config = json.loads((tmp_path / "transfer.json").read_text())["config"]
    assert config == {
        "widths": [8, 16],
        "learning_rates": [0.1, 0.2],
        "seeds": [0, 1],
        "depth": 3,
        "batch_size": 4,
        "steps": 1,
        "warmup": 0,
        "optimizer": "sgd",
        "parametrizations": ["mup"],
        "base_width": 4,
        "model": "mlp",
        "data": None,
        "loss_fn": None,
        "text": None,
        "context": 64,
        "sweep": {"weight_decay": [0, 0.5], "depth": [1, 2]},
        "search": "random",
        "samples": 2,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--width 64", "`widths` must hold at least 2 different values"),
        ("--width 64,x", "`--width` must be integers separated by commas. Got '64,x'"),
        ("--width 0,64", "`widths` must be an integer of at least 1"),
        ("--learning-rates ,", "`learning_rates` must hold at least 1 value"),
        ("--learning-rates 0.1,nan", "a finite number above 0. Got nan"),
        ("--learning-rates 0.1,-2", "a finite number above 0. Got -2.0"),
        ("--learning-rates a", "`--learning-rates` must be numbers. Got 'a'"),
        ("--log2-range -3:-5", "A range of log2 learning rates"),
        ("--log2-range -3", "`--log2-range` must be LOW:HIGH or LOW:HIGH:STEP. Got '-3'"),
        ("--log2-range a:b", "`--log2-range` must be numbers. Got 'a:b'"),
        ("--log2-range -3:-2 --learning-rates 0.1", "exclude each other"),
        ("--optimizer lion", "Invalid value for '--optimizer'"),
        ("--parametrization mu", "`parametrizations` must be one of 'mup', 'standard'"),
        ("--seeds 0", "`seeds` must hold at least 1 value"),
        ("--depth 0", "`depth` must be an integer of at least 1"),
        ("--warmup -1", "`warmup` must be an integer of at least 0"),
        ("--steps x", "Invalid value for '--steps'"),
        ("--no-such-option", "No such option: --no-such-option"),
        ("--model resnet", "`--model` must be one of mlp, cnn, gpt or MODULE:FUNCTION"),
        ("--model m:f", "`--data` must be one of digits, images, text or MODULE:FUNCTION"),
        ("--model m:f --data m:g", "`--evaluation` must be given with `--data MODULE:FUNCTION`"),
        ("--model m:f --data text", "There is no module 'm', for 'm:f'"),
        ("--model gpt --text no/such/file", "No such file or directory: 'no/such/file'"),
        ("--loss m:f", "`--loss` is for a model of one's own"),
        ("--sweep b2", "`sweep['b2']` must hold at least 1 value"),
        ("--sweep b2=a", "`--sweep` must be numbers. Got 'b2=a'"),
        ("--sweep depth=1.5", "`sweep['depth']` must be an integer of at least 1. Got 1.5"),
        ("--sweep =1", "`--sweep` must name each hyper-parameter once"),
        ("--search halving", "at least 2 settings"),
        ("--samples 2", "`samples` must be at most the 1 settings"),
        ("--distributed here", "`--distributed` must be auto, or ADDRESS:PORT"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, options, message):
    out = tmp_path / "out"
    assert cli.run(["transfer", *options.split(), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not out.exists()


OWN = """
import jax.numpy as jnp, numpy as np
from flax import nnx

def make_model(width, rngs, gain=1.0):
    readout = nnx.Linear(width, 1, rngs=rngs)
    return nnx.Sequential(nnx.Linear(3, width, rngs=rngs), nnx.relu, readout)

def batches(seed, step):
    x = np.random.default_rng((seed, step)).standard_normal((4, 3)).astype(np.float32)
    return x, x.sum(-1, keepdims=True)

def evaluation():
    return batches(9, 9)

def loss(model, batch):
    return jnp.square(model(batch[0]) - batch[1]).mean()
"""


def test_a_model_data_and_a_loss_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_transfer.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["transfer", "--width", "4,8", "--seeds", "1", "--steps", "2", "--out", "out"]
    options += ["--log2-range", "-4:-2:1", "--parametrization", "mup", "--sweep", "b2=0.9,0.99"]
    for name in ("model", "data", "evaluation", "loss"):
        function = {"model": "make_model", "data": "batches"}.get(name, name)
        options += [f"--{name}", f"own_transfer:{function}"]
    assert cli.run(options) == 0
    first = (tmp_path / "out/transfer.json").read_bytes()
    trials = json.loads(first)["trials"]
    assert [t["others"]["b2"] for t in trials] == ([0.9] * 3 + [0.99] * 3) * 2
    assert cli.run(options) == 0  # reads what it has
    assert (tmp_path / "out/transfer.json").read_bytes() == first
    options[options.index("--steps") + 1] = "3"
    assert cli.run(options) == 2
    assert "config.steps: 2 there, 3 here" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_out_that_cannot_be_written_is_refused_before_any_work(
    tmp_path, capsys, monkeypatch, place
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(_transfer, "_measure", lambda *_: pytest.fail("it started to work"))
    assert cli.run([*TINY, "--out", str(tmp_path / place)]) == 2
    assert "`--out` must be a folder that can be written." in capsys.readouterr().err
    assert (tmp_path / "file").read_bytes() == b""


def test_out_without_permission_is_refused(tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert cli.run([*TINY, "--out", str(tmp_path)]) == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["typer", "rich", "matplotlib", "jinja2", "sklearn"])
def test_a_missing_package_is_named_with_its_remedy(tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for module in [m for m in sys.modules if m.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    out = tmp_path / "out"
    assert cli.run([*TINY, "--out", str(out)]) == 2
    printed = capsys.readouterr().err
    assert f"needs the package {package}: pip install 'jaxmup[cli]'" in printed
    assert not out.exists()


def test_main_exits_with_the_code():
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["transfer", "--width", "64"])
    assert exit_info.value.code == 2


@pytest.mark.parametrize("arguments", [[], ["--help"], ["transfer", "--help"], ["transfer", "-h"]])
def test_help(capsys, arguments):
    assert cli.run(arguments) == 0
    printed = capsys.readouterr()
    assert "Usage: jaxmup" in printed.out
    assert printed.err == ""


def test_help_shows_every_option_and_the_defaults(capsys):
    assert cli.run(["transfer", "--help"]) == 0
    printed = capsys.readouterr().out
    options = ["--width", "--parametrization", "--optimizer", "--learning-rates", "--log2-range"]
    options += ["--seeds", "--depth", "--batch-size", "--steps", "--warmup", "--base-width"]
    options += ["--model", "--data", "--evaluation", "--loss", "--text", "--context", "--sweep"]
    options += ["--search", "--samples", "--distributed", "--heartbeat-timeout"]
    options += ["--start-timeout", "--out"]
    defaults = ["64,128,256,512", "standard,mup", "default: adam", "default: 128", "default: 20"]
    assert [word for word in options + defaults if word not in printed] == []


@pytest.mark.parametrize(
    ("settings", "devices"),
    [
        ({}, "cores"),
        ({"JAX_PLATFORMS": "cpu"}, "cores"),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
    ],
)
def test_a_device_per_core_unless_the_user_says_otherwise(settings, devices):
    program = (
        "import jax; from jaxmup.cli import _transfer; _transfer._use_every_core();"
        "print(jax.device_count())"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"JAX_PLATFORMS": "cpu"} | settings,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert int(printed) == (_transfer._cores() if devices == "cores" else devices)


def test_python_dash_m_is_the_same_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxmup", "transfer", "--width", "64"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: `widths` must hold")
    assert list(tmp_path.iterdir()) == []


def test_a_help_text_needs_no_framework():
    program = (
        "import sys; from jaxmup import cli; cli.run(['transfer', '--help']);"
        "print([m for m in ('flax', 'optax', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip().endswith("[]")
