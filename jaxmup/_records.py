"""Records that jaxmup has written, read strictly: an error names the file and its line.

JSON is a looser language than its writers: names may stand twice, numbers may be NaN, `true` is
equal to 1. A record holds none of that, so a file that does was edited or damaged.
"""

import contextlib
import dataclasses
import functools
import json
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias, Union, get_args, get_origin
from typing import get_type_hints as hints_of

from jaxmup import _check

At: TypeAlias = tuple[str | int, ...]
"""Names and positions that lead to a part of a document."""
_SCANNER = json.JSONDecoder()


class Document(NamedTuple):
    """One value of JSON, and where it stands.

    Args:
      path: File that holds it.
      text: JSON of the value.
      value: The value.
      line: Line of the file at which the text begins, from 1.
    """

    path: Path
    text: str
    value: Any
    line: int = 1

    def error(self, message: str, at: At = ()) -> ValueError:
        """An error about the part at these names and positions, or the nearest that is there."""
        line = self.line + self.text.count("\n", 0, _start(self.text, at))
        place = f", at {'/'.join(map(str, at))}" if at else ""
        return ValueError(f"{self.path}, line {line}{place}: {message}")

    @contextlib.contextmanager
    def building(self, what: str, at: At = ()) -> Iterator[None]:
        """Turns what a constructor raises for a part of the document into an error of its line.

        Args:
          what: What the part must be, such as `"a trial"`.
          at: Where the part stands.
        """
        try:
            yield
        except _PlacedError as error:
            raise self.error(error.message, (*at, *error.at)) from None
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise self.error(f"It must be {what}. {_words(error)}", at) from error

    def require_format(self, name: str, version: int, writer: str) -> None:
        """Refuses a document of another format or version, or none of either."""
        record = self.value if isinstance(self.value, dict) else {}
        found = (record.get("format"), record.get("version"))
        if not same(list(found), [name, version]):
            raise self.error(
                f"A record must be of format {name!r}, version {version}. Got {found}. Write it "
                f"with {writer}."
            )

    def require_written(self, written: Any, at: At = ()) -> None:
        """Refuses a part that is not what the writer makes of the object that was read from it."""
        part = self.value
        for step in at:
            part = part[step]
        if (where := difference(part, written)) is not None:
            name, there, ours = where
            raise self.error(
                f"It holds {_shown(there)}, where jaxmup writes {_shown(ours)}.", (*at, *name)
            )


class _PlacedError(Exception):
    """A value of another type than a record has there."""

    def __init__(self, at: At, message: str):
        super().__init__(message)
        self.at = at
        self.message = message


def read_document(path: Path) -> Document:
    """Reads a file of one JSON value.

    Raises:
      OSError: if it cannot be read.
      ValueError: naming the file and the line at which it is no strict JSON.
    """
    return parse(path.read_bytes(), path)


def read_lines(path: Path) -> list[Document]:
    """Reads a file of one JSON value a line, the last of which ends in a line break too.

    Raises:
      OSError: if it cannot be read.
      ValueError: naming the file and the line at which it is no strict JSON, or is cut off.
    """
    *lines, rest = path.read_bytes().split(b"\n")
    documents = [parse(line, path, i + 1) for i, line in enumerate(lines)]
    if rest or not lines:
        raise ValueError(
            f"{path}, line {len(lines) + 1}: The file ends within a line: it was cut off."
        )
    return documents


def parse(content: bytes, path: Path, line: int = 1) -> Document:
    """The JSON value that begins at a line of a file.

    Raises:
      ValueError: naming the file and the line, if it is no strict JSON.
    """
    try:
        text = content.decode()
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {line + error.lineno - 1}: It must be JSON. {error.msg}."
        ) from None
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise ValueError(f"{path}, line {line}: It must be JSON. It is no text: {error}.") from None
    except RecursionError:
        raise ValueError(f"{path}, line {line}: It must be JSON. It is nested too deep.") from None
    except _LooseError as error:
        line += content.count(b"\n", 0, max(content.find(error.token), 0))
        raise ValueError(f"{path}, line {line}: It must be strict JSON. {error}") from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise ValueError(f"{path}, line {line}: It must be JSON. {error}.") from None
    return Document(path, text, value, line)


