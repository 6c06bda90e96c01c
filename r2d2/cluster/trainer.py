"""Train under Ray: place the workers with HorovodTrainer, follow their epochs, restart what dies."""

import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.base_trainer import TrainingFailedError
from ray.train.horovod import HorovodTrainer
from ray.tune import Callback

from r2d2.cluster.placement import Placement
from r2d2.cluster.worker import Task, work

Row = dict[str, float]


class TrainingFailed(RuntimeError):  # noqa: N818
    """The workers failed more often than the experiment allows: the last cause in one line, and its traceback."""

    def __init__(self, cause: str, traceback: str) -> None:
        super().__init__(cause)
        self.traceback = traceback


def fit(
    task: Task,
    placement: Placement,
    max_restarts: int,
    on_epoch: Callable[[Row], None],
    on_restart: Callable[[str, str], None],
) -> dict[str, Any]:
    """Run the workers to the end of the training.

    Args:
        task: What every worker does.
        placement: How many there are and what each one gets.
        max_restarts: How often the run may lose a worker.
        on_epoch: Called here with the metrics of every epoch.
        on_restart: Called here with the cause, in one line and as a traceback, when the workers are started again.

    Returns:
        What rank 0 reported last.

    Raises:
        TrainingFailed: A worker failed once too often.
    """
    # What went wrong is told by `on_restart` and by the error raised here, once.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    trainer = HorovodTrainer(
        work,
        train_loop_config=asdict(task),
        scaling_config=ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpus_per_worker > 0,
            resources_per_worker={"CPU": placement.cpus_per_worker, "GPU": placement.gpus_per_worker},
            # The trainer itself only waits; a CPU for it would leave two workers on two cores waiting for ever.
            trainer_resources={"CPU": 0},
        ),
        run_config=RunConfig(
            name=task.run_id,
            storage_path=str(Path(task.run_folder).parent.parent / "ray"),
            failure_config=FailureConfig(max_failures=max_restarts),
            callbacks=[_Follow(on_epoch, on_restart)],
            verbose=0,
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        text = str(error.__cause__ or error)
        raise TrainingFailed(cause(text), text) from error
    return result.metrics or {}


class _Follow(Callback):
    """Hands Tune's events on."""

    def __init__(self, on_epoch: Callable[[Row], None], on_restart: Callable[[str, str], None]) -> None:
        self.on_epoch = on_epoch
        self.on_restart = on_restart

    def __getstate__(self) -> dict:
        """Nothing: Ray copies the whole run configuration to the trainer's process, where nobody is told anything."""
        return {}

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:  # noqa: ARG002
        self.on_epoch(result)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:  # noqa: ARG002
        text = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
        self.on_restart(cause(text), text)


def cause(text: str) -> str:
    """The last error that a traceback names, in one line."""
    named = re.findall(
        r"^(?:\w+\.)*(\w*(?:Error|Exception|Superseded|Interrupt)\w*)(?:\([\w.]*\))?: *(.*)$", text, re.M
    )
    if named:
        return f"{named[-1][0]}: {named[-1][1]}"[:500]
    return (text.strip().splitlines() or ["no message"])[-1][:500]
