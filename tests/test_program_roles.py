"""Roles, growths and missing factors that are read off programs; the answers are by hand."""

import math
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import program_models as models
import pytest
from helpers import cases
from program_models import Program, decoder, floats, integers, network, of_tokens

import jaxmup
from jaxmup._tree import leaves_by_path

# From the base to the target each size grows by a ratio of its own.
WIDTH = [{"width": n} for n in (16, 32, 80)]  # 5
HEADS = [  # 3, 5 and 7: the width by 15; delta grows all by 2
    {"heads": h, "size": d, "inner": f} for h, d, f in ((2, 8, 32), (4, 16, 64), (6, 40, 224))
]
INNER = [{"width": w, "inner": f} for w, f in ((16, 32), (32, 64), (80, 224))]  # 5 and 7
JOINT = [{"width": w, "joint": f} for w, f in ((16, 8), (32, 16), (80, 56))]  # 5 and 7
MORE_HEADS = [{"heads": n, "size": 8} for n in (2, 4, 6)]
PACKED = [{"heads": 2, "size": n} for n in (8, 16, 32)]  # 4


@pytest.fixture(autouse=True)
def as_users_write():
    with jax.numpy_rank_promotion("allow"):
        yield


def infer(program: Program, sizes: Any, **kwargs: Any) -> Any:
    base, delta, target = sizes
    kwargs = {"inputs": program.inputs, "apply": program.apply, **kwargs}
    return jaxmup.infer(program.make_model, base=base, delta=delta, target=target, **kwargs)


def kinds(spec: Any) -> str:
    """The kind of each axis, with a star where it grows."""
    return " ".join(axis.kind + "*" * axis.grows for axis in spec.axes)


def gains(specs: Any) -> dict[str, float]:
    found = {name: spec.forward_gain for name, spec in leaves_by_path(specs).items()}
    return {name: gain for name, gain in found.items() if gain != 1}


DECODER = {
    "embed": "batch output*",
    "norm": "output*",
    "0q": "input* output* output*",
    "0k": "input* output* output*",
    "0o": "input* input* output*",
    "1gate": "input* output*",
    "1down": "input* output*",
    "head": "input* output",
}
MAMBA = {
    "embed": "batch output*",
    "in_proj": "input* output*",
    "conv": "batch output*",
    "conv_bias": "output*",
    "b_c_proj": "input* output",
    "dt_down": "input* output*",
    "dt_up": "input* output*",
    "dt_bias": "output*",
    "A_log": "output* output",
    "D": "output*",
    "out_proj": "input* output*",
    "norm": "output*",
    "head": "input* output",
}
EXPERTS = {
    "router": "input* output",
    "w_in": "batch input* output*",
    "b_in": "output output*",
    "w_out": "batch input* output*",
}


def square(*names: str, **more: Any) -> Any:
    return lambda n: {**dict.fromkeys(names, (n, n)), **{k: of(n) for k, of in more.items()}}