def build(hint: Any, value: Any, readers: Mapping[Any, Callable[[Any], Any]], at: At = ()) -> Any:
    """An object of a type, from the JSON value that `dataclasses.asdict` makes of it.

    A dataclass has all of its fields and no other; integers, numbers, booleans and text are never
    taken for one another.

    Args:
      hint: The type: a dataclass, `tuple[X, ...]`, `dict[str, X]`, a union, a literal, or a type of
        JSON.
      value: The JSON value.
      readers: Functions that make objects of types that have a form of their own.
      at: Where the value stands.
    """
    if hint in readers:
        with _placed(at, is_inside=True):
            return readers[hint](value)
    if hint is Any:
        return value
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        others = [one for one in args if one is not type(None)]
        return build(others[0] if len(others) == 1 else Any, value, readers, at)
    if origin is Literal:
        with _placed(at):
            _check.one_of(str(at[-1]) if at else "value", value, args)
        return value
    if origin is tuple:
        _require(isinstance(value, list), at, "a list", value)
        return tuple(build(args[0], x, readers, (*at, i)) for i, x in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        _require(isinstance(value, dict), at, "an object", value)
        return {name: build(args[1], x, readers, (*at, name)) for name, x in value.items()}
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, readers, at)
    is_kind, what = _KINDS[hint]
    _require(is_kind(value), at, what, value)
    return value


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON, which has lists alone.

    Example:
      >>> as_json({"sizes": (1, 2)})
      {'sizes': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {name: as_json(held) for name, held in value.items()}
    return [as_json(held) for held in value] if isinstance(value, tuple | list) else value


def difference(found: Any, written: Any, at: At = ()) -> tuple[At, Any, Any] | None:
    """The first place at which two JSON values differ, with both; `true` and `1.0` are no 1.

    Example:
      >>> difference({"a": [1, 2]}, {"a": [1, 2.0]})
      (('a', 1), 2, 2.0)
    """
    if isinstance(found, dict) and isinstance(written, dict):
        for name in [*written, *(name for name in found if name not in written)]:
            if name not in found or name not in written:
                return (*at, name), found.get(name, ...), written.get(name, ...)
            if (inner := difference(found[name], written[name], (*at, name))) is not None:
                return inner
        return None
    if isinstance(found, list) and isinstance(written, list) and len(found) == len(written):
        pairs = enumerate(zip(found, written, strict=True))
        return next((d for i, (x, y) in pairs if (d := difference(x, y, (*at, i)))), None)
    return None if type(found) is type(written) and found == written else (at, found, written)


def same(found: Any, written: Any) -> bool:
    """True if two JSON values are equal and of one type."""
    return difference(found, written) is None


_hints = functools.cache(hints_of)


def _dataclass(cls: Any, value: Any, readers: Mapping[Any, Callable[[Any], Any]], at: At) -> Any:
    _require(isinstance(value, dict), at, "an object", value)
    hints = _hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    missing = [name for name in names if name not in value]
    more = [name for name in value if name not in names]
    if missing or more:
        message = f"It must have the fields {', '.join(names)}."
        message += f" It lacks {', '.join(missing)}." if missing else ""
        message += f" It has {', '.join(more)} too." if more else ""
        raise _PlacedError((*at, *more[:1]), message)
    fields = {name: build(hints[name], value[name], readers, (*at, name)) for name in names}
    with _placed(at):
        return cls(**fields)


@contextlib.contextmanager
def _placed(at: At, *, is_inside: bool = False) -> Iterator[None]:
    """Says where the value stands of which a constructor complains."""
    try:
        yield
    except _PlacedError as error:
        raise _PlacedError((*at, *error.at) if is_inside else error.at, error.message) from None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise _PlacedError(at, _words(error)) from error


def _words(error: Exception) -> str:
    return f"{error} is missing or unknown." if isinstance(error, KeyError) else str(error)


def _require(holds: bool, at: At, what: str, value: Any) -> None:
    if not holds:
        raise _PlacedError(at, f"Here must be {what}. Got {_shown(value)}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (_is_integer, "an integer"),
    float: (lambda x: _is_integer(x) or isinstance(x, float), "a number"),
    bool: (lambda x: isinstance(x, bool), "true or false"),
    str: (lambda x: isinstance(x, str), "text"),
}


class _LooseError(Exception):
    """JSON that no writer of ours makes.

    Args:
      message: What is wrong.
      token: Bytes by which its line is found.
    """

    def __init__(self, message: str, token: bytes):
        super().__init__(message)
        self.token = token


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise _LooseError(f"The name {twice!r} stands twice in one object.", twice.encode())
    return found


def _refuse(constant: str) -> NoReturn:
    raise _LooseError(f"Numbers must be finite. Got {constant}.", constant.encode())


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _LooseError(f"Numbers must be finite. Got {text}.", text.encode())
    return value


def _start(text: str, at: Sequence[str | int]) -> int:
    """The position of a part of a JSON text, or of the nearest that holds it."""
    position = _skip(text, 0)
    for step in at:
        found = next((p for name, p in _members(text, position) if name == step), None)
        if found is None:
            break
        position = found
    return position


def _members(text: str, position: int) -> Iterator[tuple[str | int, int]]:
    """The members of the object or list at a position: name or index, and where each begins."""
    opening, index = text[position : position + 1], 0
    position = _skip(text, position + 1)
    while opening in ("{", "[") and text[position] not in "}]":
        name: str | int = index
        if opening == "{":
            name, position = _SCANNER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)  # past the colon
        yield name, position
        position = _skip(text, _SCANNER.raw_decode(text, position)[1])
        if text[position] == ",":
            position = _skip(text, position + 1)
        index += 1


def _skip(text: str, position: int) -> int:
    """The position of what follows white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _shown(value: Any) -> str:
    if value is ...:
        return "nothing"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else f"{text[:80]}…"
