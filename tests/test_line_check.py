"""The line check: what it measures of a program, what it predicts, and the zoo held against it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_zoo import ZOO
from zoo.case import at
from zoo.training import line_check_of, model_of, sizes_of

import jaxmup
from jaxmup._program import flatten, is_inexact
from jaxmup.coord_check import (
    LineCheck,
    LineGrowth,
    line_check,
    read_line_record,
    write_line_record,
)
from jaxmup.coord_check._lines import predictions
from jaxmup.coord_check._subject import under
from jaxmup.coord_check._values import mean_squares, places_of

X = jnp.array([1.0, 2.0, 3.0])


def measured(function, *args):
    """The mean square of each value of a function's program that was measured, by its operation."""
    program = jax.make_jaxpr(function)(*args)
    nodes = flatten(program).nodes
    found = mean_squares(program, args, places_of(program))
    return [(nodes[i].op, np.asarray(value).tolist()) for i, value in sorted(found.items())]


def test_mean_squares_by_hand():
    assert measured(lambda x: 2 * x - 1, X) == [
        ("mul", pytest.approx(4 * 14 / 3)),  # 2 4 6
        ("sub", pytest.approx((1 + 9 + 25) / 3)),  # 1 3 5
    ]


def test_two_calls_of_one_compiled_function_are_told_apart():
    double = jax.jit(lambda x: 2 * x)
    assert measured(lambda x: double(double(x)), X) == [
        ("mul", pytest.approx(4 * 14 / 3)),
        ("mul", pytest.approx(16 * 14 / 3)),
    ]


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_the_inside_of_a_call_is_measured(wrap):
    assert measured(wrap(lambda x: -(3 * x)), X) == [
        ("mul", pytest.approx(9 * 14 / 3)),
        ("neg", pytest.approx(9 * 14 / 3)),
    ]


def test_the_inside_of_a_scan_is_measured_at_every_iteration():
    def sums(x):
        return jax.lax.scan(lambda total, now: (total + now, 2 * (total + now)), 0.0, x)

    # Running sums 1 3 6, and twice those, put together as one value behind the scan.
    values = measured(sums, X)
    assert ("add", [1.0, 9.0, 36.0]) in values
    assert ("mul", [4.0, 36.0, 144.0]) in values
    assert ("mul", pytest.approx((4 + 36 + 144) / 3)) in [("mul", v) for _, v in values[-1:]]


def test_what_a_mask_writes_does_not_count():
    masked = jnp.array([True, False, True])
    values = dict(measured(lambda x: jnp.where(masked, x, -1e30) + 1, X))
    assert values["add"] == pytest.approx((4 + 16) / 2)


def test_branches_and_whiles_are_measured_where_they_end():
    def choose(x):
        y = jax.lax.cond(x[0] > 0, lambda x: 3 * x, lambda x: x + 1, x)
        return jax.lax.while_loop(lambda y: y[0] < 100, lambda y: 2 * y, y) + 1

    values = dict(measured(choose, X))
    assert values["choice"] == pytest.approx(9 * 14 / 3)
    # 3 doubled six times is 192.
    assert values["add"] == pytest.approx(np.mean((192 * np.array([1, 2, 3]) + 1) ** 2))
    assert "mul" not in values


# ---- a model whose orders are known


def make_params(width, key):
    keys = jax.random.split(key, 3)
    return {
        "embed": jax.random.normal(keys[0], (8, width)),
        "w": jax.random.normal(keys[1], (width, width)) / math.sqrt(width),
        "head": jnp.zeros((width, 2)),
    }


def apply(params, x):
    h = x @ params["embed"]  # embed
    h = math.sqrt(h.shape[-1]) * h  # root
    h = jnp.tanh(h) @ params["w"]  # hidden
    total = (h**2).sum(-1)  # total
    return h @ params["head"] / (1 + 0 * total[:, None])  # logits


