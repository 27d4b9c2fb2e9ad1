"""One word, one meaning: no public signature uses a word that the glossary retired.

A word is looked for in every parameter of a public function, class or method, in every field of a
public record, and in the options of the command line. Where a word lives on in one meaning, its
annotation tells that meaning from the others.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

import jaxmup
from jaxmup._infer._rules import Rules
from jaxmup.cli._app import app


class Use(NamedTuple):
    """A word in a signature."""

    where: str
    word: str
    annotation: Any

    @property
    def type(self) -> str:
        """The annotation as code, without the names of modules."""
        text = self.annotation
        if not isinstance(text, str):
            text = inspect.formatannotation(text)
        return re.sub(r"\b(\w+\.)+", "", text).strip("'\"")


class Meaning(NamedTuple):
    """What a word may still stand for, and what to write instead of what it no longer does."""

    allows: Callable[[Use], bool]
    instead: str


def never(_: Use) -> bool:
    return False


def one_of(*types: str) -> Callable[[Use], bool]:
    return lambda use: use.type in types


def not_with(*names: str) -> Callable[[Use], bool]:
    return lambda use: (
        use.annotation is not inspect.Parameter.empty
        and not re.search(rf"\b({'|'.join(names)})", use.type)
    )


def is_transform(use: Use) -> bool:
    return use.type.removesuffix(" | None").removesuffix("ExtraArgs") == "GradientTransformation"


def is_of_infer(use: Use) -> bool:
    return use.annotation in (Rules, Rules | None) or use.type in ("Rules", "Rules | None")


GLOSSARY = {
    "family": Meaning(one_of("Family"), "a `Family`; an optimizer by its name is an `optimizer`"),
    "families": Meaning(never, "`optimizers`"),
    "rule": Meaning(never, "`parametrization`; `check` of a finding"),
    "rules": Meaning(is_of_infer, "`pairs` of names; rules are what axes do, for `infer`"),
    "depth": Meaning(one_of("int", "int | None"), "`depth_ratio`; a depth is a count"),
    "loss": Meaning(one_of("float", "float | None", "Array"), "`loss_fn`; a loss is a number"),
    "optimizer": Meaning(
        not_with("Any", "Gradient", "Callable", "Description", "Chain", "Mapping"),
        "`tx` for a transform, `make_tx` for what makes one, `chain` for its description",
    ),
    "make_optimizer": Meaning(never, "`make_tx`"),
    "tx": Meaning(is_transform, "another word; `tx` is a transform"),
    "factory": Meaning(never, "`make_model`"),
    "description": Meaning(never, "`chain`"),
}

# Names that stood in two public modules with two meanings, and the module that keeps each.
ONE_PLACE = {
    "fold": "gauge",
    "unfold": "gauge",
    "rescale": "",
    "measure": "transfer",
    "save": "bridge",
    "load": "bridge",
    "clip_by_global_norm": "optim",
}

RETIRED_OPTIONS = {
    "--family": "--optimizer",
    "--rules": "--pairs",
    "--rule": "--parametrization",
    "--loss-fn": "--loss",
}


# --- What is public


def public_modules() -> list[str]:
    """The modules whose names have no underscore, by what follows `jaxmup.`."""
    found = [module.name for module in pkgutil.iter_modules(jaxmup.__path__)]
    return ["", *(name for name in found if not name.startswith("_") and name != "cli")]


def public_names(module: str) -> set[str]:
    """Names that a module defines, and those that it re-exports as `import name as name`."""
    path = Path(importlib.import_module(f"jaxmup.{module}".rstrip(".")).__file__ or "")
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.name for alias in node.names if alias.asname == alias.name}
    if path.name != "__init__.py":
        body = ast.parse(path.read_text()).body
        names |= {x.name for x in body if isinstance(x, ast.FunctionDef | ast.ClassDef)}
    return {name for name in names if not name.startswith("_")}


def public_objects() -> Iterator[tuple[str, str, Any]]:
    """Module, name and object of every public function and class, wherever it is re-exported."""
    for module in public_modules():
        loaded = importlib.import_module(f"jaxmup.{module}".rstrip("."))
        for name in sorted(public_names(module)):
            found = getattr(loaded, name)
            if callable(found):
                yield module, name, found


def members(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of a class that jaxmup wrote."""
    for base in kind.__mro__:
        if base.__module__.startswith("jaxmup"):
            for name, member in vars(base).items():
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function) and (name == "__call__" or name[0] != "_"):
                    yield name, inspect.unwrap(function)


def fields(kind: type) -> dict[str, Any]:
    """The annotated attributes of a class, its bases' too."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("jaxmup")]
    found = {
        name: x for base in reversed(ours) for name, x in inspect.get_annotations(base).items()
    }
    return {name: x for name, x in found.items() if not name.startswith("_")}


def uses_of(where: str, function: Callable[..., Any]) -> Iterator[Use]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a class whose instances alone have one
        return
    for one in parameters:
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            yield Use(where, one.name, one.annotation)


def uses() -> Iterator[Use]:
    """Every word of every public signature."""
    for module, name, found in public_objects():
        where = ".".join(filter(None, ("jaxmup", module, name)))
        yield from uses_of(where, found)
        if inspect.isclass(found):
            yield from (Use(where, word, x) for word, x in fields(found).items())
            for method, function in members(found):
                yield from uses_of(f"{where}.{method}", function)


# --- Tests


def test_the_walk_sees_functions_methods_fields_and_lazy_names():
    seen = {(use.where, use.word) for use in uses()}
    assert {
        ("jaxmup.parametrization", "optimizer"),
        ("jaxmup.infer", "rules"),
        ("jaxmup.Scaling", "family"),
        ("jaxmup.Parametrization.row", "role"),
        ("jaxmup.nnx.Linear.__call__", "inputs"),
        ("jaxmup.budget.adjust", "target"),
        ("jaxmup.transfer.Task", "loss_fn"),
        ("jaxmup.transfer.task_of", "config"),
    } <= seen
    assert len(seen) > 1000


@pytest.mark.parametrize("word", GLOSSARY)
def test_no_public_signature_uses_a_retired_word(word):
    meaning = GLOSSARY[word]
    found = {use.where: use.type for use in uses() if use.word == word and not meaning.allows(use)}
    lines = "".join(f"\n  {where}({word}: {kind})" for where, kind in sorted(found.items()))
    assert not found, f"instead of `{word}`, {meaning.instead}:{lines}"


@pytest.mark.parametrize("name", ONE_PLACE)
def test_a_name_of_two_meanings_is_left_in_one_module(name):
    found = {module for module, other, _ in public_objects() if other == name}
    assert found <= {ONE_PLACE[name]}, f"{name} is public in {sorted(found)}"


def test_no_option_of_the_command_line_is_a_retired_word():
    commands: dict[str, Any] = typing.cast(Any, typer.main.get_command(app)).commands
    options = {
        (command, option)
        for command, found in commands.items()
        for parameter in found.params
        for option in parameter.opts
    }
    assert ("transfer", "--loss") in options
    retired = {at: RETIRED_OPTIONS[at[1]] for at in options if at[1] in RETIRED_OPTIONS}
    assert not retired
