"""Volumes a second: ImgMed against MONAI, TorchIO and nnU-Net, in turn, on the same scans, cores and operations.

    python experiments/benchmarks/preprocess.py --rounds 3

makes 20 virtual BRATS patients (240x240x155 voxels, four channels) and an environment of the peers' own under
`.r2d2/benchmarks/` the first time. Every tool reads a scan and its mask from .nii.gz, turns them to RAS, z-scores every
channel over its voxels that are not 0, resizes the axial slices to 192x192 (images by area or linearly, masks by
nearest neighbour) and writes both as .npy, into memory; in two processes of one thread each, the peers also in one
process of two threads. The clock runs from the first scan to the last, after one scan for each process to warm up.
`r2d2 prepare` is the whole of `r2d2.data.prepare`: it also starts its processes, hashes and checks every file, takes
the fingerprint and keeps the references on their own grid. nnU-Net's own preprocessing of its 2D configuration crops
and resamples by its own rules, so its operations are not the same and its figure stands aside.

The results are printed and written beside this file, to `preprocess.md`.

Where the time goes in `r2d2 data prepare` (2026-11-23, one such case, one thread, milliseconds): reading 160 to 215, of
which decompression (isal) some 90 and int16 to float32 the rest; z-score 120 to 150; resizing to float16 155; sampling
for the fingerprint 55; NaN, infinity and constant channels 40; hashing voxels and files 40; masks 20. Turning to
canonical axes copies nothing, nothing is computed in float64, and a gzipped scan is read in two thirds of the time that
nibabel takes.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from common import environment, figure, keep, machine

SIZE = 192
PEERS = ("monai[nibabel]==1.6.1", "torchio==1.2.1", "nnunetv2==2.8.1", "numpy<2.5")
SAME = (
    "imgmed",
    "r2d2 prepare",
    "monai, 2 processes",
    "monai, 2 threads",
    "torchio, 2 processes",
    "torchio, 2 threads",
)


def cases(data):
    """(name, scan, mask) of a Decathlon folder."""
    return [
        (p.name.removesuffix(".nii.gz"), p, data / "labelsTr" / p.name) for p in sorted((data / "imagesTr").iterdir())
    ]


def imgmed_one(task):
    """Prepare a case with ImgMed's functions."""
    import numpy as np

    from r2d2 import imgmed

    name, scan, mask, out = task
    image = imgmed.to_canonical(imgmed.read_volume(scan))
    label = imgmed.to_canonical(imgmed.read_labels(mask))
    slices = imgmed.to_slices(imgmed.normalize(image.data, "zscore"), "axial")
    np.save(out / f"{name}.image.npy", imgmed.resize_images(slices, (SIZE, SIZE)))
    np.save(out / f"{name}.label.npy", imgmed.resize_labels(imgmed.to_slices(label.data, "axial"), (SIZE, SIZE)))


def imgmed_run(data, out, _threads):
    """Seconds for all cases."""
    return pooled(imgmed_one, data, out)


def r2d2_prepare_run(data, out, _threads):
    """Seconds for the whole preparation."""
    from r2d2 import config
    from r2d2.data.cases import find_cases
    from r2d2.data.prepare import prepare

    dataset = find_cases(config.Data(path=data))
    started = time.perf_counter()  # the processes' start included: there is no way to warm them up
    prepare(dataset, config.Preprocess(image_size=(SIZE, SIZE)), out)
    return time.perf_counter() - started


def monai_one(task):
    """Prepare a case with MONAI's dictionary transforms."""
    import numpy as np
    import torch

    name, scan, mask, out = task
    if not hasattr(monai_one, "transform"):
        from monai import transforms as t

        keys = ["image", "label"]
        monai_one.transform = t.Compose(
            [
                t.LoadImaged(keys, reader="NibabelReader"),
                t.EnsureChannelFirstd(keys),
                t.Orientationd(keys, axcodes="RAS", labels=None),
                t.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
                t.Resized("image", (SIZE, SIZE, -1), mode="area"),
                t.Resized("label", (SIZE, SIZE, -1), mode="nearest-exact"),
            ]
        )
    with torch.inference_mode():
        done = monai_one.transform({"image": str(scan), "label": str(mask)})
    image, label = np.asarray(done["image"]), np.asarray(done["label"])
    np.save(out / f"{name}.image.npy", np.ascontiguousarray(image.transpose(3, 1, 2, 0)))
    np.save(out / f"{name}.label.npy", np.ascontiguousarray(label[0].transpose(2, 0, 1)).astype(np.uint8))


