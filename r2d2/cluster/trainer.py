"""Train under Ray: place the workers with HorovodTrainer, follow their epochs, restart what dies."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.base_trainer import TrainingFailedError
from ray.train.horovod import HorovodTrainer
from ray.tune import Callback

from r2d2.cluster.services import Placement
from r2d2.cluster.worker import Task, work

Row = dict[str, float]


class TrainingFailed(RuntimeError):  # noqa: N818
    """The workers failed more often than the experiment allows; the message is the last cause."""


def fit(
    task: Task,
    placement: Placement,
    max_restarts: int,
    on_epoch: Callable[[Row], None],
    on_restart: Callable[[str], None],
) -> dict[str, Any]:
    """Run the workers to the end of the training.

    Args:
        task: What every worker does.
        placement: How many there are and what each one gets.
        max_restarts: How often the run may lose a worker.
        on_epoch: Called here with the metrics of every epoch.
        on_restart: Called here with the cause when the workers are started again.

    Returns:
        What rank 0 reported last.

    Raises:
        TrainingFailed: A worker failed once too often.
    """
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
        raise TrainingFailed(_cause(error)) from error
    return result.metrics or {}


class _Follow(Callback):
    """Hands Tune's events on."""

    def __init__(self, on_epoch: Callable[[Row], None], on_restart: Callable[[str], None]) -> None:
        self.on_epoch = on_epoch
        self.on_restart = on_restart

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:  # noqa: ARG002
        self.on_epoch(result)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.on_restart(_cause(trial.get_error()))


def _cause(error: BaseException | None) -> str:
    """The innermost cause of what Ray raised, in one line."""
    while error is not None and (inner := getattr(error, "cause", None) or error.__cause__) is not None:
        error = inner
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"[:500]
