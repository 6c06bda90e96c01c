"""An experiment file as a form: every key with what may stand there, from the schema, and what it means."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import yaml

from r2d2.config.experiment import Experiment
from r2d2.config.networks import NETWORKS
from r2d2.config.reading import override

Kind = Literal["whole", "number", "choice", "truth", "text", "yaml"]
TYPES: dict[str, Kind] = {"integer": "whole", "number": "number", "boolean": "truth", "string": "text"}
PLACES = ("cluster.address", "tracking.uri", "tracking.storage")
"""Where cluster and store are is the server's to say, and no experiment's that is made on a page."""


@dataclass(frozen=True)
class Setting:
    """A key of an experiment file.

    Attributes:
        key: With dots, `training.epochs`.
        section: The part of the file that it stands in, `training.augmentation`; empty at the top.
        kind: A whole number, a number, one of `choices`, yes or no, text; or whatever YAML says (lists, mappings).
        default: What counts where it is left out.
        choices: What it may be.
        least, most: Its bounds, if it has any; where `above` or `below` the bound itself is out.
        help: What the section's docstring says of it.
    """

    key: str
    section: str
    kind: Kind
    default: Any
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False
    help: str = ""

    def change(self, value: Any) -> str:
        """Its override, `training.epochs=5`, from what a form holds: text of YAML for `yaml`, else the value itself."""
        if self.kind == "yaml":
            return f"{self.key}={value}"
        return f"{self.key}={yaml.safe_dump(value, default_flow_style=True, width=100_000).splitlines()[0]}"


@cache
def settings(network: str = "dist-unet") -> tuple[Setting, ...]:
    """Every key of an experiment with such a network, in the order of the file."""
    schema = Experiment.model_json_schema()
    return tuple(one for one in _keys(schema, schema["$defs"], "", network) if one.key not in PLACES)


@cache
def about(network: str = "dist-unet") -> dict[str, str]:
    """What each section is for, by its dotted name: its docstring up to its first empty line."""
    schema = Experiment.model_json_schema()
    return dict(_sections(schema, schema["$defs"], "", network))


def as_file(changes: Sequence[str]) -> str:
    """The text of an experiment file that holds these overrides and nothing else.

    Raises:
        InputError: One is no override.
    """
    values: dict[str, Any] = {}
    for change in changes:
        override(values, change)
    ordered = {key: values[key] for key in Experiment.model_fields if key in values}
    return yaml.safe_dump(ordered | values, sort_keys=False, allow_unicode=True)


def _keys(section: Mapping[str, Any], known: Mapping[str, Any], prefix: str, network: str) -> Iterator[Setting]:
    told = _sentences(section.get("description", ""))
    for name, field in section["properties"].items():
        inner = _section(field, known, network)
        if inner is not None:
            yield from _keys(inner, known, f"{prefix}{name}.", network)
            continue
        yield _setting(f"{prefix}{name}", prefix.rstrip("."), field, told.get(name, ""))


def _sections(
    section: Mapping[str, Any], known: Mapping[str, Any], prefix: str, network: str
) -> Iterator[tuple[str, str]]:
    for name, field in section["properties"].items():
        inner = _section(field, known, network)
        if inner is not None:
            yield f"{prefix}{name}", " ".join(inner.get("description", "").split("\n\n")[0].split())
            yield from _sections(inner, known, f"{prefix}{name}.", network)


def _section(field: Mapping[str, Any], known: Mapping[str, Any], network: str) -> Mapping[str, Any] | None:
    """The section that a field is, also where it may be absent or is one of several; None if it is a value."""
    if "oneOf" in field:
        return known[NETWORKS[network].__name__]
    for one in (field, *field.get("anyOf", ())):
        if "$ref" in one:
            return known[one["$ref"].rpartition("/")[2]]
    return None


def _setting(key: str, section: str, field: Mapping[str, Any], told: str) -> Setting:
    kinds = [one for one in field.get("anyOf", [field]) if one.get("type") != "null"]
    texts = all(one.get("type") == "string" for one in kinds)
    if len(kinds) > 1 and not texts:
        return Setting(key, section, "yaml", field.get("default"), help=told)
    one = kinds[0]
    choices = tuple(str(choice) for choice in one.get("enum", ()))
    if "const" in one:
        choices = tuple(NETWORKS)
    kind: Kind = "choice" if choices else TYPES.get(one.get("type", ""), "yaml")
    return Setting(
        key,
        section,
        kind,
        field.get("default"),
        choices,
        one.get("minimum", one.get("exclusiveMinimum")),
        one.get("maximum", one.get("exclusiveMaximum")),
        "exclusiveMinimum" in one,
        "exclusiveMaximum" in one,
        told,
    )


def _sentences(docstring: str) -> dict[str, str]:
    """What a section's docstring says of each key: the sentences that begin with it or name it, in their order."""
    sentences = re.split(r"(?<=[.])\s+(?=[A-Z`])", " ".join(docstring.split()))
    found: dict[str, list[str]] = {}
    for sentence in sentences:
        for name in dict.fromkeys(re.findall(r"`([a-z_]+)`", sentence)):
            found.setdefault(name, []).append(sentence)
    return {name: " ".join(said) for name, said in found.items()}
