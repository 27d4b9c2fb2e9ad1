"""The coordinate check over depth: which layers are compared, and what is expected of them."""

import jax
import numpy as np
import pytest

import jaxmup
from jaxmup import Axis, ParamSpec, parametrization
from jaxmup.coord_check import assert_coord_check
from jaxmup.coord_check._depth import matched, of_layers, standing_for
from jaxmup.coord_check._expected import Expected, Place, Theory
from jaxmup.coord_check._sums import Measured

# ---- which layers stand for one another


def test_layers_are_compared_where_they_read_and_whole_layers_where_they_write():
    # By hand: of 4 layers the stream is read at 0, 1/4, 1/2, 3/4 and written at 1/4, 1/2, 3/4, 1.
    assert [standing_for(i, 2, 4, writes=False) for i in (0, 1)] == [0, 2]
    assert [standing_for(i, 2, 4, writes=True) for i in (0, 1)] == [1, 3]
    assert standing_for(0, 1, 8, writes=False) == 0
    assert standing_for(0, 1, 8, writes=True) == 7
    for writes in (False, True):
        assert [standing_for(i, 3, 3, writes=writes) for i in range(3)] == [0, 1, 2]


def stack(name, depth, values):
    return Measured("activation", name, (2,), True, np.array(values, float).reshape(1, 1, depth))


@pytest.mark.parametrize(("whole", "expected"), [(False, [0, 3]), (True, [2, 5])])
def test_layers_of_a_stack(whole, expected):
    stacks = [stack("blocks", 2, (0, 1)), stack("blocks", 6, range(6))]
    compared = {layer: values.ravel().tolist() for layer, values in of_layers(stacks, 0, whole)}
    assert compared == {0: [0, expected[0]], 1: [1, expected[1]]}


def block(width=8, ratio=1.0):
    return ParamSpec((Axis("input", width), Axis("output", width)), depth_ratio=ratio)


def listed(depth, form="blocks/{}/dense/kernel"):
    names = [form.format(i) for i in range(depth)]
    specs = {name: block(ratio=depth / 2) for name in names} | {"out/kernel": block()}
    values = [("weight", name) for name in specs]
    values += [("activation", form.format(i).removesuffix("/dense/kernel")) for i in range(depth)]
    values += [("activation", form.format(i).removesuffix("/kernel")) for i in range(depth)]
    values += [("activation", form.format(i).removesuffix("/dense/kernel") + "#1") for i in (0, 1)]
    run = [Measured(q, name, (1,), False, np.full((1, 1), i)) for i, (q, name) in enumerate(values)]
    return specs, run, values


@pytest.mark.parametrize("form", ["blocks/{}/dense/kernel", "Block_{}/dense/kernel"])
def test_layers_of_a_list_keep_the_names_of_the_shallowest(form):
    # The larger model comes first: sizes may stand in any order.
    (deep, of_deep, names), (shallow, of_shallow, _) = listed(6, form), listed(2, form)
    runs, first, whole = matched([of_deep, of_shallow], [deep, shallow])
    stands = [
        {(one.quantity, one.name): names[int(one.rms[0, 0])][1] for one in runs[0]},
        {(one.quantity, one.name): one.name for one in runs[1]},
    ]
    layer, write = form.removesuffix("/dense/kernel").format, "activation"
    assert stands[0] == {
        ("weight", form.format(0)): form.format(0),
        ("weight", form.format(1)): form.format(3),
        ("weight", "out/kernel"): "out/kernel",
        (write, layer(0)): layer(2),
        (write, layer(1)): layer(5),
        (write, layer(0) + "/dense"): layer(0) + "/dense",
        (write, layer(1) + "/dense"): layer(3) + "/dense",
    }  # fmt: skip
    assert stands[0].keys() <= stands[1].keys()
    assert {form.format(0), layer(0), layer(0) + "/dense"} <= first
    assert form.format(1) not in first
    assert whole == {layer(0), layer(1)}


