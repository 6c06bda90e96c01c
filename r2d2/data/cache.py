"""A node's own copy of prepared data, on a disk of its own, where the variable R2D2_CACHE of the node names one.

Nodes differ in their disks, and so it is their environment that says it and no experiment file. All processes of a
node, and all runs, share the copy; what is not needed any more may be deleted.
"""

import errno
import os
import shutil
import socket
from pathlib import Path

from r2d2 import config
from r2d2.data.cases import find_cases
from r2d2.data.mirror import here
from r2d2.data.prepare import alone, prepare
from r2d2.errors import InputError
from r2d2.files import whole_folder

VARIABLE = "R2D2_CACHE"


def nearest(prepared: Path, experiment: config.Experiment) -> tuple[Path, str]:
    """The folder to read prepared data from on this node, and in a few words which one that is.

    The node's own copy is made at the first call, of the common folder or, on a node that does not see that, of
    `data.path` itself; where it has no room, the common folder is read.

    Args:
        prepared: The folder of the prepared data, in the storage common to all nodes.
        experiment: What they were prepared for.

    Raises:
        InputError: The node does not see the data, or sees other data than those of the run.
    """
    seen, cache = (prepared / "index.json").exists(), os.environ.get(VARIABLE)
    host = socket.gethostname()
    if not seen and not cache:
        raise InputError(
            f"{host}: there is no {prepared}; mount tracking.storage on it, or set {VARIABLE} there to a folder of its "
            "own disk, for data that it prepares itself"
        )
    if not cache:
        return prepared, "storage"
    store = Path(cache).expanduser().absolute() / "prepared"
    try:
        if seen:
            return _copied(prepared, store), cache
        return _made(prepared.name, experiment, store), f"{cache}, prepared there"
    except OSError as error:
        trouble = f"{cache} cannot be written ({error.strerror or error})"
        if not seen:
            raise InputError(f"{host}: {VARIABLE} {trouble}") from None
        return prepared, f"storage, since {trouble}"
    except InputError as error:
        raise InputError(f"{host}: {error}") from None


def _copied(prepared: Path, store: Path) -> Path:
    copy = store / prepared.name
    with alone(store, prepared.name):
        wanted = _sizes(prepared)
        if _sizes(copy) != wanted:
            for broken_off in store.glob(f".{prepared.name}.*.part"):
                shutil.rmtree(broken_off)
            if shutil.disk_usage(store).free < sum(wanted.values()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with whole_folder(copy, replace=True) as beside:
                for name in wanted:
                    shutil.copyfile(prepared / name, beside / name)
    return copy


def _made(key: str, experiment: config.Experiment, store: Path) -> Path:
    with alone(store, f"{key}-mirror"):  # the files of a URL are copied once, too
        dataset = find_cases(here(experiment.data, store.parent))
    return prepare(dataset, experiment.preprocess, store, expected=key).folder


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*")}
