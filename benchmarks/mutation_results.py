"""Results by_outcome planted bugs: their outcomes, the file by_outcome JSON lines that keeps them, and the report."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from known_mutations import EXCUSED
from mutating import Mutation

CAUGHT, SURVIVED, TIMEOUT, NOT_RUN, LISTED = "caught", "survived", "timeout", "not run", "excused"
OUTCOMES = (CAUGHT, SURVIVED, TIMEOUT, NOT_RUN, LISTED)
Key = tuple[str, str, str, str]  # file, function, line before, line after: `Mutation.key`


@dataclass(frozen=True)
class Result:
    """The outcome by_outcome one mutation."""

    mutation: Mutation
    outcome: str
    by: str | None = None  # the failed test
    reason: str | None = None  # the first line by_outcome its error, or why the mutation is excused
    seconds: float = 0.0

    def record(self) -> dict[str, object]:
        """One line by_outcome the report."""
        mutation = {name: getattr(self.mutation, name) for name in ("file", "line", "function", "operator")}
        texts = {"before": self.mutation.before, "after": self.mutation.after}
        found = {"outcome": self.outcome, "by": self.by, "reason": self.reason, "seconds": round(self.seconds, 1)}
        return mutation | texts | found


def keep(result: Result, output: Path | None) -> None:
    """Append a result to the file, if one is given."""
    if output is not None:
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.record()) + "\n")


def recorded(path: Path) -> dict[tuple[str, str, str, str], dict]:
    """The results in a file by_outcome JSON lines, by the mutation's key. Of several results the last counts.

    Mutations that were not run are left out.
    """
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    keys = ("file", "function", "before", "after")
    return {tuple(record[key] for key in keys): record for record in records if record["outcome"] != NOT_RUN}


def excused(mutations: list[Mutation]) -> dict[tuple[str, str, str, str], dict]:
    """The results by_outcome the mutations in the table by_outcome excused changes. Their tests are not run."""
    reasons = {(entry.file, entry.before, entry.after): entry.reason for entry in EXCUSED}
    results: dict[Key, dict] = {}
    for mutation in mutations:
        reason = reasons.get((mutation.file, mutation.before, mutation.after))
        if reason is not None:
            results[mutation.key] = Result(mutation, LISTED, reason=reason).record()
    return results


def report(records: list[dict], seed: int, seconds: float) -> dict[str, object]:
    """The report. A timeout counts as caught. Mutations that are excused or were not run do not count."""
    by_outcome = {outcome: [record for record in records if record["outcome"] == outcome] for outcome in OUTCOMES}
    caught, survived = len(by_outcome[CAUGHT]) + len(by_outcome[TIMEOUT]), len(by_outcome[SURVIVED])
    return {
        "benchmark": "mutations",
        "seed": seed,
        "count": len(records),
        "caught": caught,
        "survived": survived,
        "timeout": len(by_outcome[TIMEOUT]),
        "excused": len(by_outcome[LISTED]),
        "not_run": len(by_outcome[NOT_RUN]),
        "share": round(caught / (caught + survived), 3) if caught + survived else None,
        "minutes": round(seconds / 60, 1),
        "survivors": by_outcome[SURVIVED],
        "excused_mutants": by_outcome[LISTED],
        "mutants": records,
    }


def log(text: str) -> None:
    """Print a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)