DATA = jax.random.normal(jax.random.key(0), (16, 8)), jnp.arange(16) % 2


def adam(scalings):
    return jaxmup.optim.adam(2**-7, scalings)


def check_of(**options):
    given = {"seeds": 2, "steps": 3, **options}
    return line_check(make_params, (32, 128), DATA, adam, apply=apply, **given)


def by_marker(check, marker):
    (line,) = {one.line for one in check.values if _is_at(one, marker)}
    return [one for one in check.values if one.line == line]


def _is_at(one, marker):
    return one.line == at(__file__, marker).replace("\\", "")


@pytest.fixture(scope="module")
def carried():
    return check_of()


def test_predicted_exponents_by_hand(carried):
    # √n is carried by the embedding, so that what it multiplies falls as n^-1/2.
    assert [one.predicted for one in by_marker(carried, "embed")] == pytest.approx([-0.5])
    assert [one.predicted for one in by_marker(carried, "root")] == pytest.approx([0])
    # A square of order 0, and its sum over the width.
    assert [one.predicted for one in by_marker(carried, "total")] == pytest.approx([0, 1])
    assert all(one.predicted == pytest.approx(0) for one in by_marker(carried, "hidden"))


def test_measured_exponents_are_those_predicted(carried):
    for marker in ("embed", "root", "total"):
        for one in by_marker(carried, marker):
            assert one.start == pytest.approx(one.predicted, abs=0.1)
            assert one.end == pytest.approx(one.predicted, abs=0.15)
    assert carried.exceeding() == ()


def test_zero_at_the_start_has_no_exponent(carried):
    logits = [one for one in by_marker(carried, "logits") if one.op == "dot_general"]
    assert [one.start for one in logits] == [None]
    assert logits[0].start_rms == (0, 0)
    assert all(value > 0 for value in logits[0].end_rms)


def test_the_end_is_behind_the_last_step():
    check = check_of(steps=1, seeds=1)
    logits = next(one for one in by_marker(check, "logits") if one.op == "dot_general")
    assert (logits.start, logits.start_rms) == (None, (0, 0))
    assert all(value > 0 for value in logits.end_rms)


def test_a_transform_stands_for_every_size():
    check = line_check(make_params, (32, 128), DATA, optax.sgd(0.0), apply=apply, seeds=1, steps=1)
    assert all(one.start_rms == one.end_rms for one in check.values)


def test_a_factor_that_nobody_carries_shows_at_its_line():
    check = check_of(gains=False)
    (root,) = [one for one in by_marker(check, "root") if one.op == "mul"]
    assert root.predicted == pytest.approx(0)
    assert root.excess == pytest.approx(0.5, abs=0.1)
    assert check.exceeding(0.3)[0].line == by_marker(check, "embed")[0].line


def test_missing_factors_are_named_where_they_arise(carried):
    # The √n, by half a power: not at the embedding that carries the inverse, nor further on.
    found = [(one.line, one.op, one.lacks) for one in carried.values if one.lacks]
    (root,) = [one for one in by_marker(carried, "root") if one.op == "mul"]
    assert found == [(root.line, "mul", pytest.approx(0.5))]


def test_what_is_no_number_behind_training_exceeds():
    def diverging(params, x):
        return apply(params, x) + jnp.sum(jnp.where(x > 100, jnp.log(x - 100), 0))

    assert check_of(steps=1, seeds=1).exceeding() == ()
    options = {"apply": diverging, "seeds": 1, "steps": 2}
    check = line_check(make_params, (32, 128), DATA, optax.sgd(1e30), **options)
    first = check.exceeding()[0]
    assert (first.end, first.excess) == (None, math.inf)
    assert math.isfinite(first.start)
    # What is no number from the start, and not chosen, is no value of the model.
    assert "log" not in [one.op for one in check.values]


