"""Whole CTs for `preprocessing.py --full`, and the two workers that measure and store them, each in its own process.

    python benchmarks/whole_scans.py ours|nnunet measure|store FOLDER     # prints its CPU seconds and peak memory

`make` writes a raw data set. `measure` is the fingerprint of each case, `store` its preprocessing, one case after the
other, as a worker process of either command does it. Imports are not timed. The peak counts everything.
"""

import gzip
import json
import sys
import time
from pathlib import Path

import numpy as np

DATASET = "Dataset950_WholeCT"
LABELS = {"liver": 1, "kidney": 2, "spine": 3}
ORGANS = (  # label, centre and half axes as shares of the scan's edges (D, H, W)
    (1, (0.5, 0.45, 0.33), (0.35, 0.15, 0.14)),
    (2, (0.4, 0.57, 0.64), (0.2, 0.06, 0.05)),
    (3, (0.5, 0.66, 0.5), (0.6, 0.04, 0.04)),
)
TARGET = (1.0, 0.85, 0.85)  # mm; no axis of either scan keeps its size
CHANNEL = {"mean": 60.0, "std": 120.0, "low": -150.0, "high": 250.0}
PATCH = (96, 160, 160)  # nnU-Net's blocks on disk depend on it


def make(raw: Path, scan: Path, slices: int) -> list[tuple[int, ...]]:
    """The shapes of the cases of a new data set: the scan as it is, and with `slices` slices between its ends."""
    import nibabel

    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    image, shapes = nibabel.load(scan), []
    voxels = np.asanyarray(image.dataobj).astype(np.int16)  # (W, H, D)
    for name, count in (("real", voxels.shape[2]), ("long", slices)):
        array, affine = between(voxels, count), image.affine.copy()
        affine[:3, 2] *= voxels.shape[2] / count
        write(raw / "imagesTr" / f"{name}_0000.nii.gz", array, affine)
        write(raw / "labelsTr" / f"{name}.nii.gz", organs(array), affine)
        shapes.append(array.shape[::-1])
    fields = {"channel_names": {"0": "CT"}, "labels": {"background": 0, **LABELS}}
    (raw / "dataset.json").write_text(json.dumps(fields | {"numTraining": 2, "file_ending": ".nii.gz"}))
    return shapes


def between(voxels: np.ndarray, count: int) -> np.ndarray:
    """The volume (W, H, D) with `count` slices, interpolated linearly."""
    positions = np.clip((np.arange(count) + 0.5) * voxels.shape[2] / count - 0.5, 0, voxels.shape[2] - 1)
    result = np.empty((*voxels.shape[:2], count), np.int16, order="F")
    for index, position in enumerate(positions):
        low = int(position)
        high = min(low + 1, voxels.shape[2] - 1)
        result[..., index] = np.rint(voxels[..., low] + (position - low) * (voxels[..., high] - voxels[..., low]))
    return result


def organs(array: np.ndarray) -> np.ndarray:
    """A label map (W, H, D): the dense voxels inside three ellipsoids."""
    labels = np.zeros(array.shape, np.uint8, order="F")
    w, h, d = (np.linspace(0, 1, size, dtype=np.float32) for size in array.shape)
    for number, (z, y, x), (rd, rh, rw) in ORGANS:
        plane = ((w[:, None] - x) / rw) ** 2 + ((h[None] - y) / rh) ** 2
        for index, height in enumerate(((d - z) / rd) ** 2):
            labels[..., index][(plane + height < 1) & (array[..., index] > -200)] = number
    return labels


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file, packed fast."""
    import nibabel

    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(image.to_bytes())


def ours(stage: str, folder: Path) -> float:
    """The CPU seconds of a stage of TextDiffSeg."""
    from plans.fingerprint import Fingerprint
    from plans.plan import ChannelPlan, Plan, TextPlan
    from plans.planning.budget import cpu_budget
    from plans.planning.planner import make_plan
    from plans.raw.dataset import read_dataset
    from textdiffseg.data.preparing import preprocess_case
    from textdiffseg.files import write_record
    from textdiffseg.preprocessing.fingerprinting import fingerprint_case

    dataset = read_dataset(folder / "raw" / DATASET)
    if stage != "measure":
        crop = stage.partition("-")[2] or "nonzero"
        plan = Plan.read(folder / "plan.json").model_copy(update={"crop": crop})
        began = time.process_time()
        for case in dataset.cases:
            preprocess_case(case, plan, folder / stage)
        return time.process_time() - began
    began = time.process_time()
    cases = tuple(fingerprint_case(case, dataset.labels, dataset.channels) for case in dataset.cases)
    seconds = time.process_time() - began
    text = TextPlan(encoder="bundled", width=8)
    facts = (dataset.name, dataset.channels, dataset.labels, Fingerprint(dataset=dataset.name, cases=cases))
    plan = make_plan(*facts, budget=cpu_budget(8), preset="default", text=text)
    channel = ChannelPlan(name="CT", scheme="ct", **CHANNEL)
    write_record(folder / "plan.json", plan.model_copy(update={"spacing": TARGET, "channels": (channel,)}))
    return seconds


def nnunet(stage: str, folder: Path) -> float:
    """The CPU seconds of a stage of nnU-Net."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    raw, out = folder / "raw" / DATASET, folder / f"nnunet-{stage}"
    out.mkdir(exist_ok=True)
    header = json.loads((raw / "dataset.json").read_text())
    plans = PlansManager(nnunet_plans())
    configuration = plans.get_configuration("3d_fullres")
    began = time.process_time()
    for label in sorted((raw / "labelsTr").iterdir()):
        name = label.name.removesuffix(".nii.gz")
        files = [str(raw / "imagesTr" / f"{name}_0000.nii.gz")], str(label)
        if stage == "measure":
            DatasetFingerprintExtractor.analyze_case(*files, SimpleITKIO)
        else:
            preprocessor = DefaultPreprocessor(verbose=False)
            preprocessor.run_case_save(str(out / name), *files, plans, configuration, header)
    return time.process_time() - began


def nnunet_plans() -> dict[str, object]:
    """The part of nnU-Net's plans that its preprocessing reads, with its defaults."""
    function = "resample_data_or_seg_to_shape"
    options = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "whole",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": list(TARGET),
        "patch_size": list(PATCH),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": options | {"is_seg": False, "order": 3},
        "resampling_fn_seg": function,
        "resampling_fn_seg_kwargs": options | {"is_seg": True, "order": 1},
        "architecture": {},
    }
    statistics = {"mean": CHANNEL["mean"], "std": CHANNEL["std"]}
    limits = {"percentile_00_5": CHANNEL["low"], "percentile_99_5": CHANNEL["high"]}
    return {
        "dataset_name": DATASET,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": statistics | limits},
        "configurations": {"3d_fullres": configuration},
    }


def peak_mb() -> float:
    """The peak memory of this process in MB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def main() -> None:
    """Run one stage of one side, and print what it took."""
    side, stage, folder = sys.argv[1:]
    seconds = {"ours": ours, "nnunet": nnunet}[side](stage, Path(folder))
    print(json.dumps({"cpu_seconds": round(seconds, 1), "peak_mb": round(peak_mb())}))


if __name__ == "__main__":
    main()
