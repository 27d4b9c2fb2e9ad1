"""Checks of the programs of a model of jaxmup layers, at two sizes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jaxmup._finding import Finding

if TYPE_CHECKING:
    from jaxmup._model import Instance


def check_programs(base: "Instance", target: "Instance") -> Iterator[Finding]:
    """Mistakes that the programs show and the layers do not know of, as in attention by hand."""
    from jaxmup._infer._declared import findings_of

    if not (base.is_callable and target.is_callable):
        yield _not_checked("It has no `inputs`, so its program is not known.")
        return
    try:
        yield from findings_of(base, target)
    except ValueError as error:
        yield _not_checked(str(error))


def _not_checked(why: str) -> Finding:
    return Finding(
        "not-checked",
        "The program of the model could not be read.",
        (),
        why,
        "Give the `jaxmup.Model` the `inputs`, and the `apply`, of a call.",
    )
