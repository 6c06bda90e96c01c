"""A model of a step's time, fitted on some layouts of hosts and judged on others; then what it says of larger ones.

    sudo python experiments/scaling/time_model.py          measure, fit, judge, write down: 24 minutes
    python experiments/scaling/time_model.py --fit         only fit and write down what was measured last

Hosts are network namespaces of this machine (infra/several_hosts.sh; needs root, iproute2, and the processor controller
of cgroup v1 at /sys/fs/cgroup/cpu: it is refused in one line without). All have the same share
of a processor, whatever their number: a quarter of a core by the kernel's CPU quota, in periods of 4 ms, and the weight
to have it whatever else runs, so that four hosts take half of a machine of two cores. Their links are shaped by `tc`.
Each trains one network in bfloat16 on images of random numbers through `r2d2.training.step.Step`, in its ring and, in
turn, by itself: all hosts of a layout at the same time, so that what is compared shares memory and caches alike. Links
change while the processes stay.

The model (r2d2/training/time_model.py) is fitted on hosts alone, and on two at 1 and 10 Gbit/s, with and without
overlap; it is judged on two hosts at 2.5 and 5 Gbit/s, and three and four at 1 to 10. Errors are given with the compute
time of the two fitted hosts, which is all that somebody has who measured no more, and with that of the layout's own
hosts by themselves, which holds what three or four hosts do to each other's memory, as hosts of their own would not.

What was measured goes to `time_model.json`, the record to `time_model.md` and `time_model.png`, all beside this file.
"""

import argparse
import json
import math
import statistics
import sys
import textwrap
import time
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
from common import NOTES, flops_an_image, machine  # noqa: E402
from rings import Block, Hosts, network, refused, train_in_turn  # noqa: E402

QUOTA = 0.25
"""Of a core, which every host has."""
SIZE, CLASSES = 64, 4
NETWORKS = {
    "Dist-U-Net": ({"network": "dist-unet", "filters": 32, "depth": 4}, 8),
    "Dist-FCN": ({"network": "dist-fcn", "encoder": "vgg16", "head_width": 256}, 4),
}
"""Each with the images of a minibatch."""
RATES = {2: (1, 2.5, 5, 10), 3: (1, 2.5, 5, 10), 4: (1, 2.5, 5, 10)}
"""Gbit/s by hosts."""
FITTED = [(2, 1, True), (2, 1, False), (2, 10, True), (2, 10, False)]
"""Hosts, Gbit/s, overlap of the layouts that are fitted on."""
AHEAD = (18, 64, 1024)
GPUS = {
    "5 TFLOP/s (a GTX 1080 Ti)": 5e12,
    "100 TFLOP/s (bfloat16, one of today's)": 1e14,
    "341 TFLOP/s (an H200, measured)": 341e12,
}
"""What they are taken to reach in training, or reach (experiments/benchmarks/gpu.md); their images are of GPU_SIZE."""
GPU_SIZE = 512
LINKS = {"10 Gbit/s Ethernet": 10, "100 Gbit/s": 100, "400 Gbit/s": 400}


def host(name: str) -> None:
    """One host."""
    images, ways = (NETWORKS[name][1], SIZE, SIZE), {"overlap": {}, "no-overlap": {"overlap": False}}
    train_in_turn(partial(plain, name), images, CLASSES, ways)


def plain(name: str):
    """The network of a name."""
    return network(NETWORKS[name][0], CLASSES, SIZE)


