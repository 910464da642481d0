"""Numbers that headers store as text."""


def real_number(word: str) -> float:
    """The number that a word denotes. Raises `ValueError` for other words.

    Python also reads `1_0` as 10, and digits of other scripts. Other programs do not, so such a word has no clear
    meaning in a file.
    """
    if "_" in word or not word.isascii():
        raise ValueError(f"expected a number, found {word[:40]!r}")
    return float(word)
