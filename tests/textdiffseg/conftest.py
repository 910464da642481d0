"""A tiny model with random weights, two folds of it on disk, and scans to predict."""

import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from plans.layout import FoldFolder
from plans.plan import Plan
from plans.raw.prompts import Prompts
from textdiffseg.files import write_record
from textdiffseg.folds.state import note_validated
from textdiffseg.imaging.volume import Geometry
from textdiffseg.networks import label_decoder
from textdiffseg.networks.model import TextDiffSeg, build_model
from textdiffseg.text.bank import TextBank, build_bank
from textdiffseg.text.encoder import PhraseVectors

TEXT_WIDTH = 384  # of the bundled encoder, so that forced prompts fit


class FakeEncoder:
    """Random vectors, a function of the phrase; spares the tests the real encoder."""

    name = "bundled"
    width = TEXT_WIDTH

    def encode(self, phrases, longest=None):
        vectors = []
        for phrase in phrases:
            rng = np.random.default_rng(list(phrase.encode()))
            draw = torch.from_numpy(rng.normal(size=(4, TEXT_WIDTH)).astype(np.float32))
            vectors.append(PhraseVectors(draw[:3], draw[3]))
        return vectors


def tiny_plan(preset: str = "default", **changes) -> Plan:
    """One channel, labels of values 7 and 3, latent stride (1, 2, 2)."""
    fields = {
        "preset": preset,
        "dataset": "Dataset900_Tiny",
        "device": "cpu",
        "channels": [{"name": "MRI", "scheme": "zscore"}],
        "labels": [{"name": "Front_Part", "value": 7}, {"name": "back", "value": 3}],
        "spacing": (1, 1, 1),
        "median_shape": (12, 20, 20),
        "patch": (8, 16, 16),
        "batch": 2,
        "stages": [
            {"stride": (1, 1, 1), "kernel": (1, 3, 3), "width": 8, "blocks": 1},
            {"stride": (1, 2, 2), "kernel": (3, 3, 3), "width": 8, "blocks": 1},
            {"stride": (2, 2, 2), "kernel": (3, 3, 3), "width": 8, "blocks": 1, "attention": True},
        ],
        "fusion_level": 2,
        "latent": {"level": 1, "channels": 4},
        "diffusion": {"min_log_snr": -3, "steps": 3} if preset == "default" else None,
        "text": {"encoder": "bundled", "width": TEXT_WIDTH},
        "training": {
            "epochs": 1,
            "iterations_per_epoch": 1,
            "learning_rate": 1e-3,
            "weight_decay": 0,
            "warmup": 0.1,
            "ema": 0.9,
            "foreground_share": 0.33,
            "augmentation": "strong",
        },
        "mirror_axes": (0, 2),
        "memory": {"budget_gb": 1, "training_gb": 1, "prediction_gb": 1, "ram_gb": 1, "disk_gb": 1},
    }
    return Plan.model_validate(fields | changes)


def plan_with_factors(**changes) -> Plan:
    """The tiny plan with the samples of new plans: three common factors, and no learned decoder."""
    diffusion = {"min_log_snr": -3, "steps": 3, "decoder": "likelihood", "n_factors": 3}
    return tiny_plan(diffusion=diffusion, **changes)


class UndecidedClassifier(label_decoder.TextClassifier):
    """A classifier that does not take nearly every voxel for background."""

    def __init__(self, width: int, text_width: int):
        super().__init__(width, text_width)
        self.head.weight.data /= label_decoder.LABEL_SCALE
        self.background.data[:-1].normal_()


def random_model(plan: Plan, seed: int = 0) -> TextDiffSeg:
    """Weights far enough from their start that noise, words and image all matter."""
    torch.manual_seed(seed)
    with mock.patch.object(label_decoder, "TextClassifier", UndecidedClassifier):
        model = build_model(plan).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        if plan.diffusion:
            model.spread.fill_(1.5)
    return model


def save_fold(folder, plan: Plan, bank: TextBank, seed: int, checkpoints=("best", "latest")) -> None:
    """A trained fold as training leaves it."""
    folder.mkdir(parents=True)
    write_record(folder / "plan.json", plan)
    bank.save(FoldFolder(folder).words)
    weights = {f"ema.{name}": value.contiguous() for name, value in random_model(plan, seed).state_dict().items()}
    for which in checkpoints:
        save_file(weights, folder / f"checkpoint_{which}.safetensors")


