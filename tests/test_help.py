"""Every command's `--help`: it is there, it shows examples, and it loads nothing heavy."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import textdiffseg

REPOSITORY = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "pydantic", "monai", "rich", "SimpleITK", "nibabel", "matplotlib")


def commands() -> dict[str, str]:
    """Command name -> module, as installed."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    entries = dict(line.replace(" ", "").split("=") for line in lines)
    assert all(target.endswith(":main") for target in entries.values())
    return {name: target.removesuffix(":main") for name, target in entries.items()}


@pytest.mark.parametrize(("name", "module"), commands().items())
def test_help_is_light_and_shows_examples(name, module):
    code = (
        f"import sys; from {module} import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"found = [m for m in {HEAVY} if m in sys.modules]\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    usage, _, examples = done.stdout.partition("examples:")
    assert usage.startswith(f"usage: {name} ")
    assert name in examples, "--help shows no example"


@pytest.mark.parametrize(("name", "module"), commands().items())
def test_version_is_the_package_s_and_loads_nothing_heavy(name, module, tmp_path):
    """Run from the source tree alone, without anything that an installation writes."""
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        f"from {module} import main\n"
        "try:\n    main(['--version'])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"found = [m for m in {HEAVY} if m in sys.modules]\n"
        "assert not found, found"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, encoding="utf-8", check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name} {textdiffseg.__version__}\n"


@pytest.mark.parametrize(("name", "module"), commands().items())
def test_a_wrong_option_exits_with_2(name, module):
    code = f"import sys; from {module} import main; sys.exit(main(['--no-such-option']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert name in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_with_a_data_root_calls_it_root():
    for module in commands().values():
        if module.endswith("evaluate"):
            continue
        source = (REPOSITORY / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert "add_root(parser)" in source, module
