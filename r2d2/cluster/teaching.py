"""How one network of a population takes another one's weights: Ray is handed a pointer to them.

Ray Tune's population-based training hands a trial's last reported checkpoint to the trial that is to learn from it.
What is reported is a file that names the run folder; its checkpoints are there.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray import train
from ray.train import Checkpoint

POINTER = "run_folder.json"


@contextmanager
def pointer(run_folder: str) -> Iterator[Checkpoint]:
    """What a worker reports so that others may learn from its run."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / POINTER).write_text(json.dumps(run_folder))
        yield Checkpoint.from_directory(folder)


def donor(run_folder: str) -> str | None:
    """The run folder of the trial that this one, just started, is to learn from; None if it goes on by itself."""
    handed = train.get_checkpoint()
    if handed is None:
        return None
    with handed.as_directory() as folder:
        named = json.loads((Path(folder) / POINTER).read_text())
    return named if named != run_folder else None
