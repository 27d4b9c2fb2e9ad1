"""One published model and its counterpart, run on equal inputs; and what the bridge made of it."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.torch  # noqa: F401  before `computing_in` changes what it remembers
import torch
from flax import nnx

from jaxmup import bridge
from parity_tests.published_transformers import Published, draw, here

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Run(NamedTuple):
    """What both sides made of one batch.

    Args:
      logits: Of the converted model.
      expected_logits: Of the published one.
      gradients: Gradients of the converted model, through the bridge, of all parameters that the
        published one trains, in one vector.
      expected_gradients: Those of the published model.
      tensors: Tensors of the published file.
      back: The same from the converted model.
    """

    logits: np.ndarray
    expected_logits: np.ndarray
    gradients: np.ndarray
    expected_gradients: np.ndarray
    tensors: Mapping[str, np.ndarray]
    back: Mapping[str, np.ndarray]


def compared(case: Published, dtype: str, folder: Path) -> Run:
    """Converts a published model and runs both.

    Args:
      case: The model.
      dtype: Of all that is computed.
      folder: Folder for the published files.
    """
    case.torch()  # its modules are imported while torch is as it should be
    with computing_in(getattr(torch, dtype)):
        theirs = random(case)
        rng = np.random.default_rng(1)
        inputs = {name: _as(draw(rng, name), dtype) for name in case.inputs}
        outputs = _outputs(theirs(**{name: torch.tensor(x) for name, x in inputs.items()}))
        weights = rng.normal(size=tuple(outputs.shape)).astype(dtype)
        file = saved(theirs, folder / "weights")
        (outputs * torch.tensor(weights)).sum().backward()
        slopes_file = saved(_with_gradients(theirs), folder / "gradients")

    model = bridge.from_torch(file, abstract(case), case.pairs)
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Embed):
            layer.dtype = np.dtype(dtype)  # it keeps that of its abstract values
    graph, params = nnx.split(model)
    arrays = tuple(here(x) for x in inputs.values())
    slopes, logits = _forward_and_gradient(graph, params, weights, arrays)
    moved = bridge.to_torch(nnx.merge(graph, slopes), file, case.pairs)
    expected = bridge.load(slopes_file)
    trained = [name for name, x in expected.items() if not np.isnan(x).any()]
    return Run(
        np.asarray(logits),
        outputs.detach().numpy(),
        np.concatenate([moved[name].ravel() for name in trained]),
        np.concatenate([expected[name].ravel() for name in trained]),
        bridge.load(file),
        bridge.to_torch(model, file, case.pairs),
    )


@contextlib.contextmanager
def computing_in(dtype: Any) -> Iterator[None]:
    """Within it torch computes in this dtype.

    Published code takes norms, rotations and softmax to float32 whatever its weights are in. For
    float64 that name stands for float64 too, or its roundings would hide what is to be seen.
    """
    before = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(dtype)
        if dtype is torch.float64:
            for owner, name, value in (
                (torch, "float32", dtype),
                (torch, "float", dtype),
                (torch.Tensor, "float", torch.Tensor.double),
            ):
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
        yield


def random(case: Published) -> Any:
    """The published model with random values for everything, norms and biases too."""
    torch.manual_seed(0)
    model = case.torch().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return model


def saved(model: Any, folder: Path) -> Path:
    """The file of a model as it is published."""
    model.save_pretrained(folder)
    return folder / "model.safetensors"


def abstract(case: Published) -> nnx.Module:
    """The counterpart without values."""
    return nnx.eval_shape(lambda: case.flax(nnx.Rngs(0)))


def _with_gradients(model: Any) -> Any:
    """The model with gradients for weights, so that a file has them under its names."""
    with torch.no_grad():
        for parameter in model.parameters():
            untrained = torch.full_like(parameter, float("nan"))
            parameter.copy_(untrained if parameter.grad is None else parameter.grad)
    return model


def _outputs(result: Any) -> Any:
    return result.logits_per_image if hasattr(result, "logits_per_image") else result.logits


def _as(x: np.ndarray, dtype: str) -> np.ndarray:
    return x if x.dtype.kind == "i" else x.astype(dtype)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _forward_and_gradient(graph: Any, params: Any, weights: Any, inputs: tuple[Any, ...]) -> Any:
    def loss(params: Any) -> Any:
        logits = nnx.merge(graph, params)(*inputs)
        return (logits * weights).sum(), logits

    return jax.grad(loss, has_aux=True)(params)
