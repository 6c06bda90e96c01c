"""Whether anybody is there, asked before a client that would go on asking for minutes."""

import contextlib
import errno
import http.client
import re
import socket
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443, "ray": 10001}


def answers(address: str, seconds: float = 5.0) -> bool:
    """Return whether something accepts connections at `host:port` or `scheme://host:port`, within so many seconds."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or PORTS.get(parts.scheme)
        if not (parts.hostname and port):
            return False
        with socket.create_connection((parts.hostname, port), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False


def speaks_http(address: str, seconds: float = 5.0) -> bool:
    """Return whether what listens at `host:port` or `scheme://host:port` answers as web pages do, within this time.

    Of a Ray cluster its page does so, and its head, which is a port beside it, does not.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        page = http.client.HTTPConnection(parts.hostname or "", parts.port or PORTS["http"], timeout=seconds)
        with contextlib.closing(page):
            page.request("GET", "/api/version")
            page.getresponse()
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def free_port(host: str, wanted: int = 0) -> int:
    """The first port from `wanted` on that nobody listens on at this address; 0: any.

    Raises:
        OSError: The address is not this machine's, or there is none among the next hundred.
    """
    for port in range(wanted, min(wanted + 100, 65536)) if wanted else (0,):
        with socket.socket() as probe:
            # As servers do: a port whose connections have only just ended is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            return int(probe.getsockname()[1])
    raise OSError(errno.EADDRINUSE, f"no port from {wanted} to {wanted + 99} is free on {host}")


def without_passwords(text: str) -> str:
    """The text without the passwords of URLs in it."""
    return re.sub(r"(\w+://[^\s:/@]*):[^\s@]+@", r"\1:***@", text)
