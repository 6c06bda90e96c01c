"""Checkpoints: everything that the next step depends on, in a folder a checkpoint, written beside and renamed.

A run's folder holds `attempt.json` (who may write), `checkpoints/epoch-00003/` and `best/`. A checkpoint is
`state.json` and `variables.npz`: plain arrays, no pickle.
"""

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2.files import whole_file, whole_folder

if TYPE_CHECKING:
    import keras

KEPT = 2
"""How many of the latest checkpoints stay."""


class Superseded(RuntimeError):  # noqa: N818
    """Another driver, or a newer attempt, has taken the run over; this one must not write any more."""


@dataclass
class State:
    """Where a run stands after `epoch` whole epochs and `step` steps.

    `history` holds every epoch's metrics, so that a restarted run can deliver those that were lost on the way.
    """

    epoch: int = 0
    step: int = 0
    best_score: float | None = None
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one run, as one attempt at it sees them.

    A driver takes the run over once; its workers begin an attempt each time they are started. Who is no longer the
    latest of both cannot write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner, self.attempt = "", -1

    def take_over(self) -> str:
        """Take the run over from any older driver and return what this one's workers begin attempts with."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.owner = uuid.uuid4().hex
        self._write_owner(self._current()[1])
        return self.owner

    def begin_attempt(self, owner: str) -> int:
        """Take the run over from the driver's older attempts and return the number of this one, from 0.

        Raises:
            Superseded: Another driver has taken the run over.
        """
        current, number = self._current()
        if current != owner:
            raise Superseded(f"another driver has taken over the run in {self.folder}")
        self.owner = owner
        self._write_owner(number + 1)
        return self.attempt

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return max((self.folder / "checkpoints").glob("epoch-*"), default=None)

    def best(self, state: State) -> Path:
        """The folder of the best weights, as `state` knows them."""
        return self.folder / "best" / f"epoch-{state.best_epoch:05d}"

    def save(self, state: State, variables: "Sequence[keras.Variable]") -> None:
        """Write a checkpoint, also as the best one if `state` says so, and remove what it replaces.

        The best weights that the previous checkpoint knows go last, so that at every moment the latest checkpoint and
        the best one it names are both there.

        Raises:
            Superseded: A newer attempt has begun.
        """
        if self._current() != (self.owner, self.attempt):
            raise Superseded(f"attempt {self.attempt} of the run in {self.folder} has been superseded")
        arrays = {f"{number:04d}": np.asarray(variable.value) for number, variable in enumerate(variables)}
        latest = self.folder / "checkpoints" / f"epoch-{state.epoch:05d}"
        for place in [self.best(state), latest] if state.best_epoch == state.epoch else [latest]:
            shutil.rmtree(place, ignore_errors=True)
            with whole_folder(place) as beside:
                np.savez(beside / "variables.npz", **arrays)
                (beside / "state.json").write_text(json.dumps(asdict(state)))
        for old in sorted(latest.parent.glob("epoch-*"))[:-KEPT]:
            shutil.rmtree(old)
        for old in self.best(state).parent.glob("epoch-*"):
            if old != self.best(state):
                shutil.rmtree(old)

    def _current(self) -> tuple[str, int]:
        try:
            values = json.loads((self.folder / "attempt.json").read_text())
        except FileNotFoundError:
            return "", -1
        return values["owner"], values["attempt"]

    def _write_owner(self, attempt: int) -> None:
        self.attempt = attempt
        with whole_file(self.folder / "attempt.json") as beside:
            beside.write_text(json.dumps({"owner": self.owner, "attempt": attempt}))


def restore(checkpoint: Path, variables: "Sequence[keras.Variable]") -> State:
    """Set the variables to a checkpoint's values and return its state.

    Raises:
        ValueError: The checkpoint belongs to another network or optimizer.
    """
    values: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    with np.load(checkpoint / "variables.npz", allow_pickle=False) as arrays:
        if len(arrays.files) != len(variables):
            raise ValueError(f"{checkpoint} holds {len(arrays.files)} variables, the network has {len(variables)}")
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"{number:04d}"])
    return State(**values)
