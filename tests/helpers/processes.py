"""Start R2D2 as a person does, wait for what it does, end what it leaves."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

R2D2 = Path(sys.executable).with_name("r2d2")


def start(*arguments, **environment):
    """The command line in a process of its own, its output kept."""
    return subprocess.Popen(
        [R2D2, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | environment,
        start_new_session=True,
    )


def run(*arguments, timeout=240, **environment):
    """The same, to its end: (exit code, standard output, standard error)."""
    process = start(*arguments, **environment)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        end(process)
    return process.returncode, out, err


def run_all(*commands, timeout=240, **environment):
    """Several command lines, one after another in one process: a list of what `run` returns."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("one_process.py")],
        input=json.dumps([[str(argument) for argument in command] for command in commands]),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=dict(os.environ) | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(result) for result in json.loads(done.stdout)]


def wait_for(condition, seconds, process=None):
    """What `condition` returns once it is true; fails after so many seconds, or when the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        assert process is None or process.poll() is None, f"ended early: {process.communicate()}"
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {condition}")


def workers(process):
    """The training workers below a driver, once they train."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
        return [child for child in below if "RayTrainWorker" in " ".join(_command(child))]
    return []


def end(process):
    """Kill a driver and all that it started, and wait until they are gone."""
    below = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(process.pid).children(recursive=True)
    for one in [process, *below]:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            one.kill()
    process.wait(timeout=30)
    psutil.wait_procs(below, timeout=30)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()


def _command(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
