"""Small models as the zoo keeps them."""

from r2d2 import config, models
from r2d2.segeval import Tally
from r2d2.tracking import card as cards
from r2d2.tracking import package

LABELS = {0: "background", 1: "lesion"}


def network():
    return models.build(config.DistUNet(filters=1, depth=1), 1, 2, (8, 8))


def experiment(folder, model="{filters: 1, depth: 1}"):
    return config.parse(
        f"""
        name: heart
        data: {{path: {folder}}}
        preprocess: {{image_size: [8, 8]}}
        model: {model}
        tracking: {{storage: {folder}}}
        """
    )


def metadata(folder, training=(), parents=()):
    """What is saved beside a network: the scans it was trained on, by name, and where it comes from."""
    return {
        "experiment": experiment(folder).to_yaml(),
        "labels": {str(value): name for value, name in LABELS.items()},
        "channels": ["T1w"],
        "split": {"training": [*training], "validation": [], "test": []},
        "contents": {name: f"hash of {name}" for name in training},
        "parents": [*parents],
    }


def write_package(folder, run_id="0", keras_model=None, **known):
    """A package without test patients."""
    known = metadata(folder.parent, **known)
    origin = cards.lineage(run_id, "0", "none", {"keras": "3"})
    settings = experiment(folder.parent)
    card = cards.make(settings, known, Tally(LABELS), None, "", 5, origin)
    package.write(folder, keras_model or network(), {"r2d2": known}, run_id, settings.to_yaml(), card, [])
    return card
