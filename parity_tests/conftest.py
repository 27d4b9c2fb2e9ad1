"""Settings of every test: float64 and one thread; and the summary of what was measured."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import pytest
import torch

from parity_tests.tolerances import TOL, relative


class Measured(NamedTuple):
    """One comparison of a test."""

    difference: float
    row: str
    test: str


MEASURED = pytest.StashKey[list[Measured]]()
NOTES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEASURED] = []
    config.stash[NOTES] = []


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """float64, strict shapes, one thread: for tensors this small, more only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def agree(request: pytest.FixtureRequest) -> Callable[[str, Any, Any], None]:
    """Asserts that two trees differ by no more than a row of the tolerance table allows."""

    def check(row: str, actual: Any, expected: Any) -> None:
        difference = relative(actual, expected)
        request.config.stash[MEASURED].append(Measured(difference, row, request.node.name))
        assert difference <= TOL[row].largest, f"{row}: {difference:.1e} > {TOL[row].largest:.0e}"

    return check


@pytest.fixture
def disagree() -> Callable[[Any, Any], None]:
    """Asserts that two trees differ by more than rounding could make them."""

    def check(actual: Any, expected: Any) -> None:
        assert relative(actual, expected) > TOL["disagreement"].largest

    return check


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds a line to the summary of the run."""
    return request.config.stash[NOTES].append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    measured, notes = config.stash[MEASURED], config.stash[NOTES]
    if not measured:
        return
    terminalreporter.section("parity")
    for row in TOL:
        of_row = [m for m in measured if m.row == row]
        if of_row:
            largest = max(of_row)
            terminalreporter.write_line(
                f"{row:>24}: {largest.difference:.1e} in {len(of_row)} comparisons, "
                f"at most {TOL[row].largest:.0e} allowed"
            )
    float64 = [m for m in measured if TOL[m.row].why.startswith("float64")]
    if float64:
        largest = max(float64)
        terminalreporter.write_line(
            f"worst relative difference of {len(float64)} float64 comparisons: "
            f"{largest.difference:.1e} ({largest.test})"
        )
    for line in notes:
        terminalreporter.write_line(line)
