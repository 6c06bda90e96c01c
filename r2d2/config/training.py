"""The section `training`: augmentation, checkpoints, early stopping, the sentinel, the ring, and the rest."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from r2d2.config.section import Fraction, Section


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
    `fp16` sends half of the bytes and rounds the sums; a gradient beyond 64 is infinite then. `timeline`: record what
    Horovod does; the file goes to the run.

    The defaults are measured, in one session (experiments/benchmarks/network.md): on two hosts at 1 Gbit/s overlapping
    saves a sixth of a step; 8 or 64 MiB, 1 or 5 ms are the same within noise, without fusion the U-Net loses 7 % at 10
    Gbit/s; on CPUs rounding to fp16 costs more than it saves unless the network is slow and the gradients are large.
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
    class, the background first, or `fingerprint`, which derives them from the classes' shares of the training images.

    `learning_rate` is the base rate, at one worker; `scaling` multiplies it once by the number of logical workers
    (`linear`) or its root (`sqrt`). The warm-up climbs from the base rate to the scaled one over `warmup_epochs`, or
    over `warmup_steps` if given (Goyal et al. 2017, section 2.2): where nothing is scaled, as at one worker, nothing
    climbs. `warmup_from: zero` climbs from zero, also there: for LARS, LAMB, AdamW and fine-tuning. `decay`: then
    constant, or falling to zero along a half cosine or a power of the steps that are left (`polynomial`,
    `decay_power`). `weight_decay` spares biases and normalization; with `sgd` and `adamw` it is decoupled, with `lars`
    a part of the gradient, with `lamb` of the step before that is scaled to the weights. `updates`: more workers make
    fewer updates in as many epochs; `same-updates` prolongs the training to the updates that one worker makes in
    `epochs`.

    `precision: auto` is bfloat16 where the processor or GPU has instructions for it, float32 elsewhere.
    `deterministic`: two runs on as many workers and threads end with the same bits. `xla`: compile the step with XLA;
    if absent, on GPUs, where it halves a step, unless the run is deterministic. `augmentation`: none if absent;
    validation and test are never augmented. `max_minutes`: of training; then the run is evaluated as it is.
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
    warmup_from: Literal["base", "zero"] = "base"
    decay: Literal["constant", "polynomial", "cosine"] = "constant"
    decay_power: Annotated[float, Field(gt=0.0)] = 0.9
    updates: Literal["same-epochs", "same-updates"] = "same-epochs"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = False
    xla: bool | None = None
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
