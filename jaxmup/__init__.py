"""Maximal-update (abcd) parametrization for JAX.

Tune hyper-parameters on a small network and use them, unchanged, on a large one.

`import jaxmup` loads neither JAX nor Flax nor optax; the submodules load on first use: `jaxmup.nnx`
and `jaxmup.linen` (layers), `jaxmup.optim` (optax transforms), `jaxmup.functional`,
`jaxmup.models`, `jaxmup.data`, `jaxmup.gauge`, `jaxmup.manifest`, `jaxmup.coord_check`,
`jaxmup.transfer`, `jaxmup.budget` (batch size and length of training), `jaxmup.bridge` (PyTorch),
`jaxmup.fused` (backward pass fused with the update), `jaxmup.empirical` (measured scales),
`jaxmup.plots` and `jaxmup.report` (figures and pages), and `jaxmup.parity` (a self-check against
PyTorch); so do `jaxmup.Model`, `jaxmup.infer` and `jaxmup.rescale` (unmodified models),
`jaxmup.explain`, `jaxmup.lint` and `jaxmup.resolve`.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from jaxmup._families import OPTIMIZERS as OPTIMIZERS
from jaxmup._families import Family as Family
from jaxmup._families import shampoo as shampoo
from jaxmup._parametrization import ABCD as ABCD
from jaxmup._parametrization import Parametrization as Parametrization
from jaxmup._parametrization import parametrization as parametrization
from jaxmup._power import Power as Power
from jaxmup._scaling import Scaling as Scaling
from jaxmup._spec import Axis as Axis
from jaxmup._spec import ParamSpec as ParamSpec

if TYPE_CHECKING:
    from jaxmup import bridge as bridge
    from jaxmup import budget as budget
    from jaxmup import coord_check as coord_check
    from jaxmup import data as data
    from jaxmup import empirical as empirical
    from jaxmup import functional as functional
    from jaxmup import fused as fused
    from jaxmup import gauge as gauge
    from jaxmup import linen as linen
    from jaxmup import manifest as manifest
    from jaxmup import models as models
    from jaxmup import nnx as nnx
    from jaxmup import optim as optim
    from jaxmup import parity as parity
    from jaxmup import plots as plots
    from jaxmup import report as report
    from jaxmup import transfer as transfer
    from jaxmup._explain import Explanation as Explanation
    from jaxmup._explain import ParameterRow as ParameterRow
    from jaxmup._explain import explain as explain
    from jaxmup._infer import infer as infer
    from jaxmup._infer import rescale as rescale
    from jaxmup._lint import Finding as Finding
    from jaxmup._lint import lint as lint
    from jaxmup._model import Model as Model
    from jaxmup._tree import resolve as resolve

__version__ = importlib.metadata.version("jaxmup")

_SUBMODULES = (
    "bridge",
    "budget",
    "coord_check",
    "data",
    "empirical",
    "functional",
    "fused",
    "gauge",
    "linen",
    "manifest",
    "models",
    "nnx",
    "optim",
    "parity",
    "plots",
    "report",
    "transfer",
)
# What needs JAX, by the room of each: a command that is interrupted while JAX is imported says so.
_LATER = {
    "Explanation": "_explain",
    "Finding": "_lint",
    "Model": "_model",
    "ParameterRow": "_explain",
    "explain": "_explain",
    "infer": "_infer",
    "lint": "_lint",
    "rescale": "_infer",
    "resolve": "_tree",
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES, *_LATER])
