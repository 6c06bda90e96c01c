"""Two hosts on this machine: network namespaces with a link each, a Ray cluster over them, an MLflow server outside.

Used by the tests and by `experiments/soak.py`. What the hosts share lies in a folder outside /tmp, of which each host
has one of its own.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
from filelock import FileLock
from helpers.servers import answers

BIN = Path(sys.executable).parent
SCRIPT = Path(__file__).parents[2] / "infra" / "several_hosts.sh"
LOCK = "/var/tmp/r2d2-hosts.lock"
"""Held as long as the hosts are there: their names exist once on a machine."""
HEAD, OUTSIDE, LINK = "10.77.0.10", "10.77.0.254", "1gbit"
JOBS = f"http://{HEAD}:8265"
"""Where the head takes jobs."""
ASKS_WHO_IS_THERE = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Of Ray clusters that listen on a network."""


def missing():
    """Why there can be no hosts here, or an empty text."""
    if os.geteuid() != 0:
        return "two hosts on one machine need root"
    if lacking := [tool for tool in ("ip", "tc", "unshare") if not shutil.which(tool)]:
        return f"two hosts on one machine need {' and '.join(lacking)} (iproute2, util-linux)"
    if Path("/tmp") in (*SCRIPT.parents, *BIN.parents):
        return "what lies in /tmp is not seen by hosts that have one of their own"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


class Hosts:
    """A Ray head on the first host (`node0`), a node on the second (`node1`); to be used in a `with`.

    Args:
        home: R2D2_HOME of all, outside /tmp. Its file `log` takes what all processes say.
        environment: More variables, for all.
        dashboard: Whether the head has its pages, and with them takes jobs.
    """

    def __init__(self, home, environment=None, dashboard=False):
        self.home, self.store = home, home / "mlflow.db"
        self._environment = os.environ | ASKS_WHO_IS_THERE | {"R2D2_HOME": str(home)} | (environment or {})
        self._dashboard, self._server, self._lock = dashboard, None, FileLock(LOCK)
        home.mkdir(parents=True, exist_ok=True)

    def __enter__(self):
        self._lock.acquire()
        try:
            wait_until(_laid_out, 900)
        except BaseException:
            self._lock.release()
            raise
        try:
            with socket.socket() as probe:
                probe.bind((OUTSIDE, 0))
                self._port = probe.getsockname()[1]
            self.address = f"http://{OUTSIDE}:{self._port}"
            self._environment["MLFLOW_TRACKING_URI"] = self.address
            self.serve()
            pages = f"--dashboard-host={HEAD}" if self._dashboard else "--include-dashboard=false"
            self._ray(0, 1, "--head", "--port=6379", f"--node-ip-address={HEAD}", pages)
            self.join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for host in (0, 1):
            end(processes(host))
        self.stop_serving()
        subprocess.run([SCRIPT, "down", "2"], capture_output=True, check=False)
        self._lock.release()

    def serve(self):
        """Start the MLflow server, on this machine itself, and wait until it answers."""
        served = f"{OUTSIDE}:{self._port}"
        where = ["--host", OUTSIDE, "--port", str(self._port), "--workers", "1", "--allowed-hosts", served]
        kept = ["--backend-store-uri", f"sqlite:///{self.store}", "--artifacts-destination", str(self.home / "kept")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # six processes that wait for jobs
        self._server = self._start([sys.executable, "-m", "mlflow", "server", *where, *kept], quiet)
        wait_until(lambda: answers(f"{self.address}/health"), 120)

    def stop_serving(self):
        """Kill it."""
        if self._server:
            end([*below(self._server.pid), psutil.Process(self._server.pid)])
            self._server.wait()
        self._server = None

    def join(self, slots=1):
        """The second host joins the cluster, anew if it was in it."""
        end(processes(1))
        self._ray(1, slots, f"--address={HEAD}:6379", "--node-ip-address=10.77.0.11")

    def _ray(self, host, slots, *arguments):
        command = ["ray", "start", f"--num-cpus={slots}", "--disable-usage-stats", *arguments]
        wait_until(lambda: self.run(host, *command).wait() == 0, 120)

    def cut(self, host=1):
        """Take a host's link down: it runs on, and reaches nobody."""
        subprocess.run(["ip", "-n", f"node{host}", "link", "set", "eth0", "down"], check=True)

    def mend(self, host=1):
        """Bring its link up again."""
        subprocess.run(["ip", "-n", f"node{host}", "link", "set", "eth0", "up"], check=True)

    def run(self, host, program, *arguments):
        """Start a program of this environment's on a host; on the machine outside if that is None."""
        where = [] if host is None else [SCRIPT, "run", str(host)]
        return self._start([*where, BIN / program, *arguments], {} if host is None else {"RAY_ADDRESS": f"{HEAD}:6379"})

    def page(self, view):
        """What R2D2's dashboard says on a page, looked at from the machine outside."""
        look = f"from helpers.pages import opened, words; print(words(opened({view!r})))"
        path = os.pathsep.join(map(str, (SCRIPT.parents[1], SCRIPT.parents[1] / "tests")))
        told = {"RAY_API_SERVER_ADDRESS": JOBS, "R2D2_LOGIN_BY": "loopback", "PYTHONPATH": path}
        command = [sys.executable, "-c", look]
        done = subprocess.run(command, env=self._environment | told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _start(self, command, environment):
        # Ray's nodes give to jobs what they were started with: programs of this environment first.
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        with (self.home / "log").open("a") as log:
            told = self._environment | path | environment
            return subprocess.Popen(
                [str(word) for word in command], env=told, stdout=log, stderr=log, start_new_session=True
            )


def _laid_out():
    """Lay the hosts out, unless somebody is on them who does not heed the lock; whether that was done."""
    if Path("/run/netns/node0").exists():
        time.sleep(5)  # who has only just laid them out is on them soon
        if processes(0) or processes(1):
            return False
        subprocess.run([SCRIPT, "down", "2"], capture_output=True, check=False)  # what a killed test left
    return subprocess.run([SCRIPT, "up", "2", LINK], capture_output=True, check=False).returncode == 0


def processes(host):
    """All processes of a host."""
    told = subprocess.run(["ip", "netns", "pids", f"node{host}"], capture_output=True, text=True, check=False).stdout
    found = []
    for pid in told.split():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(pid)))
    return found


def ranks(host):
    """The workers on a host that train."""
    return [process for process in processes(host) if "RayTrainWorker" in line(process)]


def below(pid):
    """All that a process started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def line(process):
    """A process' command line."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def end(some):
    """End processes and wait until they are gone."""
    for process in some:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(some, timeout=30)


def wait_until(condition, seconds, process=None):
    """What a condition is once it holds; an error after so many seconds, or when a process has ended."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise TimeoutError(f"waited in vain: {condition}")
        time.sleep(0.1)
    return found
