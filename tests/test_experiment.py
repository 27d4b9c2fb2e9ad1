"""What tells one measurement from another: the programs of the user's code, and the first batch."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import cases

import jaxmup
from jaxmup import cli, optim, transfer
from jaxmup.cli import _transfer
from jaxmup.transfer import _sweep
from jaxmup.transfer._experiment import identity
from jaxmup.transfer._network import network
from jaxmup.transfer._store import differences

CODE = """
import jax.numpy as jnp, numpy as np
from flax import nnx

class Net(nnx.Module):
    def __init__(self, width, rngs):
        self.a = nnx.Linear(3, width, rngs=rngs)
        self.b = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, x):
        return self.b(nnx.relu(self.a(x)))

def make_model(width, rngs):
    return Net(width, rngs)

def batches(seed, step):
    x = np.random.default_rng((seed, step)).standard_normal((4, 3)).astype(np.float32)
    return x, x.sum(-1, keepdims=True)

def evaluation():
    return batches(9, 9)

def loss(model, batch):
    return jnp.square(model(batch[0]) - batch[1]).mean() * 0.5
"""
CONFIG = transfer.Config(
    widths=(4, 8),
    learning_rates=(0.1, 0.2),
    seeds=(0,),
    steps=2,
    parametrizations=("mup",),
    model="mine",
)


def facts(code: str = CODE, config: transfer.Config = CONFIG) -> dict:
    """What the header says of a task with this code."""
    space: dict = {"__name__": "users"}
    exec(compile(code, "users.py", "exec"), space)
    task = transfer.Task(
        space["make_model"], space["batches"], space["evaluation"](), space["loss"]
    )
    return identity(task, config, functools.cache(lambda cell: network(task, config, cell)))


@pytest.fixture(scope="module")
def before():
    return facts()


def replaced(old: str, new: str) -> str:
    assert old in CODE
    return CODE.replace(old, new)


CHANGED = {
    "loss": (replaced("jnp.square(", "1000 * jnp.square("), ["the loss's program"]),
    "one more term of the loss": (replaced(" * 0.5", " * 0.5 + 1e-9"), ["the loss's program"]),
    "a number of the loss": (replaced("* 0.5", "* 0.25"), ["the loss's program"]),
    "activation": (
        replaced("nnx.relu", "nnx.tanh"),
        ["the loss's program", "the model's program"],
    ),
    "initializer": (
        replaced("width, 1, rngs", "width, 1, kernel_init=nnx.initializers.zeros, rngs"),
        ["the initial values"],
    ),
    "data": (
        replaced("rng((seed, step))", "rng((seed, step, 1))"),
        ["the evaluation", "the first batch"],
    ),
    "data of training alone": (
        replaced("return batches(9, 9)", "return np.zeros((4, 3), np.float32), np.zeros((4, 1))")
        .replace("np.zeros((4, 1))", "np.zeros((4, 1), np.float32)"),
        ["the evaluation"],
    ),
    "dtype of data": (
        replaced("np.float32", "np.float16"),
        ["the evaluation", "the first batch", "the loss's program", "the model's program"],
    ),
    "dtype of parameters": (
        replaced("3, width, rngs", "3, width, param_dtype=jnp.bfloat16, rngs"),
        ["the initial values", "the loss's program", "the model's program",
         "the optimizer's program"],
    ),
}  # fmt: skip
SAME = {
    "the same code": CODE,
    "a comment": replaced("def loss", "# the mean square\ndef loss"),
    "a comment inside": replaced("    return jnp.square", "    # a comment\n    return jnp.square"),
    "moved lines": "\n" * 40 + CODE,
    "another file": CODE + "\n# users.py is now a file of its own",
    "a renamed local": replaced("def loss(model, batch)", "def loss(net, batch)").replace(
        "model(batch[0])", "net(batch[0])"
    ),
    "a renamed function": replaced("def __call__", "def unused(self): pass\n    def __call__"),
}


@pytest.mark.parametrize(("code", "names"), cases(CHANGED))
def test_a_change_of_the_experiment_is_named(before, code, names):
    assert sorted(differences(before, facts(code))) == names


@pytest.mark.parametrize("code", SAME.values(), ids=SAME)
def test_what_leaves_the_experiment_as_it_is(before, code):
    assert facts(code) == before


def test_a_change_of_the_optimizer_is_named(before, monkeypatch):
    other = dataclasses.replace(CONFIG, optimizer="adamw", learning_rates=CONFIG.grid)
    assert "config.optimizer: adam there, adamw here" in differences(before, facts(config=other))
    twice = lambda rate, scalings, **kw: optim.adam(lambda n: 2 * rate(n), scalings, **kw)  # noqa: E731
    monkeypatch.setitem(_sweep._OPTIMIZERS, "adam", twice)
    assert differences(before, facts()) == ["the optimizer's program"]


def test_a_custom_derivative_is_part_of_the_program():
    def with_rule(factor: int) -> str:
        rule = f"""
import jax
@jax.custom_vjp
def identity(x): return x
identity.defvjp(lambda x: (x, None), lambda _, g: ({factor} * g,))
"""
        return rule + CODE.replace("jnp.square(model", "jnp.square(identity(model").replace(
            "batch[0])", "batch[0]))"
        )

    assert differences(facts(with_rule(1)), facts(with_rule(2))) == ["the loss's program"]


PRINTED = """
import json, test_experiment
print(json.dumps(test_experiment.facts()["programs"]))
"""


def test_digests_do_not_depend_on_the_process():
    folders = [Path(__file__).parent, Path(jaxmup.__file__).parents[1]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    printed = {
        subprocess.run(
            [sys.executable, "-c", PRINTED],
            env=environment | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("jnp.square(", "2 * jnp.square(", "the loss's program"),
        ("rng((seed, step))", "rng((step, seed, 1))", "the first batch"),
        ("nnx.relu", "nnx.gelu", "the model's program"),
    ],
)
def test_a_command_does_not_go_on_with_other_code(tmp_path, monkeypatch, capsys, old, new, name):
    monkeypatch.setattr(_transfer, "_use_every_core", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    command = ["transfer", "--width", "4,8", "--seeds", "1", "--steps", "2", "--out", "out"]
    command += ["--log2-range", "-4:-3:1", "--parametrization", "mup"]
    for option, function in {"model": "make_model", "data": "batches"}.items():
        command += [f"--{option}", f"experiment:{function}"]
    command += ["--evaluation", "experiment:evaluation", "--loss", "experiment:loss"]

    def run(code: str) -> int:
        sys.modules.pop("experiment", None)
        Path("experiment.py").write_text(code)
        return cli.run(command)

    assert run(CODE) == 0
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    assert run(CODE + "# a comment") == 0
    capsys.readouterr()
    assert run(replaced(old, new)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert name in printed.err
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before


def test_measuring_in_memory_traces_nothing_twice(monkeypatch):
    monkeypatch.setattr("jaxmup.transfer._train.identity", lambda *_: pytest.fail("it traces"))
    space: dict = {"__name__": "users"}
    exec(CODE, space)
    task = transfer.Task(
        space["make_model"], space["batches"], space["evaluation"](), space["loss"]
    )
    assert len(transfer.measure(CONFIG, task).trials) == 4
