"""Empty MLflow stores of SQLite: MLflow makes their tables in sixty steps, which take two seconds, so here once."""

import shutil
import sqlite3
import tempfile
import warnings
from functools import cache
from pathlib import Path

ROOM = tempfile.TemporaryDirectory(prefix="r2d2-empty-store-")


@cache
def _mlflow():
    """The modules that make tables, and how MLflow does it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, of SQLAlchemy
        import mlflow.store.db.utils as tables
        import mlflow.store.model_registry.sqlalchemy_store as registry
    return (tables, registry), tables._initialize_tables


@cache
def _empty():
    import sqlalchemy

    path = Path(ROOM.name) / "mlflow.db"
    _mlflow()[1](sqlalchemy.create_engine(f"sqlite:///{path}"))
    return path


def furnish(folder):
    """Put an empty store where R2D2 keeps its own in a home, or a server in its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_empty(), folder / "mlflow.db")


def copied_in_this_process(patch):
    """Have MLflow make new stores here by copying the empty one."""
    users, made_by_mlflow = _mlflow()

    def make(engine):
        import sqlalchemy

        if engine.dialect.name != "sqlite" or sqlalchemy.inspect(engine).get_table_names():
            made_by_mlflow(engine)
            return
        with sqlite3.connect(_empty()) as empty, engine.connect() as connection:
            empty.backup(connection.connection.driver_connection)

    for user in users:
        patch.setattr(user, "_initialize_tables", make)
