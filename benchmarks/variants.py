"""One change at a time against the same control, at equal time: the comparisons behind docs/method.md.

    python benchmarks/variants.py --changes "recycling 0" "skip dropout 0.3" [--preset unet] [--iterations 500]
        [--seeds 0 1] [--root DIR]

First what an iteration of each variant costs is measured, in turns with the control, so that a machine that becomes
slower is slower for both (with --root it is kept). Then the control trains for --iterations, each other one for as
many as take the same time.

Prints JSON: for each variant and seed the Dice of the averaged weights on the fold's validation cases, one step, no
mirroring, in all and by label, with mirroring where --mirroring asks for it, after ten steps, and of what the latent
carries by itself (on validation patches); and Dice minus the control's with the 95% interval of a paired bootstrap
over the cases' means over seeds. A change that needs other code than the library's has it here.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from bootstrap import paired
from stored import (
    fold_parser,
    held_out,
    in_own_process,
    machine,
    mean,
    predict,
    prepare,
    read_fold,
    score,
    stored_scans,
)
from torch import Tensor, nn

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.evaluation.report import summarise
from textdiffseg.files import write_atomically
from textdiffseg.folds.progress import TrainingProgress
from textdiffseg.folds.sampling import Settings
from textdiffseg.inference.predictor import Predictor
from textdiffseg.networks.blocks import Attention
from textdiffseg.networks.label_autoencoder import BACKGROUND_BIAS, LabelDecoder, LabelEncoder
from textdiffseg.networks.model import TextDiffSeg, build_model
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank
from textdiffseg.training.checkpoint import TrainingState
from textdiffseg.training.log import read_log
from textdiffseg.training.loop import train
from textdiffseg.training.optimise import train_step
from textdiffseg.training.run import Run, TrainingOptions, open_run
from textdiffseg_cli.common import positive_int, run, whole_number

CONTROL = "control"
EPOCHS = 4
TURNS, ITERATIONS_A_TURN = 7, 2  # of timing


@dataclass(frozen=True)
class Change:
    """What makes a variant of the control."""

    plan: Callable[[Plan], Plan] = lambda plan: plan
    model: Callable[[TextDiffSeg], TextDiffSeg] = lambda model: model
    costs: bool = True  # an iteration may take another time than the control's


def setting(part: str, *, costs: bool = False, **values: object) -> Change:
    """Other values of one part of the plan."""

    def change(plan: Plan) -> Plan:
        if getattr(plan, part) is None:
            raise UserError(f"--changes: preset {plan.preset} has no {part}. Leave that change out.")
        return plan.model_copy(update={part: getattr(plan, part).model_copy(update=values)})

    return Change(change, costs=costs)


def deeper(*blocks: int) -> Change:
    """So many residual blocks a stage, from the finest on; the last number counts for all further stages."""

    def change(plan: Plan) -> Plan:
        depths = (blocks[min(index, len(blocks) - 1)] for index in range(len(plan.stages)))
        stages = (stage.model_copy(update={"blocks": depth}) for stage, depth in zip(plan.stages, depths, strict=False))
        return plan.model_copy(update={"stages": tuple(stages)})

    return Change(change)


def scaled_rate(factor: float) -> Change:
    """Another learning rate."""

    def change(plan: Plan) -> Plan:
        rate = plan.training.learning_rate * factor
        return plan.model_copy(update={"training": plan.training.model_copy(update={"learning_rate": rate})})

    return Change(change, costs=False)


class NumberPainted(nn.Module):
    """The label encoder on one-hot maps: the vector of a label is its number, whatever its words."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.labels = len(plan.labels)
        stages = plan.stages[: plan.latent.level + 1]
        self.encoder = LabelEncoder(stages, self.labels, plan.latent.channels, plan.network)

    def forward(self, slots: Tensor, queries: Queries) -> Tensor:
        """slots (B, D, H, W) int64 -> z_0 (B, k, d, h, w)."""
        numbers = F.one_hot(queries.labels, 1 + self.labels)[..., 1:]
        return self.encoder(slots, replace(queries, vectors=numbers.float()))


def one_hot(model: TextDiffSeg) -> TextDiffSeg:
    """The label encoder, where there is one, reads numbers, not words."""
    if model.label_encoder is not None:
        model.label_encoder = NumberPainted(model.plan)
    return model


def convolutional_head(model: TextDiffSeg) -> TextDiffSeg:
    """A channel a label is the classifier, with the same prior for background as the text classifier."""
    plan = model.plan
    stages = plan.stages[: plan.latent.level + 1]
    model.label_decoder = LabelDecoder(stages, plan.text.width, plan.latent.channels, len(plan.labels))
    nn.init.zeros_(model.label_decoder.classifier.bias)
    model.label_decoder.classifier.bias.data[0] = BACKGROUND_BIAS
    return model


def quiet_classifier(model: TextDiffSeg) -> TextDiffSeg:
    """The classifier's vectors begin as small as the weights of a convolutional head."""
    model.label_decoder.classifier.head.weight.data *= 0.15
    return model


