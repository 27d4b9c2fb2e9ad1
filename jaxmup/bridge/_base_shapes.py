"""The file in which microsoft/mup keeps the shapes of a base model: sizes by name, in YAML."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from jaxmup import _check, _extras
from jaxmup._check import listed
from jaxmup.bridge._layouts import Shape

BaseShape: TypeAlias = tuple[int | None, ...]
BaseShapes: TypeAlias = Mapping[str, BaseShape] | str | os.PathLike[str]
YamlNode: TypeAlias = Any
"""A `yaml.Node`, whose package the types must not need."""
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def read_base_shapes(path: str | os.PathLike[str]) -> dict[str, BaseShape]:
    r"""Reads a `.bsh` file, as `mup.save_base_shapes` writes it: the base shape of each tensor.

    It is YAML, a mapping of names to lists of sizes. Nothing of it is evaluated: a tag, an alias or
    another type is refused.

    Args:
      path: Path of the file.

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
    """A fault at a line, counted from 1, or at the line of a node."""

    def __init__(self, at: YamlNode | int, message: str):
        super().__init__(message)
        self.line: int = at if isinstance(at, int) else at.start_mark.line + 1


def _entries(text: str) -> Iterator[tuple[YamlNode, YamlNode]]:
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


def _parsed(text: str) -> YamlNode | None:
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


def _name(key: YamlNode) -> str:
    if _kind(key) != "str" or not key.value or not key.value.isprintable():
        raise _LineError(key, f"a name must be printable text. Got {key.value!r}.")
    return key.value


def _sizes(name: str, value: YamlNode) -> list[YamlNode]:
    if _kind(value) != "seq":
        raise _LineError(
            value,
            f"a base shape must be a list of sizes, such as '- 64' or '- null', or []. Got "
            f"{value.value!r} for {name!r}.",
        )
    return value.value


def _size(node: YamlNode) -> int | None:
    if _kind(node) == "null":
        return None
    # YAML has octal, sexagesimal and hexadecimal integers too, which no size is meant as.
    if _kind(node) != "int" or not _DECIMAL.fullmatch(node.value):
        raise _LineError(node, f"a size must be a positive integer or null. Got {node.value!r}.")
    return int(node.value)


_DECIMAL = re.compile(r"[1-9]\d{0,17}", re.ASCII)


def _kind(node: YamlNode) -> str:
    """`map`, `seq`, `str`, `int`, `null` or another standard type; of others, the whole tag."""
    return node.tag.removeprefix("tag:yaml.org,2002:")


def base_shapes_of(base_shapes: BaseShapes, shapes: Mapping[str, Shape]) -> dict[str, BaseShape]:
    """The base shape of each parameter, checked against its shape.

    Args:
      base_shapes: Path of a `.bsh` file, or base shapes by name.
      shapes: Shape of each tensor by name.

    Raises:
      TypeError: if `base_shapes` is neither, or a size in the base model no integer.
      ValueError: if base shapes are missing, or of other ranks, or of more than two axes that grow.
    """
    where = ""
    if not isinstance(base_shapes, Mapping | str | os.PathLike):
        raise TypeError(
            "`base_shapes` must be a mapping of names to shapes, or a file of them. Got "
            f"{base_shapes!r}. Use `mup.save_base_shapes`."
        )
    if not isinstance(base_shapes, Mapping):
        where, base_shapes = f"{base_shapes}: ", read_base_shapes(base_shapes)
    bases = _without_module(base_shapes, shapes)
    names = [name for name in shapes if name.rpartition(".")[2] not in _BUFFERS]
    wrong = [
        *(f"{name} {shapes[name]}: no base shape" for name in names if name not in bases),
        *(f"{name}: no tensor" for name in bases if name not in shapes),
        *(
            f"{name} {shapes[name]}: base shape {bases[name]}"
            for name in names
            if name in bases and len(bases[name]) != len(shapes[name])
        ),
    ]
    if wrong:
        raise ValueError(f"{where}Base shapes must be those of the tensors:{listed(wrong)}")
    for name in names:
        for size in bases[name]:
            if size is not None:
                _check.size(f"base_shapes[{name!r}]", size, remedy="Give `None` for a fixed axis.")
    if many := [n for n in names if sum(size is not None for size in bases[n]) > 2]:
        raise ValueError(f"{where}mup knows at most two axes that grow. More have{listed(many)}")
    return {name: tuple(bases[name]) for name in names}


def _without_module(
    bases: Mapping[str, BaseShape], shapes: Mapping[str, Shape]
) -> Mapping[str, BaseShape]:
    """Base shapes under the names of a model that was wrapped for data parallelism, or was not."""
    prefix = "module."
    if all(name.startswith(prefix) for name in shapes) and bases.keys() != shapes.keys():
        return {prefix + name: base for name, base in bases.items()}
    if all(name.startswith(prefix) for name in bases) and bases.keys() != shapes.keys():
        return {name.removeprefix(prefix): base for name, base in bases.items()}
    return bases
