"""One training run as one MLflow run: created by its driver, found again by people."""

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import time
from collections.abc import Collection, Mapping
from functools import cache, cached_property
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from r2d2 import __version__, config, job
from r2d2.console import command
from r2d2.errors import InputError
from r2d2.network import without_passwords
from r2d2.tracking import store
from r2d2.tracking.delivery import STOP_BY_TAG, STOP_REASON_TAG, STOP_TAG

JOB_TAG = "r2d2.job"
"""The Ray jobs that a run's drivers were: their submission ids, the latest last."""
REASON_TAG = "r2d2.reason"
"""Why it ended; empty once it goes on again."""
ENDED_TAG = "r2d2.ended."
"""What tags begin with that say why it had ended before it went on again; then when, in milliseconds of the clock."""
SINCE_TAG = "r2d2.since"
"""Since when a run has its present driver, in seconds of the clock."""
ACTION_TAG = "r2d2.action."
"""What tags begin with that say who did what with a run; then the time, in milliseconds."""
PARENT_TAG = MLFLOW_PARENT_RUN_ID
"""Of a sweep's trials: the sweep's run."""
MADE_BY = {"r2d2.sweep": "tune", "r2d2.scale": "scale"}
"""The tags of a sweep's own run and of a scaling study's, with the commands that make them."""
SLURM_TAG = "r2d2.slurm_job"
"""The number of the Slurm job that a run began in."""
PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "horovod", "ray", "mlflow", "numpy", "opencv-python-headless")


class Run:
    """One MLflow run, to be read; what is written to it while it goes on takes the way of `outbox` and `delivery`.

    Args:
        client: Of its store.
        run_id: Its id.
        found: It, if it was read just now.
    """

    def __init__(self, client: MlflowClient, run_id: str, found: "mlflow.entities.Run | None" = None) -> None:
        self.client = client
        self.run_id = run_id
        if found is not None:
            self.found = found

    @cached_property
    def found(self) -> "mlflow.entities.Run":
        """It, as it was when it was found; read once."""
        return self.client.get_run(self.run_id)

    @property
    def page(self) -> str | None:
        """What a browser opens to see it, if it is on a server."""
        return page(self.client.tracking_uri, self.found.info.experiment_id, self.run_id)

    @property
    def whole(self) -> str | None:
        """The run of the sweep or study that it is a part of, if it is one."""
        return self.found.data.tags.get(PARENT_TAG)

    @property
    def made_by(self) -> str:
        """The command that made it, and goes on with it: train, tune or scale."""
        return next((verb for tag, verb in MADE_BY.items() if tag in self.found.data.tags), "train")

    def check_resumable(self, verb: str | None = None) -> None:
        """Raise an InputError if it was finished when it was found, or is a part of another.

        Args:
            verb: The command that is to go on with it, if not whichever made it.
        """
        if (parent := self.whole) is not None:
            made_by = Run(self.client, parent).made_by
            raise InputError(f"run {self.run_id}: a part of {parent}: {command()} {made_by} --resume {parent}")
        if verb not in (None, self.made_by):
            raise InputError(f"run {self.run_id}: {command()} {self.made_by} made it, and goes on with it: --resume")
        if self.found.info.status == "FINISHED":
            raise InputError(f"run {self.run_id}: it is finished, there is nothing to go on with; start a new run")

    def ask_to_stop(self, when: str, by: str, reason: str, pause: bool = False) -> None:
        """Ask a run that goes on to leave well, with a checkpoint and evaluated as it is; who asks and why is recorded.

        Args:
            when: One of `cluster.leaving.WHEN`.
            by: Who asks.
            reason: Why; may be empty.
            pause: With a checkpoint alone, for who goes on with it.
        """
        tags = {STOP_TAG: f"pause {when}" if pause else when, STOP_BY_TAG: by, STOP_REASON_TAG: reason}
        what = "pause" if pause else "stop"
        tags |= _action(by, what if when == "now" else f"{what} after {when}", reason)
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def note_action(self, by: str, what: str, reason: str = "") -> None:
        """Record what a person did with the run."""
        for key, value in _action(by, what, reason).items():
            self.client.set_tag(self.run_id, key, value)

    def has_epochs(self) -> bool:
        """Whether an epoch of training has been recorded."""
        return bool(self.client.get_metric_history(self.run_id, "train/loss"))

    def costs(self, found: "mlflow.entities.Run | None" = None) -> dict[str, float]:
        """What it has cost so far: its metrics `cost/...`; of the run as it was `found`, or as it is now."""
        metrics = (found or self.client.get_run(self.run_id)).data.metrics
        return {name: value for name, value in metrics.items() if name.startswith("cost/")}

    def start_again(self) -> "mlflow.entities.Run":
        """Mark a run as running, in this Ray job if it is one; who submitted that is recorded.

        Returns:
            The run as it was before.
        """
        before = self.client.get_run(self.run_id)
        self.client.set_tag(self.run_id, STOP_TAG, "false")
        if (own := job.submission()) is not None:
            tags, told = before.data.tags, job.client()
            jobs = tags.get(JOB_TAG, "").split()
            if "by" in told and own not in jobs and PARENT_TAG not in tags:
                self.note_action(str(told["by"]), f"{told.get('did', 'submit')} as job {own}")
            self.client.set_tag(self.run_id, JOB_TAG, " ".join([*(one for one in jobs if one != own), own]))
        self.client.set_tag(self.run_id, SINCE_TAG, f"{time.time():.0f}")
        self.client.update_run(self.run_id, status="RUNNING")
        if reason := before.data.tags.get(REASON_TAG):
            self.client.set_tag(self.run_id, f"{ENDED_TAG}{int(before.info.end_time or 0)}", reason)
            self.client.set_tag(self.run_id, REASON_TAG, "")
        return before


