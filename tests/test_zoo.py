"""`infer` without rules on models in the styles of public ones, beside answers typed by hand."""

import importlib
from fnmatch import fnmatchcase
from math import prod

import jax
import pytest
from layer_types import require_same
from zoo.case import Case, number

import jaxmup
from jaxmup import ParamSpec
from jaxmup._spec import Axis
from jaxmup._tree import leaves_by_path

MODELS = (
    "apart",
    "attentions",
    "choices",
    "clip",
    "counts",
    "decoder",
    "deltanet",
    "depthwise",
    "directions",
    "dit",
    "encoder_decoder",
    "gemma",
    "gnn",
    "layered",
    "layers",
    "lora",
    "lstm",
    "made_weights",
    "mamba2",
    "mixer",
    "moe",
    "products",
    "repeats",
    "s5",
    "selective",
    "state",
    "styles",
    "tables",
    "ties",
    "unet",
    "vit",
    "wholes",
)


def zoo() -> dict[str, Case]:
    """All cases by *model, variant*."""
    found = {}
    for model in MODELS:
        cases = importlib.import_module(f"zoo.{model}").CASES
        found.update({f"{model}, {name}".rstrip(", "): case for name, case in cases.items()})
    return found


ZOO = zoo()
CARRIED = {name: case for name, case in ZOO.items() if not case.refused and not case.finding}
FOUND = {name: case for name, case in ZOO.items() if case.finding}
REFUSED = {name: case for name, case in ZOO.items() if case.refused}


@pytest.fixture(autouse=True)
def _as_elsewhere():
    """Other people's models rely on NumPy's promotion of ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def infer(case: Case, **sizes) -> dict[str, ParamSpec]:
    """The specs of a case by name."""
    how = {"inputs": case.inputs, "apply": case.apply, "wrt": case.wrt}
    return leaves_by_path(jaxmup.infer(case.make_model, **{**case.sizes, **sizes}, **how))


def word(axis: Axis) -> str:
    """What an axis does, as a row writes it."""
    kind = {"input": "in", "output": "out", "batch": "batch"}[axis.kind]
    return f"{kind}*" if axis.grows else kind if kind == "in" else "-"


@pytest.mark.parametrize("case", CARRIED.values(), ids=CARRIED)
def test_roles_ratios_and_gains_by_hand(case):
    specs, wrong, used = infer(case), [], set()
    for name, spec in specs.items():
        row = next((row for row in case.rows if fnmatchcase(name, row.pattern)), None)
        assert row is not None, f"no row of {name}"
        used.add(row.pattern)
        expected = (row.axes, row.r_in, row.r_out, row.gain)
        got = (tuple(map(word, spec.axes)), spec.r_in, spec.r_out, spec.forward_gain)
        same = got[0] == expected[0] and all(
            want is None or have == pytest.approx(want, rel=1e-9)
            for have, want in zip(got[1:], expected[1:], strict=True)
        )
        if not same:
            wrong.append(f"{name} ({spec.shape}): got {got}, by hand {expected}: {spec.reason}")
    for names, words in case.products.items():
        gain = prod(specs[name].forward_gain for name in names.split(" * "))
        if gain != pytest.approx(number(words), rel=1e-9):
            wrong.append(f"{names}: got {gain}, by hand {words}")
    unused = {row.pattern for row in case.rows} - used
    assert not wrong, "\n".join(wrong)
    assert not unused


OF_FLAX = {  # models, with the numbers of their parameters whose layers are Flax's own
    "decoder, untied": 21,
    "decoder, tied with norms of queries and keys": 24,
    "deltanet": 12,
    "depthwise": 32,
    "dit": 31,
    "gemma, with a linear last norm": 12,
    "layers, nnx.MultiHeadAttention": 11,
    "layers, nnx.MultiHeadAttention, normalize_qk": 13,
    "layers, nn.MultiHeadDotProductAttention": 11,
    "layers, nn.MultiHeadDotProductAttention, Embed.attend": 11,
    "layers, nn.scan of nn.remat": 21,
    "layers, nn.Dropout, called for training": 5,
    "unet": 55,
    "vit": 52,
}


@pytest.mark.parametrize(("case", "count"), OF_FLAX.items())
def test_the_program_agrees_with_the_types_of_layers(case, count):
    model = jaxmup.Model(ZOO[case].make_model, inputs=ZOO[case].inputs, apply=ZOO[case].apply)
    specs = jaxmup.infer(model, **ZOO[case].sizes)
    assert require_same(model, specs, ZOO[case].target) == count


@pytest.mark.parametrize("case", CARRIED.values(), ids=CARRIED)
def test_the_base_model_is_the_plain_model(case):
    for name, spec in infer(case, target=case.base).items():
        assert (spec.r_in, spec.r_out, spec.forward_gain) == (1, 1, 1), name


@pytest.mark.parametrize("case", CARRIED.values(), ids=CARRIED)
def test_a_target_smaller_than_the_base_model_is_the_inverse(case):
    depth = {name: size for name, size in case.base.items() if name == "depth"}
    base = {**case.target, **depth}
    delta = {**{name: 2 * size for name, size in base.items()}, **depth}
    for name, spec in infer(case, base=base, delta=delta, target=case.base).items():
        row = next(row for row in case.rows if fnmatchcase(name, row.pattern))
        got = (spec.r_in, spec.r_out, spec.forward_gain)
        for have, want in zip(got, (row.r_in, row.r_out, row.gain), strict=True):
            assert want is None or have == pytest.approx(1 / want, rel=1e-9), name


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_no_parameter_can_carry_is_an_error_with_its_line(case):
    with pytest.raises(ValueError, match=case.refused):
        infer(case)


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_parts_that_want_different_numbers_are_a_finding_with_its_line(case):
    with pytest.warns(UserWarning, match=case.finding):
        infer(case)
