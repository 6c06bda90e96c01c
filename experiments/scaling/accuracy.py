"""What is lost at scale, and why: the paper's open question on virtual workers.

    python experiments/scaling/accuracy.py            go on, task after task; stopped or killed, again the next time
    python experiments/scaling/accuracy.py brain      one task
    python experiments/scaling/accuracy.py --record   only write down what there is

Virtual workers make the very updates of so many real ones, so that 18 of them need one core and patience. First the
base rate at one worker, of each optimizer by itself: threefold up, then halves of a step around the best, until the
validation Dice stands still; of the rates within a point of the best the least, for the best of noisy ones lies at the
edge of where learning breaks down. Then 1, 4 and 18 workers by every rule, and 2, 8 and 12 by linear scaling with
warm-up, six seeds each (twelve for one worker and for as many updates at its rate), compared patient by patient and
seed by seed. `same-updates` has as many updates as one worker, in 18 times the epochs: what it loses is the large batch
with its rate; what the same rule with as many epochs loses beyond that is missing updates. A warm-up climbs from the
base rate (`warmup_from: base`): one worker has none by any rule, nor has the search for its rates.

Everything is a plain `r2d2 scale`, stage after stage, in MLflow under R2D2_HOME; stages are found again there by name,
which ends in a digest of all that their runs are told: what has changed since is trained anew. The record goes to
`accuracy.md`, `accuracy.json` and pictures beside this file, also of a study that is not done.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOM = Path(os.environ.get("R2D2_HOME", ".r2d2")).absolute() / "scaling-accuracy"
STILL = 0.002
"""A Dice that rises by less stands still."""
LEVEL = 0.01
"""A Dice that is less below the best is on the level: of these rates the least is taken, see `Search.chosen`."""
TRIPLE, MOST_ROUNDS = 3.0, 8
SEEDS, SEEDS_OF_SEARCH = 6, 3
NOTES = "<!-- notes -->\n"
"""What stands below it in the record was written by people, and stays."""
LARGEST = 18


@dataclass(frozen=True)
class Task:
    """One task: its experiment file, its data, which numbers of workers and rules it is studied with."""

    file: str
    kind: str
    patients: int
    starts: Mapping[str, float]
    """Of each optimizer's search the least rate."""
    upwards: int
    """How many times it is multiplied by three."""
    workers: tuple[int, ...]
    rules: tuple[str, ...]
    between: tuple[int, ...]
    """Numbers of workers for linear scaling with warm-up alone."""
    fewer: tuple[int, ...] = ()
    """Numbers of workers between, for SAME alone."""


WARM, ROOT = "linear+warm-up", "sqrt+warm-up"
SAME, SAME_RATE = f"same-updates+{ROOT}", "same-updates+none"
"""As many updates as one worker makes, with the root's rate and with one worker's."""
LONGER = 4
"""Epochs of the longer warm-up, a third of all."""


@dataclass(frozen=True)
class Stage:
    """A study of a task, and what is put behind its rules' names in the record."""

    study: Any
    suffix: str = ""


TASKS = {
    "brain": Task(
        "brain_tissue.yaml",
        "brain",
        40,
        {"sgd": 0.003, "lars": 0.3, "lamb": 0.003},
        4,
        (1, 4, LARGEST),
        ("linear", WARM, ROOT, "lars+warm-up", "lamb+warm-up", "same-updates+warm-up"),
        (2, 8, 12),
        (4,),
    ),
    "brats": Task(
        "brats.yaml",
        "brats",
        40,
        {"sgd": 0.003},
        4,
        (1, LARGEST),
        ("linear", WARM, ROOT),
        (),
    ),
}


