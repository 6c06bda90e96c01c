"""Work as jobs of a Ray cluster: submit a command of R2D2's, list jobs, read their logs, stop them."""

import json
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from r2d2 import config, job
from r2d2.console import command, person, say
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.cluster.jobs import Cluster, Job

VERBS = ("train", "tune", "scale", "evaluate")
"""The commands that can be submitted: what they make is recorded, and not written into the job's folder."""
WITH_FILE = ("train", "tune", "scale")
"""Those whose first argument, options aside, is an experiment file, or a sweep file."""
RUN_S = 60.0
"""How long `submit` waits until the job has made its run, which comes after the preparation of the data."""
STOP_S = 180.0
"""How long a job may take to end once Ray has stopped it: more than `up` gives it, which is two minutes."""
EVERY_S = 1.0


@dataclass(frozen=True)
class JobRow:
    """A job and its run.

    Attributes:
        job: Ray's id of it.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        what: Its command line.
        started, ended: Local time; None as long as it has not.
        exit_code: Of the command.
        run_id, run_status: Of the run that it made or went on with, if there is one and its store is known.
        reason: Why that run ended; or why Ray could not even start the command.
        waits: For which slots it waits, and who has them; None if it does not.
        page, run_page: What a browser opens.
    """

    job: str
    status: str
    what: str
    started: str | None
    ended: str | None
    exit_code: int | None
    run_id: str | None
    run_status: str | None
    reason: str | None
    waits: str | None
    page: str
    run_page: str | None

    @property
    def outcome(self) -> str:
        """What has become of it, for people: of a stopped run the command fails, and with it the job."""
        return "STOPPED" if self.status == "FAILED" and self.run_status == "KILLED" else self.status


def submit(
    words: Sequence[str],
    wait: bool = False,
    workers: int | None = None,
    address: str | None = None,
    on_log: Callable[[str], None] | None = None,
    run_s: float = RUN_S,
    by: str | None = None,
) -> JobRow:
    """Have a cluster do what `r2d2 WORDS` does, and return once its run is known, or with `wait` once it is over.

    Args:
        words: A command line without its `r2d2`: `train FILE KEY=VALUE`. Its experiment file is read and checked here,
            with all paths in it made whole, and travels with the job; nothing else does.
        wait: Whether to follow it to its end.
        workers: The same as `cluster.workers=N` among the words.
        address: The cluster's; see `cluster.jobs.Cluster`.
        on_log: Called with every piece of what the job prints, if it is followed.
        run_s: How long its run is waited for, if it is not followed.
        by: Who submits it, which its run records once it is there; the system's user if absent.

    Returns:
        The job. If it failed already, its `exit_code` says so; its log says why.

    Raises:
        InputError: The command, its file or the cluster is wrong, or the cluster has too few slots.
        WorkFailed: The cluster went away.
    """
    from r2d2.cluster.jobs import Cluster
    from r2d2.tracking.runs import git_commit

    told, file, experiment = _packed(words, workers)
    cluster = Cluster(address)
    if experiment is not None:
        cluster.check(experiment.cluster)
    did = "resume" if "--resume" in words else "submit"
    who = {job.CLIENT: json.dumps(job.versions() | {"commit": git_commit(), "by": by or person(), "did": did})}
    typed = shlex.join(["r2d2", *words, *([f"cluster.workers={workers}"] if workers else [])])
    with tempfile.TemporaryDirectory(prefix="r2d2-job-") as folder:
        if file is not None:
            (path := Path(folder) / file[0]).parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file[1], encoding="utf-8")
        name = cluster.submit(shlex.join(["r2d2", *told]), Path(folder) if file else None, who, typed)
    say(f"Job {name}  {cluster.job_page(name)}")
    runs = _Runs(experiment.tracking.uri if experiment else None)
    try:
        return _followed(cluster, name, runs, wait, on_log, run_s)
    except KeyboardInterrupt:
        say(f"The job goes on; {command()} jobs logs {name} --follow, {command()} jobs stop {name}")
        raise


def _followed(
    cluster: "Cluster",
    name: str,
    runs: "_Runs",
    wait: bool,
    on_log: Callable[[str], None] | None,
    run_s: float,
) -> JobRow:
    """The job once it is over, or, if that is not waited for, once its run is known or `run_s` are over."""
    shown, run, deadline = 0, None, time.monotonic() + run_s
    while True:
        found = cluster.job(name)
        if wait and on_log:
            log = cluster.log(name)
            on_log(log[shown:])
            shown = len(log)
        if not wait and run is None and (run := runs.of(name)):  # else its log says so
            say(f"Run {run['run_id']}" + (f"  {run['page']}" if run["page"] else ""))
        if found.over or (not wait and (run or not runs.known or time.monotonic() > deadline)):
            return _row(cluster, found, runs.of(name), cluster.waits())
        time.sleep(EVERY_S)


