"""What people call a model, resolved to a folder on this machine."""

from pathlib import Path

from r2d2.errors import InputError


def resolve(model: str) -> Path:
    """The local folder of a model.

    Args:
        model: `name@alias`, `name/version`, a run's id or name, or a folder.

    Raises:
        InputError: There is no such model; the known ones are listed.
    """
    if (Path(model) / "MLmodel").exists():
        return Path(model)
    if model.startswith((".", "/")):
        raise InputError(f"{model}: no model here (a model's folder holds MLmodel and data/model.keras)")

    from r2d2.tracking import runs, store, zoo

    client = store.connect(store.resolve())
    if "@" in model or "/" in model:
        return zoo.fetch(client, model)
    try:
        run = runs.find(client, model)
    except InputError:
        known = [
            f"{v.name}/{v.version}" + "".join(f" @{alias}" for alias in v.aliases) for v in zoo.list_versions(client)
        ]
        raise InputError(
            f"model {model!r}: no folder, run or registered model of that name (write name@alias or name/version); "
            f"the registry has: {', '.join(known) or 'none yet'}"
        ) from None
    return zoo.fetch_of_run(client, run.run_id)
