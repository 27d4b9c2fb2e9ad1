"""`jaxmup transfer`."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from jaxmup import _extras
from jaxmup._rules import ParametrizationName
from jaxmup.cli._errors import BadInputError, bad_input
from jaxmup.cli._function import function
from jaxmup.cli._table import result_table
from jaxmup.transfer import (
    MODELS,
    Config,
    OptimizerName,
    Progress,
    Result,
    SearchName,
    Task,
    log2_grid,
)

_DEFAULT = Config()
_WIDTHS = [",".join(map(str, _DEFAULT.widths))]
_PARAMETRIZATIONS = [",".join(_DEFAULT.parametrizations)]
_KNOWN = ", ".join(get_args(ParametrizationName))


def transfer(
    width: Annotated[
        list[str],
        typer.Option(
            help="Widths to train, at least two: repeat the option, or separate by commas."
        ),
    ] = _WIDTHS,
    parametrization: Annotated[
        list[str],
        typer.Option(help=f"Parametrizations to compare, of {_KNOWN}: as for --width."),
    ] = _PARAMETRIZATIONS,
    optimizer: Annotated[
        OptimizerName, typer.Option(help="Optimizer; sgd has momentum 0.9.")
    ] = _DEFAULT.optimizer,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="Peak learning rates to try, separated by commas.",
            show_default="a grid that suits the optimizer",
        ),
    ] = None,
    log2_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW:HIGH[:STEP]",
            help="Instead of --learning-rates, a range of their log2, such as -10:-3:0.5.",
            show_default="STEP 0.5",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(help="Number of seeds; the loss of a learning rate is their mean.")
    ] = len(_DEFAULT.seeds),
    depth: Annotated[
        int, typer.Option(help="Number of hidden layers, of the CNN's stages or the GPT's blocks.")
    ] = _DEFAULT.depth,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = _DEFAULT.batch_size,
    steps: Annotated[int, typer.Option(help="Optimizer steps of a run.")] = _DEFAULT.steps,
    warmup: Annotated[
        int, typer.Option(help="Steps in which the learning rate rises to its peak.")
    ] = _DEFAULT.warmup,
    base_width: Annotated[
        int | None,
        typer.Option(
            help="Width at which all parametrizations agree.", show_default="the smallest width"
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="mlp|cnn|gpt|MODULE:FUNCTION",
            help="The model. A function of one's own returns a model of the width that is its "
            "first argument; `jaxmup.transfer.Task` says what else it may be given.",
        ),
    ] = _DEFAULT.model,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="digits|images|text|MODULE:FUNCTION",
            help="For a model of one's own: data that have a name, or a function of seed and step "
            "that returns a batch.",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="For data of one's own: a function that returns the batch of the loss at the end.",
        ),
    ] = None,
    loss_fn: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="MODULE:FUNCTION",
            help="For a model of one's own: a function of model and batch that returns the loss.",
            show_default="cross-entropy of logits and labels",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="A text file for the gpt.", show_default="Python's standard library"),
    ] = None,
    context: Annotated[
        int, typer.Option(help="Length of a sequence of text, in bytes.")
    ] = _DEFAULT.context,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,VALUE,...",
            help="Sweep another hyper-parameter too: b1, b2, eps, weight_decay, momentum, "
            "input_std, hidden_std, output_std, depth, batch_size, steps, or a parameter of the "
            "model's function. May be repeated.",
        ),
    ] = None,
    search: Annotated[
        SearchName,
        typer.Option(
            help="Which settings of --sweep to try: all, some, or by successive halving at the "
            "smallest width."
        ),
    ] = _DEFAULT.search,
    samples: Annotated[
        int | None,
        typer.Option(help="How many settings to draw.", show_default="all, for halving"),
    ] = None,
    distributed: Annotated[
        str | None,
        typer.Option(
            metavar="auto|ADDRESS:PORT,COUNT,INDEX",
            help="Share the runs with processes elsewhere that run the same command: as the "
            "cluster says, or the coordinator's address, the number of processes and this one's.",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Directory for trials.jsonl, transfer.json, transfer.png and transfer.html; made "
            "if it is missing. The same command goes on with the trials that it finds there."
        ),
    ] = Path("jaxmup-transfer"),
) -> None:
    """Does the best learning rate of a small network work on a large one?

    Trains a network at every width, learning rate and seed, under each parametrization, on all
    cores or accelerators of this machine: by default an MLP on the handwritten digits that
    scikit-learn ships. Prints where each width has its best learning rate, how far that moves, and
    what it costs to reuse the small network's.

    The learning rate falls linearly to zero over a run; the loss is the one at the end, on the
    whole data set or on text that was held out. A run that ends in NaN or infinity counts as
    diverged.

    Every run is on disk as soon as it ends. A command that was interrupted or killed goes on when
    it is given again.
    """
    with bad_input(ValueError):
        config = Config(
            widths=tuple(sorted(_integers("--width", width))),
            learning_rates=_rates(learning_rates, log2_range),
            seeds=tuple(range(seeds)),
            depth=depth,
            batch_size=batch_size,
            steps=steps,
            warmup=warmup,
            optimizer=optimizer,
            parametrizations=cast(Any, tuple(_parts(parametrization))),  # Config checks the names
            base_width=base_width,
            model=model,
            data=data,
            loss_fn=loss_fn,
            text=None if text is None else str(text),
            context=context,
            sweep=_sweep(sweep or []),
            search=search,
            samples=samples,
        )
        _require_data(config, evaluation)
    with bad_input(ModuleNotFoundError):
        _extras.require("matplotlib.figure", "The plot")
        if (data or MODELS.get(model)) in ("digits", "images"):
            _extras.require("sklearn.datasets", "The digits data set")
    _use_every_core()
    with bad_input(ValueError, RuntimeError):
        is_first = _join(distributed)
    with bad_input(ValueError, OSError):
        task = _task(config, evaluation)
    with bad_input(OSError, prefix="`--out` must be a directory that can be written. "):
        _require_writable(out)
    with (
        bad_input(ValueError),
        bad_input(OSError, prefix="The trials could not be written; the same command goes on. "),
    ):
        result = _measure(config, task, out)
    if not is_first:
        return
    with bad_input(OSError, prefix="The results could not be written. "):
        _write(result, out)
    console = Console()
    console.print(result_table(result))
    for analysis in result.analyses:
        console.print(analysis.verdict, highlight=False)
    console.print(f"The report is {out / 'transfer.html'}.", highlight=False)


def _parts(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _integers(option: str, texts: list[str]) -> list[int]:
    try:
        return [int(part) for part in _parts(texts)]
    except ValueError:
        raise ValueError(
            f"`{option}` must be integers separated by commas. Got {','.join(texts)!r}. "
            "Try 64,128,256."
        ) from None


def _rates(listed: str | None, log2_range: str | None) -> tuple[float, ...] | None:
    if listed is not None and log2_range is not None:
        raise ValueError("`--learning-rates` and `--log2-range` exclude each other. Got both.")
    if listed is not None:
        rates = _numbers("--learning-rates", _parts([listed]), listed, "Try 0.001,0.002,0.004.")
        return tuple(sorted(rates))
    if log2_range is not None:
        bounds = _numbers("--log2-range", log2_range.split(":"), log2_range, "Try -10:-3:0.5.")
        if len(bounds) not in (2, 3):
            raise ValueError(
                f"`--log2-range` must be LOW:HIGH or LOW:HIGH:STEP. Got {log2_range!r}."
            )
        return log2_grid(*bounds)
    return None


def _sweep(texts: list[str]) -> dict[str, tuple[float, ...]]:
    swept: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        remedy = "Write --sweep b2=0.9,0.99."
        if not name or name in swept:
            raise ValueError(
                f"`--sweep` must name each hyper-parameter once. Got {text!r}. {remedy}"
            )
        numbers = _numbers("--sweep", _parts([values]), text, remedy)
        swept[name] = tuple(int(x) if x.is_integer() else x for x in numbers)
    return swept


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


def _join(distributed: str | None) -> bool:
    """Joins the processes that share the runs, and says whether this is the first."""
    import jax

    if distributed is None:
        return True
    if distributed == "auto":
        jax.distributed.initialize()
    else:
        address, *numbers = distributed.split(",")
        if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
            raise ValueError(
                "`--distributed` must be auto, or ADDRESS:PORT, a number of processes and an "
                f"index. Got {distributed!r}. Write 10.0.0.1:1234,2,0."
            )
        jax.distributed.initialize(address, int(numbers[0]), int(numbers[1]))
    return jax.process_index() == 0


def _task(config: Config, evaluation: str | None) -> Task:
    """What the configuration names, with the functions of the user's own."""
    from jaxmup.transfer import cross_entropy, task_of

    if ":" not in config.model:
        return task_of(config)
    make_model = function(config.model, "--model")
    loss_fn = cross_entropy if config.loss_fn is None else function(config.loss_fn, "--loss")
    if config.data is None or evaluation is None:
        return dataclasses.replace(task_of(config), make_model=make_model, loss_fn=loss_fn)
    batches, make_batch = function(config.data, "--data"), function(evaluation, "--evaluation")
    try:
        batch = make_batch()
    except Exception as error:  # whatever the user's function raises
        raise BadInputError(f"{evaluation} raised {type(error).__name__}: {error}") from error
    return Task(make_model, batches, batch, loss_fn)


def _numbers(option: str, parts: list[str], text: str, remedy: str) -> list[float]:
    try:
        return [float(part) for part in parts]
    except ValueError:
        raise ValueError(f"`{option}` must be numbers. Got {text!r}. {remedy}") from None


def _require_writable(directory: Path) -> None:
    """Makes the directory and tries a file in it, so that no work is done for nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


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
    from jaxmup.transfer import measure

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("starting", total=None)

        def show(at: Progress) -> None:
            doing = "done" if at.width is None else f"{at.parametrization}, width {at.width}"
            bar.update(shown, completed=at.done, total=at.total, description=doing)

        return measure(config, task, show, out)


def _write(result: Result, out: Path) -> None:
    from jaxmup import plots, report
    from jaxmup.transfer import write_atomically, write_record

    write_record(result, out / "transfer.json")
    write_atomically(out / "transfer.png", plots.png(plots.transfer_figure(result)))
    write_atomically(out / "transfer.html", report.html(result).encode())
