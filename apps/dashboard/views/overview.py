"""Overview: what is in trouble, what the nodes do, what goes on, what there was."""

from collections.abc import Sequence

import streamlit as st

from apps.dashboard import figures, page
from r2d2.engine import watch
from r2d2.errors import InputError
from r2d2.tracking import queries
from r2d2.tracking.queries import RunView

LOADS = (("cpu", "Processors", 100), ("memory", "Memory", 100), ("gpu", "GPUs", 100))
RATES = (("disk_mb_s", "Disk"), ("network_mb_s", "Network"))
MOST_PARTS = 4
"""Runs of a sweep or a study that are shown."""


def main() -> None:
    """The whole page."""
    st.title("Overview")
    # Whoever looks at it wants to see what begins, too: it is always live.
    st.fragment(_troubles_and_work, run_every=page.LIVE_S, key="work")()
    st.fragment(_nodes, run_every=watch.EVERY_S, key="nodes")()
    st.fragment(_latest, run_every=page.LIVE_S, key="latest")()


def _troubles_and_work() -> None:
    with page.sentences():
        listed = queries.latest_runs()
        parts = queries.running_parts()
        for trouble in watch.troubles([*listed.value, *parts.value], min(listed.at, parts.at)):
            if trouble.run.parent is not None and trouble.kind == "slow":  # of many trials that is no news
                continue
            with st.container(border=True, horizontal=True, vertical_alignment="center"):
                st.markdown(f"{page.TROUBLES[trouble.kind]} **{trouble.kind}** {page.plain(trouble.text)}")
                page.open_run(trouble.run)
        running = [run for run in listed.value if run.running]
        jobs = _jobs()
        if not running and not jobs:
            return
        st.subheader("Going on")
        for run in running:
            with page.sentences():
                _going_on(run)
        for job in jobs:
            with st.container(border=True):
                waits = f"It waits for slots: {job.waits}" if job.waits else "It has no run yet."
                st.markdown(f":material/pending: {page.plain(job.job)}: {page.plain(job.what)}  \n{page.plain(waits)}")


def _jobs() -> list:
    """The jobs that wait, or have no run yet: what else goes on is seen as a run."""
    if not watch.clustered():
        return []
    try:
        answer = watch.jobs()
    except InputError as error:
        st.warning(page.plain(error), icon=":material/cloud_off:")
        return []
    page.fresh(answer)
    return [job for job in answer.value if job.status in ("PENDING", "RUNNING") and (job.waits or job.run_id is None)]


def _going_on(run: RunView) -> None:
    with st.container(border=True):
        name, epoch, loss, dice = st.columns([3, 3, 1, 1], vertical_alignment="center")
        with name:
            page.open_run(run)
            st.caption(f"{run.kind} · began {page.ago(run.began)}")
        if run.kind in ("sweep", "scale"):
            parts = queries.parts(run).value
            on = [part for part in parts if part.running]
            what = page.plain(f"{'search' if run.kind == 'sweep' else 'workers'}: {run.tags[run.kind]}")
            epoch.caption(f"{what} · {len(parts) - len(on)} of its runs have ended, {len(on)} go on")
            with epoch.container(horizontal=True):
                for part in on[:MOST_PARTS]:
                    page.open_run(part)
        else:
            total = run.params.get("training.epochs", "")
            share = run.epochs_done / int(total) if total.isdigit() and int(total) else 0.0
            epoch.progress(min(1.0, share), text=f"epoch {run.epochs_done} of {page.plain(total)}")
        loss.metric("Loss", page.number(run.metric("train/loss")))
        dice.metric("Dice", page.number(_dice(run)), help="Of the validation.")


def _dice(run: RunView) -> float | None:
    found = run.metric("val/dice")
    return run.metric("sweep/best_dice") if found is None else found


def _nodes() -> None:
    st.subheader("Nodes")
    try:
        answer = watch.nodes()
    except InputError as error:
        st.warning(page.plain(error), icon=":material/cloud_off:")
        return
    page.fresh(answer)
    for node in answer.value:
        with st.container(border=True):
            name, *columns = st.columns([2, *[1] * (len(LOADS) + len(RATES))], vertical_alignment="top")
            name.markdown(f"**{page.plain(node.name)}**")
            last = node.loads[-1] if node.loads else None
            full = f" · disk {last.disk:.0f} % full" if last and last.disk is not None else ""
            name.caption(page.plain(node.about + full) if node.alive else ":material/cloud_off: it is gone")
            if last is None:
                continue
            for column, (key, title, top) in zip(columns, LOADS, strict=False):
                _load(column, node, key, title, "%", top)
            for column, (key, title) in zip(columns[len(LOADS) :], RATES, strict=True):
                _load(column, node, key, title, "MB/s", None)


def _load(column, node: watch.Node, key: str, title: str, unit: str, top: int | None) -> None:  # noqa: ANN001
    points = [(load.at, getattr(load, key)) for load in node.loads if getattr(load, key) is not None]
    with column:
        if not points:
            st.caption(title)
            st.markdown("none" if key == "gpu" else page.NONE)
            return
        value = points[-1][1]
        st.caption(title)
        st.markdown(f"**{value:.0f} {unit}**" if unit == "%" or value >= 10 else f"**{value:.1f} {unit}**")
        if len(points) > 1:
            minutes = [(at - points[-1][0], value) for at, value in points]
            st.html(figures.spark(minutes, top))


def _latest() -> None:
    st.subheader("Latest runs")
    with page.sentences():
        listed = queries.latest_runs()
        page.fresh(listed)
        if not listed.value:
            page.empty("No runs yet. The first one:", "r2d2 demo", "r2d2 train FILE")
            return
        st.markdown(page.once("latest", [listed.value], lambda: _table(listed.value)))


def _table(runs: Sequence[RunView]) -> str:
    """As Markdown: a table that could be sorted would take half a second to load."""
    rows = [("run", "kind", "state", "began", "took", "validation Dice", "test Dice", "why it ended")]
    rows.append(("---",) * 5 + ("---:",) * 2 + ("---",))
    for run in runs:
        at = "{}?{}={}".format(*page.place(run), run.run_id)
        rows.append(
            (
                f"[{page.plain(run.name)}]({at})",
                run.kind,
                page.badge(run.status),
                page.plain(page.clock(run.began)),  # its colons would have emoji loaded
                page.duration((run.ended or run.heard) - run.began),
                page.number(_dice(run)),
                page.number(run.metric("test/dice")),
                page.plain(run.tags.get("reason", "")[:200]),
            )
        )
    return "\n".join("|" + "|".join(row) + "|" for row in rows)


main()
