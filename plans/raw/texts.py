"""Texts of single cases (the publication's "pathological features"): a folder with files `CASE.txt`.

A case without a file, or with an empty file, has no text.
"""

from collections.abc import Collection
from pathlib import Path

from plans.errors import UserError, merged
from plans.file_names import composed

ENDING = ".txt"


def find_texts(folder: Path, cases: Collection[str], others: Collection[str], faults: list[str]) -> dict[str, str]:
    """The texts of the cases that have one, by case id. White space is reduced to single spaces.

    Args:
        folder: of the texts. If it does not exist, the result is empty.
        cases: the case ids.
        others: other case ids whose texts may be in the folder, e.g. of test cases.
        faults: receives a line for each file that does not belong to a case or cannot be read.
    """
    known = {*cases, *others}
    texts, file_faults = {}, []
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        faults.append(f"{folder} is not a folder, or a link that leads nowhere. Put the texts there, or remove it.")
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        case, ending = composed(path.stem), path.suffix
        if path.name.startswith("."):
            continue
        if ending != ENDING or case not in known:
            example = f", e.g. {min(cases)}{ENDING}" if cases else ""
            line = f"{path} belongs to no case: expected CASE{ENDING} with a case's id{example}. Rename or remove it."
            file_faults.append((case, line))
            continue
        if path.exists() and not path.is_file():
            file_faults.append((case, f"{path} is not a plain file. Write the case's words into a text file."))
            continue
        try:
            text = " ".join(path.read_text(encoding="utf-8-sig").split())
        except OSError as error:
            file_faults.append((case, f"{path} cannot be read ({error.strerror}). Copy it again or remove it."))
            continue
        except UnicodeDecodeError:
            file_faults.append((case, f"{path} is not text in UTF-8. Save it in UTF-8."))
            continue
        if text and case in cases:
            texts[case] = text
    faults += merged(file_faults)
    return texts


def read_texts(folder: Path, cases: Collection[str]) -> tuple[dict[str, str], int]:
    """The texts in a folder that the user named, by case id, and the number of files of other cases.

    The folder may hold the texts of a whole data set. Raises `UserError` if the folder is missing or has no text of
    `cases`. It has a line for each fault of the files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the folder with the texts, one file CASE{ENDING} per case.")
    named = {composed(path.stem) for path in folder.glob(f"[!.]*{ENDING}")}
    faults: list[str] = []
    texts = find_texts(folder, cases, named, faults)
    if not faults and named.isdisjoint(cases):
        faults.append(
            f"{folder} holds no text of a scan: expected for example {min(cases)}{ENDING}. Name texts like scans."
        )
    if faults:
        raise UserError(*faults)
    return texts, len(named.difference(cases))
