"""Commands that cannot run: what was asked, the exit code, and a fragment of the one line about it.

Each row is run in a folder of its own with the files of `make_files`, which it must leave as they
were. `{...}` in a command is one argument, spaces and all.
"""
# ruff: noqa: E501

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxmup import bridge


class Row(NamedTuple):
    """A command line, the code that it exits with, and a part of what it says."""

    command: str
    code: int
    message: str
    prints: bool = False  # something before it fails


USERS = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from flax import linen, nnx
import jaxmup

NUMBER = 3
X = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)

def make(width, rngs):
    return nnx.Sequential(nnx.Linear(4, width, rngs=rngs), nnx.relu, nnx.Linear(width, 3, rngs=rngs))
def one(width): return nnx.Linear(3, width, rngs=nnx.Rngs(0))
class Layers(nnx.Module):
    def __init__(self, width, rngs):
        self.a = jaxmup.nnx.Linear(4, width, base_out_features=8, rngs=rngs)
        self.b = jaxmup.nnx.Linear(width, 3, base_in_features=8, rngs=rngs)
    def __call__(self, x): return self.b(nnx.relu(self.a(x)))
class Dense(linen.Module):
    width: int
    @linen.compact
    def __call__(self, x): return linen.Dense(3)(linen.Dense(self.width)(x))
class Fails(nnx.Module):
    def __init__(self, width, rngs): self.a = nnx.Linear(4, width, rngs=rngs); self.b = nnx.Linear(width, 3, rngs=rngs)
    def __call__(self, x): raise RuntimeError("call boom")
class Flat(Fails):
    def __call__(self, x): return self.b(self.a(x))[0]
class Leaves(Fails):
    def __call__(self, x): sys.exit(0)
def dense(width): return Dense(width)
def dense_inputs(width): return np.zeros((1, 4), np.float32)
def inputs_boom(width): raise RuntimeError("inputs boom")
def none(width): return None
def string(width): return "x"
def boom(width): raise RuntimeError("boom\\nsecond line")
def escape(width): raise RuntimeError("\\x1b[2Jescaped")
class Unsayable(Exception):
    def __str__(self): raise ValueError("no words")
def unsayable(width): raise Unsayable
def key_error(width): return {}["zzz"]
def leave(width): sys.exit(0)
def leave_5(width): sys.exit(5)
def interrupt(width): raise KeyboardInterrupt
def same(width, rngs): return make(8, rngs)
def no_arguments(): return None

def data(seed, step):
    at = np.random.default_rng((seed, step)).integers(0, 32, 16)
    return X[at], Y[at]
def evaluation(): return X, Y
def batch(): return X[:16], Y[:16]
def d_none(seed, step): return None
def d_os(seed, step): raise OSError("disk gone")
def d_type(seed, step): raise TypeError("typed")
def d_index(seed, step): return [][0]
def d_exit(seed, step): sys.exit(0)
def d_nan(seed, step): x, y = data(seed, step); return x * np.nan, y
def d_shape(seed, step): x, y = data(seed, step); return x[: 16 - step], y[: 16 - step]
def d_wide(seed, step): x, y = data(seed, step); return x[:, :3], y
def d_str(seed, step): return "abc"
def d_obj(seed, step): return np.array([None, 3]), np.array([1, 2])
def d_ragged(seed, step): return [[1.0], [1.0, 2.0]], np.array([1, 2])
def d_short(seed): return [data(seed, i) for i in range(1)]
def d_late(seed, steps):
    yield data(seed, 0)
    raise OSError("late")
def d_number(seed): return 3
def e_none(): return None
def e_boom(): raise ValueError("e boom")
def e_exit(): sys.exit(0)
def e_nan(): return X * np.nan, Y
def b_boom(): raise RuntimeError("batch boom")
def b_exit(): sys.exit(0)
def b_none(): return None
def b_late():
    yield batch()
    raise OSError("late batch")
