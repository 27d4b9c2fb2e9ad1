"""Optional packages: imported where they are used, with an error that says how to get them."""

import importlib
from typing import Any


def require(module: str, purpose: str, requirement: str = "'jaxmup[cli]'") -> Any:
    """Imports `module`, which is no dependency of the library itself.

    Args:
      module: Name of the module, such as `"sklearn.datasets"`.
      purpose: Subject of the sentence "... needs the package", such as `"A plot"`.
      requirement: Argument of `pip install` that brings it.

    Raises:
      ModuleNotFoundError: naming the package and the command that installs it.

    Example:
      >>> require("math", "Arithmetic").pi
      3.141592653589793
      >>> require("no_such_package.part", "This example")
      Traceback (most recent call last):
      ...
      ModuleNotFoundError: This example needs the package no_such_package: pip install 'jaxmup[cli]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, but not something that it needs: its message says more
        message = f"{purpose} needs the package {package}: pip install {requirement}"
        raise ModuleNotFoundError(message, name=package) from error
