"""Where runs are kept: an MLflow server, or SQLite and a folder with no server at all."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from r2d2 import job, services
from r2d2.errors import InputError, WorkFailed
from r2d2.network import answers, without_passwords


def resolve(uri: str | None = None) -> str:
    """The tracking URI in force.

    An experiment's `tracking.uri`, MLFLOW_TRACKING_URI, the server of `r2d2 up`, or SQLite in R2D2_HOME.

    Raises:
        InputError: The server of `r2d2 up` is dead: what it keeps may be in another store than SQLite's. Or this is a
            Ray job, and nobody said where its runs are kept.
    """
    if named := uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return named
    if address := services.address("mlflow"):
        return address
    if "mlflow" in services.read():
        raise InputError(
            "the MLflow server of `r2d2 up` does not run any more; `r2d2 up` starts it again, `r2d2 down` does without"
        )
    if job.submission():
        raise InputError(
            "MLFLOW_TRACKING_URI is not set on the cluster's nodes, and what a job keeps in its own folder is thrown "
            f"away; set it there ({job.NODES}), or tracking.uri in the experiment file"
        )
    return services.file_store()


def artifacts(uri: str) -> str | None:
    """Where a new MLflow experiment's files go: beside an SQLite store, else where the server wants them."""
    return (_file(uri).parent / "artifacts").as_uri() if uri.startswith("sqlite:///") else None


def is_new(uri: str) -> bool:
    """Whether this is an SQLite store that no run has been written to yet; to look at it would make it."""
    return uri.startswith("sqlite:///") and not _file(uri).exists()


def _file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).absolute()


def check(uri: str) -> None:
    """Raise an InputError if `connect` could not succeed, without making anything."""
    told = without_passwords(uri)
    if uri.startswith("sqlite:///"):
        folder = _file(uri).parent
        above = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise InputError(
                f"tracking URI {told}: {above} cannot be written; set R2D2_HOME (or tracking.uri) to a place of yours"
            )
    elif urlparse(uri).scheme not in ("http", "https"):
        raise InputError(f"tracking URI {told!r}: give an http(s) address of an MLflow server, or sqlite:///FILE")
    elif not answers(uri):
        raise InputError(f"tracking URI {told}: no server answers there; start it, or set tracking.uri to another")


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """Meanwhile what the store does not do is a WorkFailed, in a line."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        told = without_passwords(" ".join(str(error).split()))[:200]
        raise WorkFailed(f"the tracking server does not do as it is asked ({told})") from None


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`, which becomes this process' tracking and registry store.

    Raises:
        InputError: A server that does not answer, or a place that cannot be written.
    """
    check(uri)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("mlflow.tracking.fluent").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.model_registry.abstract_store").setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        _file(uri).parent.mkdir(parents=True, exist_ok=True)
        # Two who make the tables at the same time would trip over each other.
        one_at_a_time: contextlib.AbstractContextManager = FileLock(_file(uri).with_suffix(".lock"))
    else:
        one_at_a_time = contextlib.nullcontext()
        # MLflow would go on asking a server that has gone away for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        services.enter(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        with one_at_a_time:
            client = MlflowClient(uri, uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        why = without_passwords(str(error).splitlines()[0])[:200]
        raise InputError(f"tracking URI {without_passwords(uri)}: not a store of MLflow's ({why})") from None
    return client
