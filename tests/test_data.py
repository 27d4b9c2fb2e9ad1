"""The embedded data and the order of batches."""

import sys

import numpy as np
import pytest

from jaxmup import data


def test_digits_are_standardized_and_complete():
    digits = data.digits()
    assert digits.inputs.shape == (1797, 64)
    assert digits.inputs.dtype == np.float32
    assert digits.labels.shape == (1797,)
    assert digits.labels.dtype == np.int32
    assert np.bincount(digits.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert abs(digits.inputs.mean(dtype=np.float64)) < 1e-6
    assert abs(digits.inputs.std(dtype=np.float64) - 1) < 1e-6
    assert (digits.features, digits.classes) == (64, 10)


@pytest.mark.parametrize("field", ["inputs", "labels"])
def test_digits_are_shared_and_read_only(field):
    assert data.digits() is data.digits()
    with pytest.raises(ValueError, match="read-only"):
        getattr(data.digits(), field)[0] = 0


def test_missing_package_names_the_command_that_installs_it(monkeypatch):
    data.digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"sklearn: pip install 'jaxmup\[cli\]'"):
        data.digits()


def test_an_epoch_holds_every_example_once():
    order = data.batch_order(examples=12, batch_size=4, steps=6, seed=3)
    assert order.shape == (6, 4)
    assert order.dtype == np.int32
    assert sorted(order[:3].ravel().tolist()) == list(range(12))
    assert sorted(order[3:].ravel().tolist()) == list(range(12))
    assert order[:3].tolist() != order[3:].tolist()


def test_batches_run_on_over_the_end_of_an_epoch():
    order = data.batch_order(examples=5, batch_size=4, steps=5, seed=0)
    assert np.bincount(order.ravel()).tolist() == [4, 4, 4, 4, 4]


def test_a_batch_may_exceed_the_data():
    assert data.batch_order(examples=2, batch_size=7, steps=1, seed=0).shape == (1, 7)


def test_the_seed_alone_decides_the_order():
    first, again, other = (data.batch_order(50, 5, 4, seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_longer_run_begins_as_a_shorter_one():
    short, long = (data.batch_order(10, 3, steps, seed=0) for steps in (4, 9))
    assert long[:4].tolist() == short.tolist()
