"""Files that travel with R2D2: inside the installed package, or in the clone that it runs from."""

from pathlib import Path

PACKAGED = Path(__file__).parent / "_files"
CLONE = Path(__file__).parent.parent


def find(name: str) -> Path:
    """The path of a file by its place in the clone, e.g. `experiments/brain_tissue.yaml`.

    Raises:
        FileNotFoundError: It is in neither place: the wheel was built without it.
    """
    for root in (PACKAGED, CLONE):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"{name}: neither in {PACKAGED} nor in {CLONE}")
