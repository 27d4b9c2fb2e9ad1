"""Base shapes of microsoft/mup: the sizes in the base model of every axis that grows."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from jaxmup import _check, _extras
from jaxmup._tree import listed
from jaxmup.bridge._layouts import Shape

BaseShape: TypeAlias = tuple[int | None, ...]
BaseShapes: TypeAlias = Mapping[str, BaseShape] | str | os.PathLike[str]
YamlNode: TypeAlias = Any
"""A `yaml.Node`, whose package the types must not need."""
_TAG = "tag:yaml.org,2002:"
_DIGITS = 18  # no axis has a size of more
_CHARACTERS = 80  # of what is refused, in its message
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def read_base_shapes(path: str | os.PathLike[str]) -> dict[str, BaseShape]:
    r"""Reads a `.bsh` file, as `mup.save_base_shapes` writes it: the base shape of each tensor.

    It is YAML of names with lists of sizes, and anything else in it is refused.

    Args:
      path: Path of the file.

    Raises:
      OSError: if it cannot be read.
      ModuleNotFoundError: if PyYAML is not installed.
      ValueError: naming the file and what else it holds.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), "model.bsh")
      >>> _ = path.write_text("# a comment\nfc.weight:\n- 64\n- null\nscale: []\n")
      >>> read_base_shapes(path)
      {'fc.weight': (64, None), 'scale': ()}
    """
    entries = _entries(path)
    if empty := [name.value for name, sizes in entries if _text(sizes, "null") is not None]:
        raise ValueError(f"{path}: a base shape must have sizes, or be []. None have {empty}.")
    shapes: dict[str, BaseShape] = {}
    for name, sizes in entries:
        text = _text(name, "str")
        if text is None or text in shapes:
            raise _refused(path, name)
        if sizes.tag != f"{_TAG}seq":
            raise _refused(path, sizes)
        shapes[text] = tuple(_size(path, size) for size in sizes.value)
    return shapes


def _entries(path: str | os.PathLike[str]) -> list[tuple[YamlNode, YamlNode]]:
    """The nodes of the names and of their sizes."""
    yaml = _extras.require("yaml", "Reading base shapes", "'jaxmup[bridge]'")
    text = _text_of(path)
    try:
        # The nodes alone, of which no object is made: so nothing is called whatever their tags say,
        # and a name that stands twice is seen, of which YAML's loaders drop one in silence.
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be a file of base shapes, which is YAML. {error}") from None
    if root is None:  # of an empty file
        return []
    if root.tag != f"{_TAG}map":
        raise _refused(path, root)
    return root.value


def _text_of(path: str | os.PathLike[str]) -> str:
    try:
        text = Path(path).read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a file of base shapes, which is text. {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.isprintable():
            raise ValueError(f"{path}, line {number}: base shapes are plain text. Got {line!r}.")
    return text


def _size(path: str | os.PathLike[str], node: YamlNode) -> int | None:
    if _text(node, "null") is not None:
        return None
    text = _text(node, "int")
    # YAML has hexadecimal, octal and sexagesimal integers too, which no base shape has.
    if text is None or not text.isdecimal() or text.startswith("0") or len(text) > _DIGITS:
        raise _refused(path, node)
    return int(text)


def _text(node: YamlNode, tag: str) -> str | None:
    """The text of a scalar of this tag; `None` of any other node."""
    return node.value if node.tag == f"{_TAG}{tag}" and isinstance(node.value, str) else None


def _refused(path: str | os.PathLike[str], node: YamlNode) -> ValueError:
    kind = node.tag.removeprefix(_TAG)[:_CHARACTERS]
    got = f" {node.value[:_CHARACTERS]!r}" if isinstance(node.value, str) else ""
    return ValueError(
        f"{path}, line {node.start_mark.line + 1}: a file of base shapes has each name once, and "
        f"below it the sizes, such as '- 64' or '- null'. Got {kind}{got}."
    )


def base_shapes_of(base_shapes: BaseShapes, shapes: Mapping[str, Shape]) -> dict[str, BaseShape]:
    """The base shape of each parameter, checked against its shape.

    Args:
      base_shapes: Path of a `.bsh` file, or base shapes by name.
      shapes: Shape of each tensor by name.

    Raises:
      TypeError: if a size in the base model is no integer.
      ValueError: if base shapes are missing, or of other ranks, or of more than two axes that grow.
    """
    where = ""
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
