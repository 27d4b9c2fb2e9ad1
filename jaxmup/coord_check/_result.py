"""The result of a coordinate check."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from typing import Any, Literal

from jaxmup._families import Family
from jaxmup._finding import Finding
from jaxmup.coord_check._mend import beginning, mend_of
from jaxmup.coord_check._verdict import Outcome, Verdict

Over = Literal["width", "depth"]
Conclusion = Literal["pass", "fail", "could not decide"]


@dataclasses.dataclass(frozen=True)
class CoordCheck:
    """The result of a coordinate check.

    There is a verdict on each quantity of each module and parameter, with four exceptions: a
    quantity that is zero everywhere, one that rounding makes zero somewhere, a step and a decay
    over a weight that started at zero, and a parameter whose gradients are nothing but rounding.

    `print(check)` is a page: the conclusion, then the rows that do not pass.

    Args:
      over: Kind of size, `"width"` or `"depth"`.
      sizes: Sizes of the models.
      seeds: Seeds of the runs.
      steps: Number of steps of each run.
      parametrization: Parametrization under which the models ran, as text.
      family: Family of the optimizer.
      follows_parametrization: Whether the models would follow another parametrization; those of
        jaxmup layers only do if `make_model` takes one.
      verdicts: Verdicts, in the order of the measurements.
      rows: Measurements as plain dicts, one for each quantity, name, layer, size, seed and step.
      findings: What `jaxmup.lint` finds in a model that fails, each with its mend.
    """

    over: Over
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int
    parametrization: str
    family: Family
    follows_parametrization: bool
    verdicts: tuple[Verdict, ...]
    rows: tuple[Mapping[str, Any], ...]
    findings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Conclusion:
        """`pass` if every row passes, `fail` if any fails, else `could not decide`.

        Rows that fail for being infinite alone are those of a model that diverges, which decides
        nothing.
        """
        if self._nothing_to_see:
            return "could not decide"
        outcomes = {one.outcome for one in self.verdicts}
        if self._diverging and all(map(_is_not_finite, self.of("fail"))):
            return "could not decide"
        return "fail" if "fail" in outcomes else "pass" if outcomes == {"pass"} else _UNDECIDED

    @property
    def reason(self) -> str:
        """The rows that the outcome rests on, and what would decide it, as a sentence."""
        if self._nothing_to_see:
            return self._nothing_to_see
        parts = [f"{len(self.of('pass'))} of {len(self.verdicts)} rows pass"]
        if failing := self.of("fail"):
            parts.append(f"{len(failing)} fail")
        if self._diverging:
            parts.append(self._diverging)
        if fading := self.of("too small"):
            largest = max(one.needs or 0 for one in fading)
            parts.append(f"{len(fading)} fade: {self.over}s too small, try up to {largest}")
        if noisy := self.of("not enough seeds"):
            number = max((one.needs or 0 for one in noisy), default=0)
            advice = f"try {number}" if number else "try at least 3"
            parts.append(f"{len(noisy)} are noisy: not enough seeds, {advice}")
        return "; ".join(parts) + "."

    @property
    def _diverging(self) -> str:
        """The sizes at which a model diverges at some seed, in words; empty if there are none."""
        sizes = {one["size"] for one in self.rows if one["rms"] is None}
        if not sizes:
            return ""
        at = ", ".join(map(str, sorted(sizes)))
        return f"models of {self.over} {at} diverge, try a smaller learning rate"

    @property
    def _nothing_to_see(self) -> str:
        """The reason why the runs say nothing of the model; empty if they do."""
        gradients = [one["rms"] for one in self.rows if one["quantity"] == "gradient"]
        if not any(value is None or value > 0 for value in gradients):
            return "No gradient reaches a parameter: the loss is constant."
        updates = [one["rms"] for one in self.rows if one["quantity"] == "update"]
        if not any(value is None or value > 0 for value in updates):
            return "No step moves a parameter: the learning rate is zero."
        smallest = min(self.sizes)
        broken = {
            one["seed"] for one in self.rows if one["size"] == smallest and one["rms"] is None
        }
        if broken == {*self.seeds}:
            return (
                f"The model of {self.over} {smallest} diverges at every seed. Take a smaller "
                "learning rate."
            )
        return ""

    def of(self, outcome: Outcome) -> tuple[Verdict, ...]:
        """The verdicts with this outcome."""
        return tuple(one for one in self.verdicts if one.outcome == outcome)

    @property
    def not_passing(self) -> tuple[Verdict, ...]:
        """The verdicts that do not pass, as a person reads them.

        What fails comes first, outputs before parameters, each in the order of the network.
        """

        def place(one: Verdict) -> tuple[int, bool]:
            return list(_TITLES).index(one.outcome), one.quantity not in _FORWARD

        return tuple(sorted((v for v in self.verdicts if v.outcome != "pass"), key=place))

    @property
    def begins(self) -> Verdict | None:
        """The row that fails where it begins; `None` if none fails.

        Growth at initialization comes before what is learned, outputs before parameters, each in
        the order of the network: what comes later follows from it.
        """
        failing = self.of("fail")
        return beginning([v for v in failing if not _is_not_finite(v)] or failing)

    def __str__(self) -> str:
        return page(self)


_UNDECIDED: Conclusion = "could not decide"
# Forward before backward: what a value does to those after it, its gradient tells too.
_FORWARD = ("activation", "logits", "activation_change", "logits_change")
_TITLES: dict[Outcome, str] = {
    "fail": "does not grow as expected",
    "too small": "deviates less the larger the model: larger sizes decide",
    "not enough seeds": "is too noisy to tell: more seeds decide",
}


def _is_not_finite(one: Verdict) -> bool:
    return not all(map(math.isfinite, one.values))


def causes(check: CoordCheck) -> list[str]:
    """The place where it begins, and what `lint` finds, as paragraphs; none if nothing fails.

    Args:
      check: Check to explain.
    """
    one = check.begins
    if one is None or check.outcome != "fail":
        return []
    at = f"at {one.line}, " if one.line else ""
    lines = [f"It begins {at}in {one.quantity} of {one.title}:"]
    if one.source:
        lines.append(f"    {one.source}")
    grows = "no slope" if one.slope is None else f"{check.over}^{one.slope.value:+.2f}"
    mend = mend_of(one, check.over)
    lines.append(f"  It has {grows}, muP {check.over}^({one.expected}).")
    if mend:
        lines.append(f"  To mend: {mend}.")
    found = ["\n".join(["What `jaxmup.lint` finds:", *map(_indented, check.findings)])]
    return ["\n".join(lines), *found] if check.findings else ["\n".join(lines)]


def _indented(finding: Finding) -> str:
    return textwrap.indent(finding.text(96), "  ")


def page(check: CoordCheck, most: int = 12) -> str:
    """A check as a page: the conclusion, where it begins and why, then the rows that do not pass.

    Rows stand in the order of the network, those of outputs before those of parameters, so that the
    first is where the growth begins.

    Args:
      check: Check to show.
      most: Number of rows of each outcome.
    """
    sizes = ", ".join(map(str, check.sizes))
    seeds = "1 seed" if len(check.seeds) == 1 else f"{len(check.seeds)} seeds"
    parts = [
        f"The coordinate check over {check.over} {sizes} under {check.parametrization}, {seeds}, "
        f"{check.steps} steps: {check.outcome}. {check.reason}",
        *causes(check),
    ]
    for outcome, what in _TITLES.items():
        rows = [one for one in check.not_passing if one.outcome == outcome]
        if rows:
            number = f"{len(rows)} row" + ("s" if len(rows) > 1 else "")
            more = [f"  ... and {len(rows) - most} more"] * (len(rows) > most)
            parts.append("\n".join([f"{number}: {what}", *_table(rows[:most]), *more]))
    return "\n\n".join(parts)


def _table(verdicts: list[Verdict]) -> list[str]:
    width = max(len(f"{one.quantity} of {one.title}") for one in verdicts)
    return [f"  {f'{one.quantity} of {one.title}':<{width}}  {_row(one)}" for one in verdicts]


def _row(one: Verdict) -> str:
    slope = (
        "zero or not finite at some sizes"
        if one.slope is None
        else f"slope {one.slope.value:+.2f} ± {one.slope.half_width:.2f}"
    )
    values = ", ".join(f"{value:.2g}" for value in one.values)
    place = f"  {one.line}" if one.line else ""
    return f"{slope}, expected {one.expected}  (step {one.step}: {values}){place}"
