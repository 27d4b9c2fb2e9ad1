"""What `import jaxmup` loads, in a fresh interpreter."""

import subprocess
import sys

import pytest

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
        ("import jaxmup; jaxmup.nnx", {"flax", "optax"}),  # flax.nnx itself imports optax
    ],
)
def test_heavy_packages_load_on_first_use(statement, loaded):
    assert loaded_by(statement) == loaded


def test_an_unknown_name_is_an_error():
    import jaxmup

    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = jaxmup.torch
