"""Checkpoints: everything that the next step depends on, in a folder a checkpoint, written beside and renamed.

A run's folder holds the folder of its latest attempt, `attempt-0002`, and that one `checkpoints/step-00000300/` and
`best/`. A checkpoint is `state.json` and `variables.npz`: plain arrays, no pickle.
"""

import errno
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2.errors import InputError
from r2d2.files import recover, remove_folder, same_file, whole_folder

if TYPE_CHECKING:
    import keras


class Superseded(RuntimeError):  # noqa: N818
    """Another driver, or a newer attempt, has taken the run over; this one must not write any more."""


@dataclass
class Seconds:
    """Where the time of steps went, of a worker or of the ring: waiting for images, computing, waiting for the ring."""

    input: float = 0.0
    compute: float = 0.0
    communication: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.input + self.compute + self.communication


@dataclass
class Watched:
    """What the sentinel has seen: smoothed values, their least ones, and how often a validation score was too low."""

    loss: float | None = None
    least_loss: float | None = None
    gradient: float | None = None
    least_gradient: float | None = None
    low_scores: int = 0


@dataclass
class State:
    """Where a run stands after `step` steps, `epoch` of its epochs being whole.

    Attributes:
        loss_sum: Of the steps of the epoch that is not whole.
        best_score: The best validation score, and `best_epoch` and `best_step` where it was.
        improved_score: The last one that was better than the one of its kind before by as much as early stopping asks
            for, and `improved_epoch` where it was.
        history: Every epoch's metrics, so that a restarted run can deliver those that were lost on the way.
        elapsed_s: Time of training and validation so far, without what was lost; `best_elapsed_s` at the best epoch.
        epoch_s: Where this worker's time of the epoch went that is not whole (after a resume rank 0's), `run_s` the
            ring's of the whole ones.
        slowest_s: In a ring of several, how long each worker was the slowest, by its name.
        rate_factor: What the sentinel has multiplied the rate with, in `sentinel_restarts` restarts.
        watched: What the sentinel has seen.
        precision: What the network computes in; empty before its first checkpoint.
        left: Why the training is over, if it ended early: what is left to do is the test. Else empty.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_score: float | None = None
    best_epoch: int = 0
    best_step: int = 0
    improved_score: float | None = None
    improved_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    elapsed_s: float = 0.0
    best_elapsed_s: float = 0.0
    epoch_s: Seconds = field(default_factory=Seconds)
    run_s: Seconds = field(default_factory=Seconds)
    slowest_s: dict[str, float] = field(default_factory=dict)
    rate_factor: float = 1.0
    sentinel_restarts: int = 0
    watched: Watched = field(default_factory=Watched)
    precision: str = ""
    left: str = ""


class Checkpoints:
    """The checkpoints of one run, as one attempt at it sees them.

    Whoever begins an attempt renames the folder of the one before, with all that is in it, to its own name. Of two who
    do so at once one comes first; and from then on every path that an older attempt knows leads nowhere, whatever it
    was in the middle of, also on a host that was cut off and comes back.

    Args:
        run_folder: The run's folder.
        keep: How many checkpoints stay, the best one aside.

    Attributes:
        owner: The name of the attempt, once it has begun.
    """

    def __init__(self, run_folder: Path, keep: int = 2) -> None:
        self.run_folder, self.keep, self.owner = run_folder, keep, ""

    @property
    def folder(self) -> Path:
        """The folder of this attempt, or, before it has begun, of the latest one."""
        return self.run_folder / (self.owner or self._newest() or _name(0))

    @property
    def number(self) -> int:
        """The number of that attempt, from 0."""
        return int(self.folder.name.rpartition("-")[2])

    @property
    def superseded(self) -> bool:
        """Whether a newer attempt has begun."""
        return not self.folder.is_dir()

    def take_over(self, after: str | None = None) -> str:
        """Take the run over from an attempt, and return the name of the new one, which its workers begin with.

        Args:
            after: The name of the attempt that this one follows; if None, whichever is the latest.

        Raises:
            Superseded: It was not the latest any more.
        """
        self.run_folder.mkdir(parents=True, exist_ok=True)
        while True:
            before = after or self._newest()
            owner = _name(int(before.rpartition("-")[2]) + 1 if before else 0)
            try:
                if before:
                    (self.run_folder / before).rename(self.run_folder / owner)
                else:
                    (self.run_folder / owner).mkdir()
                self.owner = owner
                return owner
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY):
                    raise
                if after:
                    raise Superseded(f"another driver has taken over the run in {self.run_folder}") from None

    def begin_attempt(self, owner: str) -> int:
        """Begin to work as the attempt that `take_over` named, in its workers, and return its number.

        Raises:
            Superseded: Another one has taken the run over.
        """
        self.owner = owner
        try:
            for place in (self.folder / "checkpoints", self.folder / "best"):
                place.mkdir(exist_ok=True)
                recover(place)
        except FileNotFoundError:
            raise self._superseded() from None
        return self.number

    def latest(self, before: int | None = None) -> Path | None:
        """The newest complete checkpoint, or None.

        Args:
            before: Of those of earlier steps than this.
        """
        for place in ("checkpoints", "best"):  # the best weights are one, too, should there be no other
            known = (self.folder / place).glob("step-*")
            if found := [path for path in known if before is None or _step(path) < before]:
                return max(found)
        return None

    def state(self) -> State | None:
        """The state in the newest complete checkpoint, or None."""
        latest = self.latest()
        return read_state(latest) if latest else None

    def best(self, state: State) -> Path:
        """The folder of the best weights, as `state` knows them."""
        return self.folder / "best" / f"step-{state.best_step:08d}"

    def sound(self, state: State, before: int | None) -> Path | None:
        """The checkpoint to go back to from trouble in `state`: the best weights, which have shown what they can do.

        Args:
            state: Where the run stands.
            before: Trouble that came suddenly has not touched earlier steps than this: the newest of those, if it is
                newer. What crept in may be in the latest checkpoint already.
        """
        best = self.best(state)
        if before is None:
            return best
        found = (self.latest(before), best if state.best_score else None)
        return max(filter(None, found), key=lambda path: path.name, default=None)

    def save(self, state: State, arrays: Sequence[np.ndarray]) -> None:
        """Write a checkpoint, also as the best one if `state` says so, and remove what it replaces.

        The best weights that the previous checkpoint knows go last, so that at every moment the latest checkpoint and
        the best one it names are both there.

        Raises:
            Superseded: A newer attempt has begun.
        """
        try:
            self._save(state, arrays)
        except FileNotFoundError:
            if self.superseded:
                raise self._superseded() from None
            raise

    def _save(self, state: State, arrays: Sequence[np.ndarray]) -> None:
        named = {f"{number:04d}": array for number, array in enumerate(arrays)}
        latest, written = self.folder / "checkpoints" / f"step-{state.step:08d}", None
        for place in [self.best(state), latest] if state.best_step == state.step else [latest]:
            with whole_folder(place, replace=True) as beside:
                if written:
                    same_file(written / "variables.npz", beside / "variables.npz")
                else:
                    np.savez(beside / "variables.npz", **named)
                (beside / "state.json").write_text(json.dumps(asdict(state)))
            written = place
        for old in sorted(latest.parent.glob("step-*"))[: -self.keep]:
            remove_folder(old)
        for old in self.best(state).parent.glob("step-*"):
            if old != self.best(state):
                remove_folder(old)

    def take_from(self, folder: Path) -> None:
        """Go on from where another run stands: its latest checkpoint and best weights take the place of this one's.

        Args:
            folder: That run's; it may be going on.
        """
        other = Checkpoints(folder)
        for tries_left in (4, 3, 2, 1, 0):
            latest = other.latest()
            if latest is None:
                return
            try:
                best = other.best(read_state(latest))
                taken = [(best, self.folder / "best" / best.name), (latest, self.folder / "checkpoints" / latest.name)]
                for source, place in taken:
                    with whole_folder(place, replace=True) as beside:
                        for file in source.iterdir():
                            same_file(file, beside / file.name)
            except FileNotFoundError:  # removed meanwhile: there is a later one
                if not tries_left:
                    raise
                continue
            for _, place in taken:
                for own in place.parent.glob("step-*"):
                    if own != place:
                        remove_folder(own)
            return

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which a run that goes back will come to again."""
        for path in (self.folder / "checkpoints").glob("step-*"):
            if _step(path) > step:
                remove_folder(path)

    def _newest(self) -> str | None:
        return max((path.name for path in self.run_folder.glob("attempt-*")), default=None)

    def _superseded(self) -> Superseded:
        return Superseded(
            f"{self.owner} of the run in {self.run_folder}: another driver or a newer attempt goes on with it"
        )


