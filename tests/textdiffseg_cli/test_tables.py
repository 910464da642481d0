"""Tables of scores at the width of a plain terminal."""

import pytest
from rich.console import Console

from textdiffseg.evaluation.metrics import PREDICTION_EMPTY, CaseScores, LabelScores
from textdiffseg.evaluation.report import summarise
from textdiffseg_cli.tables import cases_table, summary_table

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
