"""Cases that were changed since a fold was trained or validated on them: a corrected mask, another scan, new folds.

`cases.json` keeps the hash of each stored case. A fold that lies outside a root, or an older one, is not compared.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from plans.errors import UserError, listed
from plans.layout import FoldFolder, PreprocessedFolder, root_of, tree
from plans.plan import Plan
from textdiffseg.data.checks import preprocessing_settings
from textdiffseg.data.splits import Split, read_stored_splits
from textdiffseg.data.store import read_record
from textdiffseg.evaluation.summary import Summary
from textdiffseg.folds.cases import read_cases, write_cases
from textdiffseg.folds.state import is_validated


def contents_of(folder: Path, cases: Iterable[str]) -> dict[str, str]:
    """The hash of each stored case in `folder`/cases."""
    return {case: read_record(folder, case).hash for case in cases}


def note_contents(fold: FoldFolder, folder: Path, validation: Iterable[str]) -> None:
    """Note the contents of the validation cases that were scored now."""
    cases = read_cases(fold)
    if cases is not None:
        write_cases(fold, cases.model_copy(update={"scored": contents_of(folder, validation)}))


def is_up_to_date(fold: FoldFolder) -> bool:
    """Whether a fold is validated, with scores of its own validation cases as they are stored now."""
    return is_validated(fold) and own_scores(fold) is not None and not changed_validation(fold)


def own_scores(fold: FoldFolder) -> Summary | None:
    """The scores of a fold; None if they are missing or damaged, or if they are of another fold's cases."""
    try:
        summary = Summary.read(fold.summary)
    except UserError:
        return None
    cases = read_cases(fold)
    return summary if cases is None or {case.case for case in summary.cases} <= {*cases.validation} else None


def changed_validation(fold: FoldFolder) -> tuple[str, ...]:
    """The validation cases that were changed since they were scored."""
    cases = read_cases(fold)
    return _changed(fold, cases.scored) if cases is not None else ()


def changes(fold: FoldFolder) -> Iterator[str]:
    """What was changed since a fold was trained and validated, a sentence each."""
    cases, source = read_cases(fold), _source(fold)
    if cases is None or source is None:
        return
    if source.splits.is_file() and has_other_split(fold, source):
        yield f"{fold.path} was trained on other cases than {source.splits.name} lists now. {_RESTART}"
    elif changed := _changed(fold, cases.contents):
        yield f"{fold.path}: changed since its training: {listed(changed)}. {_RESTART}"
    if changed := _changed(fold, cases.scored):
        yield f"{fold.path}: changed since its validation: {listed(changed)}. To score them again: tds_train --val."


_RESTART = "To train it on the present ones: tds_train --restart."


def has_other_split(fold: FoldFolder, source: PreprocessedFolder) -> bool:
    """Whether a fold was started with other cases than `splits.json` lists for it. False: its cases are not known."""
    cases = read_cases(fold)
    if cases is None:
        return False
    try:
        split = read_stored_splits(source.splits).split(fold.name)
    except UserError:  # there is no such fold any more
        return True
    return Split(train=cases.train, validation=cases.validation).sides != split.sides


def _source(fold: FoldFolder) -> PreprocessedFolder | None:
    """The stored cases of a fold; None if it does not lie below a root."""
    root = root_of(fold)
    if root is None or not fold.plan.is_file():
        return None
    plan = Plan.read(fold.plan)
    return PreprocessedFolder(tree(root, "preprocessed") / plan.dataset).at(plan.preset, plan.resolution)


def _changed(fold: FoldFolder, known: Mapping[str, str] | None) -> tuple[str, ...]:
    """The cases that are stored with another hash than `known`. Those stored for another plan are left out."""
    source = _source(fold)
    if source is None or not known:
        return ()
    settings, changed = preprocessing_settings(Plan.read(fold.plan)), []
    for case, content in known.items():
        with suppress(UserError):  # it is not stored any more
            record = read_record(source.path, case)
            if record.settings == settings and record.hash != content:
                changed.append(case)
    return tuple(sorted(changed))
