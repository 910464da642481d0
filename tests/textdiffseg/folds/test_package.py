"""A model as one file: what it holds, what is replaced, and what is refused."""

import json
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.evaluation.metrics import CaseScores, LabelScores
from textdiffseg.evaluation.summary import summarise
from textdiffseg.files import FileHash, write_record
from textdiffseg.folds.cases import FoldCases, write_cases
from textdiffseg.folds.ensemble import load_ensemble
from textdiffseg.folds.package import MANIFEST, export_model, read_package
from textdiffseg.folds.unpacking import import_model


@pytest.fixture
def model(root, plan):
    """A model of two folds, with lists of cases and scores."""
    folder = root / "results" / plan.dataset / "default"
    for number in (0, 1):
        fold = FoldFolder(folder / f"fold_{number}")
        write_cases(fold, FoldCases.of(plan.dataset, [f"mueller_{number}"], ["schmidt_1990", "huber"]))
        scores = [
            CaseScores(
                case=case, labels={"back": LabelScores(dice=dice, nsd=None, hd95=None, volume_ml=1, reference_ml=1)}
            )
            for case, dice in (("huber", 0.9), ("schmidt_1990", 0.4))
        ]
        write_record(fold.summary, summarise(scores))
        (fold.path / "notes_on_patients.txt").write_text("private")
    return folder


@pytest.fixture
def package(model, tmp_path):
    path = tmp_path / "out" / "model.zip"
    export_model(model, path)
    return path


def rewritten(package, change):
    """The package with its entries changed: `change` maps {name: (info, content)} in place."""
    with zipfile.ZipFile(package) as archive:
        entries = {info.filename: (info, archive.read(info)) for info in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(package, "w") as archive:
        for info, content in entries.values():
            archive.writestr(info, content)
    return package


def test_an_imported_model_predicts_as_the_exported_one(model, package, tmp_path):
    folder = tmp_path / "elsewhere" / "model"
    manifest = read_package(package)
    assert import_model(package, folder)
    assert (manifest.dataset, manifest.model) == ("Dataset900_Tiny", "default")
    first, second = load_ensemble(model), load_ensemble(folder)
    assert first.hash == second.hash
    assert first.folds == second.folds == ("0", "1")
    assert not list(tmp_path.glob("elsewhere/.*")), "no temporary folder is left"


def test_a_full_disk_names_the_model_that_is_written(package, tmp_path, full_disk):
    with full_disk(), pytest.raises(OSError) as error:  # noqa: PT011
        import_model(package, tmp_path / "elsewhere" / "model")
    assert error.value.filename == str(tmp_path / "elsewhere" / "model")
    assert not (tmp_path / "elsewhere").exists()


def test_case_ids_stay_at_home_unless_they_are_kept(model, package, tmp_path):
    content = package.read_bytes()
    assert not any(name in content for name in (b"mueller", b"schmidt", b"huber", b"private"))
    folder = tmp_path / "imported"
    import_model(package, folder)
    summary = json.loads(FoldFolder(folder / "fold_0").summary.read_text())
    assert [case["case"] for case in summary["cases"]] == ["fold_0_case_1", "fold_0_case_2"], "from the lowest Dice on"
    assert summary["cases"][0]["labels"]["back"]["dice"] == 0.4
    assert not FoldFolder(folder / "fold_0").cases.exists()
    kept = export_model(model, tmp_path / "kept.zip", keep_identifiers=True)
    assert kept.identifiers
    assert b"schmidt_1990" in (tmp_path / "kept.zip").read_bytes()


def test_chosen_folds_alone_are_packaged(model, tmp_path):
    manifest = export_model(model, tmp_path / "one.zip", ["1"])
    assert {name.partition("/")[0] for name in manifest.files} == {"fold_1"}
    with pytest.raises(UserError, match="no trained fold 7"):
        export_model(model, tmp_path / "none.zip", ["7"])
    assert not (tmp_path / "none.zip").exists()


def test_the_folder_of_a_fold_is_packaged_under_the_name_of_its_model(model, tmp_path):
    assert export_model(model / "fold_1", tmp_path / "one.zip").model == "default"
    with pytest.raises(UserError, match="this name is that of a fold"):
        import_model(tmp_path / "one.zip", tmp_path / "fold_0")


def test_what_is_exported_can_be_imported(model, tmp_path):
    """A copy under another name is left out; one under the name of a fold is refused, as in a prediction."""
    shutil.copytree(model / "fold_0", model / "fold_0.bak")
    assert any("Left out: fold_0.bak: not the name of a fold" in note for note in load_ensemble(model).notes)
    export_model(model, tmp_path / "two.zip")
    assert load_ensemble(import_into(tmp_path / "two.zip", tmp_path / "two")).folds == ("0", "1")
    with pytest.raises(UserError, match=r"fold_0\.bak: expected the name of a fold .*Rename the folder"):
        export_model(model / "fold_0.bak", tmp_path / "copy.zip")
    (model / "fold_0.bak").rename(model / "fold_7")
    with pytest.raises(UserError, match=r"fold_7 is a copy of \S*fold_0"):
        export_model(model, tmp_path / "copy.zip")


def test_folds_that_are_no_ensemble_are_not_exported(model, tmp_path):
    plan = model / "fold_1" / "plan.json"
    content = json.loads(plan.read_text())
    plan.write_text(json.dumps(content | {"spacing": [9.0, 9.0, 9.0]}))
    with pytest.raises(UserError, match=r"differs from \S*fold_0/plan.json in spacing"):
        export_model(model, tmp_path / "two.zip")
    assert not (tmp_path / "two.zip").exists()


def test_a_package_whose_folds_are_copies_is_not_imported(model, tmp_path, monkeypatch):
    shutil.rmtree(model / "fold_1")
    shutil.copytree(model / "fold_0", model / "fold_1")
    monkeypatch.setattr("textdiffseg.folds.package.check_together", lambda *_: None)
    export_model(model, tmp_path / "two.zip")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"two.zip: fold_1 is a copy of .*fold_0"):
        import_model(tmp_path / "two.zip", tmp_path / "imported")
    assert not (tmp_path / "imported").exists()


