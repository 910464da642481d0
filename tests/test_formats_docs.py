"""docs/formats.md explains every key of every record on disk (DESIGN 3).

A section of the page names a record in a line of its own, and lists its keys in the table below::

    Record `plans.raw.prompts.ListedPrompt`: one entry of `labels`

    | key | meaning |
    | --- | --- |
    | `phrase` | the words of the structure |

To document a new key, add its row. To document a new record, add such a section. A new record that is not written to
disk belongs in `NOT_WRITTEN`.
"""

import importlib
import pkgutil
import re

import pytest

import plans
import textdiffseg
from plans.records import Record
from textdiffseg.extras import missing_extra
from textdiffseg.text import bank_file, case_texts, space

SECTION = re.compile(r"^Record `([\w.]+)\.(\w+)`", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)
NOT_WRITTEN = {  # records in memory, base classes, and records that read files of others
    "plans.raw.annotation.Annotation",
    "plans.planning.budget.Budget",
    "plans.planning.budget.DeviceRules",
    "plans.raw.dataset.Case",
    "plans.raw.dataset.Dataset",
    "plans.fingerprint.Fingerprint",
    "plans.raw.header.DatasetHeader",
    "textdiffseg.evaluation.answers.PredictedAlternative",
    "textdiffseg.evaluation.answers.PredictedLabels",
    "textdiffseg.folds.sampling.BoundToWeights",
    "textdiffseg.folds.sampling.SamplingChoice",
}


def name_of(record: type[Record]) -> str:
    return f"{record.__module__}.{record.__name__}"


def all_records() -> list[type[Record]]:
    """Every record class of the packages."""
    for package in (plans, textdiffseg):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:  # no record lies in a module of an extra
                if missing_extra(error) is None:
                    raise
    found, new = set(), [Record]
    while new:
        new = [child for parent in new for child in parent.__subclasses__()]
        found |= {one for one in new if one.__module__.partition(".")[0] in ("plans", "textdiffseg")}
    return sorted(found, key=name_of)


def written() -> list[type[Record]]:
    """The records that files hold, and all records inside them."""
    return [record for record in all_records() if name_of(record) not in NOT_WRITTEN]


@pytest.fixture(scope="module")
def page(repository) -> str:
    return (repository / "docs" / "formats.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documented(page) -> dict[str, dict[str, str]]:
    """By the name of a record, the meaning of each key. A table ends where the next section or heading begins."""
    found: dict[str, dict[str, str]] = {}
    for place in SECTION.finditer(page):
        name = f"{place[1]}.{place[2]}"
        assert name not in found, f"{name} has two sections"
        table = re.split(r"^(?:Record `|#)", page[place.end() :], maxsplit=1, flags=re.MULTILINE)[0]
        rows = ROW.findall(table)
        assert len(dict(rows)) == len(rows), f"{name}: a key is listed twice"
        found[name] = dict(rows)
    return found


def test_every_record_on_disk_has_a_section(documented):
    assert documented.keys() == {name_of(record) for record in written()}


def test_every_key_is_explained_and_no_other_is_named(documented):
    faults = []
    for record in written():
        keys, listed = set(record.model_fields), set(documented.get(name_of(record), {}))
        faults += [f"{name_of(record)}: {key} is not explained" for key in sorted(keys - listed)]
        faults += [f"{name_of(record)}: the key {key} does not exist" for key in sorted(listed - keys)]
    assert faults == []


def test_records_that_are_not_written_exist_and_have_no_version():
    """A file has a version (DESIGN 3), so that a record with one is written."""
    found = {name_of(record): record for record in all_records()}
    assert found.keys() >= NOT_WRITTEN
    assert [name for name in sorted(NOT_WRITTEN) if "version" in found[name].model_fields] == []


def test_the_metadata_of_safetensors_is_named(page, documented):
    """Each file of vectors, and the checkpoint: the metadata's key stands before the record's section."""
    keys = {name_of(module._FILE.header): module._FILE.key for module in (bank_file, case_texts, space)}
    keys |= {name: "progress" for name in documented if name.endswith(".TrainingPosition")}
    assert len(keys) == 4
    for record, key in keys.items():
        before = page.partition(f"\nRecord `{record}`")[0].rpartition("\n## ")[2]
        assert re.search(rf"metadata\s+key\s+`{key}`", before), record
