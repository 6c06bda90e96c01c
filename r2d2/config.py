"""An experiment file: what may stand in it, what it means, and one-line errors for what may not.

An experiment is YAML with the sections `name, data, preprocess, model, training, cluster, tracking, evaluation,
promotion, card`.
Every key has its default here; `load` reads a file, applies dotted overrides (`training.epochs=5`) and checks all.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from r2d2.errors import InputError

Label = Annotated[int, Field(ge=0, le=254)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""Absolute from the moment it is read, so that a recorded experiment means the same from any working folder."""


def _location(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("should be a folder or a URL")
    return value if "://" in str(value) else Path(value).expanduser().absolute()


Location = Annotated[Path | str, BeforeValidator(_location)]
"""A folder of this machine, absolute likewise, or a URL that fsspec knows, which stays text."""
PATIENT = r"^(.+?)(?:_z\d{3,})?(?:_augmented_\d+)?$"
"""A case's name without what R2D2 itself puts behind it: slices of `imgmed.convert`, images of `augment_folder`."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Section(BaseModel):
    """A part of an experiment file: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, which would pass for the number 1."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and wanted is not bool:
            raise ValueError(f"should be a valid integer, number or text, not yes, no, true or false (got {value})")
        return value


class Split(Section):
    """Which patients train, validate and test; a patient is never in two of them.

    Fractions of the patients, drawn with `seed`; or `folds` parts of which number `fold` (from 0) is the test set and
    the next one the validation set; or the lists of patients `training`, `validation`, `test`, which win.
    """

    fractions: tuple[Fraction, Fraction, Fraction] = (0.70, 0.15, 0.15)
    seed: int = 0
    folds: Annotated[int, Field(ge=2)] | None = None
    fold: Annotated[int, Field(ge=0)] = 0
    training: tuple[str, ...] | None = None
    validation: tuple[str, ...] | None = None
    test: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Split":
        if abs(sum(self.fractions) - 1.0) > 1e-6:
            raise ValueError(f"fractions {list(self.fractions)} must sum to 1")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold ({self.fold}) must be < folds ({self.folds}); folds are counted from 0")
        if self.folds == 2:
            raise ValueError("folds must be 3 or more: one to test, one to validate, the others to train")
        lists = [self.training, self.validation, self.test]
        if any(part is not None for part in lists) and not all(part is not None for part in lists):
            raise ValueError("give all three lists of patients (training, validation, test) or none")
        return self


class Data(Section):
    """Where the scans are.

    `path` is a folder, here or at a URL that fsspec knows (s3://, gs://, https://, sftp://), in the layout of the
    Medical Segmentation Decathlon or of nnU-Net (`dataset.json`, `imagesTr/`, `labelsTr/`), with plain `images/` and
    `labels/`, or with a folder for each patient: a DICOM series and its RTSTRUCT or SEG, or LASC's `image.mhd` and
    `gt_binary.mhd`. `labels` names the classes by their value in the masks, 0 being the background; a `dataset.json`
    says it too. Of an RTSTRUCT or SEG the classes are the regions or segments of these very names, or of those that
    `structures` gives, one for a class or several of which each patient has one: `{1: [GTV-1, gtv]}`. `remap` gives
    values in masks of other formats the classes' numbers: `{255: 1}` for pictures of 0 and 255, `{4: 3}` for BraTS.
    `patient_pattern` is a regular expression whose first group (or whole match) takes the patient from a case's name;
    by default that is the name without the endings `_z012` (a slice) and `_augmented_3` that R2D2's own tools make.
    """

    path: Location
    labels: Annotated[dict[Label, str], Field(min_length=2)] | None = None
    structures: dict[Label, str | Annotated[tuple[str, ...], Field(min_length=1)]] | None = None
    remap: dict[Annotated[int, Field(ge=0, le=65535)], Label] | None = None
    patient_pattern: str = PATIENT
    split: Split = Split()


class Slices(Section):
    """Which slices of a scan are trained on: `count` of them (all if absent), spread as `choice` says.

    `uniform`: evenly over the scan. `central`: the middle ones. `foreground`: evenly over those with a label.
    Validation and test always take every slice of a scan.
    """

    count: Annotated[int, Field(ge=1)] | None = None
    choice: Literal["uniform", "central", "foreground"] = "uniform"


class Preprocess(Section):
    """From a scan to images: orientation is always made canonical (RAS) first.

    `channels`: indices along the scan's fourth axis (all if absent). `plane`: the plane of the slices.
    `bias_correction`: `n4` takes the slow changes of brightness out of magnetic resonance scans. `normalization`:
    `zscore` (mean 0, deviation 1), `percentile` (0.5 to 99.5 to [0, 1]), both over the foreground; `window`
    (`window: [low, high]` to [0, 1], e.g. [-1000, 400] HU for a CT of the lungs) or `none`. `crop`: `foreground` cuts
    the slices to its box. The foreground is what is not exactly 0; all of a scan that has negative intensities, unless
    more than a tenth of it is 0: in a CT that was not masked, 0 is water. `image_size`: pixels
    of the images along the two axes of the slices, in the order left-right, front-back, bottom-top: of axial slices
    first left-right, then front-back; of a picture (.png) first its columns, then its rows. `pixel_mm`: the size of
    their pixels: slices are resized to it, then cropped or padded about their middle; absent, slices are stretched to
    the images whatever their size in mm. Labelled voxels that do not fit in are told.
    """

    channels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    plane: Literal["sagittal", "coronal", "axial"] = "axial"
    slices: Slices = Slices()
    bias_correction: Literal["none", "n4"] = "none"
    normalization: Literal["zscore", "percentile", "window", "none"] = "zscore"
    window: tuple[float, float] | None = None
    crop: Literal["none", "foreground"] = "none"
    image_size: tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]] = (240, 240)
    pixel_mm: Annotated[float, Field(gt=0.0)] | None = None

    @model_validator(mode="after")
    def _window_where_it_is_used(self) -> "Preprocess":
        if (self.window is not None) != (self.normalization == "window"):
            raise ValueError("normalization: window and window: [low, high] go together; give both or neither")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window's low ({self.window[0]:g}) must be < its high ({self.window[1]:g})")
        return self

    @field_validator("channels")
    @classmethod
    def _each_once(cls, channels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if channels is not None and len(set(channels)) < len(channels):
            raise ValueError(f"a channel may be named once only (got {list(channels)})")
        return channels


def _weights(value: str) -> str:
    if value == "imagenet" or value.startswith("zoo:"):
        return value
    if not value.endswith((".keras", ".h5")):
        raise ValueError(f"should be imagenet, zoo:name@alias or a file .keras, .weights.h5 or .h5 (got {value!r})")
    return str(Path(value).expanduser().absolute())


class Freeze(Section):
    """Which blocks of the network stand still at first: `layers`, until `until_epoch` epochs are done.

    Blocks are named as their layers begin. `dist-unet`: `encoder` or one level of it, `encoder_1` to `encoder_DEPTH`,
    `bottom`, `decoder` or `decoder_1` to `decoder_DEPTH`. `dist-fcn`: `encoder` or `encoder_1` to `encoder_5`, `head`.
    """

    layers: Annotated[tuple[str, ...], Field(min_length=1)] = ("encoder",)
    until_epoch: Annotated[int, Field(ge=1)]


class Network(Section):
    """What networks have in common.

    `weights`: what it starts from, as far as that fits: `imagenet` (Keras' own files, for `dist-fcn`), a file (.keras,
    .weights.h5, or .h5 of Keras 2) or `zoo:name@alias`, a registered model; absent, it starts at random. `freeze`: the
    blocks that stand still at first.
    """

    network: str
    weights: Annotated[str, AfterValidator(_weights)] | None = None
    freeze: Freeze | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of its blocks, which `freeze` takes."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _blocks_that_there_are(self) -> "Network":
        for name in self.freeze.layers if self.freeze else ():
            if name not in self.blocks:
                raise ValueError(f"freeze.layers: no block {name!r} in this network; it has {', '.join(self.blocks)}")
        return self


class DistUNet(Network):
    """Dist-U-Net: `filters` at the first level, doubled at each of `depth` further ones.

    `normalization` after every convolution: `group` (of channels, each image by itself) or `batch` (each worker's own
    minibatch). `residual`: what enters a level's convolutions is added to what comes out.
    """

    network: Literal["dist-unet"] = "dist-unet"
    filters: Annotated[int, Field(ge=1, le=1024)] = 64
    depth: Annotated[int, Field(ge=1, le=7)] = 4
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    normalization: Literal["none", "group", "batch"] = "none"
    residual: bool = False

    @property
    def blocks(self) -> tuple[str, ...]:
        """The encoder, its levels, the bottom, the decoder, its levels."""
        levels = range(1, self.depth + 1)
        return (
            *("encoder", *(f"encoder_{level}" for level in levels), "bottom"),
            *("decoder", *(f"decoder_{level}" for level in levels)),
        )

    @field_validator("weights")
    @classmethod
    def _not_vgg(cls, weights: str | None) -> str | None:
        if weights == "imagenet":
            raise ValueError("imagenet is for dist-fcn, whose encoder is VGG's; give a file or zoo:name@alias")
        return weights


class DistFCN(Network):
    """Dist-FCN: VGG's five blocks of convolutions, a head, and scores brought back to the image in strides.

    `encoder`: `vgg19` has 2, 2, 4, 4, 4 convolutions (the paper's numbers), `vgg16` 2, 2, 3, 3, 3. `stride`: 32, 16 or
    8, how far apart the scores lie before they are enlarged to the image (FCN-32s, FCN-16s, FCN-8s). `head_width`:
    channels of the head's two convolutions, 7x7 and 1x1. The original's 4096 hold the 103 million weights of ImageNet's
    classifier, which Keras' encoder files lack; the default is the encoder's own width. `dropout`: after each of the
    two, in training.
    """

    network: Literal["dist-fcn"] = "dist-fcn"
    encoder: Literal["vgg16", "vgg19"] = "vgg19"
    stride: Literal[8, 16, 32] = 8
    head_width: Annotated[int, Field(ge=1, le=8192)] = 512
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5

    @property
    def blocks(self) -> tuple[str, ...]:
        """The encoder, its five blocks, the head."""
        return ("encoder", *(f"encoder_{block}" for block in range(1, 6)), "head")


def _network(value: Any) -> str:
    """The name of the network that a `model` section is of."""
    return str(value.get("network", "dist-unet")) if isinstance(value, dict) else getattr(value, "network", "dist-unet")


Model = Annotated[DistUNet, Tag("dist-unet")] | Annotated[DistFCN, Tag("dist-fcn")]
NETWORKS: dict[str, type[Network]] = {"dist-unet": DistUNet, "dist-fcn": DistFCN}
"""Every network's section by the name it has in an experiment file; each knows its own keys alone."""


def _ordered(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"[least, largest]: {values[0]:g} must be <= {values[1]:g}")
    return values


Angle = Annotated[float, Field(ge=-360.0, le=360.0)]
Factor = Annotated[float, Field(gt=0.0, le=10.0)]
Signed = Annotated[float, Field(ge=-1.0, le=1.0)]
Positive = Annotated[float, Field(ge=0.0)]
Ordered = AfterValidator(_ordered)


class Augmentation(Section):
    """What is done to a training image, image and mask together, drawn anew in every epoch.

    Drawn uniformly from `[least, largest]`; what is absent is off. `rotation_degrees`: in the slice's plane, in mm.
    `zoom`: above 1 enlarges. `shift`: a fraction of the size, along one axis drawn at random. `flip`: the patient's
    axes that are reversed, each with probability 1/2; they must lie in the slices' plane. `elastic`: the largest
    displacement of the control points of a deformation, a fraction of the size, on a grid of `elastic_cells` along each
    axis. `gamma`: exponent of the intensities, scaled to [0, 1] for it and back. `bias`: the largest logarithm of a
    smooth factor of the intensities. `noise`: its standard deviation, in the intensities of the prepared images, 1
    being a scan's own under `zscore`. `probability`: that an image is augmented at all. The paper's Table 1 is

        augmentation: {rotation_degrees: [-45, 45], zoom: [0.8, 1.2], shift: [0, 0.05]}
    """

    rotation_degrees: Annotated[tuple[Angle, Angle], Ordered] = (0.0, 0.0)
    zoom: Annotated[tuple[Factor, Factor], Ordered] = (1.0, 1.0)
    shift: Annotated[tuple[Signed, Signed], Ordered] = (0.0, 0.0)
    flip: tuple[Literal["left-right", "front-back", "bottom-top"], ...] = ()
    elastic: Positive = 0.0
    elastic_cells: Annotated[int, Field(ge=1, le=32)] = 4
    gamma: Annotated[tuple[Factor, Factor], Ordered] = (1.0, 1.0)
    bias: Annotated[float, Field(ge=0.0, le=2.0)] = 0.0
    noise: Annotated[tuple[Positive, Positive], Ordered] = (0.0, 0.0)
    probability: Fraction = 1.0

    @model_validator(mode="after")
    def _does_not_fold(self) -> "Augmentation":
        if self.elastic >= 0.48 / self.elastic_cells:
            raise ValueError(
                f"elastic ({self.elastic:g}) must be < 0.48 / elastic_cells ({0.48 / self.elastic_cells:g}), or images "
                "fold over themselves"
            )
        return self


class Checkpoints(Section):
    """What a run can go on from: kept at the end of every epoch, and in between as often as this says.

    `every_steps` and `every_minutes`: the more often, the less a lost worker costs; a checkpoint is written while the
    training goes on. `keep`: how many of the latest stay; the best one stays anyway.
    """

    every_steps: Annotated[int, Field(ge=1)] | None = None
    every_minutes: Annotated[float, Field(gt=0.0)] | None = 10.0
    keep: Annotated[int, Field(ge=1)] = 2


class EarlyStopping(Section):
    """When there is no hope left: no validation Dice in `patience` epochs better by more than `improvement`."""

    patience: Annotated[int, Field(ge=1)]
    improvement: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class Sentinel(Section):
    """What is done when a training falls apart, and how that is told.

    It falls apart when the loss or the gradient becomes NaN or infinite; when the loss, smoothed over some ten steps,
    is `loss_factor` times the least that it has been, or the norm of the gradient `gradient_factor` times; or when the
    validation Dice is below a tenth of the best one in `collapse` validations one after another. `action`: `stop` ends
    the run as failed; `restart` goes back to the last checkpoint from before, at `rate_factor` times the rate, at most
    `max_restarts` times. A factor or `collapse` that is null is not looked at.
    """

    action: Literal["stop", "restart"] = "stop"
    loss_factor: Annotated[float, Field(gt=1.0)] | None = 10.0
    gradient_factor: Annotated[float, Field(gt=1.0)] | None = 1000.0
    collapse: Annotated[int, Field(ge=1)] | None = 5
    rate_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    max_restarts: Annotated[int, Field(ge=1)] = 3


class Ring(Section):
    """How gradients travel between the workers (Horovod).

    `overlap`: the last layers' while the first layers' are still computed, or all at the end. `fusion_mb`: small
    gradients are put together up to this size. `cycle_ms`: how often is looked for gradients to send. `compression`:
    `fp16` sends half of the bytes and rounds the sums. `timeline`: record what Horovod does; the file goes to the run.

    The defaults are measured (experiments/benchmarks/network.md): on two hosts at 1 Gbit/s overlapping saves a sixth of
    a step; 8 or 64 MiB, 1 or 5 ms are the same within noise, without fusion the U-Net loses 7 % at 10 Gbit/s; on CPUs
    rounding to fp16 costs more than it saves unless the network is slow and the gradients are large.
    """

    overlap: bool = True
    fusion_mb: Annotated[float, Field(ge=0.0)] = 64.0
    cycle_ms: Annotated[float, Field(gt=0.0)] = 1.0
    compression: Literal["none", "fp16"] = "none"
    timeline: bool = False


def _class_weights(value: Any) -> Any:
    if value in ("none", "fingerprint"):
        return value
    numbers = isinstance(value, list | tuple) and all(
        isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight < float("inf")
        for weight in value
    )
    if not numbers or not any(value[1:]):
        raise ValueError(
            "should be none, fingerprint or a number >= 0 for each class, the background first, one of the others > 0 "
            f"(got {value!r:.60})"
        )
    return tuple(float(weight) for weight in value)


class Training(Section):
    """How the network is trained.

    `batch_size` is a worker's minibatch; the global batch is that times the number of logical workers:
    `virtual_workers`, or the real ones if absent. Each real worker does the work of one or more virtual ones, so that
    the weights after a number of updates are those of that many workers, whatever there is.

    `loss`: `focal` takes `focal_gamma` (Lin et al. 2017), `tversky` takes `tversky_alpha`, the weight of what is
    predicted too much, and `tversky_beta`, of what is missed (Salehi et al. 2017). `class_weights`: a weight for each
    class, the background first, or `fingerprint`, which derives them from the classes' volumes.

    `learning_rate` is the base rate, at one worker; `scaling` multiplies it once by the number of logical workers
    (`linear`) or its root (`sqrt`). The warm-up climbs from the base rate to the scaled one over `warmup_epochs`, or
    over `warmup_steps` if given (Goyal et al. 2017, section 2.2). `decay`: then constant, or falling to zero along a
    half cosine or a power of the steps that are left (`polynomial`, `decay_power`). `weight_decay` is decoupled and
    spares biases and normalization. `updates`: more workers make fewer updates in as many epochs; `same-updates`
    prolongs the training to the updates that one worker makes in `epochs`.

    `precision: auto` is bfloat16 where the processor or GPU has instructions for it, float32 elsewhere.
    `deterministic`: two runs on as many workers and threads end with the same bits. `xla`: compile the step with XLA,
    which pays on GPUs. `augmentation`: none if absent; validation and test are never augmented. `max_minutes`: of
    training; then the run is evaluated as it is.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    batch_size: Annotated[int, Field(ge=1)] = 7
    virtual_workers: Annotated[int, Field(ge=1)] | None = None
    loss: Literal["cross_entropy", "dice", "dice_cross_entropy", "focal", "tversky"] = "dice_cross_entropy"
    focal_gamma: Annotated[float, Field(ge=0.0, le=10.0)] = 2.0
    tversky_alpha: Annotated[float, Field(gt=0.0, le=10.0)] = 0.3
    tversky_beta: Annotated[float, Field(gt=0.0, le=10.0)] = 0.7
    class_weights: Annotated[Literal["none", "fingerprint"] | tuple[float, ...], BeforeValidator(_class_weights)] = (
        "none"
    )
    optimizer: Literal["sgd", "adam", "adamw", "lars", "lamb"] = "sgd"
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-2
    scaling: Literal["linear", "sqrt", "none"] = "linear"
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 5.0
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    decay: Literal["constant", "polynomial", "cosine"] = "constant"
    decay_power: Annotated[float, Field(gt=0.0)] = 0.9
    updates: Literal["same-epochs", "same-updates"] = "same-epochs"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = False
    xla: bool = False
    augmentation: Augmentation | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    max_minutes: Annotated[float, Field(gt=0.0)] | None = None
    early_stopping: EarlyStopping | None = None
    checkpoints: Checkpoints = Checkpoints()
    sentinel: Sentinel = Sentinel()
    ring: Ring = Ring()

    @model_validator(mode="after")
    def _decay_has_its_optimizer(self) -> "Training":
        if self.weight_decay and self.optimizer == "adam":
            raise ValueError("weight_decay: adam has none; take adamw")
        return self


class Cluster(Section):
    """Where the workers run: how many, and what each one takes of the Ray cluster.

    `cpus_per_worker`: as many as the cluster can give to all alike, if absent; a worker uses as many threads.
    `address`: the Ray cluster's; absent, the one in RAY_ADDRESS or of `r2d2 up`, or a local one for this run alone,
    which is what `local` always means.
    `max_restarts`: how often a run that lost a worker is started again from its last checkpoint.
    """

    workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] | None = None
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    address: str | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 3


class Tracking(Section):
    """Where runs are recorded.

    `uri` is an MLflow server's (absent: MLFLOW_TRACKING_URI, the server of `r2d2 up`, or SQLite in R2D2_HOME).
    `storage` is the folder, common to all nodes, of checkpoints and prepared data (absent: R2D2_HOME).
    `model_name` is the name in the registry (absent: the experiment's). `monitor_s`: how often every node's load is
    recorded, in seconds; null for never.
    """

    uri: str | None = None
    storage: Folder | None = None
    model_name: Name | None = None
    monitor_s: Annotated[float, Field(ge=0.1)] | None = 10.0


class Evaluation(Section):
    """What is scored: validation after every `every_epochs` epochs and the last; pictures of the worst `overlays`."""

    every_epochs: Annotated[int, Field(ge=1)] = 1
    overlays: Annotated[int, Field(ge=0)] = 3


class Promotion(Section):
    """What a model must show before it takes an alias such as `champion` (`r2d2 zoo promote`).

    It is compared with the alias' present holder on the same patients, none of whom either model, or a model it came
    from, was trained or chosen on: at least `min_patients` of them. The lower end of the 95 % interval of the Dice's
    difference, candidate less champion, may not be below minus `allowed_loss`; no patient's Dice may be below `floor`;
    and no class may be found nowhere in a patient who has it and in whom the champion finds it.
    """

    min_patients: Annotated[int, Field(ge=2)] = 5
    allowed_loss: Fraction = 0.01
    floor: Fraction = 0.1


class Card(Section):
    """What only people know about a model, for its card in the zoo.

    `licence` is the data's; absent, the one that its `dataset.json` states.
    """

    task: str = ""
    modality: str = ""
    intended_use: str = "Research. Not for use on patients."
    licence: str = ""
    known_failures: tuple[str, ...] = ()


def _zoo(value: str) -> str:
    if not value.startswith("zoo:") or not value.removeprefix("zoo:"):
        raise ValueError(f"should be zoo:name@alias or zoo:name/version (got {value!r})")
    return value


class Experiment(Section):
    """A whole experiment file.

    `start_from`: a registered model that is trained further for this task. Its weights are carried over as far as they
    fit; its network is taken too where the file has no `model` section.
    """

    name: Name
    description: str = ""
    start_from: Annotated[str, AfterValidator(_zoo)] | None = None
    data: Data
    preprocess: Preprocess = Preprocess()
    model: Annotated[Model, Discriminator(_network)] = DistUNet()
    training: Training = Training()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()
    evaluation: Evaluation = Evaluation()
    promotion: Promotion = Promotion()
    card: Card = Card()

    @model_validator(mode="after")
    def _flips_within_the_plane(self) -> "Experiment":
        across = {"sagittal": "left-right", "coronal": "front-back", "axial": "bottom-top"}[self.preprocess.plane]
        if self.training.augmentation and across in self.training.augmentation.flip:
            raise ValueError(f"training.augmentation.flip: {self.preprocess.plane} slices have no axis {across}")
        return self

    @model_validator(mode="after")
    def _one_start(self) -> "Experiment":
        if self.start_from and self.model.weights not in (None, self.start_from):
            raise ValueError(f"start_from and model.weights ({self.model.weights}): give one of them")
        return self

    @model_validator(mode="after")
    def _virtual_workers_for_all(self) -> "Experiment":
        if self.logical_workers < self.cluster.workers:
            raise ValueError(
                f"training.virtual_workers ({self.logical_workers}) must be >= cluster.workers "
                f"({self.cluster.workers}): every worker does the work of one or more"
            )
        return self

    @property
    def logical_workers(self) -> int:
        """How many workers the rate, the global batch and the order of images follow."""
        return self.training.virtual_workers or self.cluster.workers

    @property
    def registered_name(self) -> str:
        """The name of the model in the registry."""
        return self.tracking.model_name or self.name

    def to_yaml(self) -> str:
        """The experiment as YAML with every key, defaults included; `load` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def home() -> Path:
    """The folder of all that R2D2 keeps for a user: R2D2_HOME, or `.r2d2` in the working folder.

    Raises:
        InputError: It is a file.
    """
    folder = Path(os.environ.get("R2D2_HOME") or ".r2d2").expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"R2D2_HOME {folder}: a file, not a folder; set it to a folder of yours")
    return folder


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Experiment:
    """Read an experiment file and apply dotted overrides.

    Args:
        path: A YAML file.
        overrides: `section.key=value`, the value read as YAML, e.g. `training.epochs=5` or
            `preprocess.image_size=[128, 128]`.

    Returns:
        The checked experiment. Relative paths in it start from the working folder.

    Raises:
        InputError: The file is missing or no YAML, a key is unknown (the nearest are named), or a value is out of its
            range or type.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return parse(text, overrides, source=str(path))


def parse(text: str, overrides: list[str] | tuple[str, ...] = (), source: str = "experiment") -> Experiment:
    """Check an experiment given as YAML text; `source` is what errors call it. See `load`."""
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{source}: an experiment file is a mapping of sections (name, data, ...), not {values!r:.40}")
    for override in overrides:
        _override(values, override)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {_one_line(error)}") from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which here refuses a key given twice instead of taking the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (place, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1 and key != "<<":
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=place.start_mark)
        return super().construct_mapping(node, deep)


def differences(left: Experiment, right: Experiment) -> list[str]:
    """The dotted keys in which two experiments differ."""
    a, b = _flat(left.model_dump(mode="json")), _flat(right.model_dump(mode="json"))
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def parameters(experiment: Experiment) -> dict[str, str]:
    """Every setting of an experiment by its dotted key, as text; what a run's parameters are."""
    return {key: str(value) for key, value in _flat(experiment.model_dump(mode="json")).items()}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: write it as section.key=value, e.g. training.epochs=5")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise InputError(f"override {override!r}: the value is not YAML") from None
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            raise InputError(f"override {override!r}: {parent} is a value, not a section")
        place = inner
    place[last] = value


def _one_line(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    # An unknown key explains a missing one, so it comes first.
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    network = next((part for part in first["loc"] if part in NETWORKS), None)
    parts = [str(part) for part in first["loc"] if part not in NETWORKS]
    where = ".".join(part for part in parts if not part.startswith(("function-", "constrained-")))
    if first["type"] == "extra_forbidden":
        known = _known_keys(NETWORKS[str(network)], "model.") if network else _known_keys()
        same_name = [key for key in known if key.split(".")[-1] == where.split(".")[-1]]
        nearest = list(dict.fromkeys([*same_name, *difflib.get_close_matches(where, known, n=3, cutoff=0.5)]))[:3]
        text = f"{where}: unknown key" + (f" of {network}" if network else "")
        text += f"; the nearest known: {', '.join(nearest)}" if nearest else ""
    elif first["type"] == "union_tag_invalid":
        expected = " or ".join(repr(name) for name in NETWORKS)
        text = f"{where}.network: should be {expected} (got {first['ctx']['tag']!r:.60})"
    else:
        message = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] in ("missing", "value_error") else f" (got {first['input']!r:.60})"
        text = f"{where}: {message[0].lower()}{message[1:]}{given}" if where else message
    text = " ".join(text.split())
    return text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"


def _known_keys(section: type[BaseModel] = Experiment, prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(f"{prefix}{name}")
        # The section itself, also where it may be absent (`Section | None`) or one of several with tags.
        for kind in (field.annotation, *(getattr(kind, "__origin__", kind) for kind in get_args(field.annotation))):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _known_keys(kind, f"{prefix}{name}.")
    return keys
