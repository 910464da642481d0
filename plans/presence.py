"""In how many training cases each label is, and what the user should know of it."""

from collections import Counter

from plans.dataset import Dataset
from plans.errors import listed
from plans.fingerprint import Fingerprint


def presence_notes(dataset: Dataset, fingerprint: Fingerprint) -> list[str]:
    """Sentences on labels that no case holds, and on labels that some cases lack without a word in `dataset.json`."""
    found = {case.case: {label.label for label in case.labels} for case in fingerprint.cases}
    anywhere = set().union(*found.values())
    notes = []
    if never := [label.name for number, label in enumerate(dataset.labels, 1) if number not in anywhere]:
        notes.append(
            f"No training case holds {listed(never)}, which will not be learned and not be found. Check the values in "
            "dataset.json, or remove the label there."
        )
    there: Counter[str] = Counter()
    silent: Counter[str] = Counter()  # cases of which dataset.json does not tell what was drawn
    for case in dataset.cases:
        if case.declared:
            continue
        for number, label in enumerate(dataset.labels, 1):
            if label.name in case.annotation.annotated and label.name not in case.annotation.absent:
                silent[label.name] += 1
                there[label.name] += number in found[case.id]
    missing = [name for name in silent if name not in never and there[name] < silent[name]]
    if missing:
        counts = [f"{name} is in {there[name]} of {silent[name]} cases" for name in missing]
        notes.append(
            f"{listed(counts)}. If it was not drawn in the others, name the drawn labels of each case under "
            '"annotated" in dataset.json: otherwise its absence is learned.'
        )
    return notes
