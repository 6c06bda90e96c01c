"""One run: its curves, where its time goes, its nodes, pictures of its worst patients, its settings, its log."""

import json
from collections.abc import Sequence
from typing import Any

import streamlit as st
import yaml
from streamlit.delta_generator import DeltaGenerator

from apps.dashboard import errands, figures, page
from apps.dashboard.legend import legend
from r2d2.engine import runs as work
from r2d2.engine import watch
from r2d2.errors import InputError
from r2d2.segeval import foreground
from r2d2.tracking import queries
from r2d2.tracking.queries import Point, RunView

SECTIONS = ("Curves", "Time", "Nodes", "Pictures", "Settings", "Log")
WHEN = {"now": "now", "epoch": "after this epoch", "checkpoint": "after the next checkpoint"}
THEN = {False: "test and register it as it is: then it is over", True: "leave it to be resumed"}
PARTS = {"compute": "computing", "input": "waiting for images", "communication": "waiting for the ring"}
PACE = {
    "train/loss": ("Loss", "mean loss of an image", None),
    "time/images_per_s": ("Speed", "images a second", None),
}
LOADS = {
    "cpu_utilization_percentage": ("Processors", "busy, %", (0, 100)),
    "system_memory_usage_percentage": ("Memory", "used, %", (0, 100)),
    "gpu": ("GPUs", "busy, %", (0, 100)),
    "gpu_memory": ("GPU memory", "used, %", (0, 100)),
    "disk": ("Disk, read and written", "MB/s", None),
    "network": ("Network, received and sent", "MB/s", None),
}


def main() -> None:
    """The whole page."""
    early = _load_charts()
    st.title("Run")
    _run()
    early.empty()


def _run() -> None:
    with errands.asking():
        listed = errands.answered(queries.latest_runs())
        run_id = page.choose_run([run for run in listed if run.kind == "run"])
        if run_id is None:
            return
        answer = queries.view(run_id)
        run, stalled = answer.value, page.stalled(answer)
        if answer.problem:  # which its head says
            errands.again()
        with st.container(horizontal=True, vertical_alignment="center"):
            section = st.segmented_control(
                "Show",
                SECTIONS,
                default="Curves",
                required=True,
                key="show",
                bind="query-params",
                label_visibility="collapsed",
            )
            _actions(run, stalled)
        every = page.live(run.running)
        st.fragment(_head, run_every=every, key="head")(run_id, run.running, stalled)
        st.fragment(_section, run_every=every, key="section")(run_id, str(section))


def _load_charts() -> DeltaGenerator:
    """Have the browser load what draws charts while the numbers are still read; what is returned is then emptied."""
    early = st.empty()
    if "charts" not in st.session_state:
        st.session_state["charts"] = True
        early.vega_lite_chart(None, {"mark": "point", "width": 1, "height": 1, "data": {"values": [{}]}}, width=1)
    return early


def _head(run_id: str, was_running: bool, was_stalled: bool) -> None:
    with errands.asking():
        answer = queries.view(run_id)
        run = answer.value
        # What is over is read no more; what began again is; what has stalled may be taken up.
        if (run.running, page.stalled(answer)) != (was_running, was_stalled):
            st.rerun()
        page.fresh(answer)
        for trouble in watch.troubles([run], answer.at):
            st.warning(page.plain(trouble.text), icon=page.TROUBLES[trouble.kind])
        words = [page.badge(run.status), f"began {page.ago(run.began)}"]
        if run.ended:
            words.append(f"took {page.duration(run.ended - run.began)}")
        if reason := run.tags.get("reason"):
            words.append(page.plain(reason))
        st.markdown(" · ".join(words))
        _numbers(run)


def _numbers(run: RunView) -> None:
    if run.kind == "scale":  # its runs have them
        return
    epochs, done = run.params.get("training.epochs", "?"), run.epochs_done
    best = queries.history(run, ["val/dice"]).value.get("val/dice", [])
    top = max(best, key=lambda point: point.value) if best else None
    pace = run.metric("time/epoch_s")
    columns = st.columns(5)
    columns[0].metric(f"Epoch of {page.plain(epochs)}", done)
    columns[1].metric("Training loss", page.number(run.metric("train/loss"), 4))
    columns[2].metric("Best validation Dice", page.number(top.value if top else None), help="Mean over the patients.")
    columns[3].metric("Test Dice", page.number(run.metric("test/dice")), help="Of the best epoch, at the end.")
    if run.running and pace and epochs.isdigit():
        every = max(1.0, run.number("evaluation.every_epochs"))
        left = (int(epochs) - done) * (pace + (run.metric("time/validation_s") or 0.0) / every)
        columns[4].metric("Still to go", page.duration(left), help="At the pace of the last epoch.")
    else:
        hours = run.metric("cost/gpu_hours") or run.metric("cost/cpu_hours")
        unit = "GPU" if run.metric("cost/gpu_hours") else "CPU"
        columns[4].metric(f"{unit} hours", page.number(hours, 2))


