"""Runs that go on or went on without their server: ask one to stop, send what was kept back."""

import time
from typing import Any

from r2d2 import config
from r2d2.console import say
from r2d2.engine.prepare import storage
from r2d2.errors import InputError, WorkFailed

PATIENCE_S = 900.0


def stop(name: str) -> dict[str, Any]:
    """Ask a run to leave well, with a checkpoint and evaluated as it is, and wait until it has.

    A sweep's trials leave, and `tune --resume` goes on with them; a trial is not evaluated, and its sweep goes on. A
    scaling study and its runs likewise.

    Args:
        name: The run's id or name.

    Returns:
        Its `run_id`, its `status` and the `reason` it ended for.

    Raises:
        InputError: There is no such run, or it does not go on.
        WorkFailed: It still has not left after 15 minutes.
    """
    from r2d2.tracking import runs, store

    client = store.connect(store.resolve())
    run = runs.find(client, name)
    if (status := client.get_run(run.run_id).info.status) != "RUNNING":
        raise InputError(f"run {name}: it is {status.lower()}, there is nothing to stop")
    run.ask_to_stop()
    tags = client.get_run(run.run_id).data.tags
    if tags.keys() & {"r2d2.sweep", "r2d2.scale"}:
        say("Asked. What it trains leaves after its present step, with checkpoints.")
    elif run.sweep() is not None:
        say("Asked. It leaves after its present step; what it belongs to goes on.")
    else:
        say("Asked. It leaves after its present step, then evaluates and registers what it has.")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = client.get_run(run.run_id)
        if found.info.status != "RUNNING":
            reason = found.data.tags.get("r2d2.reason", "")
            return {"run_id": run.run_id, "status": found.info.status, "reason": reason}
        time.sleep(1.0)
    raise WorkFailed(f"run {name}: still running after {PATIENCE_S / 60:g} minutes; perhaps its driver is gone")


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
