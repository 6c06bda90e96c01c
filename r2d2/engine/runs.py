"""Runs that go on or went on without their server: ask one to stop, send what was kept back."""

import time
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.console import command, person, say
from r2d2.engine.prepare import storage
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.engine.jobs import JobRow

PATIENCE_S = 900.0
LONG_PATIENCE_S = 24 * 3600.0
"""The same where the run is asked to leave later: nobody knows how long its epochs are."""
MOMENT = {"now": "its present step", "epoch": "its present epoch", "checkpoint": "its next checkpoint"}


def stop(
    name: str, after: str = "now", reason: str = "", by: str | None = None, wait: bool = True, pause: bool = False
) -> dict[str, Any]:
    """Ask a run to leave well, with a checkpoint and evaluated as it is, and wait until it has.

    A sweep's trials leave, and `tune --resume` goes on with them; a trial is not evaluated, and its sweep goes on. A
    scaling study and its runs likewise. So a sweep or a study as a whole is always paused.

    Args:
        name: The run's id or name.
        after: `now` is after its present step; `epoch` after the present epoch; `checkpoint` after the next checkpoint.
        reason: Why; it goes onto the run's record.
        by: Who asks; the system's user if absent.
        wait: Whether to wait until it has left.
        pause: With a checkpoint alone: nothing is tested or registered, and `train --resume` goes on with it. An epoch
            that is whole is still closed; a run that is in its test already ends as it would have.

    Returns:
        Its `run_id`, its `status` and the `reason` it ended for.

    Raises:
        InputError: There is no such run, it does not go on, or what is to be paused is a part of a sweep or a study.
        WorkFailed: It still has not left after 15 minutes; of one that is to leave later, after a day.
    """
    from r2d2.cluster.leaving import WHEN
    from r2d2.tracking import runs, store

    if after not in WHEN:
        raise InputError(f"--after {after}: {', '.join(WHEN)} are known")
    client = store.connect(store.resolve())
    with store.talking():
        run = runs.find(client, name)
        if (status := run.found.info.status) != "RUNNING":
            raise InputError(f"run {name}: it is {status.lower()}, there is nothing to stop")
        if pause and run.whole is not None:
            raise InputError(f"run {name}: a part of {run.whole} cannot be paused by itself; pause that, or stop this")
        run.ask_to_stop(after, by or person(), reason.strip(), pause)
    if run.made_by != "train":
        say(f"Asked. What it trains leaves after {MOMENT[after]}, with checkpoints.")
    elif run.whole is not None:
        say(f"Asked. It leaves after {MOMENT[after]}; what it belongs to goes on.")
    elif pause:
        say(f"Asked. It leaves after {MOMENT[after]}; then: {command()} train --resume {run.run_id}")
    else:
        say(f"Asked. It leaves after {MOMENT[after]}, then evaluates and registers what it has.")
    if not wait:
        return {"run_id": run.run_id, "status": status, "reason": ""}
    asked = time.monotonic()
    deadline = asked + (PATIENCE_S if after == "now" else LONG_PATIENCE_S)
    while time.monotonic() < deadline:
        with store.talking():
            found = client.get_run(run.run_id)
        if found.info.status != "RUNNING":
            reason = found.data.tags.get(runs.REASON_TAG, "")
            return {"run_id": run.run_id, "status": found.info.status, "reason": reason}
        time.sleep(1.0)
    raise WorkFailed(
        f"run {name}: still running after {(time.monotonic() - asked) / 60:.0f} minutes; perhaps its driver is gone"
    )


def resume(name: str, by: str | None = None, take_over: bool = False) -> "JobRow":
    """Have the cluster go on with a run, a sweep or a study that did not finish, as a job.

    Args:
        name: Its id or name.
        by: Who asks; the system's user if absent.
        take_over: Also if it goes on as far as its store knows: its driver is gone, or loses it.

    Raises:
        InputError: There is no such run, it goes on or is finished, or no cluster takes jobs.
        WorkFailed: The cluster went away.
    """
    from r2d2.engine.jobs import submit
    from r2d2.tracking import runs, store

    client = store.connect(store.resolve())
    with store.talking():
        run = runs.find(client, name)
        if run.found.info.status == "RUNNING" and not take_over:
            raise InputError(f"run {name}: it goes on; stop it first")
        run.check_resumable()
    return submit([run.made_by, "--resume", run.run_id], run_s=0.0, by=by)


def send(name: str | None = None) -> list[dict[str, Any]]:
    """Deliver what runs recorded while their tracking server was away.

    Args:
        name: A run's id or name; absent, every run in R2D2_HOME that has something to deliver.

    Returns:
        Of each run its `run_id`, how many records were `delivered` and how many the server `refused` for good, and the
        `problem` that kept the others from it, or None. Runs that go on are passed over.

    Raises:
        InputError: There is no such run, it still goes on, or the server does not answer.
    """
    from r2d2.tracking import runs, store
    from r2d2.tracking.delivery import Delivery, waiting
    from r2d2.tracking.outbox import FOLDER

    client, folder = store.connect(store.resolve()), config.home() / "runs"
    if name is None:
        outboxes = {path.parent.name: path for path in sorted(folder.glob(f"*/{FOLDER}")) if waiting(path)}
    else:
        run = runs.find(client, name)
        outboxes = {run.run_id: storage(runs.read_experiment(run)) / "runs" / run.run_id / FOLDER}
        if not outboxes[run.run_id].exists():
            raise InputError(f"run {name}: nothing of it lies in {outboxes[run.run_id].parent}")
    sent: list[dict[str, Any]] = []
    for run_id, outbox in outboxes.items():
        try:
            delivery = Delivery(client, run_id, outbox)
        except InputError:  # its driver delivers
            if name is None:
                continue
            raise
        told: dict[str, Any] = {"run_id": run_id, "delivered": 0, "refused": 0, "problem": None}
        before = delivery.refused
        try:
            told["delivered"] = delivery.catch_up()
        except InputError as error:
            if name is not None:
                raise
            told["problem"] = str(error)
        finally:
            delivery.close()
        told["refused"] = delivery.refused - before
        sent.append(told)
    return sent
