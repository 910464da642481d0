"""Words about single cases (the publication's "pathological features"): a folder with files `CASE.txt`.

A case without a file, or with an empty one, simply has no text.
"""

from collections.abc import Collection
from pathlib import Path

from plans.errors import UserError, merged

ENDING = ".txt"


def find_texts(folder: Path, cases: Collection[str], others: Collection[str], faults: list[str]) -> dict[str, str]:
    """The text of each of `cases` that has one, its white space made single spaces; no folder, no texts.

    `others` are cases whose texts may lie there too (held-out ones). Files that name no case are added to `faults`.
    """
    texts, faulty = {}, []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        case = path.name.removesuffix(ENDING)
        if path.name.startswith("."):
            continue
        if case == path.name or case not in {*cases, *others}:
            example = f", e.g. {min(cases)}{ENDING}" if cases else ""
            line = f"{path} names no case: expected CASE{ENDING} with a case's id{example}. Rename or remove it."
            faulty.append((case, line))
            continue
        try:
            words = " ".join(path.read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            faulty.append((case, f"{path} cannot be read as text in UTF-8: {error}."))
            continue
        if words and case in cases:
            texts[case] = words
    faults += merged(faulty)
    return texts


def read_texts(folder: Path, cases: Collection[str]) -> tuple[dict[str, str], int]:
    """`find_texts` of a folder that the user named, and how many of its files name none of `cases`.

    The folder may hold the texts of a whole data set. `UserError` if it is not there or holds none of a case, else
    with a line for each fault.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give the folder that holds the texts, one file CASE{ENDING} each.")
    named = {path.name.removesuffix(ENDING) for path in folder.glob(f"[!.]*{ENDING}")}
    faults: list[str] = []
    texts = find_texts(folder, cases, named, faults)
    if not faults and named.isdisjoint(cases):
        faults.append(f"{folder} holds no text of a scan that is to be predicted: expected {min(cases)}{ENDING}, say.")
    if faults:
        raise UserError(*faults)
    return texts, len(named.difference(cases))