def monai_run(data, out, threads):
    """Seconds for all cases."""
    return pooled(monai_one, data, out) if threads == 1 else alone(monai_one, data, out, threads)


def torchio_one(task):
    """Prepare a case with TorchIO's transforms."""
    import numpy as np
    import torchio as tio

    name, scan, mask, out = task
    if not hasattr(torchio_one, "transform"):
        resize = tio.Resize((SIZE, SIZE, 155), image_interpolation="linear")
        # Its own ZNormalization takes one mean and deviation for all channels together.
        normalize = tio.Lambda(torchio_zscore, types_to_apply=[tio.INTENSITY])
        torchio_one.transform = tio.Compose([tio.ToCanonical(), normalize, resize])
    done = torchio_one.transform(tio.Subject(image=tio.ScalarImage(scan), label=tio.LabelMap(mask)))
    image, label = done["image"].numpy(), done["label"].numpy()
    np.save(out / f"{name}.image.npy", np.ascontiguousarray(image.transpose(3, 1, 2, 0)))
    np.save(out / f"{name}.label.npy", np.ascontiguousarray(label[0].transpose(2, 0, 1)).astype(np.uint8))


def torchio_zscore(channels):
    """Z-score every channel over its voxels that are not 0."""
    import torch

    channels = channels.float()
    result = torch.zeros_like(channels)
    for number, channel in enumerate(channels):
        inside = channel != 0
        values = channel[inside]
        result[number][inside] = (values - values.mean()) / values.std()
    return result


def torchio_run(data, out, threads):
    """Seconds for all cases."""
    return pooled(torchio_one, data, out) if threads == 1 else alone(torchio_one, data, out, threads)


def nnunet_run(data, out, _threads):
    """Its command for the 2D configuration, after its planning; both processes' start included."""
    about = json.loads((data / "dataset.json").read_text())
    raw = out / "raw" / "Dataset001_Brats"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    import nibabel

    for name, scan, mask in cases(data):
        image = nibabel.load(scan)
        for channel in range(4):
            one = nibabel.Nifti1Image(image.dataobj[..., channel], image.affine)
            one.to_filename(raw / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        shutil.copy(mask, raw / "labelsTr" / mask.name)
    described = {
        "channel_names": about["modality"],
        "labels": {name: int(value) for value, name in about["labels"].items()},
        "numTraining": len(cases(data)),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))
    folders = {"nnUNet_raw": out / "raw", "nnUNet_preprocessed": out / "done", "nnUNet_results": out / "results"}
    environment = os.environ | {key: str(path) for key, path in folders.items()}
    bin_folder = Path(sys.executable).parent

    def command(*arguments):
        subprocess.run([bin_folder / arguments[0], *arguments[1:]], env=environment, check=True, stdout=sys.stderr)

    command("nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "2d", "-npfp", "2", "--no_pp")
    started = time.perf_counter()
    command("nnUNetv2_preprocess", "-d", "1", "-c", "2d", "-np", "2")
    return time.perf_counter() - started


def pooled(one, data, out):
    """Seconds for all cases in two processes that have done one case each."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ[variable] = "1"
    tasks = [(*case, out) for case in cases(data)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), initializer=one_thread) as pool:
        list(pool.map(one, tasks[:2]))
        started = time.perf_counter()
        list(pool.map(one, tasks))
        return time.perf_counter() - started


def one_thread():
    """Keep this process' PyTorch, if it has one, to one thread."""
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)


def alone(one, data, out, threads):
    """Seconds for all cases in this process with so many threads, after one case."""
    import torch

    torch.set_num_threads(threads)
    tasks = [(*case, out) for case in cases(data)]
    one(tasks[0])
    started = time.perf_counter()
    for task in tasks:
        one(task)
    return time.perf_counter() - started


RUNS = {
    "imgmed": imgmed_run,
    "r2d2 prepare": r2d2_prepare_run,
    "monai": monai_run,
    "torchio": torchio_run,
    "nnunet": nnunet_run,
}


