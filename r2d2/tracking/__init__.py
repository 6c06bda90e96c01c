"""MLflow: runs, what people read of them, and the model zoo. The only part of R2D2 that imports mlflow."""
