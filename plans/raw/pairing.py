"""`Pairing`: which scan belongs to which mask, by the names of their files.

A name is the path below the user's folder, without its ending: `patient1/ct`. Several keys are compared, from the
strictest to the loosest: the whole path, the file's name, both without words such as `_seg`, and the first folder if
it holds one scan and one mask. A key decides only if it fits one mask and, per channel, one scan.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

from plans.file_names import composed, safe_name, split_channel
from plans.raw.dataset import is_plain_name

_SCAN_WORDS = "images?|imgs?|scans?|volumes?|vol|cts?|mrs?|mris?|pet|raw|t1w?|t2w?|flair|adc|dwi|dicom"
_MASK_WORDS = (
    "segs?|segmentations?|masks?|labels?|lbls?|gt|ground|truth|groundtruth|annotations?|rois?|manual|references?|"
    "contours?|structures?|rtstructs?|rtss|rts"
)
_WORDS = f"(?:{_SCAN_WORDS}|{_MASK_WORDS})"
_PREFIX = re.compile(rf"{_WORDS}(?:[ ._-]+|(?=\d))", re.IGNORECASE)
_SUFFIX = re.compile(rf"[ ._-]+{_WORDS}$", re.IGNORECASE)
_WHOLE = re.compile(_WORDS, re.IGNORECASE)
_MASK = re.compile(rf"(?:.*[ ._/-])?(?:{_MASK_WORDS})(?:[ ._/-].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A case: the name of its mask, and those of its scan's channels in order."""

    case: str
    images: tuple[str, ...]
    mask: str


@dataclass(frozen=True)
class Pairing:
    """The cases that were found, and the names without a partner."""

    pairs: tuple[Pair, ...]
    images: tuple[str, ...]  # without a mask
    masks: tuple[str, ...]  # without a scan
    doubtful: tuple[str, ...] = ()  # lines on names that fit several others; they are listed above, too


def is_mask_name(name: str) -> bool:
    """Whether a name has a word for masks: `patient1_seg`, `masks/patient1`."""
    return _MASK.fullmatch(name) is not None


def pair(images: Iterable[str], masks: Iterable[str], known: Mapping[str, str] | None = None) -> Pairing:
    """The pairing of names. `known`: mask -> scan, for masks that name their scan themselves (DICOM)."""
    left, open_masks = list(images), list(masks)
    found: dict[str, tuple[str, ...]] = {}
    for mask, image in (known or {}).items():
        found[mask] = (image,)
    doubtful: dict[str, str] = {}
    crowded = {folder for names in (left, open_masks) for folder, count in _folders(names).items() if count > 1}

    def only_one(name: str) -> str:
        folder = _first_folder(name)
        return "" if folder in crowded else folder

    for key in (_path, _name, _bare, _bare_name, only_one):
        taken = {name for names in found.values() for name in names}
        left = [one for one in left if one not in taken]
        open_masks = [one for one in open_masks if one not in found]
        found |= _matches(left, open_masks, key, doubtful)
    paired = {name for names in found.values() for name in names}
    cases = _cases(list(found))
    pairs = sorted((Pair(cases[mask], names, mask) for mask, names in found.items()), key=lambda one: one.case)
    return Pairing(
        tuple(pairs),
        tuple(one for one in left if one not in paired),
        tuple(one for one in open_masks if one not in found),
        tuple(dict.fromkeys(line for mask, line in doubtful.items() if mask not in found)),
    )


def _matches(
    images: Sequence[str], masks: Sequence[str], key: Callable[[str], str], doubtful: dict[str, str]
) -> dict[str, tuple[str, ...]]:
    """mask -> scans that have its key. Keys that fit several masks or scans are described in `doubtful`."""
    by_key: dict[str, list[str]] = {}
    for mask in masks:
        by_key.setdefault(key(mask), []).append(mask)
    scans: dict[str, dict[int, list[str]]] = {}
    for image in images:
        own, channel = key(image), 0
        if own not in by_key and (numbered := split_channel(image)):
            own, channel = key(numbered[0]), numbered[1]
        if own and own in by_key:
            scans.setdefault(own, {}).setdefault(channel, []).append(image)
    found = {}
    for own, channels in scans.items():
        several = [names for names in (by_key[own], *channels.values()) if len(names) > 1]
        if several:
            these = f"{' and '.join(several[0][:3])}{' ...' if len(several[0]) > 3 else ''}"
            others = by_key[own][0] if several[0] is not by_key[own] else next(iter(channels.values()))[0]
            for mask in by_key[own]:
                doubtful.setdefault(mask, f"{these} fit {others}: only one can.")
        elif [*range(len(channels))] != sorted(channels):
            numbers = ", ".join(f"{number:04d}" for number in sorted(channels))
            line = f"{by_key[own][0]}: its scan has the channels {numbers}: one is missing."
            doubtful.setdefault(by_key[own][0], line)
        else:
            found[by_key[own][0]] = tuple(channels[number][0] for number in sorted(channels))
    return found


def _path(path: str) -> str:
    return composed(path).casefold()


def _name(path: str) -> str:
    return _path(path.rpartition("/")[2])


def _bare(path: str) -> str:
    return _path(_stripped(path))


def _bare_name(path: str) -> str:
    return _bare(path.rpartition("/")[2])


def _first_folder(path: str) -> str:
    """The first part of the path that is more than a word for scans or masks; of a plain name the whole."""
    part = next((part for part in path.split("/") if not _WHOLE.fullmatch(part)), "")
    return _bare(part)


def _folders(names: Sequence[str]) -> Counter[str]:
    return Counter(map(_first_folder, names))


def _stripped(path: str) -> str:
    """The path without words for scans and masks, and with `_` between its parts: `a/ct`, `a_seg` -> `a`."""
    parts: list[str] = []
    for part in path.split("/"):
        before = ""
        while part != before:
            before = part
            part = _SUFFIX.sub("", part)
            if (prefix := _PREFIX.match(part)) and prefix.end() < len(part):
                part = part[prefix.end() :]
        if not _WHOLE.fullmatch(part) and part not in parts[-1:]:
            parts.append(part)
    return "_".join(parts)


def _cases(masks: Sequence[str]) -> dict[str, str]:
    """mask -> the name of its case: the shortest kind of name that differs for all masks."""
    for kind in (lambda mask: _stripped(mask.rpartition("/")[2]), _stripped, lambda mask: mask.rpartition("/")[2]):
        names = {mask: composed(kind(mask)) for mask in masks}
        if all(names.values()) and len({name.casefold() for name in names.values()}) == len(masks):
            break
    else:
        names = {mask: composed(mask.replace("/", "_")) for mask in masks}
    plain = {mask: name if is_plain_name(name) else safe_name(name, 150) or "case" for mask, name in names.items()}
    used: set[str] = set()
    for mask, name in plain.items():  # `a_b/c` and `a/b_c` have one name; so have `a` and `A` on some file systems
        numbered = (f"{name}_{number}" for number in count(2))
        plain[mask] = next(one for one in chain([name], numbered) if one.casefold() not in used)
        used.add(plain[mask].casefold())
    return plain
