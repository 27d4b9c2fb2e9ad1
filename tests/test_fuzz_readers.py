"""Damaged files: a reader refuses them by name, or reads what they hold; nothing else comes out."""

import pytest
from fuzzed import READERS, optimizer_states, outcome, run

COUNT, SEED = 300, 19


@pytest.mark.parametrize("name", READERS)
def test_the_good_file_is_read(name, tmp_path):
    reader = READERS[name]
    assert outcome(reader, tmp_path / reader.name, reader.good(tmp_path)) == "accepted"


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_by_name_or_read_as_they_are(name, tmp_path):
    found = run(READERS[name], tmp_path, COUNT, SEED)
    assert found.keys() <= {"refused", "accepted"}, found
    assert found["refused"] > COUNT / 4  # the damages do damage


def test_damaged_states_of_an_optimizer_are_refused_or_read():
    found = optimizer_states(COUNT, SEED)
    assert found.keys() <= {"refused", "accepted"}, found
    assert found["refused"] > COUNT / 4
