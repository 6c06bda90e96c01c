"""Folders: R2D2's home, and those that an experiment file names."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from r2d2.errors import InputError

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""Absolute from the moment it is read, so that a recorded experiment means the same from any working folder."""


def _location(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("should be a folder or a URL")
    return value if "://" in str(value) else Path(value).expanduser().absolute()


Location = Annotated[Path | str, BeforeValidator(_location)]
"""A folder of this machine, absolute likewise, or a URL that fsspec knows, which stays text."""


def home() -> Path:
    """The folder of all that R2D2 keeps for a user: R2D2_HOME, or `.r2d2` in the working folder.

    Raises:
        InputError: It is a file.
    """
    folder = Path(os.environ.get("R2D2_HOME") or ".r2d2").expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"R2D2_HOME {folder}: a file, not a folder; set it to a folder of yours")
    return folder
