"""Axes, roles and ratios, and the records that carry them."""

import copy
import dataclasses
import json
import math
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import cases, weight
from hypothesis import given
from hypothesis import strategies as st

import jaxmup
from jaxmup import ABCD, Axis, ParamSpec
from jaxmup._spec import Applied

IN, OUT, BATCH = "input", "output", "batch"

# the axes, then by hand: role, r_in, r_out
SPECS: dict[str, tuple[Any, ...]] = {
    "hidden": ([(IN, 1024, 64), (OUT, 256, 64)], "hidden", 16.0, 4.0),
    "input": ([(IN, 784), (OUT, 256, 64)], "input", 1.0, 4.0),
    "output": ([(IN, 256, 64), (OUT, 10)], "output", 4.0, 1.0),
    "hidden bias": ([(OUT, 256, 64)], "input", 1.0, 4.0),
    "output bias": ([(OUT, 10)], "fixed", 1.0, 1.0),
    "scalar": ([], "fixed", 1.0, 1.0),
    "a base equal to the size grows": ([(IN, 64, 64), (OUT, 64, 64)], "hidden", 1.0, 1.0),
    "narrower than the base": ([(IN, 16, 64), (OUT, 32, 64)], "hidden", 0.25, 0.5),
    "convolution": ([(BATCH, 3), (BATCH, 3), (IN, 128, 32), (OUT, 64, 32)], "hidden", 4.0, 2.0),
    "more heads": ([(IN, 256, 64), (OUT, 8, 2), (OUT, 32)], "hidden", 4.0, 4.0),
    "more and larger heads": ([(OUT, 8, 2), (OUT, 64, 32), (IN, 256, 64)], "hidden", 4.0, 8.0),
    "experts are no width": ([(BATCH, 8, 2), (IN, 10), (OUT, 10)], "fixed", 1.0, 1.0),
    "ratios cancel exactly": ([(IN, 7, 49), (IN, 49, 7), (OUT, 10)], "output", 1.0, 1.0),
}


@pytest.mark.parametrize(("axes", "role", "r_in", "r_out"), cases(SPECS))
def test_role_and_ratios_follow_from_the_axes(axes, role, r_in, r_out):
    spec = ParamSpec(tuple(Axis(*axis) for axis in axes))
    assert (spec.role, spec.r_in, spec.r_out) == (role, r_in, r_out)


def test_shapes_and_stacking():
    spec = ParamSpec((Axis("input", 256, base=64), Axis("output", 10)), init_std=0.5, lr_scale=2.0)
    stacked = spec.with_batch_axis(1, 12)
    assert (spec.shape, spec.base_shape) == ((256, 10), (64, 10))
    assert (stacked.shape, stacked.base_shape) == ((256, 12, 10), (64, 12, 10))
    assert (stacked.role, stacked.r_in, stacked.init_std) == ("output", 4.0, 0.5)
    assert stacked.lr_scale == 2.0


@given(st.permutations([(IN, 96, 32), (IN, 7, 3), (OUT, 11, 7), (OUT, 5), (BATCH, 8), (OUT, 9, 2)]))
def test_the_order_of_the_axes_does_not_matter(axes):
    spec = ParamSpec(tuple(Axis(*axis) for axis in axes))
    assert (spec.r_in, spec.r_out, spec.role) == (7.0, 99 / 14, "hidden")


AXIS = Axis("output", 8, base=4)
NAN, INF = math.nan, math.inf

VALID: dict[type, dict[str, Any]] = {Axis: {"kind": IN, "size": 4}, ParamSpec: {"axes": (AXIS,)}}

