"""Learning-rate transfer: the configuration, the statistics, the engine and the record."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import require_close

import jaxmup
from jaxmup import transfer
from jaxmup.data import Dataset, batch_order
from jaxmup.models import MLP
from jaxmup.transfer import _models, _sweep, _train
from jaxmup.transfer._search import Cell
from jaxmup.transfer._store import Store

TINY = transfer.Config(
    widths=(8, 16), learning_rates=(0.01, 0.1, 1.0), seeds=(0, 1), depth=2, batch_size=4, steps=3
)
ONLY_MUP = dataclasses.replace(TINY, parametrizations=("mup",))
RUN = ("adam", "float32")


def losses(trials) -> np.ndarray:
    return np.array([t.loss for t in trials])


def made_up() -> Dataset:
    """Twelve examples of three classes."""
    inputs = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    return Dataset("made up", inputs, np.arange(12, dtype=np.int32) % 3, classes=3)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return made_up()


@pytest.fixture(scope="module")
def task(dataset) -> transfer.Task:
    return _models.classification(dataset)


@pytest.fixture(scope="module")
def measured(task) -> tuple[transfer.Result, list[transfer.Progress]]:
    progress = []
    return transfer.measure(TINY, task, progress.append), progress


@pytest.fixture(scope="module")
def result(measured) -> transfer.Result:
    return measured[0]


@pytest.fixture(scope="module")
def of_mup(result) -> tuple[transfer.Trial, ...]:
    return tuple(t for t in result.trials if t.parametrization == "mup")


# --- Configuration


def test_defaults():
    config = transfer.Config()
    assert (config.widths, config.base) == ((64, 128, 256, 512), 64)
    assert (config.grid[0], config.grid[-1], len(config.grid)) == (2**-11, 2**-3, 17)
    assert transfer.Config(base_width=32).base == 32
    assert transfer.Config(learning_rates=(1.0,)).grid == (1.0,)


def test_sgd_has_a_grid_of_its_own():
    assert transfer.Config(optimizer="sgd").grid[0] > transfer.Config().grid[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": ()}, "`widths` must hold at least 2 different values"),
        ({"widths": (64,)}, "`widths` must hold at least 2 different values"),
        ({"widths": (64, 64)}, "`widths` must hold at least 2 different values"),
        ({"widths": (64, 64, 128)}, "`widths` must not repeat a value"),
        ({"widths": (0, 64)}, "`widths` must be an integer of at least 1. Got 0"),
        ({"learning_rates": ()}, "`learning_rates` must hold at least 1 value"),
        ({"learning_rates": (0.1, 0.1)}, "`learning_rates` must not repeat"),
        ({"learning_rates": (0.1, 0.0)}, "a finite number above 0. Got 0.0"),
        ({"learning_rates": (0.1, -1.0)}, "a finite number above 0. Got -1.0"),
        ({"learning_rates": (math.nan,)}, "a finite number above 0. Got nan"),
        ({"learning_rates": (math.inf,)}, "a finite number above 0. Got inf"),
        ({"learning_rates": (2.0**128,)}, r"of at most 1.70141e\+38. Got 3.40"),
        ({"learning_rates": (10**400,)}, "must be a finite number above 0. Got 1000"),
        ({"learning_rates": (1e-50,)}, "of at least 1.17549e-38 .* Got 1e-50"),
        ({"seeds": ()}, "`seeds` must hold at least 1 value"),
        ({"seeds": (-1,)}, "`seeds` must be an integer of at least 0. Got -1"),
        ({"depth": 0}, "`depth` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"base_width": 0}, "`base_width` must be"),
        ({"optimizer": "lion"}, "`optimizer` must be one of 'adam', .*'sgd'. Got 'lion'"),
        ({"parametrizations": ()}, "`parametrizations` must hold at least 1 value"),
        ({"parametrizations": ("mu",)}, "`parametrizations` must be one of 'mup', .* Got 'mu'"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        transfer.Config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (64, 128.0)}, "`widths` must be an integer of at least 1. Got 128.0"),
        ({"widths": [64, 128]}, "`widths` must be a tuple"),
        ({"learning_rates": ("0.1",)}, "`learning_rates` must be a real number. Got '0.1'"),
        ({"learning_rates": (True,)}, "`learning_rates` must be a real number. Got True"),
        ({"steps": True}, "`steps` must be an integer"),
        ({"warmup": None}, "`warmup` must be an integer"),
    ],
)
def test_another_type_is_refused(changes, message):
    with pytest.raises(TypeError, match=message):
        transfer.Config(**changes)


def test_log2_grid():
    assert transfer.log2_grid(-2, -1, 0.5) == (0.25, 2**-1.5, 0.5)
    assert transfer.log2_grid(-2, -1.1, 0.5) == (0.25, 2**-1.5)
    assert len(transfer.log2_grid(0, 1, 0.1)) == 11


@pytest.mark.parametrize(
    "bounds", [(0, -1, 1), (0, 1, 0), (0, 1, -1), (math.nan, 1, 1), (0, 1, math.inf), (-200, 0, 1)]
)
def test_log2_grid_refuses(bounds):
    with pytest.raises(ValueError, match="must have finite bounds"):
        transfer.log2_grid(*bounds)


# --- Trials


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_trial_has_a_finite_loss_or_none(loss):
    with pytest.raises(ValueError, match="`None` marks a diverged run"):
        transfer.Trial("mup", 64, 0.1, 0, loss)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"width": 0}, ValueError),
        ({"width": 64.0}, TypeError),
        ({"learning_rate": math.nan}, ValueError),
        ({"learning_rate": None}, TypeError),
        ({"seed": -1}, ValueError),
        ({"loss": np.float32("nan")}, ValueError),
        ({"loss": True}, TypeError),
    ],
)
def test_the_numbers_of_a_trial_are_checked(changes, error):
    [name] = changes
    with pytest.raises(error, match=f"`{name}` must be"):
        transfer.Trial(
            "mup", **({"width": 64, "learning_rate": 0.1, "seed": 0, "loss": 1.0} | changes)
        )


# --- Engine


def plain_loss(config, width, rate, seed, dataset) -> float:
    """One run of three steps, written out with Flax's and jaxmup's public interfaces."""
    rule = jaxmup.parametrization("mup", "sgd" if config.optimizer == "sgd" else "adam")
    rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
    model = MLP(5, 3, width=width, depth=2, base_width=8, parametrization=rule, rngs=rngs)
    make = getattr(jaxmup.optim, config.optimizer)
    kwargs = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    rates = jnp.array([1.0, 2 / 3, 1 / 3]) * rate
    scalings = jaxmup.resolve(jaxmup.nnx.specs(model), rule)
    tx = make(lambda step: rates[step], scalings, **kwargs)
    order = batch_order(12, config.batch_size, 3, seed)

    def loss_of(model, inputs, labels):
        logs = jax.nn.log_softmax(model(inputs))
        return -logs[jnp.arange(len(labels)), labels].mean()

    @nnx.jit
    def train(model):
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        for batch in order:
            gradients = nnx.grad(loss_of)(model, dataset.inputs[batch], dataset.labels[batch])
            optimizer.update(model, gradients)
        return loss_of(model, dataset.inputs, dataset.labels)

    return float(train(model))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad", "sgd"])
def test_a_sweep_is_many_plain_runs(dataset, task, optimizer):
    config = dataclasses.replace(TINY, optimizer=optimizer)
    trials = _train.train(task, config, [Cell("mup", 16)], Store())
    found = {(t.learning_rate, t.seed): t.loss for t in trials}
    assert list(found) == [(0.01, 0), (0.01, 1), (0.1, 0), (0.1, 1), (1.0, 0), (1.0, 1)]
    expected = plain_loss(config, 16, 0.1, 1, dataset)
    require_close(np.array(found[0.1, 1]), np.array(expected), *RUN)


def test_every_width_rate_seed_and_parametrization_is_run(result):
    assert len({(t.parametrization, t.width, t.learning_rate, t.seed) for t in result.trials}) == 24
    assert [a.parametrization for a in result.analyses] == ["standard", "mup"]
    assert len({t.loss for t in result.trials if t.width == 16}) == 12


def test_parametrizations_agree_at_base_width(result):
    losses = {
        name: [t.loss for t in result.trials if t.parametrization == name and t.width == 8]
        for name in ("standard", "mup")
    }
    assert losses["standard"] == losses["mup"]


def test_the_same_configuration_gives_the_same_bits(of_mup, task):
    assert transfer.measure(ONLY_MUP, task).trials == of_mup


def test_one_after_the_other_and_vectorized_agree(of_mup, task, monkeypatch):
    monkeypatch.setattr(_sweep, "faster_together", lambda *_: False)
    found = transfer.measure(ONLY_MUP, task).trials
    require_close(losses(found), losses(of_mup), *RUN)


def test_a_diverged_run_is_recorded_and_never_the_optimum(task):
    config = dataclasses.replace(ONLY_MUP, optimizer="sgd", learning_rates=(0.01, 0.1, 1e30))
    found = transfer.measure(config, task)
    diverged = {t.learning_rate for t in found.trials if t.loss is None}
    assert diverged == {1e30}
    assert [c.losses[2] for c in found.analyses[0].curves] == [None, None]
    assert all(c.best in (0, 1) for c in found.analyses[0].curves)


def test_nan_and_infinity_are_divergence(task, monkeypatch):
    ends = np.array([math.nan, math.inf, -math.inf, 1.0, 2.0, 3.0], np.float32)

    def run(numbers, *_):
        end = jnp.asarray(ends)[jnp.searchsorted(jnp.array(TINY.grid), numbers["learning_rate"])]
        return end, end[None]

    monkeypatch.setattr(_sweep, "make_run", lambda *_: run)
    found = _train.train(task, dataclasses.replace(TINY, seeds=(0,)), [Cell("mup", 8)], Store())
    assert [t.loss for t in found] == [None, None, None]
    assert [t.curve for t in found] == [(None,)] * 3


def test_the_curve_is_the_training_loss(result):
    assert {len(t.curve) for t in result.trials} == {3}
    first = {t.curve[0] for t in result.trials if (t.width, t.seed) == (16, 0)}
    assert len(first) == 2  # of two parametrizations; no learning rate has done anything yet


def test_progress_goes_from_nothing_to_all(measured):
    seen = measured[1]
    starts = {p.width and (p.parametrization, p.width): p.done for p in reversed(seen)}
    # Parameters of an MLP with 5 inputs, 2 hidden layers and 3 outputs: 48 + 72 + 27 = 147 at
    # width 8, 96 + 272 + 51 = 419 at width 16; each for 6 runs of 3 steps.
    assert starts == {
        None: 2 * 18 * (147 + 419),
        ("standard", 8): 0,
        ("standard", 16): 18 * 147,
        ("mup", 8): 18 * (147 + 419),
        ("mup", 16): 18 * (147 + 419 + 147),
    }
    assert {p.total for p in seen} == {2 * 18 * (147 + 419)}
    assert [p.done for p in seen] == sorted(p.done for p in seen)


@pytest.mark.parametrize(
    ("batch_size", "width", "together"), [(32, 32, True), (32, 128, True), (128, 64, False)]
)
def test_small_runs_are_vectorized_on_a_cpu(batch_size, width, together):
    assert _sweep.faster_together(batch_size, width) is together


FOUR_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
from test_transfer import ONLY_MUP, made_up
from jaxmup import transfer
from jaxmup.transfer._models import classification
assert len(jax.local_devices()) == 4
print([t.loss for t in transfer.measure(ONLY_MUP, classification(made_up())).trials])
"""


