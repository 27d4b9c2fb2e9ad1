"""The gauge move of each parameter."""

from collections.abc import Mapping
from typing import Any

from jaxmup._spec import require_positive
from jaxmup._tree import leaves_by_path, listed


def theta_of_leaves(theta: Any, names: Mapping[str, Any]) -> dict[str, float]:
    """`theta` for each name: one number for all, or the leaf of that path.

    Raises:
      TypeError: if a value is no number.
      ValueError: if a value is not finite and positive, or the paths are others than `names`.
    """
    given = leaves_by_path(theta)
    by_name = dict.fromkeys(names, given[""]) if list(given) == [""] else given
    missing, extra = [n for n in names if n not in by_name], [n for n in by_name if n not in names]
    if missing or extra:
        raise ValueError(
            "`theta` must be one number, or a tree with the paths of the parameters.\n"
            f"Parameters without a number:{listed(missing) or ' none'}\n"
            f"Numbers without a parameter:{listed(extra) or ' none'}"
        )
    numbers = {name: _number(by_name[name]) for name in names}
    for name, value in numbers.items():
        where = f"theta of {name}" if name else "theta"
        require_positive(where, value, "The multiplier is multiplied by it.")
    return numbers


def _number(value: Any) -> Any:
    """A Python number from a scalar array of any library."""
    return value.item() if getattr(value, "shape", None) == () else value
