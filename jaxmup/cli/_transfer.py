"""`jaxmup transfer`."""

import dataclasses
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import typer
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.text import Text

from jaxmup import _extras
from jaxmup.cli import _numbers as numbers
from jaxmup.cli import _transfer_options as options
from jaxmup.cli._command import given_options
from jaxmup.cli._errors import bad_input
from jaxmup.cli._function import calling, function, measuring
from jaxmup.cli._model import model_of
from jaxmup.cli._out import out_folder
from jaxmup.cli._table import result_table
from jaxmup.cli._terminal import console
from jaxmup.transfer import MODELS, Config, Progress, Result, Task

_DEFAULT = Config()
_WIDTHS = [",".join(map(str, _DEFAULT.widths))]
_SEEDS = len(_DEFAULT.seeds)
_PARAMETRIZATIONS = [",".join(_DEFAULT.parametrizations)]
_FILES = ("trials.jsonl", "transfer.json", "transfer.png", "transfer.html")


def transfer(
    ctx: typer.Context,
    width: options.Widths = _WIDTHS,
    parametrization: options.Parametrizations = _PARAMETRIZATIONS,
    optimizer: options.Optimizer = _DEFAULT.optimizer,
    learning_rates: options.LearningRates = None,
    log2_range: options.Log2Range = None,
    seeds: options.Seeds = _SEEDS,
    depth: options.Depth = _DEFAULT.depth,
    batch_size: options.BatchSize = _DEFAULT.batch_size,
    steps: options.Steps = _DEFAULT.steps,
    warmup: options.Warmup = _DEFAULT.warmup,
    base_width: options.BaseWidth = None,
    model: options.Model = _DEFAULT.model,
    data: options.Data = None,
    evaluation: options.Evaluation = None,
    loss_fn: options.LossFn = None,
    text: options.Text = None,
    context: options.Context = _DEFAULT.context,
    sweep: options.Sweep = None,
    search: options.Search = _DEFAULT.search,
    samples: options.Samples = None,
    distributed: options.Distributed = None,
    heartbeat_timeout: options.HeartbeatTimeout = 10,
    start_timeout: options.StartTimeout = 300,
    out: options.Out = Path("jaxmup-transfer"),
) -> None:
    """Measures if the best learning rate of a small network works on a large one.

    Trains a network at every width, learning rate and seed, under each parametrization, on all
    cores or accelerators of this machine: by default an MLP on the handwritten digits that
    scikit-learn ships. Prints where each width has its best learning rate, how far that moves, and
    what it costs to reuse the small network's.

    The learning rate falls linearly to zero over a run; the loss is the one at the end, on the
    whole data set or on text that was held out. A run that ends in NaN or infinity counts as
    diverged.

    Every run is on disk as soon as it ends. A command that was interrupted or killed goes on when
    it is given again, with the same code and data.
    """
    given = given_options(ctx)
    with bad_input(TypeError, ValueError):
        config = Config(
            widths=tuple(sorted(numbers.integers("--width", width))),
            learning_rates=numbers.rates(learning_rates, log2_range),
            seeds=tuple(range(seeds)),
            depth=depth,
            batch_size=batch_size,
            steps=steps,
            warmup=warmup,
            optimizer=optimizer,
            parametrizations=cast(Any, tuple(numbers.parts(parametrization))),  # Config checks them
            base_width=base_width,
            model=model,
            data=data,
            loss_fn=loss_fn,
            text=None if text is None else str(text),
            context=context,
            sweep=numbers.sweep(sweep or []),
            search=search,
            samples=samples,
        )
        _require_data(config, evaluation)
        _require_used(config, given, distributed)
    _require_packages(config)
    _use_every_core()
    is_first = _join(
        distributed,
        heartbeat_timeout_seconds=heartbeat_timeout,
        initialization_timeout=start_timeout,
    )
    task = _task(config, evaluation)
    with bad_input(TypeError, ValueError):
        _require_asked_for(config, task, given)
    with out_folder(out, _FILES, [] if text is None else [text]):
        result = _measure(config, task, out)
        if is_first:
            _write(result, out)
            _show(result, out)


@bad_input(ModuleNotFoundError)
def _require_packages(config: Config) -> None:
    """Asks for what is needed at the end before hours of training, and not after."""
    _extras.require("matplotlib.figure", "The plot")
    _extras.require("jinja2", "The report")
    if (config.data or MODELS.get(config.model)) in ("digits", "images"):
        _extras.require("sklearn.datasets", "The digits data set")


def _require_data(config: Config, evaluation: str | None) -> None:
    own_model, own_data = ":" in config.model, ":" in (config.data or "")
    if not own_model and config.model not in MODELS:
        raise ValueError(
            f"`--model` must be one of {', '.join(MODELS)} or MODULE:FUNCTION. "
            f"Got {config.model!r}."
        )
    if own_model and not own_data and config.data not in MODELS.values():
        raise ValueError(
            f"`--data` must be one of {', '.join(MODELS.values())} or MODULE:FUNCTION, for a model "
            f"of one's own. Got {config.data!r}."
        )
    if own_data != (evaluation is not None):
        raise ValueError(
            "`--evaluation` must be given with `--data MODULE:FUNCTION`, and only then. "
            f"Got {evaluation!r}."
        )
    if config.loss_fn is not None and not own_model:
        raise ValueError(f"`--loss` is for a model of one's own. Got `--model {config.model}`.")


