"""Doctor: what is installed, built and reachable, and what to do about the rest."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from r2d2 import config, services
from r2d2.errors import InputError

HOROVOD_REMEDY = (
    "HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 pip install --no-build-isolation "
    "horovod==0.28.1   (after tensorflow and the build tools of r2d2[horovod-build]; `make setup` does it all)"
)

GPU_REMEDY = "make setup GPU=1   (in a clone; TensorFlow with CUDA, Horovod with NCCL)"
LOOK = """
import horovod.tensorflow as hvd, tensorflow as tf
hvd.init()
print(int(hvd.gloo_built()), int(hvd.nccl_built()), len(tf.config.list_physical_devices("GPU")))
"""
TENSORFLOW_REMEDY = "pip install 'r2d2[cpu]', or 'r2d2[gpu]' on a machine with NVIDIA GPUs"


@dataclass(frozen=True)
class Check:
    """One thing looked at: whether it is as it must be, what was found, and the way out."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    required: bool = True


def require(*packages: str) -> None:
    """Raise an InputError that says how to install the first of these that is not there: tensorflow, horovod."""
    remedies = {"tensorflow": TENSORFLOW_REMEDY, "horovod": HOROVOD_REMEDY}
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed; {remedies[package]}")


def doctor() -> list[Check]:
    """Look at everything that R2D2 needs on this machine."""
    horovod, seen = _horovod()
    checks = [_python(), _tensorflow(), horovod, *_packages(), _processor(), _gpu(seen)]
    for name, look in (("R2D2_HOME", _home), ("tracking", _tracking), ("ray cluster", _cluster)):
        try:
            checks.append(look())
        except InputError as error:
            checks.append(Check(name, False, str(error)))
    return checks


def _python() -> Check:
    version = sys.version.split()[0]
    ok = sys.version_info[:2] == (3, 11)
    return Check("python", ok, version, "" if ok else "use Python 3.11")


def _tensorflow() -> Check:
    version = _version("tensorflow") or _version("tensorflow-cpu")
    return Check("tensorflow", bool(version), version or "not installed", "" if version else TENSORFLOW_REMEDY)


def _horovod() -> tuple[Check, int | None]:
    """Horovod, and how many GPUs TensorFlow sees; None if nobody could look."""
    version = _version("horovod")
    if version is None:
        return Check("horovod", False, "not installed", HOROVOD_REMEDY), None
    # In a process of its own: a library built against another TensorFlow can end the process that loads it.
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = f"build it again: {HOROVOD_REMEDY}"
        return Check("horovod", False, f"{version}, does not load: {reason[:120]}", remedy), None
    gloo, nccl, gpus = (int(word) for word in done.stdout.split()[-3:])
    found = f"{version}, with {'gloo' if gloo else 'no gloo'}" + (", NCCL" if nccl else "")
    if gpus and not nccl:
        found += ", without NCCL: gradients of GPUs go by the processor"
        return Check("horovod", False, found, GPU_REMEDY, required=False), gpus
    return Check("horovod", True, found), gpus


def _packages() -> list[Check]:
    checks = []
    for name in ("keras", "ray", "mlflow", "streamlit", "nibabel", "opencv-python-headless", "scipy", "nilearn"):
        version = _version(name)
        checks.append(Check(name, bool(version), version or "not installed", "" if version else "pip install r2d2"))
    return checks


def _processor() -> Check:
    from r2d2 import kernels

    bfloat16 = sorted({"amx_bf16", "avx512_bf16"} & kernels.processor_flags())
    found = f"{len(os.sched_getaffinity(0))} cores, bfloat16 in hardware: {', '.join(bfloat16) or 'no'}"
    if "amx_bf16" not in bfloat16 or not (_version("tensorflow") or _version("tensorflow-cpu")):
        return Check("processor", True, found)
    if kernels.library().exists():
        return Check("processor", True, f"{found}, R2D2's kernels for it are built")
    remedy = "python -m r2d2.kernels   (training is slower without them)"
    return Check("processor", False, f"{found}, R2D2's kernels for it are not built", remedy, required=False)


def _gpu(seen: int | None) -> Check:
    if shutil.which("nvidia-smi") is None:
        return Check("gpu", False, "none", "", required=False)
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    found = "; ".join(done.stdout.strip().splitlines())
    if done.returncode == 0 and found and seen == 0:
        return Check("gpu", False, f"{found}, which TensorFlow does not see", GPU_REMEDY, required=False)
    return Check("gpu", done.returncode == 0, found or done.stderr.strip()[:120], required=False)


def _home() -> Check:
    folder = config.home()
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    ok = place.is_dir() and os.access(place, os.W_OK)
    free = shutil.disk_usage(place).free / 1e9
    remedy = "" if ok else "set R2D2_HOME to a folder that you can write"
    return Check("R2D2_HOME", ok, f"{folder}, {free:.0f} GB free" if ok else f"{folder} cannot be written", remedy)


def _tracking() -> Check:
    from r2d2.tracking import store

    uri = store.resolve()
    if store.is_new(uri):
        return Check("tracking", True, f"{uri} (made by the first run)")
    store.connect(uri)
    return Check("tracking", True, uri)


def _cluster() -> Check:
    address = os.environ.get("RAY_ADDRESS") or services.address("ray")
    if not address:
        return Check("ray cluster", True, "a local one for each run (no r2d2 up, RAY_ADDRESS is not set)")
    from r2d2.cluster.placement import connected

    with connected(config.Cluster(address=address)) as placement:
        return Check("ray cluster", True, f"{address}, {placement.nodes} nodes")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
