"""Cases that were changed since a fold was trained or validated on them: a corrected mask, another scan, new folds.

`cases.json` keeps the hash of each stored case. A fold that lies outside a root, or an older one, is not compared.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plans.errors import UserError, listed
from plans.layout import FoldFolder, PreprocessedFolder, root_of, tree
from textdiffseg.data.checks import preprocessing_settings
from textdiffseg.data.splits import Split, read_stored_splits
from textdiffseg.data.store import read_record
from textdiffseg.evaluation.summary import Summary
from textdiffseg.folds.cases import read_cases, write_cases
from textdiffseg.folds.plans import plan_of_fold
from textdiffseg.folds.state import is_validated

_RESTART = "To train it on the present ones: tds_train --restart."


def contents_of(folder: Path, cases: Iterable[str]) -> dict[str, str]:
    """The hash of each stored case in `folder`/cases."""
    return {case: read_record(folder, case).hash for case in cases}


def note_contents(fold: FoldFolder, folder: Path, validation: Iterable[str]) -> None:
    """Note the contents of the validation cases that were scored now."""
    cases = read_cases(fold)
    if cases is not None:
        write_cases(fold, cases.model_copy(update={"scored": contents_of(folder, validation)}))


def current_scores(fold: FoldFolder) -> Summary | None:
    """The scores of a fold's present weights on its validation cases as they are stored now; None: there are none."""
    return None if not is_validated(fold) or changed_validation(fold) else own_scores(fold)


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
    cases, stored = read_cases(fold), _StoredCases.of(fold)
    return () if cases is None or stored is None else stored.changed(cases.scored)


def changes(fold: FoldFolder) -> Iterator[str]:
    """What was changed since a fold was trained and validated, a sentence each."""
    cases, stored = read_cases(fold), _StoredCases.of(fold)
    if cases is None or stored is None:
        return
    splits = stored.source.splits
    if splits.is_file() and has_other_split(fold, stored.source):
        yield f"{fold.path} was trained on other cases than {splits.name} lists now. {_RESTART}"
    elif changed := stored.changed(cases.contents):
        yield f"{fold.path}: changed since its training: {listed(changed)}. {_RESTART}"
    if changed := stored.changed(cases.scored):
        yield f"{fold.path}: changed since its validation: {listed(changed)}. To score them again: tds_train --val."


def has_other_split(fold: FoldFolder, source: PreprocessedFolder) -> bool:
    """Whether a fold was started with other cases than `splits.json` lists for it. False: its cases are not known."""
    cases = read_cases(fold)
    if cases is None:
        return False
    splits = read_stored_splits(source.splits)
    if fold.name not in splits.names:
        return True
    return Split(train=cases.train, validation=cases.validation).sides != splits.split(fold.name).sides


@dataclass(frozen=True)
class _StoredCases:
    """The stored cases of a fold's data set, and the settings of its plan, with which they were preprocessed."""

    source: PreprocessedFolder
    settings: dict[str, str]

    @classmethod
    def of(cls, fold: FoldFolder) -> "_StoredCases | None":
        """None if the fold does not lie below a root."""
        root = root_of(fold)
        if root is None or not fold.plan.is_file():
            return None
        plan = plan_of_fold(fold)
        source = PreprocessedFolder(tree(root, "preprocessed") / plan.dataset).at(plan.preset, plan.resolution)
        return cls(source, preprocessing_settings(plan))

    def changed(self, known: Mapping[str, str] | None) -> tuple[str, ...]:
        """The cases that are stored with another hash than `known`. Those stored for another plan are left out."""
        changed = []
        for case, content in (known or {}).items():
            with suppress(UserError):  # it is not stored any more
                record = read_record(self.source.path, case)
                if record.settings == self.settings and record.hash != content:
                    changed.append(case)
        return tuple(sorted(changed))
