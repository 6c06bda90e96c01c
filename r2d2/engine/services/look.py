"""What a service does: whether it answers, who uses it, what it said last."""

import contextlib
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

from r2d2 import services
from r2d2.console import command
from r2d2.network import without_passwords
from r2d2.services import Service


def state(service: Service) -> tuple[str, str]:
    """The state of a service as `Status` has it, and a few words about it: of what there is, or of what went wrong."""
    if not service.here:
        return "elsewhere", f"on {service.machine}"
    if services.leader(service) is None:
        reason = services.why_dead(service)
        return reason.partition(":")[0], (reason if ":" in reason else last_words(service))
    if not answers(service):
        return "not answering", last_words(service)
    if service.name != "ray":
        return "running", ""
    nodes = _nodes(service)
    cpus = sum(node.get("resourcesTotal", {}).get("CPU", 0) for node in nodes)
    about = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}, {cpus:g} CPUs"
    if waiting := _waiting(service):
        about += f"; {waiting} waiting for slots ({command()} jobs list)"
    return "running", about


def answers(service: Service) -> bool:
    """Whether a service does what it is there for: of Ray, whether a node lives."""
    if service.name == "ray":
        return bool(_nodes(service))
    path = {"mlflow": "/health", "dashboard": "/_stcore/health"}[service.name]
    return _get(service, path) is not None


def _nodes(service: Service) -> list[dict[str, Any]]:
    """Ray's nodes that live, as its own pages are told of them."""
    answer = _get(service, "/nodes?view=summary")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found = [node["raylet"] for node in json.loads(answer or b"")["data"]["summary"]]
        return [node for node in found if node.get("state") == "ALIVE"]
    return []


def _waiting(service: Service) -> int:
    """How many programs wait for slots of a Ray cluster."""
    answer = _get(service, "/api/v0/placement_groups?limit=10000")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        groups = json.loads(answer or b"")["data"]["result"]["result"]
        return len({group["creator_job_id"] for group in groups if group["state"] in ("PENDING", "RESCHEDULING")})
    return 0


def users(service: Service) -> list[str]:
    """The programs that use a Ray cluster, each in a few words."""
    found = []
    with contextlib.suppress(ValueError, TypeError):
        for job in json.loads(_get(service, "/api/jobs/") or b"[]"):
            if job.get("status") not in ("PENDING", "RUNNING"):
                continue
            driver = job.get("driver_info") or {}
            what = job.get("entrypoint") or "a program"
            found.append(f"{what[:80]}" + (f" (process {driver['pid']})" if driver.get("pid") else ""))
    return found


def _get(service: Service, path: str) -> bytes | None:
    """What a service answers, or None."""
    request = urllib.request.Request(service.page + path)
    if service.name == "ray" and not service.local:
        with contextlib.suppress(OSError):
            request.add_header("Authorization", f"Bearer {services.token_file().read_text(encoding='utf-8')}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is this machine
    with contextlib.suppress(OSError, ValueError), opener.open(request, timeout=3.0) as answer:
        return answer.read() if answer.status == 200 else None
    return None


def last_words(service: Service) -> str:
    """The last line of a service's log that says what went wrong, or else the last, and where the rest is."""
    try:
        text = Path(service.log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return f"it left no log ({service.log})"
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in text.splitlines()[-200:]]
    lines = [line for line in lines if line and not line.startswith("(Background on this error")]
    wrong = re.compile(r"error|refused|denied|cannot|fail|killed|exception", re.IGNORECASE)
    telling = [line for line in lines if wrong.search(line) and "INFO" not in line]
    last = (telling or lines or ["its log is empty"])[-1]
    return f"{without_passwords(last)[:300]} ({service.log})"