def normalised_over_patch(model: TextDiffSeg) -> TextDiffSeg:
    """z_0 of mean 0 and variance 1 over the whole patch instead of over the channels of each position."""
    if model.label_encoder is None:
        raise UserError(f"--changes: preset {model.plan.preset} has no latent to normalise. Leave that change out.")
    model.label_encoder.normalise = lambda z: F.layer_norm(z.float(), z.shape[1:])
    return model


def with_positions(model: TextDiffSeg) -> TextDiffSeg:
    """Self-attention that is told the positions of the grid."""
    for module in model.denoiser.modules():
        if isinstance(module, Attention):
            module.norm.register_forward_hook(lambda _, __, out: out + positions(out))
    return model


def positions(x: Tensor) -> Tensor:
    """Sines and cosines of each position's coordinates, for x (B, C, d, h, w): (C, d, h, w).

    C // 6 wave lengths an axis, from 50 positions down to 3; channels that are left over are 0.
    """
    waves = x.shape[1] // 6
    frequencies = torch.logspace(-3, 1, waves, base=2, device=x.device)
    told = x.new_zeros(x.shape[1:])
    for axis, size in enumerate(x.shape[2:]):
        along = [1, 1, 1]
        along[axis] = size
        angles = frequencies[:, None] * torch.arange(size, device=x.device)
        for half, wave in enumerate((angles.sin(), angles.cos())):
            first = (2 * axis + half) * waves
            told[first : first + waves] = wave.view(waves, *along)
    return told


CHANGES = {
    CONTROL: Change(),
    "latent normalised over the patch": Change(model=normalised_over_patch),
    "one-hot labels": Change(model=one_hot),
    "convolutional head": Change(model=convolutional_head),
    "one-hot labels, convolutional head": Change(model=lambda model: one_hot(convolutional_head(model))),
    "classifier begins small": Change(model=quiet_classifier, costs=False),
    "positions in self-attention": Change(model=with_positions),
    "blocks 0 1 2 4": deeper(0, 1, 2, 4),
    "blocks 1 2": deeper(1, 2),
    "latent stride 2": setting("latent", costs=True, level=1),
    "16 latent channels": setting("latent", costs=True, channels=16),
    "terminal share 0.5": setting("diffusion", costs=True, terminal_share=0.5),
    "terminal share 0.9": setting("diffusion", costs=True, terminal_share=0.9),
    "terminal share 1": setting("diffusion", costs=True, terminal_share=1.0),
    "recycling 0": setting("diffusion", costs=True, recycling=0.0),
    "recycling 1": setting("diffusion", costs=True, recycling=1.0),
    "reconstruction of all samples": setting("diffusion", costs=True, reconstruction=1.0),
    "skip dropout 0": setting("diffusion", skip_dropout=0.0),
    "skip dropout 0.3": setting("diffusion", skip_dropout=0.3),
    "AdamW alone": setting("training", costs=True, optimiser="adamw"),
    "learning rate x 0.5": scaled_rate(0.5),
    "learning rate x 2": scaled_rate(2.0),
    "average 0.98": setting("training", ema=0.98),
    "average 0.995": setting("training", ema=0.995),
}


def main() -> int:
    """Time, train, score, print."""
    parser = fold_parser(__doc__)
    parser.add_argument("--changes", nargs="*", choices=tuple(CHANGES), default=[], metavar="NAME", help=listed())
    parser.add_argument("--preset", choices=("default", "unet"), default="default")
    parser.add_argument("--iterations", type=positive_int, default=500, help="of the control")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0], metavar="N")
    parser.add_argument("--mirroring", action="store_true", help="score with mirroring as well")
    return run(compare, parser.parse_args())


def listed() -> str:
    """The changes there are."""
    return "; ".join(name for name in CHANGES if name != CONTROL)


def compare(args: argparse.Namespace) -> None:
    """Print the figures of the control and of every change."""
    names = [CONTROL, *args.changes]
    with tempfile.TemporaryDirectory() as temporary:
        root = args.root or Path(temporary)
        preprocessed = prepare(args.data, root, args.preset, args.device)
        held_out(preprocessed, args.fold)
        costs = timed(root / f"costs_{args.preset}_{args.device}.json", preprocessed, names, args)
        found: dict[str, list[dict]] = {name: [] for name in names}
        scored = f"{args.preset}, fold {args.fold}, {args.cases or 'all'} cases, {args.device}"
        scored += ", also mirrored" * args.mirroring
        for seed in args.seeds:
            for name in names:
                iterations = round(args.iterations / costs[name])
                folder = root / "variants" / scored / f"{name}, seed {seed}, {iterations} iterations"
                if not (folder / "figures.json").is_file():
                    in_own_process(examine, preprocessed, folder, name, iterations, seed, args)
                found[name].append(json.loads((folder / "figures.json").read_text()))
    settings = {name: getattr(args, name) for name in ("preset", "fold", "seeds", "iterations")}
    report = {"benchmark": "variants", "dataset": args.data.name} | settings | machine(args.device)
    variants = {name: describe(costs[name], found[name], found[CONTROL]) for name in names}
    print(json.dumps(report | {"variants": variants}, indent=1))


