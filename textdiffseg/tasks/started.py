"""Check that a call to train fits the run in a fold's folder. The checks change nothing."""

from plans.choices import Preset
from plans.commands import command_line
from plans.errors import UserError
from plans.layout import CHECKPOINTS, FoldFolder, PreprocessedFolder
from plans.plan import Plan
from plans.planning.spacing import as_option
from textdiffseg.data.checks import preprocessing_settings
from textdiffseg.folds.plans import plan_of_dataset, plan_of_fold
from textdiffseg.folds.replacing import refuse_irreplaceable
from textdiffseg.training.options import TrainingOptions


def is_started(fold: FoldFolder, options: TrainingOptions, must_exist: bool, only_validate: bool) -> bool:
    """Whether the fold holds a run to resume or to validate. Raises `UserError` if the options do not fit it."""
    if options.restart:
        refuse_irreplaceable(fold)
        return False
    best, latest = (fold.checkpoint(which).is_file() for which in CHECKPOINTS)
    if latest or (best and only_validate):
        return True
    if must_exist or only_validate:
        raise UserError(f"{fold.path} holds no run to resume or validate. Leave --continue and --val out to start one.")
    if best:
        raise only_best(fold)
    return False


def only_best(fold: FoldFolder) -> UserError:
    """The error of a fold that cannot be resumed, because it has only its best checkpoint."""
    return UserError(
        f"{fold.path} holds {fold.checkpoint('best').name} without {fold.checkpoint('latest').name}, so its training "
        "cannot be resumed. Give --val to validate it, or --restart to train it again."
    )


def read_plan(source: PreprocessedFolder, started: FoldFolder | None, preset: Preset) -> Plan:
    """The plan of a started fold, else that of the data set.

    Raises `UserError` if the file is missing or damaged, or if it holds another preset's plan.
    """
    plan = plan_of_fold(started) if started else plan_of_dataset(source, preset)
    if plan.preset != preset:
        path = started.plan if started else source.plan(preset)
        raise UserError(
            f"{path}: preset: expected {preset}, found {plan.preset}. Put the right plan back, or run "
            f"tds_plan_and_preprocess --preset {preset} again."
        )
    return plan


def low_resolution_folder(source: PreprocessedFolder, preset: Preset) -> PreprocessedFolder:
    """The folder of a preset's low resolution. Raises `UserError` if the preset needs none, or if it is not planned."""
    full, low = plan_of_dataset(source, preset), source.low(preset)
    if full.low_resolution is None:
        reasons = [row.reason for row in full.reasons if row.name == "low resolution"]
        why = f" ({reasons[0]})" if reasons else ""
        raise UserError(f"--resolution low: {source.plan(preset)} has no low resolution{why}. Leave --resolution out.")
    if not low.plan(preset).is_file():
        raise UserError(
            f"--resolution low: {low.plan(preset)} does not exist: the data set was planned with --no-low-resolution, "
            "or by an older version. Run tds_plan_and_preprocess again with the options of the first time, but without "
            "--no-low-resolution."
        )
    return low


def refuse_changed_plan(started: FoldFolder, plan: Plan, source: PreprocessedFolder, preset: Preset) -> None:
    """Raise `UserError` if a started run has a plan with other preprocessing than the data set's present plan."""
    present = plan_of_dataset(source, preset)
    if plan.dataset != present.dataset:
        raise UserError(
            f"{started.path} is a fold of {plan.dataset}, not of {present.dataset}. Move it away, or train this fold "
            "again with --restart."
        )
    before, after = preprocessing_settings(plan), preprocessing_settings(present)
    if fields := [name for name in sorted(before | after) if before.get(name) != after.get(name)]:
        if plan.resolution == "low":  # its spacing is no option
            again = "tds_plan_and_preprocess with the options of the first time"
        else:
            spacing = ["--spacing", *as_option(plan.spacing).split()] if "spacing" in fields else []
            again = command_line("tds_plan_and_preprocess", source.dataset, *spacing, preset=preset)
        undo = "" if fields == ["spacing"] else "undo the change of the data set and "
        raise UserError(
            f"{started.path} was started with a plan with other {', '.join(fields)} than {source.plan(preset)}. To "
            f"resume it, {undo}run {again}. To use the new plan, give --restart."
        )
