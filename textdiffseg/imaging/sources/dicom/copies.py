"""Copies of slices, as in a folder that was copied into itself, or of slices that were exported twice."""

from collections.abc import Sequence

from plans.errors import UserError
from textdiffseg.files import hash_next
from textdiffseg.imaging.sources.dicom.elements import UNDEFINED
from textdiffseg.imaging.sources.dicom.instances import FRAME_GROUPS, INSTANCE, POSITION, Instance
from textdiffseg.imaging.sources.streams import zip_faults_as_damage


def copies_among(instances: Sequence[Instance]) -> list[int]:
    """The numbers in `instances` of copies of earlier ones.

    Two files are copies if they agree in all fields that are read and in the bytes of their pixels. Only their own UIDs
    may differ. Pixels are read only where the fields agree. Pictures without a position may be alike, and are not
    copies. Raises `UserError`, `Damaged`.
    """
    alike: dict[str, list[int]] = {}
    for number, instance in enumerate(instances):
        if {POSITION, FRAME_GROUPS} & instance.header.elements.keys():
            alike.setdefault(_fields(instance), []).append(number)
    copies = []
    for numbers in alike.values():
        seen = set[str]()
        for number in numbers if len(numbers) > 1 else ():
            pixels = _hash_of_pixels(instances[number])
            if pixels in seen:
                copies.append(number)
            seen.add(pixels)
    return copies


def refuse_contradictions(instances: Sequence[Instance], source: str) -> None:
    """Raise `UserError` for two files of one SOPInstanceUID that are not copies. `source` is the folder's name.

    If all files have one UID, it identifies none of them, as after a careless anonymisation. Their positions decide.
    """
    uids = [instance.text(INSTANCE) for instance in instances]
    if len(set(uids)) == 1:
        return
    first: dict[str, str] = {}
    for uid, instance in zip(uids, instances, strict=True):
        name = instance.source.name.rpartition("/")[2]
        if uid in first:
            raise UserError(
                f"{source}: {first[uid]} and {name} have the same SOPInstanceUID, but their contents differ. Keep the "
                "right one, or export the series again."
            )
        if uid:
            first[uid] = name


def _fields(instance: Instance) -> str:
    """All fields that are read but the file's own UID, as text."""
    return repr([(tag, value) for tag, value in sorted(instance.header.elements.items()) if tag != INSTANCE])


def _hash_of_pixels(instance: Instance) -> str:
    source, header = instance.source, instance.header
    with source.open() as file, zip_faults_as_damage():
        file.seek(header.offset)
        return hash_next(file, source.size - header.offset if header.length == UNDEFINED else header.length)
