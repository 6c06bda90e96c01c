"""A sweep: its trials side by side, which settings matter, and a way to stop a trial."""

import csv
import io
from collections.abc import Mapping, Sequence

import altair as alt
import streamlit as st

from apps.dashboard import errands, figures, page
from r2d2 import config
from r2d2.engine import runs as work
from r2d2.engine import sweep_report, watch
from r2d2.tracking import queries
from r2d2.tracking.queries import RunView


def main() -> None:
    """The whole page."""
    st.title("Sweep")
    with errands.asking():
        sweeps = [run for run in errands.answered(queries.latest_runs()) if run.kind == "sweep"]
        if not sweeps and not page.asked("run"):
            page.empty(
                "No sweeps yet. A sweep file says which settings are tried:", "r2d2 tune experiments/sweeps/FILE"
            )
            return
        run_id = page.choose_run(sweeps)
        if run_id is None:
            return
        answer = queries.view(run_id)
        run = answer.value
        if answer.problem:  # which is said below
            errands.again()
        if run.kind != "sweep":
            st.info("This run is no sweep.")
            page.open_run(run)
            return
        going_on = _going_on(queries.parts(run).value)
        _actions(run, going_on, page.stalled(answer))
        st.fragment(_sweep, run_every=page.live(run.running), key="sweep")(run_id, run.running, going_on)


def _going_on(trials: Sequence[RunView]) -> dict[str, str]:
    """The names of trials that go on, which may be stopped, by their ids."""
    return {trial.run_id: trial.name for trial in trials if trial.running}


def _sweep(run_id: str, was_running: bool, went_on: dict[str, str]) -> None:
    with errands.asking():
        answer = queries.view(run_id)
        run = answer.value
        trials = queries.parts(run)
        if run.running != was_running or _going_on(trials.value) != went_on:
            st.rerun()
        page.fresh(answer, trials)
        file = queries.content(run, "sweep.yaml")
        sweep = page.once(
            f"{run_id}-file", [file], lambda: config.parse_sweep(file.decode(), source=f"sweep {run.name}")
        )
        words = [page.badge(run.status), page.plain(sweep.search), f"{len(trials.value)} of {sweep.number} trials"]
        st.markdown(" · ".join([*words, *([page.plain(run.tags["reason"])] if run.tags.get("reason") else [])]))
        for trouble in watch.troubles(trials.value, trials.at):
            st.warning(page.plain(f"{trouble.run.name}: {trouble.text}"), icon=page.TROUBLES[trouble.kind])
        keys = list(sweep.space)
        _pictures(run, sweep, trials.value)
        st.subheader("Trials")
        if not trials.value:
            page.empty("No trial has begun yet.")
            return
        rows = [
            {
                "open": f"run?run={trial.run_id}",
                "trial": int(trial.tags.get("trial", -1)),
                "state": trial.status.lower(),
                **{key.removeprefix("training."): trial.tags.get(f"trial.{key}", "") for key in keys},
                "epoch": trial.epochs_done,
                "validation Dice": trial.metric("val/dice"),
                "why it ended": trial.tags.get("reason", ""),
            }
            for trial in trials.value
        ]
        st.dataframe(
            sorted(rows, key=lambda row: -(row["validation Dice"] or 0.0)),
            hide_index=True,
            width="stretch",
            key="trials",
            column_config={
                "open": st.column_config.LinkColumn("", display_text="open", width="small"),
                "validation Dice": st.column_config.ProgressColumn(format="%.3f", min_value=0.0, max_value=1.0),
            },
        )


def _pictures(run: RunView, sweep: config.Sweep, trials: Sequence[RunView]) -> None:
    scored = [trial for trial in trials if trial.metric("val/dice") is not None]
    if not scored:
        return
    left, right = st.columns([3, 1])
    with left:
        st.subheader("Settings and what they gave")
        page.draw(f"{run.run_id}-parallel", [trials], lambda: _coordinates(sweep, scored))
    with right:
        st.subheader("What matters")
        importance = _importance(run)
        if importance:
            page.draw(f"{run.run_id}-importance", [run], lambda: figures.bars(importance, "variance explained, %"))
        else:
            st.caption("How much each setting explains is known at the sweep's end.")


def _coordinates(sweep: config.Sweep, scored: Sequence[RunView]) -> alt.LayerChart:
    values = [
        {key: _value(sweep, key, trial.tags[f"trial.{key}"]) for key in sweep.space if f"trial.{key}" in trial.tags}
        for trial in scored
    ]
    scales = {
        key: sweep_report.scale(sweep.space[key], [one[key] for one in values if key in one]) for key in sweep.space
    }
    dice = [trial.metric("val/dice") or 0.0 for trial in scored]
    low, high = min(dice), max(dice)
    axes = [(key.removeprefix("training."), [(y, text) for y, text in ticks]) for key, (_, ticks) in scales.items()]
    axes.append(("Dice", [(0.0, f"{low:.3f}"), (1.0, f"{high:.3f}")]))
    lines = []
    for trial, one, score in zip(scored, values, dice, strict=True):
        places = [scales[key][0](one[key]) if key in one else None for key in sweep.space]
        whole = trial.epochs_done >= sweep.experiment.training.epochs
        lines.append((trial.name, score, whole, [*places, (score - low) / ((high - low) or 1.0)]))
    return figures.parallel(axes, lines, "validation Dice")


def _value(sweep: config.Sweep, key: str, told: str) -> str | float:
    """A trial's setting as it is told: of ranges a number, of choices the text that stands at its place."""
    return told if any(one.choice is not None for one in sweep.space[key]) else float(told)


def _importance(run: RunView) -> dict[str, float]:
    """What the sweep found at its end, in percent."""
    if "report/importance.csv" not in queries.files(run, "report").value:
        return {}
    rows = csv.DictReader(io.StringIO(queries.content(run, "report/importance.csv").decode()))
    return {row["setting"].removeprefix("training."): 100 * float(row["importance"]) for row in rows}


def _actions(run: RunView, trials: Mapping[str, str], stalled: bool) -> None:
    if not page.may_act():
        return
    if run.running:
        with st.popover("Stop", icon=":material/stop_circle:", key="stop-menu"):
            what = {run.run_id: "the whole sweep", **trials}
            # Nothing is chosen by itself: a trial that ends is no choice any more, and the sweep would be in its place.
            chosen = st.selectbox(
                "What", list(what), None, what.__getitem__, key="stop-what", placeholder="The sweep, or a trial"
            )
            why = st.text_input("Why", key="stop-why", max_chars=500)
            st.caption("A trial that is stopped counts with what it has; a sweep that is stopped can go on later.")
            # Of a button that is disabled by now Streamlit takes no press.
            pressed = st.button("Stop it", type="primary", key="stop", disabled=chosen is None)
            asked = "Asking", lambda: work.stop(str(chosen), "now", why, page.who(), wait=False)
            if pressed and chosen and page.act(*asked):
                st.success("Asked: it leaves after its present step.")
        if stalled:
            page.resume(run)
    elif run.status in ("KILLED", "FAILED"):
        page.resume(run)


main()
