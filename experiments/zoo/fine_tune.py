"""Does brain extraction learn faster from brain tissue's network than from nothing? Epochs to the same Dice, by seed.

    python experiments/zoo/build.py brain-tissue brain-extraction
    python experiments/zoo/fine_tune.py

trains experiments/zoo/brain_extraction.yaml on few heads, at a constant rate, validating after every epoch, with
`start_from: zoo:brain-tissue@champion` and without, in turn, three seeds each. The record goes to `fine_tune.md` and
`fine_tune.png` beside this file.
"""

import statistics
from datetime import date
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt

from r2d2 import config
from r2d2.engine.models import resolve
from r2d2.engine.train import train
from r2d2.tracking import store

HERE = Path(__file__).parent
PARENT = "brain-tissue@champion"
SEEDS, HEADS, EPOCHS = 3, 3, 10
LEVELS = (0.5, 0.8, 0.9)


def main() -> None:
    """Train all, print and write the record."""
    resolve(PARENT)  # before an hour is spent
    curves: dict[str, list[list[float]]] = {"from scratch": [], f"from {PARENT}": []}
    for seed in range(SEEDS):
        for name, found in curves.items():
            found.append(curve(seed, None if name == "from scratch" else f"zoo:{PARENT}"))
            print(seed, name, " ".join(f"{dice:.3f}" for dice in found[-1]), flush=True)
    (HERE / "fine_tune.md").write_text(text := record(curves))
    draw(curves)
    print(text)


def curve(seed: int, start_from: str | None) -> list[float]:
    """The validation Dice after every epoch."""
    heads = [f"head_{number:03d}" for number in range(1, 31)]
    first = HEADS * seed
    split = {"training": heads[first : first + HEADS], "validation": heads[20:24], "test": heads[24:26]}
    settings = [
        f"data.path={config.home() / 'zoo' / 'brain-extraction'}",
        f"data.split={split}",
        f"training.seed={seed}",
        f"training.epochs={EPOCHS}",
        "training.decay=constant",
        "evaluation={every_epochs: 1, overlays: 0}",
        "tracking.model_name=fine-tuned",
        *([f"start_from={start_from}"] if start_from else []),
    ]
    result = train(config.load(HERE / "brain_extraction.yaml", settings))
    client = store.connect(store.resolve())
    history = sorted(client.get_metric_history(result.run_id, "val/dice"), key=lambda metric: metric.step)
    return [metric.value for metric in history]


def epochs_to(curve: list[float], level: float) -> float:
    """The first epoch with so much Dice; infinite if there is none."""
    return next((epoch for epoch, dice in enumerate(curve, start=1) if dice >= level), float("inf"))


def record(curves: dict[str, list[list[float]]]) -> str:
    """The page."""
    lines = [
        f"# Brain extraction from brain tissue's network, {date.today()}",
        "",
        f"`python experiments/zoo/fine_tune.py`: {HEADS} training heads, others with each of {SEEDS} seeds; Dice of 4",
        "validation heads after every epoch, constant rate. Virtual heads of one person; nothing follows for people.",
        "",
        f"| start | seed | {' | '.join(f'epochs to {level:g}' for level in LEVELS)} | Dice after each epoch |",
        f"|---|---|{'---|' * len(LEVELS)}---|",
    ]
    for name, found in curves.items():
        for seed, one in enumerate(found):
            reached = (f"{epochs_to(one, level):g}".replace("inf", "never") for level in LEVELS)
            lines.append(f"| {name} | {seed} | {' | '.join(reached)} | {' '.join(f'{dice:.3f}' for dice in one)} |")
    lines.append("")
    for level in LEVELS:
        middle = [statistics.median(epochs_to(one, level) for one in found) for found in curves.values()]
        scratch, tuned = (
            "never" if epochs == float("inf") else f"{epochs:g} epoch{'s' * (epochs != 1)}" for epochs in middle
        )
        lines.append(f"- Dice {level:g}, median of the seeds: from scratch {scratch}, fine-tuned {tuned}.")
    return "\n".join([*lines, "", "![curves](fine_tune.png)", ""])


def draw(curves: dict[str, list[list[float]]]) -> None:
    """The curves as a picture."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for colour, (name, found) in zip(("tab:gray", "tab:blue"), curves.items(), strict=True):
        for number, one in enumerate(found):
            axes.plot(range(1, len(one) + 1), one, color=colour, label=name if number == 0 else None)
    axes.set(xlabel="epoch", ylabel="validation Dice", ylim=(0.7, 1), title="Brain extraction, three training heads")
    axes.legend(loc="lower right")
    figure.savefig(HERE / "fine_tune.png", dpi=110)


if __name__ == "__main__":
    main()
