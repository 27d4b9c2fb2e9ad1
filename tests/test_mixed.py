"""Missing factors of models that are made of jaxmup's layers, in part or as a whole."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from helpers import named
from zoo.case import at

import jaxmup
from jaxmup._tree import leaves_by_path
from jaxmup.models import CNN, GPT, MLP

TOKENS = jax.ShapeDtypeStruct((2, 8), "int32")
SIZES = {"base": 16, "delta": 32, "target": 48}
GAUGES = ("table3", "table8", "table9", "tp4b", "ntk")


def infer(make_model, inputs=TOKENS, **options):
    """The specs by name."""
    return leaves_by_path(jaxmup.infer(make_model, **SIZES, inputs=inputs, **options))


def missing(specs):
    """What is carried and what is inserted, by name."""
    carried = {name: spec.forward_gain for name, spec in specs.items() if spec.forward_gain != 1}
    return carried, [one.factor for spec in specs.values() for one in spec.corrections]


def gpt(**options):
    sizes = {"num_layers": 2, "num_heads": 2, "base_width": 16}
    return lambda width, **how: GPT(11, width=width, **sizes, **options, **how)


MODELS = {
    "MLP": (lambda width, **how: MLP(4, 3, width=width, depth=3, base_width=16, **how), (2, 4)),
    "CNN": (
        lambda width, **how: CNN(1, 3, width=width, num_stages=2, base_width=16, **how),
        (2, 8, 8, 1),
    ),
    "GPT": (gpt(), TOKENS),
    "GPT, tied": (gpt(tied=True, positions="learned", context=8, norm="layer"), TOKENS),
    "GPT, stacked": (gpt(stacked=True, feed_forward="plain"), TOKENS),
}


@pytest.mark.parametrize("gauge", GAUGES)
@pytest.mark.parametrize("name", MODELS)
def test_models_of_our_layers_lack_nothing_in_any_gauge(name, gauge):
    if name == "GPT, tied" and gauge in ("table3", "ntk"):
        return  # one tensor cannot be stored in two ways, which the layer refuses
    make_model, inputs = MODELS[name]
    inputs = inputs if isinstance(inputs, jax.ShapeDtypeStruct) else jnp.zeros(inputs)
    rule = named(f"mup adam {gauge}")
    specs = infer(lambda width, rngs: make_model(width, parametrization=rule, rngs=rngs), inputs)
    assert missing(specs) == ({}, [])
    assert all(spec.applied.init_gain is not None for spec in specs.values())


class Attention(nnx.Module):
    """Attention by hand between our layers, of heads that grow in size."""

    def __init__(self, width, power, query, rngs):
        size = {"base_in_features": 16, "base_out_features": 16, "rngs": rngs}
        fixed = {"base_in_features": 16, "rngs": rngs}
        self.embed = jaxmup.nnx.Embed(11, width, base_features=16, rngs=rngs)
        self.query = (
            nnx.Linear(width, width, use_bias=False, rngs=rngs)
            if query == "plain"
            else jaxmup.nnx.Linear(width, width, use_bias=False, **size)
        )
        self.key, self.value, self.out = (
            jaxmup.nnx.Linear(width, width, use_bias=False, **size) for _ in range(3)
        )
        self.readout = jaxmup.nnx.Linear(width, 11, **fixed)
        self.power = power

    def __call__(self, tokens):
        x = self.embed(tokens)
        q, k, v = (f(x).reshape(*x.shape[:2], 2, -1) for f in (self.query, self.key, self.value))
        logits = jnp.einsum("bthd,bshd->bhts", q, k)  # logits
        logits = logits * q.shape[-1] ** -self.power
        y = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v)
        return self.readout(x + self.out(y.reshape(*x.shape)))


def attention(power, query="ours"):
    return lambda width, rngs: Attention(width, power, query, rngs)


def test_attention_by_hand_between_our_layers():
    assert missing(infer(attention(1.0))) == ({}, [])
    with pytest.raises(ValueError, match=at(__file__, "logits")):
        infer(attention(0.5))
    carried, inserted = missing(infer(attention(0.5), corrected=True))
    assert (carried, inserted) == ({}, [pytest.approx(3**-0.5, rel=1e-9)])


def test_a_plain_layer_among_ours_carries_what_they_cannot():
    carried, inserted = missing(infer(attention(0.5, query="plain")))
    assert carried == {"query/kernel": pytest.approx(3**-0.5, rel=1e-9)}
    assert inserted == []


class Tied(nn.Module):
    """A readout by our layer's own method, or by its table."""

    width: int
    by_hand: bool
    gauge: str = "table8"

    @nn.compact
    def __call__(self, tokens):
        rule = named(f"mup adam {self.gauge}")
        embed = jaxmup.linen.Embed(11, self.width, base_features=16, parametrization=rule)
        x = jnp.tanh(embed(tokens))
        if not self.by_hand:
            return embed.attend(x)
        return x @ embed.embedding.T  # by hand


@pytest.mark.parametrize("gauge", ["table8", "table9", "tp4b"])
def test_a_tied_readout_by_the_method_and_by_hand(gauge):
    assert missing(infer(lambda width: Tied(width, False, gauge))) == ({}, [])
    with pytest.raises(ValueError, match=at(__file__, "by hand")):
        infer(lambda width: Tied(width, True, gauge))
    specs = infer(lambda width: Tied(width, True, gauge), corrected=True)
    # The stored table is the embedding over its multiplier.
    multiplier = specs["Embed_0/embedding"].applied.multiplier
    assert missing(specs) == ({}, [pytest.approx(multiplier / 3, rel=1e-6)])


def test_a_corrected_model_of_our_layers_is_the_model_edited_by_hand():
    specs = jaxmup.infer(attention(0.5), **SIZES, inputs=TOKENS, corrected=True)
    model = attention(0.5)(48, nnx.Rngs(0))
    edited = attention(0.5)(48, nnx.Rngs(0))
    edited.query.kernel[...] /= math.sqrt(3)
    tokens = jnp.arange(16).reshape(2, 8) % 11
    got = jaxmup.corrected(Attention.__call__, specs)(model, tokens)
    assert jnp.max(jnp.abs(model(tokens) - edited(tokens))) > 1e-4
    assert jnp.allclose(got, edited(tokens), rtol=1e-5, atol=1e-6)


def findings(make_model, **options):
    model = jaxmup.Model(make_model, **{"inputs": TOKENS, **options})
    return jaxmup.lint(model.at(48), base=model.at(16))


def test_lint_shows_what_is_missing_between_our_layers_with_its_line():
    (found,) = findings(attention(0.5))
    assert (found.check, found.where) == ("missing-factor", ("query/kernel",))
    assert re.search(at(__file__, "logits") + r" is \(48/16\)\^1/2 times", found.what)
    assert "(2, 8, 2, 8) in `base`, (2, 8, 2, 24) at `target`" in found.what
    assert "(16/48)^1/2" in found.mend
    assert findings(attention(1.0)) == []
    assert findings(lambda width, rngs: gpt(tied=True)(width, rngs=rngs)) == []


def test_lint_says_why_a_program_was_not_read():
    (found,) = findings(attention(1.0), inputs=None)
    assert (found.check, "`inputs`" in found.why) == ("not-checked", True)
