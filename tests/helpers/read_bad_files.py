"""Reads the files named on standard input, a JSON list, with little memory to spare; answers with a JSON object."""

import json
import resource
import signal
import sys
import time

from r2d2 import imgmed
from r2d2.errors import InputError
from r2d2.imgmed import dicom, itk, nifti, pictures  # noqa: F401  # loaded before the memory is counted

SPARE_BYTES = 256 << 20
SECONDS = 20


def used_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


def read(path: str, how: str) -> str:
    if how in ("contours", "segments"):
        like = imgmed.read_volume(f"{path}.series")
        reader = imgmed.read_contours if how == "contours" else imgmed.read_segments
        reader(path, like, {1: "a"})
        return "read"
    getattr(imgmed, f"read_{how}")(path)
    return "read"


def main() -> None:
    if sys.argv[1:] == ["warm"]:
        import highdicom  # noqa: F401
    limit = used_bytes() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers = {}
    for path in json.load(sys.stdin):
        for how in ("volume", "labels", "geometry", "contours", "segments"):
            if (how in ("contours", "segments")) != path.endswith((".rt", ".seg")):
                continue
            if how in ("contours", "segments") and not path.endswith({"contours": ".rt", "segments": ".seg"}[how]):
                continue
            start = time.monotonic()
            signal.alarm(SECONDS)
            try:
                said = read(path, how)
            except InputError as error:
                said = f"refused: {error}"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            signal.alarm(0)
            answers[f"{path} {how}"] = [said, time.monotonic() - start]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
