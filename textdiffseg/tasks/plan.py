"""From a raw data set to a plan, words, folds and stored cases. Run again, it redoes only what changed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plans.budget import Budget, cpu_budget, gpu_budget
from plans.dataset import Dataset
from plans.errors import UserError
from plans.fingerprint import Fingerprint
from plans.layout import PreprocessedFolder, WordFiles, tree
from plans.paper import ENCODER, VARIANTS
from plans.plan import Plan, TextPlan
from plans.planner import make_plan, refuse_empty_labels, refuse_single_slices
from plans.presets import Preset
from plans.prompts import Prompts
from textdiffseg.data.splits import Splits
from textdiffseg.execution import background_executor, warm_up
from textdiffseg.files import write_record
from textdiffseg.folds.lock import planning_alone
from textdiffseg.progress import Cancel, Cancelled, OnProgress, ProgressEvent, Report, never, silent
from textdiffseg.resources import cores, default_workers
from textdiffseg.tasks.datasets import joined, read_datasets, splits_of
from textdiffseg.text.folder import BUNDLED, width_of

MAX_USUAL_GPU_GB = 8.0  # what a plan may take of a GPU unless the user says otherwise
Item = TypeVar("Item")


@dataclass(frozen=True)
class PlannedDataset:
    """A data set that is planned and preprocessed, ready to be trained on."""

    root: Path
    folder: PreprocessedFolder
    plan: Plan
    splits: Splits
    stored: int  # cases stored anew; the others were unchanged
    notes: tuple[str, ...]  # sentences for the user


@dataclass(frozen=True)
class Workforce:
    """Who works on the cases, and who is told of it."""

    workers: int | None  # processes; 0: this one; None: from cores and memory
    scheduler: str | None  # address of a Dask scheduler instead
    progress: OnProgress
    cancel: Cancel

    def count(self, bytes_per_case: float) -> int:
        """Processes for cases of this size."""
        return default_workers(bytes_per_case) if self.workers is None else self.workers

    def follow(self, stage: str, cases: int) -> Callable[[Iterable[Item]], Iterator[Item]]:
        """A wrapper of results as they come, which reports each."""

        def follow(results: Iterable[Item]) -> Iterator[Item]:
            self.progress(ProgressEvent(stage, 0, cases, "case"))
            for done, result in enumerate(results, start=1):
                self.progress(ProgressEvent(stage, done, cases, "case"))
                yield result
                if self.cancel():
                    raise Cancelled(f"{stage}: stopped after {done} of {cases} cases")

        return follow


def plan(
    dataset: str | Path,
    *,
    root: str | Path = ".",
    preset: Preset = "default",
    gpu_gb: float | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    text_encoder: str | None = None,
    report: Report = silent,
    progress: OnProgress = silent,
    cancel: Cancel = never,
) -> PlannedDataset:
    """Check a data set, fingerprint it, plan the network, and store every case preprocessed.

    Args:
        dataset: id (4), name (Hippocampus), folder name below root/raw, or a path; several joined by `+` are one.
        gpu_gb: memory of the GPU to plan for; None: 8 GB where there is a GPU, else a plan for this CPU.
        workers: processes; 0: this one; None: from the cores and the free memory.
        scheduler: address of a Dask scheduler to work on instead.
        text_encoder: hub name or local folder of a BERT-like model; None: the preset's.

    Raises `UserError` with all faults of the data set at once, and while a fold of it is in training.
    """
    root, force = Path(root), Workforce(workers, scheduler, progress, cancel)
    if workers != 0 and scheduler is None:
        warm_up("textdiffseg.data.preparing", "textdiffseg.imaging.sources.nifti")  # while this process reads the rest
    parts = read_datasets(str(dataset), root)
    joint, prompts = joined(parts, root, report)
    folder = PreprocessedFolder(tree(root, "preprocessed") / joint.name)
    report(f"{joint.name}: {len(joint.cases)} training cases, {len(joint.labels)} labels.")
    # the text encoder loads while the cases are worked on
    with planning_alone(folder, root), background_executor(workers) as beside:
        gpu = beside.submit(_gpu_gb)
        words = _encode_words(beside, joint, prompts, encoders_of(text_encoder, preset), folder, preset)
        splits = splits_of(joint, parts, folder)
        fingerprint = _fingerprint(joint, folder, force)
        text = text_plan(words.encoders, words.bank, preset, words.of_cases)
        made = _decide(joint, prompts, fingerprint, budget_of(gpu_gb, gpu.result()), preset, text)
        stored = _store(joint, made, fingerprint, folder, force)
        words.bank.result()
        said = words.texts.result()
        write_record(folder.splits, splits)
        write_record(folder.plan(preset), made)
    return PlannedDataset(root, folder, made, splits, stored, (*fingerprint.notes(), *_notes(made, splits, said)))


@dataclass(frozen=True)
class _Words:
    """The words of a data set, being encoded beside other work."""

    encoders: tuple[str, ...]
    bank: Future[tuple[str, int]]  # the encoder, and the width of its vectors
    texts: Future[tuple[str, ...]]  # sentences on the cases' texts
    of_cases: bool  # some case has a text


def _encode_words(
    beside: Executor,
    dataset: Dataset,
    prompts: Prompts,
    encoders: tuple[str, ...],
    folder: PreprocessedFolder,
    preset: Preset,
) -> _Words:
    names = tuple(label.name for label in dataset.labels)
    texts = {case.id: case.text for case in dataset.cases if case.text}
    bank = beside.submit(write_words, names, prompts, encoders, folder.words(preset))
    said = beside.submit(_write_case_texts, texts, folder.words(preset), folder.case_texts(preset))
    return _Words(encoders, bank, said, bool(texts))  # one after the other: the bank is there when texts are encoded


def _fingerprint(dataset: Dataset, folder: PreprocessedFolder, force: Workforce) -> Fingerprint:
    from textdiffseg.preprocessing import fingerprinting

    found = fingerprinting.fingerprint_dataset(
        dataset,
        force.count(fingerprinting.bytes_per_case(dataset)),
        folder,
        force.scheduler,
        force.follow("Fingerprint", len(dataset.cases)),
    )
    refuse_single_slices(found)
    refuse_empty_labels(found)
    return found


def _decide(
    dataset: Dataset, prompts: Prompts, fingerprint: Fingerprint, budget: Budget, preset: Preset, text: TextPlan
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
    )


def _store(dataset: Dataset, made: Plan, fingerprint: Fingerprint, folder: PreprocessedFolder, force: Workforce) -> int:
    from textdiffseg.data import preparing

    return preparing.preprocess_dataset(
        dataset,
        made,
        folder.path,
        force.count(preparing.bytes_per_case(fingerprint, made)),
        force.scheduler,
        force.follow("Preprocess", len(dataset.cases)),
    )


def encoders_of(wanted: str | None, preset: Preset) -> tuple[str, ...]:
    """The text encoder and, where the user has not named it, what may stand in for it."""
    if wanted is not None:
        return (wanted,)
    return (ENCODER, BUNDLED) if preset in VARIANTS else (BUNDLED,)


def text_plan(
    encoders: Sequence[str], bank: Future[tuple[str, int]], preset: Preset, of_cases: bool = False
) -> TextPlan:
    """The encoder and the length of its vectors, from its folder if that says it, else from the finished bank."""
    encoder, width = encoders[0], None
    if len(encoders) == 1 and not bank.done():
        width = width_of(encoder)
    if width is None:
        encoder, width = bank.result()
    wanted = ENCODER if preset in VARIANTS and encoder == BUNDLED else None
    return TextPlan(encoder=encoder, width=width, stands_in_for=wanted, of_cases=of_cases)


def write_words(names: tuple[str, ...], prompts: Prompts, encoders: Sequence[str], files: WordFiles) -> tuple[str, int]:
    """Write text bank and text space, unless those of the same words are there.

    Returns the encoder and the vectors' width.
    """
    from textdiffseg.text.bank import TextBank, build_bank
    from textdiffseg.text.encoder import TextEncoder

    wanted = (encoders[0], prompts.scan, {name: prompts.labels[name] for name in names})
    with suppress(UserError):  # missing, of another version or damaged: it is made anew
        bank = TextBank.load(files)
        if (bank.space.encoder, bank.words.scan, bank.phrasings) == wanted:
            return bank.space.encoder, bank.width
    try:
        encoder = TextEncoder(encoders[0])
    except UserError:
        if len(encoders) == 1:
            raise
        encoder = TextEncoder(encoders[1])
    bank = build_bank(prompts, names, encoder)
    bank.save(files)
    return encoder.name, bank.width


def _write_case_texts(texts: dict[str, str], words: WordFiles, path: Path) -> tuple[str, ...]:
    """Bring the cases' texts up to date, in vectors of the bank's encoder; returns what there is to say."""
    from textdiffseg.text.bank import TextBank
    from textdiffseg.text.case_texts import update_case_texts

    return update_case_texts(path, texts, TextBank.load(words).space.encoder)


def _gpu_gb() -> float | None:
    """Memory of the GPU that is there, if one is."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def budget_of(wanted_gb: float | None, gpu_gb: float | None) -> Budget:
    """What the plan is made for: a GPU of the given size, the one found (8 GB of it at most), or this CPU."""
    if wanted_gb is not None:
        return gpu_budget(wanted_gb)
    return cpu_budget(cores()) if gpu_gb is None else gpu_budget(min(MAX_USUAL_GPU_GB, 0.9 * gpu_gb))


def _notes(made: Plan, splits: Splits, said: tuple[str, ...]) -> Iterator[str]:
    """What the user has to know, in sentences."""
    if made.text.of_cases and not made.reads_texts:
        yield f"Preset {made.preset} reads no words: the texts of cases stay unread."
    else:
        yield from said
    if made.device == "cpu":
        yield "Planned for training on this CPU: torch finds no GPU here. For one elsewhere: --memory-gb 8."
    if made.known_together:
        yield (
            "No case tells of all labels: where scans cannot hold one that they are not annotated "
            'with, name it under "absent" in dataset.json, or it may be found there.'
        )
    yield from filter(None, (splits.note, made.low_resolution and made.low_resolution.note, made.text.note))
