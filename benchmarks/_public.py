"""One public model: where it comes from, and what `infer` should say of it."""

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.zoo.case import Case


class Public(NamedTuple):
    """A model of somebody else's, as it stands in its repository.

    Args:
      framework: API that it is written in.
      repository: Owner and name on GitHub.
      commit: Commit of the checkout, or release.
      case: Function of the folder of checkouts that imports the model and returns it beside the
        answer.
      note: Remark on what differs from a plain import and call.
      factors: The factors that no parameter can carry and `jaxmup.corrected` inserts; the answer is
        that beside them.
    """

    framework: str
    repository: str
    commit: str
    case: Callable[[Path], Case]
    note: str = ""
    factors: tuple[str, ...] = ()


def load(folder: Path, module: str) -> Any:
    """The module of that name in a folder of a checkout.

    Args:
      folder: Folder that its imports start from.
      module: Dotted name of the module.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a checkout; see the table of repositories.")
    sys.path.insert(0, str(folder))
    return importlib.import_module(module)


@contextlib.contextmanager
def stand_in(name: str) -> Iterator[None]:
    """A context in which an empty module stands in for one that is imported and not used.

    Args:
      name: Dotted name of the module.
    """
    parts = name.split(".")
    modules = [types.ModuleType(".".join(parts[: end + 1])) for end in range(len(parts))]
    for outer, inner, part in zip(modules, modules[1:], parts[1:], strict=False):
        setattr(outer, part, inner)
    names = {module.__name__: module for module in modules}
    sys.modules.update(names)
    yield
    for name in names:
        del sys.modules[name]
