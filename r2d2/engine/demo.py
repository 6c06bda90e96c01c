"""Demo: the whole street on virtual patients of real anatomy, on this machine."""

import time
from dataclasses import dataclass
from pathlib import Path

from r2d2 import config, resources
from r2d2.console import command, say
from r2d2.errors import InputError

PATIENTS = 20
SPACING_MM = 2.0

WHAT_IT_PROVES = """\
What this proves: the street works. Real scans would take the same way: volumes, slices, two workers in a ring, a
scored and registered model, a mask on a scan's own grid.
What it does not: clinical accuracy. The patients are virtual: one real average brain (ICBM152), deformed, relit and
made noisy. A model that segments them well has learnt this generator, not a hospital's scanners or diseases."""


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Attributes:
        run_id: The MLflow run.
        model: The registered model, `name/version`.
        dice: Dice of grey and white matter, mean over the held-out patients, of the model and of two baselines.
        mask: The predicted mask of a held-out patient.
        picture: Scan, reference and prediction of that patient.
        seconds: How long each part took.
        text: All of it for people.
    """

    run_id: str
    model: str
    dice: dict[str, dict[str, float]]
    mask: Path
    picture: Path
    seconds: dict[str, float]
    text: str


def demo(folder: Path | None = None, workers: int = 2) -> Demo:
    """Make virtual patients, train Dist-U-Net on two workers, score it on held-out patients, predict one.

    Args:
        folder: Where the data, the mask and the picture go; `demo` in R2D2_HOME if absent.
        workers: Workers in the ring.
    """
    from r2d2.cluster import placement
    from r2d2.data.synthesis import is_made_so

    folder = (folder or config.home() / "demo").absolute()
    file = resources.find("experiments/brain_tissue.yaml")
    data = folder / f"virtual-patients-{PATIENTS}"
    experiment = config.load(file, [f"data.path={data}", f"cluster.workers={workers}"])
    placement.check(experiment.cluster)
    clock = _Clock()
    if not data.exists():
        from r2d2.engine.data import synthesize

        say(f"1/4  {PATIENTS} virtual patients, deformed from the real ICBM152 brain, in {_near(data)}")
        synthesize("brain", data, PATIENTS, seed=0, spacing_mm=SPACING_MM)
    elif not is_made_so(data, "brain", PATIENTS, seed=0, spacing_mm=SPACING_MM):
        raise InputError(f"{data}: not what this version of R2D2 puts there; remove it and start again")
    clock.lap("virtual patients")

    from r2d2.engine.train import train

    say(f"2/4  Dist-U-Net, {experiment.training.epochs} epochs on {workers} workers ({_near(file)})")
    result = train(experiment)
    clock.lap("training, test, registration")

    say("3/4  Baselines on the same held-out patients")
    names = [row["case"] for row in result.rows]
    dice = {"Dist-U-Net": {name: result.metrics[f"dice/{name}"] for name in _tissues(result.metrics)}}
    dice |= _baselines(experiment, names)
    clock.lap("baselines")

    from r2d2.engine.predict import predict

    scan = data / "imagesTr" / f"{names[0]}.nii.gz"
    say(f"4/4  Predicting {scan.name} with {result.model}")
    mask = folder / f"{names[0]}_mask.nii.gz"
    predict(result.model, [scan], mask)
    picture = _picture(scan, data / "labelsTr" / scan.name, mask, folder / f"{names[0]}.png")
    clock.lap("prediction, picture")

    text = _text(dice, result.rows, result.model, mask, picture, clock.seconds)
    return Demo(result.run_id, result.model, dice, mask, picture, clock.seconds, text)


def _tissues(metrics: dict[str, float]) -> list[str]:
    return [name for name in ("grey matter", "white matter") if f"dice/{name}" in metrics]


def _baselines(experiment: config.Experiment, names: list[str]) -> dict[str, dict[str, float]]:
    """What a network has to beat: the undeformed template's labels, and the best intensity thresholds there are."""
    from r2d2 import imgmed, segeval
    from r2d2.data.baselines import best_thresholds, template_labels
    from r2d2.data.cases import find_cases

    dataset = find_cases(experiment.data)
    tallies = {name: segeval.Tally(dataset.labels) for name in ("template, not deformed", "best thresholds")}
    for case in dataset.cases:
        if case.name in names:
            scan, reference = imgmed.read_volume(case.images[0]), imgmed.read_labels(case.label)
            x, y, z = reference.data.shape
            masks = (template_labels(scan.affine, (x, y, z)), best_thresholds(scan.data, reference.data, scored=(1, 2)))
            for tally, mask in zip(tallies.values(), masks, strict=True):
                slices = segeval.confusion_matrices(reference.data, mask, len(dataset.labels))
                tally.add(segeval.CaseScores(case.name, case.patient, slices, scan.voxel_ml))
    scores = {name: tally.means() for name, tally in tallies.items()}
    return {name: {tissue: score[f"dice/{tissue}"] for tissue in _tissues(score)} for name, score in scores.items()}


def _picture(scan: Path, reference: Path, mask: Path, picture: Path) -> Path:
    import numpy as np

    from r2d2 import imgmed
    from r2d2.segeval.overlay import draw, upright

    volumes = [read(path) for read, path in _readers(scan, reference, mask)]
    turned = [imgmed.to_canonical(imgmed.Volume(volume.data, volumes[0].affine)).data for volume in volumes]
    image, truth, prediction = (upright(volume[:, :, int(volume.shape[2] * 0.55)]) for volume in turned)
    labels = {0: "background", 1: "grey matter", 2: "white matter", 3: "other brain"}
    title = f"{scan.name.removesuffix('.nii.gz')}: a virtual patient, held out"
    figure = draw(np.asarray(image), {"reference": truth, "prediction": prediction}, labels, title)
    figure.savefig(picture)
    return picture


def _readers(scan: Path, reference: Path, mask: Path) -> list:
    from r2d2 import imgmed

    return [(imgmed.read_volume, scan), (imgmed.read_labels, reference), (imgmed.read_labels, mask)]


def _text(
    dice: dict[str, dict[str, float]],
    rows: list[dict],
    model: str,
    mask: Path,
    picture: Path,
    seconds: dict[str, float],
) -> str:
    tissues = list(next(iter(dice.values())))
    lines = ["", f"{'Dice on held-out patients':<28}" + "".join(f"{tissue:>14}" for tissue in tissues)]
    for row in rows:
        lines.append(f"  {row['case']:<26}" + "".join(f"{row[f'dice/{tissue}']:14.3f}" for tissue in tissues))
    for name, values in dice.items():
        lines.append(f"{name + ', mean':<28}" + "".join(f"{values[tissue]:14.3f}" for tissue in tissues))
    times = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items())
    return "\n".join(
        [
            *lines,
            "",
            f"Model    {model} (alias candidate)",
            f"Mask     {_near(mask)}",
            f"Picture  {_near(picture)}",
            f"Time     {times}",
            "",
            WHAT_IT_PROVES,
            "",
            f"Next: {command()} predict {model} YOUR_SCAN.nii.gz -o MASK.nii.gz, or {command()} runs list",
        ]
    )


def _near(path: Path) -> Path:
    """As seen from the working folder, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
