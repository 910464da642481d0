"""The names of files, without their folders: endings, channels, and the suffix of a text encoder."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".hdr")  # .hdr: with an .img beside it
UNREAD_ENDINGS = (
    ".img", ".mgz", ".mgh", ".mnc", ".gipl", ".tif", ".tiff", ".vtk", ".vti", ".h5", ".npy", ".npz", ".mif", ".par",
    ".rec", ".head", ".brik",
)  # fmt: skip
PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".z")  # of one compressed file
UNREAD_ARCHIVES = (".rar", ".7z", ".tar", ".tgz", ".tbz2", ".txz")
VOXEL_ENDINGS = (".img.gz", ".img")  # of the file of voxels beside a .hdr file
NIFTI = ".nii.gz"
ARCHIVE = ".zip"  # of DICOM slices
_SLICE_ENDINGS = (".dcm", ".dicom", ".ima")  # most slices have none
DICOM = ".dcm"
BUNDLED = "bundled"  # the text encoder that is installed with the package
MAX_NAME_BYTES = 40  # of a label in file names; a case takes up to 200, and file systems allow 255
MAX_STEM_BYTES = 150  # of a label that is a whole file name, with a value and an ending behind it
MAX_SUFFIX = 100  # characters of an encoder's name in file names


def split_ending(name: str) -> tuple[str, str]:
    """A file's name without its ending, and the ending in lower case: one of `FILE_ENDINGS`, or ""."""
    ending = next((ending for ending in FILE_ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)], ending


def composed(name: str) -> str:
    """A name in Unicode's form NFC, to compare names. Some systems store accents as characters of their own (NFD)."""
    return normalize("NFC", name)


def written_ending(ending: str) -> str:
    """The ending of the mask of a scan with this ending. A mask is one file, even if the scan is a pair of files."""
    return {".nhdr": ".nrrd", ".mhd": ".mha", ".hdr": NIFTI, "": NIFTI}.get(ending, ending)


def voxel_files(stem: str) -> tuple[str, ...]:
    """The names in lower case of the file of voxels beside the header `stem.hdr`."""
    return tuple(f"{stem}{ending}".lower() for ending in VOXEL_ENDINGS)


def unpacked_name(name: str) -> str:
    """A file's name without the endings of compressed files: `a.nii` for `a.nii.gz.gz`."""
    ending = next((ending for ending in PACKED_ENDINGS if name.lower().endswith(ending)), None)
    return name if ending is None else unpacked_name(name[: -len(ending)])


def is_unread_image(name: str) -> bool:
    """Whether a file name is that of an image that is not read: of another format, or compressed in another way."""
    if split_ending(name)[1]:
        return False
    plain = unpacked_name(name)
    return plain.lower().endswith(UNREAD_ENDINGS) or (plain != name and is_image_name(plain))


def is_unread_archive(name: str) -> bool:
    """Whether a file name is that of an archive that is not read. A zip of DICOM slices is read."""
    return unpacked_name(name).lower().endswith(UNREAD_ARCHIVES)


def is_slice_name(name: str) -> bool:
    """Whether a file name has the ending of a DICOM slice."""
    return name.lower().endswith(_SLICE_ENDINGS)


def is_archive_name(name: str) -> bool:
    """Whether a file name is that of a zip."""
    return name.lower().endswith(ARCHIVE)


def is_image_name(name: str) -> bool:
    """Whether a file name has the ending of an image, in any format."""
    return bool(split_ending(name)[1]) or is_unread_image(name) or name.lower().endswith(DICOM)


def channel_file(case: str, channel: int, ending: str) -> str:
    """The file of one channel of a case: `CASE_0000.nii.gz`."""
    return f"{case}_{channel:04d}{ending}"


def split_channel(stem: str) -> tuple[str, int] | None:
    """The case and the channel of a file `CASE_0000`, by its name without ending. None: the name has no channel."""
    match = re.fullmatch(r"(.+)_(\d{4})", stem)
    return (match[1], int(match[2])) if match else None


def named_input(name: str, channel: int, channels: int) -> str:
    """A scan's file in messages and manifests: its name, with the channel if there are several and it does not show."""
    shown = channels == 1 or split_ending(name)[0].endswith(f"_{channel:04d}")
    return name if shown else f"{name} (channel {channel})"


def channel_of(name: str, case: str, index: int) -> int:
    """The channel of a name from `named_input`. `index`: among the case's names, if the name has no channel."""
    stem = split_ending(name)[0]
    if match := re.fullmatch(r".* \(channel (\d+)\)", name, re.DOTALL):
        return int(match[1])
    numbered = split_channel(stem)
    return numbered[1] if numbered and numbered[0] == case else index


def rater_file(case: str, number: int, ending: str) -> str:
    """The reference mask of one of several raters: `CASE.rater1.nii.gz`."""
    return f"{case}.rater{number}{ending}"


def rater_of(stem: str) -> tuple[str, int | None]:
    """The case and the number of a rater's file, by its name without ending. None: it is not a rater's file."""
    match = re.fullmatch(r"(.+)\.rater([0-9]{1,9})", stem, re.IGNORECASE)
    return (match[1], int(match[2])) if match else (stem, None)


def alternative_file(stem: str, ending: str, number: int) -> str:
    """An alternative beside the mask of a case: `CASE.alternative1.nii.gz`. `stem`: the mask's name without ending."""
    return f"{stem}.alternative{number}{ending}"


def alternative_of(stem: str) -> tuple[str, int | None]:
    """The mask and the number of an alternative, by its name without ending. None: it is not an alternative."""
    match = re.fullmatch(r"(.+)\.alternative([0-9]{1,9})", stem)
    return (match[1], int(match[2])) if match else (stem, None)


def safe_name(name: str, most: int = MAX_NAME_BYTES) -> str:
    """A label's name with letters, digits, `_` and `-` only, of at most `most` bytes. It may be empty."""
    return re.sub(r"[^\w-]+", "_", name).encode()[:most].decode(errors="ignore").strip("_")


def label_stems(names: Sequence[str], values: Sequence[int]) -> tuple[str, ...]:
    """The names of labels as different file names without ending: `left_kidney`.

    Names that become equal get the label's value: `left_kidney.3`. Capitals make no difference.
    """
    stems = [safe_name(name, MAX_STEM_BYTES) or "label" for name in names]
    counts = Counter(stem.casefold() for stem in stems)
    pairs = zip(stems, values, strict=True)
    return tuple(stem if counts[stem.casefold()] == 1 else f"{stem}.{value}" for stem, value in pairs)


def picture_file(case: str) -> str:
    """The picture beside the mask of a case."""
    return f"{case}.png"


def manifest_path(mask: Path) -> Path:
    """The manifest of a mask, beside it."""
    return mask.with_name(f"{split_ending(mask.name)[0]}.json")


def encoder_suffix(preset: str, encoder: str | None) -> str:
    """The suffix of file names that hold vectors of a text encoder.

    Two encoders may get the same suffix. The headers of the files then distinguish them.
    """
    if encoder is None:
        return "_paper" if preset.startswith("paper") else ""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", encoder).strip("_.")[-MAX_SUFFIX:]
    return "" if encoder == BUNDLED else f"_{readable}"
