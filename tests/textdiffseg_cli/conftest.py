"""Helpers for tests of how a command ends."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def raiser() -> Callable[[BaseException], Callable[[], None]]:
    """A function that returns work that raises an error."""

    def of(error: BaseException) -> Callable[[], None]:
        def work() -> None:
            raise error

        return work

    return of


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs Python code in a shell line. `$RUN` stands for the command."""

    def run_in_shell(code: str, shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
        begin = "import sys; from textdiffseg_cli.common import print_lines, run; "
        command = f'{sys.executable} -c "$CODE"'
        return subprocess.run(
            ["bash", "-c", shell.replace("$RUN", command)],
            capture_output=True,
            check=False,
            timeout=60,
            encoding="latin-1",
            env={**os.environ, "CODE": begin + code, **environment},
        )

    return run_in_shell
