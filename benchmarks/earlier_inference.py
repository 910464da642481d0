"""The prediction of one scan by an earlier commit, for `inference.py --against`. It fits the API of commit 7c4106f.

    PYTHONPATH=TREE python benchmarks/earlier_inference.py SCAN OUT LABELS D H W DZ DY DX

TREE is the source of that commit. D H W is the patch in voxels and DZ DY DX the plan's spacing in mm. The network takes
no time. Prints seconds, CPU seconds and peak memory as JSON.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from null_network import null_logits, null_plan, null_stages
from peaks import measured

from plans.plan import Plan
from textdiffseg.inference.export import Job, predict_scan
from textdiffseg.inference.predictor import BATCH, Predictor
from textdiffseg.inference.prompting import Asked
from textdiffseg.inference.scan import Calibrated
from textdiffseg.inference.settings import Settings
from textdiffseg.queries import Queries


def main() -> int:
    """Predict the scan, and print its cost."""
    scan, out, labels = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    patch, spacing = tuple(map(int, sys.argv[4:7])), tuple(map(float, sys.argv[7:10]))
    job = job_of(plan_of(patch, spacing, labels), out)
    _, cost = measured(predict_scan, job, "ct", (scan,))
    peak = round(cost.peak_mb / 1000, 2)
    print(json.dumps({"s": round(cost.seconds, 2), "cpu_s": round(cost.cpu_seconds, 2), "peak_gb": peak}))
    return 0


def job_of(plan: Plan, out: Path) -> Job:
    """A prediction into a folder, with the network that takes no time."""
    predictor = Predictor([SimpleNamespace(plan=plan)], Settings(steps=1, samples=1, mirror_axes=()))
    made = null_logits(plan.patch, len(plan.labels), BATCH)
    predictor._logits = lambda model, patches, z_T, queries: iter([made[: len(patches)]])
    numbers, names = torch.arange(1, 1 + len(plan.labels))[None], tuple(label.name for label in plan.labels)
    vectors, tokens = torch.zeros(1, len(names), 1), torch.zeros(1, 1, 1)
    queries = Queries(numbers, vectors, tokens, torch.ones(1, 1, dtype=torch.bool))
    asked = Asked(queries, names, tuple(label.value for label in plan.labels))
    return Job(Calibrated(predictor), asked, "0" * 64, ("0",), "best", out)


def plan_of(patch: tuple[int, ...], spacing: tuple[float, ...], labels: int) -> Plan:
    """A plan for CT. No network is built."""
    return Plan.model_validate(
        null_plan(patch, spacing, labels) | {"crop_to_nonzero": False, "stages": null_stages(1, 2)}
    )


if __name__ == "__main__":
    sys.exit(main())
