"""A run in its driver's hands: the line to its tracking server, its outbox, and what its workers are told."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.console import command, say
from r2d2.engine.models import weights_file
from r2d2.engine.prepare import storage
from r2d2.files import whole_file

if TYPE_CHECKING:
    from r2d2.cluster.worker import Task
    from r2d2.tracking.runs import Run

PATIENCE_S = 10.0
"""How long a run that is over waits for a tracking server that does not answer."""


class Driven:
    """A run that goes on from now, with this process as its driver; any other driver of it has lost it.

    Args:
        run: The run.
        folder: Its folder, common to all nodes.

    Attributes:
        outbox: Where its driver writes down what it records.
        delivery: The line to its server, in a thread of its own.
        began_s: When it was created, in seconds of the clock, and `spent`, its costs so far.
        restarts: How often it has gone on after workers or a driver were lost.
    """

    def __init__(self, run: "Run", folder: Path) -> None:
        from r2d2.cluster.leaving import STOP
        from r2d2.tracking.delivery import Delivery, who_asked
        from r2d2.tracking.outbox import FOLDER, Outbox, seal
        from r2d2.tracking.runs import PARENT_TAG, SINCE_TAG
        from r2d2.training.state import Checkpoints

        self.run, self.folder, self._stop = run, folder, folder / STOP
        self._checkpoints = Checkpoints(folder)
        self._owner = self._checkpoints.take_over()
        self._stop.unlink(missing_ok=True)
        # What an earlier driver left goes first, an `end` perhaps; then the run goes on.
        outbox = folder / FOLDER
        self.delivery = Delivery(run.client, run.run_id, outbox, take_over=True, on_stop=self._asked_to_stop)
        seal(outbox)
        self.delivery.catch_up()
        before = run.start_again()
        self.outbox = Outbox(outbox, f"driver-{time.time_ns()}")
        self.delivery.start()
        self.began_s, self.spent = before.info.start_time / 1000, run.costs(before)
        tags = before.data.tags
        self._asked_before = who_asked(tags)
        self._waits: dict[str, str] = {}
        self._lock = threading.Lock()
        if tags.get("r2d2.waiting"):  # an earlier driver did
            self.outbox.tag(waiting="")
        self.restarts = int(tags.get("r2d2.restarts", 0))
        # A sweep's or a study's driver lets go of the runs below it, and begins them again, by itself.
        if before.info.status == "RUNNING" and SINCE_TAG in tags and PARENT_TAG not in tags:
            self.restarted("its driver was lost, or another has taken the run over from it")

    def on_queue(self, line: str) -> None:
        """Say that it waits for slots that others hold, or has them now; the run says so, too, while it waits."""
        say(line)
        self.waits("queue", line.partition("Waiting ")[2])

    def waits(self, who: str, what: str) -> None:
        """Have the run say what it waits for, or that it waits no more.

        Args:
            who: Who knows; what another has said stays.
            what: E.g. `for slots: ...`; empty once that is over.
        """
        with self._lock:
            self._waits[who] = what
            self.outbox.tag(waiting=next(filter(None, self._waits.values()), ""))

    def restarted(self, cause: str, traceback: str = "") -> None:
        """Write down that it goes on after a loss, and why."""
        self.restarts += 1
        self.outbox.tag(restarts=self.restarts, **{f"restart.{self.restarts}": cause})
        self.outbox.log({"time/restart": self.restarts}, step=self.restarts)  # when it was
        if traceback:
            self.outbox.attach_text(f"failures/restart-{self.restarts}.txt", traceback)

    def task(
        self,
        experiment: config.Experiment,
        prepared: Path,
        dataset: Mapping[str, Any],
        threads: int,
        began: float,
        trial: bool = False,
    ) -> "Task":
        """What its workers are told; see `r2d2.cluster.worker.Task`."""
        from r2d2.cluster.worker import Task
        from r2d2.tracking.runs import git_commit, versions

        weights = weights_file(experiment) if self._checkpoints.latest() is None else None
        return Task(
            experiment=experiment.to_yaml(),
            run_id=self.run.run_id,
            prepared=str(prepared),
            run_folder=str(self.folder),
            owner=self._owner,
            split={part: list(names) for part, names in dataset["split"].items()},
            threads=threads,
            began=began,
            asked=time.time(),
            git=git_commit(),
            packages=versions(),
            parents=dataset["parents"],
            weights=str(weights) if weights else None,
            trial=trial,
        )

    def renew(self, task: "Task") -> "Task":
        """The task of the next attempt, after the workers of this one were lost: what they still write is not read."""
        from r2d2.tracking.outbox import FOLDER, seal

        self._owner = self._checkpoints.take_over(self._owner)
        seal(self.folder / FOLDER, "attempt-*")
        return replace(task, owner=self._owner)

    def leave(self, word: str) -> None:
        """Have the workers leave: `word` is what the file of `cluster.leaving.STOP` is to hold."""
        from r2d2.cluster.leaving import TAGGED

        # A signal's word weighs more; and who has lost the run to another driver has nothing to say.
        signalled = self.asked and not self.asked.startswith(TAGGED)
        if not self.delivery.taken_over and not (word.startswith(TAGGED) and signalled):
            with whole_file(self._stop) as beside:
                beside.write_text(word)

    def _asked_to_stop(self, when: str, whom: str) -> None:
        from r2d2.cluster.leaving import TAGGED

        self.leave(f"{TAGGED} {when}\n{whom}")

    def why(self, left: str) -> str:
        """Why its workers left, with who asked them to and why, where somebody did."""
        from r2d2.cluster.leaving import ASKED, PAUSED, STOPPED, WAITED

        if left not in (ASKED[STOPPED].text, ASKED[PAUSED].text, WAITED):
            return left
        # One that was asked before it had this driver is only tested.
        whom = self.asked.partition("\n")[2] if self.asked else self._asked_before
        return f"{left} {whom}".rstrip()

    @property
    def asked(self) -> str:
        """Why its workers were asked to leave, or nothing."""
        try:
            return self._stop.read_text()
        except FileNotFoundError:
            return ""

    def end(self, status: str, reason: str) -> str:
        """Close the run's record: with what limited its speed and what it has cost in vain, if an epoch is over.

        Whatever it ends for: it is as its latest checkpoint knows it.

        Returns:
            What limited its speed, in words; or nothing.
        """
        from r2d2.training.state import Checkpoints
        from r2d2.training.verdict import verdict

        said = ""
        with contextlib.suppress(OSError):  # of a run that is lost with its storage that much can be said
            checkpoints = Checkpoints(self.folder)
            if (state := checkpoints.state()) and state.epoch:
                said, wasted = verdict(state.run_s, state.slowest_s), state.elapsed_s - state.best_elapsed_s
                told = {"time/wasted_s": wasted, "time/training_s": state.elapsed_s}
                self.outbox.log(told, checkpoints.number)
                self.outbox.tag(verdict=said)
        if any(self._waits.values()):
            self.outbox.tag(waiting="")
        self.outbox.end(status, reason)
        return said

    def close(self) -> int:
        """Deliver what there is, and end.

        Returns:
            How many records wait on the disk because the server does not answer; that is said, too.
        """
        from r2d2.tracking.outbox import FOLDER

        undelivered, folder = self.delivery.close(PATIENCE_S), self.folder / FOLDER
        if undelivered:
            say(
                f"The tracking server does not answer: {undelivered} records of the run wait in {folder}; "
                f"once it is back: {command()} runs send {self.run.run_id}"
            )
        return undelivered


def run_folder(experiment: config.Experiment, run_id: str) -> Path:
    """The folder of a run's checkpoints and outbox, common to all nodes."""
    return storage(experiment) / "runs" / run_id


@contextlib.contextmanager
def leaving_well(ask: Callable[[str], None]) -> Iterator[None]:
    """Turn the first SIGTERM or Ctrl-C into a wish that the workers find, and leave for, with a checkpoint.

    Args:
        ask: Called with the signal's name. The next one ends this process as usual.
    """
    before: dict[int, Any] = {}

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001
        ask(signal.Signals(number).name)
        say("Leaving after this step, with a checkpoint")
        signal.signal(number, before[number])

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, on_signal)
        yield
    finally:
        for installed, handler in before.items():
            signal.signal(installed, handler)
