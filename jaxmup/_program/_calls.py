"""Equations that call another program once: `jit`, checkpoints, functions with their own rules."""

from jaxmup._program._jax import (
    CALLED,
    CHECKPOINTS,
    PLAIN_CALLS,
    ClosedJaxpr,
    Equation,
    closed,
)


def is_call(equation: Equation) -> bool:
    """True if an equation calls a program once, with what it reads and for what it makes."""
    return equation.primitive.name in CALLED


def is_plain_call(equation: Equation) -> bool:
    """True if an equation is a call and nothing else, such as `jax.jit`.

    Of the others, a checkpoint says what the backward pass stores, and a function of its own rules
    has derivatives that those of its body need not be.
    """
    return equation.primitive.name in PLAIN_CALLS


def is_checkpoint(equation: Equation) -> bool:
    """True if an equation is a `jax.checkpoint`."""
    return equation.primitive.name in CHECKPOINTS


def called(equation: Equation) -> ClosedJaxpr:
    """The program that a call calls."""
    return closed(equation.params[CALLED[equation.primitive.name]])
