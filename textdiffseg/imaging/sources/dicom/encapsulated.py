"""Compressed pixel data: fragments, of which one or several hold a frame (PS3.5, A.4).

GDCM reads JPEG-LS and JPEG 2000 files of many frames only if each frame is one fragment. So the fragments of a frame
are joined for it.
"""

import struct
from itertools import pairwise

from textdiffseg.imaging.sources.streams import Damaged

_HEAD = struct.Struct("<HHI")  # group and number of the tag, length
_ITEM, _END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_FIRST_BYTES = (b"\xff\xd8", b"\xff\x4f\xff\x51")  # of a frame: JPEG and JPEG-LS, JPEG 2000. They occur nowhere else


def one_fragment_per_frame(content: bytes, frames: int) -> bytes:
    """The same pixel data with one fragment per frame, and an empty offset table.

    The offset table states where a frame begins. Without one, its first bytes show it. Unchanged are the data of one
    frame, and data that have no more fragments than frames.

    Args:
        content: the value of the pixel data, with its delimiters.
        frames: their number.

    Raises:
        Damaged: the fragments cannot be assigned to frames.
    """
    table, *fragments = _items(content)
    if frames == 1 or len(fragments) <= frames:
        return content
    first = _first_by_table(table, fragments, frames) or _first_by_bytes(fragments)
    if len(first) != frames:
        raise Damaged(f"the {len(fragments)} fragments of its pixels cannot be assigned to its {frames} frames")
    joined = [b"".join(fragments[start:end]) for start, end in pairwise([*first, len(fragments)])]
    return b"".join(_HEAD.pack(*_ITEM, len(one)) + one for one in (b"", *joined)) + _HEAD.pack(*_END, 0)


def _items(content: bytes) -> list[bytes]:
    """The values of the items: the offset table, then the fragments."""
    found, place = list[bytes](), 0
    while place + _HEAD.size <= len(content):
        group, number, length = _HEAD.unpack_from(content, place)
        if (group, number) != _ITEM:
            break
        place += _HEAD.size + length
        found.append(content[place - length : place])
    return found or [b""]


def _first_by_table(table: bytes, fragments: list[bytes], frames: int) -> list[int]:
    """The numbers of the fragments with which frames begin, by the offset table. [] if it does not fit them."""
    if len(table) != 4 * frames:
        return []
    places, place = {}, 0  # number of a fragment by its offset from the first one
    for number, fragment in enumerate(fragments):
        places[place] = number
        place += _HEAD.size + len(fragment)
    first = [places.get(offset, -1) for offset in struct.unpack(f"<{frames}I", table)]
    return first if first == sorted(set(first)) and first[0] == 0 else []


def _first_by_bytes(fragments: list[bytes]) -> list[int]:
    """The numbers of the fragments with which frames begin, by their first bytes. [] if the first one is another."""
    first = [number for number, fragment in enumerate(fragments) if fragment.startswith(_FIRST_BYTES)]
    return first if first[:1] == [0] else []
