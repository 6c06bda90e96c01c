from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r2d2 import config
from r2d2.errors import InputError
from r2d2.imgmed import augment

MINIMAL = "name: tiny\ndata: {path: scans}\n"


def refusal(text=MINIMAL, *overrides, source="tiny.yaml"):
    """The one line that an experiment is refused with."""
    with pytest.raises(InputError) as caught:
        config.parse(text, overrides, source)
    message = str(caught.value)
    assert "\n" not in message and message == message.strip()
    return message


def refused_file(path):
    with pytest.raises(InputError) as caught:
        config.load(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_name_and_path_are_enough_and_the_rest_are_the_papers_defaults():
    experiment = config.parse(MINIMAL)
    assert (experiment.name, experiment.data.path, experiment.data.patient_pattern) == (
        "tiny",
        Path("scans").absolute(),
        config.PATIENT,
    )
    assert experiment.data.split.fractions == (0.70, 0.15, 0.15)
    assert (experiment.model.network, experiment.model.filters, experiment.model.depth) == ("dist-unet", 64, 4)
    assert (experiment.preprocess.plane, experiment.preprocess.image_size) == ("axial", (240, 240))
    assert experiment.cluster.workers == 1 and experiment.tracking.uri is None


def test_a_file_is_read_and_its_overrides_are_applied_in_order(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(MINIMAL + "training: {epochs: 7, batch_size: 3}\n", encoding="utf-8")
    overrides = [
        "training.epochs=5",
        "cluster.workers=4",
        "preprocess.image_size=[128, 96]",
        "description=Größe 3 µm",
        "training.epochs=6",
        "tracking.uri=",
    ]
    experiment = config.load(file, overrides)
    assert (experiment.training.epochs, experiment.training.batch_size) == (6, 3)
    assert experiment.cluster.workers == 4 and experiment.preprocess.image_size == (128, 96)
    assert experiment.description == "Größe 3 µm" and experiment.tracking.uri is None
    assert config.load(file).training.epochs == 7


def test_an_override_fills_a_section_that_the_file_leaves_empty():
    assert config.parse(MINIMAL + "training:\n", ["training.epochs=5"]).training.epochs == 5


def test_a_value_may_hold_an_equals_sign():
    assert config.parse(MINIMAL, ["data.patient_pattern=(?P<a>p=.)"]).data.patient_pattern == "(?P<a>p=.)"


FULL = """
name: full
description: "every kind of value: ärztlich, 1e-3"
data:
  path: some/folder
  labels: {0: background, 1: "no", 2: "7"}
  patient_pattern: '^(p\\d+)_'
  split: {training: [p1, "1"], validation: [p2], test: []}
preprocess: {channels: [2, 0], plane: coronal, slices: {count: 3, choice: central}, normalization: percentile}
model: {filters: 8, depth: 2, dropout: 0.25}
training:
  {learning_rate: 1.0e-5, momentum: 0.0, precision: bfloat16, warmup_epochs: 0.1, augmentation: {zoom: [0.8, 1.2]}}
cluster: {workers: 3, cpus_per_worker: 2, gpus_per_worker: 1, address: "ray://head:10001"}
tracking: {uri: "sqlite:////tmp/x.db", storage: /mnt/all, model_name: other}
evaluation: {every_epochs: 2, overlays: 0}
"""


FCN = """
name: fcn
data: {path: scans}
model:
  {network: dist-fcn, weights: imagenet, freeze: {layers: [encoder_1, head], until_epoch: 3}, stride: 32, dropout: 0.1}
training: {loss: focal, class_weights: [0.5, 2]}
"""


@pytest.mark.parametrize("text", [MINIMAL, FULL, FCN])
def test_yaml_with_every_key_is_read_back_equal(text):
    experiment = config.parse(text)
    written = experiment.to_yaml()
    assert config.parse(written) == experiment
    assert set(yaml.safe_load(written)) == set(config.Experiment.model_fields)


def test_the_experiments_of_the_house_load():
    files = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))
    assert files
    for file in files:
        assert config.parse(config.load(file).to_yaml()) == config.load(file)


def test_without_augmentation_there_is_none_and_an_override_adds_the_papers():
    assert config.parse(MINIMAL).training.augmentation is None
    table_1 = "training.augmentation={rotation_degrees: [-45, 45], zoom: [0.8, 1.2], shift: [0, 0.05]}"
    augmentation = config.parse(MINIMAL, [table_1]).training.augmentation
    assert augment.Ranges(**augmentation.model_dump()) == augment.TABLE_1


