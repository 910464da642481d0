"""Notes on how many training cases contain each label."""

from collections import Counter

from plans.errors import listed
from plans.fingerprint import Fingerprint
from plans.raw.dataset import Dataset


def presence_notes(dataset: Dataset, fingerprint: Fingerprint) -> list[str]:
    """Notes on labels that no case contains, and on labels that some cases lack.

    A case counts only if `dataset.json` does not state its annotated labels.
    """
    present = {case.case: {label.label for label in case.labels} for case in fingerprint.cases}
    anywhere = set().union(*present.values())
    notes = []
    if never := [label.name for number, label in enumerate(dataset.labels, 1) if number not in anywhere]:
        notes.append(
            f"No training case holds {listed(never)}: the model will not learn it. Check the values in "
            "dataset.json, or remove the label there."
        )
    holding: Counter[str] = Counter()
    undeclared: Counter[str] = Counter()  # cases whose annotated labels dataset.json does not state
    for case in dataset.cases:
        if case.declared:
            continue
        for number, label in enumerate(dataset.labels, 1):
            if label.name in case.annotation.annotated and label.name not in case.annotation.absent:
                undeclared[label.name] += 1
                holding[label.name] += number in present[case.id]
    missing = [name for name in undeclared if name not in never and holding[name] < undeclared[name]]
    if missing:
        counts = [f"{name} is in {holding[name]} of {undeclared[name]} cases" for name in missing]
        notes.append(
            f"{listed(counts)}. If it was not drawn in the others, name the drawn labels of each case under "
            '"annotated" in dataset.json. Otherwise the model learns that it is absent.'
        )
    return notes