def describe(cost: float, runs: list[dict], control: list[dict]) -> dict:
    """The figures of a variant's seeds, and its difference from the control's."""
    ours, theirs = case_means(runs), case_means(control)
    gaps = np.array([ours[case] - theirs[case] for case in ours if case in theirs])
    seeds = [{name: value for name, value in one.items() if name != "cases"} for one in runs]
    return {"cost_an_iteration": round(cost, 3), "seeds": seeds, "minus_control": paired(gaps)}


def case_means(runs: list[dict]) -> dict[str, float]:
    """Dice by case that has one with every seed, the mean over seeds."""
    cases = [case for case in runs[0]["cases"] if all(case in one["cases"] for one in runs)]
    return {case: mean(one["cases"][case] for one in runs) for case in cases}


def timed(path: Path, preprocessed: Path, names: list[str], args: argparse.Namespace) -> dict[str, float]:
    """Seconds an iteration of each variant against the control's, from `path` where it has them."""
    known = json.loads(path.read_text()) if path.is_file() else {CONTROL: 1.0}
    if missing := [name for name in names if name not in known and CHANGES[name].costs]:
        known |= in_own_process(time_in_turns, preprocessed, missing, args)
        write_atomically(path, json.dumps(known))
    return {name: known.get(name, 1.0) for name in names}


def time_in_turns(preprocessed: Path, names: list[str], args: argparse.Namespace) -> dict[str, float]:
    """The median over turns of a variant's seconds over the control's in the same turn."""
    both = [CONTROL, *names]
    ratios: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        opened = {name: begin(preprocessed, Path(temporary) / name, name, 1, 0, args) for name in both}
        for turn in range(TURNS + 1):  # the first is the warm-up
            seconds = {name: time_turn(*opened[name], turn) for name in both}
            for name in names if turn else ():
                ratios[name].append(seconds[name] / seconds[CONTROL])
    return {name: statistics.median(found) for name, found in ratios.items()}


def time_turn(run_: Run, state: TrainingState, turn: int) -> float:
    """Seconds of a few iterations, loading left out."""
    total = 0.0
    for batch in run_.loader.epoch(turn, ITERATIONS_A_TURN):
        clock = time.perf_counter()
        train_step(state, run_.bank, batch, run_.compiled).read()  # waits until it is done
        total += time.perf_counter() - clock
    return total


def begin(
    preprocessed: Path, folder: Path, name: str, iterations: int, seed: int, args: argparse.Namespace
) -> tuple[Run, TrainingState]:
    """A variant before its first iteration."""
    options = TrainingOptions(device=args.device, seed=seed, compile=False)
    plain = open_run(
        preprocessed, read_fold(preprocessed, args.fold), FoldFolder(folder), options, args.preset, print, None
    )
    changed = replace(plain, plan=CHANGES[name].plan(plain.plan))
    torch.manual_seed(seed)
    model = CHANGES[name].model(build_model(changed.plan)).to(args.device)
    progress = TrainingProgress(seed=seed, epochs=EPOCHS, iterations_per_epoch=-(-iterations // EPOCHS))
    return changed, TrainingState.start(model, progress)


def examine(preprocessed: Path, folder: Path, name: str, iterations: int, seed: int, args: argparse.Namespace) -> None:
    """Train a variant and write figures.json."""
    run_, state = begin(preprocessed, folder, name, iterations, seed, args)
    train(run_, state)
    state.model.load_state_dict(state.ema)
    model, last = state.model.eval(), read_log(folder / "log.jsonl")[-1]
    cases = held_out(preprocessed, args.fold, args.cases)
    figures: dict = {"iterations": last.iteration, "latent": last.latent_dice}
    plain = scores(model, run_.bank, preprocessed, cases, Settings(), args.device)
    figures |= {"dice": mean(plain["cases"].values()), "labels": plain["labels"]}
    others = {"mirrored": Settings(mirror_axes=model.plan.mirror_axes)} if args.mirroring else {}
    if model.plan.diffusion:
        others["ten_steps"] = Settings(steps=10)
    for which, settings in others.items():
        figures[which] = mean(scores(model, run_.bank, preprocessed, cases, settings, args.device)["cases"].values())
    write_atomically(folder / "figures.json", json.dumps(figures | {"cases": plain["cases"]}, indent=1))


def scores(
    model: TextDiffSeg, bank: TextBank, preprocessed: Path, cases: list[str], settings: Settings, device: str
) -> dict:
    """Dice by case and by label."""
    predictor, queries = Predictor([model], settings, device), bank.all_labels()
    scans = stored_scans(preprocessed, cases, model.plan, bank)
    found = [score(model.plan, scan, predict(predictor, scan, queries)) for scan in scans]
    labels = {name: one.dice for name, one in summarise(found).labels.items()}
    return {"cases": {one.case: one.mean_dice for one in found if one.mean_dice is not None}, "labels": labels}


if __name__ == "__main__":
    sys.exit(main())
