"""How a service ends, with all that it started, and nothing else."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from r2d2 import services
from r2d2.services import Service

END_S = 10.0
"""How long one that was asked to end may take, before it is made to."""
children: list[subprocess.Popen] = []
"""What this process started: it must be asked about them for one that has ended to be gone."""


def end_service(service: Service) -> None:
    """End a service with all that it started: asked first, then made to."""
    first = services.leader(service)
    group = services.processes(service)
    if first is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            first.terminate()
        _gone(group, END_S)
    for process in {*group, *services.processes(service)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _gone(group, 5.0)
    if service.scratch and Path(service.scratch).name.startswith("r2d2-ray-"):
        shutil.rmtree(service.scratch, ignore_errors=True)


def _gone(group: Sequence[psutil.Process], seconds: float) -> None:
    """Wait until these processes have ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for child in children:
            child.poll()
        if not any(services.lives(process) for process in group):
            return
        time.sleep(0.05)
