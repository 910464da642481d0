"""How long a run that was begun is trained: to the end that it has, or longer once it is finished.

A run that is not finished keeps its length, seed and schedule. A finished one is prolonged by `--epochs` or
`--max-minutes` beyond what was done: the learning rate warms up again and decays to 0 at the new end.
"""

from dataclasses import replace

from plans.errors import UserError
from plans.layout import FoldFolder
from textdiffseg.folds.progress import TrainingProgress
from textdiffseg.progress import OnProgress, Report, silent
from textdiffseg.training.run import Run, TrainingOptions, plan_length


def wants_longer(progress: TrainingProgress, options: TrainingOptions, fold: FoldFolder) -> bool:
    """Whether a finished run is to be trained longer. `UserError` for a request that does not fit the run."""
    faults = [*_other_seed(progress, options, fold)]
    if not progress.finished:
        faults += _other_length(progress, options, fold)
    elif options.epochs is not None and options.epochs < progress.epochs:
        faults += [_too_short(fold, f"--epochs {options.epochs}", f"{progress.epochs} epochs")]
    elif options.max_minutes is not None and not _same_minutes(progress, options) and not _more(progress, options):
        spent = f"{progress.seconds / 60:.3g} minutes"
        faults += [_too_short(fold, f"--max-minutes {options.max_minutes:g}", spent)]
    if faults:
        raise UserError(*faults)
    return progress.finished and _more(progress, options)


def prolong(
    run: Run, progress: TrainingProgress, options: TrainingOptions, report: Report, follow: OnProgress = silent
) -> TrainingProgress:
    """A finished run with the end that was asked for, where `wants_longer`."""
    progress = progress.after(cases=run.cases.hash)
    if options.epochs is not None:
        return progress.prolonged(epochs=options.epochs, limit_seconds=None)
    limit = 60 * (options.max_minutes or 0)
    further = plan_length(run, replace(options, max_minutes=(limit - progress.seconds) / 60), report, follow)
    return progress.prolonged(
        epochs=progress.epoch + further.epochs,
        iterations_per_epoch=further.iterations_per_epoch,
        limit_seconds=limit,
    )


def _more(progress: TrainingProgress, options: TrainingOptions) -> bool:
    """Whether more is asked for than was done."""
    if options.epochs is not None:
        return options.epochs > progress.epochs
    most = max(progress.seconds, progress.limit_seconds or 0)
    return options.max_minutes is not None and 60 * options.max_minutes > most and not _same_minutes(progress, options)


def _same_minutes(progress: TrainingProgress, options: TrainingOptions) -> bool:
    """Whether the run was given these very minutes."""
    return progress.limit_seconds is not None and progress.limit_seconds == 60 * (options.max_minutes or 0)


def _too_short(fold: FoldFolder, asked: str, done: str) -> str:
    return (
        f"{fold.path} is trained already, for {done}: {asked} is not longer. Give more to train it longer, leave it "
        "out to keep it as it is, or give --restart to train anew."
    )


def _other_seed(progress: TrainingProgress, options: TrainingOptions, fold: FoldFolder) -> list[str]:
    if options.seed in (None, progress.seed):
        return []
    return [
        f"{fold.path}: this run was started with --seed {progress.seed}, not --seed {options.seed}: leave --seed out "
        "to go on, or give --restart to train anew."
    ]


def _other_length(progress: TrainingProgress, options: TrainingOptions, fold: FoldFolder) -> list[str]:
    """A run that is not finished keeps its length, or its schedule would break."""
    limit = progress.limit_seconds
    kept = f"--epochs {progress.epochs}" if limit is None else f"--max-minutes {limit / 60:g}"
    if options.epochs is not None:
        asked, same = f"--epochs {options.epochs}", limit is None and options.epochs == progress.epochs
    elif options.max_minutes is not None:
        asked, same = f"--max-minutes {options.max_minutes:g}", _same_minutes(progress, options)
    else:
        return []
    if same:
        return []
    name = asked.partition(" ")[0]
    return [
        f"{fold.path}: this run was started with {kept}, not {asked}, and is not finished: leave {name} out to go on. "
        f"Once it is finished, {name} beyond what was done trains it longer. Or give --restart to train anew."
    ]
