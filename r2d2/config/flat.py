"""An experiment as one list of dotted keys: what two differ in, and what a run's parameters are."""

from typing import Any

from r2d2.config.experiment import Experiment


def differences(left: Experiment, right: Experiment) -> list[str]:
    """The dotted keys in which two experiments differ."""
    a, b = _flat(left.model_dump(mode="json")), _flat(right.model_dump(mode="json"))
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def parameters(experiment: Experiment) -> dict[str, str]:
    """Every setting of an experiment by its dotted key, as text; what a run's parameters are."""
    return {key: str(value) for key, value in _flat(experiment.model_dump(mode="json")).items()}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
