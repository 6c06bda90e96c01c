"""A real MLflow server that can go away and come back."""

import contextlib
import os
import socket
import subprocess
import sys
import urllib.request

from helpers.processes import end, wait_for


class Server:
    """An MLflow server on a free port of this machine; its store and files are in a folder."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--workers", "1"]
        files = ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*command, *store, *files],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # six processes that wait for jobs
            )
        wait_for(self._answers, 90, self._process)

    def kill(self):
        end(self._process)

    def _answers(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer:
            return answer.status == 200
