"""Tables of scores at the width of a plain terminal."""

import pytest
from rich.console import Console

from textdiffseg.evaluation.comparison import compare
from textdiffseg.evaluation.lesions import LesionScores
from textdiffseg.evaluation.metrics import PREDICTION_EMPTY, CaseScores, LabelScores
from textdiffseg.evaluation.summary import summarise
from textdiffseg_cli.tables import cases_table, comparison_table, lesions_table, summary_table

LONG = "submandibular_gland_left_superficial_part"
NAMES = ("right parotid gland", "posterior hippocampus", LONG)


@pytest.fixture
def summary():
    scores = LabelScores(dice=0.9, nsd=0.8, hd95=112.25, volume_ml=12345.6, reference_ml=33.4, note=PREDICTION_EMPTY)
    return summarise([CaseScores(case="hippocampus_001_baseline", labels=dict.fromkeys(NAMES, scores))])


@pytest.mark.parametrize("table", [summary_table, cases_table])
def test_names_and_figures_are_whole_at_80_columns(summary, table):
    console = Console(markup=False, width=80)
    with console.capture() as capture:
        console.print(table(summary))
    lines = capture.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert all(any(line.strip().startswith(name) for line in lines) for name in NAMES[:2])
    figures = next(line for line in lines if "right parotid gland" in line).split()
    assert figures[3:8] == ["0.9000", "0.8000", "112.25", "12346", "33.40"]
    first = "".join(line.split(" 0.9000")[0].strip() for line in lines)
    assert LONG in first, "a longer name continues on the next line"
    shown = capture.get()
    assert "one" in shown.split("posterior")[0] or table is cases_table
    if table is cases_table:
        assert "hippocampus_001_baseline" in shown
        place = next(line.index("note") for line in lines if "note" in line)
        assert PREDICTION_EMPTY in " ".join(line[place:].strip() for line in lines)


def test_scores_against_several_references_are_whole_at_80_columns():
    scores = LabelScores(
        dice=0.9,
        nsd=0.8,
        hd95=112.25,
        volume_ml=12345.6,
        reference_ml=33.4,
        rater_dice=(1.0, 0.8),
        best_dice=1.0,
        ged2=0.25,
    )
    summary = summarise([CaseScores(case="x", labels=dict.fromkeys(NAMES, scores))])
    console = Console(markup=False, width=80)
    with console.capture() as capture:
        console.print(summary_table(summary))
    lines = capture.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert sum("1.0000" in line and "0.2500" in line and "0.9000" in line for line in lines) == 4
    assert "GED2" in capture.get()


@pytest.fixture
def lesions():
    """The scores of two cases, with lesions."""
    found = LesionScores(dice=0.75, precision=1.0, recall=0.6, f1=0.7, predicted=1234, reference=12345, matched=1234)
    scores = [
        LabelScores(dice=dice, nsd=0.8, hd95=112.25, volume_ml=1.0, reference_ml=1.0, lesions=found)
        for dice in (0.9, 0.7)
    ]
    return [CaseScores(case=str(place), labels=dict.fromkeys(NAMES, one)) for place, one in enumerate(scores)]


def lines_of(table) -> list[str]:
    console = Console(markup=False, width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_lesions_are_whole_at_80_columns(lesions):
    lines = lines_of(lesions_table(summarise(lesions)))
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    assert (
        sum(line.split()[-7:] == ["0.7500", "1.0000", "0.6000", "0.7000", "2468", "24690", "2468"] for line in lines)
        == 3
    )
    assert any(line.startswith("mean of labels") for line in lines)


def test_comparisons_are_whole_at_80_columns(lesions):
    others = [
        CaseScores(case=one.case, labels={k: v.model_copy(update={"hd95": 7.5}) for k, v in one.labels.items()})
        for one in lesions
    ]
    lines = lines_of(comparison_table(compare(lesions, others, "/a/long/" * 20)))
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    row = next(line for line in lines if "HD95" in line).split()
    assert row == ["HD95", "2", "112.25", "7.50", "+104.75", "+104.75", "+104.75", "0.5000"]
    assert sum("lesion F1" in line for line in lines) == 4
