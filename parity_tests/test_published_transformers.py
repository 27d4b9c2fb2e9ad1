"""Models of Hugging Face, from the files that it publishes: logits, gradients and the way back."""

import contextlib
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxmup import bridge

pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

from parity_tests.published_run import abstract, compared, random, saved
from parity_tests.published_transformers import PUBLISHED, Published


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name: str, dtype: str, tmp_path: Any, agree: Any) -> None:
    run = compared(PUBLISHED[name], dtype, tmp_path)
    row = "published" if dtype == "float64" else "published, float32"
    agree(row, run.logits[None], run.expected_logits[None])
    agree(row, run.gradients[None], run.expected_gradients[None])
    assert run.back.keys() == run.tensors.keys()
    for tensor, value in run.tensors.items():
        np.testing.assert_array_equal(run.back[tensor], value, err_msg=tensor)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_pair_is_needed(name: str, tmp_path: Any) -> None:
    """Without one of them it is an error, never another model."""
    case = PUBLISHED[name]
    file, model = saved(case.torch(), tmp_path), abstract(case)
    for pattern in case.pairs:
        rest = {other: path for other, path in case.pairs.items() if other != pattern}
        with pytest.raises(ValueError, match=r"Pass `pairs`|may hold"):
            bridge.plan(file, model, rest)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_of_other_tensors_are_refused_or_harmless(name: str, tmp_path: Any) -> None:
    """Ten seeded pairs of tensors with each other's names: an error, or the same model.

    Two of one shape cannot be seen: names and shapes, which are all that a plan knows, are as
    before. `test_published` compares what the model computes.
    """
    case, rng = PUBLISHED[name], np.random.default_rng(0)
    state = bridge.load(saved(random(case), tmp_path))
    right = converted(state, case)
    names = list(state)
    for _ in range(10):
        one, other = rng.choice(len(names), 2, replace=False)
        first, second = names[one], names[other]
        confused = {**state, first: state[second], second: state[first]}
        if state[first].shape == state[second].shape:
            assert str(bridge.plan(confused, abstract(case), case.pairs)) == right.plan
            continue
        with contextlib.suppress(ValueError):
            for path, leaf in converted(confused, case).leaves.items():
                np.testing.assert_array_equal(
                    leaf, right.leaves[path], err_msg=f"{first}, {second}"
                )


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_tensor_can_be_left_out(name: str, tmp_path: Any) -> None:
    case, rng = PUBLISHED[name], np.random.default_rng(0)
    state = bridge.load(saved(case.torch(), tmp_path))
    for lost in rng.choice(list(state), 10, replace=False):
        rest = {tensor: x for tensor, x in state.items() if tensor != lost}
        with pytest.raises(ValueError, match=r"."):
            bridge.plan(rest, abstract(case), case.pairs)


class Converted(NamedTuple):
    plan: str
    leaves: dict[str, np.ndarray]


def converted(state: dict[str, np.ndarray], case: Published) -> Converted:
    made = bridge.plan(state, abstract(case), case.pairs)
    return Converted(str(made), made.forward(state.__getitem__))
