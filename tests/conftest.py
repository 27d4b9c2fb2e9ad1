"""Settings of every test: strict arrays, and hypothesis without a clock or a database."""

from collections.abc import Callable

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("jaxmup", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jaxmup")


@pytest.fixture
def getkey() -> Callable[[], jax.Array]:
    """A new random key at each call, the same ones in every run of the test."""
    keys = iter(jax.random.split(jax.random.key(0), 64))
    return lambda: next(keys)


@pytest.fixture
def x64():
    """float64 for the length of one test."""
    with jax.enable_x64(True):
        yield
