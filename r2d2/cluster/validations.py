"""What a run keeps of its validations: the scores of every one, patient by patient, and pictures at some of them."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from r2d2.files import whole_file
from r2d2.segeval import plain
from r2d2.segeval.overlay import strip
from r2d2.tracking.outbox import Outbox

if TYPE_CHECKING:
    from r2d2.cluster.handover import Slice
    from r2d2.segeval import Tally

FOLDER = "validation"
"""In an attempt's folder, the one with every validation's scores."""
DRAWN = "overlays/validation"
"""Of a run's files, the folder with the worst patients of its validations."""
MOST_DRAWN = 12
"""At how many of a run's validations, evenly spread, the worst patients are drawn; and at the first ones."""


def keep(attempt: Path, epoch: int, tally: "Tally") -> None:
    """Keep the scores of an epoch's validation in an attempt's folder."""
    (folder := attempt / FOLDER).mkdir(exist_ok=True)
    with whole_file(folder / f"epoch-{epoch:04d}.json") as beside:
        beside.write_text(json.dumps(plain(tally.rows), indent=1))


def kept(attempt: Path) -> dict[int, list[dict[str, Any]]]:
    """The scores of an attempt's validations, a row a case, by epoch and in its order."""
    return {epoch: json.loads(file.read_text(encoding="utf-8")) for epoch, file in _files(attempt).items()}


def last(attempt: Path) -> list[dict[str, Any]]:
    """Those of the last one alone."""
    return json.loads([*_files(attempt).values()][-1].read_text(encoding="utf-8"))


def forget_after(attempt: Path, epoch: int) -> None:
    """Remove the scores of later epochs, which a run that goes back will come to again."""
    for later, file in _files(attempt).items():
        if later > epoch:
            file.unlink()


def _files(attempt: Path) -> dict[int, Path]:
    files = {int(file.stem.removeprefix("epoch-")): file for file in (attempt / FOLDER).glob("epoch-*.json")}
    return dict(sorted(files.items()))


def is_drawn(number: int, of: int) -> bool:
    """Whether the worst patients of a validation are drawn: evenly spread, and at powers of two.

    Args:
        number: Of the validation, from 1.
        of: How many there are, if nobody stops the run.
    """
    return number % -(-of // MOST_DRAWN) == 0 or number == of or number & (number - 1) == 0


def draw(outbox: Outbox, epoch: int, slices: "Sequence[Slice]", labels: Mapping[int, str]) -> None:
    """Draw slices within milliseconds, as pixels alone; what they are is in a file beside them."""
    told: dict[str, Any] = {"epoch": epoch, "labels": {str(value): name for value, name in labels.items()}}
    told["slices"] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(slices):
            name = f"epoch-{epoch:04d}-{number}.png"
            picture = strip(one.scan, (one.reference, one.prediction), one.aspect)
            cv2.imwrite(str(file := Path(folder) / name), picture[..., ::-1])
            outbox.attach_file(file, DRAWN)
            told["slices"].append(
                {"file": name, "case": one.case, "patient": one.patient, "slice": one.number, "dice": one.dice}
            )
    # The last: where it is, the pictures are.
    outbox.attach_text(f"{DRAWN}/epoch-{epoch:04d}.json", json.dumps(told))