def main() -> None:
    """Go on with the study, and write down what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    if unknown := set(given.tasks) - TASKS.keys():
        sys.exit(f"no task {sorted(unknown)[0]!r}; there are {', '.join(TASKS)}")
    ROOM.mkdir(parents=True, exist_ok=True)
    os.environ["R2D2_HOME"] = str(ROOM)
    try:
        for name in () if given.record else given.tasks or TASKS:
            go_on(name)
    finally:
        write()


def go_on(name: str) -> None:
    """Do what is left of a task."""
    data(name)
    rates = {optimizer: found["chosen"] for optimizer, found in searched(name)[0].items()}
    study, alone, *others = stages(name, rates)
    for stage in (alone, study, *others):  # what the answer hangs on first
        done(stage.study)


def data(name: str) -> Path:
    """The task's virtual patients, made the first time."""
    from r2d2.data.synthesis import synthesize

    folder = ROOM / f"{name}-patients"
    return folder if folder.exists() else synthesize(TASKS[name].kind, folder, TASKS[name].patients, 0, spacing_mm=4.0)


def planned(
    name: str, stage: str, workers: Sequence[int], rules: Sequence[str], seeds: int = SEEDS, **changes: float
) -> Any:
    """The study of a task's stage on so many virtual workers, named for what its runs are told."""
    from r2d2 import config

    told = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    where = f"data.path={ROOM / f'{name}-patients'}"

    def called(what: str) -> Any:
        experiment = config.load(HERE / TASKS[name].file, [f"name={what}", where, *told])
        return config.study(experiment, [], workers, rules, seeds)

    study = called(f"{name}-{stage}")
    children = json.dumps([asdict(child) for child in study.children()], sort_keys=True)
    digest = hashlib.sha256((study.to_yaml() + children).encode()).hexdigest()
    return called(f"{name}-{stage}-{digest[:8]}")


def searched(name: str, run: bool = True) -> tuple[dict[str, dict[str, Any]], float]:
    """The base rate of each optimizer at one worker: `scores` by rate, and the `chosen`, None until it is known.

    Args:
        name: The task.
        run: Whether to train what is missing; else what is there is read.

    Returns:
        These, and the minutes that the search has taken.
    """
    task = TASKS[name]
    found = {one: Search(start, task.upwards) for one, start in task.starts.items()}
    minutes = 0.0
    for number in range(MOST_ROUNDS):
        wanted = [(optimizer, rate) for optimizer, search in found.items() for rate in search.wanted]
        if not wanted:
            break
        scores, taken = rate_scores(name, number, wanted, run)
        minutes += taken
        if scores is None:
            return {one: {"scores": search.scores, "chosen": None} for one, search in found.items()}, minutes
        for optimizer, search in found.items():
            search.take({rate: dice for (whose, rate), dice in scores.items() if whose == optimizer})
    return {one: {"scores": search.scores, "chosen": search.chosen} for one, search in found.items()}, minutes


class Search:
    """The search for one optimizer's rate; `wanted` are those to be tried next, none once the score stands still."""

    def __init__(self, start: float, upwards: int) -> None:
        self.scores: dict[float, float] = {}
        self.wanted = [start * TRIPLE**power for power in range(upwards)]
        self._step = TRIPLE

    @property
    def best(self) -> float:
        """The rate with the best score."""
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def chosen(self) -> float:
        """The least rate on the level of the best one: there is most room above it."""
        return min(rate for rate, dice in self.scores.items() if dice > self.scores[self.best] - LEVEL)

    def take(self, scores: Mapping[float, float | None]) -> None:
        """Take the scores of what was wanted, and decide what is wanted next."""
        if not scores:
            return
        first, before = not self.scores, max(self.scores.values(), default=0.0)
        self.scores |= {rate: dice or 0.0 for rate, dice in scores.items()}  # what diverged has found nothing
        if self.best in (min(self.scores), max(self.scores)):  # the best may lie further out
            self.wanted = [self.best * (TRIPLE if self.best == max(self.scores) else 1 / TRIPLE)]
        elif not first and self._step < TRIPLE and self.scores[self.best] - before < STILL:
            self.wanted = []
        else:
            self._step = math.sqrt(self._step)
            self.wanted = [self.best / self._step, self.best * self._step]


