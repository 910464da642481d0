"""The phrasings of each label: a default made from its name, and synonyms from `prompts.json`."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from plans.errors import UserError
from plans.layout import RawFolder
from plans.names import SPELLING, normalise, same_names
from plans.raw.dataset import Dataset
from plans.raw.directions import LEFT, SIDES
from plans.records import Record

PROMPTS_AGAIN = "Correct the file, or delete it and run tds_plan_and_preprocess, which writes it again."
_LEFT_TOKENS = {"l", "lh", "lt", "sin", "sn", "sx"}
_SIDE_TOKENS = {*_LEFT_TOKENS, "r", "rh", "rt", "dex", "dx"}
_NUMBER = re.compile(r"(?<=[^\W\d]{2})\s+\d+$")  # of a channel; T 1 and T 2 are two modalities
_WHOLE_WORDS = {"liver"}  # the l of liver does not mean left


class Prompts(Record):
    """The description of the scan, and the phrasings of each label. The first phrasing is the default."""

    version: Literal[1] = 1
    scan: str = Field(min_length=1)  # what the scan shows, e.g. "MRI of the hippocampus"
    labels: dict[str, tuple[str, ...]]  # label name -> phrasings

    @model_validator(mode="after")
    def _unambiguous(self) -> "Prompts":
        for one, other in same_names(self.labels):
            raise ValueError(f"the labels {one!r} and {other!r} read the same; {SPELLING}. Rename one in dataset.json")
        owner: dict[str, str] = {}
        names = {normalise(label): label for label in self.labels}
        for label, phrases in self.labels.items():
            if not phrases:
                raise ValueError(f"labels.{label} has no phrasing; give at least one")
            for phrase in phrases:
                words = normalise(phrase)
                if not words:
                    raise ValueError(f"labels.{label} has an empty phrasing")
                if names.get(words, label) != label and normalise(label) != words:
                    raise ValueError(
                        f"the phrasing {phrase!r} of {label!r} is the name of the label {names[words]!r}; "
                        "a label's name may stand for that label only"
                    )
                if owner.setdefault(words, label) != label:
                    raise ValueError(
                        f"the phrasing {phrase!r} names both {owner[words]!r} and {label!r}; "
                        "a phrasing may name one label only"
                    )
        return self


class ListedPrompt(Record):
    """One queried label of a file for `tds_predict --prompts`: its phrase, and the value that is written."""

    phrase: str = Field(min_length=1)
    value: int = Field(ge=1, le=32767)  # in the segmentation; 0 is background


class PromptFile(Record):
    """A file for `tds_predict --prompts`: a phrase and a value for each name in the output."""

    version: Literal[1] = 1
    labels: dict[str, ListedPrompt] = Field(min_length=1)


def read_prompt_file(path: Path) -> PromptFile:
    """The content of a file for `tds_predict --prompts`.

    Raises `UserError` with a line per field that does not fit, else per phrase or value that is used twice.
    """
    prompts = PromptFile.read(path)
    faults: list[str] = []
    phrases: dict[str, str] = {}
    values: dict[int, str] = {}
    for name, other in same_names(prompts.labels):
        faults.append(f"{path}: labels: {name!r} and {other!r} read the same; {SPELLING}. Rename one.")
    for name, prompt in prompts.labels.items():
        if not normalise(name):
            faults.append(f"{path}: labels: the name {name!r} holds no letter or digit. Give the label a name.")
        words = normalise(prompt.phrase)
        if not words:
            faults.append(f"{path}: labels.{name}.phrase is empty: give the words of the structure.")
        elif (other := phrases.setdefault(words, name)) != name:
            faults.append(
                f"{path}: labels.{name}.phrase: {prompt.phrase!r} is the phrase of {other!r} already: query it once."
            )
        if (other := values.setdefault(prompt.value, name)) != name:
            faults.append(
                f"{path}: labels.{name}.value: {prompt.value} is the value of {other!r} already: "
                "give each label its own value."
            )
    if faults:
        raise UserError(*faults)
    return prompts


def default_prompts(dataset: Dataset) -> Prompts:
    """The default phrasings: one per label, made from its name. Modality and title describe the scan."""
    modalities = " and ".join(_modalities(dataset.channels))
    title = normalise(dataset.title)
    scan = f"{modalities} of {title}" if title else modalities
    labels = {label.name: (normalise(label.name) or label.name,) for label in dataset.labels}
    return Prompts.parse({"scan": scan, "labels": labels}, str(RawFolder(dataset.folder).header))


def _modalities(channels: Iterable[str]) -> tuple[str, ...]:
    """The modalities of channels. `MRI 1` and `MRI 2` have one modality: the number is left out."""
    kinds = {name: _NUMBER.sub("", name) for name in (channel.strip() for channel in channels)}
    several = {kind for kind, times in Counter(kinds.values()).items() if times > 1}
    return tuple(dict.fromkeys(kind if kind in several else name for name, kind in kinds.items()))


def is_default(prompts: Prompts, dataset: Dataset) -> bool:
    """Whether the prompts are as `default_prompts` makes them, from these labels or from older ones."""
    defaults = {name: (normalise(name) or name,) for name in prompts.labels}
    return prompts.labels == defaults and prompts.scan == default_prompts(dataset).scan


def read_prompts(path: Path, dataset: Dataset) -> Prompts:
    """The content of `prompts.json`. A file that nobody has edited follows the present labels of the data set.

    Raises `UserError` if the file does not fit its format or the labels of the data set.
    """
    prompts = Prompts.read(path, PROMPTS_AGAIN)
    if is_default(prompts, dataset):
        return default_prompts(dataset)
    names = {label.name for label in dataset.labels}
    faults = [
        f"{path}: labels.{name}: the data set has no such label; it has {', '.join(sorted(names))}. Rename or remove "
        "it here."
        for name in prompts.labels
        if name not in names
    ]
    faults += [
        f"{path}: labels.{name}: missing; give at least one phrasing for this label."
        for name in sorted(names)
        if name not in prompts.labels
    ]
    if faults:
        raise UserError(*faults)
    return prompts


def names_sides(labels: Iterable[str]) -> bool:
    """Whether two labels differ only by left and right, in words (`Left-Kidney`, `kidneyleft`) or letters (`kidney_L`).

    Abbreviations count too (`LV` and `RV`, `lkid` and `rkid`). To leave out one mirroring axis costs little. To mirror
    such labels would teach the network that left is right.
    """
    names = tuple(dict.fromkeys(labels))
    for spelling in (_side_words, _side_tokens, _side_capitals, _first_letter, _last_letter):
        sides: dict[str, set[str]] = {}
        for bare, side in filter(None, map(spelling, names)):
            sides.setdefault(bare, set()).add(side)
        if any(len(both) > 1 for both in sides.values()):
            return True
    return False


Sided = tuple[str, str] | None
"""A name without its side, and the side, `l` or `r`; None: it names no side."""


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _side_of(word: str) -> str:
    return "l" if re.match(LEFT, word) or word in _LEFT_TOKENS else "r"


def _side_words(name: str) -> Sided:
    if not (found := re.search(SIDES, name.casefold())):
        return None
    return re.sub(SIDES, "*", _folded(name)), _side_of(found[0])


def _side_tokens(name: str) -> Sided:
    tokens = [token.casefold() for token in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    sided = [token for token in tokens if token in _SIDE_TOKENS or re.fullmatch(SIDES, token)]
    if not sided:
        return None
    return " ".join(sorted("*" if token in sided else token for token in tokens)), _side_of(sided[0])


def _side_capitals(name: str) -> Sided:
    name = name.replace("_", " ")
    found = re.search(r"\b[LR](?=[A-Z]{1,3}\b)", name)
    return None if found is None else (re.sub(r"\b[LR](?=[A-Z]{1,3}\b)", "*", name), found[0].casefold())


def _first_letter(name: str) -> Sided:
    found = re.fullmatch(r"([lr])(\w{2,})", _folded(name))
    return None if found is None or found[0] in _WHOLE_WORDS else (found[2], found[1])


def _last_letter(name: str) -> Sided:
    found = re.fullmatch(r"(\w{3,})([lr])", _folded(name))
    return None if found is None else (found[1], found[2])
