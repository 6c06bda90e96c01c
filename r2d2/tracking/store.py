"""Where runs are kept: an MLflow server, or SQLite and a folder with no server at all."""

import logging
import os
from pathlib import Path
from urllib.parse import urlparse

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from r2d2 import config
from r2d2.errors import InputError


def resolve(uri: str | None = None) -> str:
    """The tracking URI in force: an experiment's `tracking.uri`, MLFLOW_TRACKING_URI, or SQLite in R2D2_HOME."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{config.home()}/mlflow.db"


def artifacts(uri: str) -> str | None:
    """Where a new MLflow experiment's files go: beside an SQLite store, else where the server wants them."""
    return (_file(uri).parent / "artifacts").as_uri() if uri.startswith("sqlite:///") else None


def is_new(uri: str) -> bool:
    """Whether this is an SQLite store that no run has been written to yet; to look at it would make it."""
    return uri.startswith("sqlite:///") and not _file(uri).exists()


def _file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).absolute()


def connect(uri: str) -> MlflowClient:
    """A client of the store at `uri`, which becomes this process' tracking and registry store.

    Raises:
        InputError: A server that does not answer, or a place that cannot be written.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("mlflow.tracking.fluent").setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        folder = _file(uri).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); set R2D2_HOME to a folder of yours"
            ) from None
        if not os.access(folder, os.W_OK):
            raise InputError(f"{folder}: cannot be written; set R2D2_HOME to a folder of yours")
    elif urlparse(uri).scheme in ("http", "https"):
        # MLflow would go on asking a server that is not there for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    else:
        raise InputError(f"tracking URI {uri!r}: give an http(s) address of an MLflow server, or sqlite:///FILE")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client = MlflowClient(uri, uri)
    try:
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        raise InputError(f"tracking URI {uri}: no answer ({str(error).splitlines()[0][:200]})") from None
    return client
