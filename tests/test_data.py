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


def test_the_text_of_the_standard_library_is_split_in_blocks():
    text = data.text()
    assert text is data.text()
    assert text.train.dtype == text.held_out.dtype == np.uint8
    assert len(text.train) + len(text.held_out) <= 4_000_000
    assert len(text.held_out) == pytest.approx(len(text.train) / 9, rel=0.05)
    assert b"def " in text.train.tobytes()
    assert not text.train.flags.writeable
    small = data.text(limit=100_000)
    assert text.train[: 9 * 4096].tolist() == small.train[: 9 * 4096].tolist()


def test_any_file_is_a_text(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(100)))
    text = data.text(path)
    assert text.name == "numbers"
    assert text.held_out.tolist() == list(range(90, 100))  # blocks of a tenth
    assert text.train.tolist() == list(range(90))
    assert data.text(path, limit=20).held_out.tolist() == [18, 19]


def test_a_text_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "short").write_bytes(b"123456789")
    with pytest.raises(ValueError, match=r"at least 10 bytes\. Got 9 in short"):
        data.text(tmp_path / "short")
    with pytest.raises(ValueError, match=r"longer than a sequence of 9 tokens\. Got 9"):
        data.sequences(np.arange(9), 9, 1, 0, 0)


def test_sequences_are_pieces_with_what_follows():
    inputs, targets = data.sequences(np.arange(100), 8, 64, seed=1, step=2)
    assert inputs.shape == targets.shape == (64, 8)
    assert inputs.dtype == np.int32
    assert np.all(inputs == inputs[:, :1] + np.arange(8))
    assert np.all(targets == inputs + 1)
    assert 0 <= inputs.min() < 20 < 80 < targets.max() <= 99


def test_the_last_token_can_be_a_target():
    targets = [data.sequences(np.arange(4), 3, 8, 0, step)[1].max() for step in range(3)]
    assert targets == [3, 3, 3]


def test_seed_and_step_decide_the_sequences():
    tokens = np.arange(1000)
    drawn = [data.sequences(tokens, 4, 8, *at)[0].tolist() for at in [(0, 1), (1, 0), (0, 1)]]
    assert drawn[0] == drawn[2] != drawn[1]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"examples": 0}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"steps": -1}, ValueError),
        ({"seed": -1}, ValueError),
        ({"examples": 6.0}, TypeError),
        ({"batch_size": True}, TypeError),
    ],
)
def test_an_order_of_nothing_is_refused(change, error):
    [name] = change
    whole = {"examples": 6, "batch_size": 2, "steps": 3, "seed": 0}
    with pytest.raises(error, match=f"`{name}` must be an integer of at least"):
        data.batch_order(**(whole | change))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"context": 0}, ValueError),
        ({"batch_size": 0}, ValueError),
        ({"step": -1}, ValueError),
        ({"seed": 0.5}, TypeError),
    ],
)
def test_pieces_of_nothing_are_refused(change, error):
    [name] = change
    whole = {"context": 4, "batch_size": 1, "seed": 0, "step": 0}
    with pytest.raises(error, match=f"`{name}` must be an integer of at least"):
        data.sequences(np.arange(9), **(whole | change))