def test_what_is_no_list_of_equal_layers_keeps_its_names():
    shallow = {f"Dense_{i}/kernel": block(8 + i) for i in range(2)}
    deep = {f"Dense_{i}/kernel": block(8 + i) for i in range(4)}
    runs = [
        [Measured("weight", n, (1,), False, np.zeros((1, 1))) for n in s] for s in (shallow, deep)
    ]
    assert matched(runs, [shallow, deep]).runs == runs


# ---- what is expected


# By hand. Blocks add depth^-α each, with random signs depth^(1/2 - α) together; their own weights
# learn by depth^(α - 1), so that values and gradients that follow from what they learned fall by as
# much. A gradient in a block is as small as what the block adds, but a norm divides it by a stream
# that falls short, and in the first layer by one that block 0 makes.
DEPTHS = (2.0, 4.0, 8.0)
EXPECTED = {  # α: stream, its change, inside of a block, gradient of block 1 and of block 0, step
    1.0: ((-0.5, 0), (-0.5, 0), (-0.5, 0.5), (-1, -0.5), (-1, 0), (0, 0)),
    0.75: ((-0.25, 0), (-0.25, 0), (-0.25, 0.25), (-1, -0.5), (-1, 0), (-0.25, -0.25)),
    0.5: ((0, 0), (0, 0), (-0.5, 0), (-1, -0.5), (-1, 0), (-0.5, -0.5)),
    0.0: ((0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)),
}


@pytest.mark.parametrize("alpha", EXPECTED)
def test_exponents_over_depth(alpha):
    specs = [
        {f"blocks/{i}/dense/kernel": block(ratio=n / 2) for i in range(2)}
        | {"embed/kernel": block()}
        for n in DEPTHS
    ]
    rule = parametrization("mup", "adam", gauge="table3", depth_alpha=alpha)
    theory = Theory(DEPTHS, tuple(specs), tuple(jaxmup.resolve(s, rule) for s in specs), rule)

    def output(name):
        return [Measured("activation", name, (8,), False, np.ones((1, 1))) for _ in DEPTHS]

    kernel = "blocks/1/dense/kernel"
    found = (
        theory.of_output(output("norm")),
        theory.of_change(output("blocks/1"), Place(writes=True)),
        theory.of_change(output("blocks/1/dense")),
        theory.of_parameter("gradient", kernel, False, Place()),
        theory.of_parameter("gradient", kernel, False, Place(first_layer=True)),
        theory.of_parameter("update", kernel, False),
    )
    for one, (low, high) in zip(found, EXPECTED[alpha], strict=True):
        assert (one.low, one.high) == pytest.approx((low, high))
    if alpha == 0.5:  # what is expected of the logits' change is open as far
        assert theory.of_logits_change(output("blocks/1/dense")) == Expected(-0.5, 0.0)


# ---- models


TOKENS = jax.random.randint(jax.random.key(0), (8, 9), 0, 16)
BATCH = TOKENS[:, :-1], TOKENS[:, 1:]


def make_gpt(depth, parametrization, rngs):
    sizes = {"width": 16, "base_width": 16, "num_heads": 2, "num_layers": depth}
    sizes |= {"base_num_layers": 2, "hidden_features": 16, "base_hidden_features": 16}
    sizes |= {"feed_forward": "plain", "stacked": True}
    return jaxmup.models.GPT(16, **sizes, parametrization=parametrization, rngs=rngs)


def adam(scalings):
    return jaxmup.optim.adam(2**-7, scalings)


def test_a_gpt_passes_over_depth_and_fails_where_nothing_is_scaled_with_it():
    rule = parametrization("mup", "adam", depth_alpha=1.0)
    options = {"over": "depth", "parametrization": rule, "steps": 3, "seeds": 6}
    check = assert_coord_check(make_gpt, (2, 8), BATCH, adam, **options)
    assert check.outcome == "pass", check
