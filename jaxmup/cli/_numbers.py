"""Numbers on the command line: lists, ranges, and values of hyper-parameters."""

from collections.abc import Sequence

from jaxmup.transfer import log2_grid


def parts(texts: Sequence[str]) -> list[str]:
    """The values of an option, which was repeated, or separates them by commas.

    Example:
      >>> parts(["64, 128", "256"])
      ['64', '128', '256']
    """
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def integers(option: str, texts: Sequence[str]) -> list[int]:
    """Integers that an option was given.

    Raises:
      ValueError: naming the option.
    """
    try:
        return [int(part) for part in parts(texts)]
    except ValueError:
        raise ValueError(
            f"`{option}` must be integers separated by commas. Got {','.join(texts)!r}. "
            "Try 64,128,256."
        ) from None


def rates(listed: str | None, log2_range: str | None) -> tuple[float, ...] | None:
    """Learning rates by one of two options; `None` if neither was given.

    Args:
      listed: Value of `--learning-rates`.
      log2_range: Value of `--log2-range`.

    Raises:
      ValueError: if both were given, or one is no list or range.

    Example:
      >>> rates(None, "-3:-1:1")
      (0.125, 0.25, 0.5)
    """
    if listed is not None and log2_range is not None:
        raise ValueError("`--learning-rates` and `--log2-range` exclude each other. Got both.")
    if listed is not None:
        numbers = _numbers("--learning-rates", parts([listed]), listed, "Try 0.001,0.002,0.004.")
        return tuple(sorted(numbers))
    if log2_range is not None:
        bounds = _numbers("--log2-range", log2_range.split(":"), log2_range, "Try -10:-3:0.5.")
        if len(bounds) not in (2, 3):
            raise ValueError(
                f"`--log2-range` must be LOW:HIGH or LOW:HIGH:STEP. Got {log2_range!r}."
            )
        return log2_grid(*bounds)
    return None


def sweep(texts: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Values of hyper-parameters by name; whole numbers become integers.

    Raises:
      ValueError: if a text is no `NAME=VALUE,VALUE,...`, or names one again.

    Example:
      >>> sweep(["b2=0.9,0.99", "depth=2"])
      {'b2': (0.9, 0.99), 'depth': (2,)}
    """
    swept: dict[str, tuple[float, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        remedy = "Write --sweep b2=0.9,0.99."
        if not name or name in swept:
            raise ValueError(
                f"`--sweep` must name each hyper-parameter once. Got {text!r}. {remedy}"
            )
        numbers = _numbers("--sweep", parts([values]), text, remedy)
        swept[name] = tuple(int(x) if x.is_integer() else x for x in numbers)
    return swept


def _numbers(option: str, found: Sequence[str], text: str, remedy: str) -> list[float]:
    try:
        return [float(part) for part in found]
    except ValueError:
        raise ValueError(f"`{option}` must be numbers. Got {text!r}. {remedy}") from None