# record, field, the value that it must refuse, the error, the invariant
BAD: dict[str, tuple[Any, ...]] = {
    "unknown kind": (Axis, "kind", "width", ValueError, "one of 'input', 'output', 'batch'"),
    "size 0": (Axis, "size", 0, ValueError, "an integer of at least 1"),
    "size float": (Axis, "size", 4.0, TypeError, "an integer of at least 1"),
    "size bool": (Axis, "size", True, TypeError, "an integer of at least 1"),
    "base 0": (Axis, "base", 0, ValueError, "an integer of at least 1"),
    "base negative": (Axis, "base", -4, ValueError, "an integer of at least 1"),
    "base bool": (Axis, "base", True, TypeError, "an integer of at least 1"),
    "base NaN": (Axis, "base", NAN, TypeError, "an integer of at least 1"),
    "base text": (Axis, "base", "4", TypeError, "an integer of at least 1"),
    "axes list": (ParamSpec, "axes", [AXIS], TypeError, "a tuple of `Axis`"),
    "axes sizes": (ParamSpec, "axes", (4, 8), TypeError, "a tuple of `Axis`"),
    "sigma 0": (ParamSpec, "init_std", 0.0, ValueError, "a finite number above 0"),
    "sigma negative": (ParamSpec, "init_std", -0.1, ValueError, "a finite number above 0"),
    "sigma NaN": (ParamSpec, "init_std", NAN, ValueError, "a finite number above 0"),
    "sigma bool": (ParamSpec, "init_std", True, TypeError, "a real number"),
    "alpha 0": (ParamSpec, "lr_scale", 0, ValueError, "a finite number above 0"),
    "alpha infinite": (ParamSpec, "lr_scale", INF, ValueError, "a finite number above 0"),
    "alpha text": (ParamSpec, "lr_scale", "2", TypeError, "a real number"),
    "alpha None": (ParamSpec, "lr_scale", None, TypeError, "a real number"),
    "alpha complex": (ParamSpec, "lr_scale", 1j, TypeError, "a real number"),
    "alpha NumPy": (ParamSpec, "lr_scale", np.float32(-1), ValueError, "a finite number above 0"),
    "alpha array": (ParamSpec, "lr_scale", np.array(NAN), ValueError, "a finite number above 0"),
    "depth 0": (ParamSpec, "depth_ratio", 0.0, ValueError, "a finite number above 0"),
    "gain bool": (ParamSpec, "forward_gain", False, TypeError, "a real number"),
}


@pytest.mark.parametrize(("record", "field", "value", "error", "invariant"), cases(BAD))
def test_bad_input_is_refused_with_invariant_and_value(record, field, value, error, invariant):
    with pytest.raises(error) as caught:
        record(**VALID[record] | {field: value})
    assert f"`{field}` must be {invariant}" in str(caught.value)
    assert f"Got {value!r}" in str(caught.value)


def test_numbers_of_numpy_become_those_of_python():
    """A record is hashed, compared and written as JSON."""
    axis = Axis(IN, np.int64(8), base=jnp.array(4))
    spec = ParamSpec((axis,), np.float32(0.5), lr_scale=jnp.array(2.0), depth_ratio=np.array(3))
    assert spec == ParamSpec((Axis(IN, 8, 4),), 0.5, lr_scale=2.0, depth_ratio=3)
    assert hash(spec) == hash(ParamSpec((Axis(IN, 8, 4),), 0.5, lr_scale=2.0, depth_ratio=3))
    assert json.loads(json.dumps(dataclasses.asdict(spec)))["axes"][0]["base"] == 4
    family = jaxmup.Family("mine", np.float32(1), np.int8(0))
    assert (type(family.gradient_degree), type(family.weight_degree)) == (float, int)
    assert {type(x) for x in dataclasses.astuple(ABCD(*np.ones(4, np.float32)))} == {float}


@pytest.mark.parametrize("nothing", [None, 3, "model", {}])
def test_there_are_specs_of_a_model_only(nothing):
    for specs, kind in ((jaxmup.nnx.specs, "an NNX module"), (jaxmup.linen.specs, "a Linen mod")):
        with pytest.raises(TypeError, match=f"must be {kind}.* Got "):
            specs(nothing)


def test_no_tree_is_not_an_empty_one():
    mup = jaxmup.parametrization("mup")
    for function in (jaxmup.resolve, jaxmup.explain, jaxmup.lint):
        with pytest.raises(TypeError, match=r"(?s)`specs` must be a tree with .*: NoneType"):
            function(None, mup)
    with pytest.raises(TypeError, match=r"(?s)`scalings` must be a tree with .*: NoneType"):
        jaxmup.optim.adam(0.1, None)
    assert jaxmup.resolve({}, mup) == {}


def test_a_traced_number_is_no_constant_of_a_record():
    for make in (
        lambda x: ParamSpec((AXIS,), lr_scale=x),
        lambda x: ABCD(x, 0, 0, 0),
        lambda x: jaxmup.Family("mine", x, 0),
        lambda x: jaxmup.parametrization("mup", depth_alpha=x),
    ):
        with pytest.raises(TypeError, match=r"must be a real number. Got .*Trace"):
            jax.eval_shape(make, 1.0)


MUP = jaxmup.parametrization("mup", "adam")
RECORDS = {
    "Axis": AXIS,
    "ParamSpec": weight(4, 2, init_std=0.5, applied=Applied(0.5, 2.0)),
    "Applied": Applied(0.5, 2.0),
    "ABCD": ABCD(0.0, 0.5, 1.0, 1.0),
    "Parametrization": MUP,
    "TableRow": MUP.table()[0],
    "Scaling": jaxmup.resolve(weight(4, 2), MUP),
    "Family": MUP.family,
}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_records_are_frozen_values_and_leaves(record):
    copies = {record, copy.deepcopy(record), pickle.loads(pickle.dumps(record))}
    assert copies == {record}
    assert jax.tree.leaves({"w": record}) == [record]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, None)