def rate_scores(
    name: str, number: int, wanted: Sequence[tuple[str, float]], run: bool
) -> tuple[dict[tuple[str, float], float | None] | None, float]:
    """The validation Dice of optimizers and rates at one worker, the mean over the seeds; None of what diverged in all.

    A seed in which it diverged has found nothing. None if it is not there. And the minutes that it took.
    """
    rules = [f"{'none' if optimizer == 'sgd' else optimizer}:{rate:.6g}" for optimizer, rate in wanted]
    study = planned(name, f"rates-{number}", [1], rules, SEEDS_OF_SEARCH)
    if run:
        done(study)
    known = read(study)
    if known is None or any(one["outcome"] in ("waiting", "running") for one in known):
        return None, minutes_of(known or ())
    found: dict[str, list[float | None]] = {rule: [] for rule in rules}
    for one in known:
        for rule in set(one["rules"]) & found.keys():
            found[rule].append(final_dice(one))
    return {one: mean_of(found[rule]) for one, rule in zip(wanted, rules, strict=True)}, minutes_of(known)


def minutes_of(runs: Sequence[Mapping[str, Any]]) -> float:
    """What runs have taken, one after another."""
    return sum(run["seconds"] or 0 for run in runs) / 60


def mean_of(scores: Sequence[float | None]) -> float | None:
    """The mean of the seeds' scores, of which those that are None count as 0; None if all are."""
    return None if all(score is None for score in scores) else sum(score or 0.0 for score in scores) / len(scores)


def final_dice(run: Mapping[str, Any]) -> float | None:
    """Its last validation's."""
    history = run["measured"].get("history", [])
    return next((row["val/dice"] for row in reversed(history) if "val/dice" in row), None)


def stages(name: str, rates: Mapping[str, float]) -> list[Stage]:
    """The studies of a task, at the rates that were found."""
    task, base = TASKS[name], {"training__learning_rate": rates["sgd"]}

    def stage(called: str, workers: Sequence[int], rules: Sequence[str], suffix: str = "", **changes: float) -> Stage:
        told = [with_rate(rule, rates) for rule in rules]
        return Stage(planned(name, called, workers, told, **base, **changes), suffix)

    adaptive = [f"{optimizer}+warm-up" for optimizer in rates if optimizer != "sgd"]
    found = [stage("study", task.workers, task.rules)]
    found.append(stage("alone", [LARGEST], ["none", SAME_RATE]))
    longer = {"training__warmup_epochs": LONGER}
    found.append(stage("longer", [LARGEST], [WARM, ROOT, *adaptive], f", {LONGER} epochs of it", **longer))
    if task.between:
        found.append(stage("between", task.between, [WARM]))
    found.append(stage("root", [LARGEST, *task.fewer], [SAME]))
    # As many seeds again, of what came out near the bound in the first task, and of one worker.
    return [*found, stage("again", [1, LARGEST], [SAME_RATE], training__seed=SEEDS)]


def with_rate(rule: str, rates: Mapping[str, float]) -> str:
    """A rule with the base rate of its optimizer, where that is not the file's."""
    optimizer = rule.partition("+")[0]
    return f"{rule}:{rates[optimizer]:.6g}" if optimizer in rates else rule


def done(study: Any) -> None:
    """Run a study, or go on with it, or leave it as it is if it has ended."""
    from r2d2.engine.scale import scale

    found = recorded(study)
    if found is None:
        scale(study)
    elif found.info.status != "FINISHED":
        scale(None, found.info.run_id)


def recorded(study: Any) -> Any:
    """The study's MLflow run, if it was begun; its name is its own, see `planned`."""
    from r2d2.tracking import store

    client = store.connect(store.resolve())
    group = client.get_experiment_by_name(study.name)
    above = client.search_runs([group.experiment_id], "tags.`r2d2.scale` LIKE '%'") if group else []
    return above[0] if above else None


def read(study: Any) -> list[dict[str, Any]] | None:
    """What is known of a study's runs; None if it was not begun."""
    from r2d2.engine.driven import run_folder
    from r2d2.engine.scale import CHILDREN, points

    found = recorded(study)
    folder = run_folder(study.experiment, found.info.run_id) if found else None
    return points(study, folder) if folder and (folder / CHILDREN).exists() else None


