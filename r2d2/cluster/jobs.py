"""Ray's jobs: submitted to a cluster, looked at, followed, stopped; and what waits there for slots, and for whom."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_nodes, list_placement_groups

from r2d2 import config, job, services
from r2d2.cluster import placement
from r2d2.errors import InputError, WorkFailed
from r2d2.network import answers, speaks_http

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Ray's variable for where its jobs are taken."""
MOST = 10_000
"""Nodes or placement groups that Ray is asked for."""
TYPED = "r2d2"
"""Under this name a job's metadata keep what was typed, with the settings that are in its file by now."""
EVERY_S = 3.0
"""How often a run looks whether it waits for slots."""


@dataclass(frozen=True)
class Job:
    """A job as Ray tells of it.

    Attributes:
        job: Its id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        what: Its command line, as it was typed.
        started, ended: In seconds of the clock; None as long as it has not.
        exit_code: Of its command, None as long as it has none, or if it was stopped.
        message: What Ray says of it.
        program: The number by which Ray calls its program, which other lists of Ray's know; None before it runs.
    """

    job: str
    status: str
    what: str
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str
    program: str | None

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")


class Cluster:
    """The jobs of one Ray cluster.

    Args:
        address: Its page, `http://host:8265`, or `host:port` of that or of its head; absent, RAY_API_SERVER_ADDRESS,
            RAY_ADDRESS, or the cluster of `r2d2 up`.

    Attributes:
        page: The cluster's page.

    Raises:
        InputError: No cluster is there, it does not let this client in, or it runs another Ray or Python.
    """

    def __init__(self, address: str | None = None) -> None:
        named = address or os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS")
        self.page, told = _page(named), named or "the cluster of `r2d2 up`"
        if not answers(self.page):
            raise InputError(
                f"{told}: no cluster answers there; start it, or name the page of one (http://HOST:8265) with "
                f"--address or {ADDRESS}"
            )
        try:
            with _variable(ADDRESS, self.page):
                self._client = JobSubmissionClient(self.page)
            self.page = self._client.get_address()
            job.check(job.versions(), self._versions(), self.page)
        except AuthenticationError:
            raise InputError(
                f"{told}: the cluster asks for a token, and this client's is none or another; set RAY_AUTH_MODE=token "
                "and RAY_AUTH_TOKEN_PATH to the file that holds it"
            ) from None
        except (RayError, RuntimeError, ConnectionError, OSError, ValueError, KeyError) as error:
            raise InputError(f"{told}: no Ray cluster that takes jobs ({_line(error)})") from None

    def _versions(self) -> dict[str, str]:
        told = self._client._do_request("GET", "/api/v0/cluster_metadata").json()["data"]
        return {"Ray": told["rayVersion"], "Python": ".".join(told["pythonVersion"].split(".")[:2])}

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes and their load, as Ray's own pages are told of them."""
        with self._talking():
            return self._client._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]

    def check(self, wanted: config.Cluster) -> None:
        """Raise an InputError if the cluster could not give a run its slots, even if nobody else were there."""
        with self._talking():
            alive = list_nodes(self.page, [("state", "=", "ALIVE")], MOST, detail=True)
        totals = [node.resources_total for node in alive]
        placement.place(wanted, [(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in totals])

    def submit(self, command: str, folder: Path | None, variables: Mapping[str, str], name: str) -> str:
        """Have the cluster run a command.

        Args:
            command: For a shell.
            folder: What it finds in its working folder; small, because it is uploaded.
            variables: For its environment; Ray shows them to everybody.
            name: What lists of jobs call it.

        Returns:
            The job's id.

        Raises:
            InputError: The cluster refuses it.
        """
        environment: dict[str, Any] = {"env_vars": dict(variables)}
        if folder is not None:
            environment["working_dir"] = str(folder)
        logging.disable(logging.INFO)  # Ray tells of every step of it
        try:
            with self._talking():
                return self._client.submit_job(entrypoint=command, runtime_env=environment, metadata={TYPED: name})
        finally:
            logging.disable(logging.NOTSET)

    def jobs(self) -> list[Job]:
        """Every job that was submitted, the latest first."""
        with self._talking():
            found = [_job(one) for one in self._client.list_jobs() if one.submission_id]
        return sorted(found, key=lambda one: one.started or 0.0, reverse=True)

    def job(self, name: str) -> Job:
        """A job by its id.

        Raises:
            InputError: There is none; the latest are named.
        """
        known = self.jobs()
        for one in known:
            if one.job == name:
                return one
        latest = ", ".join(one.job for one in known[:5]) or "none yet"
        raise InputError(f"job {name!r}: not on {self.page}; the latest: {latest}")

    def log(self, name: str) -> str:
        """All that a job has printed so far."""
        with self._talking():
            return self._client.get_job_logs(name)

    def stop(self, name: str) -> None:
        """Have Ray stop a job: SIGTERM, and after RAY_JOB_STOP_WAIT_TIME_S of the head SIGKILL."""
        with self._talking():
            self._client.stop_job(name)

    def job_page(self, name: str) -> str:
        """What a browser opens."""
        return f"{self.page}/#/jobs/{name}"

    def waits(self) -> dict[str, str]:
        """What each program that waits for slots waits for, and who has them, by Ray's number of the program."""
        with self._talking():
            return _waits(list_placement_groups(self.page, limit=MOST, detail=True), self._client.list_jobs())

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            with _variable(ADDRESS, self.page):
                yield
        except (OSError, AuthenticationError, RayError, RuntimeError) as error:
            raise WorkFailed(f"{self.page}: the cluster does not do as it is asked ({_line(error)})") from None


class Queue:
    """Looks, in a thread of its own while it is entered, whether this program waits for slots, and says so.

    Args:
        say: Called with a line when it begins to wait, and when it goes on.
        own: Whether it has much work of its own, which waits for each other.

    Attributes:
        waiting: Whether it waits now.
    """

    def __init__(self, say: Callable[[str], None], own: bool = False) -> None:
        self.waiting = False
        self._say, self._own, self._over = say, own, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="queue", daemon=True)

    def __enter__(self) -> "Queue":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more: nothing is said any more."""
        self._over.set()
        self._thread.join(EVERY_S)

    def _watch(self) -> None:
        context = ray.get_runtime_context()
        own = context.get_job_id()
        while not self._over.wait(EVERY_S):
            # Ray's own table is cheap to look at; who holds the slots is asked once it is known that we wait.
            with contextlib.suppress(RayError, InputError, WorkFailed):
                waits = any(
                    group["state"] in _WAITING and group["placement_group_id"].endswith(own)
                    for group in ray.util.placement_group_table().values()
                )
                if waits and not self.waiting:
                    told = Cluster(context.gcs_address).waits().get(own)
                    if told is None or (self._own and _UNKNOWN in told):  # it has them by now, or its own work has
                        continue
                    if self._over.is_set():
                        return
                    self._say(f"Waiting for slots: {told}")
                elif self.waiting and not waits:
                    self._say("It has its slots now")
                self.waiting = waits


_UNKNOWN = "other work has them"
_WAITING = ("PENDING", "RESCHEDULING")


def _waits(groups: Iterable[Any], programs: Iterable[Any]) -> dict[str, str]:
    """See `Cluster.waits`; `groups` are Ray's placement groups, `programs` its jobs."""
    names = {one.job_id: f"{one.submission_id or 'a program'} ({one.entrypoint[:80]})" for one in programs}
    asked: dict[str, list[str]] = {}
    held: dict[str, dict[str, float]] = {}
    for group in groups:
        whose = group.creator_job_id
        bundles = [bundle["unit_resources"] for bundle in group.bundles or ()]
        slots = [text for bundle in bundles if (text := _slot(bundle))]
        if group.state in _WAITING:
            asked.setdefault(whose, []).extend(slots)
        elif group.state == "CREATED":
            of = held.setdefault(whose, {})
            for bundle in bundles:
                for kind in ("CPU", "GPU"):
                    of[kind] = of.get(kind, 0.0) + bundle.get(kind, 0.0)
    found = {}
    for whose, slots in asked.items():
        wants = " and ".join(f"{slots.count(slot)} with {slot}" for slot in dict.fromkeys(slots))
        others = "; ".join(
            f"{names.get(one, 'a program')} has {text}"
            for one, has in held.items()
            if one != whose and (text := _slot(has))
        )
        found[whose] = f"{wants or 'some'}; {others or _UNKNOWN}"
    return found


