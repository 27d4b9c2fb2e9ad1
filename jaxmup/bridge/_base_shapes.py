"""The file in which microsoft/mup keeps the shapes of a base model: sizes by name, in YAML."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jaxmup import _extras

if TYPE_CHECKING:
    from yaml import Node

BaseShape = tuple[int | None, ...]


def read_base_shapes(path: str | os.PathLike[str]) -> dict[str, BaseShape]:
    r"""Reads a `.bsh` file, as `mup.save_base_shapes` writes it: the base shape of each tensor.

    It is YAML, a mapping of names to lists of sizes. Nothing of it is evaluated: a tag, an alias or
    another type is refused.

    Raises:
      ModuleNotFoundError: if PyYAML is not installed.
      OSError: if it cannot be read.
      ValueError: naming file and line, if it holds anything else.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "model.bsh")
      >>> _ = path.write_text("# a comment\nfc.weight:\n- 64\n- null\nscale: []\n")
      >>> read_base_shapes(path)
      {'fc.weight': (64, None), 'scale': ()}
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a file of base shapes, which is text. {error}") from None
    shapes: dict[str, BaseShape] = {}
    try:
        for key, value in _entries(text):
            name = _name(key)
            if name in shapes:
                raise _LineError(key, f"a name must occur once. Got {name!r} again.")
            shapes[name] = tuple(_size(size) for size in _sizes(name, value))
    except _LineError as error:
        raise ValueError(f"{path}, line {error.line}: {error}") from None
    return shapes


class _LineError(ValueError):
    """What is wrong at a line, counted from 1."""

    def __init__(self, at: "int | Node", message: str):
        super().__init__(message)
        self.line: int = at if isinstance(at, int) else at.start_mark.line + 1


def _entries(text: str) -> Iterator[tuple["Node", "Node"]]:
    """The nodes of each name and of its sizes, as PyYAML parses them, in their order."""
    # Nodes are text with tags. No loader makes objects of them, so that no tag can run anything.
    root = _parsed(text)
    if root is None:
        return
    if _kind(root) != "map":
        raise _LineError(root, "base shapes must be a mapping, 'name:' with its sizes below it.")
    # An alias is the same node once more. Files of mup have none, and nothing else that is small
    # and grows when it is read.
    seen: set[int] = set()
    for entry in root.value:
        for node in entry:
            if id(node) in seen:
                raise _LineError(node, "base shapes must be written out. Got an alias of this.")
            seen.add(id(node))
        yield entry


def _parsed(text: str) -> "Node | None":
    """The node at the root, or `None` of an empty file."""
    yaml = _extras.require("yaml", "Reading base shapes", "'jaxmup[bridge]'")
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _LineError(line, f"base shapes must be plain text. {error.reason}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _LineError(mark.line + 1, f"base shapes must be YAML. {error.problem}.") from None
    except RecursionError:
        raise _LineError(1, "base shapes must be lists of sizes. Got lists in lists.") from None


def _name(key: "Node") -> str:
    if _kind(key) != "str" or not key.value or not key.value.isprintable():
        raise _LineError(key, f"a name must be printable text. Got {key.value!r}.")
    return key.value


def _sizes(name: str, value: "Node") -> list["Node"]:
    if _kind(value) != "seq":
        raise _LineError(
            value,
            f"a base shape must be a list of sizes, such as '- 64' or '- null', or []. Got "
            f"{value.value!r} for {name!r}.",
        )
    return value.value


def _size(node: "Node") -> int | None:
    if _kind(node) == "null":
        return None
    # YAML has octal, sexagesimal and hexadecimal integers too, which no size is meant as.
    if _kind(node) != "int" or not _DECIMAL.fullmatch(node.value):
        raise _LineError(node, f"a size must be a positive integer or null. Got {node.value!r}.")
    return int(node.value)


_DECIMAL = re.compile(r"[1-9]\d{0,17}", re.ASCII)


def _kind(node: "Node") -> str:
    """`map`, `seq`, `str`, `int`, `null` or another standard type; of others, the whole tag."""
    return node.tag.removeprefix("tag:yaml.org,2002:")
