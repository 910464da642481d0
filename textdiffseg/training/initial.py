"""Initial weights from a trained model, for fine-tuning. Its labels, words and channels may differ.

A weight is taken if the new network has one of the same name and shape. Two kinds are fitted:

- Convolutions of the image: a channel takes the weights of the channel with its name, else their mean over channels.
- The classifier of words: labels that both models know keep their vectors H e_q. The text spaces differ, so H is
  changed by the smallest matrix D for which (H + D) e'_q = H e_q for all these labels (e'_q: the new space).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plans.errors import UserError, listed
from plans.layout import ALL, FoldFolder
from plans.plan import Plan
from plans.raw.folders import members_of
from textdiffseg.folds.cases import FoldCases
from textdiffseg.folds.ensemble import chosen_folds
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.position import TrainingPosition
from textdiffseg.folds.weights import EMA, hash_weights, read_tensors
from textdiffseg.readout import PhrasingKey
from textdiffseg.text.bank import TextBank

MIN_EQUAL_SHARE = 0.5  # of the network's numbers; with fewer, the networks are different ones
SPREAD = "spread"  # of samples: it belongs to a trained sampler
HEAD = "classifier.head.weight"
FIRST = ("image_encoder.stages.0.0.0.weight", "overview_encoder.stages.0.0.weight")  # they read the image


@dataclass(frozen=True)
class Initial:
    """The weights to start from."""

    source: FoldFolder
    hash: str  # of the source's weights
    weights: dict[str, Tensor]  # by name in the new network
    share: float  # of the new network's numbers
    kept: tuple[str, ...]  # labels that both models know
    may_know: bool = False  # of the same data set, from a package, which does not list its training cases

    @property
    def note(self) -> str:
        """A sentence for the user."""
        labels = f"labels that it knows: {listed(self.kept)}" if self.kept else "it knows none of these labels"
        leak = " It holds no ids of cases. If it was trained on validation cases of this fold, the scores are too high."
        return f"Starts from {self.source.path}: {self.share:.0%} of the weights; {labels}.{leak * self.may_know}"


def initial_weights(
    model: Path, fold: FoldFolder, cases: FoldCases, plan: Plan, bank: TextBank, untrained: Mapping[str, Tensor]
) -> Initial:
    """The weights of a trained model for a new network.

    Args:
        model: its folder. The fold with the name of `fold` is used if it exists, else the first one.
        fold, cases, plan, bank: of the new network.
        untrained: the new network's weights before training, by name.

    Raises `UserError` if the model has no finished fold, another text encoder, or a different network, or if it was
    trained on validation cases of `fold`.
    """
    source = _source(model, fold)
    _refuse_validation_cases(source, fold, cases)
    source_plan, source_bank = plan_of_fold(source), TextBank.load(source.words)
    encoder = source_bank.space.encoder
    if plan.reads_words and not bank.space.is_of(encoder, source_bank.space.encoder_hash):
        raise UserError(
            f"--init-from {model}: its words are vectors of the text encoder {encoder!r}, and this plan's of "
            f"{bank.space.encoder!r}. Plan with --text-encoder {encoder}."
        )
    weights = _equal_weights(source, source_plan, plan, untrained)
    size, size_taken = (sum(weight.numel() for weight in parts.values()) for parts in (untrained, weights))
    share = size_taken / max(1, size)
    if share < MIN_EQUAL_SHARE:
        raise UserError(
            f"--init-from {model}: only {share:.0%} of this network's weights have the same place and shape there "
            f"(preset {source_plan.preset}, made for a {source_plan.device.upper()}; here {plan.preset}, "
            f"{plan.device.upper()}). Plan this data set with the same preset and memory, or train without --init-from."
        )
    shared = shared_labels(source_bank, bank)
    for name in weights:
        if name.endswith(HEAD) and shared:
            weights[name] = keeping(weights[name], *_vectors(source_bank, bank, shared))
    may_know = fold.name != ALL and not source.cases.is_file() and share_data(source_plan.dataset, cases.dataset)
    return Initial(source, hash_weights(source, "best") or "", weights, share, tuple(shared), may_know)


def _equal_weights(
    source: FoldFolder, source_plan: Plan, plan: Plan, untrained: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The averaged weights of a fold that have the names and shapes of `untrained`. Channels are fitted by name."""
    tensors = read_tensors(source.checkpoint("best"))
    averaged = {name.removeprefix(EMA): weight for name, weight in tensors.items()}
    if plan.channels != source_plan.channels:
        fitted = [name for name in FIRST if name in averaged and name in untrained]
        averaged |= {name: of_channels(averaged[name], source_plan, plan) for name in fitted}
    return {
        name: averaged[name].clone()
        for name, weight in untrained.items()
        if name != SPREAD and name in averaged and averaged[name].shape == weight.shape
    }


