"""Checkpoints: everything that the next step depends on, in a folder a checkpoint, written beside and renamed.

A run's folder holds `attempt` (the number of the attempt that may write), `checkpoints/epoch-00003/` and `best/`. A
checkpoint is `state.json` and `variables.npz`: plain arrays, no pickle.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

KEPT = 2
"""How many of the latest checkpoints stay."""


class Superseded(RuntimeError):  # noqa: N818
    """A newer attempt of the run has started; this one must not write any more."""


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
    """The checkpoints of one run, as one attempt at it sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.attempt = -1

    def begin_attempt(self) -> int:
        """Take the run over from any older attempt and return the number of this one, from 0."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.attempt = self._current_attempt() + 1
        beside = self.folder / f".attempt-{os.getpid()}"
        beside.write_text(str(self.attempt))
        beside.replace(self.folder / "attempt")
        return self.attempt

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        return max((self.folder / "checkpoints").glob("epoch-*"), default=None)

    def best(self, state: State) -> Path:
        """The folder of the best weights, as `state` knows them."""
        return self.folder / "best" / f"epoch-{state.best_epoch:05d}"

    def save(self, state: State, variables: Sequence[keras.Variable]) -> None:
        """Write a checkpoint, also as the best one if `state` says so, and remove what it replaces.

        The best weights that the previous checkpoint knows go last, so that at every moment the latest checkpoint and
        the best one it names are both there.

        Raises:
            Superseded: A newer attempt has begun.
        """
        if self._current_attempt() != self.attempt:
            raise Superseded(f"attempt {self.attempt} of the run in {self.folder} has been superseded")
        beside = self.folder / f".writing-{self.attempt}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        arrays = {f"{number:04d}": np.asarray(variable.value) for number, variable in enumerate(variables)}
        np.savez(beside / "variables.npz", **arrays)
        (beside / "state.json").write_text(json.dumps(asdict(state)))

        if state.best_epoch == state.epoch:
            copy = self.folder / f".best-{self.attempt}"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(beside, copy)
            _move(copy, self.best(state))
        latest = self.folder / "checkpoints" / f"epoch-{state.epoch:05d}"
        _move(beside, latest)
        for old in sorted(latest.parent.glob("epoch-*"))[:-KEPT]:
            shutil.rmtree(old)
        for old in self.best(state).parent.glob("epoch-*"):
            if old != self.best(state):
                shutil.rmtree(old)

    def _current_attempt(self) -> int:
        try:
            return int((self.folder / "attempt").read_text())
        except FileNotFoundError:
            return -1


def restore(checkpoint: Path, variables: Sequence[keras.Variable]) -> State:
    """Set the variables to a checkpoint's values and return its state.

    Raises:
        ValueError: The checkpoint belongs to another network or optimizer.
    """
    values: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    with np.load(checkpoint / "variables.npz", allow_pickle=False) as arrays:
        if len(arrays.files) < len(variables):
            raise ValueError(f"{checkpoint} holds {len(arrays.files)} variables, the network has {len(variables)}")
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"{number:04d}"])
    return State(**values)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    source.rename(target)
