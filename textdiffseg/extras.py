"""Optional libraries. Prediction and planning need none of them."""

from importlib.util import find_spec

from plans.errors import UserError

# Extra of setup.cfg -> the modules that it installs and the library imports.
REPORT = ("surface_distance", "matplotlib")
EXTRAS = {
    "report": REPORT,
    "train": ("batchgeneratorsv2", "batchgenerators", "monai", "einops", *REPORT),
    "dicom": ("pydicom", "highdicom", "contourpy"),
    "cluster": ("distributed",),
    "notebook": ("ipyniivue", "matplotlib"),
    "track": ("tensorboard",),
    "openvino": ("openvino",),
}
# Modules that no extra installs. With its own requirements, this one would replace torch's CPU build by one with CUDA.
ALONE = {
    "dynamic_network_architectures": "pip install --no-deps 'dynamic-network-architectures>=0.3.1,<0.5'",
}


def require(extra: str, user: str, *modules: str) -> None:
    """Raise `UserError` if a library of an extra is not installed. Nothing is imported.

    Args:
        extra: the extra of setup.cfg that installs them.
        user: the command or option that needs them.
        modules: top-level modules. Without any: all modules of the extra.
    """
    missing = missing_modules(extra, *modules)
    if missing:
        commands = dict.fromkeys(ALONE.get(name, advice(extra)) for name in missing)
        raise UserError(f"{user} needs {_listed(missing)}: {', and '.join(commands)}")


def missing_modules(extra: str, *modules: str) -> list[str]:
    """The modules of an extra that are not installed; with `modules`, those of them. Nothing is imported."""
    return [name for name in modules or EXTRAS[extra] if not _installed(name)]


def advice(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'textdiffseg[{extra}]'"


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """The extra that installs the module that an import did not find, or None if no extra does."""
    name = (error.name or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if name in modules), None)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a module that is blocked, or one without a specification
        return False


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
