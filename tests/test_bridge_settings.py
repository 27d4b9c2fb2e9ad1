"""What no tensor holds: read off a module of PyTorch or a configuration, compared, or listed.

Modules of PyTorch are stood in for by objects with their attributes; `parity_tests` has real ones.
"""

import functools
import json
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxmup import bridge

NORM = {"weight": (4,), "bias": (4,)}
STATISTICS = NORM | {"running_mean": (4,), "running_var": (4,)}
KERNEL = {"weight": (4, 3, 3, 3)}
TRANSPOSED = {"weight": (3, 4, 3, 3)}


class Module:
    """A module of PyTorch by its attributes, or a tree of such."""

    def __init__(self, /, **held: Any):
        self.__dict__.update(held)

    def __getattr__(self, name: str) -> Any:
        if name == "named_modules" and "to_dict" not in vars(self):
            return self._modules
        raise AttributeError(name)

    def _modules(self):
        yield "", self
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value


class GELU(Module):
    """`torch.nn.GELU`."""


class NewGELUActivation(Module):
    """That of `transformers.activations`."""


class Model(nnx.Module):
    def __init__(self, layer: nnx.Module, **held: Any):
        self.layer = layer
        for name, value in held.items():
            setattr(self, name, value)


def state(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {f"layer.{name}": np.zeros(shape, "f4") for name, shape in shapes.items()}


def conv(**held: Any) -> Module:
    """`torch.nn.Conv2d(3, 4, 3)` with the defaults of PyTorch."""
    sizes = {"kernel_size": (3, 3), "stride": (1, 1), "dilation": (1, 1), "groups": 1}
    return Module(**sizes | {"padding": (0, 0), "padding_mode": "zeros"} | held)


def transposed(**held: Any) -> Module:
    return conv(transposed=True, output_padding=held.pop("output_padding", (0, 0)), **held)


def flax_conv(**held: Any) -> nnx.Module:
    return nnx.Conv(3, 4, (3, 3), use_bias=False, **held, rngs=nnx.Rngs(0))


def flax_transposed(**held: Any) -> nnx.Module:
    return nnx.ConvTranspose(3, 4, (3, 3), use_bias=False, **held, rngs=nnx.Rngs(0))


def norm(kind: Callable[..., nnx.Module] = nnx.LayerNorm, *sizes: int, **held: Any) -> nnx.Module:
    return kind(4, *sizes, **held, rngs=nnx.Rngs(0))


# Tensors, the module, the layer of Flax as it is built without a thought, what is said, and the
# arguments with which nothing is. Defaults are those of `torch.nn` 2.13 and `flax.nnx` 0.12.
DIFFERENT: dict[str, tuple[Any, Module, Callable[..., nnx.Module], str, dict[str, Any]]] = {
    "LayerNorm": (
        NORM,
        Module(eps=1e-5),
        norm,
        "epsilon of layer is 1e-06 here and 1e-05 in PyTorch. Build with epsilon=1e-05.",
        {"epsilon": 1e-5},
    ),
    "a norm of Hugging Face": (
        {"weight": (4,)},
        Module(variance_epsilon=1e-5),
        functools.partial(norm, nnx.RMSNorm),
        "Build with epsilon=1e-05.",
        {"epsilon": 1e-5},
    ),
    "RMSNorm without eps, which has that of its dtype": (
        {"weight": (4,)},
        Module(eps=None),
        functools.partial(norm, nnx.RMSNorm),
        "1.19209e-07 in PyTorch",
        {"epsilon": 2.0**-23},
    ),
    "GroupNorm": (
        NORM,
        Module(eps=1e-6, num_groups=4),
        lambda num_groups=2: norm(nnx.GroupNorm, num_groups),
        "num_groups of layer is 2 here and 4 in PyTorch",
        {"num_groups": 4},
    ),
    "BatchNorm": (
        STATISTICS,
        Module(eps=1e-5, momentum=0.1, running_mean=None),
        functools.partial(norm, nnx.BatchNorm, epsilon=1e-5),
        "momentum of layer is 0.99 here and 0.9 in PyTorch, which there is called 1 minus that. "
        "Build with momentum=0.9.",
        {"momentum": 0.9},
    ),
    "Conv2d": (
        KERNEL,
        conv(),
        flax_conv,
        "Build with padding=((0, 0), (0, 0)).",
        {"padding": "VALID"},
    ),
    "SAME with strides": (
        KERNEL,
        conv(stride=(2, 2), padding=(1, 1)),
        functools.partial(flax_conv, strides=2),
        "padding of layer is 'SAME' here, which with strides depends on the size of the input, and "
        "((1, 1), (1, 1)) in PyTorch",
        {"padding": 1},
    ),
    "strides": (
        KERNEL,
        conv(stride=(2, 1), padding="valid"),
        functools.partial(flax_conv, padding="VALID"),
        "strides of layer is (1, 1) here and (2, 1) in PyTorch",
        {"strides": (2, 1)},
    ),
    "dilation": (
        KERNEL,
        conv(dilation=(2, 2), padding="same"),
        functools.partial(flax_conv, padding=((2, 2), (2, 2))),
        "kernel_dilation of layer is (1, 1) here and (2, 2)",
        {"kernel_dilation": 2},
    ),
    "circular": (
        KERNEL,
        conv(padding=(1, 1), padding_mode="circular"),
        flax_conv,
        "padding='CIRCULAR'",
        {"padding": "CIRCULAR"},
    ),
    "ConvTranspose2d": (
        TRANSPOSED,
        transposed(stride=(2, 2), padding=(1, 1), output_padding=(1, 1)),
        functools.partial(flax_transposed, strides=(2, 2), padding="VALID"),
        "padding=((1, 2), (1, 2))",  # 3 - 1 - 1 before, and one more behind
        {"padding": ((1, 2), (1, 2))},
    ),
}


@pytest.mark.parametrize("case", DIFFERENT.values(), ids=DIFFERENT)
def test_a_difference_is_said_with_its_remedy(case):
    shapes, module, make, words, remedy = case
    tensors, settings = state(**shapes), Module(layer=module)
    plan = bridge.plan(tensors, Model(make()), settings=settings)
    assert any(words in note for note in plan.notes), plan.notes
    assert f"Look at this: {plan.notes[0]}" in str(plan)
    with pytest.warns(UserWarning, match="in PyTorch"):
        bridge.from_torch(tensors, Model(make()), settings=settings)
    right = Model(make(**remedy))
    assert bridge.plan(tensors, right, settings=settings).notes == ()
    assert bridge.plan(tensors, Model(make())).notes == ()  # nothing is known to differ
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bridge.from_torch(tensors, Model(make()))


AGREEING = {
    "SAME of a stride of 1": (KERNEL, conv(padding=(1, 1)), flax_conv()),
    "SAME of a window of 1": (
        {"weight": (4, 3, 1, 1)},
        conv(kernel_size=(1, 1), stride=(2, 2)),
        nnx.Conv(3, 4, (1, 1), strides=2, use_bias=False, rngs=nnx.Rngs(0)),
    ),
    "VALID, transposed, with gaps": (
        TRANSPOSED,
        transposed(stride=(2, 2)),
        flax_transposed(strides=(2, 2), padding="VALID"),
    ),
    "SAME, transposed": (
        TRANSPOSED,  # (2, 1) zeros: 3 + 2 - 2, the larger half first
        transposed(stride=(2, 2), padding=(0, 0), output_padding=(-1, -1)),
        flax_transposed(strides=(2, 2)),
    ),
}


@pytest.mark.parametrize("case", AGREEING.values(), ids=AGREEING)
def test_the_same_in_other_words_is_no_difference(case):
    shapes, module, layer = case
    plan = bridge.plan(state(**shapes), Model(layer), settings=Module(layer=module))
    assert plan.notes == ()
    assert plan.unsaid == ()


def test_what_pytorch_has_and_flax_lacks():
    tensors = state(**KERNEL)
    module = Module(layer=conv(padding=(1, 1), padding_mode="replicate"))
    (note,) = bridge.plan(tensors, Model(flax_conv()), settings=module).notes
    assert "replicate ((1, 1), (1, 1)) in PyTorch. Look at its code." in note


def test_layers_that_differ_alike_are_one_line():
    tensors = {f"{i}.{name}": np.zeros(4, "f4") for i in range(5) for name in ("weight", "bias")}
    module = Module(**{str(i): Module(eps=1e-5) for i in range(5)})
    model = nnx.List(norm() for _ in range(5))
    (note,) = bridge.plan(tensors, model, settings=module).notes
    assert note.startswith("epsilon of 0, 1, 2 and 2 more is 1e-06 here")


def test_without_settings_what_to_look_at_is_listed():
    tensors = state(**STATISTICS)
    tensors |= {"a.weight": np.zeros((4, 4, 3, 3), "f4"), "b.weight": np.ones((5, 4), "f4")}
    strided = nnx.Conv(4, 4, (3, 3), strides=2, use_bias=False, rngs=nnx.Rngs(0))
    dense = nnx.Linear(4, 5, use_bias=False, rngs=nnx.Rngs(0))
    model = Model(norm(nnx.BatchNorm), a=strided, b=dense)
    plan = bridge.plan(tensors, model)
    said = "\n".join(plan.unsaid)
    for words in (
        "epsilon of layer is 1e-05 here; PyTorch's is 1e-05",
        "momentum of layer is 0.99 here; PyTorch's 0.1 is 0.9 here",
        "running variance of layer is divided by n - 1 in PyTorch",
        "padding of a is 'SAME' here, which with strides",
        "`jax.nn.gelu` is approximate",
    ):
        assert words in said
    assert f"Not in the tensors: {plan.unsaid[0]}" in str(plan)


def test_of_a_tree_nothing_is_known_but_what_pytorch_says():
    tree = {"layer": {"scale": np.zeros(4, "f4"), "bias": np.zeros(4, "f4")}}
    (line,) = bridge.plan(state(**NORM), tree).unsaid
    assert line.startswith("epsilon of layer is 1e-06 in Flax unless told otherwise")
    (line,) = bridge.plan(state(**NORM), tree, settings=Module(layer=Module(eps=1e-5))).unsaid
    assert line == "epsilon of layer is 1e-05 in PyTorch, in the terms of Flax"
    (line,) = bridge.plan(state(**NORM), tree, settings={"layer_norm_eps": 1e-12}).unsaid
    assert line == "epsilon of layer is 1e-12 in PyTorch, in the terms of Flax"


# --------------------------------------------------------------------------- configurations


def test_a_configuration_is_a_mapping_an_object_or_a_file(tmp_path):
    config = {"layer_norm_eps": 1e-5, "hidden_act": "gelu_new", "rope_theta": 1e4}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    for settings in (config, Module(to_dict=lambda: config), path, str(path)):
        plan = bridge.plan(state(**NORM), Model(norm()), settings=settings)
        assert plan.notes[0].startswith("epsilon of layer is 1e-06 here and 1e-05 in PyTorch.")
        assert "activations of PyTorch: gelu_new is jax.nn.gelu(x)" in plan.unsaid
        assert "what else the configuration says: rope_theta=10000.0" in plan.unsaid
        right = Model(norm(epsilon=1e-5))
        assert bridge.plan(state(**NORM), right, settings=settings).notes == ()


def test_two_parts_of_a_model_with_two_epsilons():
    config = {"text_config": {"layer_norm_eps": 1e-5}, "vision_config": {"layer_norm_eps": 1e-6}}
    assert bridge.plan(state(**NORM), Model(norm()), settings=config).notes == ()
    (note,) = bridge.plan(state(**NORM), Model(norm(epsilon=1e-3)), settings=config).notes
    assert "is 0.001 here and 1e-06 or 1e-05 in PyTorch. Look at its code." in note


EXACT = functools.partial(jax.nn.gelu, approximate=False)
GELUS = {
    "exact there, approximate here": (GELU(approximate="none"), jax.nn.gelu, True),
    "exact on both sides": (GELU(approximate="none"), EXACT, False),
    "approximate on both sides": (GELU(approximate="tanh"), jax.nn.gelu, False),
    "Hugging Face's": (NewGELUActivation(), EXACT, True),
    "none here that is known": (GELU(approximate="none"), jax.nn.relu, False),
}


@pytest.mark.parametrize("case", GELUS.values(), ids=GELUS)
def test_gelu_is_compared_where_a_module_holds_it(case):
    module, activation, differs = case
    settings = Module(layer=Module(eps=1e-6), activation=module)
    model = Model(norm(), activation=activation)
    plan = bridge.plan(state(**NORM), model, settings=settings)
    assert [note.startswith("GELU is jax.nn.gelu(x") for note in plan.notes] == [True] * differs
    assert any(line.startswith("activations of PyTorch: ") for line in plan.unsaid)


def test_the_factor_of_attention_is_said():
    names = [f"{name}.weight" for name in ("q_proj", "k_proj")]
    tensors = {name: np.zeros((4, 4), "f4") for name in names}
    model = {name: {"kernel": np.zeros((4, 4), "f4")} for name in ("query", "key")}
    assert any("head_dim ** -0.5" in line for line in bridge.plan(tensors, model).unsaid)
    plan = bridge.plan(tensors, model, settings={"query_pre_attn_scalar": 256})
    assert "the factor on the logits of attention: query_pre_attn_scalar=256" in plan.unsaid
    plan = bridge.plan(tensors, model, settings={"model_type": "t5"})
    assert "the factor on the logits of attention is 1 in t5" in plan.unsaid


PACKED = {  # query, key and value of two heads of three outputs each
    "gpt_neox": ("heads q|k|v", ["q|k|v", "heads q|v|k", "3 q|k|v"]),
    "codegen": ("4 q|v|k", ["q|k|v", "4 q|k|v", "3 q|v|k"]),
    "gpt2": ("q|k|v", ["heads q|k|v", "k|q|v"]),
}


@pytest.mark.parametrize("model_type", PACKED)
def test_a_configuration_tells_how_its_model_packs(model_type):
    """The order is that of `transformers`; the sizes divide by every number of groups."""
    right, wrong = PACKED[model_type]
    tensors = {"attn.qkv.weight": np.zeros((72, 6), "f4"), "attn.qkv.bias": np.zeros(72, "f4")}
    layer = {"kernel": np.zeros((6, 2, 12), "f4"), "bias": np.zeros((2, 12), "f4")}
    model = {"attn": dict.fromkeys(("query", "key", "value"), layer)}
    settings = {"model_type": model_type}

    def notes(order: str) -> tuple[str, ...]:
        return bridge.plan(tensors, model, {"attn.qkv": ("attn", order)}, settings=settings).notes

    assert notes(right) == ()
    for order in wrong:
        (note,) = notes(order)
        assert note.startswith(f"attn.qkv.weight is taken for '{order}'")
        assert f"the model packs '{right}'" in note


def test_a_configuration_tells_which_half_is_the_gate():
    tensors = {"mlp.gate_up_proj.weight": np.zeros((8, 4), "f4")}
    model = {"mlp": {name: {"kernel": np.zeros((4, 4), "f4")} for name in ("gate", "up")}}

    def notes(order: str) -> tuple[str, ...]:
        pairs = {"mlp.gate_up_proj": ("mlp", order)}
        return bridge.plan(tensors, model, pairs, settings={"model_type": "phi3"}).notes

    assert notes("gate|up") == ()
    assert (
        "taken for 'up|gate', and by its configuration the model packs 'gate|up'"
        in notes("up|gate")[0]
    )


BAD = {
    "no settings": (3, TypeError, "must be a module of PyTorch"),
    "nothing that is known": ({"vocab_size": 3}, ValueError, r"'layer_norm_eps'.*vocab_size"),
    "another module": (Module(other=Module()), ValueError, r"(?s)no module of these.*layer.*other"),
    "no JSON": ("config.json", ValueError, "must be JSON"),
    "no mapping": ("list.json", TypeError, "Got list"),
    "no file": ("missing.json", FileNotFoundError, "missing"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_settings_are_refused(case, tmp_path, monkeypatch):
    settings, error, words = case
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(error, match=words):
        bridge.from_torch(state(**NORM), Model(norm()), settings=settings)


def test_files_and_the_way_back_say_the_same(tmp_path):
    bridge.save(tmp_path / "model.safetensors", state(**NORM))
    config = {"layer_norm_eps": 1e-5}
    made = bridge.conversion(
        tmp_path / "model.safetensors", Model(norm()), to="flax", settings=config
    )
    assert "epsilon=1e-05" in made.plan.notes[0]
