"""docs/python.md does what it says: its snippets run, one after the other, on a small data set."""

import re
import shutil

import pytest

LABELS = ("left kidney", "right kidney")


@pytest.fixture
def here(tmp_path, write_raw, monkeypatch):
    """A current folder with a raw data set and a held-out case."""
    folder = write_raw(tmp_path, "Dataset001_Abdomen", labels=LABELS)
    for part, name in (("images", "tiny_03_0000"), ("labels", "tiny_03")):
        (folder / f"{part}Ts").mkdir()
        target = "case_0000" if part == "images" else "case"
        shutil.copy(folder / f"{part}Tr" / f"{name}.nii.gz", folder / f"{part}Ts" / f"{target}.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snippets(repository):
    text = (repository / "docs" / "python.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_every_snippet_runs(here, repository, shrink_plan, few_patches):
    names, found = {}, snippets(repository)
    assert len(found) >= 11
    for snippet in found:
        exec(compile(snippet, "docs/python.md", "exec"), names)  # the documentation's own code
        if "tds.plan(" in snippet:
            shrink_plan(here / "preprocessed" / "Dataset001_Abdomen" / "plan.json")
    assert (here / "segmentations" / "case.nii.gz").is_file()
    assert set(names["summary"].labels) == set(LABELS)
    assert names["volume"].low_ml is None, "so few validation cases calibrate nothing"
