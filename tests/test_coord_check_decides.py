"""What a coordinate check says where it is not told enough, and that it is told of masks."""

import dataclasses
import functools
import math
import re
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxmup
from jaxmup._program import Line
from jaxmup.coord_check import (
    CoordCheck,
    Expected,
    Slope,
    Verdict,
    coord_check,
    read_record,
    write_record,
)
from jaxmup.coord_check._budget import Budget
from jaxmup.coord_check._expected import FLAT
from jaxmup.coord_check._mend import beginning, mend_of
from jaxmup.coord_check._training import _not_masked

RANDOM = np.random.default_rng(0)
DATA = jnp.asarray(RANDOM.normal(size=(32, 6)), jnp.float32), jnp.arange(32) % 4
TOKENS = RANDOM.normal(size=(16, 8, 6)).astype(np.float32), np.arange(128).reshape(16, 8) % 4


def adam(rate):
    return lambda scalings: jaxmup.optim.adam(rate, scalings)


class Small(nnx.Module):
    def __init__(self, width, rngs):
        zeros = nnx.initializers.zeros
        self.first = nnx.Linear(6, width, rngs=rngs)
        self.readout = nnx.Linear(width, 4, use_bias=False, kernel_init=zeros, rngs=rngs)

    def __call__(self, x):
        return self.readout(nnx.relu(self.first(x)))


class Causal(nnx.Module):
    """Attention by hand, of layers that hold a parametrization: nothing mends its division."""

    def __init__(self, width, parametrization, mask, power, rngs):
        common = {"parametrization": parametrization, "use_bias": False, "rngs": rngs}
        inside = {"base_in_features": 32, "base_out_features": 32, **common}
        self.first = jaxmup.nnx.Linear(6, width, base_out_features=32, **common)
        self.q, self.k, self.v = (jaxmup.nnx.Linear(width, width, **inside) for _ in "qkv")
        self.readout = jaxmup.nnx.Linear(width, 4, base_in_features=32, **common)
        self.mask, self.divisor = mask, 32**0.5 * (width / 32) ** power

    def __call__(self, x):
        h = self.first(x)
        logits = jnp.einsum("btd,bsd->bts", self.q(h), self.k(h)) / self.divisor
        kept = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        logits = jnp.where(kept, logits, self.mask)
        return self.readout(h + jnp.einsum("bts,bsd->btd", nnx.softmax(logits), self.v(h)))


def causal(mask, power):
    def make(width, parametrization, rngs):
        return Causal(width, parametrization, mask, power, rngs)

    return coord_check(make, (32, 128, 512), TOKENS, adam(2**-6), seeds=3)


@pytest.mark.parametrize("mask", [-1e9, float(np.finfo(np.float32).min), -math.inf, -1e4])
def test_masked_logits_are_no_part_of_what_is_judged(mask):
    """Logits over the root of d start at n^0 and change as n^(1/2), whatever the mask writes."""
    wrong = causal(mask, 0.5)
    of_logits = {one.quantity: one for one in wrong.verdicts if one.name == "logits"}
    assert max(of_logits["logits"].values) < 10
    assert of_logits["logits_change"].outcome == "fail"
    assert of_logits["logits_change"].slope.value > 0.3
    assert wrong.outcome == "fail"


def test_the_same_attention_over_d_passes():
    right = causal(-1e9, 1.0)
    assert not right.of("fail"), str(right)
    assert {"logits", "logits_change"} <= {one.quantity for one in right.verdicts}
    decided = len(right.verdicts) - len(right.of("not enough seeds"))
    assert decided >= 0.9 * len(right.verdicts)  # of three seeds


def test_what_is_all_low_is_no_mask():
    low = jnp.full((2, 2), -1e6)
    assert _not_masked(low).all()
    assert _not_masked(jnp.array([1.0, -1e4, -jnp.inf])).tolist() == [True, False, False]


