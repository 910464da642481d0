"""Text in pictures. Names of labels and cases are drawn literally, never as mathematics."""

from collections.abc import Iterable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textdiffseg.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.text import Text

Colour = tuple[float, float, float]
"""Red, green and blue in 0..1."""
FONT = "DejaVu Sans"  # matplotlib's own
MAX_NAME_CHARACTERS = 40  # a longer name is cut in its middle
UNKNOWN = "?"  # replaces a character that no installed font has


def label_colour(position: int) -> Colour:
    """The colour of the label at a position. The first ten colours are strong ones."""
    from matplotlib import colormaps

    red, green, blue = colormaps["tab20"]((2 * position) % 20 + (position // 10) % 2)[:3]
    return red, green, blue


def shorten(name: str) -> str:
    """The name on one line. A name of more than `MAX_NAME_CHARACTERS` is cut in its middle."""
    name = " ".join(name.split())
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    kept = MAX_NAME_CHARACTERS - 1
    return f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


def write_plainly(text: "Text", content: str) -> None:
    """Show `content` literally, with `$`, `_` and `\\`. A character that no font has becomes `?`."""
    text.set_parse_math(False)
    text.set_usetex(False)
    families = [FONT]
    for character in dict.fromkeys(content):
        family = _family_with(character)
        if family is None:
            content = content.replace(character, UNKNOWN)
        elif family not in families:
            families.append(family)
    text.set_fontfamily(families)
    text.set_text(content)


@cache
def _family_with(character: str) -> str | None:
    """A font with the character: matplotlib's own, else one of the machine; None if no font has it."""
    from matplotlib import font_manager, get_data_path

    if _has(font_manager.findfont(FONT), character):
        return FONT
    own = get_data_path()  # its other fonts are for mathematics; one has a box for every character
    fonts = (font for font in font_manager.fontManager.ttflist if not font.fname.startswith(own))
    return next((font.name for font in fonts if font.style == "normal" and _has(font.fname, character)), None)


def _has(path: str, character: str) -> bool:
    return ord(character) in _characters(path)


@cache
def _characters(path: str) -> frozenset[int]:
    """The code points of a font's characters."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def add_legend(parent: "Axes | Figure", handles: Sequence["Artist"], names: Iterable[str], **options: Any) -> "Legend":
    """A legend with literal names.

    A name with characters that no font has gets a number, so two such names stay different.
    """
    legend = parent.legend(handles=list(handles), labels=["x"] * len(handles), **options)
    for number, (text, name) in enumerate(zip(legend.get_texts(), names, strict=True), start=1):
        write_plainly(text, name)
        if text.get_text() != name:
            text.set_text(f"{number}: {text.get_text()}")
    return legend


def save_figure(figure: "Figure", path: Path, dpi: float = 100) -> None:
    """Write the figure as a PNG. The file is complete or unchanged."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    write_atomically(path, picture.getvalue())
