"""Become one of R2D2's services in a container: with secrets from files, or not at all.

    python serve.py check | mlflow | dashboard | ray-head | ray-worker

Every file of the folder R2D2_SECRETS (/run/secrets) is a secret, by its name. Any that is missing, short or an
example's is refused in one line. `check` does nothing else. How a service is started is what
`r2d2/engine/services/commands.py` says.

Environment: R2D2_DATABASE (postgresql://USER@HOST/NAME) and R2D2_ARTIFACTS (a URL) for mlflow; R2D2_HEAD (the head's
address) and R2D2_ADDRESS (this host's) for Ray; for the dashboard, R2D2_READ_ONLY, and where it is not to be on the
loopback address alone R2D2_DASHBOARD_HOST with R2D2_LOGIN (a file with Streamlit's [auth]) or, behind a proxy,
R2D2_DASHBOARD_USER_HEADER and R2D2_DASHBOARD_PROXY.
"""

import os
import sys
from pathlib import Path

from r2d2.engine.services import commands
from r2d2.engine.services.settings import PORTS, Settings
from r2d2.errors import InputError
from r2d2.services import LOOPBACK

SHORTEST = 16
EXAMPLES = ("change-me", "changeme", "example", "password", "minioadmin")


def main() -> None:
    """Check the secrets, then be the service that the first argument names."""
    roles = {"check": None, "mlflow": mlflow, "dashboard": dashboard, "ray-head": ray_head, "ray-worker": ray_worker}
    try:
        if len(sys.argv) != 2 or sys.argv[1] not in roles:
            raise InputError(f"serve.py: one of {', '.join(roles)}")
        check_secrets()
        start = roles[sys.argv[1]]
        if start is None:
            return
        line, environment = start()
    except InputError as error:
        print(f"r2d2: {error}", file=sys.stderr)
        sys.exit(2)
    # Nothing stays in between that would have to pass signals on.
    os.execve(line[0], line, commands.environment() | environment)


def mlflow() -> tuple[list[str], dict[str, str]]:
    """The tracking server, with its users in the same database as its runs."""
    database = told("R2D2_DATABASE")
    users = database.replace("postgresql:", "postgresql+psycopg2:", 1)
    commands.write_users(users, secret("mlflow_password"), secret("mlflow_key"))
    settings = Settings(backend_store=database, artifacts=told("R2D2_ARTIFACTS"))
    line, environment = commands.mlflow("0.0.0.0", PORTS["mlflow"], settings)
    environment["PGPASSWORD"] = secret("postgres_password")
    if settings.artifacts and settings.artifacts.startswith("s3:"):
        environment["AWS_SECRET_ACCESS_KEY"] = secret("s3_secret_key")
    return line, environment


def dashboard() -> tuple[list[str], dict[str, str]]:
    """The dashboard: on the loopback address, or with a login on another one."""
    names = ("host", "user_header", "proxy")
    asked = {name: os.environ.get(f"R2D2_DASHBOARD_{name.upper()}") for name in names}
    settings = Settings(**asked, read_only=bool(os.environ.get("R2D2_READ_ONLY")))
    line, environment = commands.dashboard(settings.host or LOOPBACK, PORTS["dashboard"], settings)
    return line, environment | tracking()


def ray_head() -> tuple[list[str], dict[str, str]]:
    """Ray's head, whose jobs may take two minutes to leave with a checkpoint when they are stopped."""
    return commands.ray(told("R2D2_HEAD"), PORTS, Settings(), "/tmp/ray"), tracking() | token() | commands.HEAD


def ray_worker() -> tuple[list[str], dict[str, str]]:
    """A further node of the same cluster."""
    return commands.ray_node(f"{told('R2D2_HEAD')}:{PORTS['ray']}", told("R2D2_ADDRESS")), tracking() | token()


def tracking() -> dict[str, str]:
    """How programs are let in at the tracking server."""
    return {
        "MLFLOW_TRACKING_URI": told("MLFLOW_TRACKING_URI"),
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": secret("mlflow_password"),
    }


def token() -> dict[str, str]:
    """How nodes and programs are let in at the cluster."""
    secret("ray_token")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder() / "ray_token")}


def folder() -> Path:
    """Where the secrets are."""
    return Path(os.environ.get("R2D2_SECRETS") or "/run/secrets")


def check_secrets() -> None:
    """Raise an InputError if one of the secrets that are here is none."""
    files = [path for path in sorted(folder().glob("*")) if not path.name.startswith(".")]
    if not files:
        raise InputError(f"no secrets in {folder()}")
    for path in files:
        secret(path.name)


def secret(name: str) -> str:
    """A secret by its name, if it is one.

    Raises:
        InputError: It is missing, short, or an example's; the value is not shown.
    """
    try:
        value = (folder() / name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InputError(f"secret {name}: {folder() / name} cannot be read ({error.strerror})") from None
    if any(word in value.lower() for word in EXAMPLES):
        raise InputError(f"secret {name}: it is the example's; make one of your own, e.g. openssl rand -hex 24")
    if len(value) < SHORTEST:
        raise InputError(
            f"secret {name}: {len(value)} characters, at least {SHORTEST} are needed; e.g. openssl rand -hex 24"
        )
    return value


def told(variable: str) -> str:
    """A variable of the environment that must be there."""
    value = os.environ.get(variable, "")
    if not value:
        raise InputError(f"{variable} is not set")
    return value


if __name__ == "__main__":
    main()