def _slot(resources: Mapping[str, float]) -> str:
    """What of CPUs and GPUs is in a bundle, in words; empty if neither is."""
    return ", ".join(
        f"{resources[kind]:g} {kind}{'s' if resources[kind] > 1 else ''}"
        for kind in ("CPU", "GPU")
        if resources.get(kind, 0) > 0
    )


def _page(named: str | None) -> str:
    """The cluster's page, or what Ray finds it by; enters the cluster if it is of `r2d2 up`.

    Raises:
        InputError: Nothing was named, and `r2d2 up` has started nothing.
    """
    ours = services.read().get("ray")
    if named in (None, "", "auto", "local"):
        if services.address("ray") is None:
            died = "the cluster of `r2d2 up` does not run any more" if ours else "no cluster to submit to"
            raise InputError(
                f"{died}: `r2d2 up` starts one here, --address or {ADDRESS} names another (http://HOST:8265)"
            )
        assert ours is not None
        named = ours.address
    assert named is not None
    if "://" not in named and (ours is None or named != ours.address) and speaks_http(named):
        named = f"http://{named}"  # Ray would take it for a head
    if ours is not None and named.rstrip("/") in (ours.address, ours.page):
        services.enter(ours.address)
        placement.read_switches_again()
        return ours.page
    return named.rstrip("/")


_lock = threading.Lock()
_entered: dict[str, tuple[int, str | None]] = {}
"""Variables that are set now: by how many threads, and what they were before the first of them."""


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """A variable of the environment, for as long as this is entered: Ray lets its own win over what it is told.

    The last of several threads that have entered puts back what was there before the first.
    """
    with _lock:
        inside, before = _entered.get(name, (0, os.environ.get(name)))
        _entered[name] = inside + 1, before
        os.environ[name] = value
    try:
        yield
    finally:
        with _lock:
            inside, before = _entered.pop(name)
            if inside > 1:
                _entered[name] = inside - 1, before
            elif before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before


def _job(told: Any) -> Job:
    return Job(
        job=told.submission_id,
        status=str(getattr(told.status, "value", told.status)),
        what=(told.metadata or {}).get(TYPED) or told.entrypoint,
        started=told.start_time / 1000 if told.start_time else None,
        ended=told.end_time / 1000 if told.end_time else None,
        exit_code=told.driver_exit_code,
        message=told.message or "",
        program=told.job_id,
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
