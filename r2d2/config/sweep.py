"""A sweep file: a base experiment, the settings that are searched and their ranges, how, and what becomes of the best.

name: brain-tissue-rates
experiment: brain_tissue.yaml
settings: {training.epochs: 9}
space:
training.optimizer: {choice: [adam, sgd]}
training.learning_rate: {log_uniform: [1.0e-4, 1.0e-1]}
training.momentum: {uniform: [0.8, 0.99], when: {training.optimizer: sgd}}
search: tpe
trials: 20
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from r2d2.config.experiment import Experiment
from r2d2.config.reading import load, override, parse, problem, read_yaml
from r2d2.config.section import Name, Section
from r2d2.errors import InputError

Values = dict[str, Any]
"""What a trial changes of the base experiment, by dotted key."""
FIXED = ("name", "data", "cluster", "tracking", "evaluation", "promotion", "card", "description")
"""Sections that are the same for all trials: scores on other patients, or measured otherwise, cannot be compared."""
TAUGHT = tuple(
    f"training.{key}"
    for key in ("learning_rate", "momentum", "weight_decay", "focal_gamma", "tversky_", "augmentation.")
)
"""What population-based training may change: the optimizer's variables and the number of steps stay what they are."""


class Dimension(Section):
    """One setting's range: one of `choice`, `uniform`, `log_uniform`, `integers`.

    `choice`: one of these values, of any kind. `uniform`, `log_uniform`: a number in [low, high], every one, or every
    factor, as likely as another. `integers`: a whole number from low to high, both included, in steps of `step`.
    `when`: only where other settings of the space have these values (one, or a list of several). A setting may have
    several ranges, of which the first counts whose conditions hold; where none does, the base experiment's value stays.
    """

    choice: tuple[Any, ...] | None = None
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None
    step: Annotated[int, Field(ge=1)] = 1
    when: Annotated[dict[str, Any], Field(min_length=1)] | None = None

    @field_validator("uniform", "log_uniform", "integers", mode="before")
    @classmethod
    def _two_ends(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, list | tuple) and len(value) == 2):
            raise ValueError(f"should be [low, high] (got {value!r:.60})")
        return value

    @model_validator(mode="after")
    def _one_range(self) -> "Dimension":
        ranges = {kind: getattr(self, kind) for kind in ("choice", "uniform", "log_uniform", "integers")}
        given = [kind for kind, value in ranges.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"should have one of choice, uniform, log_uniform, integers (got {given or 'none'})")
        kind = given[0]
        if self.step > 1 and kind != "integers":
            raise ValueError(f"step ({self.step}) goes with integers")
        if kind == "choice":
            if not self.choice:
                raise ValueError("choice [] is empty: it must have a value")
            return self
        low, high = ranges[kind]
        if low >= high:
            raise ValueError(f"{kind} [{low:g}, {high:g}] is empty: its low must be < its high")
        if kind == "log_uniform" and low <= 0:
            raise ValueError(f"log_uniform's low ({low:g}) must be > 0")
        return self

    @property
    def steps(self) -> tuple[Any, ...] | None:
        """Every value that it can have; None if there is no end of them."""
        if self.choice is not None:
            return self.choice
        return tuple(range(self.integers[0], self.integers[1] + 1, self.step)) if self.integers else None

    @property
    def ends(self) -> tuple[Any, ...]:
        """All of a choice, else the ends."""
        return self.choice or self.uniform or self.log_uniform or self.integers or ()

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that show whether the range is allowed: the ends, and one in between."""
        numbers = self.uniform or self.log_uniform
        return (*numbers, numbers[0] + 0.377 * (numbers[1] - numbers[0])) if numbers else self.ends

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the setting is varied next to these values of others."""
        return all(
            key in values and values[key] in (allowed if isinstance(allowed, list) else [allowed])
            for key, allowed in (self.when or {}).items()
        )


def _one_or_several(value: Any) -> Any:
    ranges = value if isinstance(value, list | tuple) else [value]
    if not ranges or not all(isinstance(one, dict | Dimension) for one in ranges):
        raise ValueError(f"should be a range, such as {{uniform: [low, high]}}, or a list of them (got {value!r:.60})")
    return ranges


Ranges = Annotated[tuple[Dimension, ...], BeforeValidator(_one_or_several)]


class Asha(Section):
    """When a trial is stopped: asynchronous successive halving (Li et al. 2020).

    After `min_epochs` epochs, and after each `reduction` times as many, a trial goes on only if its validation Dice is
    among the best 1/`reduction` of those that have come so far. Absent, `min_epochs` is the base experiment's first
    epoch without warm-up: earlier, trials are judged by how slowly they begin (experiments/asha.md).
    """

    min_epochs: Annotated[int, Field(ge=1)] | None = None
    reduction: Annotated[int, Field(ge=2)] = 3