def test_the_standard_parametrization_exceeds_at_the_readout():
    check = check_of(parametrization=jaxmup.parametrization("standard", "adam"), steps=4, seeds=[5])
    assert max(one.excess for one in by_marker(check, "logits")) > 0.4
    assert check.worst()[0].excess == max(one.excess for one in check.values)


def test_unequal_growth_is_measured_against_what_grows_most():
    def make(width, hidden, key):
        up = jax.random.normal(key, (4, hidden))
        return {"up": up, "down": jax.random.normal(key, (hidden, width)) / math.sqrt(hidden)}

    def call(params, x):
        total = (x @ params["up"]).sum(-1, keepdims=True)  # sum over hidden
        return jnp.tanh(total / params["up"].shape[1]) * (x @ params["up"] @ params["down"])

    sizes = [{"width": 8, "hidden": 16}, {"width": 128, "hidden": 64}]
    data = jnp.ones((3, 4)), jnp.zeros((3, 1))
    check = line_check(make, sizes, data, adam, apply=call, seeds=1, steps=1)
    assert check.widths == (1, 16)
    (total,) = [one for one in by_marker(check, "sum over hidden") if one.op == "reduce_sum"]
    assert total.predicted == pytest.approx(0.5)  # 4 = 16^1/2


def test_a_frozen_parameter_is_part_of_the_program():
    model = jaxmup.Model(make_params, apply=apply, wrt=("w", "head"))
    # The embedding does not train, so `√n` cannot be carried.
    with pytest.raises(ValueError, match="carry"):
        line_check(model, (32, 128), DATA, adam, seeds=1, steps=1)


# ---- the record


ONE = LineGrowth("a.py:3", "f", "mul", ((2, 8), (2, 32)), 0.0, None, 0.5, (0.0, 0.0), (1.0, 2.0))
CHECK = LineCheck(
    sizes=(8, 32),
    widths=(1.0, 4.0),
    seeds=(0, 1),
    steps=4,
    parametrization="muP",
    values=(
        ONE,
        dataclasses.replace(ONE, op="add", end=0.1),
        dataclasses.replace(ONE, line="a.py:1", start=0.25, end=0.25, predicted=0.25),
        dataclasses.replace(ONE, line="b.py:1", end=None),
    ),
)


def test_the_table_has_the_worst_value_of_each_line_first():
    assert CHECK.table(2).splitlines() == [
        "line    operation  shape   predicted  start    end  excess",
        "a.py:3  mul        (2, 8)      +0.00      -  +0.50   +0.50",
        "a.py:1  mul        (2, 8)      +0.25  +0.25  +0.25   +0.00",
    ]
    assert [one.op for one in CHECK.exceeding()] == ["mul"]
    assert [one.op for one in CHECK.exceeding(0.05)] == ["mul", "add"]


def test_a_record_is_read_as_it_was(tmp_path):
    path = tmp_path / "lines.jsonl"
    write_line_record(CHECK, path)
    assert read_line_record(path) == CHECK
    broken = dataclasses.replace(ONE, end=None, end_rms=(math.inf, 1.0))
    write_line_record(dataclasses.replace(CHECK, values=(broken,)), path)
    (read,) = read_line_record(path).values
    assert math.isnan(read.end_rms[0])
    assert read.end_rms[1] == 1
    path.write_text(path.read_text().replace("line_check", "coord_check"))
    with pytest.raises(ValueError, match=r"jaxmup\.line_check"):
        read_line_record(path)


# ---- bad input


@pytest.mark.parametrize(
    ("options", "match"),
    [({"steps": 0}, "steps"), ({"seeds": 0}, "seeds"), ({"seeds": (1, 1)}, "seeds")],
)
def test_bad_numbers_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        check_of(**options)


@pytest.mark.parametrize("sizes", [(32,), (32, 32), [{"width": 8}, {"heads": 8}], (128, 32)])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes"):
        line_check(make_params, sizes, DATA, adam, apply=apply)


