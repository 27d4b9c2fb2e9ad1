"""Findings that the program of a model shows, for `lint` to report."""

from collections.abc import Mapping

from jaxmup._finding import Finding
from jaxmup._spec import AxisKind
from jaxmup._tree import PathName

_A: Mapping[AxisKind, str] = {"input": "an input", "output": "an output", "batch": "a batch"}


def missing_factor(name: PathName, value: str, operands: str, growth: str, factor: str) -> Finding:
    """A factor that muP asks for and that no parameter can carry.

    Args:
      name: A parameter beside the value.
      value: The value, in words.
      operands: What it is made of, in words.
      growth: The growth of the value that it should not have, in words.
      factor: Its inverse.
    """
    return Finding(
        "missing-factor",
        f"{value} is {growth} times the base model's: {operands}.",
        (name,),
        "No parameter can carry the inverse, so the model as it is does not train as muP does.",
        f"Multiply by {factor} there; or read the model by `infer` with `corrected=True` and call "
        "it as `jaxmup.corrected(apply, specs)`.",
    )


def unclear_table(name: PathName, value: str) -> Finding:
    """A table of constants that grows as no one power of a size.

    Args:
      name: A parameter beside it.
      value: What is made of it, in words.
    """
    return Finding(
        "unclear-table",
        f"A table of constants grows as no one power of a size: {value}.",
        (name,),
        "How the value grows with the width is not known, so factors for it may be wrong.",
        "Multiply the table by a power of the width that keeps its numbers, or their sum where it "
        "is summed over, of one size.",
    )


def uneven_parts(name: PathName, value: str) -> Finding:
    """Parts of one axis that grow unlike each other.

    Args:
      name: Parameter that makes the axis, or sums over it.
      value: What takes the axis apart, or puts it together, in words.
    """
    return Finding(
        "uneven-parts",
        f"Parts of an axis grow otherwise than the whole, taken apart or put together by {value}.",
        (name,),
        "One tensor has one initial scale and one learning rate, which are right for the whole "
        "alone.",
        f"Make each part by a parameter of its own in place of `{name}`, or let all grow alike.",
    )


def unlike_parts(name: PathName, use: str, other: str) -> Finding:
    """Parts of one parameter that ask for different numbers.

    Args:
      name: Parameter that has the parts.
      use: Use of one part, with its line and its axes.
      other: Use of another part.
    """
    return Finding(
        "uneven-parts",
        f"Parts of it do different things: one is {use}; another {other}.",
        (name,),
        "One tensor has one initial scale and one learning rate, which are right for one of the "
        "parts alone.",
        f"Make each part a parameter of its own in place of `{name}`.",
    )


def rule_contradicted(
    name: PathName, axis: int, sizes: str, given: AxisKind, shown: AxisKind, use: str
) -> Finding:
    """An axis of which a user says otherwise than the program.

    Args:
      name: Parameter that the axis is of.
      axis: Number of the axis.
      sizes: Shapes of the parameter, in words.
      given: Kind of the axis by the rule, or by its axis name.
      shown: Kind of the axis by the program.
      use: Use of the parameter that shows it, with its line.
    """
    return Finding(
        "rule-contradicted",
        f"Axis {axis} is given as {given!r}, but the program has it as {shown!r}: {use}, {sizes}.",
        (name,),
        f"The rule wins, so that it starts and learns as one with {_A[given]} axis there.",
        "Leave the rule or the axis name out; or, if the model does more than the program that was "
        "read, give `inputs` and `apply` of a call that does it.",
    )


def unused_parameter(name: PathName) -> Finding:
    """A parameter that the outputs do not depend on."""
    return Finding(
        "unused-parameter",
        "What the model returns does not depend on it.",
        (name,),
        "It gets no gradient, but weight decay, and its spec says nothing of where it is used.",
        "Give `inputs` and `apply` of a call that uses it, or leave it out with `wrt`.",
    )
