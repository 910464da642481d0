"""Plan and preprocess a raw data set: plan, text bank, folds and stored cases. A second run redoes only changes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

from plans.choices import PRESETS, Preset
from plans.fingerprint import Fingerprint
from plans.layout import PreprocessedFolder, tree
from plans.plan import Plan, TextPlan
from plans.planning.budget import Budget, cpu_budget, gpu_budget
from plans.planning.planner import make_low_plan, make_plan, refuse_empty_labels, refuse_overlap, refuse_single_slices
from plans.planning.spacing import WantedSpacing, checked_spacing
from plans.raw.dataset import Dataset
from plans.raw.folders import find_datasets
from plans.raw.prompts import Prompts
from textdiffseg.arguments import check_choice, path_of, positive, whole
from textdiffseg.data.splits import Splits
from textdiffseg.execution import background_executor, warm_up
from textdiffseg.files import write_record
from textdiffseg.folds.lock import planning_alone
from textdiffseg.leftovers import sweep
from textdiffseg.progress import Cancel, OnProgress, Report, followed, never, silent
from textdiffseg.resources import cores, default_workers
from textdiffseg.tasks.datasets import joined, read_datasets, splits_of
from textdiffseg.tasks.plan_notes import notes_of
from textdiffseg.tasks.words import encoders_of, text_plan, write_case_texts, write_words

MAX_USUAL_GPU_GB = 8.0  # of a GPU, unless the user gives another limit
Item = TypeVar("Item")


@dataclass(frozen=True)
class PlannedDataset:
    """A planned and preprocessed data set."""

    root: Path
    folder: PreprocessedFolder
    plan: Plan
    splits: Splits
    stored: int  # the number of cases that were stored by this run; the others were unchanged
    notes: tuple[str, ...]  # sentences for the user
    low: Plan | None = None  # of the low resolution; None: not needed, or not wanted
    stored_low: int = 0  # the number of cases that were stored at low resolution by this run


@dataclass(frozen=True)
class Workforce:
    """The processes that work on the cases, and the callback for their progress."""

    workers: int | None  # processes; 0: this one; None: from cores and memory
    scheduler: str | None  # address of a Dask scheduler instead
    progress: OnProgress
    cancel: Cancel

    def count(self, bytes_per_case: float) -> int:
        """The number of processes for cases of this size."""
        return default_workers(bytes_per_case) if self.workers is None else self.workers

    def follow(self, stage: str, cases: int) -> Callable[[Iterable[Item]], Iterator[Item]]:
        """A wrapper for an iterator of results. It reports each result."""
        return partial(followed, stage=stage, total=cases, progress=self.progress, cancel=self.cancel)


def plan(
    dataset: str | Path,
    *,
    root: str | Path = ".",
    preset: Preset = "default",
    gpu_gb: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    text_encoder: str | None = None,
    spacing: Iterable[float] | str | None = None,
    low_resolution: bool = True,
    mirroring: bool = False,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> PlannedDataset:
    """The plan of a data set. The data set is checked, fingerprinted, planned and preprocessed.

    Args:
        dataset: id (4), name (Hippocampus), folder name below root/raw, or a path. Several joined by `+` are one.
        gpu_gb: memory of the GPU to plan for; None: 8 GB if there is a GPU, else a plan for this CPU.
        workers: the number of processes; 0: this process only; None: from the cores and the free memory.
        scheduler: the address of a Dask scheduler to use instead.
        text_encoder: hub name or local folder of a BERT-like model; None: the preset's.
        spacing: in mm (z, y, x); "full": nnU-Net's; None: nnU-Net's, or coarser for a CPU. All presets share it.
        low_resolution, mirroring: whether to plan the low resolution, too, if needed, and to mirror training samples.

    Raises `UserError` with all faults of the data set, and also while one of its folds is in training.
    """
    _begin(preset, workers, gpu_gb, scheduler)
    force, wanted = Workforce(workers, scheduler, progress, cancel), checked_spacing(spacing)
    dataset, root = _places(str(dataset), path_of(root), scheduler)
    datasets = read_datasets(dataset, root)
    joint, words = joined(datasets, root, report)
    folder = _swept(joint, datasets, root, preset, report)
    with planning_alone(folder, root), background_executor(workers) as pool:
        gpu, encoders = pool.submit(_gpu_gb), encoders_of(text_encoder, preset)
        bank = pool.submit(write_words, joint.label_names, words.prompts, encoders, folder, preset)  # beside the cases
        splits, fingerprint = splits_of(joint, datasets, folder, report), _fingerprint(joint, folder, force)
        words.write(root, report)  # the data set has no faults
        budget, text = budget_of(gpu_gb, gpu.result()), text_plan(encoders, bank, preset, bool(joint.texts))
        new_plan = _decide(joint, words.prompts, fingerprint, budget, preset, text, wanted, mirroring)
        low = make_low_plan(new_plan, fingerprint, budget) if low_resolution else None
        stored = _store(joint, new_plan, fingerprint, folder, force)
        stored_low = _store_low(joint, low, fingerprint, folder.low(preset), force)
        text_notes = _write_texts(joint, bank, folder, preset, pool)
        write_record(folder.splits, splits)
        write_record(folder.plan(preset), new_plan)
    notes = notes_of(joint, fingerprint, new_plan, splits, text_notes, folder)
    return PlannedDataset(root, folder, new_plan, splits, stored, notes, low, stored_low)


def _places(dataset: str, root: Path, scheduler: str | None) -> tuple[str, Path]:
    """The data set and the root. Both are absolute for a scheduler, whose workers may have another current folder."""
    if scheduler is None:
        return dataset, root
    return "+".join(str(path.absolute()) for path in find_datasets(dataset, root)), root.absolute()


def _begin(preset: str, workers: int | None, gpu_gb: float | None, scheduler: str | None) -> None:
    """Check arguments, and start the workers' imports while this process reads the data set."""
    check_choice("preset", preset, PRESETS)
    if workers is not None:
        whole("workers", workers)
    if gpu_gb is not None:
        positive("gpu_gb", gpu_gb)
    if workers != 0 and scheduler is None:
        warm_up("textdiffseg.data.preparing", "textdiffseg.imaging.sources.nifti")


