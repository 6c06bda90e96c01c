"""A whole experiment, and its smaller sections: cluster, tracking, evaluation, promotion, card."""

from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, model_validator

from r2d2.config.data import Data, Preprocess
from r2d2.config.folders import Folder, has_password
from r2d2.config.networks import DistUNet, Model
from r2d2.config.section import Fraction, Name, Section
from r2d2.config.training import Training


class Cluster(Section):
    """Where the workers run: how many, and what each one takes of the Ray cluster.

    `cpus_per_worker`: as many as the cluster can give to all alike, if absent; a worker uses as many threads.
    `gpus_per_worker`: if absent, one where the cluster has one for each of `min_workers`, else none.
    `address`: the Ray cluster's; absent, the one in RAY_ADDRESS or of `r2d2 up`, or a local one for this run alone,
    which is what `local` always means.
    `max_restarts`: how often a run that lost a worker is started again from its last checkpoint.
    `min_workers`: a run begins, and goes on after it lost workers or a host, with as many of `workers` as there are,
    but no fewer than these (absent: with all of them). It computes the same: the real workers share the work of the
    logical ones. `wait_minutes`: how long it waits for slots that the cluster lacks; then it ends, to be resumed.
    """

    workers: Annotated[int, Field(ge=1)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1)] | None = None
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    address: str | None = None
    max_restarts: Annotated[int, Field(ge=0)] = 3
    min_workers: Annotated[int, Field(ge=1)] | None = None
    wait_minutes: Annotated[float, Field(ge=0)] = 30.0

    @model_validator(mode="after")
    def _least_and_most(self) -> "Cluster":
        if self.least > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be <= workers ({self.workers})")
        return self

    @property
    def least(self) -> int:
        """How few workers a run goes on with."""
        return self.min_workers or self.workers


def _without_password(value: str) -> str:
    if has_password(value):
        raise ValueError(
            "a password in it would be recorded with every run; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD instead, on a cluster in its nodes' environment"
        )
    return value


class Tracking(Section):
    """Where runs are recorded.

    `uri` is an MLflow server's (absent: MLFLOW_TRACKING_URI, the server of `r2d2 up`, or SQLite in R2D2_HOME).
    `storage` is the folder, common to all nodes, of checkpoints and prepared data (absent: R2D2_HOME).
    `model_name` is the name in the registry (absent: the experiment's). `monitor_s`: how often every node's load is
    recorded, in seconds; null for never.
    """

    uri: Annotated[str, AfterValidator(_without_password)] | None = None
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
    and no class may be found nowhere in a patient who has it and in whom the champion finds it. Where the holder's own
    policy is stricter, that counts. Fewer than five patients judge badly: a model that is worse by twice the allowed
    loss passes with three 7 times in 100, with five twice.
    """

    min_patients: Annotated[int, Field(ge=3)] = 5
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
    model: Model = DistUNet()
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
    def _what_is_frozen_has_learned(self) -> "Experiment":
        if self.model.freeze and not (self.model.weights or self.start_from):
            raise ValueError("model.freeze: blocks would stand still as they were drawn; give model.weights too")
        return self

    @model_validator(mode="after")
    def _imagenet_knows_the_range(self) -> "Experiment":
        if self.model.weights == "imagenet" and self.preprocess.normalization == "none":
            raise ValueError(
                "model.weights: imagenet expects intensities of a known range; set preprocess.normalization to zscore, "
                "percentile or window"
            )
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
