"""Commands that cannot run say so in one line, exit with 2, and leave every file as it was."""

import re
import sys
from pathlib import Path

import pytest
from bad_commands import MODULES, ROWS, make_files

from jaxmup import cli
from jaxmup.cli import _transfer


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files of every command, in which the test runs."""
    make_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(_transfer, "_use_every_core", lambda: None)
    monkeypatch.setenv("COLUMNS", "100")
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name.removesuffix(".py"), None)


def contents(folder: Path) -> dict[str, object]:
    """Every path below a folder, with the bytes of each file."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.is_dir()
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command[:100].replace("\0", "0"))
def test_a_command_that_cannot_run(here, capsys, row):
    before = contents(here)
    words = [word.strip("{}") for word in re.findall(r"\{[^}]*\}|\S+", row.command)]
    assert cli.run(words) == row.code
    printed = capsys.readouterr()
    assert row.prints or printed.out == ""
    *above, last = printed.err.splitlines()
    assert not any(map(str.strip, above)), printed.err
    assert last.startswith("Error: " if row.code == 2 else "Interrupted.")
    assert row.message in last
    assert "\x1b" not in last
    assert contents(here) == before


def test_no_row_stands_twice():
    assert len({row.command for row in ROWS}) == len(ROWS) >= 120
