"""One training run as one MLflow run: created by the driver, written by rank 0, found again by people."""

import importlib.metadata
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from r2d2 import __version__, config
from r2d2.errors import InputError
from r2d2.tracking import store

STOP_TAG = "r2d2.stop"
PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "horovod", "ray", "mlflow", "numpy", "opencv-python-headless")


class Run:
    """What writes to one MLflow run; training code knows this and not MLflow."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._delivered: set[int] | None = None

    def log_history(self, history: list[dict[str, float]]) -> None:
        """Deliver every epoch's metrics that the run does not have yet, each once.

        Args:
            history: A dictionary of metrics an epoch, `epoch` (from 1) among them; it is the step.
        """
        if self._delivered is None:
            self._delivered = {metric.step for metric in self.client.get_metric_history(self.run_id, "train/loss")}
        now = int(time.time() * 1000)
        metrics = [
            Metric(key, value, now, int(row["epoch"]))
            for row in history
            if int(row["epoch"]) not in self._delivered
            for key, value in row.items()
            if key != "epoch"
        ]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
        self._delivered |= {metric.step for metric in metrics}

    def forget_after(self, epoch: int) -> None:
        """Deliver the metrics of later epochs anew: the run has gone back to this one."""
        self._delivered = {step for step in self._delivered or () if step <= epoch}

    def asked_to_stop(self) -> bool:
        """Whether somebody asked this run to stop, by `ask_to_stop`."""
        return self.client.get_run(self.run_id).data.tags.get(STOP_TAG) == "true"

    def ask_to_stop(self) -> None:
        """Ask a run that goes on to leave well: with a checkpoint, and evaluated as it is."""
        self.client.set_tag(self.run_id, STOP_TAG, "true")

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Metrics of one step."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(k, float(v), now, step) for k, v in metrics.items()])

    def tag(self, **tags: object) -> None:
        """Tags, each under `r2d2.`."""
        pairs = [RunTag(f"r2d2.{key}", str(value)) for key, value in tags.items()]
        self.client.log_batch(self.run_id, tags=pairs)

    def attach_text(self, path: str, text: str) -> None:
        """A text file of the run."""
        self.client.log_text(self.run_id, text, path)

    def attach_file(self, file: Path, folder: str) -> None:
        """A copy of a local file, in a folder of the run's."""
        self.client.log_artifact(self.run_id, str(file), folder)

    def register(self, model: Any, name: str, metadata: dict[str, Any]) -> tuple[str, int]:
        """Store a Keras model with the run and register it as a new version with the alias `candidate`.

        Returns:
            The model's URI (`models:/name/version`) and its version.
        """
        made = self.client.search_model_versions(f"run_id='{self.run_id}'")
        if made:  # by an attempt that died after this; one run makes one version
            version = int(made[0].version)
        else:
            requirements = [f"{package}=={number}" for package, number in _versions().items()]
            # What mlflow.keras.log_model calls. That one wants an active run, whose end would mark this run as
            # finished, which is for the driver to say.
            mlflow.set_experiment(experiment_id=self.client.get_run(self.run_id).info.experiment_id)
            info = Model.log(
                artifact_path=None,
                name="model",
                flavor=mlflow.keras,
                model=model,
                registered_model_name=name,
                metadata=metadata,
                pip_requirements=requirements,
                run_id=self.run_id,
            )
            version = int(info.registered_model_version)
        self.client.set_registered_model_alias(name, "candidate", version)
        return f"models:/{name}/{version}", version

    def has_epochs(self) -> bool:
        """Whether an epoch of training has been recorded."""
        return bool(self.client.get_metric_history(self.run_id, "train/loss"))

    def start_again(self) -> None:
        """Mark a run that did not finish as running.

        Raises:
            InputError: It did finish.
        """
        if self.client.get_run(self.run_id).info.status == "FINISHED":
            raise InputError(f"run {self.run_id}: it is finished, there is nothing to go on with; start a new run")
        self.client.set_tag(self.run_id, STOP_TAG, "false")
        self.client.update_run(self.run_id, status="RUNNING")

    def end(self, status: str, reason: str) -> None:
        """Close the run: `status` FINISHED, FAILED or KILLED, and why."""
        self.tag(reason=reason)
        self.client.set_terminated(self.run_id, status)


def create(client: MlflowClient, experiment: config.Experiment, dataset: Mapping[str, object]) -> Run:
    """Open a run for an experiment, with all that it takes to do it again.

    Args:
        client: A client of the store.
        experiment: The checked experiment.
        dataset: `split` (part -> case names), `labels`, `channels`, `hash` of the prepared data.
    """
    found = client.get_experiment_by_name(experiment.name)
    if found is None:
        experiment_id = client.create_experiment(experiment.name, store.artifacts(client.tracking_uri))
    elif found.lifecycle_stage != "active":
        raise InputError(f"MLflow experiment {experiment.name!r} is deleted; restore it or choose another name")
    else:
        experiment_id = found.experiment_id
    name = f"{experiment.name}-{time.strftime('%m%d-%H%M%S')}"
    created = client.create_run(experiment_id, run_name=name)
    run = Run(client, created.info.run_id)
    client.log_batch(run.run_id, params=[Param(k, v[:6000]) for k, v in config.parameters(experiment).items()])
    run.tag(version=__version__, data=dataset["hash"], git=_git_commit(), **{"packages": json.dumps(_versions())})
    run.attach_text("experiment.yaml", experiment.to_yaml())
    run.attach_text("split.json", json.dumps(dataset, indent=1))
    return run


def find(client: MlflowClient, run_id: str) -> Run:
    """A run by its id or its name.

    Raises:
        InputError: There is none; the latest are named.
    """
    try:
        return Run(client, client.get_run(run_id).info.run_id)
    except MlflowException:
        pass
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    latest = client.search_runs(experiments, max_results=200, run_view_type=ViewType.ACTIVE_ONLY)
    named = [run for run in latest if run.info.run_name == run_id]
    if named:
        return Run(client, named[0].info.run_id)
    known = ", ".join(run.info.run_name for run in latest[:5]) or "none yet"
    raise InputError(f"run {run_id!r}: not in {client.tracking_uri}; the latest: {known}")


def read_experiment(run: Run) -> config.Experiment:
    """The experiment that a run was made from."""
    return config.parse(_read_text(run, "experiment.yaml"), source=f"run {run.run_id}")


def read_dataset(run: Run) -> dict[str, Any]:
    """The `dataset` that `create` was given."""
    return json.loads(_read_text(run, "split.json"))


def _read_text(run: Run, path: str) -> str:
    try:
        return mlflow.artifacts.load_text(f"runs:/{run.run_id}/{path}")
    except (MlflowException, OSError):
        raise InputError(f"run {run.run_id}: it has no {path}; R2D2 did not make it, or its files are gone") from None


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str:
    """The commit of the working folder's repository, where the experiment file mostly lies; `-dirty` if changed."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return done.stdout.strip()