def measure(name: str, rounds: int, steps: int) -> list[dict]:
    """A network's steps: of each layout, rate and way a row, see `summed_up`, in turn with the hosts alone.

    All layouts have their turn in each round, so that what changes about the machine meets those that are fitted on and
    those that are judged alike.
    """
    found: dict[tuple[int, float, str], list[Block]] = {}
    with Hosts(max(RATES), QUOTA) as hosts:
        rings = {count: hosts.ring(count, [sys.executable, __file__, "--host", name]) for count in RATES}
        for number in range(rounds):
            for count, ring in rings.items():
                for rate in RATES[count]:
                    hosts.link(rate)
                    for way in ("alone", "overlap", "no-overlap"):
                        block = [one[1:] for one in ring.steps(way, steps)]
                        found.setdefault((count, rate, way), []).append(block)
            print(f"{name}: round {number + 1} of {rounds}", flush=True)
        about = {"network": name, "bytes": rings[2].bytes}
    return [
        about | {"hosts": count, "gbit_s": rate, "way": way} | summed_up(way, blocks)
        for (count, rate, way), blocks in found.items()
    ]


def summed_up(way: str, blocks: list[Block]) -> dict:
    """The `step_s`, `spread_s` and `communication_s` of one way over its turns, and of how many `steps`.

    Of a ring a step is its slowest host's, its communication that of the host that waited least; all steps together. Of
    hosts alone it is each one's own, and so is the spread, for the slowest of single hosts is what a ring waits for:
    the mean of the hosts, the median of the turns. Their seconds are kept, `walls_s` by turn and host.
    """
    told = {"steps": sum(len(block[0]) for block in blocks)}
    together = [step for block in blocks for step in zip(*block, strict=True)]
    told["communication_s"] = statistics.median(min(waited for _, waited in step) for step in together)
    if way != "alone":
        walls = [max(wall for wall, _ in step) for step in together]
        return told | {"step_s": statistics.median(walls), "spread_s": spread(walls)}
    each = [[[wall for wall, _ in one] for one in block] for block in blocks]
    told["step_s"] = statistics.median(statistics.mean(map(statistics.median, hosts)) for hosts in each)
    told["spread_s"] = statistics.median(statistics.mean(map(spread, hosts)) for hosts in each)
    return told | {"walls_s": [[[round(wall, 5) for wall in one] for one in hosts] for hosts in each]}


def spread(values: list[float]) -> float:
    """The standard deviation, from the quartiles: a step that something else held up does not count."""
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 1.349


def layouts(rows: list[dict], compute: str = "own") -> list:
    """The rows as the model takes them: (hosts, Gbit/s, overlap) and what was measured.

    Args:
        rows: From `measure`.
        compute: Whose compute time: `own`, the layout's hosts alone, or `fit`, that of the two hosts fitted on.
    """
    from r2d2.training.time_model import GBIT, Measured, Work

    found = []
    for row in rows:
        if row["way"] == "alone":
            continue
        hosts = row["hosts"] if compute == "own" else 2
        lone = [r for r in rows if r["way"] == "alone" and (r["network"], r["hosts"]) == (row["network"], hosts)]
        alone = statistics.median(r["step_s"] for r in lone)
        work = Work(alone, row["bytes"], statistics.median(r["spread_s"] for r in lone))
        overlap = row["way"] == "overlap"
        one = Measured(row["network"], work, overlap, row["hosts"], row["gbit_s"] * GBIT, row["step_s"])
        found.append(((row["hosts"], row["gbit_s"], overlap), one))
    return found


