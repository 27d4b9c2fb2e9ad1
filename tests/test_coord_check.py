"""The coordinate check: what it sees, what it expects, and what it says about it."""

import dataclasses
import itertools
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from helpers import cases, named
from plain_models import MODELS

import jaxmup
from jaxmup import Axis, ParamSpec, cli
from jaxmup._model import Model
from jaxmup.coord_check import (
    Expected,
    Slope,
    assert_coord_check,
    coord_check,
    failure_message,
    read_record,
    tag,
    write_record,
)
from jaxmup.coord_check._batches import batches_of
from jaxmup.coord_check._coord_check import default_loss
from jaxmup.coord_check._expected import Theory
from jaxmup.coord_check._modules import tag_nnx, tagging_linen
from jaxmup.coord_check._signs import Signs
from jaxmup.coord_check._slopes import fit
from jaxmup.coord_check._subject import subjects
from jaxmup.coord_check._sums import Measured, Sums
from jaxmup.coord_check._tags import collecting
from jaxmup.coord_check._training import Training, run_seeds
from jaxmup.coord_check._verdict import judge, verdict
from jaxmup.models.gpt import GPT

BASE, WIDTHS = 32, (32, 256)
DATA = (
    np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32),
    np.arange(32, dtype=np.int32) % 4,
)
RULES = {"*": ("input", "output")}


def make_model(width, key):
    """Three matrices, as a plain function has them."""
    keys = jax.random.split(key, 3)
    sizes = {"first": (6, width), "hidden": (width, width), "readout": (width, 4)}
    return {
        name: jax.random.normal(one, size) / math.sqrt(size[0])
        for one, (name, size) in zip(keys, sizes.items(), strict=True)
    }


def apply(params, x):
    h = tag("features", jnp.tanh(x @ params["first"]))
    return tag("features", jnp.tanh(h @ params["hidden"])) @ params["readout"]


def adamw(scalings):
    return jaxmup.optim.adamw(2**-6, scalings, weight_decay=0.1)


def check(make_tx=adamw, make_model=make_model, **options):
    options = {"apply": apply, "rules": RULES, **options}
    return coord_check(make_model, WIDTHS, DATA, make_tx, **options)


@pytest.fixture(scope="module")
def correct():
    return check()


def failing(found):
    return {(one.quantity, one.name) for one in found.of("fail")}


def test_a_correct_model_passes(correct):
    assert correct.outcome == "pass", failure_message(correct)
    kinds = {(one.quantity, one.name) for one in correct.verdicts}
    assert {("activation_change", name) for name in ("features", "features#1", "output")} <= kinds
    assert {("decay", name) for name in ("first", "hidden", "readout")} <= kinds
    assert ("update_ratio", "hidden") in kinds


def test_a_gradient_that_is_rounding_is_not_judged():
    """What moves all logits alike has none: the softmax does not see it."""

    def with_offset(width, key):
        return {**make_model(width, key), "offset": jnp.ones((width, 1))}

    def shifted(params, x):
        return apply(params, x) + jnp.tanh(x @ params["first"]) @ params["offset"]

    found = check(make_model=with_offset, apply=shifted)
    gradient = max(
        r["rms"] for r in found.rows if (r["quantity"], r["name"]) == ("gradient", "offset")
    )
    assert 0 < gradient < 1e-6
    assert "offset" not in {one.name for one in found.verdicts}


def mistaken(scalings):
    """AdamW with three mistakes: hidden learning rate, readout decay, eps of the first."""
    wrong = {
        "hidden": {"lr": 1.0, "weight_decay": 1.0},
        "readout": {"weight_decay": 1.0},
        "first": {"eps": 1.0},
    }
    return adamw({n: dataclasses.replace(s, **wrong[n]) for n, s in scalings.items()})


def test_a_mistake_fails_where_it_is():
    found = failing(check(mistaken))
    assert {("update", "hidden"), ("decay", "readout"), ("eps", "first")} <= found
    # What starts right or is decayed right stays so; steps elsewhere may follow the wrong one.
    assert not found & {("decay", "hidden"), ("decay", "first"), ("weight", "hidden")}


