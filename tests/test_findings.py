"""What `infer` finds in a program, as errors, `lint` and `explain` show it to a person."""

import re
import warnings

import jax
import jax.numpy as jnp
import pytest
from helpers import named
from zoo import apart, gemma, ties
from zoo.case import at

import jaxmup

RULE = named("mup adam table3")


@pytest.fixture(autouse=True)
def _as_elsewhere():
    """Other people's models rely on NumPy's promotion of ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def infer(case, **options):
    how = {"inputs": case.inputs, "apply": case.apply, "wrt": case.wrt, **options}
    return jaxmup.infer(case.make_model, **case.sizes, **how)


def words(text):
    """The text without its line breaks."""
    return " ".join(text.split())


def test_what_no_parameter_carries_lists_shapes_and_the_mend():
    with pytest.raises(ValueError, match=at(gemma.__file__, "readout")) as caught:
        infer(gemma.CASES["with norms behind"])
    lines = str(caught.value).split("\n")
    assert len(lines) == 4
    assert words(lines[1]) == (
        "`dot_general` at gemma.py:76 is (112/16)^1/2 times the base model's, and `tanh` takes it "
        "at gemma.py:77"
    )
    assert words(lines[2]) == (
        "of (2, 6, 16) and (16, 11) in `base`, (2, 6, 112) and (112, 11) at `target`, made with "
        "`table`"
    )
    assert "`corrected=True`" in lines[3]


def test_layers_that_are_alike_are_named_once():
    with pytest.raises(ValueError, match=r"`b\*/k/kernel`") as caught:
        infer(gemma.CASES["with norms of queries"])
    assert str(caught.value).count("`dot_general` at decoder.py") == 1


def test_lint_shows_a_factor_that_is_left_to_the_program():
    specs = infer(gemma.CASES["with norms behind"], corrected=True)
    (found,) = jaxmup.lint(specs, RULE)
    assert all(len(line) <= 100 for line in found.text(100).split("\n"))
    assert words(found.text(100)) == (
        "missing-factor: `dot_general` at gemma.py:76 is (112/16)^1/2 times the base model's: of "
        "(2, 6, 16) and (16, 11) in `base`, (2, 6, 112) and (112, 11) at `target`, made with "
        "`table`. where: table why: No parameter can carry the inverse, so the model as it is does "
        "not train as muP does. mend: Multiply by (16/112)^1/2 there; or read the model by `infer` "
        "with `corrected=True` and call it as `jaxmup.corrected(apply, specs)`."
    )


def test_lint_shows_an_axis_whose_parts_grow_apart():
    with pytest.warns(UserWarning, match=r"such as two in place of `in`"):
        specs = infer(apart.CASES["a parallel block, parts apart"])
    (found,) = jaxmup.lint(specs, RULE)
    assert (found.check, found.where) == ("uneven-parts", ("in",))
    assert re.search(at(apart.__file__, "parts"), found.what)
    assert "(2, 6, 48) in `base`, (2, 6, 192) at `target`" in found.what


def from_product(params, h):
    n = h.shape[-1]
    return jnp.split(h @ params["in"], [n, 2 * n, 2 * n + 16], -1)


def from_parameter(params, h):
    n = h.shape[-1]
    parts = jnp.split(params["in"], [n, 2 * n, 2 * n + 16], -1)
    return [h @ part for part in parts]


@pytest.mark.parametrize(
    ("parts", "shapes"),
    [
        (from_product, "(6, 50) in `base`, (6, 254) at `target`"),
        (from_parameter, "(16, 50) in `base`, (112, 254) at `target`"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sizes must be proportional")  # for the 16 states
def test_lint_shows_a_projection_whose_parts_want_different_numbers(parts, shapes):
    """Mamba's: twice the width, 16 states, and an eighth of the width for the steps."""

    def apply(params, x):
        gate, u, state, step = parts(params, x @ params["first"])
        u = u * jax.nn.softplus(step @ params["step"]) + state @ params["state"]
        return jnp.tanh(jax.nn.silu(gate) * u) @ params["last"]

    def make_params(n):
        shapes = {
            "first": (5, n),
            "in": (n, 2 * n + 16 + n // 8),
            "step": (n // 8, n),
            "state": (16, n),
            "last": (n, 3),
        }
        return {name: jnp.ones(shape) for name, shape in shapes.items()}

    sizes = {"base": 16, "delta": 32, "target": 112}
    with pytest.warns(UserWarning, match="such as two in place of `in`"):
        specs = jaxmup.infer(make_params, **sizes, inputs=jnp.ones((6, 5)), apply=apply)
    found = [f for f in jaxmup.lint(specs, RULE) if f.check == "uneven-parts"]
    assert found
    assert {f.where for f in found} == {("in",)}
    line = parts.__code__.co_firstlineno + 2
    expected = f"at test_findings.py:{line}, of {shapes}, made with `in`."
    assert [f.what.partition("` ")[2] for f in found] == [expected] * len(found)
    assert all(
        f.mend
        == "Make each part by a parameter of its own in place of `in`, or let all grow alike."
        for f in found
    )


def test_lint_shows_a_parameter_that_the_outputs_do_not_depend_on():
    def apply(params, x):
        x @ params["idle"]
        return jnp.tanh(x @ params["in"]) @ params["out"]

    def make_params(width):
        return {name: jnp.ones(shape) for name, shape in shapes(width).items()}

    def shapes(width):
        return {"idle": (4, 3), "in": (4, width), "out": (width, 3)}

    sizes = {"base": 8, "delta": 16, "target": 32}
    specs = jaxmup.infer(make_params, **sizes, inputs=jnp.ones((2, 4)), apply=apply)
    (found,) = jaxmup.lint(specs, RULE)
    assert (found.check, found.where) == ("unused-parameter", ("idle",))


def test_a_model_that_is_right_has_no_findings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jaxmup.lint(infer(gemma.CASES[""]), RULE) == []


def test_explain_shows_what_is_carried_and_inserted_with_both_lines():
    specs = infer(gemma.CASES["with norms behind"], corrected=True)
    shown = jaxmup.explain(specs, RULE).grouped().text(100)
    assert all(len(line) <= 100 for line in shown.splitlines())
    assert (
        "table: looked up at gemma.py:70, multiplied at gemma.py:76; carries (16/112)^1/2 for "
        "`mul` at gemma.py:70, `dot_general` at gemma.py:76" in words(shown)
    )
    inserted = "table: `jaxmup.corrected` puts (16/112)^1/2 on `dot_general` at gemma.py:76"
    assert inserted in words(shown)
    (line,) = [
        line
        for line in jaxmup.explain(infer(ties.CASES[SCALED]), RULE).text().splitlines()
        if line.startswith("embed: ")
    ]
    assert re.fullmatch(
        r"embed: looked up at ties.py:(\d+); carries \(16/112\)\^1/2 for `mul` at ties.py:\1", line
    )


SCALED = "√n on an embedding, sinusoids beside it"
