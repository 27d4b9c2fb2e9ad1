"""Hyper-parameters of Adam for another batch size and another length of training.

A parametrization carries hyper-parameters over width and depth; the rules here carry them over what
a run is given to learn from, and the two multiply. They follow from one picture: while the noise of
batches dominates, Adam's path is a diffusion, and a step of batch size κB with the learning rate
`√κ η` covers the time of κ steps. To train `m_D` times longer on the same path is to take steps of
`κ = m_B / m_D`.
"""

import dataclasses
from typing import Literal, get_args

from jaxmup import _check

DecayMode = Literal["decoupled", "independent"]

_SDE = (
    "Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, "
    "arXiv:2205.10287"
)
_COMPLETE_DP = "Mlodozeniec et al., Complete(d)P, arXiv:2512.22382, Table 1"
_EMA = "Wang and Aitchison, How to set AdamW's weight decay, arXiv:2405.13698"
_POWER_LINES = "Bergsma et al., Power Lines, arXiv:2505.13738, Equations 2 to 4"


def _positive(name: str, value: object, remedy: str) -> None:
    _check.number(name, value, above=0, may_be_traced=False, remedy=remedy)


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """The size of a run: its batches, and how long it trains.

    Args:
      batch_size: Number of examples, or tokens, in one step.
      examples: Number of examples, or tokens, in the whole run; in the unit of `batch_size`.
      parameters: Number of parameters of the model, for rules in tokens per parameter; `None` if it
        is not known.

    Raises:
      TypeError: if a number is none of Python or NumPy.
      ValueError: if a number is not finite and above 0.

    Example:
      >>> Run(batch_size=32, examples=3200).iterations
      100
    """

    batch_size: float
    examples: float
    parameters: float | None = None

    def __post_init__(self) -> None:
        _positive("batch_size", self.batch_size, "It counts examples or tokens.")
        _positive("examples", self.examples, "It counts what `batch_size` counts.")
        if self.parameters is not None:
            _positive("parameters", self.parameters, "`None` if no rule needs it.")

    @property
    def iterations(self) -> int:
        """Number of optimizer steps, rounded; at least 1."""
        return max(1, round(self.examples / self.batch_size))


@dataclasses.dataclass(frozen=True, slots=True)
class Hyperparameters:
    """The hyper-parameters of AdamW or another optimizer with two moments.

    Args:
      learning_rate: Learning rate; the largest value of a schedule, which stretches over the run.
      weight_decay: Coefficient λ; `None` for no decay.
      eps: Constant beside the root of the second moment, in units of the gradient.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).

    Raises:
      TypeError: if a number is none of Python or NumPy.
      ValueError: if a number is out of range.

    Example:
      >>> Hyperparameters(learning_rate=0.01).b1
      0.9
    """

    learning_rate: float
    weight_decay: float | None = None
    eps: float = 1e-8
    b1: float = 0.9
    b2: float = 0.999

    def __post_init__(self) -> None:
        _positive("learning_rate", self.learning_rate, "It is the base run's.")
        _positive("eps", self.eps, "It is added to the root of the second moment.")
        if self.weight_decay is not None:
            _positive("weight_decay", self.weight_decay, "`None` is for none.")
        remedy = (
            "Where `adjust` has made it, batches have grown so much that no average over steps is "
            "left: pass scale_betas=False, or a smaller batch."
        )
        _check.number("b1", self.b1, at_least=0, below=1, may_be_traced=False, remedy=remedy)
        _check.number("b2", self.b2, at_least=0, below=1, may_be_traced=False, remedy=remedy)


@dataclasses.dataclass(frozen=True, slots=True)
class Factor:
    """The factor on one hyper-parameter, with its formula and its source.

    Args:
      name: Name of the hyper-parameter.
      value: Factor from base to target; dimensionless.
      formula: Formula of the factor in `m_B`, `m_D` and `m_TPP`, the ratios of target to base of
        batch size, examples and examples per parameter.
      source: Paper and equation or table that the formula is from.
    """

    name: str
    value: float
    formula: str
    source: str


