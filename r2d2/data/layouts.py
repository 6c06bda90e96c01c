"""The layouts in which annotated scans are handed out: which files belong together, what the classes are called.

- Medical Segmentation Decathlon: `dataset.json` whose `training` lists images and labels;
- nnU-Net raw: `dataset.json` with `channel_names`, `imagesTr/CASE_0000.nii.gz` a channel, `labelsTr/CASE.nii.gz`; or of
  its first version, like the Decathlon's, but with such files for the listed `imagesTr/CASE.nii.gz`;
- plain: `images/` and `labels/` with files of the same names; a scan may be the folder of a DICOM series;
- LASC 2013: a folder a patient with `image.mhd` and `gt_binary.mhd`;
- DICOM: a folder a patient, in it anywhere one RTSTRUCT or SEG, and its series; others (a localizer, a PET) may lie in
  folders beside it.

Volumes may have any format that ImgMed reads, masks in plain folders may be RTSTRUCT or SEG files (.dcm) too.
"""

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from r2d2 import imgmed
from r2d2.errors import InputError

VOXELS = (".img", ".raw", ".raw.gz", ".zraw")
"""What belongs to a header of its own: .hdr, .mhd, .nhdr."""
CHANNEL = re.compile(r"(.+)_(\d{4})")
TEXTS = (".txt", ".md", ".json", ".csv", ".tsv", ".yaml", ".yml", ".pdf")


@dataclass(frozen=True)
class Scan:
    """A scan, in one file or one for each channel, and its mask: a volume, or an RTSTRUCT or SEG (`structures`)."""

    name: str
    images: tuple[Path, ...]
    label: Path
    structures: bool = False


@dataclass(frozen=True)
class Layout:
    """What a folder says of itself; `labels` and `channels` are None where it does not say.

    `passed_over` are the files beside volumes that are of no format that ImgMed reads.
    """

    scans: list[Scan]
    labels: dict[int, str] | None = None
    channels: tuple[str, ...] | None = None
    name: str = ""
    licence: str = ""
    passed_over: tuple[Path, ...] = ()


def read_layout(folder: Path, labels: dict[int, str] | None = None) -> Layout:
    """Return the annotated scans of a folder, in whichever layout it is, without reading voxels.

    Args:
        folder: The folder.
        labels: The classes, if they are known; then those of `dataset.json` are not looked at.

    Raises:
        InputError: It is in none; a scan has no mask or a mask no scan; `dataset.json` is damaged or names a path
            outside the folder; a DICOM patient has not one mask, or not one series that it references.
    """
    source = folder / "dataset.json"
    if source.exists():
        about = _read_json(source)
        nnunet = "channel_names" in about
        scans = _nnunet_scans(folder, about, source) if nnunet else _decathlon_scans(about, source)
        return Layout(
            scans,
            labels or (_nnunet_labels(about, source) if nnunet else _by_number(about, "labels", source)),
            tuple(_by_number(about, "channel_names" if nnunet else "modality", source).values()),
            str(about.get("name") or ""),
            str(about.get("licence") or about.get("license") or ""),
            _passed_over(scans),
        )
    if (folder / "images").is_dir() and (folder / "labels").is_dir():
        scans = _plain_scans(folder)
        return Layout(scans, labels, passed_over=_passed_over(scans))
    patients = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if any("gt_binary" in volumes(patient) for patient in patients):
        scans = [_lasc_scan(patient) for patient in patients]
        return Layout(scans, labels, passed_over=_passed_over(scans))
    found = {patient: imgmed.find_dicom(patient) for patient in patients}
    if any(series or masks for series, masks in found.values()):
        return Layout([_dicom_scan(patient, *files) for patient, files in found.items()], labels)
    raise InputError(
        f"{folder}: no dataset in it (data.path): it must have a dataset.json, the folders images and labels, or a "
        "folder for each patient with image.mhd and gt_binary.mhd or with a DICOM series and its RTSTRUCT or SEG"
    )


def _passed_over(scans: list[Scan]) -> tuple[Path, ...]:
    """Return the files in the folders of scans and masks that are none, hidden ones and those to be read left out."""
    known = {path for scan in scans for path in (*scan.images, scan.label)}
    files = [path for folder in sorted({path.parent for path in known}) for path in sorted(folder.iterdir())]
    return tuple(
        path
        for path in files
        if path not in known
        and imgmed.volume_name(path) is None
        and not path.name.lower().endswith((*VOXELS, *TEXTS))
        and not path.name.lower().startswith((".", "readme", "license", "licence"))
    )


