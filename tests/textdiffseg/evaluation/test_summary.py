"""Means over cases and labels, `summary.json`, and the tables."""

import pytest
from rich.console import Console

from textdiffseg.evaluation.lesions import LESION_RULE, LesionScores
from textdiffseg.evaluation.metrics import BOTH_EMPTY, PREDICTION_EMPTY, CaseScores, LabelScores
from textdiffseg.evaluation.summary import NO_SURFACES, Summary, summarise, to_csv
from textdiffseg.files import write_record
from textdiffseg_cli.tables import cases_table, summary_table


def label(dice, hd95=1.0, note="") -> LabelScores:
    return LabelScores(dice=dice, nsd=dice, hd95=hd95, volume_ml=1.0, reference_ml=2.0, note=note)


CASES = (
    CaseScores(case="b", labels={"liver": label(0.8), "lesion": label(None, None, BOTH_EMPTY)}),
    CaseScores(case="a", labels={"liver": label(0.6, 3.0), "lesion": label(0.0, None, PREDICTION_EMPTY)}),
    CaseScores(case="c", labels={"liver": label(0.7, 5.0), "lesion": label(0.5, 7.0)}),
)


def printed(table) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_means_leave_out_correctly_absent_labels_and_count_missed_ones():
    summary = summarise(CASES)
    lesion = summary.labels["lesion"]
    assert (lesion.dice, lesion.hd95) == (0.25, 7.0)
    assert (lesion.scored, lesion.both_empty, lesion.one_empty) == (2, 1, 1)
    assert summary.labels["liver"].hd95 == 3.0


def test_each_label_has_the_same_weight_in_the_mean():
    summary = summarise(CASES)
    assert summary.mean.dice == pytest.approx((0.7 + 0.25) / 2)
    assert summary.mean.scored == 5


def test_cases_are_sorted_by_id():
    assert summarise(CASES) == summarise(CASES[::-1])
    assert [case.case for case in summarise(CASES).cases] == ["a", "b", "c"]


def test_a_label_that_no_case_has_does_not_spoil_the_mean():
    cases = [CaseScores(case="a", labels={"liver": label(0.5), "lesion": label(None, None, BOTH_EMPTY)})]
    assert summarise(cases).mean.dice == 0.5


def test_the_summary_states_its_rules_and_is_read_as_written(tmp_path):
    summary = summarise(CASES, tolerance_mm=2.0, notes=["one note"])
    write_record(tmp_path / "summary.json", summary)
    assert Summary.read(tmp_path / "summary.json") == summary
    text = (tmp_path / "summary.json").read_text()
    for word in ("absent from both", "sub-voxel", "95th", "one note", '"tolerance_mm": 2.0'):
        assert word in text.replace('tolerance_mm":2.0', 'tolerance_mm": 2.0')
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_missing_table_of_surface_areas_is_noted(monkeypatch):
    monkeypatch.setattr("textdiffseg.evaluation.summary.surfaces_available", lambda: False)
    assert NO_SURFACES in summarise(CASES).notes


def test_the_tables_show_every_label_the_mean_and_each_case():
    summary = summarise(CASES)
    means, cases = printed(summary_table(summary)), printed(cases_table(summary))
    assert "0.4750" in means
    assert "mean of labels" in means
    for word in ("liver", "lesion", "missed", "absent from both", "–"):
        assert word in cases


def test_lesions_have_means_of_scores_and_sums_of_counts():
    one = LesionScores(dice=0.5, precision=1.0, recall=0.5, f1=2 / 3, predicted=1, reference=2, matched=1)
    none = LesionScores(dice=None, precision=None, recall=None, f1=None, predicted=0, reference=0, matched=0)
    false = LesionScores(dice=0.0, precision=0.0, recall=None, f1=0.0, predicted=3, reference=0, matched=0)
    scores = [label(0.5).model_copy(update={"lesions": lesions}) for lesions in (one, none, false)]
    cases = [CaseScores(case=str(i), labels={"lesion": score, "liver": label(0.5)}) for i, score in enumerate(scores)]
    summary = summarise(cases)
    mean = summary.labels["lesion"].lesions
    assert (mean.dice, mean.precision, mean.recall, mean.f1) == (0.25, 0.5, 0.5, pytest.approx(1 / 3))
    assert (mean.predicted, mean.reference, mean.matched) == (4, 2, 1)
    assert (summary.mean.lesions, summary.labels["liver"].lesions, summary.lesion_rule) == (mean, None, LESION_RULE)
    rows = [row.split(",") for row in to_csv(summary).splitlines()]
    assert rows[0][-4:] == ["lesion_f1", "lesions_predicted", "lesions_reference", "lesions_matched"]
    assert (rows[1][-3:], rows[2][-3:]) == (["1.0", "2.0", "1.0"], ["", "", ""])
    assert "lesion_f1" not in to_csv(summarise(CASES))
    assert summarise(CASES).lesion_rule is None


def test_summaries_of_version_2_are_read():
    fields = summarise(CASES).model_dump(mode="json", exclude={"lesion_rule", "comparison"}) | {"version": 2}
    for one in (
        fields["mean"],
        *fields["labels"].values(),
        *(x for c in fields["cases"] for x in c["labels"].values()),
    ):
        del one["lesions"]
    assert Summary.parse(fields, "summary.json") == summarise(CASES)


def test_names_in_the_csv_file_are_no_formulas():
    summary = summarise([CaseScores(case="-a", labels={"=cmd()": label(-1.0)})])
    assert to_csv(summary).splitlines()[1].startswith("'-a,'=cmd(),-1.0,")
