"""`tds_plan_and_preprocess`: from a raw data set to a plan, a text bank, folds, and stored cases."""

import argparse
import shlex
from contextlib import suppress
from pathlib import Path

from plans.presets import PRESETS
from textdiffseg_cli.common import add_root, command, console, positive_float, run, whole_number
from textdiffseg_cli.datasets import combined, read_datasets, splits_of, words_of


def make_parser() -> argparse.ArgumentParser:
    """The command line of `tds_plan_and_preprocess`."""
    parser = command(
        "tds_plan_and_preprocess",
        "Check a data set, fingerprint it, plan the network, and preprocess every case. Run again, it goes on "
        "where it stopped and redoes only what changed.",
        """
        tds_plan_and_preprocess 4
        tds_plan_and_preprocess 4+101
        tds_plan_and_preprocess Hippocampus --root /data --workers 8
        tds_plan_and_preprocess /elsewhere/Dataset101_Sarcoma --preset unet --memory-gb 11
        tds_plan_and_preprocess 4 --preset paper --text-encoder /models/Bio_ClinicalBERT
        """,
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="id (4), name (Hippocampus), folder name below raw/, or a path; several joined by + are trained together",
    )
    add_root(parser)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="default",
        help="default: latent diffusion; unet: the same blocks without diffusion; paper: the publication, and its "
        "ablations; peer-*: MONAI's networks (docs/paper.md)",
    )
    parser.add_argument(
        "--memory-gb",
        type=positive_float,
        metavar="G",
        help="plan for a GPU with this much memory (default: 8 where there is a GPU, else a plan for the CPU)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="processes; 0 runs inline (default: from the cores and the free memory)",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="work on a Dask cluster instead, e.g. tcp://host:8786")
    parser.add_argument(
        "--text-encoder",
        metavar="NAME",
        help="hub name or local folder of a BERT-like model (default: bundled, which needs no network; for paper "
        "presets Bio_ClinicalBERT, in whose place the bundled one stands in where it cannot be had)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_plan_and_preprocess, make_parser().parse_args(argv))


def _plan_and_preprocess(args: argparse.Namespace) -> None:
    from textdiffseg.execution import default_workers, one_beside, warm_up

    if args.workers != 0 and args.scheduler is None:
        warm_up("textdiffseg.data.preparing", "textdiffseg.imaging.io")  # while this process reads the rest
    from plans.plan import bank_file, plan_file, texts_file
    from plans.planner import make_plan, refuse_empty_labels, refuse_single_slices

    parts = read_datasets(args.dataset, args.root)
    dataset, prompts = combined(parts, args.root) if len(parts) > 1 else (parts[0], words_of(parts[0], args.root))
    folder = args.root / "preprocessed" / dataset.name
    print(f"{dataset.name}: {len(dataset.cases)} training cases, {len(dataset.labels)} labels.")

    def workers(bytes_per_case: float) -> int:
        return default_workers(bytes_per_case) if args.workers is None else args.workers

    with one_beside(args.workers) as beside:  # the text encoder loads while the cases are worked on
        gpu = beside.submit(_gpu_gb)
        names = tuple(label.name for label in dataset.labels)
        encoders = _encoders(args.text_encoder, args.preset)
        bank_path, texts_path = folder / bank_file(args.preset), folder / texts_file(args.preset)
        bank = beside.submit(_text_bank, names, prompts, encoders, bank_path)
        texts = {case.id: case.text for case in dataset.cases if case.text}
        said = beside.submit(_case_texts, texts, bank_path, texts_path)  # one after the other: the bank is there
        from textdiffseg.data import preparing
        from textdiffseg.preprocessing import fingerprinting

        splits = splits_of(dataset, parts, folder)
        fingerprint = fingerprinting.fingerprint_dataset(
            dataset,
            workers(fingerprinting.bytes_per_case(dataset)),
            folder / "fingerprint.json",
            args.scheduler,
            _bar("Fingerprint", len(dataset.cases)),
        )
        refuse_single_slices(fingerprint)
        refuse_empty_labels(fingerprint)
        text = _text_plan(encoders, bank, args.preset, bool(texts))
        plan = make_plan(
            dataset.name,
            dataset.channels,
            dataset.labels,
            fingerprint,
            budget=_budget(args.memory_gb, gpu.result()),
            preset=args.preset,
            text=text,
            prompts=prompts,
            regions=dataset.regions,
            known_together=dataset.known_together,
        )
        made = preparing.preprocess_dataset(
            dataset,
            plan,
            folder,
            workers(preparing.bytes_per_case(fingerprint, plan)),
            args.scheduler,
            _bar("Preprocess", len(dataset.cases)),
        )
        bank.result()
        said = said.result()
    splits.write(folder / "splits.json")
    plan.write(folder / plan_file(plan.preset))
    _report(plan, splits, folder, made, len(dataset.cases), said)


def _bar(what: str, cases: int):
    """A progress bar around results as they come."""
    from tqdm import tqdm

    return lambda results: tqdm(results, what, cases, unit="case")


def _encoders(wanted: str | None, preset: str) -> tuple[str, ...]:
    """The text encoder and, where the user has not named it, what may stand in for it."""
    from plans.paper import ENCODER, VARIANTS
    from textdiffseg.text.folder import BUNDLED

    if wanted is not None:
        return (wanted,)
    return (ENCODER, BUNDLED) if preset in VARIANTS else (BUNDLED,)


def _text_plan(encoders: tuple[str, ...], bank, preset: str, of_cases: bool = False):
    """The encoder and the length of its vectors, from its folder if that says it, else from the finished bank."""
    from plans.paper import ENCODER, VARIANTS
    from plans.plan import TextPlan
    from textdiffseg.text.folder import BUNDLED, width_of

    encoder, width = encoders[0], None
    if len(encoders) == 1 and not bank.done():
        width = width_of(encoder)
    if width is None:
        encoder, width = bank.result()
    wanted = ENCODER if preset in VARIANTS and encoder == BUNDLED else None
    return TextPlan(encoder=encoder, width=width, stands_in_for=wanted, of_cases=of_cases)


def _text_bank(names: tuple[str, ...], prompts, encoders: tuple[str, ...], path: Path) -> tuple[str, int]:
    """Write the text bank, unless one of the same words is there; returns its encoder and the vectors' width."""
    from plans.errors import UserError
    from textdiffseg.text.bank import TextBank, build_bank
    from textdiffseg.text.encoder import TextEncoder

    wanted = (encoders[0], prompts.scan, {name: prompts.labels[name] for name in names})
    with suppress(UserError):  # missing, of another version or damaged: it is made anew
        bank = TextBank.load(path)
        if (bank.words.encoder, bank.words.scan, bank.phrasings) == wanted:
            return bank.words.encoder, bank.width
    try:
        encoder = TextEncoder(encoders[0])
    except UserError:
        if len(encoders) == 1:
            raise
        encoder = TextEncoder(encoders[1])
    bank = build_bank(prompts, names, encoder)
    path.parent.mkdir(parents=True, exist_ok=True)
    bank.save(path)
    return encoder.name, bank.width


def _case_texts(texts: dict[str, str], bank: Path, path: Path) -> tuple[str, ...]:
    """Bring the cases' texts up to date, in vectors of the bank's encoder; returns what there is to say."""
    from textdiffseg.text.bank import TextBank
    from textdiffseg.text.case_texts import update_case_texts

    return update_case_texts(path, texts, TextBank.load(bank).words.encoder)


def _gpu_gb() -> float | None:
    """Memory of the GPU that is there, if one is."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def _budget(memory_gb: float | None, gpu_gb: float | None):
    """What the plan is made for: a GPU of the given size, the one found (8 GB of it at most), or this CPU."""
    from plans.budget import cpu_budget, gpu_budget
    from textdiffseg.execution import cores

    if memory_gb is not None:
        return gpu_budget(memory_gb)
    return cpu_budget(cores()) if gpu_gb is None else gpu_budget(min(8.0, 0.9 * gpu_gb))


def _report(plan, splits, folder: Path, made: int, cases: int, said: tuple[str, ...]) -> None:
    from rich.table import Table

    from plans.plan import plan_file

    table = Table("decision", "value", "reason", title=f"Plan of {plan.dataset}, preset {plan.preset}")
    for decision in plan.reasons:
        table.add_row(decision.name, decision.value, decision.reason)
    console().print(table)
    print(f"Stored cases: {made} made, {cases - made} unchanged, in {folder / 'cases'}.")
    if plan.text.of_cases and not plan.reads_texts:
        said = (f"Preset {plan.preset} reads no words: the texts of cases stay unread.",)
    notes = (
        *said,
        plan.device == "cpu"
        and "Planned for training on this CPU: torch finds no GPU here. For one elsewhere: --memory-gb 8.",
        plan.known_together
        and "No case tells of all labels: where scans cannot hold one that they are not annotated "
        'with, name it under "absent" in dataset.json, or it may be found there.',
        splits.note,
        plan.low_resolution and plan.low_resolution.note,
        plan.text.note,
    )
    for note in filter(None, notes):
        print(note)
    more = [] if plan.preset == "default" else ["--preset", plan.preset]
    root = folder.parent.parent
    more += [] if root == Path() else ["--root", str(root)]
    fold = "0" if splits.folds else "all"
    print(f"Plan: {folder / plan_file(plan.preset)}. Next: {shlex.join(['tds_train', plan.dataset, fold, *more])}")
