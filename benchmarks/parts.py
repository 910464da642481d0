"""Is every part doing work? Dice of a trained model on stored validation cases, with one part disturbed at a time.

    python benchmarks/parts.py results/Dataset004_Hippocampus/default/fold_0 [--preprocessed DIR] [--cases 8]

Prints JSON. Each row is Dice by label and the mean, and the mean's loss against the undisturbed model:

- z_0-hat taken from another case;
- the fusion's output zeroed, z_it = z_i, the classifier kept;
- the classifier's vectors swapped between the labels, the fusion's tokens kept;
- the skips zeroed;
- each label asked for alone, its Dice as it is and with another label's tokens in the fusion, the classifier kept.
  (With all labels asked for, attention reads their tokens as one set: swapping them changes nothing.)

A part whose disturbance costs less than 0.005 is listed as decorative. For models with all of these parts, those of
preset default; the publication's preset has its own ablations (benchmarks/paper.py).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from stored import (
    Scan,
    add_device,
    add_preprocessed,
    dice,
    held_out,
    machine,
    mean,
    preprocessed_beside,
    stored_scans,
)
from torch import Tensor

from plans.errors import UserError
from plans.layout import FoldFolder
from plans.plan import Plan
from textdiffseg.folds.sampling import Settings, read_sampling
from textdiffseg.folds.weights import load_network
from textdiffseg.inference.predictor import Predictor
from textdiffseg.networks.model import TextDiffSeg
from textdiffseg.queries import Queries
from textdiffseg.text.bank import TextBank
from textdiffseg_cli.common import positive_int, run

WORTH = 0.005  # mean Dice below which a part's loss counts as nothing


class AsItIs:
    """A trained model by the methods that `Predictor` calls; each intervention below replaces one of them."""

    def __init__(self, model: TextDiffSeg):
        self.model, self.plan = model, model.plan

    def encode_image(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.model.encode_image(image)

    def fuse(self, z_i: Tensor, queries: Queries) -> Tensor:
        return self.model.fuse(z_i, queries)

    def denoise(self, z_t: Tensor, t: Tensor, z_it: Tensor) -> Tensor:
        return self.model.denoise(z_t, t, z_it)

    def decode(self, z_0: Tensor, skips: tuple[Tensor, ...] | None, queries: Queries) -> Tensor:
        return self.model.decode(z_0, skips, queries)


class Listening(AsItIs):
    """Keeps the latents that are decoded."""

    def __init__(self, model: TextDiffSeg):
        super().__init__(model)
        self.latents: list[Tensor] = []

    def decode(self, z_0, skips, queries):
        self.latents.append(z_0)
        return super().decode(z_0, skips, queries)


class OtherLatent(AsItIs):
    """Decodes another case's latents, window by window, again from the first where that case has fewer."""

    def __init__(self, model: TextDiffSeg, latents: Sequence[Tensor]):
        super().__init__(model)
        self.latents, self.calls = latents, 0

    def decode(self, z_0, skips, queries):
        other = self.latents[self.calls % len(self.latents)]
        self.calls += 1
        return super().decode(other, skips, queries)


class NoFusion(AsItIs):
    """z_it = z_i."""

    def fuse(self, z_i, queries):
        return z_i


class OtherTokens(AsItIs):
    """The fusion reads the tokens of other queries (of one sample)."""

    def __init__(self, model: TextDiffSeg, other: Queries):
        super().__init__(model)
        self.other = other

    def fuse(self, z_i, queries):
        return super().fuse(z_i, self.other.to(z_i.device).expand(len(z_i)))


class SwappedVectors(AsItIs):
    """The classifier takes every label for the one before it."""

    def decode(self, z_0, skips, queries):
        return super().decode(z_0, skips, replace(queries, vectors=queries.vectors.roll(1, dims=1)))


class NoSkips(AsItIs):
    """The decoder sees the latent alone."""

    def decode(self, z_0, skips, queries):
        return super().decode(z_0, None, queries)


