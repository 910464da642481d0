"""The user's choices for a training run. They are checked where they are made."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plans.choices import TRACKERS, Tracker
from plans.errors import UserError
from plans.records import MAX_NUMBER
from textdiffseg.arguments import check_choice, path_of, positive, whole
from textdiffseg.resources import DEVICES, choose_device, loading_workers

MIN_VALUES = {"epochs": 1, "workers": 0, "seed": 0}  # of the options that are whole numbers
MAX_MINUTES = MAX_NUMBER / 60  # a checkpoint holds them in seconds


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The user's choices. None: the plan decides. `epochs` and `max_minutes` exclude each other.

    Raises `UserError` for a value that breaks its rule.
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
        if self.epochs is not None and self.max_minutes is not None:
            raise UserError(
                f"epochs and max_minutes: each sets the length of the training; found {self.epochs} and "
                f"{self.max_minutes}. Give one of them."
            )
        given: dict[str, Any] = {name: value for name, value in vars(self).items() if value is not None}
        numbers = [name for name in MIN_VALUES if name in given]
        checked: dict[str, object] = {name: whole(name, given[name], MIN_VALUES[name]) for name in numbers}
        if "max_minutes" in given:
            checked["max_minutes"] = positive("max_minutes", self.max_minutes, MAX_MINUTES)
        if "init_from" in given:
            checked["init_from"] = path_of(given["init_from"])
        for name, choices in (("device", DEVICES), ("track", TRACKERS)):
            if name in given:
                check_choice(name, given[name], choices)
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # numbers of numpy do not fit into JSON

    @property
    def chosen_device(self) -> str:
        """The device to train on. `UserError` for cuda without a GPU."""
        return choose_device(self.device)

    @property
    def chosen_workers(self) -> int:
        """The number of processes that load and augment, if shared memory allows it."""
        return loading_workers(self.chosen_device) if self.workers is None else self.workers
