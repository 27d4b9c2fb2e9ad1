"""Numbers, settings and findings in words, the same on every page."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

from jaxmup.transfer import Analysis, Curve, Interval, Result
from jaxmup.transfer._names import in_words

NONE = "–"


def number(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A number with so many decimals, a real minus and no negative zero.

    Example:
      >>> number(-0.001, sign=True), number(-1.5), number(None)
      ('+0.00', '−1.50', '–')
    """
    if value is None:
        return NONE
    text = f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "−")


def interval(found: Interval | None, digits: int = 2, sign: bool = False) -> str:
    """An interval in words, or a dash.

    Example:
      >>> interval(Interval(-0.5, 0.25))
      '−0.50 to 0.25'
    """
    if found is None:
        return NONE
    return f"{number(found.low, digits, sign)} to {number(found.high, digits, sign)}"


def loss(value: float | None) -> str:
    """A loss with three significant digits, or that it diverged."""
    return "diverged" if value is None else f"{value:#.3g}".rstrip(".")


def best_loss(curve: Curve) -> str:
    """The smallest loss of a width, or that every value diverged."""
    return loss(None if curve.best is None else curve.losses[curve.best])


def sentence(analysis: Analysis) -> str:
    """The verdict without the name before it.

    The rest begins with a capital letter, as a sentence does.
    """
    text = analysis.verdict.removeprefix(f"{analysis.parametrization}: ")
    text = re.sub(r"-(?=\d)", "−", text).replace(" %", "\N{NO-BREAK SPACE}%")
    return text[:1].upper() + text[1:]


def optimum(analysis: Analysis, curve: Curve) -> str:
    """The best value of a width: a power of two on a log2 scale."""
    if curve.optimum is None:
        return "diverged"
    if analysis.scale == "linear":
        return number(curve.optimum, 4)
    return f"2^{number(curve.optimum)}"


def optimum_interval(analysis: Analysis, curve: Curve) -> str:
    """The interval of the best value of a width, in the same form."""
    if curve.interval is None or analysis.scale == "linear":
        return interval(curve.interval, 4)
    return f"2^{number(curve.interval.low)} to 2^{number(curve.interval.high)}"


def wider(analysis: Analysis) -> tuple[str, str]:
    """Yes or no to "Was wider better at every step?", and the detail."""
    if analysis.crossings is None:
        return NONE, "one seed" if analysis.seeds == 1 else "no curves recorded"
    if not analysis.crossings:
        return "yes", "at every step"
    certain = [c for c in analysis.crossings if c.certain]
    worst = (certain or analysis.crossings)[-1]
    by = "diverged" if worst.excess is None else f"{worst.excess:+.2g} nats"
    noise = "" if certain or worst.noise is None else f", noise {worst.noise:.2g}"
    when = f"at {100 * worst.at:.0f}\N{NO-BREAK SPACE}% of the run"
    detail = f"{worst.wide} against {worst.narrow}: {by}{noise}, {when}"
    return "no" if certain else "unclear", detail


def configuration(result: Result) -> dict[str, str]:
    """Every field of the configuration, with the defaults that it stands for."""
    config = result.config
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    filled = fields | {"learning_rates": config.grid, "base_width": config.base}
    return {in_words(key): _setting(value) for key, value in filled.items()}


def _setting(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_setting(item)}" for key, item in value.items()) or NONE
    if isinstance(value, tuple | list):
        return _values(value)
    if value is None or value == "":
        return NONE
    return f"{value:g}" if isinstance(value, float) else str(value)


def _values(values: Sequence[object]) -> str:
    """All of a few values; of an even grid of powers of two, where it begins, ends and steps.

    Example:
      >>> _values((0.25, 0.5, 1.0, 2.0, 4.0))
      '2^−2 to 2^2 in steps of 1 octave (5 values)'
    """
    rates = [x for x in values if isinstance(x, float) and x > 0]
    steps = [math.log2(b / a) for a, b in itertools.pairwise(rates)]
    if len(rates) == len(values) > 4 and max(steps) - min(steps) < 1e-9:
        ends = (f"2^{math.log2(x):g}".replace("-", "−") for x in (rates[0], rates[-1]))
        step = f"{steps[0]:g} octave" + ("" if steps[0] == 1 else "s")
        return f"{' to '.join(ends)} in steps of {step} ({len(values)} values)"
    return ", ".join(_setting(value) for value in values) or NONE