ROLES = {  # program, sizes, kinds
    "decoder": (decoder("1/d"), HEADS, DECODER),
    "Mamba, associative scan": (models.mamba(False), WIDTH, MAMBA),
    "Mamba, scan": (models.mamba(True), WIDTH, MAMBA),
    "experts": (models.experts(False), INNER, EXPERTS),
    "ragged experts": (models.experts(True), INNER, EXPERTS | {"b_in": "batch output*"}),
    "LSTM": (
        models.lstm(),
        WIDTH,
        {"x": "input output*", "h": "input* output*", "bias": "output*", "head": "input* output"},
    ),
    "CLIP": (
        models.clip(True),
        JOINT,
        {"image": "input output*", "image_proj": "input* output*", "text": "batch output*"},
    ),
    "packed": (models.packed(1, False), MORE_HEADS, {"0/qkv": "input* output*"}),
    "block-diagonal": (
        network(models.block_diagonal, lambda n: {"w": (n // 8, 8, 8), "bias": (n // 8, 8)}),
        WIDTH,
        {"w": "output* input output", "bias": "output* output"},
    ),
    "experts that grow in number": (
        network(models.routed, lambda n: {"w": (n // 8, 8, 8), "bias": (n // 8, 8), "out": (8, n)}),
        WIDTH,
        {"w": "batch* input output", "bias": "batch* output", "out": "input output*"},
    ),
    "DropConnect and weight norm": (
        network(
            models.drop_connect,
            square("w", gain=lambda n: (n,)),
            jax.eval_shape(lambda: jax.random.key(0)),
        ),
        WIDTH,
        {"w": "input* output*", "gain": "output*"},
    ),
    "experts that are looked up": (
        network(models.looked_up, lambda n: {"w": (4, n, n)}, integers(5)),
        WIDTH,
        {"w": "batch input* output*"},
    ),
    "graph": (
        network(models.graph, square("w"), integers(9), integers(9)),
        WIDTH,
        {"w": "input* output*"},
    ),
    "weight standardization": (
        network(models.standardized, square("w")),
        WIDTH,
        {"w": "input* output*"},
    ),
    "linear attention": (
        network(
            models.linear_attention,
            lambda n: {**dict.fromkeys("qkv", (n, 4, n // 4)), "o": (4, n // 4, n)},
        ),
        WIDTH,
        {"k": "input* output output*", "o": "input input* output*"},
    ),
    "a barrier, and a sort by the inputs": (
        network(
            lambda p, h: (
                jnp.multiply(*jax.lax.optimization_barrier((h @ p["w"], p["gain"][None])))
                + jax.lax.sort((h, h @ p["w"]), num_keys=1)[1]
            ),
            square("w", gain=lambda n: (n,)),
        ),
        WIDTH,
        {"w": "input* output*", "gain": "output*"},
    ),
    "one head of keys and values": (
        network(
            models.multi_query,
            lambda n: (
                {"q": (n, n // 4, n // 4), "k": (n, n // 4), "v": (n, n // 4)}
                | {"o": (n * n // 16, n)}
            ),
        ),
        WIDTH,
        {"q": "input* output* output*", "k": "input* output*", "o": "input* output*"},
    ),
    "quantized weights": (
        network(models.quantized, square("w")),
        WIDTH,
        {"w": "input* output*"},
    ),
    "a running sum that is normalized": (
        network(models.running_sum, lambda n: {"gain": (n,)}),
        WIDTH,
        {"gain": "output*"},
    ),
    "layers on axis 1": (
        network(models.stacked_on_axis_1, lambda n: {"w": (n, 3, n)}),
        WIDTH,
        {"w": "input* batch output*"},
    ),
    "members of a vmap on the last axis": (
        network(models.members, lambda n: {"w": (n, n, 3), "b": (3, n)}),
        WIDTH,
        {"w": "input* output* batch", "b": "output output*"},
    ),
    "depthwise and grouped convolutions": (
        network(
            models.convolved,
            lambda n: {"depthwise": (3, 3, 1, n), "grouped": (1, 1, n // 4, n)},
        ),
        WIDTH,
        {"depthwise": "batch batch input output*", "grouped": "batch batch input* output*"},
    ),
    "LoRA and latents": (
        network(
            models.low_rank,
            square("w", "q", "k", a=lambda n: (n, 4), b=lambda n: (4, n), latent=lambda n: (3, n)),
        ),
        WIDTH,
        {
            "a": "input* output",
            "b": "input output*",
            "latent": "output output*",
            "q": "input* output*",
            "k": "input* output*",
        },
    ),
}
# A bias that is looked up by expert, and one of each member, have axes that do not grow: whether
# such an axis is called output or batch changes no number.
LOOSE = re.compile(r"\b(batch|output)\b(?!\*)")


@pytest.mark.parametrize(("program", "sizes", "expected"), cases(ROLES))
def test_roles(program, sizes, expected):
    specs = infer(program, sizes)
    found = {name: LOOSE.sub("-", kinds(specs[name])) for name in expected}
    assert found == {name: LOOSE.sub("-", words) for name, words in expected.items()}
    assert gains(specs) == {}, "no factor is missing"


def every_layer(name: str, gain: float) -> dict[str, float]:
    return {layer + name: gain for layer in "01"}


ROOT_5, ROOT_15 = 5**-0.5, 15**-0.5
DECODER_GAINS = {
    "1/√d": (decoder("1/√d"), every_layer("q", ROOT_5)),
    "d**-0.5": (decoder("d**-0.5"), every_layer("q", ROOT_5)),
    "1/√d as the program computes it": (decoder("traced"), every_layer("q", ROOT_5)),
    "1/d": (decoder("1/d"), {}),
    "fixed": (decoder("fixed"), every_layer("q", 1 / 5)),
    "soft-capped": (decoder(softcap=True), every_layer("q", ROOT_5)),
    "QK-norm": (decoder(qk_norm=True), every_layer("q_norm", ROOT_5)),
    "biases": (decoder(bias=True), every_layer("q", ROOT_5) | every_layer("q_bias", ROOT_5)),
    "tied": (decoder("1/d", tied=True), {"norm": 1 / 15}),
    # The norm that carries the tied readout's 1/r is read a second time.
    "tied, with a value head": (
        decoder("1/d", tied=True, value_head=True),
        {"norm": 1 / 15, "value": 15},
    ),
    "√n on embeddings": (decoder("1/d", embed_scale=True), {"embed": ROOT_15}),
    "tied, √n on embeddings": (
        decoder("1/d", tied=True, embed_scale=True),
        {"embed": ROOT_15, "norm": ROOT_15},
    ),
    # Nothing pins the stream: all that is written to it shares the embedding's factor.
    "(1 + gain) norms, tied": (
        decoder("1/d", tied=True, one_plus=True),
        {"embed": 1 / 15, **every_layer("v", 1 / 15), **every_layer("up", 1 / 15)},
    ),
}


@pytest.mark.parametrize(("program", "expected"), cases(DECODER_GAINS))
def test_missing_factors_of_a_decoder(program, expected):
    specs = infer(program, HEADS)
    assert gains(specs) == pytest.approx(expected)
    assert (specs["0q"].r_in, specs["0q"].r_out, specs["1down"].r_in) == (15, 15, 7)


GAINS = {
    "packed": (models.packed(1, False), PACKED, {"0/qkv": 4**-0.25, "0/heads": 4**0.25}),
    "CLIP": (models.clip(False), JOINT, {"image": 1 / 7}),
    "a readout as a gain and a sum": (
        of_tokens(
            lambda p, t: (jnp.tanh(p["embed"][t]) * p["gain"]).sum(-1),
            embed=lambda n: (11, n),
            gain=lambda n: (n,),
        ),
        WIDTH,
        {"gain": 1 / 5},
    ),
    "tied after tanh": (
        of_tokens(
            lambda p, t: jnp.tanh(p["embed"][t] @ p["w"]) @ p["embed"].T,
            embed=lambda n: (11, n),
            w=lambda n: (n, n),
        ),
        WIDTH,
        {"embed": 1 / 5, "w": 5},
    ),
    "positions of size 1 pin √n": (
        of_tokens(
            lambda p, t: (
                (p["embed"][t] * jnp.sqrt(p["w"].shape[0]) + jnp.sin(t)[..., None]) @ p["w"]
            ),
            embed=lambda n: (11, n),
            w=lambda n: (n, 3),
        ),
        WIDTH,
        {"embed": ROOT_5},
    ),
    "queries with an adapter": (
        network(models.adapted_queries, square("q", "k", a=lambda n: (n, 4), b=lambda n: (4, n))),
        WIDTH,
        {"k": ROOT_5},
    ),
    "queries with an adapter, of frozen keys": (
        network(models.adapted_queries, square("q", "k", a=lambda n: (n, 4), b=lambda n: (4, n))),
        WIDTH,
        {"a": ROOT_5, "q": ROOT_5},
        "[!k]*",
    ),
    "a loop that is linear": (
        network(models.linear_loop, square("w")),
        WIDTH,
        {"w": 5**0.5},
    ),
    "the neural tangent parametrization": (
        network(lambda p, h: jnp.tanh(h @ p["w"] / jnp.sqrt(h.shape[-1])), square("w")),
        WIDTH,
        {"w": 5**0.5},
    ),
}


@pytest.mark.parametrize(
    ("program", "sizes", "expected", "wrt"),
    cases({name: (*case, None)[:4] for name, case in GAINS.items()}),
)
def test_missing_factors(program, sizes, expected, wrt):
    """What does not train carries nothing."""
    assert gains(infer(program, sizes, wrt=wrt)) == pytest.approx(expected)


def of_features(p, x, *more):
    return jnp.tanh(x @ p["w"]) @ p["head"]


SCALED = {  # features of another network that grow as √n, and a mask beside them that does not
    "one number": (lambda width: width**0.5, False),
    "one for each": (lambda width: (width**0.5, 1.0), True),
}


@pytest.mark.parametrize(("input_scale", "mask"), cases(SCALED))
def test_inputs_that_grow(input_scale, mask):
    shapes = lambda width: {"w": (width, width), "head": (width, 3)}  # noqa: E731
    program = Program(shapes, of_features, lambda width: (floats(4, width), floats(4))[: 1 + mask])
    assert gains(infer(program, WIDTH)) == {}
    assert gains(infer(program, WIDTH, input_scale=input_scale)) == pytest.approx({"w": ROOT_5})


@pytest.mark.parametrize("scale", [-1.0, 0.0, "width", (1.0, 1.0), None])
def test_a_scale_of_inputs_is_a_positive_number_for_each_array(scale):
    program = Program(lambda width: {"w": (5, width)}, lambda p, x: x @ p["w"], floats(4, 5))
    with pytest.raises(ValueError, match="`input_scale` must return a positive number"):
        infer(program, WIDTH, input_scale=lambda width: scale)


@pytest.mark.parametrize("norm", [False, True])
def test_packed_attention_of_48_layers_is_solved(norm):
    """Which parameters carry is free; that they do is not: the program is right with them."""
    program = models.packed(48, norm)
    found = gains(infer(program, PACKED))
    assert found
    exponents = {round(math.log(gain, 4), 9) for gain in found.values()}
    assert exponents <= {-0.25, 0.25}


@pytest.mark.parametrize("target", ["smaller", "the base", "heads alone", "up and down"])
def test_any_target(target):
    base, delta, _ = HEADS
    size, r = {
        "smaller": ({"heads": 2, "size": 2, "inner": 16}, 1 / 4),
        "the base": (base, 1),
        "heads alone": ({"heads": 8, "size": 8, "inner": 32}, 4),
        "up and down": ({"heads": 6, "size": 4, "inner": 16}, 3 / 2),
    }[target]
    specs = infer(decoder(tied=True), [base, delta, size])

    def expected(norm, q):
        every = {"norm": norm} | every_layer("q", q**0.5)
        return pytest.approx({name: gain for name, gain in every.items() if gain != 1})

    assert gains(specs) == expected(1 / r, 8 / size["size"])
    shrunk = infer(decoder(tied=True), [delta, base, size])
    assert gains(shrunk) == expected(4 / r, 16 / size["size"])


def test_reasons_name_lines():
    specs = infer(decoder(tied=True), HEADS)
    line = r"program_models\.py:\d+"
    assert re.fullmatch(rf"looked up at {line}, multiplied at {line}", specs["embed"].reason)
    carried = rf"multiplied at {line}; carries \(8/40\)\^1/2 for `dot_general` at {line}"
    assert re.fullmatch(carried, specs["0q"].reason)


def test_a_rule_wins():
    rules = {"1down": ("batch", "output")}
    with pytest.warns(UserWarning, match="than the rules for `1down`;"):
        spec = infer(decoder("1/d"), HEADS, rules=rules)["1down"]
    assert kinds(spec) == "batch* output*"
    (finding,) = spec.findings
    assert (finding.check, finding.where) == ("rule-contradicted", ("1down",))
    said = r"Axis 0 is given as 'batch', but the program has it as 'input': multiplied at program_"
    assert finding.what.startswith(said)


ERRORS = {
    "Gemma's attention": (
        decoder(qk_norm=True, one_plus=True),
        HEADS,
        r"`dot_general` at program_models\.py:\d+ is \(40/8\)\^1/2 times",
    ),
    "a pooled sum": (
        of_tokens(lambda p, t: jnp.tanh(p["embed"][t]).sum(-1), embed=lambda n: (11, n)),
        WIDTH,
        r"`reduce_sum` at test_program_roles\.py:\d+ is 80/16 times.*the model returns it",
    ),
    "softly merged experts": (
        network(models.merged_experts, lambda n: {"w": (4, n, n)}),
        WIDTH,
        r"matrix must be a parameter(.|\n)*program_models\.py",
    ),
    "a hypernetwork": (
        network(models.hypernetwork, lambda n: {"w": (n, n * n)}),
        WIDTH,
        r"matrix must be a parameter(.|\n)*program_models\.py",
    ),
    "Python over the width": (
        network(models.python_loop, lambda n: {"gain": (n,)}),
        WIDTH,
        r"must do the same at all sizes(.|\n)*program_models\.py:\d+",
    ),
    "an operation without a row": (
        network(lambda p, h: h @ jnp.linalg.qr(p["w"])[0], square("w")),
        WIDTH,
        r"one of which it is known(.|\n)*`\w+` at test_program_roles\.py:\d+",
    ),
    "no use": (
        network(lambda p, h: h, lambda n: {"gain": (n,)}),
        WIDTH,
        r"must depend on each(.|\n)*apply \(program_models.py:\d+\)(.|\n)*\n  gain: base \(16,\)",
    ),
    "inputs that do not fit": (
        decoder()._replace(inputs=(models.TOKENS, 1)),
        HEADS,
        r"must be called with its `inputs`. It raised TypeError",
    ),
}


@pytest.mark.parametrize(("program", "sizes", "message"), cases(ERRORS))
@pytest.mark.filterwarnings("ignore:Some parts of an axis")
def test_what_is_wrong_is_said_with_its_line(program, sizes, message):
    with pytest.raises(ValueError, match=message):
        infer(program, sizes)


@pytest.mark.filterwarnings("ignore:Sizes must be proportional")
def test_parts_that_grow_apart_are_a_warning_with_the_line():
    program = network(models.uneven_parts, lambda n: {"w": (n, n + 8)})
    with pytest.warns(UserWarning, match=r"`split` at program_models\.py:\d+"):
        infer(program, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infer(models.packed(1, False), PACKED)