def _section(run_id: str, section: str) -> None:
    with errands.asking():
        run = queries.view(run_id).value
        {
            "Curves": _curves,
            "Time": _time,
            "Nodes": _nodes,
            "Pictures": _pictures,
            "Settings": _settings,
            "Log": _log,
        }[section](run)


def _curves(run: RunView) -> None:
    if run.kind == "scale":
        _parts(run)
        return
    dice = sorted(name for name in run.latest if name == "val/dice" or name.startswith("val/dice/"))
    found = queries.history(run, ["train/loss", "train/learning_rate", *dice, "time/restart", "time/sentinel"]).value
    if "train/loss" not in found:
        page.empty("No epoch is over yet: the curves begin with the first.")
        return
    marks = [(_epoch_at(found["train/loss"], at), what) for at, what in _marks(run, found)]
    left, right = st.columns(2)
    with left:
        st.subheader("Loss")
        series = {"training": _steps(found["train/loss"])}
        page.draw(
            f"{run.run_id}-loss", [found], lambda: figures.curves(series, "epoch", "mean loss of an image", marks)
        )
    with right:
        st.subheader("Validation Dice")
        if dice:
            scores = {name.removeprefix("val/dice").lstrip("/") or "mean": _steps(found[name]) for name in dice}
            page.draw(
                f"{run.run_id}-dice", [found], lambda: figures.curves(scores, "epoch", "Dice of a patient, mean", marks)
            )
        else:
            page.empty("Not validated yet.")
    st.subheader("Learning rate")
    rate = {"rate": _steps(found["train/learning_rate"])}
    page.draw(
        f"{run.run_id}-rate",
        [found],
        lambda: figures.curves(rate, "epoch", "learning rate", marks, logarithmic=True, height=140),
    )
    _told_marks(run, found)


def _parts(study: RunView) -> None:
    """The runs of a study, whose curves are elsewhere, once there are any."""
    if study.status == "FINISHED":
        page.link("Its curves", "compare", runs=study.run_id)
    else:
        st.caption("Its curves are drawn at its end.")
    for part in queries.parts(study).value:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            page.open_run(part)
            dice = page.number(part.metric("val/dice"))
            st.markdown(f"{page.badge(part.status)} · epoch {part.epochs_done} · validation Dice {dice}")


