"""A data set that is there already: what differs from a new one with the present files and options."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from plans.choices import Missing
from plans.errors import UserError, listed
from plans.layout import RawFolder
from plans.raw.dataset import Dataset
from plans.raw.header import BACKGROUND
from plans.records import read_json
from textdiffseg.tasks.new.folder import NewHeader
from textdiffseg.tasks.new.sources import Sources, found_sources, listed_sources


def sources_of(header: NewHeader) -> Sources:
    """The files of each case: in the two folders, or in the list."""
    return listed_sources(header.images) if header.masks is None else found_sources(header.images, header.masks)


def differences(
    header: NewHeader, dataset: Dataset, labels: Mapping[str, int], channels: tuple[str, ...], missing: Missing
) -> tuple[str, ...]:
    """A line for each difference. labels, channels, missing: as given now; empty or "auto": not given."""
    lines = []
    fields: Any = read_json(RawFolder(dataset.folder).header)
    own = {name: value for name, value in fields["labels"].items() if name != BACKGROUND}
    others = [name for name, value in own.items() if name not in labels and name != f"label {value}"]
    if labels and (others or any(own.get(name) != value for name, value in labels.items())):
        lines.append(f"Its labels are not those of --labels: {listed([f'{name}={own[name]}' for name in own])}.")
    if channels and channels != tuple(dataset.channels):
        lines.append(f"Its channels are not those of --channels: {', '.join(dataset.channels)}.")
    if missing == "absent" and fields.get("annotated"):
        lines.append("Some of its labels count as not drawn where they are missing, unlike with --missing absent.")
    with suppress(UserError):  # the files may be gone; the data set stays
        if new := sorted({source.case for source in sources_of(header).cases} - {case.id for case in dataset.cases}):
            lines.append(f"These cases are not in it: {listed(new)}. They are new, or had a fault.")
    return tuple(lines)
