"""The model zoo."""

from r2d2.cli.common import Json, answer, zoo_app
from r2d2.console import command


@zoo_app.command("list")
def zoo_list(as_json: Json = False) -> None:
    """Every version of every registered model."""
    from r2d2.tracking import queries

    versions = queries.list_models()
    if as_json:
        answer(versions)
        return
    if not versions:
        print(f"No models yet. Next: {command()} demo")
    for version in versions:
        aliases = " ".join(f"@{alias}" for alias in version.aliases)
        print(f"{version.name}/{version.version:<4} {aliases:<24} run {version.run_id}")