def factors(
    base: Run,
    target: Run,
    *,
    batch_exponent: float = 0.5,
    length_exponent: float = 0.5,
    timescale_exponent: float | None = 0.0,
    decay_mode: DecayMode = "decoupled",
    scale_betas: bool = True,
) -> dict[str, Factor]:
    r"""The factor on each hyper-parameter from one run to another, with its source.

    With :math:`m_B`, :math:`m_D` the ratios of batch size and of examples, by default

    .. math::
      \eta \to \eta \sqrt{m_B / m_D}, \quad \lambda \to \lambda \sqrt{m_B / m_D}, \quad
      \epsilon \to \epsilon \sqrt{m_D / m_B}, \quad
      1 - \beta_i \to (1 - \beta_i)\, m_B / m_D, \quad steps \to steps \cdot m_D / m_B .

    The literature disagrees on the exponents; each is an argument.

    Args:
      base: Run that the hyper-parameters are from.
      target: Run that the hyper-parameters are for.
      batch_exponent: Exponent p of :math:`\eta \propto m_B^p`: ½ for optimizers whose step does not
        grow with the gradient (Malladi et al.), 1 for SGD (the linear rule).
      length_exponent: Exponent q of :math:`\eta \propto m_D^{-q}`: ½ follows the diffusion
        (Complete(d)P); measured exponents are lower, about 0.3 for compute-optimal runs; 0 keeps
        the rate.
      timescale_exponent: Exponent m of :math:`m_{TPP}^m`, by which the time scale of weight decay,
        :math:`1 / (\eta \lambda)` steps as a fraction of the run, follows examples per parameter.
        0 keeps the fraction (Wang and Aitchison; Complete(d)P); Power Lines measures m < 0. `None`
        leaves the coefficient as it is.
      decay_mode: Kind of weight decay: `"decoupled"` if its coefficient is multiplied by the
        learning rate, as optax's and torch's, `"independent"` if not.
      scale_betas: Whether the time over which Adam averages is a fixed part of the run, rather than
        a fixed number of steps.

    Returns:
      The factor on `learning_rate`, `weight_decay`, `eps`, `1 - b1`, `1 - b2` and `iterations`.

    Raises:
      TypeError: if an exponent is no number.
      ValueError: if an exponent is not finite, `timescale_exponent` needs a number of parameters
        that a run lacks, or `decay_mode` is unknown.

    Example:
      >>> table = factors(Run(32, 3200), Run(128, 51200))
      >>> table["learning_rate"].value, table["1 - b1"].value, table["iterations"].value
      (0.5, 0.25, 4.0)

    References:
      Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms",
      arXiv:2205.10287 (the square root scaling rule).
      Mlodozeniec et al., "Completed Hyperparameter Transfer across Modules, Width, Depth, Batch and
      Duration", arXiv:2512.22382, Table 1.
      Wang and Aitchison, "How to set AdamW's weight decay as you scale model and dataset size",
      arXiv:2405.13698.
      Bergsma et al., "Power Lines", arXiv:2505.13738, Equations 2 to 4.
    """
    for name, run in (("base", base), ("target", target)):
        _check.made(name, run, "Run", "jaxmup.budget.Run")
    _check.flag("scale_betas", scale_betas)
    _check.one_of("decay_mode", decay_mode, get_args(DecayMode))
    for name, exponent in (
        ("batch_exponent", batch_exponent),
        ("length_exponent", length_exponent),
        ("timescale_exponent", 0.0 if timescale_exponent is None else timescale_exponent),
    ):
        _check.number(name, exponent, may_be_traced=False)
    batch, length = target.batch_size / base.batch_size, target.examples / base.examples
    kappa = batch / length
    lr = kappa**batch_exponent * length ** (batch_exponent - length_exponent)
    betas, of_betas = (kappa, "m_B / m_D") if scale_betas else (1.0, "1")
    lr_formula = f"m_B^{batch_exponent:g} · m_D^-{length_exponent:g}"
    found = (
        Factor("learning_rate", lr, lr_formula, f"{_COMPLETE_DP}; {_SDE}"),
        _decay(base, target, lr, timescale_exponent, decay_mode),
        Factor("eps", kappa**-0.5, "(m_D / m_B)^0.5", f"{_COMPLETE_DP}; {_SDE}"),
        Factor("1 - b1", betas, of_betas, f"{_COMPLETE_DP}; {_SDE}"),
        Factor("1 - b2", betas, of_betas, f"{_COMPLETE_DP}; {_SDE}"),
        Factor("iterations", 1 / kappa, "m_D / m_B", "by definition"),
    )
    return {factor.name: factor for factor in found}


