"""The trained low-resolution model beside a model. If it does not fit, the model works without it."""

import os
from collections.abc import Sequence
from pathlib import Path

from plans.errors import UserError, listed
from plans.fields import SHARED_BY_RESOLUTIONS
from plans.layout import ALL, FOLD, Checkpoint, FoldFolder, low_model
from textdiffseg.folds.ensemble import Ensemble, load_ensemble
from textdiffseg.folds.find import folds_with_checkpoint, is_fold
from textdiffseg.folds.state import found_shares, train_command

MIN_FOUND_SHARE = 0.95  # of the validation cases with a label; a guide that finds fewer would hide structures


def load_low(
    full: Ensemble, names: Sequence[str] | None, checkpoint: Checkpoint, device: str, include_unfinished: bool
) -> tuple[Ensemble | None, tuple[str, ...]]:
    """The low-resolution folds beside the folds of `full`, and a note why they are not used. None: there are none.

    If the user chose folds, only these are loaded, as another fold may have been trained on the validation cases.
    """
    own_fold = is_fold(full.folder)
    full_folder = Path(os.path.abspath(full.folder))  # `.` has no name
    folder = low_model(full_folder.parent if own_fold else full_folder)
    trained = [fold.name for fold in folds_with_checkpoint(folder)]
    if full.plan.resolution == "low" or not trained:
        return None, ()
    if names or own_fold:
        wanted = sorted({*names}) if names else [FoldFolder(full_folder).name]
        chosen = [name for name in wanted if name in trained]
        if not chosen:
            return None, (f"Low resolution is not used: {folder} has no fold {', '.join(wanted)}.",)
    else:
        chosen = []
    try:
        low = load_ensemble(folder, chosen, checkpoint, device, include_unfinished)
        _check(full, low)
    except UserError as error:
        return None, (f"Low resolution is not used: {' '.join(error.lines)}",)
    return low, ()


def why_no_guide(low: Ensemble) -> str | None:
    """The reason not to let a low-resolution model decide what full resolution looks at; None: it may.

    Each of its folds must be validated, and must find each label in nearly all validation cases that hold it.
    """
    if low.checkpoint != "best":
        return f"its weights are those of the checkpoint {low.checkpoint}, and validation examines the best ones"
    least: dict[str, float] = {}  # of each label, over the folds
    for name in low.folds:
        fold = FoldFolder(low.folder / f"{FOLD}{name}")
        if name == ALL:
            return f"fold {ALL} of {low.folder} was trained on all cases, so it is not known what it misses"
        shares = found_shares(fold)
        if shares is None:
            return f"fold {name} of {low.folder} is not validated ({train_command(fold)} --val does it)"
        least |= {label: min(share, least.get(label, 1.0)) for label, share in shares.items()}
    if unseen := [label.name for label in low.plan.labels if label.name not in least]:
        return f"no validation case holds {listed(unseen)}, so it is not known whether it finds them"
    poor = {label: share for label, share in least.items() if share < MIN_FOUND_SHARE}
    if not poor:
        return None
    listing = ", ".join(f"{label} in {share:.0%}" for label, share in poor.items())
    return f"in validation it found {listing} of the cases (at least {MIN_FOUND_SHARE:.0%} are needed). Train it longer"


def _channels(model: Ensemble) -> list[tuple[str, bool]]:
    """The name of each input channel, and whether a scan may lack it."""
    return [(channel.name, channel.optional) for channel in model.plan.channels]


def _check(full: Ensemble, low: Ensemble) -> None:
    """Raise `UserError` if the two models do not answer the same queries on the same part of a scan."""
    fields = [name for name in SHARED_BY_RESOLUTIONS if getattr(full.plan, name) != getattr(low.plan, name)]
    if _channels(full) != _channels(low):
        fields.append("channels")
    if full.bank.words != low.bank.words or not full.bank.space.agrees(low.bank.space):
        fields.append("phrasings")
    if low.plan.resolution != "low":
        fields.append("resolution (it is a model of full resolution)")
    if fields:
        raise UserError(
            f"{low.folder} was trained with other {', '.join(fields)} than {full.folder}. To use it, train it again "
            "with --restart."
        )
