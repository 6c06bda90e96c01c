"""A model as a folder or a zip that can travel: network, experiment, card, scores, and a checksum of every file.

    MLmodel, data/model.keras, requirements.txt, ...   as MLflow keeps a Keras model; loads without R2D2
    experiment.yaml                                    what it was made from
    card.json, card.md                                 what it is
    test.json                                          the scores of every test patient
    SHA256SUMS                                         as `sha256sum --check` reads it

It is what the registry keeps of a version, so that what is pulled is what was registered, byte for byte.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from r2d2.errors import InputError
from r2d2.files import check_zip, whole_file, whole_folder
from r2d2.tracking import card as cards

SUMS = "SHA256SUMS"
CARD = "card.json"
CHANGED = f"{{}}: {{}} is not what it was ({SUMS}); the package was changed, get it again"
LARGEST_BYTES = 4 * 2**30
"""What a package may take unpacked: ten times the largest of the networks here."""
MLFLOW_S_OWN = "registered_model_meta"
"""What MLflow puts beside a version's files when it hands them out."""
NEEDED = ("MLmodel", "data/model.keras", "experiment.yaml", "card.json", "card.md", "test.json")
ALLOWED = {*NEEDED, "conda.yaml", "python_env.yaml", "requirements.txt", "constraints.txt", "data/keras_module.txt"}
"""Nothing else: MLflow's own loaders would unpickle a file of the right name."""
LOADERS = {"keras": None, "python_function": "mlflow.keras"}
"""The flavours of MLflow's that a package may name, and what may load them."""


def write(
    folder: Path,
    network: Any,
    metadata: Mapping[str, Any],
    run_id: str | None,
    experiment: str,
    card: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Write a model's folder; one that is there already is replaced.

    Args:
        folder: Where.
        network: The Keras model, float32.
        metadata: What is saved beside it, for `inference.saved.load`.
        run_id: The run that made it, if one did.
        experiment: The experiment file's text.
        card: From `card.make`; its lineage names the packages.
        rows: Every test patient's scores.
    """
    import mlflow
    from mlflow.models import Model

    logging.getLogger("mlflow.keras.save").setLevel(logging.ERROR)  # it would like a signature
    requirements = [f"{package}=={number}" for package, number in card["lineage"]["packages"].items()]
    with whole_folder(folder, replace=True) as beside:
        model = Model(run_id=run_id, metadata=dict(metadata))
        with _as_installed():
            mlflow.keras.save_model(network, str(beside), mlflow_model=model, pip_requirements=requirements)
        (beside / "experiment.yaml").write_text(experiment, encoding="utf-8")
        (beside / "card.json").write_text(json.dumps(card, indent=1), encoding="utf-8")
        (beside / "card.md").write_text(cards.text(card), encoding="utf-8")
        (beside / "test.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        (beside / SUMS).write_text("".join(f"{found}  {name}\n" for name, found in _sums(beside).items()))


@contextmanager
def _as_installed() -> Iterator[None]:
    """Have MLflow take requirements for those that are installed, as they are: to compare them takes it two seconds."""
    from mlflow.utils import environment

    compare = environment.warn_dependency_requirement_mismatches
    environment.warn_dependency_requirement_mismatches = lambda _: None
    try:
        yield
    finally:
        environment.warn_dependency_requirement_mismatches = compare


def read_card(content: bytes, package: str) -> dict[str, Any]:
    """The card that a package's `card.json` holds.

    Raises:
        InputError: It is none that R2D2 wrote.
    """
    try:
        card = json.loads(content.decode())
        cards.text(card)
        _ = [float(text) for key, text in cards.tags(card).items() if "dice" in key and text]
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{package}/{CARD}: no card that R2D2 wrote; get the package again") from None
    return card


def check_card(content: bytes, sums: bytes, package: str) -> None:
    """Raise an InputError if the card of a package, of which no more is at hand, is not the one of its checksums."""
    if _read_sums(sums.decode(errors="replace")).get(CARD) != hashlib.sha256(content).hexdigest():
        raise InputError(CHANGED.format(package, CARD))


def verify(folder: Path) -> dict[str, Any]:
    """Return the card of a package whose files are all there and as they were written.

    Raises:
        InputError: A file is missing, was changed or added, is a link, or the folder is no package.
    """
    try:
        told = _read_sums((folder / SUMS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{folder}: no model package (it has no {SUMS}); `r2d2 zoo pull` makes them") from None
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: a package holds plain files alone; this is a link or a device")
    found = _sums(folder)
    for name in [*NEEDED, *told]:
        if name not in found:
            raise InputError(f"{folder}: {name} is missing; the package is not whole, get it again")
    for name in found:
        if name not in ALLOWED:
            raise InputError(f"{folder}: {name} has no place in a model's package; nothing of it is used")
    for name, now in found.items():
        if name not in told:
            raise InputError(f"{folder}: {name} is not in {SUMS}; the package was changed after it was made")
        if told[name] != now:
            raise InputError(CHANGED.format(folder, name))
    card = read_card((folder / CARD).read_bytes(), str(folder))
    try:
        flavors = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["flavors"]
        strange = [name for name, about in flavors.items() if LOADERS.get(name, "") != about.get("loader_module")]
    except (OSError, KeyError, TypeError, AttributeError, ValueError, yaml.YAMLError):
        raise InputError(f"{folder}/MLmodel: not one that R2D2 wrote; get the package again") from None
    if strange:
        raise InputError(f"{folder}/MLmodel: its flavour {strange[0]} is not one of R2D2's; nothing of it is used")
    return card


def save(folder: Path, output: Path) -> None:
    """Write a verified package to a new folder, or to a file if its name ends in .zip.

    Raises:
        InputError: The place is taken or cannot be written.
    """
    verify(folder)
    try:
        if output.suffix.lower() == ".zip":
            if output.exists():
                raise InputError(f"{output}: it is there already; name another file")
            output.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(output) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as packed:
                for path in _files(folder):
                    packed.write(path, path.relative_to(folder))
        else:
            if output.exists() and (not output.is_dir() or any(output.iterdir())):
                raise InputError(f"{output}: it is there already; name a new folder")
            with whole_folder(output) as beside:
                shutil.copytree(folder, beside, dirs_exist_ok=True)
                (beside / MLFLOW_S_OWN).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror or error})") from None


@contextmanager
def opened(path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A package for as long as the block lasts, a zip unpacked: its folder and card.

    Raises:
        InputError: It is no package, was changed, or is a zip with names that lead out of it or with more in it than
            a model can have; none of it is unpacked then.
    """
    if path.is_dir():
        yield path, verify(path)
        return
    check_zip(path, LARGEST_BYTES)
    with tempfile.TemporaryDirectory(prefix="r2d2-package-") as unpacked:
        try:
            with zipfile.ZipFile(path) as packed:
                packed.extractall(unpacked)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{path}: cannot be unpacked ({error})") from None
        try:
            card = verify(Path(unpacked))
        except InputError as error:
            raise InputError(str(error).replace(unpacked, str(path))) from None
        yield Path(unpacked), card


def _read_sums(text: str) -> dict[str, str]:
    """The checksums by file of a SHA256SUMS."""
    return {name: found for found, _, name in (line.partition("  ") for line in text.splitlines())}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MLFLOW_S_OWN)


def _sums(folder: Path) -> dict[str, str]:
    found = {}
    for path in _files(folder):
        with path.open("rb") as file:
            name = path.relative_to(folder).as_posix()
            if name != SUMS:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
