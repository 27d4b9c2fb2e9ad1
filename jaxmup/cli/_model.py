"""A model of the user's, named on the command line and made without its arrays."""

import dataclasses
from typing import TYPE_CHECKING

from jaxmup.cli._errors import BadInputError
from jaxmup.cli._function import calling, measuring, named

if TYPE_CHECKING:
    from jaxmup import Model
    from jaxmup._model import Instance


def model_of(reference: str, inputs: str | None = None, option: str = "MODULE:FUNCTION") -> "Model":
    """The model that `package.module:name` names, itself a `Model` or a function that makes one.

    Args:
      reference: Name of the model.
      inputs: Name of what the model is called with, or of a function of the width that returns it.
      option: Option that names the model.
    """
    from jaxmup import Model

    found = named(reference, option)
    if not (callable(found) or isinstance(found, Model)):
        raise BadInputError(f"{reference!r} must be a function, or a Model. Got {found!r}.")
    model = found if isinstance(found, Model) else Model(found)
    watched = calling(model.make_model, f"`{option}` {reference}")
    model = dataclasses.replace(model, make_model=watched)
    if inputs is None:
        return model
    if model.inputs is not None:
        raise BadInputError(
            f"`--inputs` must be left out for a Model that has inputs. Got {inputs!r} beside those "
            f"of {reference!r}."
        )
    example = named(inputs, "--inputs")
    if callable(example):
        example = calling(example, f"`--inputs` {inputs}")
    return dataclasses.replace(model, inputs=example)


def at_width(model: "Model", width: int) -> "Instance":
    """The model of this width, which has parameters."""
    with measuring(f"The model of width {width} could not be built"):
        instance = model.at(width, "width")
        if instance.kind == "linen" and instance.inputs is None:
            raise BadInputError(
                "A Linen module has parameters once it is called. Got no `--inputs`. Pass "
                "example inputs, or a function of the width that returns them, such as "
                "package.module:make_inputs."
            )
        instance.require_parameters()
    return instance


def require_no_inputs(inputs: str | None, what: str) -> None:
    """Refuses `--inputs` where nothing is called with them."""
    if inputs is not None:
        raise BadInputError(f"`--inputs` is for {what}. Got {inputs!r}, which nothing would use.")
