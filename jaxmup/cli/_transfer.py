"""`jaxmup transfer`."""

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
from jaxmup.cli._errors import bad_input
from jaxmup.cli._table import result_table
from jaxmup.transfer import Config, OptimizerName, Progress, Result, log2_grid

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
    depth: Annotated[int, typer.Option(help="Number of hidden layers.")] = _DEFAULT.depth,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = _DEFAULT.batch_size,
    steps: Annotated[int, typer.Option(help="Optimizer steps of a run.")] = _DEFAULT.steps,
    base_width: Annotated[
        int | None,
        typer.Option(
            help="Width at which all parametrizations agree.", show_default="the smallest width"
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Directory for transfer.json and transfer.png; made if it is missing."),
    ] = Path("jaxmup-transfer"),
) -> None:
    """Does the best learning rate of a small network work on a large one?

    Trains an MLP on the handwritten digits that scikit-learn ships, at every width, learning rate
    and seed, under each parametrization, on all cores or accelerators of this machine. Prints where
    each width has its best learning rate, how far that moves, and what it costs to reuse the small
    network's.

    The learning rate falls linearly to zero over a run; the loss is the one on the whole data set
    at the end. A run that ends in NaN or infinity counts as diverged.
    """
    with bad_input(ValueError):
        config = Config(
            widths=tuple(sorted(_integers("--width", width))),
            learning_rates=_rates(learning_rates, log2_range),
            seeds=tuple(range(seeds)),
            depth=depth,
            batch_size=batch_size,
            steps=steps,
            optimizer=optimizer,
            parametrizations=cast(Any, tuple(_parts(parametrization))),  # Config checks the names
            base_width=base_width,
        )
    with bad_input(ModuleNotFoundError):
        _extras.require("matplotlib.figure", "The plot")
        _extras.require("sklearn.datasets", "The digits data set")
    with bad_input(OSError, prefix="`--out` must be a directory that can be written. "):
        _require_writable(out)
    _use_every_core()
    result = _measure(config)
    with bad_input(OSError, prefix="The results could not be written. "):
        _write(result, out)
    console = Console()
    console.print(result_table(result))
    for analysis in result.analyses:
        console.print(analysis.verdict, highlight=False)
    console.print(f"Wrote {out / 'transfer.json'} and {out / 'transfer.png'}.", highlight=False)


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


def _measure(config: Config) -> Result:
    from jaxmup.transfer import measure

    columns = (SpinnerColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(at: Progress) -> None:
            doing = "done" if at.width is None else f"{at.parametrization}, width {at.width}"
            bar.update(task, completed=at.done, total=at.total, description=doing)

        return measure(config, progress=show)


def _write(result: Result, out: Path) -> None:
    from jaxmup import plots
    from jaxmup.transfer import write_atomically, write_record

    write_record(result, out / "transfer.json")
    write_atomically(out / "transfer.png", plots.png(plots.transfer_figure(result)))