def test_layers_with_a_parametrization_of_their_own_are_refused():
    def make(width, rngs):
        return jaxmup.nnx.Linear(8, width, base_out_features=8, rngs=rngs)

    with pytest.raises(ValueError, match="coord_check"):
        line_check(make, (8, 32), DATA, adam)


# ---- the zoo

SHOWS = {  # the function and the operation whose value lacks a factor, typed from the models
    "attentions, no scale": ("attended", "dot_general"),
    "ties, √n on an embedding, sinusoids beside it": ("_", "mul"),
    "layered, readout by product and sum": ("_", "reduce_sum"),
    "layered, running sum over the width": ("_", "cumsum"),
}
ARISE = {  # where a factor is missing, and the exponent of the width that is too much
    "attentions, no scale": [("attended", "dot_general", 1)],
    "attentions, packed, head size grows": [("packed", "dot_general", 0.5)],
    "decoder, tied": [("grouped_attention", "dot_general", 0.5)] * 2
    + [("Decoder.__call__", "dot_general", 1)],
    "layered, readout by product and sum": [("_", "reduce_sum", 1)],
    # Every product is divided by √n: that of a matrix, and that of the readout.
    "layered, NTK parametrization": [("_", "div", -0.5), ("_", "div", -1)],
    "made_weights, weight norm": [],
}
CHOSEN = {  # of more experts: the only values that are not of order 0, and their exponents
    "sorted tokens": [("routed", "reduce_sum", 1)],
    "Switch": [("dispatched", "reduce_sum", 1)],
    "the largest": [("the_largest", "reduce_sum", 1)],
    "above a threshold": [],
    "softly": [("softly", "reduce_sum", 1)],
    # Matrices that are taken for each token: entries of n^-1/2, and of f^-1/2.
    "matrices of the chosen": [
        ("routed", "reduce_sum", 1),
        ("matrices_of_the_chosen", "gather", -0.5),
        ("matrices_of_the_chosen", "gather", -0.5),
    ],
}


def predicted_of(name):
    with jax.numpy_rank_promotion("allow"):
        model, sizes = model_of(ZOO[name]), sizes_of(ZOO[name], (2, 8))
        specs = under(None, model, sizes)[0].spec_of
        return [one for one in predictions(model, sizes, specs) if one.logs and one.node.line]


def exponents(values, field):
    found = [(one.node, getattr(one, field)) for one in values]
    logs = [(node, log[1] / math.log(4)) for node, log in found if log]
    return [(node.line.function, node.op, x) for node, x in logs if abs(x) > 1e-9]


@pytest.mark.parametrize("name", ARISE)
def test_where_the_factors_of_the_zoo_arise(name):
    found = exponents(predicted_of(name), "lacks")
    assert found == [(*where, pytest.approx(x)) for *where, x in ARISE[name]]


@pytest.mark.parametrize("name", CHOSEN)
def test_of_more_experts_only_the_sum_that_a_softmax_divides_by_grows(name):
    # Once one is chosen its probability is of order 0, as is what all probabilities sum to. Places
    # of experts are integers, which grow with their number and are not measured.
    every = predicted_of(f"moe, {name}, more experts")
    values = [one for one in every if is_inexact(one.node.types[0])]
    found = [one for one in exponents(values, "logs") if one[1] != "broadcast_in_dim"]
    assert found == [(*where, pytest.approx(x)) for *where, x in CHOSEN[name]]


@pytest.mark.parametrize("name", SHOWS)
def test_no_value_of_the_zoo_outgrows_its_order_and_what_is_missing_shows(name):
    with jax.numpy_rank_promotion("allow"):
        check = line_check_of(ZOO[name], seeds=3)
        assert check.exceeding(0.2) == (), check.table()
        without = line_check_of(ZOO[name], seeds=3, gains=False)
        assert SHOWS[name] in [(one.function, one.op) for one in without.exceeding(0.3)]
