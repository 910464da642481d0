"""The texts of a text bank without their vectors: labels, phrasings, the scan's description."""

from difflib import SequenceMatcher

from plans.prompts import normalise
from plans.records import Record


class Words(Record):
    """The labels and their phrasings. Label numbers are 1..N in the order of `labels`."""

    scan: str  # one description of the scan; may be empty
    labels: tuple[str, ...]
    phrasings: tuple[tuple[str, ...], ...]  # of each label; the first is the one used by default

    @property
    def by_label(self) -> dict[str, tuple[str, ...]]:
        """The phrasings of each label."""
        return dict(zip(self.labels, self.phrasings, strict=True))

    def find(self, phrase: str) -> tuple[int, int] | None:
        """(label number, index of the phrasing) of a known phrase, compared after normalisation; None if unknown.

        A label's name stands for its first phrasing.
        """
        normalised = normalise(phrase)
        for number, phrasings in enumerate(self.phrasings, start=1):
            for index, known in enumerate(phrasings):
                if normalise(known) == normalised:
                    return number, index
        names = [normalise(name) for name in self.labels]
        return (names.index(normalised) + 1, 0) if normalised in names else None

    def nearest_spelling(self, phrase: str, count: int) -> list[tuple[str, str]]:
        """The `count` pairs (phrasing, label name) whose spelling is most similar to `phrase`."""
        normalised = normalise(phrase)
        known = [(phrasing, name) for name, phrasings in self.by_label.items() for phrasing in phrasings]
        ratio = {phrasing: SequenceMatcher(None, normalised, normalise(phrasing)).ratio() for phrasing, _ in known}
        return sorted(known, key=lambda pair: -ratio[pair[0]])[:count]