def validated_fold(folder, **found: float) -> None:
    """Mark a fold as validated. `found`: by label the share of cases in which it was found; without any: not known."""
    fold = FoldFolder(folder)
    fold.summary.parent.mkdir(exist_ok=True)
    fold.summary.write_text("{}")
    note_validated(fold, found or None)


@pytest.fixture(scope="session")
def mark_validated():
    """`validated_fold`, for tests that cannot import this file."""
    return validated_fold


@pytest.fixture(scope="session")
def plan() -> Plan:
    return tiny_plan()


@pytest.fixture(scope="session")
def bank() -> TextBank:
    prompts = Prompts(
        scan="MRI of a test", labels={"Front_Part": ("front part", "anterior end"), "back": ("back", "posterior end")}
    )
    return build_bank(prompts, ("Front_Part", "back"), FakeEncoder())


@pytest.fixture(scope="session")
def image() -> torch.Tensor:
    """Three windows along the first axis, two along the others; no axis is a multiple of the stride."""
    return torch.randn(1, 13, 22, 18, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="session")
def two_folds(tmp_path_factory, plan, bank):
    """The folder of a trained model of two folds, to be copied."""
    model = tmp_path_factory.mktemp("model")
    for fold in (0, 1):
        save_fold(model / f"fold_{fold}", plan, bank, fold)
    return model


@pytest.fixture
def root(tmp_path, plan, two_folds):
    """A root with one trained model of two folds."""
    shutil.copytree(two_folds, tmp_path / "results" / plan.dataset / "default")
    return tmp_path


def geometry(shape) -> Geometry:
    """An oblique grid, 2 mm slices, axes not in canonical order."""
    angle = 0.1
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, -1.0], [0, 1.0, 0], [2.0, 0, 0]])  # columns d, h, w in world x, y, z
    affine[:3, 3] = (3.0, -20.0, 55.5)
    return Geometry(tuple(shape), affine)


def write_scan(path, shape=(9, 20, 17), seed=0) -> None:
    from textdiffseg.imaging.writers.files import write_volume

    array = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    write_volume(path, array, geometry(shape))


@pytest.fixture(scope="session")
def make_plan():
    return tiny_plan


@pytest.fixture(scope="session")
def make_plan_with_factors():
    return plan_with_factors


@pytest.fixture(scope="session")
def make_model():
    return random_model


@pytest.fixture(scope="session")
def make_fold():
    return save_fold


@pytest.fixture(scope="session")
def make_scan():
    return write_scan


@pytest.fixture(scope="session")
def make_geometry():
    return geometry


def write_series(folder, array, spacing=(2.5, 0.7, 1.1), row=(1, 0, 0), column=(0, 1, 0), step=1, shift=0.0, **fields):
    """A CT series of array (slices, rows, columns). `step` -1: from head to feet; `shift`: mm per slice along rows.

    `fields` replaces attributes; None removes one.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    row, column = np.array(row, dtype=float), np.array(column, dtype=float)
    study, series, frame = (generate_uid() for _ in range(3))
    for number, plane in enumerate(array):
        one = Dataset()
        one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, generate_uid()
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = "Doe^Jane", "P-4711", "19500203", "F"
        one.StudyDate, one.StudyTime, one.StudyID, one.AccessionNumber = "20200304", "121314", "S5", "ACC99"
        one.ReferringPhysicianName, one.StudyDescription, one.Modality = "House^Greg", "Abdomen", "CT"
        one.SeriesNumber, one.InstanceNumber = 3, number + 1
        place = np.cross(row, column) * spacing[0] * number * step + column * shift * number + (-10, 20, 30)
        one.ImagePositionPatient = [f"{value:.6f}" for value in place]
        one.ImageOrientationPatient = [f"{value:.9f}" for value in (*row, *column)]
        one.PixelSpacing, one.SliceThickness = [*spacing[1:]], spacing[0]
        (one.Rows, one.Columns), one.SamplesPerPixel, one.PhotometricInterpretation = plane.shape, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, 0
        one.PixelData = plane.astype("<i2").tobytes()
        for name, value in fields.items():
            setattr(one, name, value) if value is not None else delattr(one, name)
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
            one.SOPClassUID,
            one.SOPInstanceUID,
        )
        one.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="session")
def make_series():
    pytest.importorskip("pydicom")
    return write_series


@pytest.fixture
def threads(monkeypatch):
    """Reading, segmenting and writing run beside each other, as on a GPU."""
    from textdiffseg.ahead import ahead
    from textdiffseg.inference import scan
    from textdiffseg.tasks import predict

    for module in (scan, predict):
        monkeypatch.setattr(module, "ahead", lambda items, _, *stop: ahead(items, True, *stop))