def import_into(package, folder):
    import_model(package, folder)
    return folder


@pytest.mark.parametrize("content", ["{}", None])
def test_scores_that_are_damaged_or_of_another_fold_are_not_exported(model, tmp_path, content):
    fold = FoldFolder(model / "fold_0")
    if content is None:
        write_cases(fold, FoldCases.of("Dataset900_Tiny", ["mueller_0"], ["maier"]))
    else:
        fold.summary.write_text(content)
    files = export_model(model, tmp_path / "model.zip").files
    assert [name for name in files if name.endswith("summary.json")] == ["fold_1/validation/summary.json"]


def test_an_existing_folder_is_never_overwritten(package, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        import_model(package, tmp_path / "there")


def test_the_same_import_can_be_typed_again(package, tmp_path):
    folder = tmp_path / "there"
    assert import_model(package, folder), "it was written"
    assert not import_model(package, folder), "it was there"
    plan = folder / "fold_0" / "plan.json"
    plan.write_text(plan.read_text() + " ")
    with pytest.raises(UserError, match="exists already"):
        import_model(package, folder)


@pytest.mark.parametrize("below", ["", "model"])
def test_a_link_that_leads_nowhere_is_named(package, tmp_path, below):
    (tmp_path / "there").symlink_to("gone")
    with pytest.raises(UserError, match=r"there is a link to gone, which is not there\. Remove the link, or"):
        import_model(package, tmp_path / "there" / below)


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_folder_that_cannot_be_written_is_named(package, tmp_path, monkeypatch, call):
    """Its own name, not that of the temporary folder."""
    usual, folder = getattr(Path, call), tmp_path / "elsewhere" / "model"

    def refused(path, *args, **options):
        if path.name.startswith(".model"):
            raise PermissionError(13, "Permission denied", str(path))
        usual(path, *args, **options)

    monkeypatch.setattr(Path, call, refused)
    with pytest.raises(PermissionError) as error:
        import_model(package, folder)
    assert error.value.filename == str(folder)
    assert not folder.parent.exists()


def test_both_ways_report_their_progress_in_megabytes(model, package, tmp_path, monkeypatch):
    monkeypatch.setattr("textdiffseg.progress.MB", 1000)
    exported, imported = [], []
    size = sum(file.size for file in export_model(model, package, progress=exported.append).files.values())
    import_model(package, tmp_path / "model", imported.append)
    for stage, events in (("Export", exported), ("Import", imported)):
        assert {event.stage for event in events} == {stage}
        assert [event.done for event in events] == sorted(event.done for event in events)
        assert events[-1].done == events[-1].total == -(-size // 1000)


def flipped(entries):
    info, content = entries["fold_0/checkpoint_best.safetensors"]
    entries[info.filename] = info, content[:-1] + bytes([content[-1] ^ 1])


def longer(entries):
    info, content = entries["fold_0/plan.json"]
    entries[info.filename] = info, content + b" "


def outside(entries):
    add(entries, "../../evil.json")


def absolute(entries):
    add(entries, "/etc/evil.json")


def stranger(entries):
    add(entries, "fold_0/run_me.py")


def add(entries, name):
    info, content = entries[MANIFEST]
    fields = json.loads(content)
    fields["files"][name] = fields["files"]["fold_0/plan.json"]
    entries[MANIFEST] = info, json.dumps(fields).encode()
    entries[name] = zipfile.ZipInfo(name), entries["fold_0/plan.json"][1]


def elsewhere(field, value):
    def change(entries):
        info, content = entries[MANIFEST]
        entries[MANIFEST] = info, json.dumps(json.loads(content) | {field: value}).encode()

    return change


def locked(entries):
    entries["fold_0/plan.json"][0].flag_bits |= 1


def unlisted(entries):
    entries["fold_0/more.json"] = zipfile.ZipInfo("fold_0/more.json"), b"{}"


def link(entries):
    info, _content = entries["fold_0/plan.json"]
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def packed(entries):
    entries["fold_0/plan.json"][0].compress_type = zipfile.ZIP_DEFLATED


def packed_manifest(entries):
    """Its compressed bytes are damaged, too: they must not be decompressed."""
    info, _content = entries[MANIFEST]
    entries[MANIFEST] = info, b"\xff" * 400
    info.compress_type = zipfile.ZIP_DEFLATED


def of_files(*names, **contents):
    """A package with some of its files alone, and with other contents."""

    def change(entries):
        info, content = entries[MANIFEST]
        kept = {
            name: contents.get(name.split("/")[1].split(".")[0], entries.get(name, (None, b""))[1]) for name in names
        }
        hashes = {name: FileHash.of(one).model_dump() for name, one in kept.items()}
        fields = json.loads(content) | {"files": hashes}
        entries.clear()
        entries[MANIFEST] = info, json.dumps(fields).encode()
        entries.update({name: (zipfile.ZipInfo(name), one) for name, one in kept.items()})

    return change


WORDS = ("fold_0/text_bank.safetensors", "fold_0/text_space.safetensors")
WEIGHTS, PLAN = "fold_0/checkpoint_best.safetensors", "fold_0/plan.json"


def without_manifest(entries):
    del entries[MANIFEST]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flipped, "damaged"),
        (longer, "bytes, expected"),
        (outside, "not a file of a fold"),
        (absolute, "not a file of a fold"),
        (stranger, "not a file of a fold"),
        (elsewhere("dataset", "../../evil"), "not the name of a folder"),
        (elsewhere("model", "/tmp/evil"), "not the name of a folder"),
        (unlisted, "are not those of its"),
        (link, "link"),
        (packed, "compressed"),
        (packed_manifest, "manifest.json is compressed"),
        (without_manifest, "not a packaged model"),
        (elsewhere("dataset", " "), "not the name of a folder"),
        (elsewhere("dataset", "Dataset007_Other"), "model.zip: fold_0/plan.json is not of Dataset007_Other"),
        (elsewhere("model", "-rf"), "not the name of a folder"),
        (of_files(), "holds no trained model"),
        (of_files(PLAN), "a fold without its weights"),
        (of_files(PLAN, WEIGHTS), "model.zip: fold_0/text_bank.safetensors"),
        (of_files(PLAN, WEIGHTS, *WORDS, plan=b"garbage"), "model.zip: fold_0/plan.json"),
        (of_files(PLAN, WEIGHTS, *WORDS, checkpoint_best=b"garbage"), "model.zip: fold_0/checkpoint_best"),
        (of_files(PLAN, WEIGHTS, *WORDS, "fold_0/sampling.json", sampling=b"[]"), "model.zip: fold_0/sampling.json"),
        (of_files(PLAN, WEIGHTS, *WORDS, "fold_0/validation/summary.json", validation=b"3"), "summary.json"),
    ],
)
def test_a_package_that_is_not_right_is_refused_and_nothing_is_written(package, tmp_path, change, message):
    folder = tmp_path / "elsewhere" / "results" / "model"
    with pytest.raises(UserError, match=message):
        import_model(rewritten(package, change), folder)
    assert not list(tmp_path.rglob("evil.json"))
    assert not (tmp_path / "elsewhere").exists()