def class_names(folder: Path) -> dict[int, str] | None:
    """The classes of a folder of masks by their numbers: those of the `dataset.json` in it or beside it, else None.

    Raises:
        InputError: That file is damaged.
    """
    for source in (folder / "dataset.json", folder.absolute().parent / "dataset.json"):
        if source.exists():
            about = _read_json(source)
            names = _nnunet_labels(about, source) if "channel_names" in about else _by_number(about, "labels", source)
            if len({*names.values()}) < len(names):
                raise InputError(f"{source}: two classes have one name: {', '.join(names.values())}")
            return names
    return None


def volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes of a folder by their names without suffix; other files and hidden ones are passed over.

    Raises:
        InputError: There is no such folder, or two volumes have one name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return _by_name((path, imgmed.volume_name(path)) for path in sorted(folder.iterdir()))


def unannotated(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the scans of a folder by name, in alphabetical order; nothing is read but the marks of DICOM files.

    A scan is a volume's file; or, as nnU-Net names them, the files CASE_0000, CASE_0001, ..., a channel each; or a
    sub-folder with one DICOM series in it, anywhere: other sub-folders are passed over, and one with several series is
    returned with all of them, for whoever reads it to refuse.

    Raises:
        InputError: There is no such folder, or two volumes have one name.
    """
    found = volumes(folder)
    scans: dict[str, tuple[Path, ...]] = {}
    for name, path in found.items():
        if path.is_dir():
            if series := imgmed.find_dicom(path)[0]:
                scans[name] = series
            continue
        numbered = CHANNEL.fullmatch(name)
        case, channel = numbered.groups() if numbered else (name, "")
        if not channel or f"{case}_0000" not in found:
            scans[name] = (path,)
        elif channel == "0000":
            files = (f"{case}_{number:04d}" for number in range(len(found)))
            scans[case] = tuple(found[file] for file in itertools.takewhile(found.__contains__, files))
        elif f"{case}_{int(channel) - 1:04d}" not in found:
            raise InputError(f"{path}: channel {int(channel)} of a scan whose channel {int(channel) - 1} is missing")
    return dict(sorted(scans.items()))


def _by_name(named: Iterable[tuple[Path, str | None]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, name in named:
        if name is None or path.name.startswith("."):
            continue
        if name in found:
            raise InputError(f"{path}: the same name as {found[name].name}; keep one of the two")
        found[name] = path
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: must hold one object with labels, modality (or channel_names) and training")
    return about


def _by_number(about: dict[str, Any], key: str, source: Path) -> dict[int, str]:
    """Return an object of `dataset.json` like {"0": "background", "1": "edema"} by its numbers, in rising order."""
    try:
        names = {int(number): str(name) for number, name in about[key].items()}
    except (KeyError, AttributeError, ValueError):
        raise InputError(f'{source}: "{key}" must be an object of numbers and names, like {{"0": "..."}}') from None
    if not names or not all(0 <= number <= 254 for number in names):
        raise InputError(f'{source}: the numbers of "{key}" must be 0 to 254, they are {sorted(names)}')
    return dict(sorted(names.items()))


def _decathlon_scans(about: dict[str, Any], source: Path) -> list[Scan]:
    entries = about.get("training")
    if not isinstance(entries, list) or not entries:
        raise InputError(f'{source}: "training" must list the annotated scans')
    scans = []
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise InputError(f'{source}: an entry of "training" must have "image" and "label", this is {entry!r:.80}')
        if not PurePosixPath(entry["image"]).name.startswith("._"):
            image, label = _inside(source, entry["image"]), _existing(source, entry["label"])
            name = imgmed.volume_name(image) or image.name
            channels = [
                image.with_name(f"{name}_{channel:04d}{image.name[len(name) :]}")
                for channel in range(len(_by_number(about, "modality", source)))
            ]
            if image.exists() or not channels[0].exists():
                scans.append(Scan(name, (_existing(source, entry["image"]),), label))
            else:
                images = tuple(_existing(source, str(path.relative_to(source.parent))) for path in channels)
                scans.append(Scan(name, images, label))
    if not scans:
        raise InputError(f'{source}: "training" lists hidden files alone')
    return scans


def _inside(source: Path, listed: str) -> Path:
    relative = PurePosixPath(listed)
    if relative.is_absolute() or ".." in relative.parts or "\0" in listed:
        raise InputError(f"{source}: {listed!r} must be a path inside the dataset's folder")
    return source.parent / relative


def _existing(source: Path, listed: str) -> Path:
    path = _inside(source, listed)
    if not path.is_file():
        raise InputError(f"{source}: lists {listed!r}, and there is no file {path}")
    return path


def _nnunet_labels(about: dict[str, Any], source: Path) -> dict[int, str]:
    """Return nnU-Net's {"background": 0, "tumour": 1} by number."""
    labels = about.get("labels")
    if not isinstance(labels, dict) or not labels:
        raise InputError(f'{source}: "labels" must be an object of names and numbers, like {{"background": 0}}')
    if "ignore" in labels:
        raise InputError(f'{source}: the label "ignore" is not known here; a mask must say what every voxel is')
    for name, number in labels.items():
        if type(number) is not int or not 0 <= number <= 254:
            raise InputError(
                f"{source}: the number of label {name!r} must be a whole one from 0 to 254, it is {number!r:.40}; "
                "regions of several labels are not trained on, name the labels themselves in data.labels"
            )
    if len(set(labels.values())) < len(labels):
        raise InputError(f'{source}: "labels" gives two names one number: {labels}')
    return {number: name for name, number in sorted(labels.items(), key=lambda pair: pair[1])}


def _nnunet_scans(folder: Path, about: dict[str, Any], source: Path) -> list[Scan]:
    images, labels = volumes(folder / "imagesTr"), volumes(folder / "labelsTr")
    if not labels:
        raise InputError(f"{folder / 'labelsTr'}: no masks in it")
    # A picture's colours are channels of one file.
    several = any(name.endswith("_0001") for name in images)
    channels = len(_by_number(about, "channel_names", source)) if several else 1
    wanted = {name: [f"{name}_{channel:04d}" for channel in range(channels)] for name in labels}
    for name, files in wanted.items():
        for file in files:
            if file not in images:
                raise InputError(f"{labels[name]}: a mask without its scan {folder / 'imagesTr' / file}.*")
    for name in sorted(images.keys() - {file for files in wanted.values() for file in files}):
        raise InputError(
            f"{images[name]}: a scan without a mask in {folder / 'labelsTr'}, or a channel that is not among the "
            f"{channels} of dataset.json"
        )
    return [Scan(name, tuple(images[file] for file in files), labels[name]) for name, files in wanted.items()]


def _plain_scans(folder: Path) -> list[Scan]:
    images = volumes(folder / "images")
    masks = [path for path in sorted((folder / "labels").iterdir()) if path.is_file()]
    labels = _by_name((path, path.stem if _is_dicom(path) else imgmed.volume_name(path)) for path in masks)
    for name in sorted(images.keys() ^ labels.keys()):
        if name in images:
            raise InputError(f"{images[name]}: a scan without a mask; {folder / 'labels'} must have one of that name")
        raise InputError(f"{labels[name]}: a mask without a scan; {folder / 'images'} must have one of that name")
    if not images:
        raise InputError(f"{folder / 'images'}: no volumes in it (.nii, .nii.gz, .mha, .nrrd, folders of DICOM, ...)")
    return [Scan(name, (images[name],), labels[name], _is_dicom(labels[name])) for name in sorted(images)]


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() == ".dcm"


def _lasc_scan(patient: Path) -> Scan:
    found = volumes(patient)
    for name in ("image", "gt_binary"):
        if name not in found:
            raise InputError(f"{patient}: has no volume called {name}, as image.mhd and gt_binary.mhd of the others")
    return Scan(patient.name, (found["image"],), found["gt_binary"])


def _dicom_scan(patient: Path, series: tuple[Path, ...], masks: tuple[Path, ...]) -> Scan:
    if len(series) > 1 and len(masks) == 1:
        series = imgmed.referenced_series(masks[0], series) or series
    for found, what in ((series, "DICOM series"), (masks, "RTSTRUCT or SEG")):
        if len(found) != 1:
            listed = f": {', '.join(str(path.relative_to(patient)) for path in found)}" if found else ""
            raise InputError(f"{patient}: a patient's folder must have one {what}, this has {len(found)}{listed}")
    return Scan(patient.name, series, masks[0], structures=True)
