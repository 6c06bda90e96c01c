"""A scaling study: one experiment at several numbers of workers, by several rules for its rate, several times over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from r2d2.config.experiment import Experiment
from r2d2.config.reading import parse, problem, read_yaml
from r2d2.config.section import Section
from r2d2.config.sweep import Values, own, with_values
from r2d2.errors import InputError

FILE = "file"
"""The rule that leaves the recipe as it is in the file."""
RULES: dict[str, Values] = {
    "none": {"training.scaling": "none"},
    "linear": {"training.scaling": "linear"},
    "sqrt": {"training.scaling": "sqrt"},
    "lars": {"training.optimizer": "lars", "training.scaling": "linear"},
    "lamb": {"training.optimizer": "lamb", "training.scaling": "sqrt"},
    "same-updates": {"training.updates": "same-updates", "training.scaling": "linear"},
    "warm-up": {},
}
"""What a rule changes. Several are put together, `same-updates+sqrt+warm-up`, a later one's word being the last; with
`:RATE` behind them the base rate is another. `lars` and `lamb` as their authors scale them (You et al. 2017, 2020).
`warm-up` is the file's, in the share of the updates that it has at one worker where these are as many; rules without it
have none."""
NO_WARM_UP: Values = {"training.warmup_epochs": 0.0, "training.warmup_steps": None}
ALIKE_ALONE = ("training.scaling", "training.updates")
"""What makes no difference to one worker; nor does a warm-up that climbs from the base rate."""

Counts = tuple[Annotated[int, Field(ge=1)], ...]


@dataclass(frozen=True)
class Child:
    """One run of a study.

    Attributes:
        number: From 0.
        workers: How many, `virtual` or real.
        rules: Whose run it is: with one worker, rules that scale the same optimizer and rate are alike.
        repeat: From 0; its seed is the base seed and that, so that rules and workers are compared seed by seed.
        values: What it changes of the base experiment, by dotted key.
    """

    number: int
    workers: int
    virtual: bool
    rules: tuple[str, ...]
    repeat: int
    values: Values


class Study(Section):
    """A whole study.

    `workers`: numbers of real workers; their time is measured, and they are trained one at a time. `virtual`: numbers
    of logical workers whose updates one real worker makes; they tell of the scores alone. `rules`: see RULES.
    `repeats`: how many seeds.
    """

    experiment: Experiment
    workers: Counts = ()
    virtual: Counts = ()
    rules: Annotated[tuple[str, ...], Field(min_length=1)] = (FILE,)
    repeats: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Study":
        if not (self.workers or self.virtual):
            raise ValueError("workers: give numbers of workers, or virtual ones")
        every = [*self.workers, *self.virtual]
        if twice := sorted({count for count in every if every.count(count) > 1}):
            raise ValueError(f"workers: {twice[0]} is there twice")
        if len(set(self.rules)) < len(self.rules):
            raise ValueError("rules: one is there twice")
        for rule in self.rules:
            rule_values(rule, self.experiment)
        return self

    @property
    def name(self) -> str:
        """What its runs are called by."""
        return f"{self.experiment.name}-scale"

    @property
    def least(self) -> int:
        """The number of workers that the others are compared with."""
        return min((*self.workers, *self.virtual))

    def children(self) -> list[Child]:
        """Every run, in the order in which they are trained: real workers first.

        These go by repeats, so that what is compared in time is measured in turn.
        """
        found: list[Child] = []
        from_base = self.experiment.training.warmup_from == "base"
        alike_alone = (*ALIKE_ALONE, *(NO_WARM_UP if from_base else ()))
        for virtual, counts in ((False, self.workers), (True, self.virtual)):
            for repeat in range(self.repeats):
                for count in counts:
                    alike: dict[str, tuple[Values, list[str]]] = {}
                    for rule in self.rules:
                        values = rule_values(rule, self.experiment)
                        kept = {key: value for key, value in values.items() if count > 1 or key not in alike_alone}
                        alike.setdefault(str(sorted(kept.items())), (values, []))[1].append(rule)
                    for values, rules in alike.values():
                        changed = values | self._place(count, virtual, values, repeat)
                        found.append(Child(len(found), count, virtual, tuple(rules), repeat, changed))
        return found

    def of(self, child: Child) -> Experiment:
        """A run's experiment.

        Raises:
            InputError: Its settings do not go together.
        """
        return with_values(self.experiment, child.values)

    def to_yaml(self) -> str:
        """The study as YAML with its experiment inside; `parse_study` reads it back equal."""
        values = self.model_dump(mode="json", exclude={"experiment"}) | {"experiment": own(self.experiment)}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def _place(self, count: int, virtual: bool, values: Values, repeat: int) -> Values:
        training = self.experiment.training
        longer = count if values.get("training.updates", training.updates) == "same-updates" else 1
        return {
            "cluster.workers": 1 if virtual else count,
            "cluster.min_workers": None,
            "training.virtual_workers": count if virtual else None,
            "training.seed": training.seed + repeat,
            # After as many updates: more validations are more time, and more chances to be lucky.
            "evaluation.every_epochs": longer * self.experiment.evaluation.every_epochs,
            # For the same share of the updates: the epochs of so many workers have fewer of them each.
            "training.warmup_epochs": longer * values.get("training.warmup_epochs", training.warmup_epochs),
        }


def rule_values(rule: str, experiment: Experiment) -> Values:
    """What a rule changes of an experiment.

    Raises:
        InputError: There is none of this name, or it lacks what it needs.
    """
    names, _, rate = rule.partition(":")
    values: Values = {}
    if rate:
        try:
            values["training.learning_rate"] = float(rate)
        except ValueError:
            raise InputError(f"rules: {rule}: {rate!r} is no base rate") from None
        if not 0 < values["training.learning_rate"] < float("inf"):
            raise InputError(f"rules: {rule}: a base rate is > 0")
    if names == FILE:
        return values
    parts = names.split("+")
    for part in parts:
        if part not in RULES:
            raise InputError(f"rules: {rule}: no rule {part!r}; there are {', '.join((FILE, *RULES))}, and A+B, A:RATE")
        values |= RULES[part]
    training = experiment.training
    if "warm-up" not in parts:
        values |= NO_WARM_UP
    elif not (training.warmup_steps if training.warmup_steps is not None else training.warmup_epochs):
        raise InputError(f"rules: {rule}: the file has no warm-up; set training.warmup_epochs or warmup_steps")
    if not rate and values.get("training.optimizer", training.optimizer) != training.optimizer:
        raise InputError(f"rules: {rule}: {training.optimizer}'s base rate is not its own; give it, {rule}:RATE")
    return values


def study(
    experiment: Experiment, workers: Sequence[int], virtual: Sequence[int], rules: Sequence[str], repeats: int
) -> Study:
    """A checked study.

    Raises:
        InputError: Something is wrong with it, or with one of its runs.
    """
    values: dict[str, Any] = {"workers": workers, "virtual": virtual, "rules": rules or (FILE,), "repeats": repeats}
    try:
        made = Study.model_validate(values | {"experiment": experiment})
    except ValidationError as error:
        raise InputError(f"scale: {problem(error, Study)}") from None
    for child in made.children():
        try:
            made.of(child)
        except InputError as error:
            told = str(error).partition(": ")[2]
            raise InputError(f"scale: {child.workers} workers, rule {child.rules[0]}: {told}") from None
    return made


def parse_study(text: str, source: str) -> Study:
    """A study from what `to_yaml` gave; `source` is what errors call it."""
    values = read_yaml(text, source, "a study is a mapping (experiment, workers, ...)")
    experiment = parse(yaml.safe_dump(values["experiment"]), source=f"{source}: experiment")
    return Study.model_validate(values | {"experiment": experiment})
