"""A sweep's trials on the disk: drawn one after another, their scores epoch by epoch, what became of each (Optuna)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from r2d2 import config
from r2d2.config.sweep import Values, counts

Outcome = Literal["running", "finished", "stopped", "diverged", "failed"]
"""`stopped`: others were better after as many epochs (ASHA), or somebody asked it to."""
MOST_DRAWN_FREELY = 10
"""TPE draws that many trials at random, or a quarter of all, before it knows enough to choose."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: From 0, in the order in which they were drawn.
        values: What it changes of the base experiment, by dotted key; under population-based training as it is now.
        outcome: What has become of it.
        scores: Its validation Dice by epoch.
        run_id: Its run, once it has one.
        reason: Why it ended, in words.
        seconds: From its run's creation to its end, once it has ended.
    """

    number: int
    values: Values
    outcome: Outcome
    scores: dict[int, float]
    run_id: str | None
    reason: str
    seconds: float | None

    @property
    def best(self) -> float | None:
        """Its best validation Dice."""
        return max(self.scores.values(), default=None)

    @property
    def epochs(self) -> int:
        """The last epoch that was validated."""
        return max(self.scores, default=0)


class Study:
    """The trials of one sweep.

    What is drawn depends on the sweep's seed, the trial's number and, with TPE, on the scores that are known then; so a
    sweep that is taken up again draws what it would have drawn.

    Args:
        sweep: What is searched, and how.
        folder: Where the trials are kept, in a file that only grows.
    """

    def __init__(self, sweep: config.Sweep, folder: Path) -> None:
        self._sweep = sweep
        folder.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(folder / "trials.log")))
        self._study = optuna.create_study(
            storage=storage, study_name=sweep.name, direction="maximize", load_if_exists=True
        )
        self._grid: Sequence[Values] = ()
        if sweep.search == "grid":
            self._grid = [*sweep.grid()]
            if sweep.number < len(self._grid):  # some of them, drawn
                chosen = np.random.default_rng(sweep.seed).permutation(len(self._grid))[: sweep.number]
                self._grid = [self._grid[number] for number in sorted(chosen)]

    def trials(self) -> list[Trial]:
        """All that have been drawn so far, by their numbers."""
        return [self._read(trial) for trial in self._study.get_trials(deepcopy=False) if "values" in trial.user_attrs]

    def finish(self, **known: Any) -> dict[str, Any]:
        """Keep what is known of the finish (`run_id`, `result`), and return all that is."""
        for key, value in known.items():
            self._study.set_user_attr(key, value)
        return self._study.user_attrs

    def draw(self) -> Trial | None:
        """A new trial; None if there are enough."""
        found = self._study.get_trials(deepcopy=False)
        number = len(self.trials())
        if number >= self._sweep.number:
            return None
        seed = int(np.random.SeedSequence([self._sweep.seed, number]).generate_state(1)[0])
        if self._sweep.search == "tpe":
            freely = min(MOST_DRAWN_FREELY, max(4, self._sweep.number // 4))
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=freely, constant_liar=True)
        else:
            self._study.sampler = optuna.samplers.RandomSampler(seed=seed)
        given: Values = self._grid[number] if self._grid else {}
        if len(found) > number:  # it was begun by a process that was killed meanwhile
            given = {}
        elif not given and (each := self._sweep.for_each):
            steps = self._sweep.space[each][0].steps or ()
            given = {each: steps[number % len(steps)]}
        if given:
            ranges_of = [(name, dimension, given[key]) for key, name, dimension in self._ranges(given) if key in given]
            self._study.enqueue_trial({name: _stored(dimension, value) for name, dimension, value in ranges_of})
        half = found[number] if len(found) > number else None
        begun = half is not None and half.state == TrialState.RUNNING
        trial = optuna.Trial(self._study, half._trial_id) if half is not None and begun else self._study.ask()
        values = Values()
        for key, name, dimension in self._ranges(values):
            values[key] = _drawn(trial, name, dimension)
        trial.set_user_attr("values", values)
        return Trial(trial.number, values, "running", {}, None, "", None)

    def _ranges(self, values: Values) -> Iterator[tuple[str, str, config.Dimension]]:
        """Yield key, name and range of every setting that is varied next to these values, which may grow meanwhile."""
        for key, ranges in self._sweep.ordered.items():
            if (which := counts(ranges, values)) is not None:
                yield key, key if len(ranges) == 1 else f"{key} ({which})", ranges[which]

    def note(self, number: int, **known: Any) -> None:
        """Keep what is known of a trial: `run_id`, or its `values` where they change."""
        for key, value in known.items():
            self._trial(number).set_user_attr(key, value)

    def score(self, number: int, epoch: int, dice: float) -> None:
        """A trial's validation Dice after an epoch."""
        self._trial(number).report(float(dice), epoch)

    def end(self, number: int, outcome: Outcome, reason: str, seconds: float) -> None:
        """What has become of a trial. A diverged one counts for those drawn after it as one that found nothing."""
        self.note(number, outcome=outcome, reason=reason, seconds=round(seconds, 2))
        best = self.trials()[number].best
        if outcome == "stopped":
            self._study.tell(number, state=TrialState.PRUNED)
        elif outcome == "finished" and best is not None:
            self._study.tell(number, best)
        elif outcome == "diverged":
            self._study.tell(number, 0.0)
        else:
            self._study.tell(number, state=TrialState.FAIL)

    def importance(self) -> dict[str, float]:
        """How much of the scores' variance each setting explains (fANOVA, Hutter et al. 2014); settings of all trials.

        Empty for fewer than four trials with a score, or where their scores are all alike.
        """
        scored = [trial for trial in self._study.get_trials(deepcopy=False) if self._read(trial).best is not None]
        if len(scored) < 4 or len({self._read(trial).best for trial in scored}) == 1:
            return {}
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                create_trial(params=trial.params, distributions=trial.distributions, value=self._read(trial).best)
                for trial in scored
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self._sweep.seed)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)

    @staticmethod
    def _read(trial: FrozenTrial) -> Trial:
        known = trial.user_attrs
        return Trial(
            trial.number,
            known.get("values", {}),
            known.get("outcome", "running"),
            dict(trial.intermediate_values),
            known.get("run_id"),
            known.get("reason", ""),
            known.get("seconds"),
        )


def _drawn(trial: optuna.Trial, name: str, dimension: config.Dimension) -> Any:
    if numbers := dimension.uniform or dimension.log_uniform:
        return trial.suggest_float(name, *numbers, log=dimension.log_uniform is not None)
    steps = dimension.steps or ()
    if dimension.integers:
        return trial.suggest_int(name, steps[0], steps[-1], step=dimension.step)
    return yaml.safe_load(trial.suggest_categorical(name, [_label(value) for value in steps]))


def _stored(dimension: config.Dimension, value: Any) -> Any:
    return _label(value) if dimension.choice is not None else value


def _label(value: Any) -> str:
    """A value of a choice as text, which YAML reads back."""
    return yaml.safe_dump(value, default_flow_style=True, width=100_000).removesuffix("\n...\n").strip()
