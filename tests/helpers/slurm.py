"""Slurm's commands as far as `infra/slurm/r2d2.sbatch` uses them, on the hosts of infra/several_hosts.sh.

    python slurm.py srun [--nodelist=HOST] [--OPTION=...] COMMAND...
    python slurm.py scontrol show hostnames LIST | requeue JOB

Without --nodelist, `srun` starts the command on every host of R2D2_TEST_HOSTS, each as a process group of its own,
which gets the SIGTERM that `srun` gets. What is queued again is a line in the file R2D2_TEST_REQUEUED.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

SEVERAL_HOSTS = Path(__file__).parents[2] / "infra" / "several_hosts.sh"


def srun(arguments):
    hosts = os.environ["R2D2_TEST_HOSTS"].split()
    while arguments[0].startswith("--"):
        option, _, value = arguments.pop(0).partition("=")
        if option == "--nodelist":
            hosts = [value]
    steps = []
    for host in hosts:
        command = [SEVERAL_HOSTS, "run", host.removeprefix("node"), "env", f"SLURMD_NODENAME={host}", *arguments]
        steps.append(subprocess.Popen(command, start_new_session=True))
    signal.signal(signal.SIGTERM, lambda *_: [os.killpg(step.pid, signal.SIGTERM) for step in steps])
    return max(step.wait() for step in steps)


def scontrol(arguments):
    if arguments[:2] == ["show", "hostnames"]:
        print(os.environ["R2D2_TEST_HOSTS"].replace(" ", "\n"))
        return 0
    with Path(os.environ["R2D2_TEST_REQUEUED"]).open("a") as file:
        print(*arguments, file=file)
    return 0


def install(folder):
    """Put both into a folder that a PATH may begin with."""
    folder.mkdir()
    for name in ("srun", "scontrol"):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
