"""A model of the user's, made without its arrays."""

from collections.abc import Callable
from typing import Any

from jaxmup.cli._errors import BadInputError
from jaxmup.cli._function import failed


def abstract(make_model: Callable[..., Any], width: int) -> Any:
    """The model of this width, without its arrays."""
    from flax import nnx

    unbuilt: list[Any] = []

    def made() -> Any:
        model = make_model(width)
        if not is_linen(model):
            return model
        unbuilt.append(model)  # a Linen module has no arrays yet
        return ()

    try:
        model = nnx.eval_shape(made)
    except Exception as error:  # whatever the user's function raises
        raise failed(f"The model of width {width} could not be built", error) from error
    return unbuilt[0] if unbuilt else model


def is_linen(model: Any) -> bool:
    """Whether a Linen module; asks Flax, which is slow to import."""
    from flax import linen

    return isinstance(model, linen.Module)


def example(make_inputs: Callable[..., Any] | None, width: int) -> tuple[Any, ...]:
    """What a Linen module of this width is called with."""
    if make_inputs is None:
        raise BadInputError(
            "A Linen module has parameters once it is called. Got no `--inputs`. Pass a function "
            "of the width that returns example inputs, such as package.module:make_inputs."
        )
    try:
        inputs = make_inputs(width)
    except Exception as error:  # whatever the user's function raises
        raise failed(f"The inputs of width {width} could not be made", error) from error
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
