"""The log of a training run, older lines included, and its picture."""

import json
import warnings

import pytest

from plans.errors import UserError
from textdiffseg import pictures
from textdiffseg.training import log
from textdiffseg.training.log import EpochLog, draw_progress, read_log, write_log

NAMES = ("grade $\\frac{$", "a $x_{$ b", "_hidden", "肝臓", "x" * 300, "two\nlines")


def epochs(names=NAMES, count=3):
    """A log whose Dice rises."""
    return [
        EpochLog(
            epoch=number,
            iteration=10 * (number + 1),
            learning_rate=0.1,
            losses={"estimate": 1.0, "latent": 0.5},
            dice={name: 0.1 * number for name in names},
            latent_dice={name: 0.2 for name in names},
            seconds=60.0 * (number + 1),
        )
        for number in range(count)
    ]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved; each is drawn first."""
    kept = []

    def save(figure, path, dpi):
        figure.canvas.draw()
        kept.append(figure)

    monkeypatch.setattr(log, "save_figure", save)
    return kept


def legends(figure):
    return [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes if axes.get_legend()]


def test_a_line_of_version_1_is_read(tmp_path):
    """Runs that were started before the key was renamed can be resumed."""
    line = json.loads(epochs(["one"])[0].model_dump_json()) | {"version": 1}
    line["reconstruction_dice"] = line.pop("latent_dice")
    del line["iteration_seconds"], line["data_seconds"]
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert read_log(tmp_path / "log.jsonl") == epochs(["one"])[:1]


def test_a_line_of_version_2_has_no_times_of_iterations(tmp_path):
    line = json.loads(epochs(["one"])[0].model_dump_json()) | {"version": 2}
    del line["iteration_seconds"], line["data_seconds"]
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert read_log(tmp_path / "log.jsonl") == epochs(["one"])[:1]


def test_a_damaged_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "log.jsonl"
    write_log(path, epochs(["liver"]))
    path.write_text(path.read_text()[:-40])
    last = len(epochs(["liver"]))
    with pytest.raises(
        UserError, match=rf"log\.jsonl, line {last} is not valid JSON: .*\. Delete it: training then resumes"
    ):
        read_log(path)


def test_names_of_labels_are_plain_text(tmp_path, figures):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_progress(tmp_path / "progress.png", epochs(), "Dataset001_a$b_{c, default")
    names = legends(figures[0])[0]
    assert names[:3] == ["grade $\\frac{$", "a $x_{$ b", "_hidden"]
    assert names[3] == "肝臓" or names[3] == "4: ??", "as the machine's fonts have it"
    assert len(names[4]) == pictures.MAX_NAME_CHARACTERS
    assert names[5] == "two lines"
    assert figures[0]._suptitle.get_text().startswith("Dataset001_a$b_{c, default: 30 iterations in 3.0 minutes")


def test_characters_that_no_font_has_are_replaced(tmp_path, figures, monkeypatch):
    monkeypatch.setattr(pictures, "_family_with", lambda character: "DejaVu Sans" if character.isascii() else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_progress(tmp_path / "progress.png", epochs(["肝臓", "脾臓", "liver"]), "肝")
    assert legends(figures[0])[0][:3] == ["1: ??", "2: ??", "liver"]


def test_of_many_labels_the_legend_names_the_mean_alone(tmp_path, figures):
    draw_progress(tmp_path / "progress.png", epochs([str(number) for number in range(30)]), "many")
    assert legends(figures[0])[0][0] == "mean of 30 labels (thin: each)"
    assert len(figures[0].axes[0].lines) == 32


def test_the_words_of_the_losses_are_those_of_the_docs(tmp_path, figures):
    draw_progress(tmp_path / "progress.png", epochs(), "t")
    assert legends(figures[0])[1] == ["predicted mask", "noise of the latent"]