def test_every_default_and_name_of_the_augmentation_is_that_of_imgmed():
    assert augment.Ranges(**config.Augmentation().model_dump()) == augment.Ranges()


def test_the_model_is_registered_under_its_own_name_or_the_experiments():
    assert config.parse(MINIMAL).registered_name == "tiny"
    assert config.parse(FULL).registered_name == "other"


def test_values_do_not_change_after_loading():
    with pytest.raises(ValueError, match="frozen"):
        config.parse(MINIMAL).training.epochs = 3


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("training.epoch=5", "training.epochs"),
        ("training.bacth_size=5", "training.batch_size"),
        ("epochs=5", "training.epochs"),
        ("preprocess.slices.cuont=5", "preprocess.slices.count"),
        ("modle.filters=5", "model"),
        ("training.augmentation.rotation=[0, 5]", "training.augmentation.rotation_degrees"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_ones(override, nearest):
    message = refusal(MINIMAL, override)
    key = override.partition("=")[0]
    unknown = "modle" if key.startswith("modle") else key
    head, _, known = message.partition("; the nearest known: ")
    assert head == f"tiny.yaml: {unknown}: unknown key" and nearest in known.split(", ")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.encodr=vgg16"], "model.encodr: unknown key of dist-unet; the nearest known: "),
        (
            ["model.network=dist-fcn", "model.encodr=vgg16"],
            "model.encodr: unknown key of dist-fcn; the nearest known: m",
        ),
        (["model.network=dist-fcn", "model.filters=8"], "model.filters: unknown key of dist-fcn; the nearest known: "),
        (["model.head_width=8"], "model.head_width: unknown key of dist-unet"),
    ],
)
def test_a_key_of_the_other_network_is_an_unknown_one(overrides, line):
    message = refusal(MINIMAL, *overrides)
    assert message.startswith(f"tiny.yaml: {line}")
    network = "dist-fcn" if len(overrides) > 1 else "dist-unet"
    for key in message.partition("the nearest known: ")[2].split(", "):
        assert not key or key.split(".")[1] in config.NETWORKS[network].model_fields


def test_each_network_has_its_own_keys_and_defaults():
    fcn = config.parse(MINIMAL, ["model={network: dist-fcn, encoder: vgg16, stride: 16, head_width: 9}"]).model
    assert isinstance(fcn, config.DistFCN) and (fcn.encoder, fcn.stride, fcn.head_width) == ("vgg16", 16, 9)
    assert fcn.dropout == 0.5 and config.DistFCN().encoder == "vgg19"
    unet = config.parse(MINIMAL, ["model={normalization: batch, residual: yes}"]).model
    assert isinstance(unet, config.DistUNet) and unet.normalization == "batch" and unet.residual is True


def test_a_file_of_weights_is_absolute_and_other_sources_are_not_paths():
    for text, expected in (
        ("models/a.keras", str(Path("models/a.keras").absolute())),
        ("zoo:heart@candidate", "zoo:heart@candidate"),
    ):
        assert config.parse(MINIMAL, [f"model.weights={text}"]).model.weights == expected
    assert config.parse(MINIMAL, ["model={network: dist-fcn, weights: imagenet}"]).model.weights == "imagenet"


def test_imagenets_weights_are_refused_where_intensities_are_as_they_are():
    overrides = ["model={network: dist-fcn, weights: imagenet}", "preprocess.normalization=none"]
    with pytest.raises(InputError, match=r"model\.weights: imagenet expects .* to zscore, percentile or window"):
        config.parse(MINIMAL, overrides)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.weights=model.pt", "model.weights: should be imagenet, zoo:name@alias or a file .keras"),
        ("model.weights=imagenet", "model.weights: imagenet is for dist-fcn"),
        ("model.freeze={layers: [encoder]}", "model.freeze.until_epoch: field required"),
        ("model.freeze={until_epoch: 0}", "model.freeze.until_epoch: input should be greater than or equal to 1"),
        (
            "model={depth: 2, freeze: {layers: [encoder_3], until_epoch: 1}}",
            "model: freeze.layers: no block 'encoder_3'",
        ),
        (
            "model={network: dist-fcn, freeze: {layers: [bottom], until_epoch: 1}}",
            "model: freeze.layers: no block 'bott",
        ),
        (
            "model.freeze={until_epoch: 1}",
            "model.freeze: blocks would stand still as they were drawn; give model.weights",
        ),
        ("model.residual=5", "model.residual: input should be a valid boolean"),
        ("model.network=null", "model.network: should be 'dist-unet' or 'dist-fcn' (got 'None')"),
        ("model=5", "model: input should be a valid dictionary"),
        ("training.focal_gamma=-1", "training.focal_gamma: input should be greater than or equal to 0"),
        ("training.class_weights=5", "training.class_weights: should be none, fingerprint or a number >= 0 for each"),
        ("training.class_weights=[1, 0]", "training.class_weights: should be none, fingerprint or a number >= 0"),
        ("training.class_weights=[1, -1]", "training.class_weights: should be"),
        ("training.class_weights=[1, .inf]", "training.class_weights: should be"),
        ("training.class_weights=[1, yes]", "training.class_weights: should be"),
    ],
)
def test_a_network_or_loss_that_makes_no_sense_is_refused_by_key_and_rule(override, line):
    assert refusal(MINIMAL, override).startswith(f"tiny.yaml: {line}")