def b_nan(): return X * np.nan, Y
def b_empty(): return X[:0], Y[:0]
def l_none(m, b): return None
def l_vector(m, b): return m(b[0])
def l_boom(m, b): raise RuntimeError("loss boom")
def l_exit(m, b): sys.exit(0)
def l_str(m, b): return "x"
def l_int(m, b): return jnp.int32(1)
def l_complex(m, b): return m(b[0]).sum() + 1j
def l_one(m): return m.sum()
def lc_boom(outputs, targets): raise RuntimeError("loss boom")
def lc_none(outputs, targets): return None
def lc_vector(outputs, targets): return outputs
def tx_none(scalings): return None
def tx_boom(scalings): raise RuntimeError("tx boom")
def tx_exit(scalings): sys.exit(0)
def tx(scalings): return jaxmup.optim.adam(0.01, scalings)
def a_boom(model, x): raise RuntimeError("apply boom")
held = jaxmup.Model(dense, inputs=dense_inputs)
"""
MODULES = {
    "users.py": USERS,
    "exits.py": "import sys\nsys.exit(0)\n",
    "raises.py": "x = 1\nraise ValueError('at import')\n",
    "syntax.py": "def make(:\n  pass\n",
    "needs.py": "import no_such_dependency\n",
    "lazy.py": "def __getattr__(name): raise RuntimeError('lazy ' + name)\n",
    "asks.py": "raise KeyboardInterrupt\n",
    "reads.py": "open('no/such/file')\n",
}


def make_files(folder: Path) -> None:
    """The files that every command finds."""
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    (folder / "bytes.py").write_bytes(b"x = '\xff'\n")
    torch = {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)}
    bridge.save(folder / "torch.safetensors", torch)
    bridge.save(folder / "more.safetensors", torch | {"extra": np.ones(1, np.float32)})
    bridge.save(folder / "nan.safetensors", torch | {"bias": np.full(2, np.nan, np.float32)})
    flax = {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}
    bridge.save(folder / "flax.safetensors", flax)
    os.link(folder / "torch.safetensors", folder / "hard.safetensors")
    (folder / "link.safetensors").symlink_to("torch.safetensors")
    (folder / "folder.safetensors").mkdir()
    (folder / "below").mkdir()
    weights = {"weight": "torch-1.safetensors", "bias": "torch-1.safetensors"}
    bridge.save(folder / "torch-1.safetensors", torch)
    (folder / "torch.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    (folder / "cut.safetensors").write_bytes((folder / "torch.safetensors").read_bytes()[:-4])
    (folder / "text.txt").write_text("a text\n" * 1000)
    (folder / "bad.toml").write_text("pairs = [")
    (folder / "empty.toml").write_text("")
    (folder / "unknown.toml").write_text("[pairs]\nnothing = 'kernel'\n")
    for name, content in RUNS.items():
        (folder / name).mkdir()
        (folder / name / "trials.jsonl").write_text(content)
    (folder / "run-pipe").mkdir()
    os.mkfifo(folder / "run-pipe" / "trials.jsonl")
    (folder / "run-text").mkdir()
    os.link(folder / "text.txt", folder / "run-text" / "transfer.html")
    (folder / "run-folder" / "transfer.json").mkdir(parents=True)
    (folder / "check-folder" / "coord_check.png").mkdir(parents=True)


# Files that are called `trials.jsonl`, and are not those of the sweep.
RUNS = {
    "run-foreign": '{"precious": "no sweep, and no end of the line"}',
    "run-lines": "one\ntwo\n",
    "run-json": "[1]\n",
    "run-other": '{"format": "jaxmup.transfer.trials", "version": 2, "a": 1}\n{"parametri',
    "run-deep": "[" * 100_000 + "\n",
    "run-bytes": "\x00\x01\n",
}

TRANSFER = "transfer --width 8,16 --seeds 1 --parametrization mup --steps 2 --out out"
RATES = "--learning-rates 0.01,0.02"
OWN = f"{TRANSFER} {RATES} --model users:make --data users:data --evaluation users:evaluation"
CHECK = "coord-check users:make --sizes 8,16 --seeds 1 --steps 2 --out out"
FLAX = "--to flax --model users:one --size 2"
TORCH = "--to torch --model users:one --size 2"


def _own(**changed: str) -> str:
    """`OWN` with other functions; an empty one is left out."""
    asked = {"model": "make", "data": "data", "evaluation": "evaluation"} | changed
    options = " ".join(f"--{name} users:{value}" for name, value in asked.items() if value)
    return f"{TRANSFER} {RATES} {options}"


_OPTIONS = [  # that are none, contradict each other, or would be ignored
    Row("no-such-command", 2, "No such command 'no-such-command'"),
    Row("--no-such-option", 2, "No such option"),
    Row("transfer --steps", 2, "requires an argument"),
    Row("transfer extra", 2, "unexpected extra argument"),
    Row(f"{TRANSFER} --steps 3", 2, "'--steps': It must be given once"),
    Row(f"{TRANSFER} --out other", 2, "'--out': It must be given once"),
    Row("transfer --width 8,16 --out {}", 2, "'--out': It must be a path. Got ''"),
    Row("transfer --width 8,16 --out {a\0b}", 2, "'--out': It must be a path. Got 'a\\x00b'"),
    Row("transfer --width 64", 2, "`widths` must hold at least 2 different values"),
    Row("transfer --width 8,8", 2, "`widths` must"),
    Row("transfer --width 8,1.5", 2, "`--width` must be integers"),
    Row("transfer --width -8,16", 2, "`widths` must be an integer of at least 1"),
    Row(f"{TRANSFER} --learning-rates 0.1,0.1", 2, "`learning_rates` must not repeat a value"),
    Row(f"{TRANSFER} --learning-rates 1e-300", 2, "`learning_rates` must be"),
    Row(f"{TRANSFER} --learning-rates inf", 2, "`learning_rates` must be a finite number"),
    Row(f"{TRANSFER} {RATES} --log2-range -3:-2", 2, "exclude each other"),
    Row(f"{TRANSFER} --log2-range -3:-2:0", 2, "a step above 0"),
    Row(f"{TRANSFER} --log2-range -3:nan", 2, "must have finite bounds"),
    Row(f"{TRANSFER} --sweep b2=0.9 --sweep b2=0.8", 2, "`--sweep` must name each"),
    Row(f"{TRANSFER} --sweep steps=2,3", 2, "`--steps` and `--sweep steps=...` exclude"),
    Row(f"{TRANSFER} --depth 1 --sweep depth=1,2", 2, "`--depth` and `--sweep depth=...`"),
    Row(f"{TRANSFER} --batch-size 8 --sweep batch_size=8", 2, "`--batch-size` and `--sweep"),
    Row(f"{TRANSFER} --sweep width=8", 2, "`sweep` is for other hyper-parameters"),
    Row(f"{TRANSFER} --sweep b2=1.5", 2, "`sweep['b2']` must be"),
    Row(f"{TRANSFER} --optimizer sgd --sweep b2=0.9", 2, "hyper-parameters that sgd has"),
    Row(f"{TRANSFER} --sweep nothing=1,2", 2, "which has no nothing"),
    Row(f"{TRANSFER} --search random --sweep b2=0.9,0.8", 2, "must have `samples`"),
    Row(f"{TRANSFER} --search halving", 2, "at least 2 settings"),
    Row(f"{TRANSFER} --samples 2", 2, "`samples` must be at most the 1 settings"),
    Row(f"{TRANSFER} --text text.txt", 2, "`--text` is for data that are text. Got `--model mlp`"),
    Row(f"{TRANSFER} --text no/such/file", 2, "`--text` is for data that are text"),
    Row(f"{TRANSFER} --context 8", 2, "`--context` is for data that are text"),
    Row(f"{TRANSFER} --model cnn --text text.txt", 2, "`--text` is for data that are text"),
    Row(f"{TRANSFER} --model gpt --text no/such/file", 2, "No such file"),
    Row(f"{TRANSFER} --model gpt --text below", 2, "below"),
    Row(f"{TRANSFER} --model gpt --data text", 2, "`data` must be left out"),
    Row(f"{TRANSFER} --loss users:l_none", 2, "`--loss` is for a model of one's own"),
    Row(f"{TRANSFER} --evaluation users:evaluation", 2, "`--evaluation` must be given with"),
    Row(f"{TRANSFER} --model users:make", 2, "`--data` must be one of"),
    Row(f"{TRANSFER} --model users:make --data users:data", 2, "`--evaluation` must be given"),
    Row(f"{OWN} --depth 3", 2, "`--depth` must be used. `--model users:make` has no parameter"),
    Row(f"{OWN} --batch-size 8", 2, "Got 8, where `--data users:data`, which has no parameter"),
    Row(f"{OWN} --text text.txt", 2, "`--text` is for data that are text"),
    Row(f"{OWN} --distributed here", 2, "`--distributed` must be auto"),
    Row(f"{TRANSFER} --heartbeat-timeout 5", 2, "Got no `--distributed`"),
    Row(f"{TRANSFER} --start-timeout 5", 2, "Got no `--distributed`"),
    Row(f"{OWN} --distributed auto --heartbeat-timeout 0", 2, "'--heartbeat-timeout'"),
    Row(f"{CHECK} --data users:batch --make-tx users:tx --learning-rate 0.1", 2, "`--learning-rate` must be left out"),
    Row(f"{CHECK} --data users:batch --make-tx users:tx --weight-decay 0.1", 2, "`--weight-decay` must be left out"),
    Row("coord-check users:make --data users:batch --over depth", 2, "`--sizes` must be given"),
    Row(f"{CHECK} --data users:batch --over time", 2, "'--over'"),
    Row(f"{CHECK} --data users:batch --optimizer adagrad", 2, "`--optimizer` must be one of"),
    Row(f"{CHECK} --data users:batch --gauge table0", 2, "table0"),
    Row(f"{CHECK} --data users:batch --parametrization ntk", 2, "ntk"),
    Row(f"{CHECK} --data users:batch --learning-rate nan", 2, "learning_rate"),
    Row("coord-check users:make --data users:batch --sizes 8", 2, "at least two different"),
    Row("coord-check users:make --data users:batch --sizes 8,8", 2, "at least two different"),
    Row("coord-check users:make --data users:batch --sizes a", 2, "integers with commas"),
    Row("coord-check users:make --data users:batch --sizes 8,16 --seeds 0", 2, "`seeds` must be"),
    Row("coord-check users:make --data users:batch --sizes 8,16 --steps 1", 2, "`steps` must be"),
    Row("coord-check users:make", 2, "Missing option '--data'"),
    Row("explain users:one", 2, "Missing option '--target'"),
    Row("explain users:one --target 0", 2, "`--target` must be at least 1"),
    Row("explain users:one --target 16 --base 0", 2, "`--base` must be at least 1"),
    Row("explain users:one --target 16", 2, "Got no `--base`"),
    Row("explain users:Layers --target 16 --delta 12", 2, "`--delta` is for a model of other"),
    Row("explain users:Layers --target 16 --inputs users:dense_inputs", 2, "`--inputs` is for"),
    Row("explain users:dense --target 16 --base 8", 2, "Got no `--inputs`"),
    Row("explain users:held --target 8 --inputs users:dense_inputs", 2, "for a Model that has"),
    Row("explain users:one --target 16 --base 8 --gauge table0", 2, "table0"),
    Row("explain users:one --target 16 --base 8 --optimizer eve", 2, "eve"),
    Row("explain users:Layers --target 16 --base 8 --learning-rate -1", 2, "learning_rate"),
    Row("explain users:one --target 16 --base 8 --format html", 2, "'--format'"),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --optimizer adam", 2, "`--optimizer` says"),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --like torch.safetensors", 2, "`--like`"),
    Row(f"convert torch.safetensors o.safetensors {FLAX} --inputs users:dense_inputs", 2, "--inputs"),
    Row(f"convert flax.safetensors out.safetensors {TORCH}", 2, "`--like` must be given"),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --gauge table8", 2, "this model has none"),
    Row(f"convert torch.safetensors o.safetensors {FLAX} --settings missing.json", 2, "missing.json"),
    Row("convert torch.safetensors o.safetensors --to jax --model users:one --size 2", 2, "'--to'"),
    Row("convert torch.safetensors o.safetensors --to flax --model users:one --size 0", 2, "--size"),
    Row("parity --steps 0", 2, "steps"),
    Row("parity --steps x", 2, "'--steps'"),
]  # fmt: skip
_FILES = [  # that are not read, or would be lost
    Row(f"convert torch.safetensors torch.safetensors {FLAX}", 2, "over what it is made from"),
    Row(f"convert torch.safetensors below/../torch.safetensors {FLAX}", 2, "over what it is made"),
    Row(f"convert torch.safetensors hard.safetensors {FLAX}", 2, "over what it is made from"),
    Row(f"convert torch.safetensors link.safetensors {FLAX}", 2, "through a symbolic link"),
    Row(f"convert link.safetensors torch.safetensors {FLAX}", 2, "over what it is made from"),
    Row(f"convert torch.safetensors torch.safetensors {FLAX} --dry-run", 2, "over what it is made"),
    Row(f"convert torch.safetensors.index.json torch-1.safetensors {FLAX}", 2, "over what it is"),
    Row(
        f"convert flax.safetensors torch.safetensors {TORCH} --like torch.safetensors",
        2,
        "over what it is made from",
    ),
    Row(
        f"convert flax.safetensors hard.safetensors {TORCH} --like torch.safetensors",
        2,
        "over what it is made from",
    ),
    Row(
        f"convert flax.safetensors flax.safetensors {TORCH} --like torch.safetensors",
        2,
        "over what it is made from",
    ),
    Row(f"convert torch.safetensors folder.safetensors {FLAX}", 2, "is a folder"),
    Row(f"convert torch.safetensors no/such.safetensors {FLAX}", 2, "written into a folder"),
    Row(f"convert torch.safetensors out.pt {FLAX}", 2, "must end in .safetensors"),
    Row(f"convert torch.safetensors out {FLAX}", 2, "must end in .safetensors"),
    Row(f"convert torch.safetensors {{}} {FLAX}", 2, "'DST': It must be a path"),
    Row(f"convert {{}} out.safetensors {FLAX}", 2, "'SRC': It must be a path"),
    Row(f"convert missing.safetensors out.safetensors {FLAX}", 2, "No such file"),
    Row(f"convert folder.safetensors out.safetensors {FLAX}", 2, "folder.safetensors"),
    Row(f"convert cut.safetensors out.safetensors {FLAX}", 2, "whole file of safetensors"),
    Row(f"convert text.txt out.safetensors {FLAX}", 2, "A checkpoint must end in"),
    Row(f"convert more.safetensors out.safetensors {FLAX}", 2, "extra"),
    Row(f"convert nan.safetensors out.safetensors {FLAX}", 2, "nan.safetensors: bias", prints=True),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --pairs bad.toml", 2, "TOML file"),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --pairs empty.toml", 2, "table [pairs]"),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --pairs missing.toml", 2, "No such file"),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --pairs unknown.toml", 2, "nothing"),
    Row(f"convert torch.safetensors out.safetensors {FLAX} --pairs {{}}", 2, "It must be a path"),
    Row(f"{OWN.replace('--out out', '--out text.txt')}", 2, "`--out` must be a folder that can be written"),
    Row(f"{OWN.replace('--out out', '--out text.txt/below')}", 2, "`--out` must be a folder"),
    Row(f"{OWN.replace('--out out', '--out run-folder')}", 2, "transfer.json is a folder"),
    Row(f"{OWN.replace('--out out', '--out run-pipe')}", 2, "no regular file"),
    Row(f"{OWN.replace('--out out', '--out run-foreign')}", 2, "line 1: The file must begin with"),
    Row(f"{OWN.replace('--out out', '--out run-lines')}", 2, "line 1: It must be JSON"),
    Row(f"{OWN.replace('--out out', '--out run-json')}", 2, "line 1: The file must begin with"),
    Row(f"{OWN.replace('--out out', '--out run-other')}", 2, "differs in a: 1 there, None here"),
    Row(f"{OWN.replace('--out out', '--out run-deep')}", 2, "line 1: It must be JSON. It is nested"),
    Row(f"{OWN.replace('--out out', '--out run-bytes')}", 2, "line 1: It must be JSON"),
    Row(
        "transfer --width 8,16 --seeds 1 --steps 2 --model gpt --text text.txt --out run-text",
        2,
        "over what it is made from",
    ),
    Row(f"{CHECK.replace('--out out', '--out text.txt')} --data users:batch", 2, "`--out` must be a folder"),
    Row(f"{CHECK.replace('--out out', '--out check-folder')} --data users:batch", 2, "is a folder"),
]  # fmt: skip
_CODE = [  # of the user's, that fails
    Row(f"{TRANSFER} --model ./users:make --data text", 2, "must be a module and a function of it"),
    Row(f"{TRANSFER} --model users.py:make --data text", 2, "There is no module 'users.py'"),
    Row("explain users --target 8", 2, "must be a module and a function of it"),
    Row("explain users: --target 8", 2, "must be a module and a function of it"),
    Row("explain :make --target 8", 2, "must be a module and a function of it"),
    Row("explain users:nothing --target 8", 2, "Module 'users' has no 'nothing'"),
    Row("explain users:NUMBER --target 8", 2, "'users:NUMBER' must be a function, or a Model"),
    Row("explain missing:make --target 8", 2, "There is no module 'missing'"),
    Row("explain needs:make --target 8", 2, "'needs' could not be imported: ModuleNotFoundError"),
    Row("explain raises:make --target 8", 2, "ValueError: at import (raises.py, line 2)"),
    Row("explain syntax:make --target 8", 2, "'syntax' could not be imported: SyntaxError"),
    Row("explain bytes:make --target 8", 2, "'bytes' could not be imported: SyntaxError"),
    Row("explain lazy:make --target 8", 2, "could not be looked up: RuntimeError: lazy make"),
    Row("explain reads:make --target 8", 2, "FileNotFoundError"),
    Row("explain exits:make --target 8", 2, "could not be imported: SystemExit: 0 (exits.py, line 2)"),
    Row("coord-check exits:make --data users:batch", 2, "could not be imported: SystemExit: 0"),
    Row("coord-check users:make --data exits:batch", 2, "could not be imported: SystemExit: 0"),
    Row("convert torch.safetensors o.safetensors --to flax --model exits:m --size 2", 2, "SystemExit"),
    Row("explain asks:make --target 8", 130, "Interrupted."),
    Row("explain users:interrupt --target 8", 130, "Interrupted."),
    Row("explain users:none --target 8 --base 4", 2, "has none: it is None"),
    Row("explain users:string --target 8 --base 4", 2, "has none: it is 'x'"),
    Row("explain users:boom --target 8", 2, "users:boom failed for size 8: RuntimeError: boom second"),
    Row("explain users:escape --target 8", 2, "RuntimeError: \\x1b[2Jescaped (users.py, line "),
    Row("explain users:key_error --target 8", 2, "KeyError: 'zzz' (users.py, line "),
    Row("explain users:unsayable --target 8", 2, "users:unsayable failed for size 8: Unsayable ("),
    Row("explain users:leave --target 8", 2, "users:leave failed for size 8: SystemExit: 0"),
    Row("explain users:leave_5 --target 8", 2, "SystemExit: 5 (users.py, line "),
    Row("explain users:no_arguments --target 8", 2, "users:no_arguments failed for size 8: TypeError"),
    Row("explain users:dense --target 8 --inputs users:inputs_boom", 2, "RuntimeError: inputs boom"),
    Row("coord-check users:leave --data users:batch --sizes 8,16", 2, "SystemExit: 0"),
    Row("coord-check users:same --data users:batch --sizes 8,16 --steps 2", 2, "must use the size"),
    Row("coord-check users:Fails --data users:batch --sizes 8,16", 2, "It raised RuntimeError at users.py"),
    Row("coord-check users:Leaves --data users:batch --sizes 8,16", 2, "SystemExit: 0 (users.py"),
    Row(f"{CHECK} --data users:b_boom", 2, "`--data` users:b_boom failed: RuntimeError: batch boom"),
    Row(f"{CHECK} --data users:b_exit", 2, "`--data` users:b_exit failed: SystemExit: 0"),
    Row(f"{CHECK} --data users:b_late", 2, "users:b_late failed, step 1: OSError: late batch"),
    Row(f"{CHECK} --data users:b_none", 2, "`data` must be a batch"),
    Row(f"{CHECK} --data users:b_nan", 2, "The data must be finite"),
    Row(f"{CHECK} --data users:b_empty", 2, "The data must hold examples"),
    Row(f"{CHECK} --data users:batch --loss users:lc_boom", 2, "RuntimeError: loss boom (users.py"),
    Row(f"{CHECK} --data users:batch --loss users:lc_none", 2, "users:lc_none failed for shapes"),
    Row(f"{CHECK} --data users:batch --loss users:lc_vector", 2, "array of shape (16, 3)"),
    Row(f"{CHECK} --data users:batch --make-tx users:tx_none", 2, "must return an optax transform"),
    Row(f"{CHECK} --data users:batch --make-tx users:tx_boom", 2, "RuntimeError: tx boom"),
    Row(f"{CHECK} --data users:batch --make-tx users:tx_exit", 2, "SystemExit: 0 (users.py, line "),
    Row(f"{CHECK} --data users:batch --apply users:a_boom", 2, "RuntimeError: apply boom"),
    Row(_own(model="boom"), 2, "`--model` users:boom failed for size 8: RuntimeError: boom"),
    Row(_own(model="leave"), 2, "`--model` users:leave failed for size 8: SystemExit: 0"),
    Row(_own(model="none"), 2, "has no parameters: None"),
    Row(_own(model="same"), 2, "larger model for a larger width"),
    Row(_own(model="Fails"), 2, "The loss failed for shapes (32,4) (32,): RuntimeError: call boom"),
    Row(_own(model="Leaves"), 2, "SystemExit: 0 (users.py, line "),
    Row(_own(model="Flat"), 2, "Got logits of shape (3,) for labels of shape (32,)"),
    Row(_own(data="d_none"), 2, "`--data` users:d_none failed for seed 0, step 0: ValueError: Data"),
    Row(_own(data="d_os"), 2, "`--data` users:d_os failed for seed 0, step 0: OSError: disk gone"),
    Row(_own(data="d_type"), 2, "TypeError: typed (users.py, line "),
    Row(_own(data="d_index"), 2, "failed for seed 0, step 0: IndexError"),
    Row(_own(data="d_exit"), 2, "failed for seed 0, step 0: SystemExit: 0 (users.py, line "),
    Row(_own(data="d_nan"), 2, "Data must be finite"),
    Row(_own(data="d_shape"), 2, "All batches must have the same shapes. That of step 1 of seed 0"),
    Row(_own(data="d_wide"), 2, "The loss failed for shapes (16,3) (16,): TypeError"),
    Row(_own(data="d_str"), 2, "Data must be arrays of numbers"),
    Row(_own(data="d_obj"), 2, "Data must be arrays of numbers"),
    Row(_own(data="d_ragged"), 2, "The loss failed for shapes () () () (2,): TypeError"),
    Row(_own(data="d_short"), 2, "The data must last for 2 steps. They ran out at step 1 of seed 0"),
    Row(_own(data="d_late"), 2, "users:d_late failed for seed 0, steps 2, step 1: OSError: late"),
    Row(_own(data="d_number"), 2, "Got a int for seed 0"),
    Row(_own(evaluation="e_none"), 2, "`--evaluation` users:e_none failed: ValueError: Data must be"),
    Row(_own(evaluation="e_boom"), 2, "users:e_boom failed: ValueError: e boom (users.py, line "),
    Row(_own(evaluation="e_exit"), 2, "users:e_exit failed: SystemExit: 0 (users.py, line "),
    Row(_own(evaluation="e_nan"), 2, "Data must be finite"),
    Row(_own(loss="l_none"), 2, "failed for shapes (32,4) (32,): TypeError: `loss_fn` must return"),
    Row(_own(loss="l_vector"), 2, "ValueError: `loss_fn` must return a scalar"),
    Row(_own(loss="l_boom"), 2, "`--loss` users:l_boom failed for shapes (32,4) (32,): RuntimeError"),
    Row(_own(loss="l_exit"), 2, "SystemExit: 0 (users.py, line "),
    Row(_own(loss="l_str"), 2, "TypeError: `loss_fn` must return a scalar"),
    Row(_own(loss="l_int"), 2, "Got one of dtype int32"),
    Row(_own(loss="l_complex"), 2, "Got one of dtype complex64"),
    Row(_own(loss="l_one"), 2, "users:l_one failed for shapes (32,4) (32,): TypeError"),
]  # fmt: skip
ROWS = [*_OPTIONS, *_FILES, *_CODE]
