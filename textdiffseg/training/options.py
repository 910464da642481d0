"""The user's choices for a training run. They are checked where they are made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from plans.errors import UserError
from plans.presets import TRACKERS, Tracker
from plans.records import MAX_INTEGER, MAX_NUMBER
from textdiffseg.resources import choose_device, loading_workers

DEVICES = ("cpu", "cuda")
LEAST = {"epochs": 1, "workers": 0, "seed": 0}  # of the options that are whole numbers
SWITCHES = ("compile", "restart")
MAX_MINUTES = MAX_NUMBER / 60  # a checkpoint holds them in seconds


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The user's choices. None: the plan decides. `epochs` and `max_minutes` exclude each other.

    Raises `UserError` with a line for each value that breaks its rule.
    """

    epochs: int | None = None  # 1 or more
    max_minutes: float | None = None  # above 0
    device: str | None = None  # "cpu" or "cuda"; None: cuda if there is a GPU
    workers: int | None = None  # processes that load and augment; None: as many as the device needs
    seed: int | None = None  # None: 0, or the seed of the run that is resumed
    compile: bool = True  # the network, on a GPU
    restart: bool = False  # train from the start; the first checkpoint deletes the old fold
    init_from: str | Path | None = None  # folder of a trained model, whose weights a new run starts from; kept as Path
    track: Tracker | None = None  # also write the curves for it, into the folder of the fold

    def __post_init__(self) -> None:
        faults = tuple(_faults(vars(self)))
        if faults:
            raise UserError(*faults)
        kinds: dict[str, type] = {"max_minutes": float, "init_from": Path}
        kinds |= dict.fromkeys(LEAST, int) | dict.fromkeys(SWITCHES, bool)
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, kind(value))  # numbers of numpy do not fit into JSON

    @property
    def chosen_device(self) -> str:
        """The device to train on. `UserError` for cuda without a GPU."""
        return choose_device(self.device)

    @property
    def chosen_workers(self) -> int:
        """The number of processes that load and augment, if shared memory allows it."""
        return loading_workers(self.chosen_device) if self.workers is None else self.workers


def _faults(options: Mapping[str, object]) -> Iterator[str]:
    """A line for each rule that the values break."""
    for name, least in LEAST.items():
        rule = None if options[name] is None else _broken_by(options[name], least)
        if rule is not None:
            yield _fault(options, name, rule)
    minutes = options["max_minutes"]
    if minutes is not None and not _is_length(minutes):
        yield _fault(options, "max_minutes", f"a number above 0 and up to {MAX_MINUTES:.2g}")
    if options["epochs"] is not None and minutes is not None:
        yield (
            "epochs and max_minutes: expected only one of them, because each sets the length of the training, found "
            f"{options['epochs']!r:.80} and {minutes!r:.80}."
        )
    for name, choices in (("device", DEVICES), ("track", TRACKERS)):
        value = options[name]
        if value is not None and not (isinstance(value, str) and value in choices):
            yield _fault(options, name, " or ".join(choices))
    for name in SWITCHES:
        if not isinstance(options[name], bool | np.bool_):
            yield _fault(options, name, "True or False")
    model = options["init_from"]
    if model is not None and not (isinstance(model, str | Path) and str(model)):
        yield _fault(options, "init_from", "the folder of a trained model, as a str or a Path")


def _fault(options: Mapping[str, object], name: str, rule: str) -> str:
    return f"{name}: expected {rule}, found {options[name]!r:.80}."


def _broken_by(value: object, least: int) -> str | None:
    """The rule that a whole number breaks; None: it breaks none."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        return f"a whole number of at least {least}"
    return f"a whole number of at most {MAX_INTEGER}" if int(value) > MAX_INTEGER else None


def _is_length(minutes: object) -> bool:
    if not isinstance(minutes, Real) or isinstance(minutes, bool):
        return False
    return bool(minutes <= MAX_MINUTES) and not minutes <= 0