class Plain(nnx.Module):
    """A plain transformer block behind a mean over positions."""

    def __init__(self, width, rngs):
        self.first = nnx.Linear(6, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, width, decode=False, rngs=rngs)
        self.readout = nnx.Linear(width, 4, rngs=rngs)

    def __call__(self, x):
        h = self.first(x)
        return self.readout((h + self.attention(self.norm(h))).mean(1))


def test_queries_and_keys_of_plain_attention_are_open():
    batch = TOKENS[0], TOKENS[1][:, 0]
    found = coord_check(Plain, (32, 64, 128), batch, adam(2**-7), seeds=4, steps=3)
    assert not found.of("fail"), str(found)
    by_row = {(one.quantity, one.name): one for one in found.verdicts}
    gradient = by_row["gradient", "attention/key/kernel"]
    assert (gradient.expected.low, gradient.expected.high) == pytest.approx((-1.5, -1.0))
    assert gradient.slope.value < -1.3
    assert ("logits", "attention/logits") in by_row


class TwoHeads(nn.Module):
    """The second output is for evaluation alone."""

    width: int

    @nn.compact
    def __call__(self, x):
        first = nn.LayerNorm()(nn.Dense(self.width, name="first")(x))
        other = nn.LayerNorm()(nn.Dense(self.width, name="other")(x))
        head = nn.Dense(4, name="head", kernel_init=nn.initializers.zeros)
        return head(first), head(other)


def test_what_no_loss_sees_may_change_less():
    def loss(outputs, targets):
        return -jnp.mean(jax.nn.log_softmax(outputs[0])[jnp.arange(32), targets])

    found = coord_check(TwoHeads, (64, 256, 1024), DATA, adam(2**-8), loss_fn=loss)
    change = {one.name: one for one in found.verdicts if one.quantity == "activation_change"}
    lows = [change[name].expected.low for name in ("head", "head#1")]
    assert lows == pytest.approx([0.0, -0.5])
    assert change["head#1"].slope.value < -0.25
    assert not found.of("fail"), str(found)


class Divides(nn.Module):
    """A tied readout divided by the ratio of widths, as the documentation has it."""

    width: int

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(20, self.width, embedding_init=nn.initializers.normal(1.0))
        x = nn.LayerNorm()(nn.Dense(self.width)(nn.relu(embed(tokens))))
        return embed.attend(x) / (self.width / 64)


def test_attend_before_its_division_is_not_judged():
    tokens = jnp.arange(64) % 20
    found = coord_check(
        Divides, (64, 256, 1024), (tokens, (tokens * 7 + 3) % 20), adam(2**-11), seeds=3,
        rules={"*/embedding": ("batch", "output")},
    )  # fmt: skip
    outputs = [one for one in found.verdicts if one.quantity.startswith("activation")]
    assert {"output", "Embed_0"} <= {one.name for one in outputs}
    assert not [one for one in outputs if one.outcome == "fail"], str(found)


@pytest.mark.parametrize("rate", [2e-3, 2.5e-3])
def test_decay_below_rounding_is_no_row(rate):
    """The default decay of biases that start at zero: lost at one width and not at another."""
    found = coord_check(
        Small, (64, 128, 256), DATA, lambda s: jaxmup.optim.adamw(rate, s), seeds=3, steps=3
    )
    assert not found.of("fail"), str(found)


def test_a_constant_loss_is_not_passed():
    found = coord_check(
        Small, (16, 32), DATA, adam(0.01), loss_fn=lambda y, _: 0 * y.sum(), seeds=2, steps=2
    )
    assert found.outcome == "could not decide"
    assert "the loss is constant" in str(found)


def test_a_model_that_diverges_everywhere_is_not_decided():
    def loss(outputs, _):
        return jnp.exp(1e3 * jnp.sum(outputs**2) + 1e3)

    found = coord_check(Small, (16, 32), DATA, adam(0.01), loss_fn=loss, seeds=2, steps=2)
    assert found.outcome == "could not decide"
    assert "width 16 diverges" in found.reason


