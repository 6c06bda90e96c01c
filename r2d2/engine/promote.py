"""Promote: a model takes an alias such as `champion` once it has shown, on patients nobody has seen, that it may."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2 import config
from r2d2.console import say
from r2d2.engine.compare import rows, score
from r2d2.errors import InputError, WorkFailed

if TYPE_CHECKING:
    from r2d2.segeval import Tally

ALIAS = "champion"
AGAIN = "have it judged again, against its new holder"


@dataclass(frozen=True)
class Promotion:
    """A promotion that was made.

    Attributes:
        model: Who holds the alias now, `name/version`.
        alias: Which.
        before: Who held it, or None.
        evidence: What the judgement rests on, as it was recorded.
        file: Where that is.
    """

    model: str
    alias: str
    before: str | None
    evidence: dict[str, Any]
    file: str


def promote(
    name: str,
    version: int,
    alias: str = ALIAS,
    data: Path | None = None,
    force: bool = False,
    reason: str = "",
    evidence: Mapping[str, Any] | None = None,
    by: str | None = None,
) -> Promotion:
    """Give an alias to a version if it passes the gate: its experiment's `promotion`, or the holder's where stricter.

    Args:
        name: The model's name in the registry.
        version: The candidate.
        alias: What it is to take.
        data: A folder of annotated scans to judge on; absent, the candidate's own data. Patients whom either model, or
            one that they came from, was trained or chosen on play no part.
        force: Give it whatever the gate says.
        reason: Why; it goes onto the record, and must be given with `force`.
        evidence: From `judge`, of this version and alias; then it is not judged again.
        by: Who promotes it; absent, whoever runs this process.

    Raises:
        InputError: No such version, it holds the alias already, models that cannot be compared, or the alias has
            another holder than the one in the evidence.
        WorkFailed: The gate refuses, with all its reasons; the evidence is recorded.
    """
    if force and not reason.strip():
        raise InputError("--force needs a --reason: it goes onto the model's record")
    from r2d2.tracking import promotion, store, zoo

    promotion.check(alias, reason)
    client = store.connect(store.resolve())
    candidate = zoo.get(client, f"{name}/{version}")
    while True:
        held, before = _holder(client, name, version, alias)
        if evidence is not None:
            if [evidence[key] for key in ("candidate", "champion", "alias")] != [candidate.reference, before, alias]:
                raise InputError(
                    f"@{alias} of {name} has changed hands since {candidate.reference} was judged; {AGAIN}"
                )
            found = dict(evidence)
        else:
            try:
                found = _judged(candidate.reference, before, alias, data)
            except InputError as error:
                if not force:
                    raise
                found = _not_judged(candidate.reference, before, alias, error)
        refused = found["reasons"]
        found |= {"verdict": "accepted" if not refused else "forced" if force else "refused", "reason": reason}
        file = promotion.record(client, name, version, alias, found)
        if refused and not force:
            told = "; ".join(refused)
            raise WorkFailed(f"{candidate.reference} is not promoted to @{alias}: {told} (evidence: {file})")
        try:
            promotion.take(client, name, version, alias, held, "forced" if refused else "promoted", reason, by)
        except promotion.HolderChanged:
            say(f"@{alias} has changed hands meanwhile; judging again, against its new holder")
            continue
        return Promotion(candidate.reference, alias, before, found, file)


def judge(name: str, version: int, alias: str = ALIAS, data: Path | None = None) -> dict[str, Any]:
    """The evidence for or against giving an alias to a version; nothing is recorded.

    Args:
        name: As for `promote`.
        version: Likewise.
        alias: Likewise.
        data: Likewise.

    Returns:
        What is recorded of a promotion: `reasons` against it, `policy`, `comparison`, `rows`, ... Of models that cannot
        be compared, the reason why alone.

    Raises:
        InputError: No such version, or it holds the alias already.
    """
    from r2d2.tracking import promotion, store, zoo

    promotion.check(alias, "")
    client = store.connect(store.resolve())
    candidate = zoo.get(client, f"{name}/{version}")
    before = _holder(client, name, version, alias)[1]
    try:
        return _judged(candidate.reference, before, alias, data)
    except InputError as error:
        return _not_judged(candidate.reference, before, alias, error)


def roll_back(name: str, alias: str = ALIAS, reason: str = "", by: str | None = None) -> dict[str, str | None]:
    """Give an alias back to its previous holder.

    Args:
        name: The model's.
        alias: Which.
        reason: Why; it goes onto the record.
        by: Who gives it back; absent, whoever runs this process.

    Returns:
        `model`, who holds it now, and `before`, who held it; None if that was deleted.

    Raises:
        InputError: No such model, or nobody held the alias before.
    """
    from r2d2.tracking import promotion, store

    promotion.check(alias, reason)
    before, now = promotion.roll_back(store.connect(store.resolve()), name, alias, reason, by)
    return {"model": f"{name}/{now}", "before": f"{name}/{before}" if before else None, "alias": alias}


def strictest(policies: Sequence[config.Promotion]) -> config.Promotion:
    """Return what is strictest in several policies: no candidate brings a laxer gate than the champion passed."""
    return config.Promotion(
        min_patients=max(policy.min_patients for policy in policies),
        allowed_loss=min(policy.allowed_loss for policy in policies),
        floor=max(policy.floor for policy in policies),
    )


def refusals(policy: config.Promotion, candidate: "Tally", champion: "Tally | None") -> list[str]:
    """Return every reason why a policy refuses a candidate, judged on the same patients as the champion.

    Args:
        policy: The experiment's.
        candidate: Its scores.
        champion: The present holder's, or None if there is none; then only the number of patients and the floor count.
    """
    from r2d2 import segeval

    dice = candidate.patients("dice")
    known = {patient: value for patient, value in dice.items() if value == value}
    if len(known) < policy.min_patients:
        return [f"{len(known)} patients to judge on, promotion.min_patients is {policy.min_patients}"]
    found = []
    if champion is not None:
        difference = segeval.compare(dice, champion.patients("dice"))
        if not difference.low >= -policy.allowed_loss:  # also where there is no interval
            found.append(
                f"Dice less the champion's is {difference.difference:+.4f}, and with 95 % confidence no better than "
                f"{difference.low:+.4f} at least; promotion.allowed_loss is {policy.allowed_loss:g}"
            )
    below = sorted((value, patient) for patient, value in known.items() if value < policy.floor)
    if below:
        worst = ", ".join(f"{patient} {value:.3f}" for value, patient in below[:3])
        found.append(f"Dice below promotion.floor ({policy.floor:g}) in {len(below)} patients: {worst}")
    if champion is None:
        return found
    for _, name in segeval.foreground(candidate.labels):
        there, ours, theirs = (
            tally.patients(f"{part}/{name}")
            for tally, part in ((candidate, "reference_ml"), (candidate, "volume_ml"), (champion, "volume_ml"))
        )
        missed = sorted(patient for patient in there if there[patient] > 0 and not ours[patient] and theirs[patient])
        if missed:
            found.append(f"{name} is found nowhere in {', '.join(missed[:3])}, where it is and the champion finds it")
    return found


def _holder(client: Any, name: str, version: int, alias: str) -> tuple[int | None, str | None]:
    """Who holds an alias: its version, and `name/version`; an InputError if it is this version."""
    from r2d2.tracking import promotion

    held = promotion.holder(client, name, alias)
    if held == version:
        raise InputError(f"{name}/{version} holds @{alias} already")
    return held, f"{name}/{held}" if held else None


def _not_judged(candidate: str, champion: str | None, alias: str, error: InputError) -> dict[str, Any]:
    """The evidence where there can be none."""
    return {"alias": alias, "candidate": candidate, "champion": champion, "reasons": [f"not judged: {error}"]}


def _judged(candidate: str, champion: str | None, alias: str, data: Path | None) -> dict[str, Any]:
    """The evidence for or against a candidate, `reasons` being those against it."""
    from r2d2 import segeval

    scored = score([candidate, *([champion] if champion else [])], data)
    first, second = scored.tallies[0], scored.tallies[1] if champion else None
    policy = strictest(scored.policies)
    reasons = refusals(policy, first, second)
    comparison = None
    if second is not None and len(first.rows) and len(first.patients("dice")) > 1:
        comparison = asdict(segeval.compare(first.patients("dice"), second.patients("dice")))
    return segeval.plain(
        {
            "alias": alias,
            "candidate": candidate,
            "champion": champion,
            "reasons": reasons,
            "policy": policy.model_dump(),
            "about": scored.about,
            "comparison": comparison,
            "rows": rows(scored.tallies),
            "left_out": list(scored.left_out),
        }
    )
