"""docs/paper.md: what it says of the publication's data sets makes data sets, from trees as they are downloaded."""

import re

import numpy as np
import pytest
import SimpleITK as sitk

from plans.raw.dataset import read_dataset
from plans.raw.prompts import read_prompts

DOWNLOADED = {
    "Dataset201_KiTS21": ("kits21/kits21/data/case_00007/imaging.nii.gz", "aggregated_MAJ_seg.nii.gz"),
    "Dataset202_Pancreas": ("Task07_Pancreas/imagesTr/pancreas_001.nii.gz", "../labelsTr/pancreas_001.nii.gz"),
    "Dataset203_LiTS": ("LiTS/Training Batch 1/volume-12.nii", "segmentation-12.nii"),
    "Dataset204_Colon": ("Task10_Colon/imagesTr/colon_001.nii.gz", "../labelsTr/colon_001.nii.gz"),
}


@pytest.fixture(scope="module")
def documented(repository):
    """The Python block, and the pairs of JSON blocks in the order of the data sets."""
    text = (repository / "docs" / "paper.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    return code, list(zip(blocks[::2], blocks[1::2], strict=True))


def test_downloads_become_data_sets(documented, tmp_path, monkeypatch):
    code, pairs = documented
    for image, label in DOWNLOADED.values():
        for path, top in ((tmp_path / image, 1000), ((tmp_path / image).parent / label, 3)):
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.random.default_rng(0).integers(0, top, (4, 5, 6)).astype(np.int16)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
            (path.parent / f"._{path.name}").write_bytes(b"left by macOS")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/paper.md", "exec"), {})
    for name, (header, prompts) in zip(DOWNLOADED, pairs, strict=True):
        folder = tmp_path / "raw" / name
        (folder / "dataset.json").write_text(header)
        (folder / "prompts.json").write_text(prompts)
        dataset = read_dataset(folder)
        assert len(dataset.cases) == 1
        assert set(read_prompts(folder / "prompts.json", dataset).labels) == {label.name for label in dataset.labels}
    merged = sitk.ReadImage(str(tmp_path / "raw/Dataset202_Pancreas/labelsTr/pancreas_001.nii.gz"))
    assert set(np.unique(sitk.GetArrayFromImage(merged))) == {0, 1}
