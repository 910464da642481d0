"""Whether a request to train fits the run that a fold holds. Each check comes before anything is changed."""

from pathlib import Path

from plans.errors import UserError
from plans.layout import CHECKPOINTS, FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.presets import Preset
from textdiffseg.data.store import preprocessing_settings
from textdiffseg.folds.replacing import refuse_irreplaceable
from textdiffseg.training.run import TrainingOptions


def is_started(fold: FoldFolder, options: TrainingOptions, must_exist: bool, only_validate: bool) -> bool:
    """Whether there is a run to go on with, or to validate; `UserError` where that does not fit the request."""
    if options.restart:
        refuse_irreplaceable(fold)
        return False
    best, latest = (fold.checkpoint(which).is_file() for which in CHECKPOINTS)
    if latest or (best and only_validate):
        return True
    if must_exist or only_validate:
        raise UserError(f"{fold.path} holds no run to go on with: leave --continue and --val out to start one.")
    if best:
        raise UserError(
            f"{fold.path} holds {fold.checkpoint('best').name} without {fold.checkpoint('latest').name}, so that its "
            "training cannot go on. Give --val to validate it, or --restart to train anew."
        )
    return False


def read_plan(path: Path, preset: Preset) -> Plan:
    """The plan of a preset; `UserError` where the file is missing or holds another preset's."""
    if not path.is_file():
        raise UserError(f"{path} does not exist. Copy the fold again, or train it anew with --restart.")
    plan = Plan.read(path)
    if plan.preset != preset:
        raise UserError(
            f"{path}: preset: expected {preset}, found {plan.preset}. Put the right plan back, or run "
            f"tds_plan_and_preprocess --preset {preset} again."
        )
    return plan


def refuse_planned_anew(started: FoldFolder, plan: Plan, source: PreprocessedFolder, preset: Preset) -> None:
    """Raise `UserError` where a started run has another plan, by which cases are stored, than the data set has now."""
    now = Plan.read(source.plan(preset))
    if plan.dataset != now.dataset:
        raise UserError(
            f"{started.path} is a fold of {plan.dataset}, not of {now.dataset}. Move it away, or train this one anew "
            "with --restart."
        )
    ours, theirs = preprocessing_settings(plan), preprocessing_settings(now)
    if fields := [name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name)]:
        raise UserError(
            f"{started.path} was begun by a plan with other {', '.join(fields)} than {source.plan(preset)} has now. To "
            "go on, undo the change of the data set and run tds_plan_and_preprocess. To train by the new plan, give "
            "--restart."
        )