def measurement(quantity, size, rms):
    return {"quantity": quantity, "name": "a", "layer": None, "size": size, "seed": 0, "step": 0,
            "rms": rms, "mean_abs": None}  # fmt: skip


def made(verdicts, rows):
    family = jaxmup.parametrization("mup", "adam").family
    rows = [measurement("gradient", 16, 1.0), *rows]
    return CoordCheck("width", (16, 32), (0,), 2, "mup", family, True, tuple(verdicts), tuple(rows))


def test_a_model_that_diverges_at_one_size_decides_nothing_unless_a_row_is_finite():
    infinite = Verdict("activation_change", "a", None, 1, None, FLAT, "fail", (1.0, math.inf))
    finite = Verdict("weight", "b", None, 0, Slope(1.0, 0.1), FLAT, "fail", (1.0, 2.0))
    rows = [measurement("update", 16, 1.0), measurement("update", 32, None)]
    check = made([infinite], rows)
    assert check.outcome == "could not decide"
    assert "models of width 32 diverge, try a smaller learning rate" in str(check)
    check = made([infinite, finite], rows)
    assert (check.outcome, check.begins) == ("fail", finite)
    # A quantity that is zero at one width is no divergence.
    zero = dataclasses.replace(infinite, values=(0.0, 1.0))
    assert made([zero], rows[:1]).outcome == "fail"


def test_a_learning_rate_of_zero_decides_nothing():
    flat = Verdict("weight", "a", None, 0, Slope(0.0, 0.1), FLAT, "pass", (1.0, 1.0))
    check = made([flat], [measurement("update", 16, 0.0), measurement("update", 32, 0.0)])
    assert check.outcome == "could not decide"
    assert "the learning rate is zero" in check.reason


def test_seeds_and_sizes_are_added_until_rows_are_decided():
    found = coord_check(Small, (32, 64), DATA, adam(2**-6), seeds=2, steps=2)
    undecided = dataclasses.replace(found.verdicts[0], outcome="not enough seeds", needs=3)
    noisy = dataclasses.replace(found, verdicts=(undecided,))
    more = functools.partial(Budget(0, 8).more, tolerance=0.25)
    assert more(noisy) == ((32, 64), (0, 1, 2))
    assert more(dataclasses.replace(noisy, seeds=tuple(range(8)))) is None
    fading = dataclasses.replace(undecided, outcome="too small", needs=256)
    small = dataclasses.replace(found, verdicts=(fading,))
    assert Budget(128, 0).more(small, 0.25) == ((32, 64, 128), (0, 1))
    assert Budget(127, 0).more(small, 0.25) is None
    assert small.outcome == "could not decide"
    assert "widths too small, try up to 256" in small.reason
    wrong = dataclasses.replace(undecided, outcome="fail", needs=None)
    assert Budget(1024, 2).more(dataclasses.replace(small, verdicts=(wrong, fading)), 0.25) is None


def test_seeds_that_are_added_are_those_of_a_check_that_began_with_them(tmp_path):
    arguments = (Small, (32, 128), DATA, adam(2**-6))
    found = coord_check(*arguments, seeds="auto", steps=2)
    assert found.outcome == "pass", str(found)
    alike = coord_check(*arguments, seeds=len(found.seeds), steps=2)
    assert found.seeds == alike.seeds
    pairs = zip(found.verdicts, alike.verdicts, strict=True)
    assert all(one.values == pytest.approx(other.values, rel=1e-5) for one, other in pairs)
    write_record(found, tmp_path / "record.jsonl")
    text = (tmp_path / "record.jsonl").read_text()
    (tmp_path / "old.jsonl").write_text(text.replace('"version": 3', '"version": 2', 1))
    with pytest.raises(ValueError, match=r"version.* 2"):
        read_record(tmp_path / "old.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": "auto", "over": "depth"}, "must be given over depth"),
        ({"largest": 0}, "at least 1. Got 0"),
        ({"seeds": "many"}, "Got 'many'"),
    ],
)
def test_bad_budgets_are_refused(options, message):
    arguments = {"make_model": Small, "sizes": (16, 32), "data": DATA, "make_tx": adam(0.01)}
    with pytest.raises((TypeError, ValueError), match=message):
        coord_check(**arguments | options)


