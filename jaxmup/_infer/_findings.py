"""Findings that the program of a model shows, for `lint` to report."""

from jaxmup._finding import Finding
from jaxmup._tree import PathName


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


def unused_parameter(name: PathName) -> Finding:
    """A parameter that the outputs do not depend on."""
    return Finding(
        "unused-parameter",
        "What the model returns does not depend on it.",
        (name,),
        "It gets no gradient, but weight decay, and its spec says nothing of where it is used.",
        "Give `inputs` and `apply` of a call that uses it, or leave it out with `wrt`.",
    )