def test_the_control_fails_and_the_message_names_rows(correct, monkeypatch):
    from jaxmup.coord_check import _assert

    standard = check(parametrization=named("standard adam"))
    assert {("activation_change", "output"), ("weight", "readout")} <= failing(standard)
    message = failure_message(standard)
    assert "update of hidden" in message
    assert "expected -1" in message
    answers = iter([correct, standard, standard, correct, correct])
    monkeypatch.setattr(_assert, "coord_check", lambda *_, **__: next(answers))
    arguments = (make_model, WIDTHS, DATA, adamw)
    assert assert_coord_check(*arguments) is correct
    with pytest.raises(AssertionError, match="update of hidden"):
        assert_coord_check(*arguments)
    with pytest.raises(AssertionError, match="says nothing"):
        assert_coord_check(*arguments)


# A step that is as large as the weight, which no optimizer that jaxmup knows by name makes so.
RELATIVE = jaxmup.Family("relative", gradient_degree=0, weight_degree=1, eps=None)


def relative(scalings):
    def step(gradients, params):
        return jax.tree.map(lambda g, w: jnp.sign(g) * jnp.sqrt(jnp.mean(w**2)), gradients, params)

    direction = optax.stateless(step)
    return jaxmup.optim.from_direction(direction, 2**-5, scalings, optimizer=RELATIVE)


def test_an_optimizer_of_ones_own_family_is_checked():
    """Without the weight there is no step, so what the weight makes of it is no decay."""
    parametrization = jaxmup.parametrization("mup", RELATIVE, gauge="table3")
    found = check(relative, parametrization=parametrization)
    assert found.outcome == "pass", failure_message(found)
    assert found.family == RELATIVE
    quantities = {one.quantity for one in found.verdicts}
    assert "update" in quantities
    assert "decay" not in quantities


def test_the_control_sees_the_same_batches_of_an_endless_iterable(correct, monkeypatch):
    from jaxmup.coord_check import _assert

    seen = []

    def recorded(make_model, sizes, data, make_tx, **options):
        seen.append(list(itertools.islice(data, options["steps"])))
        return correct if len(seen) == 1 else dataclasses.replace(correct, verdicts=failed)

    failed = (dataclasses.replace(correct.verdicts[0], outcome="fail"),)
    monkeypatch.setattr(_assert, "coord_check", recorded)
    assert_coord_check(make_model, WIDTHS, itertools.count(), adamw, steps=3)
    assert seen == [[0, 1, 2], [0, 1, 2]]


