"""Text in pictures: names of labels and cases are drawn as they are written, and never read as mathematics."""

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
MAX_NAME = 40  # characters; a longer name is cut in its middle
UNKNOWN = "?"  # in the place of a character that no installed font has


def label_colour(position: int) -> Colour:
    """The colour of the label at a position; the first ten are the strong ones."""
    from matplotlib import colormaps

    red, green, blue = colormaps["tab20"]((2 * position) % 20 + (position // 10) % 2)[:3]
    return red, green, blue


def shorten(name: str) -> str:
    """The name on one line, cut in its middle where it is longer than `MAX_NAME` characters."""
    name = " ".join(name.split())
    if len(name) <= MAX_NAME:
        return name
    kept = MAX_NAME - 1
    return f"{name[: kept - kept // 2]}…{name[-(kept // 2) :]}"


def write_plainly(text: "Text", content: str) -> None:
    """Show `content` as it is written: `$`, `_` and `\\` stay, and characters that no font has become `?`."""
    text.set_parse_math(False)
    text.set_usetex(False)
    families = ["DejaVu Sans"]
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
    """A font that has the character: matplotlib's own first, then those of the machine; None where none has it."""
    from matplotlib import font_manager, get_data_path

    if _has(font_manager.findfont("DejaVu Sans"), character):
        return "DejaVu Sans"
    own = get_data_path()  # its other fonts are for mathematics, and one has a box for every character
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


def add_legend(place: "Axes | Figure", handles: Sequence["Artist"], names: Iterable[str], **options: Any) -> "Legend":
    """A legend of names that are shown as they are written.

    A name that no font has in full gets its number in front, so that two such names stay different.
    """
    legend = place.legend(handles=list(handles), labels=["x"] * len(handles), **options)
    for number, (text, name) in enumerate(zip(legend.get_texts(), names, strict=True), start=1):
        write_plainly(text, name)
        if text.get_text() != name:
            text.set_text(f"{number}: {text.get_text()}")
    return legend


def save_figure(figure: "Figure", path: Path, dpi: float = 100) -> None:
    """Write the figure as a PNG, whole or not at all."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    write_atomically(path, picture.getvalue())
