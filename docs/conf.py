"""The documentation site. Its sources are the pages as they stand in the repository.

So that links lead to the same places here and there, the source folder is the repository itself:
`sphinx-build -W -c docs . build/site`.
"""

import contextlib
import inspect
import io
import os
import re
from pathlib import Path
from typing import Any

import docutils.nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

import jaxmup
from jaxmup import cli

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "docs" / "reference" / "generated"

project = "jaxmup"
author = "The jaxmup authors"
copyright = author  # Sphinx's own name
version = release = jaxmup.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "docs/reference/generated/*.rst",
    "notebooks/*.ipynb",
    "benchmarks/results/*.md",
    "examples/*/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]

# --- Markdown and notebooks

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # rendered as committed; .ci/run notebooks executes them

# --- Reference

autosummary_generate = True
autosummary_imported_members = True
autodoc_typehints = "none"  # the signature has them, and `Args:` says what they mean
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "__init__, __new__"}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
templates_path = ["_templates"]

# --- Appearance; fonts and scripts are those of the theme, so nothing is fetched

html_math_renderer = "mathml"
html_theme = "furo"
pygments_style = "friendly"
html_title = "jaxmup"
html_extra_path = ["_extra"]
html_copy_source = False


def write_command_line(*_: object) -> None:
    """The help of each command, as a person sees it, beside the generated pages."""
    GENERATED.mkdir(exist_ok=True)
    os.environ |= {"COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"}
    for command in ("", "explain", "coord-check", "transfer", "convert", "parity"):
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            cli.run([*command.split(), "--help"])
        (GENERATED / f"jaxmup-{command or 'commands'}.txt").write_text(shown.getvalue())


def write_code_as_code(*event: Any) -> None:
    """Docstrings have code between single backticks, as Markdown does; Sphinx wants two."""
    lines = event[-1]
    lines[:] = _CODE.sub(_doubled, "\n".join(lines)).split("\n")


_CODE = re.compile(r":\w+:`[^`]+`|``[^`]+``|`([^`]+)`")


def _doubled(code: re.Match[str]) -> str:
    return code[0] if code[1] is None else f"``{code[1]}``\\ "


def leave_out(_: Sphinx, __: str, ___: str, member: Any, ____: bool, _____: Any) -> bool | None:
    """What is another library's, such as an activation that is the default of a field."""
    module = getattr(member, "__module__", None) or ""
    return None if module.startswith("jaxmup") or not callable(member) else True


def write_constructor(_: Sphinx, what: str, __: str, made: Any, *___: object) -> Any:
    """The signature of a layer; that of NNX's metaclass takes anything."""
    if what != "class" or type(made) is type:
        return None
    parameters = list(inspect.signature(made.__init__).parameters.values())[1:]
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
    return str(inspect.Signature(plain)), ""


def write_inline(writer: Any, node: Any) -> None:
    """A formula as MathML, which browsers draw without a script."""
    writer.body.append(convert(node.astext()))
    raise docutils.nodes.SkipNode


def write_block(writer: Any, node: Any) -> None:
    """A formula on lines of its own."""
    writer.body.append(convert(node.astext(), display="block"))
    raise docutils.nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_command_line)
    # Before napoleon, which makes lists of the sections.
    app.connect("autodoc-process-docstring", write_code_as_code, priority=400)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-signature", write_constructor)
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
