"""Programs that come as Python packages, beside the Python of the tests."""

import os
import subprocess
import sys
from pathlib import Path


def run(name, *arguments, **environment):
    """Such a program to its end: (exit code, standard output, standard error)."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = os.environ | {"PATH": path, "NO_COLOR": "1"} | environment
    command = ["env", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=told)
    return done.returncode, done.stdout, done.stderr
