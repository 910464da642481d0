"""The words of a text bank, without their vectors."""

from difflib import SequenceMatcher

from plans.names import normalise
from plans.records import Record


class Words(Record):
    """Labels and their phrasings. Label numbers are 1..N in the order of `labels`."""

    scan: str  # one description of the scan; may be empty
    labels: tuple[str, ...]
    phrasings: tuple[tuple[str, ...], ...]  # of each label; the first is the one used by default

    @property
    def by_label(self) -> dict[str, tuple[str, ...]]:
        """The phrasings of each label."""
        return dict(zip(self.labels, self.phrasings, strict=True))

    def find(self, phrase: str) -> tuple[int, int] | None:
        """(label number, phrasing) of an exact match after normalisation; a label's name means its first phrasing."""
        wanted = normalise(phrase)
        for number, phrasings in enumerate(self.phrasings, start=1):
            for which, words in enumerate(phrasings):
                if normalise(words) == wanted:
                    return number, which
        names = [normalise(name) for name in self.labels]
        return (names.index(wanted) + 1, 0) if wanted in names else None

    def nearest_spelling(self, phrase: str, count: int) -> list[tuple[str, str]]:
        """The phrasings, with their labels, that are spelled most like `phrase`."""
        wanted = normalise(phrase)
        known = [(words, name) for name, phrasings in self.by_label.items() for words in phrasings]
        ratio = {words: SequenceMatcher(None, wanted, normalise(words)).ratio() for words, _ in known}
        return sorted(known, key=lambda pair: -ratio[pair[0]])[:count]
