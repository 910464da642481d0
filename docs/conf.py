"""The Sphinx site of this folder. `make docs` builds it."""

import dataclasses
import re
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.typing import stringify_annotation

import textdiffseg as tds
from plans.choices import Preset

project = "TextDiffSeg"
author = "The TextDiffSeg developers"
copyright = author
release = version = tds.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "tour"]
highlight_language = "none"  # of a block without a language: commands and file trees
myst_heading_anchors = 4  # the anchors of a code host

nb_execution_mode = "cache"  # the notebook runs if it has changed since the last build
nb_execution_in_temp = True
nb_execution_timeout = 1800  # seconds for one cell
nb_execution_raise_on_error = True

default_role = "code"  # docstrings mark code with single backticks
add_module_names = False
maximum_signature_line_length = 80
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "exclude-members": "upgrades",
    "member-order": "bysource",
}
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"TextDiffSeg {release}"
html_show_sphinx = False

FIELD = re.compile(r"^(    \w+: .*?)  # (.+)$", re.MULTILINE)
PART = re.compile(r"autoclass:: (textdiffseg\.[\w.]+)\.\w+")  # of what the functions return, in api.md


def read_comments() -> None:
    """Make Sphinx read the comment behind a field of a record as the field's documentation."""
    public = [getattr(tds, name) for name in tds.__all__]
    parts = PART.findall(Path(__file__).with_name("api.md").read_text(encoding="utf-8"))
    for name in {*parts, *(one.__module__ for one in public if isinstance(one, type))}:
        source = Path(import_module(name).__file__ or "").read_text(encoding="utf-8")
        ModuleAnalyzer.cache["module", name] = ModuleAnalyzer.for_string(FIELD.sub(r"\1  #: \2", source), name)


def with_sections(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Give `Args:` and `Raises:` of a docstring their markup. Sphinx's own hook would read `text: text` as a type."""
    lines[:] = GoogleDocstring(lines, what="function").lines()


def short_signature(
    app: Sphinx, what: str, name: str, found: object, options: object, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """The signature, with `Preset` for its many values. That of a record is empty: its fields follow."""
    if isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, BaseModel)):
        return "", None
    if signature is None:
        return None
    named = re.sub(r"<function (\w+)>", r"\1", signature)  # a default that is a function
    return named.replace(stringify_annotation(Preset, "smart"), "Preset"), returned


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    read_comments()
    app.add_lexer("csv", TextLexer)
    app.connect("autodoc-process-docstring", with_sections)
    app.connect("autodoc-process-signature", short_signature)