def test_class_weights_are_none_the_fingerprints_or_given():
    assert config.parse(MINIMAL).training.class_weights == "none"
    assert config.parse(MINIMAL, ["training.class_weights=fingerprint"]).training.class_weights == "fingerprint"
    assert config.parse(MINIMAL, ["training.class_weights=[1, 2.5]"]).training.class_weights == (1.0, 2.5)


def test_an_unknown_key_like_no_other_is_named_alone():
    assert refusal(MINIMAL, "zzz=1") == "tiny.yaml: zzz: unknown key"


def test_an_unknown_key_is_told_before_the_one_that_is_missing_for_it():
    message = refusal("nmae: tiny\ndata: {path: scans}\n")
    assert message.startswith("tiny.yaml: nmae: unknown key; the nearest known: name") and "1 more" in message


@pytest.mark.parametrize(
    ("override", "key", "rule"),
    [
        ("training.epochs=many", "training.epochs", "integer"),
        ("training.epochs=1.5", "training.epochs", "integer"),
        ("training.epochs=null", "training.epochs", "integer"),
        ("training.epochs=yes", "training.epochs", "integer"),
        ("model.dropout=[1]", "model.dropout", "number"),
        ("data.path=5", "data.path", "path"),
        ("name=5", "name", "string"),
        ("training=5", "training", "dictionary"),
        ("preprocess.image_size=240", "preprocess.image_size", "should be a list of values, like [1, 2] (got 240)"),
        ("preprocess.image_size=[240]", "preprocess.image_size.1", "required"),
        ("data.labels=[a, b]", "data.labels", "dictionary"),
        ("data.labels={background: 0}", "data.labels.background", "integer"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_key_and_rule(override, key, rule):
    message = refusal(MINIMAL, override)
    assert message.startswith(f"tiny.yaml: {key}") and rule in message


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("training.epochs=0", "greater than or equal to 1 (got 0)"),
        ("training.learning_rate=0", "greater than 0 (got 0)"),
        ("training.learning_rate=-1e-3", "greater than 0"),
        ("training.learning_rate=.inf", "finite"),
        ("training.learning_rate=.nan", ""),
        ("training.warmup_epochs=.inf", "finite"),
        ("training.momentum=1.0", "less than 1 (got 1.0)"),
        ("model.dropout=1", "less than 1"),
        ("model.depth=8", "less than or equal to 7 (got 8)"),
        ("model.network=unet", "'dist-unet' or 'dist-fcn' (got 'unet')"),
        ("preprocess.plane=oblique", "'sagittal', 'coronal' or 'axial' (got 'oblique')"),
        ("preprocess.image_size=[7, 240]", "greater than or equal to 8 (got 7)"),
        ("preprocess.channels=[-1]", "greater than or equal to 0 (got -1)"),
        ("preprocess.channels=[]", ""),
        ("cluster.wait_minutes=-1", "greater than or equal to 0 (got -1)"),
        ("cluster.workers=0", "greater than or equal to 1 (got 0)"),
        ("cluster.gpus_per_worker=2", "less than or equal to 1 (got 2)"),
        ("data.labels={0: background, 255: tumour}", "less than or equal to 254"),
        ("data.split.fractions=[1.2, -0.1, -0.1]", "less than or equal to 1 (got 1.2)"),
        ("training.augmentation.zoom=[0, 1]", "greater than 0 (got 0)"),
        ("training.augmentation.zoom=[1.2, 0.8]", "[least, largest]: 1.2 must be <= 0.8"),
        ("training.augmentation.rotation_degrees=[-45]", "required"),
        ("training.augmentation.rotation_degrees=45", "should be a list of values"),
        ("training.augmentation.shift=[0, 25.6]", "less than or equal to 1 (got 25.6)"),
        ("training.augmentation.flip=[left]", "'left-right', 'front-back' or 'bottom-top' (got 'left')"),
        ("training.augmentation.flip=[bottom-top]", "axial slices have no axis bottom-top"),
        ("training.augmentation.flip=yes", "not yes, no, true or false"),
        ("training.augmentation={elastic: 0.12}", "elastic (0.12) must be < 0.48 / elastic_cells (0.12)"),
        ("training.augmentation.noise=[-0.1, 0.1]", "greater than or equal to 0 (got -0.1)"),
        ("training.augmentation.probability=1.5", "less than or equal to 1 (got 1.5)"),
        ("name=../../etc", "should begin with a letter or a digit, and have only these"),
        ("name=''", "should begin with a letter or a digit, and have only these"),
    ],
)
def test_a_value_out_of_its_range_is_refused_with_the_range(override, rule):
    message = refusal(MINIMAL, override)
    assert message.startswith(f"tiny.yaml: {override.partition('=')[0]}") and rule in message


@pytest.mark.parametrize(
    ("split", "rule"),
    [
        ("{fractions: [0.7, 0.2, 0.2]}", "fractions [0.7, 0.2, 0.2] must sum to 1"),
        ("{folds: 5, fold: 5}", "fold (5) must be < folds (5)"),
        ("{folds: 2}", "folds must be 3 or more"),
        ("{folds: 1}", "greater than or equal to 2 (got 1)"),
        ("{training: [a]}", "all three lists"),
        ("{training: [a], validation: [b]}", "all three lists"),
        ("{validation: []}", "all three lists"),
    ],
)
def test_a_split_that_contradicts_itself_is_refused(split, rule):
    message = refusal(MINIMAL, f"data.split={split}")
    assert message.startswith("tiny.yaml: data.split") and rule in message


@pytest.mark.parametrize(
    "split",
    [
        "{fractions: [1, 0, 0]}",
        "{fractions: [0.1, 0.2, 0.7]}",
        "{folds: 3, fold: 2}",
        "{training: [a], validation: [b], test: []}",
    ],
)
def test_a_split_that_makes_sense_is_taken(split):
    assert config.parse(MINIMAL, [f"data.split={split}"]).data.split is not None


@pytest.mark.parametrize("missing", ["name", "data"])
def test_a_missing_part_is_named(missing):
    text = "\n".join(line for line in MINIMAL.splitlines() if not line.startswith(missing))
    assert refusal(text) == f"tiny.yaml: {missing}: field required"


def test_a_missing_key_of_a_section_is_named():
    assert refusal("name: tiny\ndata: {}") == "tiny.yaml: data.path: field required"


@pytest.mark.parametrize("override", ["training.epochs", "=5", "", "--epochs 5"])
def test_an_override_without_key_or_equals_sign_is_refused_with_an_example(override):
    message = refusal(MINIMAL, override)
    assert message.startswith(f"override {override!r}") and "training.epochs=5" in message


def test_an_override_that_is_no_yaml_or_goes_into_a_value_is_refused():
    assert "not YAML" in refusal(MINIMAL, "training.epochs=[1")
    assert "name is a value, not a section" in refusal(MINIMAL, "name.first=R2")


@pytest.mark.parametrize("text", ["name: [", "name: tiny\n\tdata: {}", "a: b: c", "name: \x00", "name: 2020-13-45"])
def test_what_is_no_yaml_is_refused_by_file(text):
    assert refusal(text).startswith("tiny.yaml: not YAML")


def test_an_override_with_an_impossible_date_is_refused():
    assert "2020-13-45" in refusal(MINIMAL, "description=2020-13-45")


@pytest.mark.parametrize("text", ["", "just words", "- name: tiny", "5"])
def test_yaml_that_is_no_mapping_is_refused(text):
    assert "mapping of sections" in refusal(text)


def test_files_that_cannot_be_read_are_refused_by_name(tmp_path):
    assert "no such experiment file" in refused_file(tmp_path / "none.yaml")
    assert "cannot be read" in refused_file(tmp_path)
    (tmp_path / "latin1.yaml").write_bytes("name: Größe".encode("latin-1"))
    assert "cannot be read" in refused_file(tmp_path / "latin1.yaml")


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="ab01.-_:[]{}, \n'\"&*!#|>?%@~/\\te", max_size=40), st.booleans())
@example("{a: 1", True)
@example("? {a: b}\n: c", False)
@example('"a\\nb": 1', False)
def test_whatever_is_typed_is_an_experiment_or_one_line(text, as_override):
    try:
        config.parse(MINIMAL if as_override else text, [f"description={text}"] if as_override else [])
    except InputError as error:
        assert "\n" not in str(error)