def main() -> None:
    """Measure, fit, judge, write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="of which the first does not count")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--host", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.host:
        host(given.host)
        return
    if not given.fit and (why := refused()):
        sys.exit(f"time_model.py: {why}; --fit needs none of it")
    kept = HERE / "time_model.json"
    if given.fit:
        known = json.loads(kept.read_text())
    else:
        known = {"rows": [], "wall_s": {}, "quota": QUOTA, "image": SIZE}
        for name in NETWORKS:
            began = time.monotonic()
            known["rows"] += measure(name, given.rounds, given.steps)
            known["wall_s"][name] = round(time.monotonic() - began)
        known |= {"date": str(date.today()), "machine": machine()}
    known |= judged(known["rows"])
    kept.write_text(json.dumps(known, indent=1) + "\n")
    picture(known["rows"])
    page = HERE / "time_model.md"
    notes = page.read_text().partition(NOTES)[2] if page.exists() else ""
    page.write_text(record(known) + (f"\n{NOTES}{notes}" if notes else ""))
    print(page.read_text())


def judged(rows: list[dict]) -> dict:
    """The fit, and its error on every layout."""
    from r2d2.training.time_model import fit

    own, other = layouts(rows), layouts(rows, "fit")
    fitted = fit([one for key, one in own if key in FITTED])
    table = [
        {
            "network": one.name,
            "hosts": key[0],
            "gbit_s": key[1],
            "overlap": key[2],
            "fitted_on": key in FITTED,
            "alone_s": one.work.compute_s,
            "measured_s": one.step_s,
            "predicted_s": fitted.step(one).step_s,
            "error": fitted.error(one),
            "error_with_the_fits_compute": fitted.error(same),
        }
        for (key, one), (_, same) in zip(own, other, strict=True)
    ]
    network = fitted.network
    values = {
        "latency_ms": 1e3 * network.latency_s,
        "busy_ns_per_byte": 1e9 * network.busy_s_per_byte,
        "pipelined": network.pipelined,
        "hidden": fitted.hidden,
    }
    return {"fit": values, "layouts": table, "ahead": ahead(fitted), "paper": paper(fitted)}


def ahead(fitted) -> list[dict]:
    """What the model says of many GPUs: their step from operations a second, the network's terms from the fit."""
    from r2d2.training.time_model import GBIT, Network, Work, predict

    found = []
    for name, (_, batch) in NETWORKS.items():
        size = 4 * plain(name).count_params()
        work = batch * flops_an_image(plain(name)) * (GPU_SIZE / SIZE) ** 2
        for gpu, speed in GPUS.items():
            for link, rate in LINKS.items():
                # A GPU's gradients are copied and added by the GPU and the card, and a message takes microseconds.
                joined = Network(rate * GBIT, latency_s=2e-5)
                for workers in AHEAD:
                    for hidden in (0.0, fitted.hidden[name]):
                        step = predict(Work(work / speed, size, 0.01 * work / speed, hidden), joined, workers)
                        found.append(
                            {"network": name, "gpu": gpu, "link": link, "workers": workers, "overlap": hidden > 0}
                            | {"alone_s": work / speed, "step_s": step.step_s, "efficiency": step.efficiency}
                        )
    return found


PAPER = {
    # What the paper states: hours on one GPU and on 18, epochs, images a minibatch; then its images, of BRATS and of
    # the left atrium, training and validation together (PAPER: 33,880 and 35,000; of the larger all are taken).
    "Dist-U-Net": {"one_s": 78_000, "many_s": 4_440, "epochs": 100, "batch": 7, "weights": 31.0e6},
    "Dist-FCN": {"one_s": 128_400, "many_s": 12_300, "epochs": 120, "batch": 10, "weights": 20.0e6},
}
PAPER_IMAGES, PAPER_GPUS, IMAGE_BYTES = 35_000, 18, GPU_SIZE * GPU_SIZE * 4
"""An RGB image and its mask, a byte a value, as they leave a file server if they are not compressed."""
PAPER_LINKS = (10, 56, 100)
"""Gbit/s: the paper says InfiniBand, not which: FDR has 56, EDR 100; 10 is what plain Ethernet would have been."""


def paper(fitted) -> dict:
    """The paper's 97 % and 58 % from its own figures: what the ring can have cost, and what is left for the storage."""
    from r2d2.training.time_model import GBIT, PAYLOAD, Network, Work, predict

    found = {}
    for name, told in PAPER.items():
        steps = told["epochs"] * math.ceil(PAPER_IMAGES / told["batch"])
        alone = told["one_s"] / steps
        many = told["many_s"] / (steps / PAPER_GPUS)
        row = {"step_alone_s": alone, "step_18_s": many, "efficiency": alone / many, "ring": {}}
        for rate in PAPER_LINKS:
            for hidden in (0.0, fitted.hidden[name]):
                work = Work(alone, 4 * told["weights"], 0.01 * alone, hidden)
                step = predict(work, Network(rate * GBIT, latency_s=2e-5), PAPER_GPUS)
                row["ring"][f"{rate} Gbit/s, {'overlap' if hidden else 'no overlap'}"] = step.efficiency
        images = PAPER_GPUS * told["batch"] / many
        row |= {"images_per_s_18": images, "images_per_s_alone": told["batch"] / alone}
        row["storage_gbit_s_if_raw"] = images * IMAGE_BYTES / GBIT
        sent = 2 * (PAPER_GPUS - 1) / PAPER_GPUS * 4 * told["weights"]
        row["link_gbit_s"] = sent / (many - alone) / PAYLOAD / GBIT
        found[name] = row
    return found