def test_one_fold_with_its_words_is_a_model(package, tmp_path):
    """The cases above fail because of what they lack."""
    import_model(rewritten(package, of_files(PLAN, WEIGHTS, *WORDS)), tmp_path / "one")
    assert load_ensemble(tmp_path / "one").folds == ("0",)


def misnamed(content):
    """The first name flagged as UTF-8, which it is not."""
    changed, start = bytearray(content), content.index(b"PK\x01\x02")
    changed[start + 9] |= 8
    changed[start + 46] = 0xFF
    return bytes(changed)


def beyond(content):
    """A member that declares more bytes than the file has."""
    start = content.index(b"PK\x01\x02") + 20
    return content[:start] + 2 * b"\0\0\x80\0" + content[start + 8 :]


def test_a_package_that_is_not_there_or_may_not_be_read_is_not_called_damaged(package, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"nosuch.zip does not exist\. Give a packaged model"):
        import_model(tmp_path / "nosuch.zip", tmp_path / "model")

    def refused(*_):
        raise PermissionError(13, "Permission denied", str(package))

    monkeypatch.setattr("zipfile.ZipFile.__init__", refused)
    with pytest.raises(PermissionError):
        import_model(package, tmp_path / "model")


@pytest.mark.parametrize("damage", [misnamed, beyond])
def test_a_package_that_cannot_be_decoded_is_refused_and_never_replaced(package, model, tmp_path, damage):
    content = damage(package.read_bytes())
    package.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a packaged model"):
        import_model(package, tmp_path / "model")
    with pytest.raises(UserError, match="is not a packaged model"):
        export_model(model, package)
    assert package.read_bytes() == content


def test_an_export_deletes_the_leftovers_of_killed_ones(model, package, leave_temporary):
    leftover = leave_temporary(package)
    export_model(model, package)
    assert not leftover.exists()


def test_a_package_that_cannot_be_written_is_named_in_the_error(model, tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        export_model(model, tmp_path)
    assert caught.value.filename == str(tmp_path)
    assert not list(tmp_path.parent.glob(".*.tmp"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_no_packages(tmp_path, content):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserError, match="packaged model"):
        read_package(tmp_path / "x.zip")
    with pytest.raises(UserError, match="packaged model"):
        read_package(tmp_path / "missing.zip")
    (tmp_path / "endless.zip").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a plain file"):
        read_package(tmp_path / "endless.zip")


def test_a_truncated_package_is_refused(package, tmp_path):
    package.write_bytes(package.read_bytes()[:-100])
    with pytest.raises(UserError, match="packaged model"):
        import_model(package, tmp_path / "model")