def _require_used(config: Config, given: Collection[str], distributed: str | None) -> None:
    """Refuses options that would be ignored, beside those that say another thing."""
    has_text = (config.data or MODELS.get(config.model)) == "text"
    for name in ("text", "context"):
        if name in given and not has_text:
            raise ValueError(
                f"`--{name}` is for data that are text. Got `--model {config.model}`"
                + (f" with `--data {config.data}`." if config.data else ".")
            )
    for name in ("heartbeat_timeout", "start_timeout"):
        if name in given and distributed is None:
            raise ValueError(
                f"`--{name.replace('_', '-')}` is for processes that share the runs. Got no "
                "`--distributed`."
            )
    for name in config.sweep:
        if name in given:
            raise ValueError(
                f"`--{name.replace('_', '-')}` and `--sweep {name}=...` exclude each other. Got "
                f"both."
            )


def _require_asked_for(config: Config, task: Task, given: Collection[str]) -> None:
    """Refuses options for functions of the user's that do not ask for them."""
    from jaxmup._model import as_model

    def refuse(name: str, option: str, reference: str | None) -> None:
        raise ValueError(
            f"`--{name.replace('_', '-')}` must be used. `{option} {reference}` has no parameter "
            f"`{name}`."
        )

    model = as_model(task.make_model)
    if ":" in config.model:
        if "depth" in given and not model.asks_for("depth"):
            refuse("depth", "--model", config.model)
        unused = model.asks_for("parametrization") and not model.asks_for("base_width")
        if "base_width" in given and unused:
            refuse("base_width", "--model", config.model)
    if ":" in (config.data or "") and "batch_size" in given:
        _require_batch_size(config, task)


def _require_batch_size(config: Config, task: Task) -> None:
    """Refuses a batch size that is not that of data which decide it themselves."""
    import jax
    import numpy as np

    from jaxmup._model._arguments import open_parameters

    batches: Any = task.batches
    asked = open_parameters(batches) if callable(batches) else {}
    if "batch_size" in asked or "step" not in asked:
        return
    seed = {"seed": config.seeds[0]} if "seed" in asked else {}
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batches(**seed, step=0))]
    if shapes and all(shape and shape[0] != config.batch_size for shape in shapes):
        raise ValueError(
            f"`--batch-size` must be that of the data. Got {config.batch_size}, where `--data "
            f"{config.data}`, which has no parameter `batch_size`, returns {shapes[0][0]} examples."
        )


@bad_input(ValueError, RuntimeError)
def _join(distributed: str | None, **timeouts: Any) -> bool:
    """Joins the processes that share the runs, and says whether this is the first."""
    import jax

    if distributed is None:
        return True
    if distributed == "auto":
        jax.distributed.initialize(**timeouts)
    else:
        address, *numbers = distributed.split(",")
        if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
            raise ValueError(
                "`--distributed` must be auto, or ADDRESS:PORT, a number of processes and an "
                f"index. Got {distributed!r}. Write 10.0.0.1:1234,2,0."
            )
        jax.distributed.initialize(address, int(numbers[0]), int(numbers[1]), **timeouts)
    return jax.process_index() == 0


@bad_input(ValueError, OSError)
def _task(config: Config, evaluation: str | None) -> Task:
    """The task that the configuration names, with the functions of the user's own."""
    from jaxmup._model import as_loss
    from jaxmup._model._arguments import open_parameters
    from jaxmup.transfer import cross_entropy, task_of

    if ":" not in config.model:
        return task_of(config)
    make_model = model_of(config.model, option="--model")
    loss_fn = (
        calling(cross_entropy, "The loss")
        if config.loss_fn is None
        else function(config.loss_fn, "--loss", as_loss)
    )
    if config.data is None or evaluation is None:
        return dataclasses.replace(task_of(config), make_model=make_model, loss_fn=loss_fn)
    make_batch = function(evaluation, "--evaluation", _require_batch)
    batches = function(config.data, "--data")
    if "step" in open_parameters(batches):
        batches = function(config.data, "--data", _require_batch)
    return Task(make_model, batches, make_batch(), loss_fn)


def _require_batch(batch: object) -> None:
    from jaxmup.transfer._task import require_arrays

    require_arrays(batch, "batch")


def _use_every_core() -> None:
    """Has JAX see one CPU device per core, so that each core can train a network of its own.

    Must come before anything starts a backend; what the user has set wins.
    """
    import jax

    config: Any = jax.config  # its options are attributes that no type checker knows
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    on_cpu = "cpu" in (config.jax_platforms or "cpu")
    if on_cpu and config.jax_num_cpu_devices < 0 and not by_flag:
        config.update("jax_num_cpu_devices", _cores())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _measure(config: Config, task: Task, out: Path) -> Result:
    """Trains, with a bar that shows how far it is."""
    from jaxmup.transfer import measure

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        measuring("The networks could not be trained"),
        bad_input(OSError, prefix="The trials could not be written; the same command goes on. "),
        ProgressBar(*columns, console=console(stderr=True), transient=True) as bar,
    ):
        shown = bar.add_task("starting", total=None)

        def show(at: Progress) -> None:
            doing = "done" if at.width is None else f"{at.parametrization}, width {at.width}"
            bar.update(shown, completed=at.done, total=at.total, description=doing)

        return measure(config, task, show, out)


@bad_input(OSError, prefix="The results could not be written. ")
def _write(result: Result, out: Path) -> None:
    from jaxmup import plots, report
    from jaxmup.transfer import write_atomically, write_record

    inputs = [] if result.config.text is None else [result.config.text]
    write_record(result, out / "transfer.json", inputs)
    png = plots.png(plots.transfer_figure(result))
    write_atomically(out / "transfer.png", png, inputs)
    write_atomically(out / "transfer.html", report.html(result).encode(), inputs)


def _show(result: Result, out: Path) -> None:
    terminal = console()
    terminal.print(result_table(result))
    for analysis in result.analyses:
        terminal.print(Text(analysis.verdict))
    terminal.print(Text(f"The report is {out / 'transfer.html'}."))
