"""Proves an installed wheel: it holds the library alone, and trains without any extra.

Run by the Python of an environment with nothing but the wheel and its hard dependencies.
"""

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxmup

ASKED_FOR = ("equinox", "haiku", "jinja2", "matplotlib", "safetensors", "sklearn", "torch", "typer")


def require(condition: bool, what: str) -> None:
    """Ends with an error that says `what` is wrong, unless the condition holds."""
    if not condition:
        raise SystemExit(f"The wheel must hold the library, and work alone. {what}")


def contents() -> None:
    """The files of the wheel are the library's and what it needs, and no extra is beside it."""
    found = importlib.metadata.files("jaxmup") or []
    names = {file.as_posix() for file in found}
    own = {name.split("/")[0] for name in names if not name.startswith("..")}
    require(own - {"jaxmup"} == {f"jaxmup-{jaxmup.__version__}.dist-info"}, f"It holds {own}.")
    require("jaxmup/py.typed" in names, "It has no jaxmup/py.typed, so its types are not seen.")
    require(
        any(name.startswith("jaxmup/") and name.endswith(".html.jinja") for name in names),
        "It has no page for the report.",
    )
    require(any("licenses/LICENSE" in name for name in names), "It has no license.")
    extras = [name for name in ASKED_FOR if importlib.util.find_spec(name)]
    require(not extras, f"These are installed beside it: {extras}.")


def every_module() -> None:
    """All that users import without an extra can be imported without one."""
    for name in dir(jaxmup):
        getattr(jaxmup, name)
    command = Path(sys.executable).with_name("jaxmup")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    require(
        done.returncode == 2 and "jaxmup[cli]" in done.stderr,
        f"`jaxmup --help` without its extra ended with {done.returncode}: {done.stderr!r}.",
    )


class MLP(nnx.Module):
    """A model of Flax's own layers."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(8, width, rngs=rngs)
        self.readout = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits, of shape `(batch, 2)`."""
        return self.readout(nnx.relu(self.hidden(x)))


def quickstart() -> None:
    """The three lines of the README, and a training step."""
    x, y = jnp.ones((4, 8)), jnp.array([0, 1, 0, 1])
    mup = jaxmup.parametrization("mup", "adam", gauge="table3")
    specs = jaxmup.infer(MLP, base=16, delta=32, target=64, inputs=x)
    model = jaxmup.rescale(MLP, specs, mup, base=16, target=64, key=jax.random.key(0))
    tx = jaxmup.optim.adamw(2**-6, jaxmup.resolve(specs, mup))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: MLP, optimizer: nnx.Optimizer) -> jax.Array:
        def loss_fn(model: MLP) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, gradients = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, gradients)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(5)]
    require(losses[-1] < losses[0], f"The losses of the quickstart are {losses}.")


if __name__ == "__main__":
    contents()
    every_module()
    quickstart()
    print(f"jaxmup {jaxmup.__version__} installs and trains alone")