def picture(rows: list[dict]) -> None:
    """Measured against predicted, and the step by link speed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from r2d2.engine.scale_report import COLOURS, MARKS
    from r2d2.training.time_model import GBIT, fit

    own = layouts(rows)
    fitted = fit([one for key, one in own if key in FITTED])
    figure = Figure(figsize=(12.0, 4.0), layout="constrained")
    axes = figure.subplots(1, 3)
    for number, name in enumerate(NETWORKS):
        mine = [(key, one) for key, one in own if one.name == name]
        for used, face in ((True, "white"), (False, COLOURS[number])):
            x = [one.step_s for key, one in mine if (key in FITTED) == used]
            y = [fitted.step(one).step_s for key, one in mine if (key in FITTED) == used]
            label = f"{name}, {'fitted on' if used else 'judged on'}"
            axes[0].plot(x, y, MARKS[number], color=COLOURS[number], markerfacecolor=face, label=label)
        place = axes[1 + number]
        for which, hosts in enumerate(RATES):
            for overlap, style in ((True, "-"), (False, "--")):
                some = sorted((key[1], one) for key, one in mine if key[0] == hosts and key[2] == overlap)
                if not some:  # not measured yet
                    continue
                colour, mark = COLOURS[which], MARKS[which]
                label = f"{hosts} hosts{'' if overlap else ', no overlap'}"
                place.plot(
                    [rate for rate, _ in some],
                    [one.step_s for _, one in some],
                    mark,
                    color=colour,
                    markerfacecolor=colour if overlap else "white",
                    label=label,
                )
                finer = [10 ** (power / 20) for power in range(21)]
                line = [fitted.step(replace(some[0][1], bytes_per_s=rate * GBIT)).step_s for rate in finer]
                place.plot(finer, line, style, color=colour, linewidth=1.2)
        place.set(xscale="log", xlabel="link, Gbit/s", ylabel="step, s")
        place.set_title(f"{name}: marks measured, lines the model", fontsize=10, loc="left")
        place.set_xticks([1, 2.5, 5, 10], ["1", "2.5", "5", "10"])
        place.minorticks_off()
        place.set_ylim(bottom=0)
        place.legend(fontsize=7, frameon=False)
    ends = [min(one.step_s for _, one in own), max(one.step_s for _, one in own)]
    axes[0].plot(ends, ends, color="0.4", linewidth=1)
    for factor in (0.9, 1.1):
        axes[0].plot(ends, [factor * end for end in ends], color="0.4", linewidth=0.8, linestyle=":")
    axes[0].set(xscale="log", yscale="log", xlabel="measured step, s", ylabel="predicted step, s")
    axes[0].set_title("dotted: 10 % off", fontsize=10, loc="left")
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if 0.8 * ends[0] <= tick <= 1.25 * ends[1]]
    for axis in (axes[0].xaxis, axes[0].yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(HERE / "time_model.png", dpi=120)


def record(known: dict) -> str:
    """The page."""
    fit, table = known["fit"], known["layouts"]
    fresh = [row for row in table if not row["fitted_on"]]
    errors = [abs(row["error"]) for row in fresh]
    others = [abs(row["error_with_the_fits_compute"]) for row in fresh]
    minutes = sum(known["wall_s"].values()) / 60
    size, host = known["image"], known["machine"]
    hidden = ", ".join(f"{share:.0%} of a step of {name}" for name, share in fit["hidden"].items())
    lines = [
        f"# A model of a step's time, {known['date']}",
        "",
        *paragraph(
            f"`python experiments/scaling/time_model.py`: {minutes:.0f} minutes on {host['cores']} cores of a "
            f"{host['processor']}, load {host['load']}. Hosts of {known['quota']:g} core each, {size}x{size} images, "
            "bfloat16."
        ),
        "",
        *paragraph(
            f"On {len(fresh)} layouts that it was not fitted on, with nothing measured but the two hosts that it was "
            f"fitted on, the model is off by {statistics.median(others):.1%} (median), {max(others):.1%} at most, "
            f"{sum(error <= 0.1 for error in others)} of {len(others)} within 10 %. With the compute time of each "
            f"layout's own hosts alone, which has to be measured on so many, by {statistics.median(errors):.1%} and "
            f"{max(errors):.1%}, {sum(error <= 0.1 for error in errors)} within 10 %."
        ),
        "",
        "![measured and predicted](time_model.png)",
        "",
        *paragraph(
            f"Fitted on {len(table) - len(fresh)} layouts (two hosts, 1 and 10 Gbit/s, with and without overlap, and "
            f"their hosts alone): a byte sent takes {fit['busy_ns_per_byte']:.2f} ns of the processor, "
            f"{fit['pipelined']:.0%} "
            f"of them while more is on its way, a message {fit['latency_ms']:.1f} ms; the wire hides behind {hidden}. "
            "Of a link 96 % arrives, by its frames. The equations are in "
            "[time_model.py](../../r2d2/training/time_model.py)."
        ),
        "",
        "| network | hosts | Gbit/s | overlap | alone s | measured s | predicted s | error | error, fit's compute |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        mark = " (fitted on)" if row["fitted_on"] else ""
        lines.append(
            f"| {row['network']} | {row['hosts']} | {row['gbit_s']:g} | {'yes' if row['overlap'] else 'no'} | "
            f"{row['alone_s']:.3f} | {row['measured_s']:.3f} | {row['predicted_s']:.3f} | {row['error']:+.1%}{mark} | "
            f"{row['error_with_the_fits_compute']:+.1%} |"
        )
    lines += [
        "",
        "## Many GPUs",
        "",
        *paragraph(
            f"Images of {GPU_SIZE}x{GPU_SIZE}. What is measured here: how much is hidden. What is taken: a GPU's "
            "operations a second, that its card does the copying and adding, 20 us a message, "
            "steps that vary by 1 %. At 1,024 it is the flat ring's 2,046 messages that cost; rings of rings, or "
            "trees, "
            "which NCCL chooses by itself, have fewer. Two hosts do not tell a message's time from a byte's, so that "
            "the fit says nothing of it; nor of several workers a host, of a switch or of storage that is shared: "
            "none of these was measured, and nobody knows the error of this table. Efficiency without overlap, and "
            "with as much as was measured here:"
        ),
        "",
        "| network | GPU | step alone | link | " + " | ".join(f"{n} GPUs" for n in AHEAD) + " |",
        "|---|---|---|---|" + "---|" * len(AHEAD),
    ]
    seen: dict[tuple, dict] = {}
    for row in known["ahead"]:
        seen.setdefault((row["network"], row["gpu"], row["link"], row["alone_s"]), {})[
            (row["workers"], row["overlap"])
        ] = row["efficiency"]
    for (name, gpu, link, alone), cells in seen.items():
        told = [f"{cells[(n, False)]:.0%} to {cells[(n, True)]:.0%}" for n in AHEAD]
        lines.append(f"| {name} | {gpu} | {1e3 * alone:.0f} ms | {link} | {' | '.join(told)} |")
    lines += ["", *paper_record(known["paper"])]
    return "\n".join(lines) + "\n"


def paper_record(found: dict) -> list[str]:
    """What the model says of the paper's figures."""
    unet, fcn = found["Dist-U-Net"], found["Dist-FCN"]
    more = fcn["step_18_s"] - fcn["step_alone_s"]
    lines = [
        "## The paper's 97 % and 58 %",
        "",
        *paragraph(
            f"From its hours, epochs, minibatches and {PAPER_IMAGES:,} images: a U-Net step takes "
            f"{1e3 * unet['step_alone_s']:.0f} ms on one GPU and {1e3 * unet['step_18_s']:.0f} ms on 18, an FCN step "
            f"{1e3 * fcn['step_alone_s']:.0f} and {1e3 * fcn['step_18_s']:.0f} ms. It names InfiniBand, not its rate, "
            "and "
            "no number of weights; taken here are 31 million for U-Net (64 filters, depth 4) and 20 million for FCN "
            "(VGG-19's encoder)."
        ),
        "",
        "| efficiency on 18 by the ring alone | " + " | ".join(unet["ring"]) + " | the paper |",
        "|---" * (len(unet["ring"]) + 2) + "|",
    ]
    for name, row in found.items():
        cells = " | ".join(f"{value:.0%}" for value in row["ring"].values())
        lines.append(f"| {name} | {cells} | {row['efficiency']:.0%} |")
    ring = unet["ring"]
    apart = (1 / fcn["efficiency"] - 1) / (PAPER_GPUS - 1)
    points = (
        f"**U-Net, {unet['efficiency']:.1%}.** Its training set lay in memory, so that no storage slowed it. With "
        f"overlap the ring alone leaves {ring['56 Gbit/s, overlap']:.0%} at 56 Gbit/s and "
        f"{ring['100 Gbit/s, overlap']:.0%} at 100, without it {ring['56 Gbit/s, no overlap']:.0%} and "
        f"{ring['100 Gbit/s, no overlap']:.0%}. The paper's figure is compatible with 100 Gbit/s, if the link, the "
        "weights and the share that is hidden are what is taken here (the share was measured on processors), and a "
        "message takes 20 us: then all of the ring is hidden, and what is missing is the wait for the slowest of 18, "
        "from an assumed 1 % of variation. At 56 Gbit/s and less the model leaves less than the paper saw.",
        f"**FCN, {fcn['efficiency']:.1%}.** No ring of the table takes the {1e3 * more:.0f} ms that a step is longer "
        f"on 18: the slowest leaves {min(fcn['ring'].values()):.0%}. Its minibatches came over NFS: 18 GPUs read "
        f"{fcn['images_per_s_18']:.0f} images a second, one GPU {fcn['images_per_s_alone']:.0f}. If that is what the "
        f"server gives, the model's `N * I / S`, its ceiling is {fcn['storage_gbit_s_if_raw']:.1f} Gbit/s for images "
        "and masks that are not compressed (RGB and a mask, a byte a value), less if they are; every GPU beyond the "
        "tenth then waits. A copy on each node's disk (`R2D2_CACHE`) takes the term away.",
        "**The FCN's validation** is another cause that the paper names: its U-Net, unlike its FCN, has operations "
        "that speed up the distributed validation. Its times are of whole trainings, and if "
        f"{apart:.1%} of one GPU's time is not distributed at all (validation, checkpoints), 18 GPUs leave "
        f"{fcn['efficiency']:.0%} with nothing else: 1 / (1 + {PAPER_GPUS - 1} s).",
        "**What stays open.** The paper gives neither a curve of images read nor the time of a validation, and 58 % is "
        f"also what its ring would leave on a link of {fcn['link_gbit_s']:.0f} Gbit/s with nothing hidden. Numbers of "
        "GPUs between 1 and 18 would tell: a server's ceiling costs nothing up to ten, a slow link costs most of it "
        "from two GPUs on, and what is not distributed costs a share that grows evenly; its time is between the "
        "epochs, not in their steps.",
    )
    return [*lines, "", *(line for point in points for line in paragraph(f"- {point}", "  "))]


def paragraph(text: str, indent: str = "") -> list[str]:
    """In lines of the length of this project's."""
    return textwrap.wrap(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