def test_a_page_shows_outputs_first_with_their_lines():
    text = str(causal(-1e9, 0.5))
    rows = [line for line in text.splitlines() if line.startswith("  ") and "slope" in line]
    quantities = [row.split()[0] for row in rows]
    outputs = [name.startswith(("activation", "logits")) for name in quantities]
    first = outputs[: sum(outputs)]
    assert any(first)
    assert all(first)
    assert "fail." in text.splitlines()[0]
    # Where the product over the root of d is masked, and what would mend it.
    begins = text.partition("It begins at ")[2].splitlines()
    assert re.fullmatch(r"test_coord_check_decides.py:\d+, in logits_change of logits:", begins[0])
    assert begins[1].strip() == "logits = jnp.where(kept, logits, self.mask)"
    assert begins[2].strip().endswith("muP width^(-0.5 to 0).")
    assert begins[3].strip() == "To mend: multiply queries, keys or their product by width^-0.5."
    assert "missing-factor" in text.partition("What `jaxmup.lint` finds:")[2]


def test_it_begins_before_anything_is_learned_and_forward():
    def row(quantity, name):
        values = (1.0, 2.0)
        return Verdict(quantity, name, None, 0, Slope(1.0, 0.1), FLAT, "fail", values)

    rows = [row("gradient", "a"), row("activation_change", "a"), row("weight", "b")]
    rows += [row("activation", "b"), row("logits", "a"), row("activation", "c")]
    expected = ["b", "a", "c", "a", "b", "a"]
    kinds = ["activation", "logits", "activation", "activation_change", "weight", "gradient"]
    for name, quantity in zip(expected, kinds, strict=True):
        first = beginning(rows)
        assert (first.quantity, first.name) == (quantity, name)
        rows.remove(first)
    assert beginning(rows) is None


@pytest.mark.parametrize(
    ("quantity", "slope", "expected", "mend"),
    [
        ("weight", 0.02, -0.5, "multiply its initial values by width^-0.5"),
        ("update", 0.1, -1.0, "multiply its learning rate by width^-1"),
        ("eps", -1.04, 0.0, "multiply eps by width^-1, or the gradient by width^1"),
        ("decay", -0.95, 0.0, "multiply its weight decay by width^1"),
        ("activation", 0.26, 0, "multiply by width^-0.5 there, or start its weights as much "
         "smaller"),
    ],
)  # fmt: skip
def test_what_would_mend_a_row(quantity, slope, expected, mend):
    measured, exactly = Slope(slope, 0.05), Expected.exactly(expected)
    one = Verdict(quantity, "a", None, 0, measured, exactly, "fail", (1.0, 2.0))
    assert mend_of(one, "width") == mend
    assert mend_of(dataclasses.replace(one, slope=None), "width") == ""


def test_a_cell_of_a_notebook_is_named_as_the_notebook_does(monkeypatch):
    file = "/tmp/ipykernel_71/123.py"
    assert str(Line(file, 3, "f")) == "a cell:3"
    assert str(Line("<ipython-input-5-abc>", 3, "f")) == "In[5]:3"
    assert str(Line("/home/me/ipykernel_notes.py", 3, "f")) == "ipykernel_notes.py:3"

    def named(name):
        return ("Cell", "In[7]") if name == file else None

    shell = SimpleNamespace(compile=SimpleNamespace(format_code_name=named))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert str(Line(file, 3, "f")) == "In[7]:3"
    assert str(Line("/home/me/model.py", 3, "f")) == "model.py:3"