class Pbt(Section):
    """Population-based training (Jaderberg et al. 2017), for `search: pbt`.

    `trials` networks are trained side by side. Every `every_epochs` epochs one of the worst `quantile` takes the
    weights of one of the best and goes on with that one's settings, changed a little; `resample` is how likely a
    setting is drawn anew instead.
    """

    every_epochs: Annotated[int, Field(ge=1)] = 2
    quantile: Annotated[float, Field(gt=0.0, le=0.5)] = 0.25
    resample: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25


class Sweep(Section):
    """A whole sweep file.

    `experiment`: the base, a file beside this one, or its sections themselves. `settings`: what is changed in it for
    all trials, by dotted key. `space`: the settings that are searched, each with its range or a list of them. `search`:
    `grid` (every combination), `random`, `tpe` (a tree-structured Parzen estimator: where good trials were, Bergstra et
    al. 2011) or `pbt`. `trials`: how many; of a grid, all if absent. `for_each`: a setting of the space for each value
    of which the best others are wanted: every value has as many trials, and is judged by itself. `stopping`: `asha` or
    `none`; `pbt` stops nobody. `concurrent`: how many trials are trained at a time; as many as the cluster has room for
    if absent. `finish`: what becomes of the trial with the best validation Dice: `continue` trains it to its last epoch
    where it was stopped, `retrain` trains its settings anew, each then tests it on the test patients, once, and
    registers it; `none` does neither.
    """

    name: Name
    description: str = ""
    experiment: Experiment
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]
    space: dict[str, Ranges]
    search: Literal["grid", "random", "tpe", "pbt"] = "tpe"
    trials: Annotated[int, Field(ge=1)] | None = None
    for_each: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    stopping: Literal["asha", "none"] = "asha"
    asha: Asha = Asha()
    pbt: Pbt = Pbt()
    concurrent: Annotated[int, Field(ge=1)] | None = None
    finish: Literal["continue", "retrain", "none"] = "continue"

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        if not self.space:
            raise ValueError("space: it is empty: name a setting to search, and its range")
        for key, ranges in self.space.items():
            if key.partition(".")[0] in FIXED:
                raise ValueError(f"space.{key}: {key.partition('.')[0]} is the same for all trials of a sweep")
            for dimension in ranges:
                self._check(key, dimension)
        chosen = self.space.get(self.for_each or "")
        if self.for_each and (chosen is None or len(chosen) > 1 or not chosen[0].steps or chosen[0].when):
            raise ValueError(f"for_each: {self.for_each} is no setting of the space with one choice, or integers")
        if len(self.ordered) < len(self.space):
            raise ValueError(
                f"space: conditions of {', '.join(sorted(self.space.keys() - self.ordered.keys()))} go in a circle"
            )
        if self.search != "grid" and self.trials is None:
            raise ValueError(f"trials: search: {self.search} needs their number")
        if self.search == "pbt" and (self.trials or 0) < 2:
            raise ValueError(f"trials ({self.trials}): search: pbt needs a population of 2 or more")
        if chosen and self.number < len(chosen[0].steps or ()):
            raise ValueError(f"trials ({self.number}): at least one for each value of {self.for_each}")
        if self.search == "pbt" and self.finish == "retrain":
            raise ValueError("finish: retrain: what search: pbt finds is no one value of a setting; take continue")
        if self.search == "pbt" and self.concurrent is not None:
            raise ValueError(
                "concurrent: search: pbt gives all trials their turn, as many at a time as there is room for"
            )
        return self

    def _check(self, key: str, dimension: Dimension) -> None:
        for other, allowed in (dimension.when or {}).items():
            if other not in self.space or other == key:
                raise ValueError(f"space.{key}.when: {other} is no other setting of the space")
            known = [one.steps for one in self.space[other]]
            possible = None if None in known else [value for steps in known for value in steps or ()]
            for value in allowed if isinstance(allowed, list) else [allowed]:
                if possible is not None and value not in possible:
                    raise ValueError(f"space.{key}.when: {other} is never {value!r}")
        if self.search == "grid" and dimension.steps is None:
            raise ValueError(f"space.{key}: search: grid takes choice or integers; numbers in between have no end")
        if self.search != "pbt":
            return
        if len(self.space[key]) > 1 or dimension.when or dimension.integers:
            raise ValueError(f"space.{key}: search: pbt takes one choice, uniform or log_uniform without `when`")
        if not key.startswith(TAUGHT):
            raise ValueError(
                f"space.{key}: search: pbt hands on weights in the middle of a training, where it can change "
                f"{', '.join(TAUGHT)} alone"
            )

    @property
    def first_rung(self) -> int:
        """After how many epochs ASHA judges a trial first."""
        training = self.experiment.training
        return min(self.asha.min_epochs or math.ceil(training.warmup_epochs) + 1, training.epochs)

    @property
    def number(self) -> int:
        """How many trials there are in all."""
        if self.search != "grid":
            return self.trials or 0
        return min(self.trials or math.inf, sum(1 for _ in self.grid()))  # type: ignore[return-value]

    @property
    def ordered(self) -> dict[str, tuple[Dimension, ...]]:
        """The space in the order of the file, but every setting behind those that its conditions name."""
        found: dict[str, tuple[Dimension, ...]] = {}
        for _ in self.space:
            for key, ranges in self.space.items():
                if key not in found and all(found.keys() >= (one.when or {}).keys() for one in ranges):
                    found[key] = ranges
        return found

    def group(self, values: Mapping[str, Any]) -> Any:
        """The value of `for_each` among a trial's, None if there is no such setting."""
        return values[self.for_each] if self.for_each else None

    def grid(self) -> Iterator[Values]:
        """Yield every combination of a space without numbers in between."""
        yield from _grid([*self.ordered.items()], {})

    def trial(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial with these values.

        Raises:
            InputError: They do not go together.
        """
        return with_values(self.experiment, values)

    def to_yaml(self) -> str:
        """The sweep as YAML with its experiment inside; `load_sweep` reads it back equal."""
        values = self.model_dump(mode="json", exclude={"experiment"}) | {"experiment": own(self.experiment)}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file and apply dotted overrides: of the sweep (`trials=8`) or its experiment (`training.epochs=5`).

    Raises:
        InputError: As `load`; and a setting of the space that an experiment does not have, or a range that it does not
            allow.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return parse_sweep(text, overrides, source=str(path), folder=path.parent)


def parse_sweep(text: str, overrides: Sequence[str] = (), source: str = "sweep", folder: Path = Path()) -> Sweep:
    """Check a sweep given as YAML text; `folder` is where its experiment file is looked for. See `load_sweep`."""
    values = read_yaml(text, source, "a sweep file is a mapping (name, experiment, space, ...)")
    own = [one for one in overrides if one.partition("=")[0].partition(".")[0] in Sweep.model_fields]
    for one in own:
        section = one.partition(".")[0]
        if section in ("space", "settings") and isinstance(values.setdefault(section, {}), dict):
            override(values[section], one.removeprefix(f"{section}."), whole=True)  # its keys have dots of their own
        else:
            override(values, one)
        if one.startswith("experiment="):  # typed by somebody, who is where he is
            folder = Path()
    others, base = [one for one in overrides if one not in own], values.get("experiment")
    if base is None:
        raise InputError(f"{source}: experiment: give the base experiment, a file beside the sweep's")
    settings = values.get("settings") or {}
    if not isinstance(settings, dict):
        raise InputError(f"{source}: settings: should be a mapping of dotted keys (got {settings!r:.60})")
    changes = [*(_as_override(key, value) for key, value in settings.items()), *others]
    if isinstance(base, dict):
        experiment = parse(yaml.safe_dump(base), changes, source=f"{source}: experiment")
    else:
        experiment = load(folder / str(base), changes)
    try:
        sweep = Sweep.model_validate(values | {"experiment": experiment})
    except ValidationError as error:
        raise InputError(f"{source}: {problem(error, Sweep)}") from None
    _check_space(sweep, source)
    return sweep


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """An experiment with other values of some settings, by dotted key; a whole section may be one.

    Raises:
        InputError: They do not go together.
    """
    text = yaml.safe_dump(own(experiment))
    return parse(text, [_as_override(key, value) for key, value in values.items()], source="trial")


def shown(value: Any) -> str:
    """A setting's value for people, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=1000).split("\n")[0]
    )


