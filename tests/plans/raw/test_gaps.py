"""A label that some masks lack: an organ was not drawn there, a lesion is absent."""

from plans.raw.gaps import annotated_labels, gaps_of

LABELS = {"liver": 1, "lesion": 2}


def volumes(**changes):
    found = {f"c{place}": {1: 1000.0 + place, 2: 0.1 * 10 ** (place % 4)} for place in range(8)}
    return found | changes


def test_an_organ_is_taken_as_not_drawn_and_a_lesion_as_absent():
    cases = volumes(no_liver={2: 5.0}, no_lesion={1: 1100.0})
    liver, lesion = gaps_of(LABELS, cases)
    assert (liver.cases, liver.missing, liver.annotated) == (9, 1, False)
    assert (lesion.cases, lesion.missing, lesion.annotated) == (9, 1, True)
    assert annotated_labels((liver, lesion), cases) == {"no_liver": ("lesion",)}


def test_few_cases_do_not_make_an_organ():
    liver, _ = gaps_of(LABELS, {"a": {1: 10.0}, "b": {1: 10.0}, "c": {2: 1.0}})
    assert (liver.spread, liver.annotated) == (None, True)


def test_the_user_decides():
    cases = volumes(no_liver={2: 5.0})
    assert all(gap.annotated for gap in gaps_of(LABELS, cases, "absent"))
    assert not gaps_of(LABELS, cases, "not-annotated")[0].annotated


def test_a_structure_that_was_looked_for_is_known():
    cases = volumes(nothing_found={1: 0.0, 2: 5.0})
    liver, _ = gaps_of(LABELS, cases)
    assert (liver.cases, liver.missing, liver.annotated) == (8, 0, True)
    assert annotated_labels(gaps_of(LABELS, cases | {"open": {2: 1.0}}), cases) == {}


def test_without_gaps_nothing_is_declared():
    gaps = gaps_of(LABELS, volumes())
    assert all(gap.annotated for gap in gaps)
    assert annotated_labels(gaps, volumes()) == {}
