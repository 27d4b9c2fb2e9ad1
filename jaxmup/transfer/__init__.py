"""Trains small networks and large ones, and measures whether the best learning rate transfers.

`measure` trains every width x learning rate x seed of a `Config` under each parametrization, and
analyzes them::

    result = transfer.measure(transfer.Config(widths=(64, 128, 256, 512)))
    for analysis in result.analyses:
        print(analysis.verdict)
    transfer.write_record(result, "transfer.json")

A `Task` is any other model, on any data, with any loss::

    task = transfer.Task(make_model, batches, evaluation)
    config = transfer.Config(model="mine", sweep={"b2": (0.95, 0.99)})
    transfer.measure(config, task, directory="runs")

With a directory each trial is recorded as it ends, and a measurement that was killed goes on.
`analyze` takes any `Trial`s, also losses that were measured elsewhere.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxmup._files import write_atomically as write_atomically
from jaxmup.transfer._analysis import analyze as analyze
from jaxmup.transfer._config import MODELS as MODELS
from jaxmup.transfer._config import Config as Config
from jaxmup.transfer._config import OptimizerName as OptimizerName
from jaxmup.transfer._config import SearchName as SearchName
from jaxmup.transfer._config import log2_grid as log2_grid
from jaxmup.transfer._findings import DRIFT_LIMIT as DRIFT_LIMIT
from jaxmup.transfer._findings import PENALTY_LIMIT as PENALTY_LIMIT
from jaxmup.transfer._findings import Analysis as Analysis
from jaxmup.transfer._findings import Crossing as Crossing
from jaxmup.transfer._findings import Curve as Curve
from jaxmup.transfer._findings import Interval as Interval
from jaxmup.transfer._findings import Parabola as Parabola
from jaxmup.transfer._findings import Scale as Scale
from jaxmup.transfer._measure import Result as Result
from jaxmup.transfer._measure import measure as measure
from jaxmup.transfer._progress import Progress as Progress
from jaxmup.transfer._quality import Limit as Limit
from jaxmup.transfer._quality import Quality as Quality
from jaxmup.transfer._quality import Robustness as Robustness
from jaxmup.transfer._quality import Tuning as Tuning
from jaxmup.transfer._quality import Wider as Wider
from jaxmup.transfer._quality import quality as quality
from jaxmup.transfer._record import read_record as read_record
from jaxmup.transfer._record import to_record as to_record
from jaxmup.transfer._record import write_record as write_record
from jaxmup.transfer._task import Task as Task
from jaxmup.transfer._task import cross_entropy as cross_entropy
from jaxmup.transfer._trial import Trial as Trial
from jaxmup.transfer._wider import training_curves as training_curves
from jaxmup.transfer._wider import transferred_curves as transferred_curves

if TYPE_CHECKING:
    from jaxmup.transfer._models import task_of as task_of


def __getattr__(name: str) -> Any:
    if name == "task_of":  # loads Flax, which reading a record need not
        return importlib.import_module(f"{__name__}._models").task_of
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
