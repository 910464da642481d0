"""nnU-Net's own plans for made data sets, for `planning.py`. Needs only nnU-Net, so that it runs in nnU-Net's Python.

    python benchmarks/nnunet_plans.py < datasets.json

Reads a list of data sets (`planning.MadeDataset` as JSON) and memories in GB. Prints a list of plans as JSON. No image
is read: nnU-Net's planner needs only the two JSON files of a data set.
"""

import contextlib
import json
import os
import sys
import tempfile
from math import prod
from pathlib import Path

PLANNERS = ("ExperimentPlanner", "ResEncUNetPlanner")
VARIABLES = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}


def main() -> int:
    """Write the data sets' files, call nnU-Net's planners, print their plans."""
    request = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.environ |= {name: str(Path(folder) / subfolder) for name, subfolder in VARIABLES.items()}
        plans = []
        for number, dataset in enumerate(request["datasets"], start=1):
            name = f"Dataset{number:03d}_Made"
            write(Path(folder), name, dataset)
            for gb in request["memory_gb"]:
                plans += [plan(planner, name, gb) | {"dataset": dataset["name"]} for planner in PLANNERS]
    print(json.dumps(plans))
    return 0


def write(folder: Path, name: str, dataset: dict) -> None:
    """Write dataset.json and dataset_fingerprint.json."""
    channels = dict(enumerate(dataset["channels"]))
    intensities = {"mean": 0.0, "median": 0.0, "std": 1.0, "min": 0.0, "max": 1.0}
    intensities |= {"percentile_00_5": 0.0, "percentile_99_5": 1.0}
    header = {
        "channel_names": channels,
        "labels": {"background": 0} | {f"label {value}": value for value in range(1, dataset["labels"] + 1)},
        "numTraining": len(dataset["shapes"]),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {"case": {"images": ["case_0000.nii.gz"], "label": "case.nii.gz"}},  # never opened
    }
    fingerprint = {
        "spacings": dataset["spacings"],
        "shapes_after_crop": dataset["shapes"],
        "foreground_intensity_properties_per_channel": dict.fromkeys(channels, intensities),
        "median_relative_size_after_cropping": 1.0,
    }
    for parent, file, content in (
        ("raw", "dataset.json", header),
        ("preprocessed", "dataset_fingerprint.json", fingerprint),
    ):
        path = folder / parent / name / file
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))


def plan(planner: str, dataset: str, gb: float) -> dict:
    """The full-resolution plan of one of nnU-Net's planners, with the cost of one window."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
        ResEncUNetPlanner,
    )

    of_name = {"ExperimentPlanner": ExperimentPlanner, "ResEncUNetPlanner": ResEncUNetPlanner}
    with torch.device("meta"):  # the planner builds networks to count their values, not to run them
        planned = of_name[planner](dataset, gpu_memory_target_in_gb=gb)
        chosen = planned.plan_experiment()["configurations"]["3d_fullres"]
        channels, classes = (len(planned.dataset_json[name]) for name in ("channel_names", "labels"))
        cost = cost_of_window(chosen["architecture"], channels, classes, chosen["patch_size"])
    return {
        "planner": planner,
        "memory_gb": gb,
        "spacing": list(chosen["spacing"]),
        "median_shape": [int(size) for size in chosen["median_image_size_in_voxels"]],
        "patch": [int(edge) for edge in chosen["patch_size"]],
        "batch": int(chosen["batch_size"]),
        **cost,
    }


def cost_of_window(architecture: dict, channels: int, classes: int, patch: list[int]) -> dict:
    """The parameters, and the multiply-accumulates of all convolutions in one forward pass without deep supervision."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    name, kwargs = architecture["network_class_name"], architecture["arch_kwargs"]
    needs_import = architecture["_kw_requires_import"]
    network = get_network_from_plans(name, kwargs, needs_import, channels, classes, False, deep_supervision=False)
    total = 0

    def count(layer, _, output):
        nonlocal total
        taps = 1 if isinstance(layer, torch.nn.ConvTranspose3d) else prod(layer.kernel_size)
        total += output.numel() * layer.in_channels * taps

    for part in network.modules():
        if isinstance(part, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
            part.register_forward_hook(count)
    network(torch.zeros(1, channels, *patch))
    return {"macs": total, "parameters": sum(weight.numel() for weight in network.parameters())}


if __name__ == "__main__":
    sys.exit(main())
