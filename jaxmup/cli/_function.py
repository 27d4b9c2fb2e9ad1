"""Functions of the user's, named on the command line: loaded and called in one way.

Whatever they raise, `SystemExit` included, ends the command with code 2 and one line that says what
was called, with what, and where in the user's code it failed.
"""

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxmup.cli._errors import BadInputError, UsersCodeError


def function(
    reference: str, option: str, check: Callable[[Any], object] = lambda found: None
) -> Callable[..., Any]:
    """The function that `package.module:name` names; an error of a call says so in one line.

    Args:
      reference: Module and name, joined by a colon.
      option: Option that the reference was given for, for errors.
      check: Function that refuses what a call has returned.
    """
    found = named(reference, option)
    if not callable(found):
        raise BadInputError(
            f"`{option}` must be a function. Got {reference!r}, which is {found!r}."
        )
    return calling(found, f"`{option}` {reference}", check)


def named(reference: str, option: str) -> Any:
    """The object that `package.module:name` names.

    Args:
      reference: Module and name, joined by a colon.
      option: Option that the reference was given for, for errors.

    Raises:
      BadInputError: if there is no such object.
      UsersCodeError: if its module cannot be imported.
    """
    module_name, colon, name = reference.partition(":")
    if not (colon and all(map(str.isidentifier, (*module_name.split("."), *name.split("."))))):
        raise BadInputError(
            f"`{option}` must be a module and a function of it. Got {reference!r}. Try "
            "package.module:make_model."
        )
    here = _here()
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _imported(module_name, reference, here)
    found: Any = module
    for part in name.split("."):
        with running(f"`{option}` {reference} could not be looked up"):
            found = getattr(found, part, _MISSING)
        if found is _MISSING:
            raise BadInputError(f"Module {module_name!r} has no {name!r}, for {reference!r}.")
    return found


_MISSING = object()


def _here() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        raise BadInputError(
            "The current folder must be there, since modules are looked for in it. It was removed."
        ) from None


def _imported(module_name: str, reference: str, here: str) -> types.ModuleType:
    with running(f"Module {module_name!r} could not be imported"):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            raise BadInputError(
                f"There is no module {error.name!r}, for {reference!r}. It is looked for in {here} "
                "and among the installed packages."
            ) from error


def calling(
    users: Callable[..., Any], what: str, check: Callable[[Any], object] = lambda found: None
) -> Callable[..., Any]:
    """`users`, whose errors say what it was called with.

    What it returns is watched too if it is an iterator, which runs the user's code later.

    Args:
      users: Function of the user's, or one of ours that runs the user's code.
      what: What it is, for errors.
      check: Function that refuses what it has returned.
    """
    if isinstance(users, functools.partial):  # whose keywords count as given
        return functools.partial(calling(users.func, what, check), *users.args, **users.keywords)

    @functools.wraps(users, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        shown = _arguments(args, kwargs)
        with running(f"{what} failed{shown}", passes=_may_end(kwargs)):
            found = users(*args, **kwargs)
            check(found)
        return watched(found, f"{what} failed{shown}")

    # Its parameters decide what it is given; of a class, a metaclass may hide them.
    call.__wrapped__ = users.__init__ if isinstance(users, type) else users
    return call


def watched(found: Any, what: str) -> Any:
    """`found`, whose errors are reported if it is an iterator."""
    return _watched(found, what) if isinstance(found, Iterator) else found


def _watched(found: Iterator[Any], what: str) -> Iterator[Any]:
    step = 0
    while True:
        with running(f"{what}, step {step}"):
            try:
                item = next(found)
            except StopIteration:
                return
        yield item
        step += 1


@contextlib.contextmanager
def running(what: str, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns whatever code of the user's raises into one error; what it prints goes to stderr.

    Args:
      what: Sentence that says what has failed.
      passes: Kinds of exceptions that mean something else.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (KeyboardInterrupt, BadInputError, UsersCodeError, *passes):
        raise
    except BaseException as error:
        raise failed(what, error) from error


@contextlib.contextmanager
def measuring(what: str) -> Iterator[None]:
    """Tells errors that jaxmup made for users from those of the user's code that it runs.

    Args:
      what: Sentence that says what has failed if neither says it.
    """
    with running(what, passes=(OSError, TypeError, ValueError, ModuleNotFoundError)):
        try:
            yield
        except (OSError, TypeError, ValueError, ModuleNotFoundError) as error:
            if not _is_ours(error):
                raise failed(what, error) from error
            raise BadInputError(f"{error}{_place(error.__cause__ or error)}") from error


def _is_ours(error: BaseException) -> bool:
    files = [Path(frame.filename) for frame in _frames(error)]
    if isinstance(error, OSError):  # of a file that we opened by functions of the standard library
        files = [x for x in files if x.is_relative_to(_OURS) or not x.is_relative_to(_STANDARD)]
    return bool(files) and files[-1].is_relative_to(_OURS)


def failed(what: str, error: BaseException) -> UsersCodeError:
    """An error of the user's code, with the line of it that raised."""
    place = "" if isinstance(error, SyntaxError) else _place(error)  # which says it itself
    try:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # the user's own class of exceptions may fail at this too
        text = type(error).__name__
    return UsersCodeError(f"{what}: {text}{place}")


def _place(error: BaseException) -> str:
    """File and line of the innermost frame of the user's code, or of any but the machinery's."""
    places = [
        (Path(frame.filename), frame.lineno)
        for frame in _frames(error)
        if "importlib" not in frame.filename and not frame.filename.startswith("<")
    ]
    own = [place for place in places if not _is_library(place[0])]
    if not own:
        return ""
    file, line = own[-1]
    return f" ({file.name}, line {line})"


def _frames(error: BaseException) -> list[Any]:
    import traceback

    return list(traceback.extract_tb(error.__traceback__))


_OURS = Path(__file__).parents[1]
_STANDARD = Path(contextlib.__file__).parent


def _is_library(file: Path) -> bool:
    parts = file.parts
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    return file.is_relative_to(_OURS) or file.is_relative_to(_STANDARD)


def _may_end(kwargs: dict[str, Any]) -> tuple[type[Exception], ...]:
    """Errors a function of `step` may raise to say that its data have ended, after the first."""
    return (StopIteration, IndexError) if kwargs.get("step", 0) > 0 else ()


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Numbers by name, and the shapes of what holds arrays."""
    import jax

    named = [f"{name} {value}" for name, value in kwargs.items() if isinstance(value, int | float)]
    named = [f"size {x}" for x in args if isinstance(x, int | float)] + named
    if len(args) > 1 and not hasattr(args[0], "shape"):
        args = args[1:]  # what comes before a batch is a model
    shapes = [
        str(jax.numpy.shape(leaf)).replace(" ", "")
        for one in args
        if isinstance(one, tuple | list | dict) or hasattr(one, "shape")
        for leaf in jax.tree.leaves(one)
        if hasattr(leaf, "shape")
    ]
    parts = [", ".join(named)] if named else []
    parts += [f"shapes {' '.join(shapes[:8])}"] if shapes else []
    return f" for {', '.join(parts)}" if parts else ""