def test_differences_are_dotted_keys():
    left = config.parse(FULL)
    assert config.differences(left, left) == []
    assert config.differences(left, config.parse(FULL, ["training.epochs=100"])) == []  # the default, spelt out
    right = config.parse(
        FULL, ["preprocess.slices.count=4", "cluster.workers=9", "data.labels={0: background, 7: other}"]
    )
    expected = [
        "cluster.workers",
        "data.labels.1",
        "data.labels.2",
        "data.labels.7",
        "preprocess.slices.count",
    ]
    assert config.differences(left, right) == config.differences(right, left) == expected


def test_parameters_are_text_by_dotted_key():
    known = config.parameters(config.parse(FULL))
    assert known["training.learning_rate"] == "1e-05" and known["data.labels.1"] == "no"
    assert known["preprocess.channels"] == "[2, 0]" and known["data.split.folds"] == "None"
    assert all(isinstance(value, str) for value in known.values())
    minimal = config.parameters(config.parse(MINIMAL))
    assert minimal["data.labels"] == "None" and minimal["model.filters"] == "64"


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("R2D2_HOME", "relative")
    monkeypatch.chdir(tmp_path)
    assert config.home() == tmp_path / "relative"
    monkeypatch.setenv("R2D2_HOME", "")
    assert config.home() == tmp_path / ".r2d2"


