"""The plan of a data set, and that of a fold. If a file cannot be read, the error has the way out."""

from plans.layout import FoldFolder, PreprocessedFolder
from plans.plan import Plan

COPY_OR_RESTART = "Copy the fold again, or train it again with --restart."


def plan_of_dataset(source: PreprocessedFolder, preset: str) -> Plan:
    """The present plan of a preset. Raises `UserError` if it is missing or damaged."""
    return Plan.read(source.plan(preset), f"Correct it, or run tds_plan_and_preprocess --preset {preset} again.")


def plan_of_fold(fold: FoldFolder) -> Plan:
    """The plan that a fold is trained with. Raises `UserError` if it is missing or damaged."""
    return Plan.read(fold.plan, COPY_OR_RESTART)
