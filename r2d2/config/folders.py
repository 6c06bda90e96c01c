"""Folders: R2D2's home, and those that an experiment file names."""

import os
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from r2d2 import job
from r2d2.errors import InputError

HOME = ".r2d2"
"""The home's name where R2D2_HOME names no other."""


def _whole(path: Path) -> Path:
    """A folder, absolute; `.r2d2/...` that the working folder lacks is the home's, wherever that is: a job's is."""
    whole = path.expanduser().absolute()
    if path.parts[:1] == (HOME,) and not whole.exists() and os.environ.get("R2D2_HOME"):
        return home().joinpath(*path.parts[1:])
    return whole


Folder = Annotated[Path, AfterValidator(_whole)]
"""Absolute from the moment it is read, so that a recorded experiment means the same from any working folder."""


def _location(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("should be a folder or a URL")
    if "://" not in str(value):
        return _whole(Path(value))
    if has_password(str(value)):
        raise ValueError(
            "a password in it would be recorded with every run; the protocol's own variables take it, on all nodes "
            "(AWS_SECRET_ACCESS_KEY, FSSPEC_SFTP_PASSWORD, ...)"
        )
    return value


def has_password(url: str) -> bool:
    """Whether a URL holds a password, or what cannot be read as one."""
    try:
        return urlsplit(url).password is not None
    except ValueError:
        return False


Location = Annotated[Path | str, BeforeValidator(_location)]
"""A folder of this machine, absolute likewise, or a URL that fsspec knows, which stays text."""


def home() -> Path:
    """The folder of all that R2D2 keeps for a user: R2D2_HOME, or `.r2d2` in the working folder.

    Raises:
        InputError: It is a file; or this is a Ray job, whose working folder is thrown away, and R2D2_HOME is not set.
    """
    if job.is_homeless():
        raise InputError(
            "R2D2_HOME is not set on the cluster's nodes, and a job's working folder is thrown away; set it there "
            f"({job.NODES}), or set tracking.storage to a folder that all nodes share"
        )
    folder = Path(os.environ.get("R2D2_HOME") or HOME).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"R2D2_HOME {folder}: a file, not a folder; set it to a folder of yours")
    return folder