def test_four_devices_share_six_runs(of_mup):
    folder = str(pathlib.Path(__file__).parent)
    path = os.pathsep.join([folder, str(pathlib.Path(jaxmup.__file__).parents[1])])
    printed = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    require_close(np.array(json.loads(printed)), losses(of_mup), *RUN)


# --- Record


def test_record_is_strict_json_and_complete(result, tmp_path):
    trials = (dataclasses.replace(result.trials[0], loss=None), *result.trials[1:])
    path = tmp_path / "record.json"
    transfer.write_record(dataclasses.replace(result, trials=trials), path)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(path.read_text(), parse_constant=refuse)
    assert (record["format"], record["version"]) == ("jaxmup.transfer", 2)
    assert record["config"]["learning_rates"] == [0.01, 0.1, 1.0]
    assert record["config"]["base_width"] == 8
    assert set(record["versions"]) == {
        "jaxmup",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "numpy",
        "python",
    }
    assert record["versions"]["jax"] == jax.__version__
    assert len(record["trials"]) == 24
    assert record["trials"][0] == {
        "parametrization": "standard",
        "width": 8,
        "learning_rate": 0.01,
        "seed": 0,
        "loss": "diverged",
        "others": {},
        "curve": list(trials[0].curve),
    }
    assert [a["parametrization"] for a in record["analysis"]] == ["standard", "mup"]
    assert record["analysis"][1]["drift"] == result.analyses[1].drift
    assert record["analysis"][1]["transfers"] is result.analyses[1].transfers


def test_a_record_reads_back_as_it_was(result, tmp_path):
    config = dataclasses.replace(result.config, base_width=8)
    transfer.write_record(result, tmp_path / "record.json")
    back = transfer.read_record(tmp_path / "record.json")
    assert back == dataclasses.replace(result, config=config)


def test_a_record_reads_back_with_its_diverged_runs(result, tmp_path):
    trials = (dataclasses.replace(result.trials[0], loss=None), *result.trials[1:])
    transfer.write_record(dataclasses.replace(result, trials=trials), tmp_path / "record.json")
    assert transfer.read_record(tmp_path / "record.json").trials == trials


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": "jaxmup.transfer", "version": 3}'])
def test_another_record_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="A record must be of format"):
        transfer.read_record(path)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        transfer.write_atomically(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    transfer.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644


LOADED = """
import sys, jaxmup.transfer
print([m for m in ("flax", "optax", "sklearn", "rich", "typer", "matplotlib") if m in sys.modules])
"""


def test_reading_a_record_loads_no_framework_and_no_command_line():
    printed = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "[]"
