"""The report on a data set: what it holds, what it finds, and that names stay text."""

import json
import os
import re
import shutil
import weakref
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import textdiffseg as tds
from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.data.store import open_case
from textdiffseg.evaluation.summary import Summary, summarise
from textdiffseg.files import write_record
from textdiffseg.folds.entropy import EntropyMap
from textdiffseg.folds.postprocessing import Postprocessing, PostprocessingTrial, PostprocessingTrials
from textdiffseg.report.shown import validation_case
from textdiffseg.tasks import report_results
from textdiffseg.tasks.report_results import find_results
from textdiffseg.training.log import read_log, write_log
from textdiffseg_cli.report import main

MAX_BYTES = 15_000_000


class Page(HTMLParser):
    """The tags with their attributes, and the text, of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def sections(self):
        return [attributes["id"] for attributes in self.all("section")]


@pytest.fixture
def report(tmp_path):
    def of(source, **options):
        return Page(tds.write_report(source, tmp_path / "report.html", root=tmp_path, **options))

    return of


def test_it_holds_every_part_and_loads_nothing(write, report, tmp_path):
    plan = write(lesions=("liver",))
    page = report(plan.dataset)
    assert page.sections == ["scores", "cases", "viewer", "calibration", "training", "data", "plan"]
    headings = [word for word in page.words if " case: " in word]
    assert headings == ["Worst case: d", "Median case: b", "Best case: a"]
    assert "Over 4 common cases, the mean Dice of default minus that of unet is +0.1250" in page.text
    for part in ("1.25", "0.056", "median spacing of the cases", "4 of 4", "The raw scans were not found"):
        assert part in page.text, part
    assert "Single lesions" in page.words
    assert "A lesion is a 26-connected component" in page.text
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert len(page.all("img")) == 3 + 3 + 2 + 1 + 3, "scores, cases, calibration, training, data"
    assert all(picture["alt"] for picture in page.all("img"))
    path = tmp_path / "report.html"
    content = path.read_text(encoding="utf-8")
    assert len(content) < MAX_BYTES
    data = json.loads(content.partition('id="viewer-data">')[2].partition("</script>")[0])
    assert [label["numbers"] for label in data["labels"]] == [[1], [2]]
    assert [sorted(case["volumes"]) for case in data["cases"]] == [["prediction", "reference", "scan"]] * 3
    report(plan.dataset)
    assert path.read_text(encoding="utf-8") == content, "the same results give the same file"


def test_the_lengths_of_all_folds_are_shown(write, report, tmp_path):
    plan = write()
    first, second = (FoldFolder.of(tmp_path, plan.dataset, "default", number) for number in (0, 1))
    assert "20 iterations per fold, in 3 minutes." in report("900").text
    shutil.copytree(first.path, second.path)
    write_log(second.log, [read_log(first.log)[0].model_copy(update={"iteration": 1200, "seconds": 7200.0})])
    assert "20 to 1,200 iterations per fold, in 3 minutes to 2 hours." in report("900").text


def test_scores_on_training_cases_are_not_compared(write, report, tmp_path):
    plan = write()
    assert "default against unet" in report("900").words
    model = tmp_path / "results" / plan.dataset / "unet"
    shutil.move(model / "fold_0", model / "fold_all")
    page = report("900")
    assert "default against unet" not in page.words
    assert "Not compared: unet. Scores on training cases say nothing about others." in page.text
    assert "default against unet" not in report("900", preset="unet").text.replace("unet against default", "")
    assert "unet against default" not in report("900", preset="unet").words
    assert len(page.all("img")) == 3 + 3 + 2 + 1 + 3 - 1, "no picture of differences"


def test_scores_of_all_folds_are_without_the_one_on_training_cases(write, report, tmp_path):
    plan = write(lesions=("liver",))
    model = tmp_path / "results" / plan.dataset / "default"
    shutil.copytree(model / "fold_0", model / "fold_all")
    page = report("900")
    assert "fold 0: " in page.text
    assert "fold all: " not in page.text
    assert page.words.count("Single lesions") == 1


def test_one_table_holds_the_lesions_of_all_folds(write, report, tmp_path):
    plan = write(lesions=("liver",))
    first = FoldFolder.of(tmp_path, plan.dataset, "default", 0)
    second = FoldFolder.of(tmp_path, plan.dataset, "default", 1)
    shutil.copytree(first.path, second.path)
    cases = Summary.read(first.summary).cases
    write_record(first.summary, summarise(cases[:1]))
    write_record(second.summary, summarise(cases[1:]))
    content = report("900").text
    assert content.count("Single lesions") == 1
    (row,) = re.findall(r"matched\s+liver\s+(\d+)", content)
    assert row == "4"


def test_one_case_is_in_memory_at_a_time(write, report, monkeypatch):
    write()
    made = []

    def tracked(*arguments):
        assert not any(one() for one in made), "an earlier case is still there"
        case = validation_case(*arguments)
        made.append(weakref.ref(case))
        return case

    monkeypatch.setattr(report_results, "validation_case", tracked)
    report("900")
    assert len(made) == 3


def test_names_stay_text(write, report):
    names, case = ("</script><script>alert(1)</script>", "a & $b_c$"), "x\"' onload='alert(2)"
    write(names=names, cases=(case, "b", "<b>bold", "d"))
    page = report("900", title="<i>title</i>")
    assert [one.get("type") for one in page.all("script")] == [None, "application/json", None]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert {"i", "b"} & {tag for tag, _ in page.tags} == {"b"}, "b: the numbers of the tiles"
    for name in (*names, f"Best case: {case}", "<b>bold", "<i>title</i>"):
        assert name in page.words


def found(source, root, preset=None):
    results = find_results(source, root, preset)
    place = results.preprocessed and results.preprocessed.path.relative_to(root)
    return results.main and results.main.name, [one.name for one in results.others], place


@pytest.mark.parametrize("below", ["", "default", "default/fold_0"])
def test_a_folder_of_results_is_found(write, tmp_path, below):
    plan = write()
    place = Path("preprocessed") / plan.dataset
    assert found(tmp_path / "results" / plan.dataset / below, tmp_path) == ("default", ["unet"], place)


def test_a_preset_can_be_chosen(write, tmp_path):
    plan = write()
    assert found("900", tmp_path, "unet")[:2] == ("unet", ["default"])
    assert found(tmp_path / "results" / plan.dataset / "unet", tmp_path)[:2] == ("unet", ["default"])
    with pytest.raises(UserError, match=r"--preset paper: .* does not hold it. Trained there: default, unet"):
        found("900", tmp_path, "paper")


def test_a_copied_model_has_its_scores_without_pictures(write, report, tmp_path):
    plan = write()
    shutil.copytree(tmp_path / "results" / plan.dataset / "default", tmp_path / "copy" / "model")
    shutil.rmtree(tmp_path / "preprocessed")
    page = report(tmp_path / "copy" / "model")
    assert page.sections == ["scores", "cases", "calibration", "training", "plan"]
    assert "There are no pictures, because" in page.text


def test_lost_masks_are_named(write, report, tmp_path):
    plan = write()
    FoldFolder.of(tmp_path, plan.dataset, "default", 0).mask("d").unlink()
    page = report("900")
    assert "There is no picture of case d:" in page.text
    assert "Worst case: d" not in page.text
    assert "Best case: a" in page.words


def test_the_postprocessing_of_predictions_is_named(write, report, tmp_path):
    plan = write()
    assert "postprocessed" not in report("900").text
    scores = {Postprocessing(): 0.5, Postprocessing(components="largest"): 0.7}
    rows = tuple(PostprocessingTrial(step=step, dice=(dice,) * 4) for step, dice in scores.items())
    fold = FoldFolder.of(tmp_path, plan.dataset, "default", 0)
    write_record(fold.postprocessing, PostprocessingTrials(labels={"liver": rows}))
    assert "liver: keep the largest component. The scores here are without it." in report("900").text


def test_the_uncertainty_of_masks_is_shown_where_it_is_stored(write, report, tmp_path):
    plan = write()
    fold = FoldFolder.of(tmp_path, plan.dataset, "default", 0)
    page = report("900")
    assert "Below: the uncertainty of each voxel" not in page.text
    shape = open_case(tmp_path / "preprocessed" / plan.dataset, "d", plan).record.shape
    entropy = EntropyMap(shape)
    entropy.add(3, np.ones((2, *shape[1:]), np.float32))
    entropy.write(fold, "d")
    page = report("900")
    assert page.text.count("Below: the uncertainty of each voxel") == 1
    fold.entropy("d").write_bytes(b"damaged")
    assert "There is no picture of case d:" in report("900").text


def test_a_data_set_that_is_only_planned_has_its_plan(write, report, tmp_path):
    write()
    shutil.rmtree(tmp_path / "results")
    page = report("900")
    assert page.sections == ["scores", "data", "plan"]
    assert "Run tds_train Dataset900_Tiny 0" in page.text


def test_another_preset_that_cannot_be_read_is_a_note(write, report, tmp_path):
    plan = write()
    FoldFolder.of(tmp_path, plan.dataset, "unet", 0).plan.write_text("{}")
    page = report("900")
    assert "unet/fold_0/plan.json: version: missing, so the file is damaged" in page.text
    with pytest.raises(UserError, match="version: missing, so the file is damaged"):
        found("900", tmp_path, "unet")


@pytest.mark.parametrize("name", ["plan", "log", "calibration"])
def test_a_fold_that_cannot_be_read_is_a_note(write, tmp_path, capsys, name):
    plan = write()
    damaged, other = (FoldFolder.of(tmp_path, plan.dataset, "default", number) for number in (0, 1))
    shutil.copytree(damaged.path, other.path)
    getattr(damaged, name).write_text("{")
    assert main(["900", "-o", str(tmp_path / "report.html"), "--root", str(tmp_path)]) == 0
    line = f"Left out: {getattr(damaged, name)}"
    assert line in capsys.readouterr().out
    page = Page(tmp_path / "report.html")
    assert line in page.text
    assert "Mean Dice of fold 1:" in page.text


def test_a_model_whose_folder_has_no_plain_name_is_a_note(write, report, tmp_path):
    folder = tmp_path / "results" / write().dataset
    shutil.copytree(folder / "unet", folder / os.fsdecode(b"caf\xe9"))
    assert "not a plain name. Rename the folder." in report("900").text


def test_mistakes_are_one_line(write, tmp_path, capsys):
    write()
    at = ["--root", str(tmp_path)]
    other = tmp_path / "mine.html"
    other.write_text("<p>my own page</p>")
    for arguments, line in (
        (["900", "-o", str(tmp_path / "report.txt")], "Choose a name that ends with .html."),
        (["900", "-o", str(other)], "exists and is not a report. Move it away, or choose another place with -o."),
        (["7", "-o", str(tmp_path / "x.html")], "No data set '7'"),
        (["900", "-o", str(tmp_path / "x.html"), "--scans", "scans"], "is not a folder of segmentations"),
    ):
        assert main([*arguments, *at]) == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
    assert other.read_text() == "<p>my own page</p>"


def test_a_place_that_cannot_be_written_is_refused_before_the_work(write, tmp_path, capsys, monkeypatch):
    write()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("textdiffseg.tasks.report.results_sections", lambda *_: pytest.fail("pictures were drawn"))
    place = tmp_path / "file" / "report.html"
    assert main(["900", "-o", str(place), "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {place.parent}: ")


def test_a_report_deletes_the_leftovers_of_killed_ones(write, tmp_path, leave_temporary):
    write()
    leftover = leave_temporary(tmp_path / "report.html")
    assert main(["900", "-o", str(tmp_path / "report.html"), "--root", str(tmp_path)]) == 0
    assert not leftover.exists()