def _source(model: Path, fold: FoldFolder) -> FoldFolder:
    """The fold of a trained model from which `fold` starts."""
    folds = {fold.name: fold for fold in chosen_folds(model, None, "best")}
    if not folds:
        raise UserError(f"--init-from {model}: expected the folder of a trained model, which holds fold_0, ...")
    return folds.get(fold.name, next(iter(folds.values())))


def _refuse_validation_cases(source: FoldFolder, fold: FoldFolder, cases: FoldCases) -> None:
    """Raise `UserError` if `source` was trained on validation cases of `fold`. Fold `all` is scored on such cases."""
    if fold.name == ALL or not source.cases.is_file():
        return
    theirs = FoldCases.read(source.cases)
    if share_data(theirs.dataset, cases.dataset) and (known := sorted({*theirs.train} & {*cases.validation})):
        raise UserError(
            f"--init-from: {source.path} was trained on {len(known)} validation cases of fold {fold.name} "
            f"({listed(known, 3)}), so the scores of this fold would be too high. Give a model whose fold {fold.name} "
            "is trained, or train fold all."
        )


def share_data(first: str | None, second: str | None) -> bool:
    """Whether two data sets have cases in common: they are the same, or one of them is part of the other one."""
    if first is None or second is None:
        return first == second
    return not {*members_of(first)}.isdisjoint(members_of(second))


def refuse_own_folder(model: str | Path | None, restart: bool, fold: FoldFolder) -> None:
    """Raise `UserError` if a restart replaces the fold that it shall start from."""
    if model is not None and restart and Path(model).resolve() in (fold.path.resolve(), fold.path.parent.resolve()):
        raise UserError(
            f"--init-from {model}: --restart replaces {fold.path.name} there. Copy the folder, and start from the copy."
        )


def refuse_late_start(position: TrainingPosition | None, model: str | Path | None, fold: FoldFolder) -> None:
    """Raise `UserError` if a run at `position` was not started from the model that is given now."""
    if position is None or model is None:
        return
    if position.initial is None:
        started = "random weights"
    elif Path(model).is_dir() and position.initial != hash_weights(_source(Path(model), fold), "best"):
        started = "other weights"
    else:
        return
    raise UserError(
        f"--init-from {model}: {fold.path} was started from {started}. Add --restart to train it again from this "
        "model, or leave --init-from out to resume."
    )


SharedPhrasing = tuple[PhrasingKey, PhrasingKey]  # in the trained model's bank, and in the new one's


def shared_labels(theirs: TextBank, ours: TextBank) -> dict[str, SharedPhrasing]:
    """The labels of `ours` with a phrasing that `theirs` knows, and the first such phrasing."""
    shared = {}
    for number, (label, phrases) in enumerate(ours.phrasings.items(), start=1):
        for index, phrase in enumerate(phrases):
            match = theirs.find(phrase)
            if match is not None:
                shared[label] = (match, (number, index))
                break
    return shared


def keeping(head: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """H + D with the smallest D for which (H + D) e' = H e. H (c, d_t); e, e' (n, d_t): vectors of n labels."""
    h, old, new = head.double(), old.double(), new.double()
    difference = h @ (old - new).T  # (c, n)
    return (h + difference @ torch.linalg.pinv(new.T)).to(head.dtype)


def _vectors(theirs: TextBank, ours: TextBank, shared: Mapping[str, SharedPhrasing]) -> tuple[Tensor, Tensor]:
    """The vectors (n, d_t) of the shared labels in their text space and in ours."""
    old, new = zip(*shared.values(), strict=True)
    return theirs.queries([list(old)]).vectors[0], ours.queries([list(new)]).vectors[0]


def of_channels(weight: Tensor, theirs: Plan, ours: Plan) -> Tensor:
    """A convolution (width, C, ...) of the image for other channels. Its output keeps its size on average."""
    index_of = {channel.name: index for index, channel in enumerate(theirs.channels)}
    parts = [
        weight[:, index_of[channel.name]] if channel.name in index_of else weight.mean(1) for channel in ours.channels
    ]
    return torch.stack(parts, 1) * (len(theirs.channels) / len(ours.channels))
