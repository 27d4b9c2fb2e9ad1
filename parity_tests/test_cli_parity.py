"""The command `jaxmup parity`: what it prints, and its exit codes."""

import json
import subprocess
import sys

import pytest
from watched import watched

from jaxmup import cli, parity
from parity_tests.tolerances import TOL

SHORT = ["parity", "--steps", "3"]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def pretend(*differences: float):
    """Comparisons without training."""
    return lambda steps: iter(
        parity.Comparison("Adam, table8", "float64", steps, difference, parity.LARGEST["float64"])
        for difference in differences
    )


def test_it_trains_and_passes(capsys):
    assert cli.run(["parity", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    rows = record["comparisons"]
    assert record["passed"]
    assert {row["steps"] for row in rows} == {100}
    assert {row["dtype"] for row in rows} == {"float64", "float32"}
    assert {row["case"].rsplit(", ", 1)[0] for row in rows} == set(parity._OPTIMIZERS)
    assert all(0 < row["largest_relative_difference"] <= row["allowed"] for row in rows)
    assert all(row["passed"] for row in rows)


def test_it_allows_what_the_suite_allows():
    assert parity.LARGEST["float64"] == TOL["hundred steps"].largest


@pytest.mark.parametrize(
    ("differences", "code", "marks"),
    [((1e-12,), 0, ["yes"]), ((1e-12, 1e-10), 1, ["yes", "NO"]), ((float("nan"),), 1, ["NO"])],
)
def test_table_and_exit_code(differences, code, marks, monkeypatch, capsys):
    monkeypatch.setattr(parity, "compare", pretend(*differences))
    assert cli.run(SHORT) == code
    lines = capsys.readouterr().out.splitlines()
    head = "case dtype steps largest relative difference allowed pass"
    assert " ".join(lines[0].split()) == head
    rows = [line.split() for line in lines if line.startswith("Adam, table8")]
    assert [row[2:4] for row in rows] == [["float64", "3"]] * len(differences)
    assert [row[-1] for row in rows] == marks


def test_json_has_no_nan(monkeypatch, capsys):
    monkeypatch.setattr(parity, "compare", pretend(float("nan")))
    assert cli.run([*SHORT, "--json"]) == 1
    record = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert record["passed"] is record["comparisons"][0]["passed"] is False
    assert record["comparisons"][0]["largest_relative_difference"] is None


@pytest.mark.parametrize("optimizer", ["SGD", "AMSGrad, decoupled decay"])
def test_a_wrong_table_fails(optimizer, monkeypatch):
    wrong = parity._TABLE_3 | {"readout/kernel": parity._TABLE_3["hidden/0/kernel"]}
    monkeypatch.setattr(parity, "_TABLE_3", wrong)
    monkeypatch.setattr(parity, "_CASES", [(optimizer, "table8", "float64")])
    (comparison,) = parity.compare(steps=3)
    assert not comparison.passed


def test_without_torch_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.run(SHORT) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "Error: The comparison with PyTorch needs the package torch: pip install torch\n"
    )


def test_broken_torch_is_not_taken_for_a_missing_one(monkeypatch):
    broken = ModuleNotFoundError("No module named 'typing_extensions'", name="typing_extensions")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "torch":
                raise broken

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(ModuleNotFoundError) as caught:
        parity.compare()
    assert caught.value is broken


def test_bad_steps(capsys):
    assert cli.run(["parity", "--steps", "0"]) == 2
    assert "`steps` must be an integer of at least 1. Got 0." in capsys.readouterr().err


def test_torch_is_loaded_by_the_comparison_alone():
    code = "import jaxmup.parity, jaxmup.cli._app, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_it_opens_no_socket_and_starts_no_process(tmp_path):
    done = watched(["parity", "--steps", "1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "0"