def counts(ranges: Sequence[Dimension], values: Mapping[str, Any]) -> int | None:
    """Which of a setting's ranges counts next to these values of others; None if none does."""
    return next((number for number, one in enumerate(ranges) if one.holds(values)), None)


def _check_space(sweep: Sweep, source: str) -> None:
    """Try every end of every range by itself, next to values that its conditions ask for."""
    for key, ranges in sweep.space.items():
        for dimension in ranges:
            beside: Values = {}
            _satisfy(sweep, dimension, beside)
            for value in dimension.samples:
                try:
                    sweep.trial(beside | {key: value})
                except InputError as error:
                    raise InputError(f"{source}: space.{key}: {str(error).partition(': ')[2]}") from None


def _satisfy(sweep: Sweep, dimension: Dimension, values: Values) -> None:
    for other, allowed in (dimension.when or {}).items():
        _satisfy(sweep, sweep.space[other][0], values)
        values[other] = allowed[0] if isinstance(allowed, list) else allowed


def _grid(left: list[tuple[str, tuple[Dimension, ...]]], values: Values) -> Iterator[Values]:
    if not left:
        yield values
        return
    (key, ranges), *rest = left
    which = counts(ranges, values)
    if which is None:
        yield from _grid(rest, values)
        return
    for value in ranges[which].steps or ():
        yield from _grid(rest, values | {key: value})


def own(experiment: Experiment) -> dict[str, Any]:
    """What was said of an experiment, without the defaults: another network has other keys."""
    return experiment.model_dump(mode="json", exclude_unset=True)


def _as_override(key: str, value: Any) -> str:
    return f"{key}={_flow(value)}"


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=100_000)
