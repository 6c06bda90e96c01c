"""A sweep or a study in its driver's hands, with the runs below it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from filelock import FileLock, Timeout

from r2d2 import config
from r2d2.console import command
from r2d2.engine.driven import Driven, run_folder
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.cluster.placement import Placement
    from r2d2.tracking.runs import Run

M = TypeVar("M", config.Sweep, config.Study)


def unfinished(verb: str, name: str, given: M | None, read: "Callable[[Run], M]") -> "tuple[Run, M]":
    """A sweep or a study that did not finish: its run, and what that was made from.

    Args:
        verb: The command that goes on with it.
        name: Its run's id or name.
        given: What it is said to be, if anything is said.
        read: What a run was made from.

    Raises:
        InputError: There is no such run, it is finished or another command's, or it was made from something else.
    """
    from r2d2.tracking import runs, store

    run = runs.find(store.connect(store.resolve(given.experiment.tracking.uri if given else None)), name)
    run.check_resumable(verb)
    recorded = read(run)
    if given not in (None, recorded):
        raise InputError(f"--resume {name}: its settings were others; it goes on with those it began with")
    return run, recorded


@contextlib.contextmanager
def only_driver(folder: Path, told: str) -> Iterator[None]:
    """Keep a second driver from the same sweep or study, which is `told` as this."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "driver.lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"{told}: it goes on in another process") from None


class Part:
    """A run that is trained, as its sweep's or study's driver holds it.

    Args:
        run: The run.
        experiment: What it does.
        placement: What it takes of the cluster.
        monitor_s: How often its nodes are watched; None: not for it, its own costs are counted all the same.
    """

    def __init__(
        self, run: "Run", experiment: config.Experiment, placement: "Placement", monitor_s: float | None
    ) -> None:
        from r2d2.cluster.monitors import Monitors

        self.folder = run_folder(experiment, run.run_id)
        self.driven = driven = Driven(run, self.folder)
        self._began = time.monotonic()
        self._costs: Monitors = Monitors(monitor_s, driven.outbox, driven.began_s, placement, driven.spent)

    @property
    def seconds(self) -> float:
        """Since this process began with it."""
        return round(time.monotonic() - self._began, 2)

    def end(self, status: str | None, reason: str) -> None:
        """Close the run, or let go of it."""
        self._costs.close()
        if status is not None:
            self.driven.end(status, reason)
        self.driven.close()


P = TypeVar("P", bound=Part)


class Many(Generic[P]):
    """A sweep or a study that goes on from now; what its runs are, its own class says.

    Args:
        told: What it is called, with its run's id: `sweep 0a1b...`.
        verb: The command that goes on with it.
        run: Its run.
        folder: That one's folder.
    """

    def __init__(self, told: str, verb: str, run: "Run", folder: Path) -> None:
        self.folder, self._told, self._verb = folder, told, verb
        self._running: dict[int, P] = {}
        self._leaving = ""
        self._driven = Driven(run, folder)

    @property
    def leaving(self) -> bool:
        """Whether it was asked to leave."""
        return bool(self._leaving)

    def look(self) -> None:
        """Called every now and then: whether somebody has tagged it with the wish that it stops."""
        if not self._leaving and (why := self._driven.asked):
            self._leave(why)

    def _leave(self, why: str) -> None:
        self._leaving = why
        for running in self._running.values():
            running.driven.leave(why)

    def _check_left(self) -> None:
        """Raise a WorkFailed if it was asked to leave."""
        if self._leaving:
            resumed = f"{command()} {self._verb} --resume {self._driven.run.run_id}"
            raise WorkFailed(f"{self._told} was stopped; go on with {resumed}")

    @contextlib.contextmanager
    def _ending(self, done: str) -> Iterator[None]:
        """Close its run behind the block, as `done` or as what that raises says, and those that still go on."""
        from r2d2.cluster.leaving import ASKED, STOPPED

        reason, status = "a fault in the driver", "FAILED"
        try:
            yield
            reason, status = done, "FINISHED"
        except (WorkFailed, InputError) as error:
            reason = str(error)
            if self._leaving:
                tagged = bool(self._driven.asked)
                reason = self._driven.why(ASKED[STOPPED].text) if tagged else f"left on {self._leaving}"
                status = "KILLED"
            raise
        except KeyboardInterrupt:
            reason, status = "KeyboardInterrupt in the driver", "KILLED"
            raise
        finally:
            for running in self._running.values():
                running.end("KILLED", reason)
            self._driven.outbox.end(status, reason)
            self._driven.close()
