"""How the services are to run: what was asked for, checked, and what they were started with before."""

import contextlib
import importlib
import importlib.util
import ipaddress
import json
import re
import socket
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from r2d2 import services
from r2d2.console import command
from r2d2.errors import InputError
from r2d2.network import free_port, without_passwords
from r2d2.services import LOOPBACK

PORTS = {"ray": 6379, "ray_page": 8265, "mlflow": 5000, "dashboard": 8501}


@dataclass(frozen=True)
class Settings:
    """How the services are to run; None is what was not asked for.

    Attributes:
        host: The address to listen on; 127.0.0.1 if None.
        ray, ray_page, mlflow, dashboard: Ports of Ray's head, its jobs and pages, MLflow and the dashboard; if None,
            those of PORTS or the next that are free.
        slots: CPUs to declare to Ray; the machine's if None.
        backend_store: Where MLflow keeps runs, a database's URL; the SQLite file in R2D2_HOME if None.
        artifacts: Where it keeps their files, a folder or a URL; a folder in R2D2_HOME if None.
        read_only: Whether the dashboard only shows.
        user_header: The HTTP header in which a reverse proxy says who is there, and `proxy`, its address or network:
            from nobody else is the header believed.
    """

    host: str | None = None
    ray: int | None = None
    ray_page: int | None = None
    mlflow: int | None = None
    dashboard: int | None = None
    slots: int | None = None
    backend_store: str | None = None
    artifacts: str | None = None
    read_only: bool | None = None
    user_header: str | None = None
    proxy: str | None = None


def settings_file() -> Path:
    """The file of the settings that the services were started with."""
    return services.folder() / "settings.json"


def settle(asked: Settings, restart: bool, running: bool) -> Settings:
    """What was asked for, checked; next to what runs already, the settings that it was started with.

    Args:
        asked: What was asked for; kept in `settings_file` where it holds.
        restart: Whether there are services on record.
        running: Whether any of them run.

    Raises:
        InputError: A setting that cannot be, or one of services that run otherwise.
    """
    before = None
    with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
        if restart:
            before = Settings(**json.loads(settings_file().read_text(encoding="utf-8")))
    if before is not None and asked != Settings():
        other = [key for key, value in asdict(asked).items() if value is not None and value != getattr(before, key)]
        if "host" in other and listening(asked.host) == listening(before.host):
            other.remove("host")
        if other and running:
            option = f"--{other[0].replace('_', '-')}" + ("-port" if other[0] in PORTS else "")
            raise InputError(f"{option}: the services that run were started otherwise; first {command()} down")
        before = None if other else before
    if before is not None:
        return before
    _check(asked)
    services.write_private(settings_file(), json.dumps(asdict(asked)))
    return asked


def _check(settings: Settings) -> None:
    listening(settings.host)
    login(settings)
    if settings.slots is not None and settings.slots < 1:
        raise InputError(f"--slots {settings.slots}: at least 1")
    store = urlsplit(settings.backend_store or services.file_store())
    kind = store.scheme.partition("+")[0]
    if kind not in ("sqlite", "postgresql"):
        raise InputError(f"--backend-store {kind}://...: give postgresql://USER:PASSWORD@HOST/NAME, or sqlite:///FILE")
    if kind == "postgresql":
        _need("psycopg2", "--backend-store postgresql://...")
        _can_connect(store._replace(scheme=kind).geturl())
    if (settings.artifacts or "").startswith("s3://"):
        _need("boto3", "--artifacts s3://...")


def login(settings: Settings) -> str | None:
    """How the dashboard learns who is there: `oidc` (`services.login_file`), `header` (of a proxy), or not at all.

    Raises:
        InputError: The file is none of Streamlit's, the proxy's address none, or one of header and proxy is missing.
    """
    if settings.user_header or settings.proxy:
        if not (settings.user_header and re.fullmatch(r"[\w-]+", settings.user_header)):
            raise InputError("--user-header: the name of a header, e.g. X-Forwarded-User; it goes with --proxy")
        try:
            ipaddress.ip_network(settings.proxy or "")
        except ValueError:
            raise InputError(
                f"--proxy {settings.proxy}: the address (10.0.0.5) or network (10.0.0.0/24) of the proxy that sets "
                f"{settings.user_header}; from anybody else the header is not believed"
            ) from None
        return "header"
    file = services.login_file()
    try:
        told = tomllib.loads(file.read_text(encoding="utf-8")).get("auth", {})
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file}: it cannot be read ({error})") from None
    if missing := [key for key in ("redirect_uri", "cookie_secret") if not told.get(key)]:
        raise InputError(f"{file}: [auth] needs {missing[0]}, see Streamlit's st.login")
    return "oidc"


def check_login(host: str, settings: Settings) -> str | None:
    """What `login` says; on an address other than the loopback one it must say something.

    Raises:
        InputError: As `login`, or nobody would be asked who is there.
    """
    found = login(settings)
    if found is None and not ipaddress.ip_address(host).is_loopback:
        raise InputError(
            f"--host {host}: there the dashboard needs a login; write Streamlit's [auth] into {services.login_file()}, "
            "or name the header of your proxy (--user-header X-Forwarded-User --proxy ADDRESS)"
        )
    return found


def _need(package: str, option: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{option}: {package} is not installed; pip install 'r2d2[server]'")


def _can_connect(database: str) -> None:
    """Ask PostgreSQL before MLflow does, which would go on asking for minutes."""
    psycopg2 = importlib.import_module("psycopg2")
    try:
        psycopg2.connect(database, connect_timeout=10).close()
    except psycopg2.Error as error:
        raise InputError(f"--backend-store {without_passwords(database)}: {' '.join(str(error).split())}") from None


def listening(host: str | None) -> str:
    """The numeric address to listen on; every name of the loopback address is 127.0.0.1.

    Raises:
        InputError: It is no address of this machine.
    """
    try:
        address = socket.gethostbyname(host or LOOPBACK)
        free_port(address)
    except OSError:
        raise InputError(f"--host {host}: not an IPv4 address of this machine") from None
    return LOOPBACK if ipaddress.ip_address(address).is_loopback else address


def reached(host: str) -> str:
    """The address by which others reach what listens on `host`, which may be all addresses."""
    if host != "0.0.0.0":
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing; the system chooses the way out
        return str(probe.getsockname()[0])
    return socket.gethostbyname(socket.gethostname())