def _packed(
    words: Sequence[str], workers: int | None
) -> tuple[list[str], tuple[str, str] | None, config.Experiment | None]:
    """The words for the job, the file that goes with it (its name, its text), and the experiment in it.

    Raises:
        InputError: Not a command for a cluster, or its experiment file is wrong.
    """
    if not words or words[0] not in VERBS:
        what = words[0] if words else "nothing"
        raise InputError(f"submit: {what} is no work for a cluster; {', '.join(VERBS)} are: submit -- train FILE")
    verb, *rest = words
    if not rest:
        raise InputError(f"submit: nothing to {verb}: submit -- {verb} FILE, or what else {verb} takes")
    file = next(
        (word for before, word in pairwise(["", *rest]) if not word.startswith("-") and before != "--resume"), None
    )
    if verb not in WITH_FILE or file is None:
        if workers is not None:
            raise InputError("--workers: goes with an experiment file: submit --workers N -- train FILE")
        return [*words], None, None
    rest.remove(file)
    changes = [word for word in rest if "=" in word and not word.startswith("-")]
    if workers is not None:
        changes.append(f"cluster.workers={workers}")
    # What was left out stays out: it may mean something else there. The cluster is the one that the job is on.
    if verb == "tune":
        sweep = config.load_sweep(file, changes)
        experiment, values = sweep.experiment, yaml.safe_load(sweep.to_yaml())
        values["experiment"].get("cluster", {}).pop("address", None)
    else:
        experiment = config.load(file, changes)
        values = experiment.model_dump(mode="json", exclude_unset=True)
        values.get("cluster", {}).pop("address", None)
    travels = Path(file).name
    return (
        [verb, travels, *(word for word in rest if word not in changes)],
        (travels, yaml.safe_dump(values, sort_keys=False, allow_unicode=True)),
        experiment,
    )


def takes_jobs(address: str | None = None) -> str:
    """The page of the cluster that takes jobs.

    Raises:
        InputError: There is none, or it does not let this client in.
    """
    from r2d2.cluster.jobs import Cluster

    return Cluster(address).page


def submit_text(text: str, name: str, by: str) -> JobRow:
    """Submit the training of an experiment that is given as text; see `submit`.

    Args:
        text: The experiment file's.
        name: What the file is called, without suffix.
        by: Who submits it, which its run records.

    Raises:
        InputError: As `submit`.
        WorkFailed: As `submit`.
    """
    with tempfile.TemporaryDirectory(prefix="r2d2-experiment-") as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(text, encoding="utf-8")
        return submit(["train", str(file)], by=by)


def jobs(address: str | None = None) -> list[JobRow]:
    """Every job that was submitted to a cluster, the latest first, with its run."""
    from r2d2.cluster.jobs import Cluster

    cluster, runs = Cluster(address), _Runs()
    found, waits = cluster.jobs(), cluster.waits()
    known = runs.all() if found else {}
    return [_row(cluster, one, known.get(one.job), waits) for one in found]


def logs(name: str, follow: bool, on_log: Callable[[str], None], address: str | None = None) -> None:
    """Hand over what a job has printed; with `follow` also what it prints from now on, until it is over."""
    from r2d2.cluster.jobs import Cluster

    cluster, shown = Cluster(address), 0
    while True:
        found = cluster.job(name)
        log = cluster.log(name)
        on_log(log[shown:])
        shown = len(log)
        if found.over or not follow:
            return
        time.sleep(EVERY_S)


def stop(name: str, address: str | None = None) -> JobRow:
    """Stop a job: its run is asked to leave well, with a checkpoint and evaluated as it is; what is left, Ray stops.

    Args:
        name: The job's id.
        address: The cluster's.

    Raises:
        InputError: There is no such job, or it is over.
        WorkFailed: It goes on all the same.
    """
    from r2d2.cluster.jobs import Cluster
    from r2d2.engine.runs import stop as stop_run

    cluster, runs = Cluster(address), _Runs()
    if (found := cluster.job(name)).over:
        was = "was stopped" if found.status == "STOPPED" else f"has {found.status.lower()}"
        raise InputError(f"job {name}: it {was}, there is nothing to stop")
    run = runs.of(name)
    if run and run["status"] == "RUNNING":
        try:
            stop_run(run["run_id"])
            _wait(cluster, name, STOP_S)
        except (InputError, WorkFailed) as error:  # it has just ended; or it does not listen
            say(f"{error}; Ray stops its job")
    if not cluster.job(name).over:
        cluster.stop(name)
        say("Ray stops the job: it may take two minutes to leave with a checkpoint")
        if not _wait(cluster, name, STOP_S):
            raise WorkFailed(f"job {name}: still there {STOP_S / 60:g} minutes after Ray has stopped it")
    return _row(cluster, cluster.job(name), runs.of(name), {})


def _wait(cluster: "Cluster", name: str, seconds: float) -> bool:
    """Wait until a job is over, so long at most; whether it is."""
    deadline = time.monotonic() + seconds
    while not (over := cluster.job(name).over) and time.monotonic() < deadline:
        time.sleep(EVERY_S)
    return over


class _Runs:
    """The runs that jobs made, in the store that this client knows; it need not be the cluster's, nor be there."""

    def __init__(self, uri: str | None = None) -> None:
        self.known, self._uri = True, uri

    def all(self) -> dict[str, dict[str, Any]]:
        """As `tracking.queries.runs_of_jobs`; empty where the store cannot be asked, which is said once."""
        from r2d2.tracking import queries, store

        if not self.known:
            return {}
        try:
            return queries.runs_of_jobs(store.resolve(self._uri))
        except InputError as error:
            self.known = False
            say(f"The jobs' runs are not known here: {error}")
            return {}

    def of(self, name: str) -> dict[str, Any] | None:
        """The run of a job, or None."""
        return self.all().get(name)


def _row(cluster: "Cluster", one: "Job", run: dict[str, Any] | None, waits: dict[str, str]) -> JobRow:
    run = run or {}
    return JobRow(
        job=one.job,
        status=one.status,
        what=one.what,
        started=_local_time(one.started),
        ended=_local_time(one.ended),
        exit_code=one.exit_code,
        run_id=run.get("run_id"),
        run_status=run.get("status"),
        reason=run.get("reason") or (one.message if one.status == "FAILED" and one.exit_code is None else None),
        waits=waits.get(one.program or "") if not one.over else None,
        page=cluster.job_page(one.job),
        run_page=run.get("page"),
    )


def _local_time(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
