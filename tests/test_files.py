"""One way to write a file: whole or not at all, over nothing that was read."""

import os
import stat

import numpy as np
import pytest
from helpers import cases

from jaxmup import _files, bridge

ONE = {"w": np.ones(2, np.float32)}
UNREADABLE = {  # what no reader of safetensors finds again
    "metadata": ({"__metadata__": np.ones(3), **ONE}, ValueError, "'__metadata__'"),
    "a lone surrogate": ({"\ud800": np.ones(2)}, ValueError, "UTF-8 can write"),
    "an integer": ({1: np.ones(1), **ONE}, TypeError, "must be strings. Got 1"),
    "an integer beside its text": ({1: np.ones(1), "1": np.ones(1)}, TypeError, "must be strings"),
    "none": ({None: np.ones(1)}, TypeError, "must be strings"),
    "bytes": ({b"w": np.ones(1)}, TypeError, "must be strings"),
    "complex": ({"w": np.ones(1, complex)}, ValueError, "must have one of the dtypes"),
    "objects": ({"w": np.array([None])}, ValueError, "must have one of the dtypes"),
    "text": ({"w": np.array(["x"])}, ValueError, "must have one of the dtypes"),
}


@pytest.mark.parametrize(("arrays", "error", "message"), cases(UNREADABLE))
def test_what_no_reader_takes_is_not_written(tmp_path, arrays, error, message):
    path = tmp_path / "x.safetensors"
    bridge.save(path, ONE)
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        bridge.save(path, arrays)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x", "x.safetensors.index.json", ".safetensors"])
def test_an_ending_that_no_reader_takes_for_safetensors(tmp_path, name):
    (tmp_path / name).write_bytes(b"a model")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        bridge.save(tmp_path / name, ONE)
    assert (tmp_path / name).read_bytes() == b"a model"


def test_a_header_that_no_reader_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmup.bridge._safetensors._LONGEST_HEADER", 200)
    bridge.save(tmp_path / "short.safetensors", ONE)
    with pytest.raises(ValueError, match="Write several files"):
        bridge.save(tmp_path / "x.safetensors", {"n" * 200: np.ones(1)})


@pytest.fixture(params=["unnamed", "named"])
def kind(request, monkeypatch):
    """Files that have no name before they are whole, and those of systems without such files."""
    if request.param == "named":
        monkeypatch.setattr(_files, "_unnamed", lambda folder: None)
    return request.param


def test_a_block_that_raises_leaves_nothing(tmp_path, kind):
    path = tmp_path / "file"
    for before in (None, b"old"):
        if before is not None:
            path.write_bytes(before)
        for error in (ValueError, KeyboardInterrupt, SystemExit):
            with pytest.raises(error), _files.open_atomically(path) as file:  # noqa: PT012
                file.write(b"new")
                raise error
        assert [one.read_bytes() for one in tmp_path.iterdir()] == [before] * path.exists()


def test_permissions_are_those_of_the_file_that_was_there(tmp_path, kind):
    path = tmp_path / "file"
    mask = os.umask(0o027)
    try:
        _files.write_atomically(path, b"new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    _files.write_atomically(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"secret"


def test_what_was_left_is_removed_and_nothing_else(tmp_path, kind):
    path = tmp_path / "a[*]?.x"
    left = _files._name_of_part(path)
    others = [".a[*]?.x.part", ".a[*]?.x.mine.part", ".b.x.0123456789abcdef.part", "a[*]?.x.part"]
    for name in (left, *(tmp_path / other for other in others)):
        name.write_bytes(b"left")
    _files.write_atomically(path, b"new")
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([path.name, *others])


SAME = {
    "itself": lambda folder: folder / "source",
    "another spelling": lambda folder: folder / "below" / ".." / "source",
    "a hard link": lambda folder: folder / "hard",
    "a path through a link": lambda folder: folder / "round" / "source",
}


@pytest.mark.parametrize("name", SAME.values(), ids=SAME)
def test_nothing_is_written_over_what_it_is_made_from(tmp_path, name):
    source = tmp_path / "source"
    source.write_bytes(b"precious")
    os.link(source, tmp_path / "hard")
    (tmp_path / "below").mkdir()
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match="must not be written over what it is made from"):
        _files.write_atomically(name(tmp_path), b"new", ["missing", source])
    assert source.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == before


def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe"):
        with pytest.raises(OSError, match=f"{name} is"):
            _files.write_atomically(tmp_path / name, b"new")
    for place in (os.devnull, tmp_path / "missing" / "file"):
        with pytest.raises(OSError, match="must"):
            _files.write_atomically(place, b"new")
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "pipe"]


def test_a_link_that_appears_while_a_file_is_written(tmp_path, kind):
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_bytes(b"precious")
    with pytest.raises(OSError, match="symbolic link"), _files.open_atomically(path) as file:  # noqa: PT012
        file.write(b"new")
        path.symlink_to(other)
    assert other.read_bytes() == b"precious"
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]