def create(
    client: MlflowClient,
    experiment: config.Experiment,
    dataset: Mapping[str, object],
    sweep: "tuple[config.Sweep | config.Study, Run, str] | None" = None,
) -> Run:
    """Open a run for an experiment, with all that it takes to do it again.

    Args:
        client: A client of the store.
        experiment: The checked experiment.
        dataset: `split` (part -> case names), `labels`, `channels`, `contents`, `hash` of the prepared data, `parents`.
        sweep: The sweep or scaling study that it is a part of, that one's run, and which part, e.g. `trial-003`.
    """
    group, name = experiment.name, f"{experiment.name}-{time.strftime('%m%d-%H%M%S')}"
    tags = {"r2d2.data": str(dataset["hash"])}
    if sweep:
        group, name = sweep[0].name, f"{sweep[0].name}-{sweep[2]}"
        tags[PARENT_TAG] = sweep[1].run_id
    run = _create(client, group, name, experiment, tags)
    client.log_text(run.run_id, experiment.to_yaml(), "experiment.yaml")
    client.log_text(run.run_id, json.dumps(dataset, indent=1), "split.json")
    return run


def create_sweep(client: MlflowClient, sweep: config.Sweep) -> Run:
    """Open a run for a sweep, with its file; the runs of its trials are below it."""
    return _create_above(client, sweep, {"r2d2.sweep": sweep.search}, "sweep.yaml")


def create_study(client: MlflowClient, study: config.Study) -> Run:
    """Open a run for a scaling study, with all that it is; the study's runs are below it."""
    counts = [*map(str, study.workers), *(f"{count} virtual" for count in study.virtual)]
    return _create_above(client, study, {"r2d2.scale": ", ".join(counts)}, "study.yaml")


def _create_above(client: MlflowClient, many: config.Sweep | config.Study, tags: dict[str, str], file: str) -> Run:
    run = _create(client, many.name, f"{many.name}-{time.strftime('%m%d-%H%M%S')}", many.experiment, tags)
    client.log_text(run.run_id, many.to_yaml(), file)
    return run


def drop_unknown(sweep: Run, known: Collection[str | None]) -> None:
    """Delete the runs below a sweep's that no trial knows: the driver was killed before it had noted them."""
    below = f"tags.`{PARENT_TAG}` = '{sweep.run_id}'"
    for run in sweep.client.search_runs([sweep.found.info.experiment_id], below, max_results=1000):
        if run.info.run_id not in known:
            sweep.client.delete_run(run.info.run_id)


def _action(by: str, what: str, reason: str) -> dict[str, str]:
    """The tag of something that a person did; its name has the time, in milliseconds."""
    told = {"by": by[:200], "what": what, "why": reason[:2000]}
    return {f"{ACTION_TAG}{int(time.time() * 1000)}": json.dumps(told)}


