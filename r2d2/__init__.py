"""R2D2: from raw medical scans to an evaluated, registered segmentation model.

Importing this package loads nothing heavy. It sets the defaults that the heavy packages read from the environment
when they are imported later, here and in every process that Ray starts; a value that the user has set stays.
"""

import os

__version__ = "0.1.0"

ENVIRONMENT = {
    # HorovodTrainer lives in Ray Train V1; both must be set before ray.train is first imported, in every process.
    "RAY_TRAIN_V2_ENABLED": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # A scan's whereabouts are nobody's business: nothing calls home.
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Standard output belongs to the command's answer.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # R2D2 shows its own progress, and on standard error one line where the input was wrong.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Ray's workers step back behind everything else by default (15): training is what the machine is there for.
    "RAY_worker_niceness": "0",
    # Who takes no GPU sees none, and computes on the processor.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Ray's own tables and warnings; R2D2 shows the progress.
    "RAY_AIR_NEW_OUTPUT": "0",
    # MLflow has what Tune would write for TensorBoard, as CSV and as JSON.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C is answered by R2D2: the workers leave with a checkpoint.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Defaults for the environment of every R2D2 process."""

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
