"""The lowest version that setup.cfg allows of every requirement but torch, as constraints for pip.

python tests/minimum.py > constraints.txt
"""

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).resolve().parent.parent / "setup.cfg"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?(?P<versions>[^;#\s]*)")
LOWEST = re.compile(r"(?:>=|==)([\w.*]+)")


def requirements(setup: Path = SETUP) -> dict[str, list[tuple[str, str]]]:
    """Of each extra, and of "" for the base, each requirement's name and its bounds (">=1.6,<1.7")."""
    found = configparser.ConfigParser(interpolation=None)
    found.read(setup, encoding="utf-8")
    texts = {"": found["options"]["install_requires"]} | dict(found["options.extras_require"])
    return {extra: [_parsed(line) for line in text.splitlines() if line.strip()] for extra, text in texts.items()}


def lowest(versions: str) -> str | None:
    """The version that the bounds begin with: "1.6" of ">=1.6,<1.7"."""
    match = LOWEST.match(versions)
    return match and match[1]


def constraints(setup: Path = SETUP) -> dict[str, str]:
    """Name -> lowest version. torch and the package's own extras are left out.

    Raises `ValueError` for a requirement without a lower bound.
    """
    bounds = {one for group in requirements(setup).values() for one in group if one[0] not in ("torch", "textdiffseg")}
    if unbounded := sorted(name for name, versions in bounds if lowest(versions) is None):
        raise ValueError(f"{setup}: no lowest version of {', '.join(unbounded)}")
    return {name: lowest(versions) or "" for name, versions in sorted(bounds)}


def _parsed(line: str) -> tuple[str, str]:
    match = REQUIREMENT.match(line.strip())
    if match is None:
        raise ValueError(f"not a requirement: {line}")
    return match["name"], match["versions"]


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in constraints().items()))
