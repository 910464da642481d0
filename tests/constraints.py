"""The versions of this environment, as constraints for pip: of every requirement, and of all that these require.

python tests/constraints.py > constraints.txt
"""

import configparser
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SETUP = Path(__file__).resolve().parent.parent / "setup.cfg"


def requirements(setup: Path = SETUP) -> list[Requirement]:
    """The requirements of all extras and of the base, without the package itself."""
    found = configparser.ConfigParser(interpolation=None)
    found.read(setup, encoding="utf-8")
    texts = found["options"]["install_requires"], *found["options.extras_require"].values()
    listed = [Requirement(line) for text in texts for line in text.splitlines() if line.strip()]
    return [one for one in listed if one.name != "textdiffseg"]


def constraints() -> dict[str, str]:
    """Name -> version. Raises `PackageNotFoundError` if a requirement is not installed."""
    left, done = requirements(), set()
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        for extra in {(name, ""), *((name, extra) for extra in one.extras)} - done:
            done.add(extra)
            inner = map(Requirement, requires(name) or ())
            left += [other for other in inner if not other.marker or other.marker.evaluate({"extra": extra[1]})]
    names = sorted({name for name, _ in done})
    return {name: version(name).partition("+")[0] for name in names}  # torch's builds for CPU and CUDA share a number


if __name__ == "__main__":
    print("\n".join(f"{name}=={number}" for name, number in constraints().items()))
