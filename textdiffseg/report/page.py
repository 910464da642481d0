"""The HTML of a report. A plain string is text: it is escaped where it enters markup. Only `Html` is markup.

Names of labels, cases and files may come from anyone. The policy of the page forbids every request.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from textdiffseg.pictures import Colour

GENERATOR = "TextDiffSeg"  # marks the pages that may be replaced
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src data: blob:; worker-src blob:; font-src data:; base-uri 'none'; form-action 'none'"
)


class Html(str):
    """Markup. Any other string is text."""


@dataclass(frozen=True)
class Section:
    """One part of the page, with an entry in its navigation."""

    anchor: str
    title: str
    body: Html


def join(content: Iterable[str]) -> Html:
    """The pieces one after the other. Text is escaped."""
    return Html("".join(piece if isinstance(piece, Html) else escape(piece) for piece in content))


def element(tag: str, *content: str, **attributes: str) -> Html:
    """An element. `class_` gives the attribute `class`, and `for_` the attribute `for`."""
    given = "".join(f' {name.rstrip("_")}="{escape(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{given}>{join(content)}</{tag}>")


def paragraphs(*lines: str) -> Html:
    """One paragraph per line."""
    return join(element("p", line) for line in lines)


def notes(lines: Iterable[str]) -> Html:
    """One marked paragraph per line."""
    return join(element("p", line, class_="note") for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> Html:
    """A table. The first `names` columns are words; the others are numbers and stand to the right."""

    def cells(tag: str, row: Sequence[str]) -> Html:
        kinds = ("word" if column < names else "number" for column in range(len(row)))
        return element("tr", *(element(tag, cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)))

    body = element("tbody", *(cells("td", row) for row in rows))
    return element("div", element("table", element("thead", cells("th", head)), body), class_="scroll")


def folded(summary: str, *content: str) -> Html:
    """Content that a click opens."""
    return element("details", element("summary", summary), *content)


def figure(picture: Html, caption: str) -> Html:
    """A picture with its caption."""
    return element("figure", picture, element("figcaption", caption))


def tiles(values: Iterable[tuple[str, str]]) -> Html:
    """The most important numbers: (number, its name)."""
    shown = (element("div", element("b", number), element("span", name), class_="tile") for number, name in values)
    return element("div", *shown, class_="tiles")


def swatch(colour: Colour) -> Html:
    """A small square of a colour."""
    return element("span", class_="swatch", style=f"background:rgb({','.join(map(str, in_bytes(colour)))})")


def in_bytes(colour: Colour) -> list[int]:
    """Red, green and blue from 0 to 255."""
    return [round(255 * share) for share in colour]


def resource(name: str) -> Html:
    """A style sheet or script of this package, as it is."""
    return Html(files("textdiffseg.report").joinpath(name).read_text(encoding="utf-8"))


def is_page(path: Path) -> bool:
    """Whether a file is a page of this project."""
    with path.open("rb") as file:
        return f'name="generator" content="{GENERATOR}"'.encode() in file.read(2000)


def page(title: str, subtitle: str, sections: Sequence[Section], scripts: str = Html("")) -> str:
    """The whole document."""
    links = (element("a", section.title, href=f"#{section.anchor}") for section in sections)
    bodies = (element("section", element("h2", section.title), section.body, id=section.anchor) for section in sections)
    head = (
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<link rel="icon" href="data:,">'),
        Html(f'<meta name="generator" content="{GENERATOR}">'),
        element("title", title),
        element("style", resource("page.css")),
    )
    top = element("header", element("h1", title), element("p", subtitle), element("nav", *links))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{join(head)}</head><body>{top}' + (
        f"{element('main', *bodies)}{scripts}</body></html>\n"
    )
