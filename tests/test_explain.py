"""Explain: the numbers of each parameter, at base and at target, and how they look."""

import dataclasses
import json
import math
import sys
import time

import pytest
from helpers import cases, named

from jaxmup import Axis, ParamSpec, cli, explain
from jaxmup.cli._explain import _show

IN, OUT = Axis("input", 1024, base=64), Axis("output", 256, base=64)
VOCABULARY, LAYERS = Axis("output", 50), Axis("batch", 12)


def block() -> dict[str, ParamSpec]:
    return {"kernel": ParamSpec((IN, OUT), init_std=0.125), "bias": ParamSpec((OUT,))}


STACK = {"layers": [block() for _ in range(12)], "readout": ParamSpec((IN, VOCABULARY))}

# spec; role, reason; Table 8 with Adam by hand at r_in = 16, r_out = 4: multiplier, initial std (or
# the factor on the base's), lr, gradient, eps, weight decay
ROWS = {
    "hidden": (
        ParamSpec((IN, OUT), init_std=0.125, lr_scale=2.0),
        ("hidden", "input and output axes grow: matrix-like"),
        (1.0, 0.125 / 8, 1 / 8, 1.0, 1 / 4, 8.0),  # tapered: 1/4 · sqrt(4/16)
    ),
    "input": (
        ParamSpec((Axis("input", 50), OUT), init_std=0.5),
        ("input", "output axes grow, input axes do not: input-like"),
        (1.0, 0.5, 1.0, 1.0, 1 / 4, 1.0),
    ),
    "bias": (
        ParamSpec((OUT,)),
        ("input", "output axes grow, and it has no input axes: input-like"),
        (1.0, 1.0, 1.0, 1.0, 1 / 4, 1.0),
    ),
    "readout": (
        ParamSpec((IN, VOCABULARY), init_std=0.125),
        ("output", "input axes grow, output axes do not: output-like"),
        (1 / 16, 0.125, 1.0, 1.0, 1 / 16, 1.0),
    ),
    "scalar": (
        ParamSpec(()),
        ("fixed", "no input or output axis grows: the same at every width"),
        (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    ),
    "stacked": (
        ParamSpec((LAYERS, OUT)),
        ("input", "output axes grow, and it has no input axes: input-like"),
        (1.0, 1.0, 1.0, 1.0, 1 / 4, 1.0),
    ),
}


@pytest.mark.parametrize(("spec", "why", "numbers"), cases(ROWS))
def test_numbers_and_reasons(spec, why, numbers):
    (row,) = explain({"w": spec}, named("mup adam table8"), learning_rate=0.5).rows
    target, base = row.target, row.base
    initial = target.init_gain if target.init_std is None else target.init_std
    assert (row.path, row.role, row.reason) == ("w", *why)
    got = (target.multiplier, initial, target.lr, target.grad, target.eps, target.weight_decay)
    assert got == pytest.approx(numbers, rel=1e-14)
    assert row.learning_rate == 0.5 * target.lr
    # at base width and lr_scale = 1 all factors are 1
    assert (base.multiplier, base.lr, base.grad, base.eps, base.init_gain, base.init_std) == (
        1.0,
        spec.lr_scale,
        1.0,
        1.0,
        1.0,
        spec.init_std,
    )


def test_the_base_of_a_layer_that_applies_its_scaling_and_of_a_deeper_model():
    import jaxmup

    model = jaxmup.models.MLP(8, 10, width=64, depth=1, base_width=16, rngs=rngs())
    rows = explain(jaxmup.nnx.specs(model), named("mup adam table8")).rows
    assert {row.path: row.base.multiplier for row in rows}["readout/kernel"] == 1.0
    rule = jaxmup.parametrization("mup", "adam", depth_alpha=1.0)
    deep = dataclasses.replace(block()["bias"], depth_ratio=4.0)
    (row,) = explain({"bias": deep}, rule).rows
    assert (row.base.eps, row.target.eps) == (1.0, 1 / 16)  # 1/r_out · depth_ratio^-1


def rngs():
    from flax import nnx

    return nnx.Rngs(0)


def test_the_record_holds_everything_and_is_json():
    table = explain(STACK, named("mup sgd table9"))
    record = json.loads(table.json())
    assert record["parametrization"] == "mup/table9 (sgd)"
    assert [row["path"] for row in record["parameters"]] == [row.path for row in table.rows]
    readout = record["parameters"][-1]
    assert readout["axes"][0] == {"kind": "input", "size": 1024, "base": 64}
    assert (readout["shape"], readout["base_shape"]) == ([1024, 50], [64, 50])
    assert (readout["r_in"], readout["r_out"], readout["role"]) == (16.0, 1.0, "output")
    assert readout["base"]["multiplier"] == 1.0
    assert readout["target"]["multiplier"] == 0.25


# What is grouped by what is listed.
GROUPS = {
    "in a row": (["a/0/w", "a/1/w", "a/2/w"], ["a/{0..2}/w"]),
    "with gaps, past nine": (["a/2", "a/10", "a/11", "a/4"], ["a/{2,4,10..11}"]),
    "in a name": (["Dense_0/w", "Dense_1/w"], ["Dense_{0..1}/w"]),
    "twice, all of them": (["a/0/0", "a/0/1", "a/1/0", "a/1/1"], ["a/{0..1}/{0..1}"]),
    "twice, not all": (["a/0/0", "a/0/1", "a/1/0"], ["a/{0..1}/0", "a/0/1"]),
    "nothing alike": (["a/0/w", "b/1/w", "w"], ["a/0/w", "b/1/w", "w"]),
}


@pytest.mark.parametrize(("paths", "grouped"), cases(GROUPS))
def test_groups_by_number(paths, grouped):
    specs = {path: ParamSpec((OUT,)) for path in paths}
    rows = explain(specs, named("mup adam")).grouped().rows
    assert sorted(row.path for row in rows) == sorted(grouped)
    assert sum(row.count for row in rows) == len(paths)


def test_groups_have_one_scaling():
    specs = [ParamSpec((OUT,)), ParamSpec((OUT,), lr_scale=2.0), ParamSpec((OUT,))]
    rows = explain(specs, named("mup adam")).grouped().rows
    assert [(row.path, row.count) for row in rows] == [("{0,2}", 2), ("1", 1)]


TABLE = """\
mup/table8 (adam), base -> target

parameter              axes                      role    r_in  r_out  multiplier       initial std      lr     eps  weight decay
layers/{0..11}/bias    out 64->256               input      1      4           1          base * 1       1    0.25             1
layers/{0..11}/kernel  in 64->1024, out 64->256  hidden    16      4           1  0.125 -> 0.01562  0.0625    0.25            16
readout                in 64->1024, out 50       output    16      1      0.0625          base * 1       1  0.0625             1

hidden: input and output axes grow: matrix-like
input: output axes grow, and it has no input axes: input-like
output: input axes grow, output axes do not: output-like
base * x: x times what the initializer gives at base width
1 everywhere: gradient"""  # noqa: E501


def test_the_table():
    table = explain(STACK, named("mup adam table8")).grouped()
    assert str(table) == TABLE
    assert table.text(200) == TABLE
    assert len(explain(STACK, named("mup adam table8")).rows) == 25


def test_what_is_not_1_at_base_is_shown_there_too():
    # unit variance: the multiplier is the standard deviation, 1/8 at base and 1/4 · 1/2 of it here
    columns = explain({"w": block()["kernel"]}, named("mup adam unit")).columns()
    assert {c.title: c.cells for c in columns}["multiplier"] == ("0.125 -> 0.01562",)


@pytest.mark.parametrize("width", [130, 129, 80, 60, 45])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(width):
    table = explain(STACK, named("mup adam table8")).grouped()
    text = table.text(width)
    assert max(map(len, text.splitlines())) <= width
    cells = ["layers/{0..11}/kernel", "in 64->1024", "hidden", "0.01562", "0.0625"]
    assert [cell for cell in cells if cell not in text] == []


def test_markdown_is_a_table():
    lines = explain(STACK, named("mup adam table8")).grouped().markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 5
    assert {row.count("|") for row in rows} == {11}
    assert "| readout | in 64->1024, out 50 | output | 16 | 1 | 0.0625 | base * 1 | 1 |" in rows[-1]
    assert "- output: input axes grow, output axes do not: output-like" in lines


def test_columns_come_and_go_with_what_they_say():
    def titles(specs, words, **kwargs):
        table = explain(specs, named(words), **kwargs)
        return [column.title for column in table.columns()]

    sgd = titles(STACK, "mup sgd table9")
    assert [title for title in sgd if title in ("eps", "gradient", "lr", "weight decay")] == ["lr"]
    assert "gradient" in titles(STACK, "mup adam tp4b")
    assert "learning rate" in titles(STACK, "mup adam", learning_rate=0.1)
    gain = {"query": dataclasses.replace(STACK["readout"], forward_gain=0.5)}
    assert "gain" in titles(gain, "mup adam table3")


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_must_be_a_number_above_zero(rate):
    with pytest.raises(ValueError, match="`learning_rate` must be a finite number above 0"):
        explain(STACK, named("mup adam"), learning_rate=rate)


def test_twenty_thousand_parameters_are_a_matter_of_seconds(capsys):
    """Of minutes, where a cell asks all cells of its column for their width."""
    specs = {f"layer{i}": ParamSpec((IN, OUT)) for i in range(20_000)}
    begun = time.process_time()
    explanation = explain(specs, named("mup adam"))
    lines = str(explanation).splitlines()
    assert time.process_time() - begun < 10  # 1 to 2 seconds
    assert lines[20_002].split()[0] == "layer9999"  # in the order of names
    begun = time.process_time()
    _show(explanation, [])
    assert time.process_time() - begun < 10
    assert capsys.readouterr().out.count("\nlayer") == 20_000


def test_bad_trees_are_refused():
    with pytest.raises(TypeError, match="`specs` must be a tree with a `ParamSpec`"):
        explain({"w": 1}, named("mup adam"))
    with pytest.raises(TypeError, match="`parametrization` must be a `Parametrization`"):
        explain(STACK, "mup")  # type: ignore[arg-type]


MODULE = """
import jax.numpy as jnp
import jaxmup
from flax import linen, nnx

def mlp(width):
    return jaxmup.models.MLP(8, 10, width=width, depth=4, base_width=16, rngs=nnx.Rngs(0))

def plain(width):
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Linear(8, width, rngs=rngs), nnx.Linear(width, 10, rngs=rngs))

def forgotten(width):
    rngs, linear = nnx.Rngs(0), jaxmup.nnx.Linear
    wide = linear(width, 3 * width, base_in_features=16, rngs=rngs)
    narrow = linear(3 * width, width, base_out_features=16, rngs=rngs)
    return nnx.Sequential(wide, narrow)

def dense(width):
    return jaxmup.linen.Dense(width, base_features=16)

def inputs(width):
    return jnp.ones((1, 8))

EXAMPLE = inputs(0)

def raises(width):
    return undefined

def raises_at_base(width):
    return plain(width if width > 20 else "narrow")

def tree(width):
    return {"w": jnp.ones((width, width))}

number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module of models, in a wide terminal."""
    (tmp_path / "models_here.py").write_text(MODULE)
    (tmp_path / "broken_here.py").write_text("import no_such_package\n")
    (tmp_path / "failing_here.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "140")
    yield
    for name in ("models_here", "broken_here", "failing_here"):
        sys.modules.pop(name, None)


SHOWN = {
    "jaxmup layers": (
        "models_here:mlp --target 64",
        ["mup/table8 (adam)", "hidden/{1..3}/kernel", "in 16->64, out 16->64", "0.25"],
    ),
    "every layer": ("models_here:mlp --target 64 --every", ["hidden/1/kernel", "hidden/2/kernel"]),
    "another family": ("models_here:mlp --target 64 --optimizer sgd", ["mup/table8 (sgd)", "4"]),
    "a plain model": (
        "models_here:plain --base 16 --target 64 --inputs models_here:inputs",
        ["mup/table3 (adam)", "layers/1/kernel", "base * 0.25"],
    ),
    "inputs of every width": (
        "models_here:plain --base 16 --target 64 --inputs models_here:EXAMPLE",
        ["layers/1/kernel", "base * 0.25"],
    ),
    "Linen": ("models_here:dense --target 64 --inputs models_here:inputs", ["in 8, out 16->64"]),
    "rates": ("models_here:mlp --target 64 --learning-rate 0.5", ["learning rate", "0.125"]),
    "what was forgotten": (
        "models_here:forgotten --base 16 --target 64",
        ["undeclared-axis", "grows from 48 to 192", "layers/1/kernel", "Give it the base 48"],
    ),
    "markdown": ("models_here:mlp --target 64 --format markdown", ["| readout/kernel |"]),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("options", "words"), cases(SHOWN))
def test_the_command_shows_it(capsys, options, words):
    assert cli.run(["explain", *options.split()]) == 0
    printed = capsys.readouterr()
    assert [word for word in words if word not in printed.out] == []
    assert printed.err == ""


@pytest.mark.usefixtures("here")
def test_the_command_prints_json(capsys):
    options = "models_here:forgotten --base 16 --target 64 --format json"
    assert cli.run(["explain", *options.split()]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["role"] for row in record["parameters"]] == ["fixed", "output", "input", "input"]
    assert {finding["check"] for finding in record["findings"]} == {"undeclared-axis"}


REFUSED = {
    "no colon": ("models_here", "must be a module and a function of it. Got 'models_here'"),
    "no module": ("nowhere.models:mlp", "There is no module 'nowhere'"),
    "no attribute": ("models_here:nothing", "Module 'models_here' has no 'nothing'"),
    "no function": ("models_here:number", "must be a function, or a Model. Got 3."),
    "an import in it fails": ("broken_here:mlp", "No module named 'no_such_package'"),
    "it fails": (
        "failing_here:mlp",
        "division by zero (failing_here.py, line 1)",
    ),
    "the model fails": ("models_here:raises", "NameError: name 'undefined' is not defined"),
    "the base model fails": (
        "models_here:raises_at_base --base 16 --inputs models_here:inputs",
        "models_here:raises_at_base failed for size 16: TypeError",
    ),
    "no inputs": ("models_here:dense", "Got no `--inputs`"),
    "no base": ("models_here:plain", "Got no `--base`"),
    "a plain model without inputs": ("models_here:plain --base 16", "Got no `--inputs`"),
    "a tree that cannot be called": (
        "models_here:tree --base 16 --inputs models_here:inputs",
        "`apply` for a model that cannot be called",
    ),
    "no such family": ("models_here:mlp --optimizer x", "`optimizer` must be one of 'sgd'"),
    "no such gauge": ("models_here:mlp --gauge x", "`gauge` must be one of 'table3'"),
    "another gauge than the layers'": ("models_here:mlp --gauge table3", "readout/kernel"),
    "a rate of zero": ("models_here:mlp --learning-rate 0", "above 0. Got 0.0"),
    "a base of zero": ("models_here:mlp --base 0", "`--base` must be at least 1. Got 0."),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("options", "message"), cases(REFUSED))
def test_bad_input_is_one_line(capsys, options, message):
    assert cli.run(["explain", *options.split(), "--target", "64"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("columns", [140, 80, 40])
def test_the_command_fits_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.run(["explain", "models_here:forgotten", "--base", "16", "--target", "64"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
