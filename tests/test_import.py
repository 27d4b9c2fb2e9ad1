"""Imports: of heavy packages in a fresh interpreter, and of the package's modules by each other."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jaxmup

ROOT = Path(jaxmup.__file__).parent
HEAVY = {"flax", "optax", "torch"}


def loaded_by(statement: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY.intersection(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import jaxmup", set()),
        ("import jaxmup; jaxmup.parametrization('mup').table(); dir(jaxmup)", set()),
        ("import jaxmup; jaxmup.functional", set()),
        ("import jaxmup; jaxmup.optim", {"optax"}),
        ("import jaxmup; jaxmup.bridge", {"flax", "optax"}),
        ("import jaxmup; jaxmup.transfer; jaxmup.data", set()),
        ("import jaxmup; jaxmup.nnx", {"flax", "optax"}),  # flax.nnx itself imports optax
    ],
)
def test_heavy_packages_load_on_first_use(statement, loaded):
    assert loaded_by(statement) == loaded


def test_an_unknown_name_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = jaxmup.torch


def test_every_public_module_is_reachable_and_listed():
    found = {
        path.stem if path.is_file() else path.name
        for path in ROOT.iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py")
    }
    found.remove("cli")  # a program
    assert found <= set(dir(jaxmup))
    for name in sorted(found):
        assert getattr(jaxmup, name).__name__ == f"jaxmup.{name}"
        assert f"`jaxmup.{name}`" in jaxmup.__doc__


# --- Who imports whom


def modules() -> dict[str, Path]:
    """The files of the package by the name of their module."""
    files = {path: path.relative_to(ROOT.parent).with_suffix("") for path in ROOT.rglob("*.py")}
    return {".".join(at.parts).removesuffix(".__init__"): path for path, at in files.items()}


def imported_by(source: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules that the import statements of a file name, in functions too.

    An import that waits in a function until it is needed ties the file to the other all the same.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not followed"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else str(node.module) for name in names)


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    assert len(known) > 150
    graph = {
        name: {found for found in imported_by(path.read_text(), known) if found in known}
        for name, path in known.items()
    }
    assert "jaxmup._spec" in graph["jaxmup._scaling"]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")