def actions(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """What people did with a run of these tags, in order: `at` (seconds of the clock), `by`, `what`, `why`.

    A tag of such a name that R2D2 did not write is passed over.
    """
    found = []
    for name, text in tags.items():
        if re.fullmatch(rf"{re.escape(ACTION_TAG)}[0-9]{{1,14}}", name):
            with contextlib.suppress(ValueError, TypeError, LookupError):
                told = json.loads(text)
                at = int(name.removeprefix(ACTION_TAG)) / 1000
                found.append({"at": at} | {key: str(told[key]) for key in ("by", "what", "why")})
    return sorted(found, key=lambda one: one["at"])


def page(uri: str, experiment_id: str, run_id: str) -> str | None:
    """What a browser opens to see a run, if there is a server."""
    if not uri.startswith("http"):
        return None
    return f"{without_passwords(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def _create(client: MlflowClient, group: str, name: str, experiment: config.Experiment, tags: Mapping[str, str]) -> Run:
    """Open a run that has its tags from its first moment: who lists runs meanwhile knows what it is."""
    known = {"version": __version__, "git": git_commit(), "packages": json.dumps(versions())}
    tags = {f"r2d2.{key}": str(value) for key, value in known.items()} | dict(tags)
    if slurm := os.environ.get("SLURM_JOB_ID"):
        tags[SLURM_TAG] = slurm
    run = Run(client, client.create_run(experiment_id(client, group), run_name=name, tags=tags).info.run_id)
    parameters = [Param(key, value[:6000]) for key, value in config.parameters(experiment).items()]
    client.log_batch(run.run_id, params=parameters)
    return run


def experiment_id(client: MlflowClient, name: str) -> str:
    """The id of MLflow's experiment of a name, which is made if there is none.

    Raises:
        InputError: It was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name, store.artifacts(client.tracking_uri))
    if found.lifecycle_stage != "active":
        raise InputError(f"MLflow experiment {name!r} is deleted; restore it or choose another name")
    return found.experiment_id


def find(client: MlflowClient, run_id: str) -> Run:
    """A run by its id, its name, or `slurm-` and the number of the Slurm job that it began in.

    Raises:
        InputError: There is none; the latest are named.
    """
    try:
        found = client.get_run(run_id)
        return Run(client, found.info.run_id, found)
    except MlflowException:
        pass
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    if "'" not in run_id:
        asked = f"attributes.run_name = '{run_id}'"
        order = None
        if slurm := re.fullmatch(r"slurm-(\d+)", run_id):
            # Its first: what else it began, such as the trials of a sweep, belongs to that.
            asked, order = f"tags.`{SLURM_TAG}` = '{slurm[1]}'", ["attributes.start_time ASC"]
        if named := client.search_runs(experiments, asked, ViewType.ACTIVE_ONLY, max_results=1, order_by=order):
            return Run(client, named[0].info.run_id, named[0])
    latest = client.search_runs(experiments, max_results=5, run_view_type=ViewType.ACTIVE_ONLY)
    known = ", ".join(run.info.run_name for run in latest) or "none yet"
    raise InputError(f"run {run_id!r}: not in {without_passwords(client.tracking_uri)}; the latest: {known}")


def read_experiment(run: Run) -> config.Experiment:
    """The experiment that a run was made from; of a sweep and a study the base."""
    if run.made_by != "train":
        return (read_sweep(run) if run.made_by == "tune" else read_study(run)).experiment
    return config.parse(_read_text(run, "experiment.yaml"), source=f"run {run.run_id}")


def read_sweep(run: Run) -> config.Sweep:
    """The sweep that a run was made from."""
    return config.parse_sweep(_read_text(run, "sweep.yaml"), source=f"run {run.run_id}")


def read_study(run: Run) -> config.Study:
    """The scaling study that a run was made from."""
    return config.parse_study(_read_text(run, "study.yaml"), source=f"run {run.run_id}")


def read_dataset(run: Run) -> dict[str, Any]:
    """The `dataset` that `create` was given."""
    return json.loads(_read_text(run, "split.json"))


def _read_text(run: Run, path: str) -> str:
    try:
        return mlflow.artifacts.load_text(f"runs:/{run.run_id}/{path}")
    except (MlflowException, OSError):
        raise InputError(f"run {run.run_id}: it has no {path}; R2D2 did not make it, or its files are gone") from None


@cache
def versions() -> dict[str, str]:
    """The versions of the packages that results depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_commit() -> str:
    """The commit of the working folder's repository, where the experiment file mostly lies; `-dirty` if changed.

    A job's working folder is none: there it is the commit of whoever submitted it.
    """
    if told := job.client().get("commit"):
        return told
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
