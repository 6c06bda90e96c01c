"""Runs that go on: ask one to stop."""

import time
from typing import Any

from r2d2.console import say
from r2d2.errors import InputError, WorkFailed

PATIENCE_S = 900.0


def stop(name: str) -> dict[str, Any]:
    """Ask a run to leave well, with a checkpoint and evaluated as it is, and wait until it has.

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
    say("Asked. It leaves after its present step, then evaluates and registers what it has.")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = client.get_run(run.run_id)
        if found.info.status != "RUNNING":
            reason = found.data.tags.get("r2d2.reason", "")
            return {"run_id": run.run_id, "status": found.info.status, "reason": reason}
        time.sleep(1.0)
    raise WorkFailed(f"run {name}: still running after {PATIENCE_S / 60:g} minutes; perhaps its driver is gone")
