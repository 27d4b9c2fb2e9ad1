"""More seeds and larger sizes, for rows that the first do not decide."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from jaxmup import _check
from jaxmup.coord_check._result import CoordCheck, Over

Auto: TypeAlias = Literal["auto"]
AUTO_SIZES, AUTO_LARGEST = (64, 128, 256), 1024
AUTO_SEEDS, AUTO_MOST_SEEDS = 4, 32


class Budget(NamedTuple):
    """The sizes and seeds that a check may go on to by itself.

    Args:
      largest: Largest size; 0 for none but those asked for.
      most_seeds: Largest number of seeds; 0 for none but those asked for.
    """

    largest: int
    most_seeds: int

    @classmethod
    def of(cls, sizes: Any, seeds: Any, largest: int | None, over: Over) -> "Budget":
        """The budget that the arguments of a check ask for.

        Raises:
          ValueError: if sizes are to be found for depths, or the largest is none.
        """
        if isinstance(sizes, str) and sizes == "auto":
            if over == "depth":
                raise ValueError("`sizes` must be given over depth. Try (2, 4, 8, 16).")
            largest = AUTO_LARGEST if largest is None else largest
        if largest is not None:
            _check.size("largest", largest, remedy="It is the largest size to go on to.")
        is_auto = isinstance(seeds, str) and seeds == "auto"
        return cls(largest or 0, AUTO_MOST_SEEDS if is_auto else 0)

    def more(
        self, check: CoordCheck, tolerance: float
    ) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The sizes and seeds to go on to; `None` if the rows are decided or the budget is spent.

        More seeds come first: they cost less, and a larger size may be the wrong remedy for noise.
        """
        seeds = self._more_seeds(check, tolerance)
        if seeds > len(check.seeds):
            return check.sizes, tuple(range(seeds))
        if check.of("fail"):  # which no larger size mends
            return None
        next_size = 2 * max(check.sizes)
        if check.of("too small") and next_size <= self.largest:
            return (*check.sizes, next_size), check.seeds
        return None

    def _more_seeds(self, check: CoordCheck, tolerance: float) -> int:
        """The number of seeds that the undecided rows need, at most twice as many as there are."""
        now = len(check.seeds)
        noisy = [one.needs or 2 * now for one in check.of("not enough seeds")]
        # Of hundreds of rows some fail by chance, with intervals that are wide.
        narrow = [
            2 * now
            for one in check.of("fail")
            if one.slope is not None and one.slope.half_width > tolerance / 2
        ]
        wanted: Sequence[int] = [*noisy, *narrow]
        return min(max(wanted, default=0), 2 * now, self.most_seeds)
