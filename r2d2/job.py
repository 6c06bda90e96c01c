"""The Ray job that this process is the driver of: which one, and who submitted it."""

import importlib.metadata
import json
import os
import platform
import socket
from collections.abc import Mapping
from typing import Any

from r2d2 import __version__
from r2d2.errors import InputError

CLIENT = "R2D2_CLIENT"
"""The variable in which `r2d2 submit` tells the job who it is: its versions, the commit of its folder, who submits it.
Ray shows a job's variables on the job's page, so there is never a password among them."""

NODES = "`r2d2 up` does, and so do the files in infra/"
"""Who sets what a job must find in its nodes' environment."""


def submission() -> str | None:
    """The id of the Ray job that this process is the driver of, or None."""
    try:
        told = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return told["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None


def is_homeless() -> bool:
    """Whether this is a Ray job on nodes that name no R2D2_HOME."""
    return submission() is not None and not os.environ.get("R2D2_HOME")


def client() -> dict[str, str]:
    """What CLIENT says; nothing where it is not set."""
    try:
        return dict(json.loads(os.environ.get(CLIENT, "{}")))
    except (ValueError, TypeError):
        return {}


def versions() -> dict[str, str]:
    """The versions that a client and its cluster must share: Ray's and R2D2's, of Python the first two numbers."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Ray": importlib.metadata.version("ray"), "Python": python, "R2D2": __version__}


def check(of_client: Mapping[str, Any], of_cluster: Mapping[str, Any], cluster: str) -> None:
    """Raise an InputError if client and cluster have different versions of something; each knows some of them.

    Args:
        of_client: As `versions` gives them.
        of_cluster: Likewise.
        cluster: What the cluster is called.
    """
    for name in versions():
        here, there = of_client.get(name), of_cluster.get(name)
        if here and there and here != there:
            raise InputError(
                f"{cluster}: {name} {there} runs there, and {name} {here} on the client; install the same on both"
            )


def check_client() -> None:
    """Raise an InputError if this job was submitted by a client of other versions."""
    if CLIENT in os.environ:
        check(client(), versions(), f"node {socket.gethostname()}")