def _name(attempt: int) -> str:
    return f"attempt-{attempt:04d}"


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


class Writer:
    """Writes checkpoints while the training goes on: one at a time, in order."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._last: Future | None = None

    def save(self, state: State, variables: "Sequence[keras.Variable]", then: Callable[[State], None]) -> None:
        """Write a checkpoint of what state and variables are now, then call `then` with that state.

        Raises:
            Superseded: A newer attempt has begun: told by the checkpoint before, or by `wait`.
        """
        self.wait()
        arrays, kept = [variable.numpy() for variable in variables], deepcopy(state)

        def write() -> None:
            self._checkpoints.save(kept, arrays)
            then(kept)

        self._last = self._pool.submit(write)

    @property
    def idle(self) -> bool:
        """Whether nothing is being written."""
        return self._last is None or self._last.done()

    def wait(self) -> None:
        """Wait until what was saved is on the disk; raise what kept it from there."""
        last, self._last = self._last, None
        if last is not None:
            last.result()


def restore(checkpoint: Path, variables: "Sequence[keras.Variable]") -> State:
    """Set the variables to a checkpoint's values and return its state.

    Raises:
        InputError: The checkpoint belongs to another network or optimizer.
    """
    state = read_state(checkpoint)
    with np.load(checkpoint / "variables.npz", allow_pickle=False) as arrays:
        if len(arrays.files) != len(variables):
            raise InputError(
                f"{checkpoint} holds {len(arrays.files)} variables, network and optimizer have {len(variables)}: "
                "another version of R2D2 began the run; start a new one"
            )
        for number, variable in enumerate(variables):
            variable.assign(arrays[f"{number:04d}"])
    return state


def read_state(checkpoint: Path) -> State:
    """A checkpoint's state alone."""
    values: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    parts = {"epoch_s": Seconds, "run_s": Seconds, "watched": Watched}
    return State(**{key: parts[key](**value) if key in parts else value for key, value in values.items()})