def _decay(base: Run, target: Run, lr: float, exponent: float | None, mode: DecayMode) -> Factor:
    if exponent is None:
        return Factor("weight_decay", 1.0, "1", "as in the base run")
    kappa = target.batch_size / base.batch_size * base.examples / target.examples
    per_step, formula, source = kappa, "m_B / m_D", f"{_COMPLETE_DP}; {_EMA}"
    if exponent != 0:
        per_step *= _examples_per_parameter(base, target) ** -exponent
        formula, source = f"{formula} · m_TPP^{-exponent:g}", _POWER_LINES
    if mode == "independent":
        return Factor("weight_decay", per_step, formula, source)
    return Factor("weight_decay", per_step / lr, f"{formula} / (factor of learning_rate)", source)


def _examples_per_parameter(base: Run, target: Run) -> float:
    if base.parameters is None or target.parameters is None:
        raise ValueError(
            "A `timescale_exponent` other than 0 is in examples per parameter, so both runs must "
            f"say how many parameters they have. Got {base} and {target}. Pass `parameters`."
        )
    return target.examples / target.parameters / (base.examples / base.parameters)


def adjust(
    hyperparameters: Hyperparameters,
    base: Run,
    target: Run,
    *,
    batch_exponent: float = 0.5,
    length_exponent: float = 0.5,
    timescale_exponent: float | None = 0.0,
    decay_mode: DecayMode = "decoupled",
    scale_betas: bool = True,
) -> Hyperparameters:
    """The hyper-parameters of `base` for `target`: each times its factor.

    Args:
      hyperparameters: Hyper-parameters of the base run.
      base: Run that they are from.
      target: Run that they are for; it trains for `target.iterations` steps.
      batch_exponent: Exponent p of the learning rate; see `factors`.
      length_exponent: Exponent q of the learning rate; see `factors`.
      timescale_exponent: Exponent m of the time scale of weight decay; see `factors`.
      decay_mode: Kind of weight decay; see `factors`.
      scale_betas: Whether Adam averages over a fixed part of the run; see `factors`.

    Raises:
      ValueError: as `factors`, or if a decay of Adam's moments would leave [0, 1).

    Example:
      >>> adjust(Hyperparameters(0.5, b1=0.75), Run(32, 3200), Run(64, 12800)).learning_rate
      0.3535533905932738
      >>> adjust(Hyperparameters(0.5, b1=0.75), Run(32, 3200), Run(64, 12800)).b1
      0.875

    References:
      See `factors`.
    """
    _check.made(
        "hyperparameters", hyperparameters, "Hyperparameters", "jaxmup.budget.Hyperparameters"
    )
    by = factors(
        base,
        target,
        batch_exponent=batch_exponent,
        length_exponent=length_exponent,
        timescale_exponent=timescale_exponent,
        decay_mode=decay_mode,
        scale_betas=scale_betas,
    )
    old = hyperparameters
    decay = None if old.weight_decay is None else old.weight_decay * by["weight_decay"].value
    return Hyperparameters(
        learning_rate=old.learning_rate * by["learning_rate"].value,
        weight_decay=decay,
        eps=old.eps * by["eps"].value,
        b1=_decay_rate(old.b1, by["1 - b1"].value),
        b2=_decay_rate(old.b2, by["1 - b2"].value),
    )


def _decay_rate(b: float, factor: float) -> float:
    return b if factor == 1 else 1 - (1 - b) * factor  # so that no factor rounds nothing