def write() -> None:
    """Write the record of all tasks, as far as they are."""
    told: dict[str, Any] = {"date": str(date.today()), "tasks": {}}
    pages = []
    for name in TASKS:
        found = summed_up(name)
        if found is not None:
            told["tasks"][name] = found
            pages.append(page(name, found))
    text = json.dumps(told, indent=1).replace(f"{ROOM}/", "")  # folders of this machine are nobody else's
    (HERE / "accuracy.json").write_text(text + "\n")
    record = HERE / "accuracy.md"
    notes = record.read_text().partition(NOTES)[2] if record.exists() else ""
    record.write_text(header(told) + "\n".join(pages) + (f"\n{NOTES}{notes}" if notes else ""))
    print(record.read_text())


def summed_up(name: str) -> dict[str, Any] | None:
    """What is known of a task: the rates, the curves; None if it was not begun."""
    from r2d2.engine import scale_report

    rates, minutes = searched(name, run=False)
    if not any(found["scores"] for found in rates.values()):
        return None
    told: dict[str, Any] = {"rates": {key: one | {"scores": list(one["scores"].items())} for key, one in rates.items()}}
    told["search_minutes"] = minutes
    chosen = {optimizer: found["chosen"] for optimizer, found in rates.items()}
    if None in chosen.values():
        return told | {"scaling": None}
    known = stages(name, chosen)
    alike = next(child.rules for child in known[0].study.children() if child.workers == 1)
    runs: list[dict[str, Any]] = []
    for stage in known:
        before = stage.study.experiment.training.seed - known[0].study.experiment.training.seed
        for run in read(stage.study) or ():
            # One worker is one and the same by any rule of the same optimizer.
            told_by = alike if before and run["workers"] == 1 else run["rules"]
            seed = {"repeat": run["repeat"] + before}
            runs.append(run | seed | {"rules": [rule + stage.suffix for rule in told_by]})
    if not runs:
        return told | {"scaling": None}
    rules = dict.fromkeys(rule + stage.suffix for stage in known for rule in stage.study.rules)
    counts = sorted({count for stage in known for count in stage.study.virtual})
    whole = known[0].study.model_copy(update={"virtual": tuple(counts), "rules": tuple(rules)})
    told["planned"] = sum(len(stage.study.children()) for stage in known)
    told["done"] = sum(run["outcome"] not in ("waiting", "running") for run in runs)
    told["minutes"] = minutes_of(runs)
    if not any(run["outcome"] == "finished" for run in runs):
        return told | {"scaling": None}
    first = next(filter(None, (recorded(stage.study) for stage in known)))
    scaling = scale_report.scaling(whole, first.info.run_id, runs, 1)
    for kind, draw in (("scores", scale_report.curves), ("loss", scale_report.losses)):
        if kind == "scores" or any(one["loss"] for one in scaling["summaries"]):
            draw(scaling).savefig(HERE / f"accuracy_{name}_{kind}.png", dpi=110)
    return told | {"scaling": scaling, "split": split_of_loss(runs)}


