"""Reads the files named on standard input, a JSON list, with little memory to spare; answers with a JSON object."""

import json
import resource
import signal
import sys
import time
from pathlib import Path

import highdicom  # noqa: F401  # loaded before the memory is counted

from r2d2 import imgmed
from r2d2.errors import InputError
from r2d2.imgmed import itk, nifti, pictures  # noqa: F401

SPARE_BYTES = 256 << 20
SECONDS = 20
MASKS = {".rt": imgmed.read_contours, ".seg": imgmed.read_segments}
READERS = {"volume": imgmed.read_volume, "labels": imgmed.read_labels, "geometry": imgmed.read_geometry}


def main() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
    answers = {}
    for path in json.load(sys.stdin):
        mask = MASKS.get(Path(path).suffix)
        for how, read in {"mask": mask}.items() if mask else READERS.items():
            arguments = (imgmed.read_volume(f"{path}.series"), {1: "a"}) if mask else ()
            start = time.monotonic()
            signal.alarm(SECONDS)
            try:
                read(path, *arguments)
                said = "read"
            except InputError as error:
                said = f"refused: {error}"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            signal.alarm(0)
            answers[f"{path} {how}"] = [said, time.monotonic() - start]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