def _time(run: RunView) -> None:
    names = {f"time/{part}_s": title for part, title in PARTS.items()}
    found = queries.history(run, [*names, "time/validation_s", "time/images_per_s"]).value
    if "time/compute_s" not in found:
        page.empty("No epoch is over yet: where the time goes is known after the first.")
        return
    if (said := watch.verdict(run)) and not any(one.kind == "slow" for one in watch.troubles([run])):
        st.info(page.plain(said), icon=":material/speed:")
    rows: dict[int, dict[str, Any]] = {}
    for name, points in found.items():
        for point in points:
            rows.setdefault(point.step, {"x": point.step})[name] = point.value
    kept = sorted(rows.values(), key=lambda row: row["x"])
    every = -(-len(kept) // 100)
    left, right = st.columns(2)
    with left:
        st.subheader("An epoch's time")
        parts = names | {"time/validation_s": "validation"}
        page.draw(f"{run.run_id}-time", [found], lambda: figures.shares(kept[::every], "epoch", parts, "seconds"))
    with right:
        st.subheader("Speed")
        series = {"all workers": _steps(found.get("time/images_per_s", []))}
        page.draw(f"{run.run_id}-speed", [found], lambda: figures.curves(series, "epoch", "images a second"))
    if start := run.tags.get("start"):
        st.caption(page.plain(f"Until the first step: {start}"))


def _nodes(run: RunView) -> None:
    wanted = [name for name in run.latest if name.startswith("system/") and any(_is_of(name, key) for key in LOADS)]
    if not wanted:
        page.empty("No node has been heard of: tracking.monitor_s says how often they are.")
        return
    found = queries.history(run, [*wanted, *PACE, "time/restart", "time/sentinel"]).value
    end = (run.ended or run.heard) - run.began
    marks = [((at - run.began) / 60, what) for at, what in _marks(run, found)]
    columns = st.columns(2)
    shown = 0
    # The training above the nodes, on the same axis: what its pace was while they did what they did.
    for key, (title, unit, within) in (PACE | LOADS).items():
        series = {"all workers": found[key]} if found.get(key) else _load(found, key)
        if not series:
            continue
        with columns[shown % 2]:
            st.subheader(title)
            minutes = {
                name: [((point.at - run.began) / 60, point.value) for point in points]
                for name, points in series.items()
            }
            page.draw(
                f"{run.run_id}-{key}",
                [found],
                lambda minutes=minutes, unit=unit, within=within: figures.curves(
                    minutes, "minutes since the run began", unit, marks, within, (0, max(end / 60, 0.1)), height=170
                ),
            )
        shown += 1
    _told_marks(run, found)


def _is_of(name: str, kind: str) -> bool:
    """Whether a metric `system/NODE/WHAT` is a load of a kind."""
    what = name.rpartition("/")[2]
    return {
        "gpu": what.startswith("gpu_") and what.endswith("_utilization_percentage"),
        "gpu_memory": what.startswith("gpu_") and what.endswith("_memory_usage_percentage"),
        "disk": what in ("disk_read_megabytes_per_second", "disk_write_megabytes_per_second"),
        "network": what.startswith("network_"),
    }.get(kind, what == kind)


def _load(found: dict[str, list[Point]], kind: str) -> dict[str, list[Point]]:
    """What each node's load of a kind was; several of a kind are added, of GPUs the mean is taken."""
    by_node: dict[str, list[list[Point]]] = {}
    for name, points in found.items():
        if name.startswith("system/") and _is_of(name, kind):
            by_node.setdefault(name.split("/", 2)[1], []).append(points)
    summed = {}
    for node, several in sorted(by_node.items()):
        values: dict[int, list[Point]] = {}
        for points in several:
            for point in points:
                values.setdefault(point.step, []).append(point)
        scale = 1 / len(several) if kind.startswith("gpu") else 1.0
        summed[node] = [
            Point(step, group[0].at, scale * sum(point.value for point in group))
            for step, group in sorted(values.items())
            if len(group) == len(several)
        ]
    return summed


def _pictures(run: RunView) -> None:
    drawn = {path.rpartition("/")[2]: path for path in queries.files(run, "overlays/validation").value}
    numbered = {name.removeprefix("epoch-").removesuffix(".json"): path for name, path in drawn.items()}
    epochs = {int(name): path for name, path in numbered.items() if name.isdecimal()}
    if epochs:
        st.subheader("The worst patients of a validation")
        options = sorted(epochs)
        # While the run goes on the slider follows the last one, unless somebody has moved it: then the address has it.
        key, asked = f"epoch {run.run_id}", page.asked("epoch")
        there = asked.isdecimal() and int(asked) in options
        st.session_state[key] = int(asked) if there else options[-1]

        def move() -> None:
            epoch = st.session_state[key]
            page.ask_for(epoch=None if epoch == options[-1] else str(epoch))

        epoch = st.select_slider("Epoch", options, key=key, on_change=move) if len(options) > 1 else options[0]
        told = json.loads(queries.content(run, epochs[epoch]))
        legend(dict(foreground({int(value): name for value, name in told["labels"].items()})))
        for one in told["slices"]:
            st.markdown(
                f"**{page.plain(one['patient'])}** · {page.plain(one['case'])}, slice {one['slice']} · "
                f"Dice of the volume {page.number(one['dice'])}"
            )
            st.image(queries.content(run, drawn[one["file"]]), caption="scan, reference, prediction")
    tested = [path for path in queries.files(run, "overlays").value if path.endswith(".png")]
    if tested:
        st.subheader("The worst patients of the test")
        for path in tested:
            st.image(queries.content(run, path))
    if not epochs and not tested:
        page.empty("No pictures yet: the worst patients are drawn at validations (evaluation.overlays says how many).")


def _settings(run: RunView) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Settings")
        with errands.asking():
            text = queries.content(run, "experiment.yaml").decode()
            st.code(text, language="yaml", height=420)
            st.download_button("Save as a file", text, "experiment.yaml", icon=":material/download:", on_click="ignore")
    with right:
        st.subheader("Where it comes from")
        facts = {
            "run": run.run_id,
            "data": run.tags.get("data"),
            "commit": run.tags.get("git"),
            "R2D2": run.tags.get("version"),
            "precision": run.tags.get("precision"),
            "workers": run.tags.get("workers"),
            "computed on": run.tags.get("computed_on"),
            "Ray jobs": run.tags.get("job"),
            "weights from": run.tags.get("weights"),
            "attempts": run.tags.get("attempts"),
        }
        with errands.asking():
            dataset = json.loads(queries.content(run, "split.json"))
            facts["patients"] = ", ".join(f"{len(names)} {part}" for part, names in dataset["split"].items())
            facts["came from"] = ", ".join(
                str(one.get("model") or one.get("run")) for one in dataset.get("parents", [])
            )
        st.dataframe(
            [{"what": what, "is": value} for what, value in facts.items() if value], hide_index=True, width="stretch"
        )
        if packages := run.tags.get("packages"):
            st.caption(page.plain(", ".join(f"{name} {version}" for name, version in yaml.safe_load(packages).items())))
        _done(run)
        if run.page:
            st.link_button("All of it at MLflow", run.page, icon=":material/open_in_new:")


def _done(run: RunView) -> None:
    """What people did with it."""
    if run.actions:
        st.subheader("What people did")
        for one in run.actions:
            when = page.plain(page.clock(one["at"]))
            who, what, why = (page.plain(one[key]) for key in ("by", "what", "why"))
            st.markdown(f"{when} · **{who}** · {what}" + (f" · because: {why}" if why else ""))


def _log(run: RunView) -> None:
    jobs = run.tags.get("job", "").split()
    shown = False
    if jobs:
        st.subheader("Job")
        job = jobs[-1]
        if len(jobs) > 1:  # it was gone on with
            key = f"job {len(jobs)}"
            job = str(st.segmented_control("Job", jobs, default=job, format_func=page.plain, required=True, key=key))
        try:
            log = watch.job_log(job)
            page.fresh(log)
            with st.container(height=420, autoscroll=True):  # it shows the end
                st.code(log.value[-20_000:] or "Nothing printed yet.", language=None, wrap_lines=True)
            shown = True
        except InputError as error:
            st.caption(page.plain(f"The log of job {job} is not here: {error}"))
    for path in queries.files(run, "failures").value:
        st.subheader(page.plain(path.rpartition("/")[2].removesuffix(".txt")))
        st.code(
            queries.content(run, path).decode(errors="replace")[-20_000:], language=None, height=300, wrap_lines=True
        )
        shown = True
    if not shown and not jobs:
        page.empty("This run was not a job, and nothing failed: what it printed is where it was started.")


def _actions(run: RunView, stalled: bool) -> None:
    if not page.may_act():
        return
    if run.running:
        with st.popover("Stop", icon=":material/stop_circle:", key="stop-menu"):
            if before := run.tags.get("stop"):
                who, leaves = run.tags.get("stop_by", "somebody"), WHEN.get(before.rpartition(" ")[2], "soon")
                st.info(page.plain(f"{who} has asked it to leave {leaves}. What you ask takes the place of that."))
            when = st.radio("When", list(WHEN), format_func=WHEN.__getitem__, key="stop-when")
            why = st.text_input("Why", key="stop-why", placeholder="It diverges", max_chars=500)
            alone = run.parent is None and run.kind == "run"
            pause = alone and st.radio("Then", list(THEN), format_func=THEN.__getitem__, key="stop-then")
            st.caption("It leaves with a checkpoint.")
            if st.button("Stop this run", type="primary", key="stop"):
                asked = page.act(
                    "Asking", lambda: work.stop(run.run_id, when, why, page.who(), wait=False, pause=pause)
                )
                if asked:
                    st.success(f"Asked: it leaves {WHEN[when]}.")
        if run.parent is None and stalled:
            page.resume(run)
    elif run.status in ("KILLED", "FAILED") and run.parent is None:
        page.resume(run)


def _steps(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(point.step, point.value) for point in points]


def _marks(run: RunView, found: dict[str, list[Point]]) -> list[tuple[float, str]]:
    """When something happened, and what."""
    marks = []
    for name, tag, what in (("time/restart", "restart", "restart"), ("time/sentinel", "sentinel", "diverged")):
        for point in found.get(name, []):
            marks.append((point.at, f"{what}: {run.tags.get(f'{tag}.{point.step}', '?')}"))
    return sorted(marks)


def _told_marks(run: RunView, found: dict[str, list[Point]]) -> None:
    for at, what in _marks(run, found):
        st.caption(f":material/flag: {page.plain(f'{page.clock(at)} {what}')}")


def _epoch_at(losses: Sequence[Point], at: float) -> float:
    """The epoch at a time of the clock, with the part of it that was over."""
    before = [point for point in losses if point.at <= at]
    after = [point for point in losses if point.at > at]
    start = before[-1].step if before else 0
    if before and after:
        return start + (at - before[-1].at) / (after[0].at - before[-1].at)
    return float(start)


main()
