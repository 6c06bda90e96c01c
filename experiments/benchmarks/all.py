"""All benchmarks in one session, each with its peers in turn; `results.md`, `results.json` and the README's figures.

    python experiments/benchmarks/all.py               all: hours
    python experiments/benchmarks/all.py segeval feed  these, beside what the others gave last
    python experiments/benchmarks/all.py --readme      none: only put the figures of results.json into the README

The network's needs root, and is left out without. A figure in the README stands between `<!--NAME-->` and `<!---->`,
where NAME is one of results.json's, or ends with `*` for the least of several peers.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("feed", "preprocess", "segeval", "training", "prediction", "dashboard", "start", "network", "gpu")
PEERS = ("Against peers", "how many times as fast R2D2 is as the peer")
AGAINST = {
    "dashboard/": ("Against a limit", "how many times as fast as it has to be"),
    "feed/": ("Against a training step of R2D2's own", "how many times as fast images come as they are used"),
    "network/": ("Against one host of R2D2's own", "a host's speed in a ring of two, of that alone"),
    "start/": ("Against a limit", "how many times as fast as it has to be"),
    "training/overhead": ("Against R2D2's own bare learner", "how many times as fast r2d2 train is as that"),
}
"""By how a figure's name begins: what R2D2 is compared with, if it is no peer, and what the ratio then is."""
MARK = re.compile(r"<!--([\w/ ,*-]+)-->[^<]*<!---->")


def main() -> None:
    """Run them, collect what they found, write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCRIPTS))
    parser.add_argument("--readme", action="store_true")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in SCRIPTS]:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(SCRIPTS)}")
    failed = []
    for name in () if given.readme else given.names or SCRIPTS:
        if name == "network" and os.getuid() != 0:
            print("network.py is left out: it needs root")
        elif name == "gpu" and not shutil.which("nvidia-smi"):
            print("gpu.py is left out: it needs an NVIDIA GPU")
        elif subprocess.run([sys.executable, HERE / f"{name}.py"], check=False).returncode:
            failed.append(name)
    found = {path.stem: json.loads(path.read_text()) for path in map(record, SCRIPTS) if path.exists()}
    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "results.md").write_text(page(found))
    readme = HERE.parents[1] / "README.md"
    readme.write_text(with_figures(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def record(name: str) -> Path:
    """Where a benchmark leaves its figures."""
    return HERE / f"{name}.json"


def page(found: dict[str, dict]) -> str:
    """All figures as one page."""
    lines = [
        "# All benchmarks",
        "",
        "`python experiments/benchmarks/all.py`. Ratios are medians of neighbouring turns, with their 95 % interval",
        "where there are turns. Each page says what was measured.",
    ]
    told = [(name, of) for name, one in found.items() for of in one["figures"]]
    for kind in (PEERS, *AGAINST.values()):
        mine = [(name, of) for name, of in told if against(of["name"]) == kind]
        if not mine:
            continue
        title, means = kind
        lines += ["", f"## {title}", "", f"The ratio: {means}.", ""]
        lines += ["| what | R2D2 | other | ratio |", "|---|---|---|---|"]
        for name, of in mine:
            values = f"{of['ours']:.3g} {of['unit']} | {of['peer']:.3g}"
            within = "" if of["low"] is None else f" ({of['low']:.2f} to {of['high']:.2f})"
            lines.append(f"| [{of['what']}]({name}.md) | {values} | {of['ratio']:.2f}{within} |")
    lines += ["", "| benchmark | date | machine | versions |", "|---|---|---|---|"]
    for name, one in found.items():
        about = one["machine"]
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        where = f"{about['cores']} cores, {about['processor']}, load {about['load']}, commit {about['commit']}"
        lines.append(f"| {name} | {one['date']} | {where} | Python {about['python']}, {versions} |")
    return "\n".join(lines) + "\n"


def against(name: str) -> tuple[str, str]:
    """What a figure compares R2D2 with, and what its ratio is."""
    return next((kind for begins, kind in AGAINST.items() if name.startswith(begins)), PEERS)


def with_figures(text: str, found: dict[str, dict]) -> str:
    """A text with the ratios that it names.

    Raises:
        KeyError: It names one that no benchmark found.
    """
    ratios = {of["name"]: of["ratio"] for one in found.values() for of in one["figures"]}

    def ratio(match: re.Match) -> str:
        name = match[1]
        if name.endswith("*"):
            value = min(value for key, value in ratios.items() if key.startswith(name[:-1]))
        else:
            value = ratios[name]
        return f"<!--{name}-->{value:.0f}<!---->" if value >= 10 else f"<!--{name}-->{value:.2f}<!---->"

    return MARK.sub(ratio, text)


if __name__ == "__main__":
    main()