def test_rows_are_what_a_plain_loop_measures(correct):
    """The base model, whose factors are all 1, with optax's AdamW."""
    seed, size, tx = 2, WIDTHS[0], optax.adamw(2**-6, weight_decay=0.1)
    rows = {
        (r["quantity"], r["name"], r["step"]): r["rms"]
        for r in correct.rows
        if (r["size"], r["seed"]) == (size, seed)
    }
    params = make_model(size, jax.random.key(jnp.uint32(seed), impl="unsafe_rbg"))
    state, first = tx.init(params), params

    def loss(params):
        logits = apply(params, DATA[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, DATA[1]).mean(), logits

    seen = []
    for step in range(4):
        (_, logits), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        seen.append(logits)
        updates, state = tx.update(gradients, state, params)
        new = optax.apply_updates(params, updates)
        expected = {
            ("activation", "output"): logits,
            ("activation_change", "output"): logits - seen[0],
            ("weight", "hidden"): params["hidden"],
            ("weight_change", "hidden"): new["hidden"] - first["hidden"],
            ("gradient", "hidden"): gradients["hidden"],
            ("update", "hidden"): updates["hidden"] + 2**-6 * 0.1 * params["hidden"],
        }
        for (quantity, name), value in expected.items():
            rms = float(jnp.sqrt(jnp.mean(value**2)))
            assert rows[quantity, name, step] == pytest.approx(rms, rel=1e-3, abs=1e-9)
        assert rows["decay", "hidden", step] == pytest.approx(2**-6 * 0.1, rel=1e-3)
        params = new


class Layers(nnx.Module):
    """Two layers whose readout has a multiplier of base width over width in `table8`."""

    def __init__(self, width, rule, rngs):
        layer = {"parametrization": rule, "use_bias": False, "rngs": rngs}
        self.first = jaxmup.nnx.Linear(6, width, base_out_features=BASE, **layer)
        self.readout = jaxmup.nnx.Linear(width, 4, base_in_features=BASE, **layer)

    def __call__(self, x):
        return self.readout(jnp.tanh(self.first(x)))


def test_weights_and_their_changes_are_effective_ones_in_any_gauge():
    sizes = []
    for gauge in ("table3", "table8"):
        rule = jaxmup.parametrization("mup", "adam", gauge=gauge)
        found = coord_check(
            lambda width, rngs, rule=rule: Layers(width, rule, rngs), WIDTHS, DATA,
            lambda scalings: jaxmup.optim.adam(2**-6, scalings), parametrization=rule, seeds=2,
        )  # fmt: skip
        keys = ("quantity", "name", "size", "seed", "step")
        sizes.append({tuple(row[key] for key in keys): row["rms"] for row in found.rows})
    without, with_multiplier = sizes
    same = ("weight", "weight_change", "update", "update_ratio")
    for key in (key for key in without if key[0] in same):
        assert with_multiplier[key] == pytest.approx(without[key], rel=1e-4), key
    stored = ("gradient", "readout/kernel", 256, 0, 0)
    assert without[stored] / with_multiplier[stored] == pytest.approx(8, rel=1e-4)  # 256 / 32


class Flagged(nnx.Module):
    """Asks Python whether it trains."""

    def __init__(self, width, rngs):
        self.first = nnx.Linear(6, width, rngs=rngs)
        self.readout = nnx.Linear(width, 4, rngs=rngs)

    def __call__(self, x, factor=1.0, *, train):
        assert train is True
        return self.readout(jnp.tanh(factor * self.first(x)))


def test_flags_and_keywords_of_a_batch_reach_the_model():
    x, labels = DATA
    batch = {"args": (x / 2, np.float32(2)), "kwargs": {"train": True}}, labels
    arguments = (Flagged, (16, 32), batch, lambda scalings: jaxmup.optim.adam(0.01, scalings))
    found = coord_check(*arguments, steps=2, seeds=1)
    assert {"first", "readout", "output"} <= {one.name for one in found.verdicts}


def test_seeds_run_together_as_one_by_one():
    """Accelerators run them together."""
    batches = batches_of(DATA, 2)
    model = Model(make_model, inputs=DATA[0], apply=apply)
    subject = subjects(model, (8, 16), batches.static, rules=RULES)[0]
    training = Training(optax.sgd(0.1), default_loss, 2, (0, 1), repeated=True)
    runs = [
        jax.jit(partial(run_seeds, subject, training, together))(
            jnp.arange(2, dtype=jnp.uint32), batches.arrays
        )
        for together in (False, True)
    ]
    one_by_one, together = (run.unpacked()[0] for run in runs)
    for one, other in zip(one_by_one, together, strict=True):
        np.testing.assert_allclose(one.squares, other.squares, rtol=1e-4, atol=1e-9)


def test_masked_values_do_not_count():
    """3 and 4 of each layer, beside what a mask leaves out: their mean square is 12.5."""
    values = jnp.array([[3.0, 9.0, -4.0, 9.0], [9.0, 4.0, 9.0, 3.0]])
    sums = Sums.of("logits", "", values, (4,), layered=True, where=values < 9)
    measured = sums.measured()
    np.testing.assert_allclose(measured.rms, [12.5**0.5] * 2, rtol=1e-6)
    np.testing.assert_allclose(measured.mean_abs, [3.5] * 2, rtol=1e-6)


def test_the_interval_is_students():
    """Slopes 1, 2 and 3: mean 2. By hand, in units of log 2: variances 0, 1 and 4, of mean 5/3.

    The slope has the variance (5/3) / 3 / (1 + 1), and t = 2.446912 with 3 · 2 degrees of freedom.
    """
    values = np.array([[1.0, 1.0, 1.0], [2.0, 4.0, 8.0], [4.0, 16.0, 64.0]])
    slope = fit((1, 2, 4), values, 0.95)
    assert slope.value == pytest.approx(2)
    assert slope.half_width == pytest.approx(2.446912 * math.sqrt(5 / 18), rel=1e-6)


FLAT = Expected.exactly(0.0)
OPEN = Expected(-0.5, 0.0)
JUDGED = {
    "within": (Slope(0.1, 0.1), FLAT, "pass"),
    "a finite width's effect": (Slope(-0.24, 0.0), FLAT, "pass"),
    "nearer to a mistake": (Slope(-0.3, 0.04), FLAT, "fail"),
    "nearer, and noisy": (Slope(0.27, 0.08), OPEN, "fail"),
    "nearer, and very noisy": (Slope(0.3, 0.35), FLAT, "not enough seeds"),
    "off by a half": (Slope(-0.5, 0.2), FLAT, "fail"),
    "cannot exclude a half": (Slope(0.1, 0.4), FLAT, "not enough seeds"),
    "one seed": (Slope(0.0, math.inf), FLAT, "not enough seeds"),
    "between": (Slope(-0.3, 0.1), OPEN, "pass"),
    "beyond": (Slope(-1.0, 0.1), OPEN, "fail"),
    "cannot exclude a half beyond": (Slope(-0.6, 0.5), OPEN, "not enough seeds"),
}


@pytest.mark.parametrize(("slope", "expected", "outcome"), cases(JUDGED))
def test_judge(slope, expected, outcome):
    assert judge(slope, expected) == outcome


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_what_has_no_slope_fails(bad):
    assert verdict((1, 2), np.array([[1.0, 1.0], [1.0, bad]]), FLAT, 0.1, 0.95)[:2] == (
        None,
        "fail",
    )


N, FADES = np.array([64.0, 128.0, 256.0, 512.0]), np.array([1.0, 0.99, 1.01, 1.0])
# By hand: 1 - 6 n^-1/2 goes from 1/4 to 0.735, of slope 0.5, and from 0.625 to 0.735, of 0.23.
FADING = {
    "fades": (N, 1 - 6 * N**-0.5, "pass"),
    "fades, sizes in any order": (N[::-1], (1 - 6 * N**-0.5)[::-1], "pass"),
    "fades, seen at two sizes": (N[[0, 3]], 1 - 6 * N[[0, 3]] ** -0.5, "fail"),
    "a mistake": (N, N**0.5, "fail"),
    "a mistake that what fades hides": (N, N**0.5 + 2, "fail"),
    "a mistake down": (N, N**-0.5, "fail"),
}


@pytest.mark.parametrize(("sizes", "values", "outcome"), cases(FADING))
def test_what_fades_is_no_mistake(sizes, values, outcome):
    assert verdict(sizes, np.outer(values, FADES), FLAT, 0.25, 0.95)[1] == outcome


def test_noise_at_the_larger_sizes_excuses_nothing():
    """The slope of 256 to 512 is 0.2, but 1/2 is within its interval; that of all is 0.4."""
    noise = np.array([1.18, 0.84, 1.15, 0.88])
    values = np.stack([np.full(4, 1.0), np.full(4, 1.5), np.full(4, 2.0), 2.35 * noise])
    assert verdict(N, values, FLAT, 0.25, 0.95)[1] == "too small"


def test_what_deviates_less_the_larger_the_model_asks_for_larger_ones():
    """Slopes 1.3, 0.85, 0.69 and 0.5 between sizes, as a correct model of attention had them.

    By hand: from 90 to 724, the middles of the outer pairs, they fall as n^-0.46, so that 1/4 is
    2^(1 / 0.46) = 4.5 sizes away: the next power of two times 1024 is 8192.
    """
    sizes = 64.0 * 2 ** np.arange(5)
    values = 2.0 ** np.cumsum([0, 1.3, 0.85, 0.69, 0.5])
    found = verdict(sizes, np.outer(values, FADES), FLAT, 0.25, 0.95)
    assert found[1:] == ("too small", 8192)
    mistake = verdict(sizes, np.outer(sizes**0.5, FADES), FLAT, 0.25, 0.95)
    assert mistake[1:] == ("fail", None)


def test_the_number_of_seeds_that_decide():
    """Noise of 0.4 in log 2 at each of two sizes, by hand with t of 2, 4, 6, ... degrees.

    Two seeds at ±0.2 log 2: variance 0.08, of a slope 2 · 0.08 / seeds; its half-width must be
    below 1/2. Seeds 4: 2.4469 · 0.2 = 0.4894.
    """
    values = 2.0 ** np.array([[-0.2, 0.2], [-0.2, 0.2]])
    found = verdict((1, 2), values, FLAT, 0.25, 0.95)
    assert found[1:] == ("not enough seeds", 4)


# Exponents of the width by hand: TP-V, Table 3 and Appendix B.3, for weights without multipliers.
# Queries, keys and biases of the outputs may be smaller by n^-1/2 until features have aligned.
BY_HAND = {
    "weight": {"first": 0, "hidden": -0.5, "readout": -1},
    "update": {"first": 0, "hidden": -1, "readout": -1, "bias": 0, "head/query/kernel": -1},
    "gradient": {
        "first": -1, "hidden": -1, "readout": 0, "bias": (-0.5, 0),
        "head/query/kernel": (-1.5, -1), "head/key/kernel": (-1.5, -1), "head/value/kernel": -1,
        "head/out/kernel": -1, "headless": -1,
    },
    "update_ratio": {"first": 0, "hidden": -0.5, "readout": 0},
    "decay": {"first": 0, "hidden": 0, "readout": 0, "bias": 0},
    "decay_ratio": {"first": 0, "hidden": 0.5, "readout": 0},
    "eps": {
        "first": 0, "hidden": 0, "readout": 0, "bias": (-0.5, 0),
        "head/query/kernel": (-0.5, 0), "head/out/kernel": 0,
    },
}  # fmt: skip
# The step of SGD is as large as its gradient: Table 3's learning rates are n, 1 and 1.
BY_HAND_SGD = {
    "first": 0, "hidden": -1, "readout": -1, "bias": (-0.5, 0),
    "head/key/kernel": (-1.5, -1), "head/value/kernel": -1,
}  # fmt: skip


def spec(width, *axes):
    """Axes are `input` and `output`, capital where they grow."""
    sizes = [(kind, width if kind.isupper() else 4) for kind in axes]
    grown = [
        Axis(kind.lower(), size, **({"base": 32} if kind.isupper() else {})) for kind, size in sizes
    ]
    return ParamSpec(tuple(grown))


def theory(optimizer="adam"):
    rule = jaxmup.parametrization("mup", optimizer, gauge="table3")
    both = ("INPUT", "OUTPUT")
    axes = {"first": ("input", "OUTPUT"), "hidden": both, "readout": ("INPUT", "output")}
    axes |= {"bias": ("output",), "headless": both}
    axes |= {f"head/{name}/kernel": both for name in ("query", "key", "value", "out")}
    specs = [{name: spec(width, *kinds) for name, kinds in axes.items()} for width in WIDTHS]
    scalings = tuple(jaxmup.resolve(one, rule) for one in specs)
    sizes = tuple(map(float, WIDTHS))
    open_at_first = Signs({"head/query/kernel": 0.5, "head/key/kernel": 0.5}, {}, frozenset(), {})
    return Theory(sizes, tuple(specs), scalings, rule, open_at_first)


def ends(exponents):
    return exponents if isinstance(exponents, tuple) else (exponents, exponents)


OWN_SGD = jaxmup.Family("my sgd", gradient_degree=1, weight_degree=0, eps=None)


@pytest.mark.parametrize(
    ("optimizer", "quantity", "exponents"),
    [("adam", *item) for item in BY_HAND.items()]
    + [(optimizer, "update", BY_HAND_SGD) for optimizer in ("sgd", OWN_SGD)],
)
def test_expected_exponents(optimizer, quantity, exponents):
    for name, exponent in exponents.items():
        found = theory(optimizer).of_parameter(quantity, name, decays=False)
        assert (found.low, found.high) == pytest.approx(ends(exponent)), name


def test_decay_of_the_initial_values_is_part_of_a_change():
    expected = theory().of_parameter("weight_change", "hidden", decays=True)
    assert (expected.low, expected.high) == pytest.approx((-1, -0.5))


def outputs(name, *features):
    return [Measured("activation", name, (2, size), False, jnp.ones(1)) for size in features]


@pytest.mark.parametrize(
    ("name", "features", "low", "high"),
    [("features", (8, 16), 0, 0), ("output", (4, 4), -0.5, 0), ("head/out", (32, 256), 0, 0)],
)
def test_expected_exponents_of_outputs(name, features, low, high):
    expected = theory().of_output(outputs(name, *features))
    assert (expected.low, expected.high) == pytest.approx((low, high))


def test_queries_of_plain_attention_carry_what_it_lacks():
    """Logits over sqrt(d) instead of d: the queries are n^-1/2 smaller, and so are their steps."""
    specs = tuple(
        {
            name: dataclasses.replace(spec(width, "INPUT", "OUTPUT"), forward_gain=gain)
            for name, gain in (("query/kernel", (32 / width) ** 0.5), ("key/kernel", 1.0))
        }
        for width in WIDTHS
    )
    rule = named("mup adam table3")
    scalings = tuple(jaxmup.resolve(one, rule) for one in specs)
    plain = Theory(tuple(map(float, WIDTHS)), specs, scalings, rule)
    for name, exponent in (("query", -0.5), ("key", 0), ("", 0)):
        for expected in (
            plain.of_output(outputs(name, 32, 256)),
            plain.of_change(outputs(name, 32, 256)),
        ):
            assert (expected.low, expected.high) == pytest.approx((exponent, exponent)), name


def test_expected_exponents_where_a_layer_narrows():
    """Outputs grow as the root of the inputs: weights n^-1/2 · n^-1/4, so that sums are n^-1/4."""
    sizes = [(64, 64), (256, 128), (1024, 256)]
    specs = [
        {
            "narrows/kernel": ParamSpec((Axis("input", n, base=64), Axis("output", m, base=64))),
            "readout/kernel": ParamSpec((Axis("input", m, base=64), Axis("output", 4))),
        }
        for n, m in sizes
    ]
    rule = named("mup adam table3")
    scalings = tuple(jaxmup.resolve(one, rule) for one in specs)
    narrows = Theory((64.0, 256.0, 1024.0), tuple(specs), scalings, rule)
    for name, features, low, high in (
        ("narrows", (64, 128, 256), -0.25, 0), ("readout", (4, 4, 4), -0.5, -0.25)
    ):  # fmt: skip
        expected = narrows.of_output(outputs(name, *features))
        assert (expected.low, expected.high) == pytest.approx((low, high)), name


def seen(model, inputs):
    """The tagged values of an NNX model or a Linen module with its variables."""
    if isinstance(model, tuple):
        module, variables = model

        def linen(variables, inputs):
            with tagging_linen():
                return module.apply(variables, inputs)

        return module.apply(variables, inputs), collecting(linen, variables, inputs)(
            variables, inputs
        )
    graph, state = nnx.split(model)

    def call(state, inputs):
        return tag_nnx(nnx.merge(graph, state, copy=True))(inputs)

    return model(inputs), collecting(call, state, inputs)(state, inputs)


def names(found):
    return [one.name or "output" for one in found]


class Twice(nnx.Module):
    """Uses one layer twice, once inside of remat and jit."""

    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        again = nnx.jit(nnx.remat(lambda layer, x: nnx.relu(layer(x))))
        return again(self.layer, self.layer(x))


def test_every_use_is_seen_and_the_model_is_left_alone():
    model = Twice(nnx.Rngs(0))
    types = [type(module) for _, module in nnx.iter_modules(model)]
    result, (again, found) = seen(model, jnp.ones((2, 3)))
    assert names(found) == ["layer", "layer#1", "output"]
    np.testing.assert_array_equal(found[1].value, model.layer(model.layer(jnp.ones((2, 3)))))
    np.testing.assert_array_equal(again, result)
    assert types == [type(module) for _, module in nnx.iter_modules(model)]
    assert type(model.layer) is nnx.Linear


@jax.custom_vjp
def with_its_own_gradient(x):
    return tag("inside", jnp.sin(x))


with_its_own_gradient.defvjp(lambda x: (with_its_own_gradient(x), x), lambda x, g: (g,))


def test_tags_are_seen_inside_of_every_call():
    """A function with its own gradient too, a call inside of a call, and any in a loop."""

    def model(x):
        x = jax.checkpoint(jax.jit(with_its_own_gradient))(x)
        return jax.lax.map(with_its_own_gradient, x)

    x = jnp.ones((2, 3))
    result, (first, second) = collecting(model, x)(x)
    assert [one.name for one in (first, second)] == ["inside", "inside#1"]
    np.testing.assert_array_equal(first.value, jnp.sin(x))
    np.testing.assert_array_equal(second.value, result)
    assert (second.scanned, second.shape) == (1, (3,))


def test_the_layers_of_a_stack_are_seen_one_by_one():
    sizes = {"width": 8, "num_layers": 3, "num_heads": 2, "base_width": 8}
    tokens = jnp.arange(5)[None]
    stacked = GPT(11, **sizes, stacked=True, rngs=nnx.Rngs(0))
    result, (again, found) = seen(stacked, tokens)
    np.testing.assert_allclose(again, result, rtol=1e-5, atol=1e-6)
    by_name = {one.name: one for one in found}
    ups = by_name["blocks/blocks/feed_forward/up"]
    assert (ups.value.shape, ups.scanned, ups.shape) == (
        (3, 5, 32),
        1,
        (5, 32),
    )  # tokens on one axis
    logits = by_name["blocks/blocks/attention/logits"]
    assert logits.is_logits
    assert logits.value.shape[-2:] == (5, 5)


def test_gradients_pass_through_a_scanned_linen_model():
    plain = MODELS["scanned Linen transformer"]
    module = plain.make_model(8)
    variables = module.init(jax.random.key(0), plain.batch[:1])
    result, (again, found) = seen((module, variables), plain.batch[:1])
    np.testing.assert_allclose(again[1], result[1], rtol=1e-5, atol=1e-6)
    assert "blocks/up" in names(found)
    assert [one.scanned for one in found if one.name == "blocks/up"] == [1]
    assert "blocks/attention/logits" in names(found)


class Once(nn.Module):
    """Has two outputs, and a layer that is called twice."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(3, name="layer")
        return layer(layer(x)), x


def test_a_linen_module_with_several_outputs():
    module, x = Once(), jnp.ones((1, 3))
    _, (_, found) = seen((module, module.init(jax.random.key(0), x)), x)
    assert names(found) == ["layer", "layer#1", "[0]", "[1]"]


def test_a_record_is_read_as_it_was_written(correct, tmp_path):
    write_record(correct, tmp_path / "record.jsonl")
    assert read_record(tmp_path / "record.jsonl") == correct
    for line in (tmp_path / "record.jsonl").read_text().splitlines():
        json.loads(line)
    (tmp_path / "other").write_text("{}\n")
    with pytest.raises(ValueError, match=r"of format 'jaxmup.coord_check'"):
        read_record(tmp_path / "other")


def ignores(width, key):
    return make_model(16, key)


def breaks(width, key):
    raise KeyError("no such width")


def with_nan():
    inputs = DATA[0].copy()
    inputs[1, 2] = math.nan
    return inputs, DATA[1]


BAD = {
    "one width": ({"sizes": (64,)}, "at least two different"),
    "a width twice": ({"sizes": (64, 64)}, "at least two different"),
    "ignores the width": ({"make_model": ignores}, r"(?s)must use the size.*first \(6, 16\)"),
    "raises": (
        {"make_model": breaks},
        r"`size` = 32. It raised KeyError at test_coord_check.py:\d+: 'no such width'",
    ),
    "another type": ({"make_model": lambda width: "model"}, "Got 'model' for size 32"),
    "no apply": ({"apply": None}, "`apply` must be given"),
    "data run out": ({"data": iter([DATA] * 3)}, "4 steps. It ran out after 3"),
    "NaN": ({"data": with_nan()}, "Batch 0 has 1 entries"),
    "NaN later": ({"data": itertools.chain([DATA] * 2, [with_nan()] * 2)}, "Batch 2 has 1"),
    "other batches": ({"data": [DATA, tuple(x[:2] for x in DATA)] * 2}, "one shape"),
    "no batch": ({"data": [DATA[0]] * 4}, "A batch must be a tuple"),
    "no data": ({"data": 3}, "Got int"),
    "one step": ({"steps": 1}, "at least 2"),
    "no seeds": ({"seeds": 0}, "at least 1"),
    "confidence": ({"confidence": 1.0}, "above 0 and below 1"),
    "tolerance": ({"tolerance": 0.5}, "at least 0 and below 0.5"),
}


def empty(inputs, targets):
    return inputs[:0], targets[:0]


# These say nothing of the model, which is not even traced.
WRONG = {
    "no widths": ({"sizes": ()}, "at least two different"),
    "one width, to iterate": ({"sizes": iter((64,))}, "at least two different"),
    "a width twice, of three": ({"sizes": (64, 128, 64)}, "at least two different"),
    "equal widths of two types": ({"sizes": (64, np.int32(64))}, "at least two different"),
    "a number for the widths": ({"sizes": 64}, "a sequence of integers"),
    "a width that is no integer": ({"sizes": (64, 96.5)}, "an integer of at least 1. Got 96.5"),
    "a width that is no number": ({"sizes": (True, 2)}, "an integer of at least 1. Got True"),
    "a width of zero": ({"sizes": (0, 64)}, "an integer of at least 1. Got 0"),
    "no examples": ({"data": empty(*DATA)}, r"Batch 0 has none in an array of shape \(0, 6\)"),
    "no examples later": ({"data": [DATA, empty(*DATA)] * 2}, "Batch 1 has none"),
    "other flags": (
        {"data": [({"args": DATA[0], "kwargs": {"train": flag}}, DATA[1]) for flag in "1234"]},
        "the same flags",
    ),
    "no inputs": ({"data": ((), DATA[1])}, "The inputs must hold an array"),
    "bfloat16 NaN": ({"data": (jnp.full((2, 6), jnp.nan, "bfloat16"), DATA[1])}, "must be finite"),
    "a seed twice": ({"seeds": (1, 2, 1)}, "none twice"),
    "no seed of several": ({"seeds": ()}, "at least one"),
    "a negative seed": ({"seeds": (-1,)}, "at least 0. Got -1"),
    "a long seed": ({"seeds": (2**32,)}, "below 4.29497e"),
    "a broken number of seeds": ({"seeds": 2.5}, "an integer of at least 1. Got 2.5"),
    "a broken number of steps": ({"steps": 2.5}, "an integer of at least 2. Got 2.5"),
    "NaN tolerance": ({"tolerance": np.float32("nan")}, "below 0.5. Got"),
    "tolerance in words": ({"tolerance": "small"}, "a real number. Got 'small'"),
    "confidence in percent": ({"confidence": np.array(95)}, "above 0 and below 1. Got"),
    "over time": ({"over": "time"}, "one of 'width', 'depth'. Got 'time'"),
    "a rate for a transform": ({"make_tx": 0.01}, "a function of scalings"),
    "a name for a loss": ({"loss_fn": "mse"}, "a function of outputs and targets"),
    "a name for a parametrization": ({"parametrization": "mup"}, "must be a `Parametrization`"),
}


@pytest.mark.parametrize(("changed", "message"), cases(WRONG))
def test_wrong_arguments_are_refused_before_anything_is_traced(changed, message):
    def untraced(width, key):
        raise AssertionError("the model was made")

    arguments = {"make_model": untraced, "sizes": WIDTHS, "data": DATA, "make_tx": adamw}
    with pytest.raises((TypeError, ValueError), match=message):
        coord_check(**arguments | {"apply": apply, "rules": RULES} | changed)


@pytest.mark.parametrize(("changed", "message"), cases(BAD))
def test_bad_input_is_refused_before_anything_is_trained(changed, message):
    arguments = {
        "make_model": make_model, "sizes": WIDTHS, "data": DATA, "make_tx": adamw,
        "apply": apply, "rules": RULES,
    }  # fmt: skip
    with pytest.raises((TypeError, ValueError), match=message):
        coord_check(**arguments | changed)


USER = """
import numpy as np
from flax import nnx

def make_model(width, rngs):
    return nnx.Sequential(nnx.Linear(3, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs))

def make_batch():
    return np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32), np.arange(16) % 2

def make_tx(scalings):
    raise ValueError("my transform")
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "coord_user.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = ["coord-check", "coord_user:make_model", "--data", "coord_user:make_batch"]
    sizes = ["--sizes", "16,64", "--steps", "2", "--seeds", "2", "--out", "out"]
    assert cli.run([*command, *sizes]) == 1  # two seeds are not enough
    printed = capsys.readouterr().out
    assert "not enough seeds" in printed
    assert read_record("out/coord_check.jsonl").sizes == (16, 64)
    assert (tmp_path / "out" / "coord_check.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").touch()
    bad = {
        ("--sizes", "16"): "at least two",
        ("--sizes", "a"): "integers with commas",
        ("--out", "file"): "--out",
        ("--optimizer", "adagrad"): "'adagrad'",
        ("--make-tx", "coord_user:make_tx"): "my transform",
        ("--data", "coord_user:nothing"): "has no 'nothing'",
    }
    for changed, message in bad.items():
        asked = command[: command.index(changed[0])] if changed[0] in command else command
        assert cli.run([*asked, *changed]) == 2
        assert message in capsys.readouterr().err
