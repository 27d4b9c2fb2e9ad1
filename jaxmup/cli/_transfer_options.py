"""The options of `jaxmup transfer`: how each reads in its help."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from jaxmup._parametrization import ParametrizationName
from jaxmup.cli._options import path_of
from jaxmup.transfer import OptimizerName, SearchName

Widths = Annotated[
    list[str],
    typer.Option(
        "--width", help="Widths to train, at least two: repeat the option, or separate by commas."
    ),
]
Parametrizations = Annotated[
    list[str],
    typer.Option(
        "--parametrization",
        help=f"Parametrizations to compare, of {', '.join(get_args(ParametrizationName))}: as for "
        "--width.",
    ),
]
Optimizer = Annotated[OptimizerName, typer.Option(help="Optimizer; sgd has momentum 0.9.")]
LearningRates = Annotated[
    str | None,
    typer.Option(
        help="Peak learning rates to try, separated by commas.",
        show_default="a grid that suits the optimizer",
    ),
]
Log2Range = Annotated[
    str | None,
    typer.Option(
        metavar="LOW:HIGH[:STEP]",
        help="Instead of --learning-rates, a range of their log2, such as -10:-3:0.5.",
        show_default="STEP 0.5",
    ),
]
Seeds = Annotated[
    int, typer.Option(help="Number of seeds; the loss of a learning rate is their mean.")
]
Depth = Annotated[
    int, typer.Option(help="Number of hidden layers, of the CNN's stages or the GPT's blocks.")
]
BatchSize = Annotated[int, typer.Option(help="Examples per step.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps of a run.")]
Warmup = Annotated[int, typer.Option(help="Steps in which the learning rate rises to its peak.")]
BaseWidth = Annotated[
    int | None,
    typer.Option(
        help="Width at which all parametrizations agree.", show_default="the smallest width"
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="mlp|cnn|gpt|MODULE:FUNCTION",
        help="The model. A function of one's own returns a model of the width that is its first "
        "argument; `jaxmup.transfer.Task` says what else it may be given.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="digits|images|text|MODULE:FUNCTION",
        help="For a model of one's own: data that have a name, or a function of seed and step that "
        "returns a batch.",
    ),
]
Evaluation = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION",
        help="For data of one's own: a function that returns the batch of the loss at the end.",
    ),
]
LossFn = Annotated[
    str | None,
    typer.Option(
        "--loss",
        metavar="MODULE:FUNCTION",
        help="For a model of one's own: a function of model and batch that returns the loss.",
        show_default="cross-entropy of logits and labels",
    ),
]
Text = Annotated[
    Path | None,
    typer.Option(
        parser=path_of,
        metavar="PATH",
        help="A text file for the gpt.",
        show_default="Python's standard library",
    ),
]
Context = Annotated[int, typer.Option(help="Length of a sequence of text, in bytes.")]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE,VALUE,...",
        help="Sweep another hyper-parameter too: b1, b2, eps, weight_decay, momentum, input_std, "
        "hidden_std, output_std, depth, batch_size, steps, or a parameter of the model's function. "
        "May be repeated.",
    ),
]
Search = Annotated[
    SearchName,
    typer.Option(
        help="Which settings of --sweep to try: all, some, or by successive halving at the "
        "smallest width."
    ),
]
Samples = Annotated[
    int | None, typer.Option(help="How many settings to draw.", show_default="all, for halving")
]
Distributed = Annotated[
    str | None,
    typer.Option(
        metavar="auto|ADDRESS:PORT,COUNT,INDEX",
        help="Share the runs with processes elsewhere that run the same command: as the cluster "
        "says, or the coordinator's address, the number of processes and this one's.",
    ),
]
HeartbeatTimeout = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="SECONDS",
        help="With --distributed: how long another process may be silent before it counts as dead. "
        "All end then, and the same command goes on with the trials of all, of the dead one too.",
    ),
]
StartTimeout = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="SECONDS",
        help="With --distributed: how long to wait for the other processes at the start.",
    ),
]
Out = Annotated[
    Path,
    typer.Option(
        parser=path_of,
        metavar="PATH",
        help="Directory for trials.jsonl, transfer.json, transfer.png and transfer.html; made if "
        "it is missing. The same command goes on with the trials that it finds there.",
    ),
]
