"""Promote: a model takes an alias such as `champion` once it has shown, on patients nobody has seen, that it may."""

from collections.abc import Sequence
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

    Raises:
        InputError: No such version, it holds the alias already, or models that cannot be compared.
        WorkFailed: The gate refuses, with all its reasons; the evidence is recorded.
    """
    if force and not reason.strip():
        raise InputError("--force needs a --reason: it goes onto the model's record")
    from r2d2.tracking import promotion, store, zoo

    promotion.check(alias, reason)
    client = store.connect(store.resolve())
    candidate = zoo.get(client, f"{name}/{version}")
    while True:
        held = promotion.holder(client, name, alias)
        if held == version:
            raise InputError(f"{candidate.reference} holds @{alias} already")
        before = f"{name}/{held}" if held else None
        try:
            evidence = _judged(candidate.reference, before, alias, data)
        except InputError as error:
            if not force:
                raise
            evidence = {"alias": alias, "candidate": candidate.reference, "champion": before}
            evidence["reasons"] = [f"not judged: {error}"]
        refused = evidence["reasons"]
        evidence |= {"verdict": "accepted" if not refused else "forced" if force else "refused", "reason": reason}
        file = promotion.record(client, name, version, alias, evidence)
        if refused and not force:
            told = "; ".join(refused)
            raise WorkFailed(f"{candidate.reference} is not promoted to @{alias}: {told} (evidence: {file})")
        try:
            promotion.take(client, name, version, alias, held, "forced" if refused else "promoted", reason)
        except promotion.HolderChanged:
            say(f"@{alias} has changed hands meanwhile; judging again, against its new holder")
            continue
        return Promotion(candidate.reference, alias, before, evidence, file)


def roll_back(name: str, alias: str = ALIAS, reason: str = "") -> dict[str, str | None]:
    """Give an alias back to its previous holder.

    Returns:
        `model`, who holds it now, and `before`, who held it; None if that was deleted.

    Raises:
        InputError: No such model, or nobody held the alias before.
    """
    from r2d2.tracking import promotion, store

    promotion.check(alias, reason)
    before, now = promotion.roll_back(store.connect(store.resolve()), name, alias, reason)
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
