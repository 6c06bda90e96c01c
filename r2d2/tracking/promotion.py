"""Who holds an alias of a model: taken by one at a time, with a trail, and given back.

The trail of an alias is a tag of the registered model, a list of events in their order. What is in force follows from
it: a promotion puts a version on top, a rollback takes the top away. The lock is a registered model without versions,
whose name nobody else can make a second time: the one thing that the registry does for one client alone, on any store.
"""

import contextlib
import getpass
import json
import platform
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from r2d2.console import say
from r2d2.errors import InputError
from r2d2.tracking import store

LONGEST, MOST, LONGEST_NAME = 500, 100, 100
"""Characters of a reason, events of a trail, characters of a person's name: together what a tag takes."""
STALE_S = 60.0
"""A lock that nobody gave back in this time, which is a thousand times what its holders need, is its dead holder's."""


class HolderChanged(Exception):  # noqa: N818
    """The alias has another holder than the one that the candidate was judged against."""


@store.talking()
def holder(client: MlflowClient, name: str, alias: str) -> int | None:
    """The version that holds an alias, or None.

    Raises:
        InputError: No such model.
    """
    try:
        held = client.get_registered_model(name).aliases.get(alias)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise InputError(f"model {name}: the registry has none of that name (r2d2 zoo list)") from None
        raise
    return int(held) if held else None


def history(client: MlflowClient, name: str, alias: str) -> list[dict[str, Any]]:
    """Every event of an alias, the oldest first: `did`, `version` (which holds it then), `by`, `at`, `reason`."""
    return json.loads(client.get_registered_model(name).tags.get(_tag(alias), "[]"))


@store.talking()
def take(
    client: MlflowClient,
    name: str,
    version: int,
    alias: str,
    judged_against: int | None,
    did: str,
    reason: str,
    by: str | None = None,
) -> None:
    """Give an alias to a version.

    Args:
        client: Of the registry.
        name: The model's.
        version: The candidate.
        alias: What it takes.
        judged_against: The holder at the time of the judgement.
        did: `promoted` or `forced`.
        reason: In words.
        by: Who did it; absent, whoever runs this process.

    Raises:
        HolderChanged: Somebody else was promoted, or rolled back, since.
    """
    with _alone(client, name):
        if holder(client, name, alias) != judged_against:
            raise HolderChanged
        events = _with_holder(history(client, name, alias), judged_against)
        if not _exists(client, name, version):
            raise InputError(f"model {name}/{version}: it is not in the registry any more")
        _write(client, name, alias, version, [*events, _event(did, version, reason, by)])


@store.talking()
def roll_back(
    client: MlflowClient, name: str, alias: str, reason: str, by: str | None = None
) -> tuple[int | None, int]:
    """Give an alias back to its previous holder that is still in the registry; `by` is who does.

    Returns:
        The version that held it, None if that was deleted, and the one that holds it now.

    Raises:
        InputError: Nobody held it before.
    """
    with _alone(client, name):
        now = holder(client, name, alias)
        events = _with_holder(history(client, name, alias), now)
        held = _stack(events)[: -1 if now is not None else None]
        back = next((version for version in reversed(held) if _exists(client, name, version)), None)
        if back is None:
            raise InputError(f"model {name}: @{alias} has no previous holder to go back to")
        _write(client, name, alias, back, [*events, _event("rolled back", back, reason, by)])
        return now, back


@store.talking()
def record(client: MlflowClient, name: str, version: int, alias: str, evidence: Mapping[str, Any]) -> str:
    """Keep a judgement: whole as a file of the version's run, in short as a tag of the version, `judgement`.

    Returns:
        Where the file is.
    """
    run_id = client.get_model_version(name, str(version)).run_id
    file = f"promotion/{name}-{version}-{alias}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}.json"
    client.log_dict(run_id, dict(evidence), file)
    short = {key: evidence.get(key) for key in ("verdict", "candidate", "champion", "comparison", "policy", "reason")}
    short |= {"file": file, "reasons": [reason[:300] for reason in evidence["reasons"][:5]]}
    client.set_model_version_tag(name, str(version), f"r2d2.promotion.{alias}", json.dumps(short))
    return f"runs:/{run_id}/{file}"


def judgements(tags: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The last judgement of a version for each alias, of its tags."""
    key = "r2d2.promotion."
    return {name.removeprefix(key): json.loads(text) for name, text in tags.items() if name.startswith(key)}


def check(alias: str, reason: str) -> None:
    """Raise an InputError if there can be no such alias, or if a reason is too long for the record."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,60}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise InputError(
            f"alias {alias!r:.80}: letters, digits, '_' and '-', a letter first; not latest, not v and a number"
        )
    if len(reason) > LONGEST:
        raise InputError(f"--reason: {len(reason)} characters; the record takes {LONGEST}")


@contextlib.contextmanager
def _alone(client: MlflowClient, name: str) -> Iterator[None]:
    """Keep others from changing the aliases of a model meanwhile."""
    lock, own = f"{name} (promotion under way)", uuid.uuid4().hex
    seen, since, began, told = "", time.monotonic(), time.monotonic(), False
    while True:
        try:
            client.create_registered_model(lock, tags={"r2d2.holder": own})
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        with contextlib.suppress(MlflowException):  # given back in between
            token = client.get_registered_model(lock).tags.get("r2d2.holder", "")
            if token != seen:
                seen, since = token, time.monotonic()
            elif time.monotonic() - since > STALE_S:
                client.delete_registered_model(lock)
        if not told and time.monotonic() - began > 2:
            say(f"Waiting for another promotion of {name} to end, or for its lock to be {STALE_S:g} s old")
            told = True
        time.sleep(0.1)
    try:
        yield
    finally:
        with contextlib.suppress(MlflowException):  # taken for a dead one's and broken
            if client.get_registered_model(lock).tags.get("r2d2.holder") == own:
                client.delete_registered_model(lock)


def _write(client: MlflowClient, name: str, alias: str, version: int, events: list[dict[str, Any]]) -> None:
    # The trail first: an alias that moved without a word would be worse than a word too many.
    client.set_registered_model_tag(name, _tag(alias), json.dumps(events[-MOST:]))
    client.set_registered_model_alias(name, alias, str(version))


def _exists(client: MlflowClient, name: str, version: int) -> bool:
    try:
        client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _event(did: str, version: int, reason: str, by: str | None) -> dict[str, Any]:
    by = (by or f"{getpass.getuser()}@{platform.node()}")[:LONGEST_NAME]
    at = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"did": did, "version": version, "by": by, "at": at, "reason": reason}


def _with_holder(events: list[dict[str, Any]], now: int | None) -> list[dict[str, Any]]:
    """The trail, with the present holder on top also where somebody set the alias by other means."""
    stack = _stack(events)
    if now is None or (stack and stack[-1] == now):
        return events
    return [*events, {"did": "found", "version": now, "by": "", "at": "", "reason": "the alias was set elsewhere"}]


def _stack(events: list[dict[str, Any]]) -> list[int]:
    stack: list[int] = []
    for event in events:
        if event["did"] == "rolled back":
            while stack and stack[-1] != event["version"]:
                stack.pop()
        else:
            stack.append(event["version"])
    return stack


def _tag(alias: str) -> str:
    return f"r2d2.history.{alias}"