def _swept(
    joint: Dataset, datasets: Sequence[Dataset], root: Path, preset: Preset, report: Report
) -> PreprocessedFolder:
    """The folder of the preprocessed data set, without files that killed processes left. Reports the data set."""
    refuse_overlap(joint.regions, preset, joint.name)
    folder = PreprocessedFolder(tree(root, "preprocessed") / joint.name)
    low = folder.low(preset)
    swept = (folder.path, folder.cases, folder.fingerprints, low.path, low.cases)
    sweep([*swept, *(dataset.folder for dataset in datasets)])
    report(f"{joint.name}: {len(joint.cases)} training cases, {len(joint.labels)} labels.")
    return folder


def _fingerprint(dataset: Dataset, folder: PreprocessedFolder, force: Workforce) -> Fingerprint:
    from textdiffseg.preprocessing import fingerprinting

    fingerprint = fingerprinting.fingerprint_dataset(
        dataset,
        force.count(fingerprinting.bytes_per_case(dataset)),
        folder,
        force.scheduler,
        force.follow("Fingerprint", len(dataset.cases)),
    )
    refuse_single_slices(fingerprint)
    refuse_empty_labels(fingerprint)
    return fingerprint


def _decide(
    dataset: Dataset,
    prompts: Prompts,
    fingerprint: Fingerprint,
    budget: Budget,
    preset: Preset,
    text: TextPlan,
    spacing: WantedSpacing,
    mirroring: bool,
) -> Plan:
    return make_plan(
        dataset.name,
        dataset.channels,
        dataset.labels,
        fingerprint,
        budget=budget,
        preset=preset,
        text=text,
        prompts=prompts,
        regions=dataset.regions,
        known_together=dataset.known_together,
        spacing=spacing,
        mirroring=mirroring,
        texts=[*dataset.texts.values()],
        optional=dataset.optional,
    )


def _store(dataset: Dataset, plan: Plan, fingerprint: Fingerprint, folder: PreprocessedFolder, force: Workforce) -> int:
    from textdiffseg.data import preparing

    preparing.refuse_too_large(fingerprint, plan, folder.path)
    return preparing.preprocess_dataset(
        dataset,
        plan,
        folder.path,
        force.count(preparing.bytes_per_case(fingerprint, plan)),
        force.scheduler,
        force.follow("Preprocess" if plan.resolution == "full" else "Preprocess (low)", len(dataset.cases)),
    )


def _store_low(
    dataset: Dataset, plan: Plan | None, fingerprint: Fingerprint, folder: PreprocessedFolder, force: Workforce
) -> int:
    """Store the low resolution: cases, then plan. Returns the number of cases that were stored now.

    Without a plan, an earlier folder is removed.
    """
    if plan is None:
        rmtree(folder.path, ignore_errors=True)
        return 0
    stored = _store(dataset, plan, fingerprint, folder, force)
    write_record(folder.plan(plan.preset), plan)
    return stored


def _write_texts(
    dataset: Dataset, bank: Future[tuple[str, int]], folder: PreprocessedFolder, preset: Preset, pool: Executor
) -> tuple[str, ...]:
    """Notes on the texts of cases, which are encoded as the phrasings of the `bank` were."""
    encoder, _ = bank.result()
    return pool.submit(write_case_texts, dataset.texts, encoder, folder.case_texts(preset, encoder)).result()


def _gpu_gb() -> float | None:
    """The memory of the GPU in GB; None if there is no GPU."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def budget_of(wanted_gb: float | None, gpu_gb: float | None) -> Budget:
    """The budget of a plan: of a GPU of `wanted_gb`, else of this machine's GPU (at most 8 GB), else of this CPU."""
    if wanted_gb is not None:
        return gpu_budget(wanted_gb)
    return cpu_budget(cores()) if gpu_gb is None else gpu_budget(min(MAX_USUAL_GPU_GB, 0.9 * gpu_gb))
