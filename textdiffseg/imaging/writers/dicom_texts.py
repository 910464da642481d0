"""Texts of DICOM outputs."""

MANUFACTURER = "TextDiffSeg"
SERIAL_NUMBER = "0"  # a program has none, but the attribute is required
CHARACTER_SET = "ISO_IR 192"  # UTF-8, as labels may have any name
MAX_LONG_STRING = 64  # characters of the type LO


def long_string(text: str) -> str:
    """A label's name as a value of type LO: at most 64 characters, without backslashes, which separate values."""
    return text.replace("\\", "/").strip()[:MAX_LONG_STRING].strip() or "label"