def test_names_of_regions_and_values_of_masks_are_given_by_class():
    settings = ["data.structures={1: gtv, 2: [GTV-1, Tumour]}", "data.remap={255: 1, 4: 3}"]
    experiment = config.parse(MINIMAL, settings)
    assert experiment.data.structures == {1: "gtv", 2: ("GTV-1", "Tumour")} and experiment.data.remap == {255: 1, 4: 3}
    assert config.parse(experiment.to_yaml()) == experiment
    for wrong in ("data.structures={1: []}", "data.structures={300: a}", "data.remap={-1: 1}", "data.remap={1: 255}"):
        assert wrong.partition("=")[0] in refusal(MINIMAL, wrong)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("tracking.uri=https://me:secret@host:5000", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("tracking.uri=https://:secret@host", "MLFLOW_TRACKING_PASSWORD instead, on a cluster in its nodes"),
        ("data.path=sftp://me:secret@host/scans", "FSSPEC_SFTP_PASSWORD"),
    ],
)
def test_a_password_that_would_be_recorded_with_the_run_is_refused_and_not_repeated(change, rule):
    with pytest.raises(InputError, match=rule) as caught:
        config.parse("name: a\ndata: {path: scans}", [change])
    assert "secret" not in str(caught.value) and str(caught.value).startswith(
        f"experiment: {change.partition('=')[0]}: "
    )


def test_a_name_in_a_url_is_no_password():
    experiment = config.parse("name: a\ndata: {path: sftp://me@host/scans}", ["tracking.uri=https://me@host"])
    assert (experiment.data.path, experiment.tracking.uri) == ("sftp://me@host/scans", "https://me@host")


def test_a_run_goes_on_with_no_more_workers_than_it_begins_with():
    told = refusal(MINIMAL, "cluster.min_workers=2")
    assert told == "tiny.yaml: cluster: min_workers (2) must be <= workers (1)"
    assert config.parse(MINIMAL, ["cluster.workers=3"]).cluster.least == 3
    assert config.parse(MINIMAL, ["cluster.workers=3", "cluster.min_workers=2"]).cluster.least == 2


def test_a_folder_of_the_home_is_found_wherever_the_home_is(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    text = "name: a\ndata: {path: .r2d2/demo/patients}\n"
    monkeypatch.setenv("R2D2_HOME", str(tmp_path / "home"))
    assert config.parse(text).data.path == tmp_path / "home" / "demo" / "patients"
    (here := tmp_path / "work" / ".r2d2" / "demo" / "patients").mkdir(parents=True)
    assert config.parse(text).data.path == here  # what lies in the working folder was meant
    here.rmdir()
    monkeypatch.delenv("R2D2_HOME")
    assert config.parse(text).data.path == here
