"""Reading an experiment file: YAML, dotted overrides, one line about the first thing that is wrong."""

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from r2d2.config.experiment import Experiment
from r2d2.config.networks import NETWORKS
from r2d2.errors import InputError

LONGEST = 10_000
"""Characters of an override's value."""


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Experiment:
    """Read an experiment file and apply dotted overrides.

    Args:
        path: A YAML file.
        overrides: `section.key=value`, the value read as YAML, e.g. `training.epochs=5` or
            `preprocess.image_size=[128, 128]`.

    Returns:
        The checked experiment. Relative paths in it start from the working folder.

    Raises:
        InputError: The file is missing or no YAML, a key is unknown (the nearest are named), or a value is out of its
            range or type.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return parse(text, overrides, source=str(path))


def parse(text: str, overrides: list[str] | tuple[str, ...] = (), source: str = "experiment") -> Experiment:
    """Check an experiment given as YAML text; `source` is what errors call it. See `load`."""
    values = read_yaml(text, source, "an experiment file is a mapping of sections (name, data, ...)")
    for change in overrides:
        override(values, change)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {problem(error)}") from None


def read_yaml(text: str, source: str, rule: str) -> dict[str, Any]:
    """The mapping that YAML text holds; `rule` is what an error says of anything else."""
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise InputError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise InputError(f"{source}: its sections lie too deep in each other") from None
    if not isinstance(values, dict):
        raise InputError(f"{source}: {rule}, not {values!r:.40}")
    return values


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which here refuses a key given twice instead of taking the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (place, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1 and key != "<<":
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} is given twice", problem_mark=place.start_mark)
        return super().construct_mapping(node, deep)


def read_value(text: str) -> Any:
    """The value that a line of YAML holds, as in an override or in a page's address.

    Raises:
        ValueError: It is no YAML, nested too deep, longer than `LONGEST`, or has aliases: a line of these can stand for
            more than memory holds.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, more than {LONGEST}")
    try:
        return yaml.load(text, _Line)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


class _Line(yaml.SafeLoader):
    """YAML's safe loader without aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias")
        return super().compose_node(parent, index)


def override(values: dict[str, Any], override: str, whole: bool = False) -> None:
    """Change a value by `section.key=value`, the value read as YAML; `whole`: the dots are part of one key."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r}: write it as section.key=value, e.g. training.epochs=5")
    try:
        value = read_value(text)
    except ValueError:
        raise InputError(f"override {override!r:.200}: the value is not YAML") from None
    *parents, last = [key] if whole else key.split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        if inner is None:
            inner = place[parent] = {}
        if not isinstance(inner, dict):
            raise InputError(f"override {override!r}: {parent} is a value, not a section")
        place = inner
    place[last] = value


SAID = {
    "tuple_type": "should be a list of values, like [1, 2]",
    "string_pattern_mismatch": "should begin with a letter or a digit, and have only these, `.`, `_` and `-`",
}
"""What pydantic says in a programmer's words, by its name for it."""


def problem(error: ValidationError, section: type[BaseModel] = Experiment) -> str:
    """What is wrong with a file of this kind, in one line."""
    problems = error.errors(include_url=False)
    # An unknown key explains a missing one, so it comes first.
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    network = next((part for part in first["loc"] if part in NETWORKS), None)
    parts = [str(part) for part in first["loc"] if part not in NETWORKS]
    where = ".".join(part for part in parts if not part.startswith(("function-", "constrained-")))
    if first["type"] == "extra_forbidden":
        known = _known_keys(NETWORKS[str(network)], "model.") if network else _known_keys(section)
        same_name = [key for key in known if key.split(".")[-1] == where.split(".")[-1]]
        nearest = list(dict.fromkeys([*same_name, *difflib.get_close_matches(where, known, n=3, cutoff=0.5)]))[:3]
        text = f"{where}: unknown key" + (f" of {network}" if network else "")
        text += f"; the nearest known: {', '.join(nearest)}" if nearest else ""
    elif first["type"] == "union_tag_invalid":
        expected = " or ".join(repr(name) for name in NETWORKS)
        text = f"{where}.network: should be {expected} (got {first['ctx']['tag']!r:.60})"
    else:
        message = SAID.get(first["type"], first["msg"]).removeprefix("Value error, ")
        given = "" if first["type"] in ("missing", "value_error") else f" (got {first['input']!r:.60})"
        text = f"{where}: {message[0].lower()}{message[1:]}{given}" if where else message
    text = " ".join(text.split())
    return text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"


def _known_keys(section: type[BaseModel] = Experiment, prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(f"{prefix}{name}")
        # The section itself, also where it may be absent (`Section | None`) or one of several with tags.
        for kind in (field.annotation, *(getattr(kind, "__origin__", kind) for kind in get_args(field.annotation))):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys += _known_keys(kind, f"{prefix}{name}.")
    return keys
