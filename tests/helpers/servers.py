"""A real MLflow server that can go away and come back."""

import contextlib
import http.client
import http.server
import os
import socket
import subprocess
import sys
import threading
import urllib.request

from helpers.processes import end, wait_for
from helpers.stores import furnish


def answers(address):
    """Whether somebody answers there, and is well."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=2) as answer:
        return answer.status == 200
    return False


class Counted:
    """A proxy in front of a server that counts the requests by their path."""

    def __init__(self, port):
        counted, self.paths = self, []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer's body waits 40 ms for its head to be acknowledged

            def do_GET(self):
                counted.paths.append(self.path.partition("?")[0])
                length = int(self.headers.get("Content-Length") or 0)
                there = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                try:
                    there.request(self.command, self.path, self.rfile.read(length), dict(self.headers))
                    answer = there.getresponse()
                    body = answer.read()
                except OSError:
                    self.close_connection = True
                    self.send_error(502)
                    return
                finally:
                    there.close()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PATCH = do_PUT = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Server:
    """An MLflow server on a free port of this machine; its store and files are in a folder."""

    def __init__(self, folder):
        self.folder = folder
        furnish(folder)
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
        wait_for(lambda: answers(f"{self.address}/health"), 90, self._process)

    def kill(self):
        end(self._process)
