"""The bridge's files: what is read, refused and written; models of mup; the command."""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import mutations
import numpy as np
import pytest
from flax import nnx
from helpers import cases
from safetensors.numpy import save_file

import jaxmup
from jaxmup import bridge, cli

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)
BIAS = np.float32([1, 2, 3])
STATE = {"weight": WEIGHT, "bias": BIAS}


def abstract_linear() -> nnx.Linear:
    return nnx.eval_shape(lambda: nnx.Linear(2, 3, rngs=nnx.Rngs(0)))


def test_files_hold_what_the_format_says(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {"a.b": WEIGHT, "half": BIAS.astype(ml_dtypes.bfloat16), "step": np.int64(3)}
    arrays |= {"empty": np.zeros((0, 2), np.float32), "fortran": np.asfortranarray(WEIGHT)}
    bridge.save(path, arrays)
    by_definition = mutations.read_by_definition(path.read_bytes())
    for found in (by_definition, bridge.load(path)):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match=r"complex.*must have one of the dtypes"):
        bridge.save(path, {"complex": np.ones(2, np.complex64)})
    assert bridge.load(path).keys() == arrays.keys()
    assert os.listdir(tmp_path) == ["model.safetensors"]


def sharded(folder: Path, **changes: str) -> Path:
    """Two shards and their index."""
    bridge.save(folder / "1.safetensors", {"weight": WEIGHT})
    bridge.save(folder / "2.safetensors", {"bias": BIAS})
    names = {"weight": "1.safetensors", "bias": "2.safetensors"} | changes
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def test_shards_with_an_index(tmp_path):
    layer = bridge.from_torch(sharded(tmp_path), abstract_linear())
    np.testing.assert_array_equal(layer.kernel[...], WEIGHT.T)
    np.testing.assert_array_equal(layer.bias[...], BIAS)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    cases(
        {
            "a shard that is not there": ({"bias": "3.safetensors"}, OSError, "3.safetensors"),
            "another shard": ({"bias": "1.safetensors"}, ValueError, "bias must be in 1.safeten"),
            "outside": ({"bias": "../2.safetensors"}, ValueError, "beside it"),
            "a pickle": ({"bias": "2.pt"}, ValueError, "beside it"),
            "no name": ({"bias": 2}, ValueError, "weight_map"),
        }
    ),
)
def test_an_index_must_be_of_its_shards(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        bridge.load(sharded(tmp_path, **changes))


def test_an_index_must_name_every_tensor(tmp_path):
    index = sharded(tmp_path)
    bridge.save(tmp_path / "2.safetensors", {"bias": BIAS, "more": BIAS})
    with pytest.raises(ValueError, match=r"that the index lacks: \['more'\]"):
        bridge.load(index)
    for text in ("{", "[]", "[" * 100_000):
        index.write_text(text)
        with pytest.raises(ValueError, match="an index must"):
            bridge.load(index)


GOOD = mutations.safetensors_file(*mutations.good_header())
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
TWICE = b'{"a":%b,"a":%b}' % ((json.dumps(ONE).encode(),) * 2)


@pytest.mark.parametrize(
    ("content", "words"),
    cases(
        {
            "empty": (b"", "header too small"),
            "truncated": (GOOD[:-1], "incomplete"),
            "too long": (GOOD + b"x", "incomplete"),
            "an oversized header": (b"\xff" * 7 + b"\x00" + GOOD[8:], "header too large"),
            "no JSON": (mutations.safetensors_file(b"{{", b""), "JSON"),
            "one name twice": (mutations.safetensors_file(TWICE, b"1234"), r"Twice: \['a'\]"),
            "another dtype": (
                mutations.safetensors_file({"a": ONE | {"dtype": "C64", "shape": []}}, b"12345678"),
                "safetensors",
            ),
        }
    ),
)
def test_damaged_files_are_refused_by_name(tmp_path, content, words):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        bridge.load(path)
    assert str(path) in str(caught.value)


def test_mutated_files_are_refused_or_read_as_they_are(tmp_path):
    path = tmp_path / "model.safetensors"
    outcomes = {True: 0, False: 0}
    for content in mutations.damaged_safetensors(300, seed=0):
        path.write_bytes(content)
        try:
            found = {name: np.array(array) for name, array in bridge.load(path).items()}
        except ValueError:
            outcomes[False] += 1
            continue
        wanted = mutations.read_by_definition(content)
        assert wanted is not None
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            assert found[name].tobytes() == array.tobytes()
        outcomes[True] += 1
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize(
    ("state", "words"),
    cases(
        {
            "another shape": ({"weight": WEIGHT.T, "bias": BIAS[:2]}, "bias (2)"),
            "another architecture": ({"conv.weight": np.ones((3, 2, 3, 3), "f4")}, "conv.weight"),
            "missing": ({"weight": WEIGHT}, "kernel (2, 3)"),
            "unexpected": (STATE | {"extra": BIAS}, "extra (3)"),
            "NaN": (STATE | {"bias": BIAS * np.float32(np.nan)}, "bias: 3 of 3"),
        }
    ),
)
def test_state_dicts_that_do_not_fit_name_file_and_tensor(tmp_path, state, words):
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    bridge.save(path, state)
    with pytest.raises(ValueError, match=str(path)) as caught:
        bridge.from_torch(path, abstract_linear())
    assert words in str(caught.value)
    with pytest.raises(ValueError, match=str(path)):
        bridge.conversion(path, abstract_linear(), to="flax").write(out)
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must end in"):
        bridge.load(tmp_path / "model.onnx")
    for suffix in (".safetensors", ".safetensors.index.json"):
        with pytest.raises(FileNotFoundError, match="model"):
            bridge.load(tmp_path / f"model{suffix}")


def test_a_conversion_writes_all_or_nothing(tmp_path):
    source, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    bridge.save(source, STATE)
    conversion = bridge.conversion(source, abstract_linear(), to="flax")
    out.write_text("before")

    def killed(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversion.write(out, progress=killed)
    assert out.read_text() == "before"
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "out.safetensors"]
    conversion.write(out)
    leaves = bridge.load(out)
    np.testing.assert_array_equal(leaves["kernel"], WEIGHT.T)
    link = tmp_path / "link.safetensors"
    link.symlink_to(out)
    with pytest.raises(OSError, match="symbolic link"):
        conversion.write(link)
    with pytest.raises(OSError, match="symbolic link"):
        bridge.save(link, STATE)
    np.testing.assert_array_equal(bridge.load(out)["kernel"], leaves["kernel"])
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        conversion.write(tmp_path / "out.bin")
    back = tmp_path / "back.safetensors"
    bridge.conversion(out, abstract_linear(), to="torch", like=source).write(back)
    np.testing.assert_array_equal(bridge.load(back)["weight"], WEIGHT)
    with pytest.raises(ValueError, match="names and shapes must be known"):
        bridge.conversion(out, abstract_linear(), to="torch")
    with pytest.raises(ValueError, match=r"must hold the leaves(.|\n)*kernel: not there"):
        bridge.conversion(source, abstract_linear(), to="torch", like=source)


def test_a_conversion_of_a_stack_writes_row_by_row(tmp_path):
    source, out, back = (tmp_path / f"{name}.safetensors" for name in ("in", "out", "back"))
    tensors = {f"h.{i}.fc.weight": WEIGHT + 10 * i for i in range(3)}
    bridge.save(source, tensors)
    stack = {"fc": {"kernel": np.zeros((3, 2, 3), np.float32)}}
    bridge.conversion(source, stack, to="flax").write(out)
    rows = np.stack([tensor.T for tensor in tensors.values()])
    np.testing.assert_array_equal(bridge.load(out)["fc/kernel"], rows)
    bridge.conversion(out, stack, to="torch", like=source).write(back)
    for name, tensor in bridge.load(back).items():
        np.testing.assert_array_equal(tensor, tensors[name])


def test_a_conversion_moves_between_gauges(tmp_path):
    source, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    bridge.save(source, {"weight": WEIGHT.T, "bias": BIAS[:2]})
    table9 = jaxmup.parametrization("mup", "adam", gauge="table9")  # its readouts have r^-½
    layer = nnx.eval_shape(lambda: jaxmup.nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    with_base = nnx.eval_shape(
        lambda: jaxmup.nnx.Linear(12, 2, base_in_features=3, use_bias=False, rngs=nnx.Rngs(0))
    )
    bridge.conversion(source, layer, to="flax", parametrization=table9).write(out)
    np.testing.assert_array_equal(bridge.load(out)["kernel"], WEIGHT)
    bridge.save(source, {"weight": np.ones((2, 12), np.float32)})
    for own, value in ((None, 4.0), (table9, 2.0)):  # over 1/4 and over 1/2
        bridge.conversion(source, with_base, to="flax", parametrization=own).write(out)
        assert np.all(bridge.load(out)["kernel"] == value)
    plain = nnx.eval_shape(lambda: nnx.Linear(12, 2, use_bias=False, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="move between gauges by their specs"):
        bridge.conversion(source, plain, to="flax", parametrization=table9)


# As microsoft/mup 1.0.0 wrote it for the network below, with base width 4.
BASE_SHAPES = """\
# This is a base shape file encoded in yaml
# - `null` indicates a dimension is "finite", i.e. a non-"width" dimension
embed.weight:
- null
- 4
fc.bias:
- 8
fc.weight:
- 8
- 4
gain: []
readout.bias:
- null
readout.weight:
- null
- 8
"""
# Width 16. What its MuAdam and MuSGD had for lr=1 and weight_decay=1, read from their groups.
GROUPS = {  # role, learning rate and decay of MuAdam, and of MuSGD
    "embed.weight": ("input", 1.0, 1.0, 4.0, 0.25),
    "fc.weight": ("hidden", 0.25, 4.0, 1.0, 1.0),
    "fc.bias": ("input", 1.0, 1.0, 4.0, 0.25),
    "gain": ("fixed", 1.0, 1.0, 1.0, 1.0),
    "readout.weight": ("output", 1.0, 1.0, 4.0, 0.25),
    "readout.bias": ("fixed", 1.0, 1.0, 1.0, 1.0),
}


class MupNet(nnx.Module):
    """An embedding, a layer and a readout, of jaxmup."""

    def __init__(self, width, base, gauge, rngs):
        parametrization = jaxmup.parametrization("mup", "adam", gauge=gauge)
        shared = {"parametrization": parametrization, "rngs": rngs}
        self.embed = jaxmup.nnx.Embed(7, width, base_features=base, **shared)
        sizes = {"base_in_features": base, "base_out_features": 2 * base}
        self.fc = jaxmup.nnx.Linear(width, 2 * width, **sizes, **shared)
        self.readout = jaxmup.nnx.Linear(2 * width, 3, base_in_features=2 * base, **shared)
        self.gain = nnx.Param(jnp.ones(()))


def mup_net(base: int, gauge: str) -> MupNet:
    return nnx.eval_shape(lambda: MupNet(16, base, gauge, nnx.Rngs(0)))


@pytest.fixture
def mup_run(tmp_path):
    """A state dict and its base shapes."""
    shapes = {"embed.weight": (7, 16), "fc.weight": (32, 16), "fc.bias": (32,), "gain": ()}
    shapes |= {"readout.weight": (3, 32), "readout.bias": (3,)}
    rng = np.random.default_rng(0)
    state = {name: np.asarray(rng.standard_normal(s), np.float32) for name, s in shapes.items()}
    (tmp_path / "net.bsh").write_text(BASE_SHAPES)
    return state, tmp_path / "net.bsh"


def test_what_mup_does_with_each_parameter(mup_run):
    state, base_shapes = mup_run
    found = bridge.mup_parameters(state, base_shapes, ["readout"], output_mult=2.0)
    numbers = {
        name: (p.role, p.adam_lr, p.adam_weight_decay, p.sgd_lr, p.sgd_weight_decay)
        for name, p in found.items()
    }
    assert numbers == GROUPS
    multipliers = {name: p.multiplier for name, p in found.items() if p.multiplier != 1}
    assert multipliers == {"readout.weight": 0.5}  # 2 / 4
    uneven = bridge.mup_parameters({"w": np.ones((64, 16))}, {"w": (16, 8)}, [])["w"]
    assert (uneven.adam_lr, uneven.sgd_lr) == (1 / 2, 4 / 2)  # outputs grew by 4, inputs by 2
    wrapped = {f"module.{name}": array for name, array in state.items()}
    assert bridge.mup_parameters(wrapped, base_shapes, ["module.readout"])["module.gain"]
    with pytest.raises(ValueError, match=r"must be modules with a weight. Got \['head'\]"):
        bridge.mup_parameters(state, base_shapes, ["head"])


@pytest.mark.parametrize(("gauge", "stored"), [("table8", 2.0), ("table3", 0.5), ("table9", 1.0)])
def test_mup_models_keep_their_effective_weights_in_any_gauge(mup_run, gauge, stored):
    state, base_shapes = mup_run
    model = bridge.from_mup(state, base_shapes, mup_net(4, gauge), output_mult=2.0)
    np.testing.assert_array_equal(model.readout.kernel[...], stored * state["readout.weight"].T)
    np.testing.assert_array_equal(
        model.fc.kernel[...] * model.fc.kernel_multiplier, state["fc.weight"].T
    )
    with pytest.raises(ValueError, match=r"grown by the same ratios(.|\n)*fc.weight: \(4.0, 4.0\)"):
        bridge.from_mup(state, base_shapes, mup_net(8, gauge))


@pytest.mark.parametrize(
    ("text", "words"),
    cases(
        {
            "a tag": ("a: !!python/object/apply:os.system ['x']\n", "line 1"),
            "a tag of a size": ("a:\n- !!python/object/new:int ['4']\n", "line 2"),
            "a size as a text": ("a:\n- '4'\n", "line 2"),
            "an alias": ("a: &x [4]\nb: *x\n", "line 1: .* an alias"),
            "aliases of aliases": ("a: &x [1]\nb: &y [*x, *x]\nc: [*y, *y]\n", "line 1"),
            "merged keys": ("a: [4]\n<<: {b: [4]}\n", "line 2"),
            "lists in lists": ("a: " + "[" * 20_000, "line 1"),
            "two documents": ("a: [4]\n---\nb: [4]\n", "line 2"),
            "no YAML": ("a: [4\nb: [4]\n", "line 2"),
            "a size without a name": ("- 4\n", "line 1"),
            "no sizes": ("a:\nb:\n- 4\n", "line 1: .* Got '' for 'a'"),
            "one name twice": ("a:\n- 4\na:\n- 4\n", "line 3"),
            "a name that is a number": ("4:\n- 4\n", "line 1"),
            "a size of zero": ("a:\n- 0\n", "line 2"),
            "an octal size": ("a:\n- 010\n", "line 2"),
            "a hexadecimal size": ("a:\n- 0x10\n", "line 2"),
            "other bytes": ("a:\n- 4\n\x00", "line 3"),
            "missing tensors": ("b:\n- 4\n", "b: no tensor"),
            "another rank": (BASE_SHAPES.replace("gain: []", "gain:\n- 4"), "gain"),
        }
    ),
)
def test_base_shapes_that_are_none_are_refused(mup_run, text, words):
    state, path = mup_run
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        bridge.mup_parameters(state, path, ["readout"])
    assert str(path) in str(caught.value)


def test_base_shapes_are_read_in_any_style_of_yaml(tmp_path):
    path = tmp_path / "net.bsh"
    path.write_text("# mup\n'on': [64, ~]  # quoted\nfc.0.weight:\n  - 8\n  - null\nscale: []\n")
    expected = {"on": (64, None), "fc.0.weight": (8, None), "scale": ()}
    assert bridge.read_base_shapes(path) == expected
    path.write_text("")
    assert bridge.read_base_shapes(path) == {}


def test_layers_with_constant_multipliers():
    layers = {
        "in": bridge.AbcdLayer("input", "sgd", width=256, base_width=64),
        "out": bridge.AbcdLayer("output", "adam", width=256, base_width=64, lr_scale=4.0),
    }
    expected = {"in.weight_unscaled": 2.0, "in.bias_unscaled": 2.0}  # r^½, a = -½
    expected |= {"out.weight_unscaled": 0.5, "out.bias_unscaled": 2.0}  # √α r^-1 and √α
    assert bridge.abcd_multipliers(layers) == expected
    layer = jaxmup.nnx.Linear(16, 2, base_in_features=4, rngs=nnx.Rngs(0))  # multiplier 1/4
    state = {"weight_unscaled": np.ones((2, 16), "f4"), "bias_unscaled": np.ones(2, "f4")}
    own = bridge.AbcdLayer("output", "sgd", width=16, base_width=4)  # multiplier 1/2
    made = bridge.from_torch(state, layer, multipliers=bridge.abcd_multipliers({"": own}))
    assert np.all(made.kernel[...] == 2.0)
    tensors, numbers = bridge.to_abcd(made, state, jaxmup.parametrization("mup", "adam"))
    assert np.all(tensors["weight_unscaled"] == 2.0)
    assert numbers["weight_unscaled"] | {"init_std": None} == {
        "init_std": None,
        "multiplier": 0.25,
        "grad": 1.0,
        "lr": 1.0,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    cases(
        {
            "another role": ({"role": "readout"}, "`role` must be one of"),
            "another optimizer": ({"optimizer": "lion"}, "`optimizer` must be one of"),
            "no width": ({"width": 0}, "`width` must be an integer of at least 1"),
            "half a width": ({"base_width": 0.5}, "`base_width` must be an integer"),
            "no outputs": ({"bias_width": -1}, "`bias_width` must be an integer"),
            "a scale below zero": ({"lr_scale": np.float32(-1)}, "`lr_scale` must be a finite"),
        }
    ),
)
def test_layers_with_constant_multipliers_check_their_arguments(change, words):
    arguments = {"role": "hidden", "optimizer": "sgd", "width": 8, "base_width": 4}
    with pytest.raises((TypeError, ValueError), match=words):
        bridge.AbcdLayer(**(arguments | change))


def test_numbers_and_choices_are_checked(tmp_path, mup_run):
    state, base_shapes = mup_run
    for output_mult in (0.0, np.float32("nan"), None):
        with pytest.raises((TypeError, ValueError), match="`output_mult` must be"):
            bridge.mup_parameters(state, base_shapes, ["readout"], output_mult=output_mult)
    for base in (4.0, 0, "4"):
        with pytest.raises((TypeError, ValueError), match=r"`base_shapes\['w'\]` must be"):
            bridge.mup_parameters({"w": np.ones((8, 8))}, {"w": (base, None)}, [])
    bridge.save(tmp_path / "in.safetensors", STATE)
    with pytest.raises(ValueError, match="`to` must be one of 'flax', 'torch'"):
        bridge.conversion(tmp_path / "in.safetensors", abstract_linear(), to="jax")


MODULE = """
import flax.linen
import jax
import jax.numpy as jnp
import jaxmup
import jax
from flax import nnx
from jaxmup.models.mlp import MLP

def make(width):
    return MLP(3, 2, width=width, depth=2, base_width=4, rngs=nnx.Rngs(0))

def with_rngs(width, rngs):
    return MLP(3, 2, width=width, depth=2, base_width=4, rngs=rngs)

def with_key(width, key):
    sizes = [(3, width), (width, width), (width, 2)]
    layers = {
        f"layer_{i}": {"kernel": jax.random.normal(key, size), "bias": jnp.zeros(size[1])}
        for i, size in enumerate(sizes)
    }
    return layers | {"activation": jnp.tanh, "depth": 2, "key": key}

class Net(flax.linen.Module):
    width: int

    @flax.linen.compact
    def __call__(self, x, *, scale, train):
        assert not train
        for _ in range(2):
            x = flax.linen.Dense(self.width)(scale["of"] * x)
        return flax.linen.Dense(2)(x)

def inputs(width):
    scale = {"of": jnp.ones(())}
    return {"args": jnp.ones((1, 3)), "kwargs": {"scale": scale, "train": False}}

class Mixed(flax.linen.Module):
    width: int

    @flax.linen.compact
    def __call__(self, x):
        x = flax.linen.Dense(self.width)(x)
        x = jaxmup.linen.Dense(self.width, base_features=4, base_in_features=4)(x)
        return jaxmup.linen.Dense(2, base_in_features=4)(x)

def example(width):
    return jnp.ones((1, 3))

model = jaxmup.Model(Net, inputs=inputs)
"""


@pytest.fixture
def mlp_file(tmp_path, monkeypatch):
    """A checkpoint of an MLP of width 8, in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder to it
    Path("bridge_model.py").write_text(MODULE)
    shapes = {"0.weight": (8, 3), "0.bias": (8,), "2.weight": (8, 8), "2.bias": (8,)}
    shapes |= {"4.weight": (2, 8), "4.bias": (2,)}
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    bridge.save("mlp.safetensors", state)
    return state


MODEL = ["--model", "bridge_model:make", "--size", "8"]


def test_the_command_converts_and_comes_back(mlp_file, capsys):
    to_flax = ["convert", "mlp.safetensors", "flax.safetensors", "--to", "flax", *MODEL]
    assert cli.run([*to_flax, "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert "4.weight   readout/kernel    (2, 8) → (8, 2)   transposed, times 2" in printed.out
    assert "nothing was written" in printed.err
    assert not Path("flax.safetensors").exists()
    assert cli.run(to_flax) == 0
    kernel = bridge.load("flax.safetensors")["readout/kernel"]
    np.testing.assert_array_equal(kernel, 2 * mlp_file["4.weight"].T)
    assert cli.run([*to_flax, "--gauge", "table3"]) == 0
    kernel = bridge.load("flax.safetensors")["readout/kernel"]
    np.testing.assert_array_equal(kernel, mlp_file["4.weight"].T)
    back = ["convert", "flax.safetensors", "back.safetensors", "--to", "torch", *MODEL]
    assert cli.run([*back, "--gauge", "table3", "--like", "mlp.safetensors"]) == 0
    for name, tensor in bridge.load("back.safetensors").items():
        np.testing.assert_array_equal(tensor, mlp_file[name])
    pairs = Path("pairs.toml")
    pairs.write_text('[pairs]\n"0" = "hidden/0"\n"4.bias" = false\n')
    assert cli.run([*to_flax, "--pairs", "pairs.toml"]) == 2
    assert "readout/kernel (8, 2)" in capsys.readouterr().err
    for text, words in (("x", "must be a TOML file"), ("a = 1", "a table [pairs]")):
        pairs.write_text(text)
        assert cli.run([*to_flax, "--pairs", "pairs.toml"]) == 2
        assert words in capsys.readouterr().err
    assert cli.run([*to_flax[:2], "no/where.safetensors", *to_flax[3:]]) == 2
    assert "must be written into a folder. no is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "leaf"),
    cases(
        {
            "a factory with rngs": (["--model", "bridge_model:with_rngs"], "hidden/1/kernel"),
            "a tree from a key": (["--model", "bridge_model:with_key"], "layer_1/kernel"),
            "a Linen module": (
                ["--model", "bridge_model:Net", "--inputs", "bridge_model:inputs"],
                "params/Dense_1/kernel",
            ),
            "a Model": (["--model", "bridge_model:model"], "params/Dense_1/kernel"),
        }
    ),
)
def test_the_command_takes_what_infer_takes(mlp_file, options, leaf):
    to_flax = ["convert", "mlp.safetensors", "flax.safetensors", "--to", "flax"]
    assert cli.run([*to_flax, *options, "--size", "8"]) == 0
    np.testing.assert_array_equal(bridge.load("flax.safetensors")[leaf], mlp_file["2.weight"].T)
    back = ["convert", "flax.safetensors", "back.safetensors", "--to", "torch"]
    assert cli.run([*back, *options, "--size", "8", "--like", "mlp.safetensors"]) == 0
    for name, tensor in bridge.load("back.safetensors").items():
        np.testing.assert_array_equal(tensor, mlp_file[name])


def test_the_command_keeps_the_multipliers_of_a_model_with_other_layers_too(mlp_file):
    mixed = ["--model", "bridge_model:Mixed", "--inputs", "bridge_model:example", "--size", "8"]
    to_flax = ["convert", "mlp.safetensors", "flax.safetensors", "--to", "flax", *mixed]
    assert cli.run(to_flax) == 0
    leaves = bridge.load("flax.safetensors")
    np.testing.assert_array_equal(leaves["params/Dense_0/kernel"], mlp_file["0.weight"].T)
    np.testing.assert_array_equal(leaves["params/Dense_2/kernel"], 2 * mlp_file["4.weight"].T)


# --------------------------------------------------------------- a tensor that has two names


def aliased(path: Path, metadata: dict[str, str]) -> Path:
    """A file as `safetensors.torch.save_model` writes it: one tensor, its other name beside it."""
    emb, fc = np.arange(12, dtype="f4").reshape(4, 3), np.ones((3, 3), "f4")
    save_file({"emb.weight": emb, "fc.weight": fc}, path, metadata)
    return path


UNTIED = {
    "emb": {"embedding": jax.ShapeDtypeStruct((4, 3), "f4")},
    "fc": {"kernel": jax.ShapeDtypeStruct((3, 3), "f4")},
    "lm_head": {"kernel": jax.ShapeDtypeStruct((3, 4), "f4")},
}
TIED = {name: layer for name, layer in UNTIED.items() if name != "lm_head"}
ALIAS = {"lm_head.weight": "emb.weight", "format": "pt"}


def test_an_alias_is_a_tensor(tmp_path):
    path = aliased(tmp_path / "tied.safetensors", ALIAS)
    made = bridge.from_torch(path, UNTIED)
    np.testing.assert_array_equal(made["lm_head"]["kernel"], made["emb"]["embedding"].T)
    for model in (UNTIED, TIED):
        back = bridge.to_torch(bridge.from_torch(path, model), path)
        assert back.keys() == {"emb.weight", "fc.weight", "lm_head.weight"}
        np.testing.assert_array_equal(back["lm_head.weight"], back["emb.weight"])
    index = {"weight_map": {"emb.weight": path.name, "fc.weight": path.name}}
    shards = tmp_path / "model.safetensors.index.json"
    shards.write_text(json.dumps(index))
    assert bridge.load(shards).keys() == back.keys()
    pairs = {"lm_head": "emb", "emb": "emb"}
    assert "emb.weight, lm_head.weight" in str(bridge.plan(path, TIED, pairs))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"lm_head.weight": "gone.weight"}, r"tied.safetensors: .* lm_head.weight is gone.weight"),
        ({"fc.weight": "emb.weight"}, "must not be an alias as well.* fc.weight is emb.weight"),
    ],
)
def test_an_alias_of_nothing_or_of_another_tensor(tmp_path, metadata, message):
    with pytest.raises(ValueError, match=message):
        bridge.from_torch(aliased(tmp_path / "tied.safetensors", metadata), UNTIED)


def test_one_tensor_for_two_layers_is_asked_about(tmp_path):
    path = aliased(tmp_path / "once.safetensors", {"format": "pt", "title": "weight"})
    with pytest.raises(ValueError, match="give it a second name by a pair"):
        bridge.plan(path, UNTIED)
    state = bridge.load(path)
    made = bridge.from_torch({**state, "lm_head.weight": state["emb.weight"]}, UNTIED)
    np.testing.assert_array_equal(made["lm_head"]["kernel"], state["emb.weight"].T)


SECOND = {"lm_head.weight": ("lm_head", "as emb.weight")}


@pytest.mark.parametrize("model", [UNTIED, TIED], ids=["untied", "tied"])
def test_a_second_name_by_a_pair(tmp_path, model):
    path = aliased(tmp_path / "once.safetensors", {"format": "pt"})
    pairs = (
        SECOND if model is UNTIED else {"lm_head.weight": ("emb", "as emb.weight"), "emb": "emb"}
    )
    made = bridge.from_torch(path, model, pairs)
    np.testing.assert_array_equal(made["emb"]["embedding"], bridge.load(path)["emb.weight"])
    if model is UNTIED:
        np.testing.assert_array_equal(made["lm_head"]["kernel"], made["emb"]["embedding"].T)
    back = bridge.to_torch(made, path, pairs)
    assert back.keys() == {"emb.weight", "fc.weight"}
    leaves, again = tmp_path / "flax.safetensors", tmp_path / "back.safetensors"
    bridge.conversion(path, model, to="flax", pairs=pairs).write(leaves)
    bridge.conversion(leaves, model, to="torch", like=path, pairs=pairs).write(again)
    for name, tensor in bridge.load(again).items():
        np.testing.assert_array_equal(tensor, bridge.load(path)[name])


def test_one_tensor_of_layers_that_were_trained_apart(tmp_path):
    once = aliased(tmp_path / "once.safetensors", {"format": "pt"})
    both = aliased(tmp_path / "tied.safetensors", ALIAS)
    for path, pairs in ((once, SECOND), (both, None)):
        made = bridge.from_torch(path, UNTIED, pairs)
        made["lm_head"]["kernel"] += 1
        with pytest.raises(ValueError, match=r"emb.weight, lm_head.weight are one tensor"):
            bridge.to_torch(made, path, pairs)
        leaves, back = tmp_path / "flax.safetensors", tmp_path / "back.safetensors"
        bridge.save(
            leaves, {f"{n}/{k}": np.asarray(x) for n, m in made.items() for k, x in m.items()}
        )
        with pytest.raises(ValueError, match=r"emb.weight, lm_head.weight are one tensor"):
            bridge.conversion(leaves, UNTIED, to="torch", like=path, pairs=pairs).write(back)
        assert not back.exists()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"lm_head.weight": ("lm_head", "as gone.weight")}, "lm_head.weight is gone.weight"),
        ({"fc.weight": ("lm_head", "as emb.weight")}, "fc.weight is there itself"),
        ({"**.weight": ("lm_head", "as emb.weight")}, "must be named in full"),
    ],
)
def test_a_second_name_of_nothing(tmp_path, pairs, message):
    path = aliased(tmp_path / "once.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        bridge.from_torch(path, UNTIED, pairs)
