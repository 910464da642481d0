"""TextDiffSeg segments 3D medical images by text-guided latent diffusion.

    import textdiffseg as tds

    model = tds.load("results/Dataset004_Hippocampus/default")
    result = model.segment("scan.nii.gz", prompts=["anterior hippocampus"])
    result.write("out")

Heavy libraries are imported when a name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from plans.errors import UserError

if TYPE_CHECKING:
    from plans.raw.case_list import CaseList
    from textdiffseg.imaging.volume import Geometry
    from textdiffseg.inference.model import Model
    from textdiffseg.inference.result import Result
    from textdiffseg.inference.segmenting import SegmentOptions
    from textdiffseg.phantoms import write_phantoms
    from textdiffseg.progress import Cancelled, ProgressEvent
    from textdiffseg.tasks.evaluate import evaluate
    from textdiffseg.tasks.finalize import JoinedFolds, finalize
    from textdiffseg.tasks.find_best import ModelChoice, find_best
    from textdiffseg.tasks.info import ModelInfo, describe
    from textdiffseg.tasks.new import NewDataset, new_dataset
    from textdiffseg.tasks.outcome import Outcome
    from textdiffseg.tasks.packaging import export_model, import_model
    from textdiffseg.tasks.plan import PlannedDataset, plan
    from textdiffseg.tasks.predict import predict
    from textdiffseg.tasks.report import write_report
    from textdiffseg.tasks.run import RunOutcome, run
    from textdiffseg.tasks.status import DatasetStatus, status
    from textdiffseg.tasks.train import train
    from textdiffseg.tasks.validate import TrainedFold
    from textdiffseg.training.options import TrainingOptions

    load = Model.load

__version__ = "0.3.0.dev0"  # setup.cfg and `--version` read it here

_HOMES = {
    "Cancelled": "textdiffseg.progress",
    "CaseList": "plans.raw.case_list",
    "DatasetStatus": "textdiffseg.tasks.status",
    "Geometry": "textdiffseg.imaging.volume",
    "JoinedFolds": "textdiffseg.tasks.finalize",
    "Model": "textdiffseg.inference.model",
    "ModelChoice": "textdiffseg.tasks.find_best",
    "ModelInfo": "textdiffseg.tasks.info",
    "NewDataset": "textdiffseg.tasks.new",
    "Outcome": "textdiffseg.tasks.outcome",
    "PlannedDataset": "textdiffseg.tasks.plan",
    "ProgressEvent": "textdiffseg.progress",
    "Result": "textdiffseg.inference.result",
    "RunOutcome": "textdiffseg.tasks.run",
    "SegmentOptions": "textdiffseg.inference.segmenting",
    "TrainedFold": "textdiffseg.tasks.validate",
    "TrainingOptions": "textdiffseg.training.options",
    "describe": "textdiffseg.tasks.info",
    "evaluate": "textdiffseg.tasks.evaluate",
    "export_model": "textdiffseg.tasks.packaging",
    "finalize": "textdiffseg.tasks.finalize",
    "find_best": "textdiffseg.tasks.find_best",
    "import_model": "textdiffseg.tasks.packaging",
    "new_dataset": "textdiffseg.tasks.new",
    "plan": "textdiffseg.tasks.plan",
    "predict": "textdiffseg.tasks.predict",
    "run": "textdiffseg.tasks.run",
    "status": "textdiffseg.tasks.status",
    "train": "textdiffseg.tasks.train",
    "write_phantoms": "textdiffseg.phantoms",
    "write_report": "textdiffseg.tasks.report",
}
__all__ = [
    "Cancelled",
    "CaseList",
    "DatasetStatus",
    "Geometry",
    "JoinedFolds",
    "Model",
    "ModelChoice",
    "ModelInfo",
    "NewDataset",
    "Outcome",
    "PlannedDataset",
    "ProgressEvent",
    "Result",
    "RunOutcome",
    "SegmentOptions",
    "TrainedFold",
    "TrainingOptions",
    "UserError",
    "__version__",
    "describe",
    "evaluate",
    "export_model",
    "finalize",
    "find_best",
    "import_model",
    "load",
    "new_dataset",
    "plan",
    "predict",
    "run",
    "status",
    "train",
    "write_phantoms",
    "write_report",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name == "load":
        value = import_module("textdiffseg.inference.model").Model.load
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'textdiffseg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
