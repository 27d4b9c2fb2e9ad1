"""The verdict in words: what was decided, by which number."""

from jaxmup.transfer._findings import Analysis, Interval
from jaxmup.transfer._names import in_words


def verdict(a: Analysis) -> str:
    """One sentence that starts with the parametrization."""
    what = f"the best {in_words(a.over)}"
    if a.drift is None:
        lost = ", ".join(str(c.width) for c in a.curves if c.optimum is None)
        every = f"every {in_words(a.over)}"
        return f"{a.parametrization}: no answer, since {every} diverged at width {lost}."
    if a.edges:
        at = ", ".join(map(str, a.edges))
        return (
            f"{a.parametrization}: no answer, since {what} is at an edge of the "
            f"grid at width {at}; widen the grid."
        )
    numbers = f"{_drift(a, a.drift)}, and {_penalty(a)}{_worse(a)}"
    return f"{a.parametrization}: {what} {_outcome(a)}; {numbers}."


def _outcome(a: Analysis) -> str:
    """The claim, and whether the seeds are enough for it."""
    if a.outcome != "undecided":
        return a.outcome
    claim = "seems to transfer" if a.transfers else "seems not to transfer"
    seeds = "one seed is" if a.seeds == 1 else f"{a.seeds} seeds are"
    return f"{claim}, but {seeds} not enough seeds to decide"


def _drift(a: Analysis, drift: float) -> str:
    ends = f"from width {a.curves[0].width} to {a.curves[-1].width}"
    if a.scale == "linear":
        return f"it moves by {drift:+z.3g}{_evidence(a.drift_interval, '+z.3g')} {ends}"
    evidence = _evidence(a.drift_interval, "+z.2f", f"±{a.limit:g}")
    return f"it moves by {drift:+z.2f} octaves {ends}{evidence}"


def _penalty(a: Analysis) -> str:
    small = f"reusing the best of width {a.curves[0].width}"
    large = f"width {a.curves[-1].width}"
    if a.transferred_loss is None or a.best_loss is None:
        return f"{small} makes {large} diverge"
    losses = f"a loss of {a.transferred_loss:.3g} instead of {a.best_loss:.3g}"
    if a.penalty is None:
        return f"{small} gives {large} {losses}"
    limit = f"{a.limit:g}" if a.scale == "linear" else None
    evidence = _evidence(a.penalty_interval, ".1f", limit)
    return f"{small} costs {large} {a.penalty:.1f} %{evidence}: {losses}"


def _worse(a: Analysis) -> str:
    """The objection beside the numbers: a wider network that trains worse."""
    worse = [c for c in a.crossings or () if c.certain]
    if not worse:
        return ""
    return f"; width {worse[-1].wide} trains worse than {worse[-1].narrow}"


def _evidence(interval: Interval | None, form: str, limit: str | None = None) -> str:
    """Interval and limit in brackets, after the number that they are about."""
    parts = []
    if interval is not None:
        parts.append(f"95 % interval {interval.low:{form}} to {interval.high:{form}}")
    if limit is not None:
        parts.append(f"limit {limit}")
    return f" ({', '.join(parts)})" if parts else ""