def measure(tool, data, out, peers):
    """One run of a tool in a process of its own environment: seconds."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    python = sys.executable if tool in ("imgmed", "r2d2 prepare") else peers / "bin" / "python"
    arguments = ["--tool", tool, "--data", str(data), "--out", str(out)]
    done = subprocess.run([python, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def agreement(folder, name):
    """How far the tools' results lie from ImgMed's on one case: mean difference of images, share of equal labels."""
    import numpy as np

    ours = {kind: np.load(folder / "imgmed" / f"{name}.{kind}.npy").astype(np.float32) for kind in ("image", "label")}
    found = {}
    for tool in ("monai, 2 processes", "torchio, 2 processes"):
        theirs = {kind: np.load(folder / tool / f"{name}.{kind}.npy").astype(np.float32) for kind in ours}
        difference = float(np.abs(ours["image"] - theirs["image"]).mean())
        found[tool.split(",")[0]] = difference, float((ours["label"] == theirs["label"]).mean())
    return found


def main():
    """Measure, compare, write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--volumes", type=int, default=20)
    parser.add_argument("--home", type=Path, default=Path(".r2d2/benchmarks"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--nnunet", action="store_true", help="nnU-Net too, once")
    parser.add_argument("--tool")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.tool:
        name, _, how = given.tool.partition(", ")
        print(RUNS[name](given.data, given.out, 2 if how == "2 threads" else 1))
        return
    home = given.home.absolute()
    data, peers = given.data or home / f"brats{given.volumes}", given.peers or home / "peers"
    if not data.exists():
        r2d2 = Path(sys.executable).with_name("r2d2")
        subprocess.run([r2d2, "data", "synthesize", "brats", data, "--patients", str(given.volumes)], check=True)
    environment(peers, PEERS)
    # In memory where that can be, or the disk's speed at writing is all that is measured.
    memory = Path("/dev/shm")
    count, out = len(cases(data)), (memory if memory.is_dir() else home) / f"r2d2-benchmark-{os.getpid()}"
    seconds = {tool: [] for tool in SAME}
    for number in range(given.rounds):
        for tool in SAME:
            seconds[tool].append(measure(tool, data, out / tool, peers))
            print(f"round {number + 1}  {tool:<22} {count / seconds[tool][-1]:6.2f} volumes/s", flush=True)
    report = table(seconds, count, agreement(out, cases(data)[0][0]))
    if given.nnunet:
        taken = measure("nnunet", data, out / "nnunet", peers)
        report += (
            f"\nnnU-Net 2.8.1, `nnUNetv2_preprocess -c 2d -np 2`, its own operations: {count / taken:.2f} volumes/s.\n"
        )
    shutil.rmtree(out)
    fastest = quickest_peer(seconds)
    keep(
        __file__,
        report,
        [
            figure("preprocess/imgmed", f"ImgMed against {fastest}", "s", seconds["imgmed"], seconds[fastest]),
            figure(
                "preprocess/prepare", f"r2d2 prepare against {fastest}", "s", seconds["r2d2 prepare"], seconds[fastest]
            ),
        ],
    )


def quickest_peer(seconds):
    """The peer and the way to run it that took least."""
    return min((t for t in SAME if t.startswith(("monai", "torchio"))), key=lambda t: statistics.median(seconds[t]))


def table(seconds, count, agreed):
    """The figures as a page: medians, and the medians of the ratios of runs of one round."""
    fastest = quickest_peer(seconds)
    lines = [
        f"# Preprocessing, {date.today()}",
        "",
        f"{count} virtual BRATS patients (240x240x155x4), {len(os.sched_getaffinity(0))} cores,",
        f"{machine()['processor']}; medians of {len(seconds['imgmed'])} rounds in turn.",
        "`python experiments/benchmarks/preprocess.py`",
        "",
        f"| tool | volumes/s | ratio to {fastest} |",
        "|---|---|---|",
    ]
    for tool, taken in seconds.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds[fastest], taken, strict=True))
        lines.append(f"| {tool} | {count / statistics.median(taken):.2f} | {ratio:.2f} |")
    lines += ["", "On one case, against ImgMed:", ""]
    for tool, (difference, equal) in agreed.items():
        lines.append(
            f"- {tool}: images differ by {difference:.4f} deviations in the mean, {equal:.2%} of labels are equal"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