def split_of_loss(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The loss at the most workers with one worker's rate, in points, and of what it consists; None if unknown.

    All of the seeds in which all three came to their end, so that the parts add up; `diverged`: in how many others one
    of them did not.
    """
    from r2d2.engine.scale_report import loss_between

    def of(rule: str, workers: int) -> dict[int, list]:
        some = [run for run in runs if rule in run["rules"] and run["workers"] == workers]
        lost.update(run["repeat"] for run in some if run["outcome"] == "diverged")
        return {run["repeat"]: run["measured"]["rows"] for run in some if run["measured"]}

    lost: set[int] = set()
    each = of("linear", 1), of("none", LARGEST), of(SAME_RATE, LARGEST)
    common = sorted(set.intersection(*map(set, each)))
    if not common:
        return None
    one, fewer, same = ({seed: rows[seed] for seed in common} for rows in each)
    return {
        "all": loss_between(one, fewer, "dice"),
        "updates": loss_between(same, fewer, "dice"),
        "batch": loss_between(one, same, "dice"),
        "diverged": len(lost),
    }


def header(told: Mapping[str, Any]) -> str:
    """The top of the page."""
    minutes, search = (
        sum(found.get(key, 0) for found in told["tasks"].values()) for key in ("minutes", "search_minutes")
    )
    so_far = " so far" * any(found["done"] < found["planned"] for found in told["tasks"].values())
    text = (
        f"`python experiments/scaling/accuracy.py`: {search:.0f} minutes of one core for the search of rates and "
        f"{minutes:.0f} for the study{so_far}, beside other work. Virtual "
        "workers, validation patients, the last epoch's weights. A point is a hundredth of Dice (mean over the "
        "foreground classes of a patient's volume, then over the patients). Losses are against one worker with the "
        "first rule, paired by patient and seed. Their 95 % interval has the half-widths of that over the patients "
        "(bootstrap) and of that over the seeds (Student's t; with few seeds it is wide) added in quadrature. `loses "
        "less` and `loses more`: than 0.3 points, at both ends of it; anything else is undecided, and a rule that "
        "diverged in a seed never loses less. One worker and `same-updates+none` have twice as many seeds. The base "
        f"rate is the least within {100 * LEVEL:g} point of the best one: up to so much more may be lost against it."
    )
    return f"# What is lost at scale, {told['date']}\n\n{paragraph(text)}\n\n"


def paragraph(text: str) -> str:
    """In lines of the length of this project's."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def page(name: str, found: Mapping[str, Any]) -> str:
    """A task's part of the page."""
    from r2d2.engine import scale_report

    task = TASKS[name]
    lines = [
        f"## {name}: [{task.file}]({task.file})",
        "",
        f"Base rates at one worker, the least within {100 * LEVEL:g} point of the best (Dice, mean over "
        f"{SEEDS_OF_SEARCH} seeds):",
        "",
    ]
    for optimizer, one in found["rates"].items():
        scores = ", ".join(
            f"{rate:.4g}: {'-' if dice is None else f'{dice:.4f}'}" for rate, dice in sorted(one["scores"])
        )
        chosen = f"**{one['chosen']:.4g}**" if one["chosen"] else "not found yet"
        lines.append(f"- {optimizer}: {chosen} ({scores or 'not searched yet'})")
    scaling = found.get("scaling")
    if scaling is None:
        return "\n".join([*lines, "", "The study itself is not there yet.", ""])
    spent = f"{found['minutes']:.0f} minutes, after {found['search_minutes']:.0f} for the rates"
    lines += ["", f"{found['done']} of {found['planned']} runs; {spent}.", ""]
    lines += [scale_report.table(scaling, timed=False)]
    lines += conclusions(found)
    drawn = [kind for kind in ("scores", "loss") if (HERE / f"accuracy_{name}_{kind}.png").exists()]
    return "\n".join([*lines, *(line for kind in drawn for line in ("", f"![{kind}](accuracy_{name}_{kind}.png)")), ""])


def conclusions(found: Mapping[str, Any]) -> list[str]:
    """What may be said."""
    lines: list[str] = []
    split = found["split"]
    if split:
        told = {
            key: f"{one['value']:.2f} ({shown(one['low'])} to {shown(one['high'])})"
            for key, one in split.items()
            if key != "diverged"
        }
        seeds = split["all"]["pairs"]
        lines.append(
            f"At one worker's rate {LARGEST} workers lose {told['all']} points. Of these {told['updates']} are missing "
            f"updates (against {LARGEST} workers with as many updates as one), {told['batch']} the large batch; all "
            f"three over the same {seeds} seed{'s' if seeds > 1 else ''}."
        )
        if split["diverged"]:
            lines.append(f"Seeds in which one of these diverged are left out here: {split['diverged']}.")
    far = [one for one in found["scaling"]["summaries"] if one["workers"] == LARGEST and one["verdict"]]
    for word, said in (
        ("loses less", "Less than 0.3 points, by the whole interval, are lost by"),
        ("loses more", "More than that is lost by"),
        ("undecided", "Undecided:"),
    ):
        if some := [one["rule"] for one in far if one["verdict"] == word]:
            lines.append(f"{said} {', '.join(some)}.")
    return [paragraph(" ".join(lines))]


def shown(value: float | None) -> str:
    """A bound, or that there is none."""
    return "?" if value is None or math.isnan(value) else f"{value:.2f}"


if __name__ == "__main__":
    main()
