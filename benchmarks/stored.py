"""Shared by the benchmarks: prediction and scoring of stored cases on their own grids, and work in a fresh process.

Nothing here needs the raw data, surface-distance or SimpleITK. A root that was copied to another machine is enough.
"""

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from plans.errors import UserError
from plans.layout import ALL, PreprocessedFolder
from plans.plan import Plan
from textdiffseg.data.splits import Split, read_splits
from textdiffseg.data.store import list_cases, open_case
from textdiffseg.evaluation.metrics import CaseScores, score_case
from textdiffseg.evaluation.summary import summarise
from textdiffseg.inference.predictor import Predictor
from textdiffseg.preprocessing.case import TransformRecord
from textdiffseg.queries import Queries
from textdiffseg.resources import choose_device, cores
from textdiffseg.text.bank import TextBank
from textdiffseg.text.case_texts import read_case_texts
from textdiffseg.text.stored import stored_case_texts
from textdiffseg.validation.cases import evenly_spaced
from textdiffseg_cli.common import positive_float, positive_int

OPTIONAL = {"surface_distance": "NSD and HD95 of the validation cases", "SimpleITK": "the predicted masks as files"}
Result = TypeVar("Result")


def shared_data() -> Path:
    """The folder of real data sets, found as in the tests."""
    return Path(os.environ.get("TDS_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def left_out() -> list[str]:
    """One sentence for each figure that this machine cannot measure."""
    return [
        f"{what}: {package} is not installed"
        for package, what in OPTIONAL.items()
        if importlib.util.find_spec(package) is None
    ]


def machine(device: str) -> dict:
    """The machine and library versions of a measurement, for the report."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    used = {"cores": cores(), "threads": torch.get_num_threads()}
    return {"device": device, "gpu": gpu} | used | {"torch": torch.__version__, "os": platform.system()}


def fold_parser(doc: str, cases: int | None = None) -> argparse.ArgumentParser:
    """A parser with the options of a benchmark that trains and scores a fold.

    `cases` is the default of --cases; None: all cases.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=shared_data() / "Dataset004_Hippocampus", help="the raw data set")
    parser.add_argument("--fold", default="0")
    parser.add_argument(
        "--cases", type=positive_int, default=cases, metavar="N", help=f"scans to score (default: {cases or 'all'})"
    )
    parser.add_argument("--root", type=Path, help="keep everything here (default: a temporary folder)")
    add_device(parser)
    return parser


def add_length(parser: argparse.ArgumentParser, minutes: float) -> None:
    """Add --minutes with this default, and --epochs."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--minutes", type=positive_float, default=minutes, help="of training, for each model and seed")
    group.add_argument("--epochs", type=positive_int, metavar="N", help="of training, in place of minutes")


def length(args: argparse.Namespace) -> dict[str, Any]:
    """The length of a training: {"minutes": M}, or {"epochs": N} if --epochs was given."""
    epochs: int | None = getattr(args, "epochs", None)
    return {"minutes": args.minutes} if epochs is None else {"epochs": epochs}


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option --device."""
    default = choose_device(None)
    parser.add_argument(
        "--device", type=_device, choices=("cpu", "cuda"), default=default, help=f"default here: {default}"
    )


def _device(name: str) -> str:
    try:
        return choose_device(name)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_preprocessed(parser: argparse.ArgumentParser) -> None:
    """Add the option --preprocessed."""
    parser.add_argument("--preprocessed", type=Path, help="folder of the stored cases (default: below the same root)")


def preprocessed_beside(fold: Path, dataset: str) -> Path:
    """The folder of the stored cases under the same root as a fold at results/DATASET/RUN/fold_N."""
    return fold.resolve().parents[3] / "preprocessed" / dataset


def prepare(
    data: Path, root: Path, preset: str, device: str, planning: Sequence[str] = (), joined: str | None = None
) -> Path:
    """The folder of plan and stored cases under the root. If the plan is missing, the raw data is preprocessed first.

    `planning` holds more arguments of tds_plan_and_preprocess. `joined` names data sets that are trained together, e.g.
    `4+101`. Then `data` only has their common name.
    """
    folder = root / "preprocessed" / data.name
    if PreprocessedFolder(folder).plan(preset).is_file():
        return folder
    if importlib.util.find_spec("SimpleITK") is None:
        raise UserError(
            f"{PreprocessedFolder(folder).plan(preset)} does not exist and SimpleITK, which reads raw data, is not "
            "installed: plan and preprocess elsewhere and copy the root here."
        )
    from textdiffseg_cli import plan_and_preprocess

    budget = ["--memory-gb", "8"] if device == "cuda" else []
    with contextlib.redirect_stdout(sys.stderr):
        code = plan_and_preprocess.main(
            [joined or str(data), "--root", str(root), "--preset", preset, *budget, *planning]
        )
    if code:
        raise SystemExit(code)
    return folder


def read_split(preprocessed: Path, fold: str) -> Split:
    """The cases of a fold."""
    return read_splits(preprocessed / "splits.json", list_cases(preprocessed)).split(fold)


def held_out(preprocessed: Path, fold: str, most: int | None = None) -> list[str]:
    """At most `most` of the fold's validation cases, evenly spread; None: all. Raises `UserError` for fold all."""
    if fold == ALL:
        raise UserError("Fold all trains on every case, which leaves none to score: expected a fold with a number.")
    cases = sorted(read_split(preprocessed, fold).validation)
    return cases if most is None else evenly_spaced(cases, most)


def in_own_process(work: Callable[..., Result], *arguments: object) -> Result:
    """The result of `work(*arguments)` in a fresh process, which has its own peak memory. It prints to stderr."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_quietly, work, *arguments).result()


def _quietly(work: Callable[..., Result], *arguments: object) -> Result:
    with contextlib.redirect_stdout(sys.stderr):
        return work(*arguments)


@dataclass(frozen=True)
class Scan:
    """A preprocessed scan with its reference."""

    name: str
    image: Tensor  # (C, D, H, W) float32 on the plan's grid
    transform: TransformRecord  # to restore the scan's own grid
    truth: np.ndarray  # value numbers (`Plan.value_numbers`), (D, H, W) on the scan's own grid
    text: Tensor | None = None  # (L, d_t) tokens of the case's text, if the model reads it
    annotated: tuple[int, ...] | None = None  # the labels to score; None: all


def stored_scans(preprocessed: Path, cases: Iterable[str], plan: Plan, bank: TextBank) -> Iterator[Scan]:
    """Stored cases one by one, with their texts if the plan's model reads them."""
    cases = list(cases)
    texts = (
        read_case_texts(stored_case_texts(PreprocessedFolder(preprocessed), plan), bank, cases)
        if plan.reads_texts
        else {}
    )
    for case in cases:
        stored = open_case(preprocessed, case)
        image = torch.from_numpy(stored.image[...].astype(np.float32))
        record = stored.record
        yield Scan(case, image, record.transform, stored.original_labels(), texts.get(case), record.annotated)


def written_values(plan: Plan, queries: Queries) -> tuple[int, ...]:
    """The value that each slot of the queries of one sample has in maps on disk."""
    return tuple(plan.written_numbers[number - 1] for number in queries.labels[0].tolist())


def predict(predictor: Predictor, scan: Scan, queries: Queries, answers: int | None = None) -> np.ndarray:
    """The predicted map (D, H, W) of value numbers on the scan's own grid; 0 is background.

    A label writes its label number unless labels overlap (`Plan.written_numbers`). With `answers`, slots after the
    first `answers` write 0.
    """
    plan, queries = predictor.plan, queries.with_tokens([scan.text])
    probabilities = predictor.predict_image(scan.image, queries).probabilities.numpy()
    restoring = predictor.readout.restoring(scan.transform)
    restoring.add(predictor.readout.classes_to_compare(probabilities))
    slots = restoring.finish()
    numbers = [0, *written_values(plan, queries)]
    return np.array([number * (answers is None or slot <= answers) for slot, number in enumerate(numbers)])[slots]


def score(plan: Plan, scan: Scan, labels: np.ndarray) -> CaseScores:
    """Dice of every label that is annotated in the scan. `labels` is a map from `predict`."""
    numbers = range(1, 1 + len(plan.labels)) if scan.annotated is None else scan.annotated
    names = {plan.value_numbers[number - 1]: plan.labels[number - 1].name for number in numbers}
    return score_case(labels, scan.truth, scan.transform.geometry.spacing, names, case=scan.name, surfaces=False)


def dice(predictor: Predictor, scans: Iterable[Scan], queries: Queries, answers: int | None = None) -> dict[str, float]:
    """The mean Dice over the scans of each answered label, by name. Labels without a defined Dice are left out."""
    names = [predictor.plan.labels[number - 1].name for number in queries.labels[0, :answers].tolist()]
    summary = summarise([score(predictor.plan, scan, predict(predictor, scan, queries, answers)) for scan in scans])
    scores = {name: summary.labels[name].dice for name in names if name in summary.labels}
    return {name: value for name, value in scores.items() if value is not None}


def dice_by_case(predictor: Predictor, scans: Iterable[Scan], queries: Queries) -> dict[str, dict[str, float]]:
    """Dice of each label in each scan. A label that is not annotated, or absent from both masks, is left out."""
    scored = {scan.name: score(predictor.plan, scan, predict(predictor, scan, queries)) for scan in scans}
    return {
        case: {name: label_scores.dice for name, label_scores in scores.labels.items() if label_scores.dice is not None}
        for case, scores in scored.items()
    }


def mean(values: Iterable[float]) -> float | None:
    """The mean; None without values."""
    values = list(values)
    return float(np.mean(values)) if values else None
