"""Cases are worked on by a Dask cluster as they are inline."""

import os
import signal

import pytest

from plans.errors import UserError
from textdiffseg.execution import run_cases

pytestmark = pytest.mark.slow


def killed(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def squared(number: int) -> int:
    return number * number


def test_a_cluster_gives_the_same_results_in_order():
    distributed = pytest.importorskip("distributed", reason="make test-slow installs it")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        names = [str(number) for number in range(8)]
        found = list(run_cases(squared, range(8), names, 2, scheduler=cluster.scheduler_address))
    assert found == [number * number for number in range(8)]


def test_killed_workers_are_one_line():
    distributed = pytest.importorskip("distributed", reason="make test-slow installs it")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        pytest.raises(UserError, match="a case killed several workers"),
    ):
        list(run_cases(killed, [1], ["a"], 1, scheduler=cluster.scheduler_address))
