"""The phrasings of benchmarks/words.py: eight of each label for training, and three that only the scoring uses."""

from collections.abc import Sequence
from dataclasses import dataclass

from plans.errors import UserError
from textdiffseg import phantoms


@dataclass(frozen=True)
class Wording:
    """The phrasings of one label."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


def _wording(trained: str, held_out: str) -> Wording:
    """A wording from phrasings that are separated by commas."""
    return Wording(tuple(trained.split(", ")), tuple(held_out.split(", ")))


def _gland_wording(organ: str) -> Wording:
    words = ("beside the", "next to the", "near the", "adjacent to the", "close to the", "at the", "bordering the")
    new = ("alongside the", "neighbouring the", "lying by the")
    return Wording(
        trained=(*(f"gland {word} {organ}" for word in words), f"{organ}-side gland"),
        held_out=tuple(f"gland {word} {organ}" for word in new),
    )


def _hippocampus_wording(side: str, other: str, end: str) -> Wording:
    of = "of the hippocampus"
    return Wording(
        trained=(
            *(f"{words} {of}" for words in (f"{side} part", f"{side} portion", f"{side} end", other, end)),
            *(f"{side} hippocampus", f"hippocampal {end}", f"{side} hippocampal region"),
        ),
        held_out=(f"the {side} hippocampus", f"{other} part {of}", f"{side} section {of}"),
    )


WORDINGS = {
    "phantoms": {
        "liver": _wording(
            "liver, the liver, hepatic parenchyma, liver tissue, hepar, hepatic organ, "
            "the whole liver, liver parenchyma",
            "hepatic tissue, liver organ, parenchyma of the liver",
        ),
        "spleen": _wording(
            "spleen, the spleen, splenic parenchyma, spleen tissue, lien, splenic organ, "
            "the whole spleen, spleen parenchyma",
            "splenic tissue, spleen organ, parenchyma of the spleen",
        ),
        "vessel": _wording(
            "vessel, the vessel, blood vessel, large vessel, vascular structure, main vessel, "
            "vascular tube, the blood vessel",
            "large blood vessel, the vascular structure, the main blood vessel",
        ),
        phantoms.LOOK_ALIKES[0]: _gland_wording("liver"),
        phantoms.LOOK_ALIKES[1]: _gland_wording("spleen"),
        "liver lesion": _wording(
            "liver lesion, hepatic lesion, lesion in the liver, liver tumour, "
            "focal liver lesion, hepatic tumour, lesion of the liver, liver mass",
            "hepatic mass, tumour in the liver, focal hepatic lesion",
        ),
    },
    "hippocampus": {
        "anterior": _hippocampus_wording("anterior", "front", "head"),
        "posterior": _hippocampus_wording("posterior", "back", "tail"),
    },
}
SCANS = {"phantoms": "MRI of the abdomen", "hippocampus": "MRI of the hippocampus"}


def matched(names: Sequence[str], dataset: str) -> dict[str, Wording]:
    """The wording of each label: that of its name, else the first whose key is the beginning of its name."""
    known = WORDINGS[dataset]
    keys = {name: [key for key in (name, *known) if key in known and name.casefold().startswith(key)] for name in names}
    if unknown := [name for name in names if not keys[name]]:
        raise UserError(f"There are no phrasings for {', '.join(unknown)}: expected the labels {', '.join(known)}.")
    return {name: known[match[0]] for name, match in keys.items()}
