"""Every experiment file is a record, and the paper's numbers stand in the files that are named after its studies."""

import re
from pathlib import Path

import pytest

from r2d2 import config
from r2d2.imgmed import augment

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("reduced/*.yaml"), *FOLDER.glob("zoo/*.yaml")])
SWEEPS = sorted(FOLDER.glob("sweeps/*.yaml"))
FILE = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
SWEEP = pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
RECORD = pytest.mark.parametrize("file", [*FILES, *SWEEPS], ids=lambda file: file.stem)


def header(file):
    """The comment that a file opens with, line by line, without the signs."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


@pytest.fixture
def brats():
    return config.load(FOLDER / "brats_unet.yaml")


@pytest.fixture
def atrium():
    return config.load(FOLDER / "atrium_unet.yaml")


def test_there_are_experiments():
    assert {"brain_tissue", "brats_unet", "atrium_unet", "brats_fcn", "atrium_fcn"} <= {file.stem for file in FILES}


@FILE
def test_the_file_loads_and_is_named_after_its_experiment(file):
    assert config.load(file).name == file.stem.replace("_", "-")


@SWEEP
def test_the_sweep_loads_and_is_named_after_its_file(file):
    assert config.load_sweep(file).name == file.stem.replace("_", "-")
    command = "\n".join(text for text in header(file) if text.startswith("Command:"))
    assert f"r2d2 tune {file.relative_to(FOLDER.parent)}" in command


@RECORD
@pytest.mark.parametrize("line", ["Command", "Hardware", "Time", "Expected"])
def test_the_header_records(file, line):
    found = [text for text in header(file) if re.match(rf"{line}:\s+\S", text)]
    assert len(found) == 1, f"{file.name}: its opening comment must have one line '# {line}: ...'"


@pytest.mark.parametrize("name", ["brats_unet", "atrium_unet", "brats_fcn", "atrium_fcn"])
def test_each_of_the_papers_studies_has_a_reduced_one_that_was_run(name):
    full, reduced = (config.load(FOLDER / file) for file in (f"{name}.yaml", f"reduced/{name}_reduced.yaml"))
    assert full.model.network == reduced.model.network
    same = ("channels", "plane", "normalization")
    assert [getattr(full.preprocess, key) for key in same] == [getattr(reduced.preprocess, key) for key in same]
    assert full.data.split == reduced.data.split and full.training.augmentation == reduced.training.augmentation
    told = "\n".join(header(FOLDER / "reduced" / f"{name}_reduced.yaml"))
    assert re.search(r"^Expected: test Dice 0\.\d{3} ", told, re.M)


@FILE
def test_the_commands_name_the_file(file):
    command = "\n".join(text for text in header(file) if text.startswith("Command:"))
    if "r2d2 demo" not in command and "build.py" not in command:
        assert f"r2d2 train {file.relative_to(FOLDER.parent)}" in command
    if "build.py" in command:
        assert f"python {(FOLDER / 'zoo' / 'build.py').relative_to(FOLDER.parent)} {config.load(file).name}" in command


@pytest.mark.parametrize("name", ["brats", "atrium"])
def test_the_papers_training_of_the_unet(name, request):
    experiment = request.getfixturevalue(name)
    training = experiment.training
    assert experiment.model.network == "dist-unet"
    assert (training.batch_size, training.epochs, training.optimizer) == (7, 100, "sgd")
    assert (training.scaling, training.warmup_epochs) == ("linear", 5)
    assert experiment.preprocess.slices.count == 70


def test_the_papers_base_rates(brats, atrium):
    assert brats.training.learning_rate == 1e-5
    assert atrium.training.learning_rate == 2e-5


@pytest.mark.parametrize(("name", "rate"), [("brats", 1e-5), ("atrium", 3e-5)])
def test_the_papers_training_of_the_fcn(name, rate, request):
    experiment, unet = config.load(FOLDER / f"{name}_fcn.yaml"), request.getfixturevalue(name)
    model, training = experiment.model, experiment.training
    assert isinstance(model, config.DistFCN) and model.encoder == "vgg19" and model.weights == "imagenet"
    assert model.dropout > 0 and model.stride < 32  # dropout in training, skip connections
    assert (training.batch_size, training.epochs, training.optimizer) == (10, 120, "sgd")
    assert (training.learning_rate, training.scaling, training.warmup_epochs) == (rate, "linear", 5)
    # The images are those of the U-Net.
    assert (experiment.data, experiment.preprocess) == (unet.data, unet.preprocess)
    assert training.augmentation == unet.training.augmentation


def test_brats_is_t1w_alone_of_flair_t1w_t1gd_t2w(brats):
    assert brats.preprocess.channels == (["FLAIR", "T1w", "T1gd", "T2w"].index("T1w"),)


def test_the_atrium_is_augmented_by_the_papers_table_1(atrium):
    assert augment.Ranges(**atrium.training.augmentation.model_dump()) == augment.TABLE_1
    assert augment.TABLE_1.rotation_degrees == (-45, 45) and augment.TABLE_1.zoom == (0.8, 1.2)
    assert tuple(512 * part for part in augment.TABLE_1.shift) == (0, 25.6)


def test_image_sizes(brats, atrium):
    assert brats.preprocess.image_size == (240, 240)  # the scans' own; the paper does not say
    assert atrium.preprocess.image_size == (512, 512)


def test_every_scan_gives_its_70_slices_whatever_its_labels(brats, atrium):
    assert {brats.preprocess.slices.choice, atrium.preprocess.slices.choice} == {"uniform"}


def test_classes_come_from_the_decathlons_own_files(brats, atrium):
    assert brats.data.path == Path("data/Task01_BrainTumour").absolute() and brats.data.labels is None
    assert atrium.data.path == Path("data/Task02_Heart").absolute() and atrium.data.labels is None


@pytest.mark.parametrize("name", ["brats_unet", "atrium_unet", "brats_fcn", "atrium_fcn"])
def test_what_was_not_run_is_said_to_be_not_run(name):
    assert "not run at full size here" in "\n".join(header(FOLDER / f"{name}.yaml"))
