"""Whether anybody is there, asked before a client that would go on asking for minutes."""

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