def main() -> int:
    """Score the model with each part disturbed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("fold", type=Path, metavar="FOLD_FOLDER", help="a trained fold")
    add_preprocessed(parser)
    parser.add_argument("--cases", type=positive_int, default=8, metavar="N", help="validation cases (default: 8)")
    add_device(parser)
    return run(examine, parser.parse_args())


def examine(args: argparse.Namespace) -> None:
    """Print the figures of a fold."""
    plan = Plan.read(FoldFolder(args.fold).plan)
    if plan.diffusion is None or not plan.classifies_words:
        raise UserError(
            f"{args.fold}: a model of preset {plan.preset} has not all of these parts: give one of default."
        )
    model, bank = (
        load_network(FoldFolder(args.fold), device=args.device),
        TextBank.load(FoldFolder(args.fold).words),
    )
    preprocessed = args.preprocessed or preprocessed_beside(args.fold, plan.dataset)
    cases = held_out(preprocessed, args.fold.name.removeprefix("fold_"), args.cases)
    settings = Settings(steps=read_sampling(FoldFolder(args.fold)).steps)

    def predictor(disturbed: AsItIs) -> Predictor:
        return Predictor([disturbed], settings, args.device)

    rows = disturb(model, bank, list(stored_scans(preprocessed, cases, plan, bank)), predictor)
    report = {"benchmark": "parts", "fold": str(args.fold), "cases": cases, "steps": settings.steps}
    report |= machine(args.device) | {"rows": rows, "decorative": decorative(rows)}
    print(json.dumps(report, indent=1))


def disturb(
    model: TextDiffSeg, bank: TextBank, scans: Sequence[Scan], predictor: Callable[[AsItIs], Predictor]
) -> dict[str, dict]:
    """The table: one row an intervention."""
    queries = bank.all_labels()

    def together(disturbed: AsItIs) -> dict[str, float]:
        return dice(predictor(disturbed), scans, queries)

    whole = together(AsItIs(model))
    rows = {"as it is": row(whole)}
    if len(scans) > 1:
        rows["z_0-hat of another case"] = row(exchanged(model, queries, scans, predictor), whole)
    rows["fusion zeroed"] = row(together(NoFusion(model)), whole)
    rows["skips zeroed"] = row(together(NoSkips(model)), whole)
    if len(bank.labels) > 1:
        rows["classifier's vectors swapped"] = row(together(SwappedVectors(model)), whole)
        numbers = range(1, len(bank.labels) + 1)
        single = [bank.queries([[(number, 0)]]) for number in numbers]
        alone, swapped = {}, {}
        for own, other in zip(single, [*single[1:], single[0]], strict=True):
            alone |= dice(predictor(AsItIs(model)), scans, own)
            swapped |= dice(predictor(OtherTokens(model, other)), scans, own)
        rows["each label alone"] = row(alone)
        rows["each label alone, fusion's tokens swapped"] = row(swapped, alone)
    return rows


def exchanged(
    model: TextDiffSeg, queries: Queries, scans: Sequence[Scan], predictor: Callable[[AsItIs], Predictor]
) -> dict[str, float]:
    """Mean Dice by label where each scan is decoded from the latents of the one before it."""
    parts = []
    for scan, donor in zip(scans, [scans[-1], *scans[:-1]], strict=True):
        listening = Listening(model)
        predictor(listening).predict_image(donor.image, queries.with_tokens([donor.text]))
        parts.append(dice(predictor(OtherLatent(model, listening.latents)), [scan], queries))
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: mean(part[name] for part in parts if name in part) for name in names}


def row(found: dict[str, float], undisturbed: dict[str, float] | None = None) -> dict:
    """Dice by label, their mean, and its loss against the undisturbed model's."""
    figures = {"labels": found, "dice": mean(found.values())}
    if undisturbed is not None and found:
        figures["loss"] = mean(undisturbed.values()) - figures["dice"]
    return figures


def decorative(rows: dict[str, dict]) -> list[str]:
    """The interventions that cost next to nothing."""
    return [name for name, figures in rows.items() if "loss" in figures and figures["loss"] < WORTH]


if __name__ == "__main__":
    sys.exit(main())
