"""The zoo: publish a model, show it, take it away as a package, bring one in."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2d2 import config
from r2d2.console import say
from r2d2.engine.models import parents
from r2d2.engine.prepare import described, prepare
from r2d2.errors import InputError


@dataclass(frozen=True)
class Shown:
    """A version with all that is known of it: its card, every event of its model's aliases, its last judgements.

    `changed` says what of its files is not as they were written, and is empty if all are. Where this machine does not
    see them its card alone is looked at: the network is not copied for it.
    """

    model: str
    aliases: tuple[str, ...]
    run_id: str
    card: dict[str, Any]
    text: str
    history: dict[str, list[dict[str, Any]]]
    judgements: dict[str, dict[str, Any]]
    changed: str


def publish(source: str, experiment: config.Experiment | None = None, name: str | None = None) -> str:
    """Register a model.

    Args:
        source: A run's id or name; or a `.keras` file, which is tested on the experiment's test patients first.
        experiment: Of a `.keras` file: what it was made from.
        name: In the registry; absent, the experiment's.

    Returns:
        `name/version`.

    Raises:
        InputError: No such run or file, a network that does not fit its experiment or needs code to be trusted, or a
            name that the registry does not take.
    """
    if name is not None:
        _check_name(name)
    if source.endswith(".keras"):
        if experiment is None:
            raise InputError(f"{source}: publish a file with its experiment: --experiment FILE.yaml")
        return _publish_file(Path(source), experiment, name or experiment.registered_name)
    from r2d2.tracking import card as cards
    from r2d2.tracking import package, runs, store, zoo

    client = store.connect(store.resolve())
    run = runs.find(client, source)
    name = name or runs.read_experiment(run).registered_name
    folder = zoo.fetch(client, zoo.version_of_run(client, run.run_id).reference)
    if any(version.run_id == run.run_id for version in zoo.list_versions(client, name)):
        say("It is in the registry already, by this name")
    return "{}/{}".format(*zoo.register(client, folder, name, run.run_id, cards.tags(package.verify(folder))))


def show(model: str) -> Shown:
    """All that the registry knows of a model, by `name@alias` or `name/version`.

    Raises:
        InputError: No such model.
    """
    from r2d2.tracking import card as cards
    from r2d2.tracking import package, promotion, store, zoo

    client = store.connect(store.resolve())
    found = zoo.get(client, model)
    content = zoo.read(client, found.reference, package.CARD)
    card = package.read_card(content, found.reference)
    changed, folder = "", zoo.kept_here(client, found)
    try:
        if folder is not None:
            package.verify(folder)
        else:
            package.check_card(content, zoo.read(client, found.reference, package.SUMS), found.reference)
    except InputError as error:
        changed = str(error).replace(str(folder or found.reference), found.reference)
    tags = client.get_model_version(found.name, str(found.version)).tags
    holders = {alias for version in zoo.list_versions(client, found.name) for alias in version.aliases}
    trails = {alias: promotion.history(client, found.name, alias) for alias in sorted(holders)}
    return Shown(
        found.reference,
        found.aliases,
        found.run_id,
        card,
        cards.text(card),
        {alias: trail for alias, trail in trails.items() if trail},
        promotion.judgements(tags),
        changed,
    )


def pull(model: str, output: Path) -> Path:
    """Write a registered model as a package: a new folder, or a file whose name ends in `.zip`.

    Raises:
        InputError: No such model, or the place is taken.
    """
    from r2d2.tracking import package, store, zoo

    package.save(zoo.fetch(store.connect(store.resolve()), model), output)
    return output


def packed(model: str) -> bytes:
    """A registered model as the content of the zip that `pull` writes.

    Raises:
        InputError: No such model.
    """
    with tempfile.TemporaryDirectory(prefix="r2d2-package-") as folder:
        return pull(model, Path(folder) / "package.zip").read_bytes()


def push(path: Path, name: str | None = None) -> str:
    """Register a package that was pulled from a zoo, this one or another.

    Args:
        path: A folder or a zip.
        name: In the registry; absent, the one on its card.

    Returns:
        `name/version`.

    Raises:
        InputError: No package, one that was changed, or a network that needs code to be trusted.
    """
    from r2d2.engine.doctor import require
    from r2d2.tracking import card as cards
    from r2d2.tracking import package, runs, store, zoo

    with package.opened(path) as (folder, card):
        name = name or str(card.get("name"))
        _check_name(name)
        require("tensorflow")
        from r2d2.inference import load

        load(folder)  # it must be one that can be used, and safely
        client = store.connect(store.resolve())
        experiment_id = runs.experiment_id(client, name)
        tags = {"r2d2.pushed": path.name, "r2d2.origin": str(card["lineage"]["run"])}
        run_id = client.create_run(experiment_id, run_name=f"{name}-pushed", tags=tags).info.run_id
        with _closing(client, run_id):
            registered = zoo.register(client, folder, name, run_id, cards.tags(card))
    return "{}/{}".format(*registered)


def _publish_file(path: Path, experiment: config.Experiment, name: str) -> str:
    """Test a `.keras` file on its experiment's test patients, and register it with a run of its own."""
    from r2d2.engine.doctor import require

    require("tensorflow")
    from r2d2.cluster.handover import MODEL, write_model
    from r2d2.inference import Predictor, read_network, tallied
    from r2d2.models.precision import choose, with_precision
    from r2d2.tracking import runs, store, zoo
    from r2d2.tracking.card import lineage

    network = read_network(path)
    prepared, split = prepare(experiment)
    has = (network.input_shape[-1], network.output_shape[-1])
    wanted = (len(prepared.channels), len(prepared.labels))
    if has != wanted:
        raise InputError(
            f"{path}: {has[0]} channels in and {has[1]} classes out; "
            f"the experiment's data has {wanted[0]} and {wanted[1]}"
        )
    predictor = Predictor(with_precision(network, choose(experiment.training.precision)), experiment.preprocess)
    cases = prepared.select(split["test"])
    tally = tallied(prepared, cases, predictor.confusions(prepared, cases))
    parents_of = parents(experiment)
    client = store.connect(store.resolve(experiment.tracking.uri))
    run = runs.create(client, experiment, described(prepared, split, parents_of))
    origin = lineage(run.run_id, prepared.key, runs.git_commit(), runs.versions())
    with _closing(client, run.run_id), tempfile.TemporaryDirectory() as folder:
        for key, value in tally.means().items():
            client.log_metric(run.run_id, f"test/{key}", value)
        client.set_tag(run.run_id, runs.REASON_TAG, f"published from {path.name}")
        made = Path(folder) / MODEL
        tags = write_model(made, experiment, prepared, split, parents_of, network, tally, origin)
        registered = zoo.register(client, made, name, run.run_id, tags)
    return "{}/{}".format(*registered)


@contextlib.contextmanager
def _closing(client: Any, run_id: str) -> Iterator[None]:
    """Close a run at the end of the block, as failed if that raises."""
    try:
        yield
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id)


def _check_name(name: str) -> None:
    from pydantic import TypeAdapter, ValidationError

    try:
        TypeAdapter(config.Name).validate_python(name)
    except ValidationError:
        rule = "letters, digits, '.', '_' and '-', a letter or digit first"
        raise InputError(f"model name {name!r:.110}: {rule}") from None
