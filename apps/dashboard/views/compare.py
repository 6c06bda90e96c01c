"""Runs side by side: what they were told, how they learned, and what they score on each patient."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from apps.dashboard import errands, figures, page
from r2d2 import segeval
from r2d2.errors import InputError
from r2d2.tracking import queries
from r2d2.tracking.queries import RunView

MOST = 6
SCORES = "evaluation/test.json"
SCALING = "report/scaling.json"
TIMES = (
    ("training_s", "Time", "training and validation, s", 1),
    ("speedup", "Speedup of the step", "times as fast as {least}", 1),
    ("training_speedup", "Speedup of the training", "times as fast as {least}", 1),
    ("efficiency", "Efficiency of the step", "of the ideal speedup, %", 100),
    ("kwh", "Energy", "of a training, kWh", 1),
)
"""What is drawn of real workers, if it is known."""
ACROSS = 2

Interval = tuple[float, float, float | None, float | None]

TAGS = {"data": "data", "commit": "git", "precision": "precision", "workers": "workers", "computed on": "computed_on"}
"""What runs may differ in beside their settings, and the tag that says it."""


def main() -> None:
    """The whole page."""
    st.title("Compare")
    with errands.asking():
        listed = errands.answered(queries.latest_runs())
        chosen = _choose(listed)
        _compare(chosen, len(listed))


def _compare(chosen: Sequence[RunView], known: int) -> None:
    if len(chosen) == 1 and chosen[0].kind == "scale":
        _scaling(chosen[0])
    elif len(chosen) < 2:
        page.empty(
            "Choose two runs or more above, or one scaling study."
            if known > 1
            else "There are no two runs yet. Settings to compare are changed from the command line:",
            *([] if known > 1 else ["r2d2 train FILE training.learning_rate=1e-3"]),
        )
    else:
        _differences(chosen)
        # As the curves are told it: a list that is some seconds older would have them begin again and again.
        running = any(queries.view(run.run_id).value.running for run in chosen)
        st.fragment(_curves, run_every=page.live(running), key="curves")([run.run_id for run in chosen], running)
        _patients(chosen)
        for run in chosen:
            if run.kind == "scale":
                _scaling(run)


def _choose(listed: Sequence[RunView]) -> list[RunView]:
    known = {run.run_id: run for run in listed}
    named = _known([told for told in st.query_params.get_all("runs") if told], known)
    chosen = st.multiselect(
        "Runs",
        list(known),
        default=named[:MOST],
        format_func=lambda one: f"{known[one].name} · {page.clock(known[one].began)}" if one in known else one,
        max_selections=MOST,
        placeholder="Choose runs, or type the name or id of one",
        key="chosen",
        label_visibility="collapsed",
        accept_new_options=True,
    )
    ids = _known(chosen, known)
    st.query_params["runs"] = ids
    return [known[run_id] for run_id in ids]


def _known(told: Sequence[str], known: dict[str, RunView]) -> list[str]:
    """The ids of runs by their ids or names, each once; new ones become known, and what is none is said."""
    found = []
    for one in told:
        if one not in known:
            try:
                run = queries.find(one).value
            except InputError as error:
                st.error(page.plain(error), icon=":material/error:")
                continue
            one = run.run_id
            known[one] = run
        found.append(one)
    return list(dict.fromkeys(found))


def _short(value: str) -> str:
    """A setting's value; of a number that somebody drew by chance four digits say enough."""
    return f"{float(value):.4g}" if re.fullmatch(r"\d*\.\d{6,}(e-\d+)?", value) else value


def _differences(chosen: Sequence[RunView]) -> None:
    st.subheader("What differs")
    keys = sorted({key for run in chosen for key in run.params})
    rows: list[dict[str, Any]] = []
    for key in keys:
        values = [run.params.get(key, page.NONE) for run in chosen]
        if len(set(values)) > 1:
            short = [_short(value) for value in values]
            told = short if len(set(short)) == len(set(values)) else values
            rows.append({"setting": key} | dict(zip(_names(chosen), told, strict=True)))
    for name, tag in TAGS.items():
        values = [run.tags.get(tag, page.NONE) for run in chosen]
        if len(set(values)) > 1:
            rows.append({"setting": name} | dict(zip(_names(chosen), values, strict=True)))
    if rows:
        st.dataframe(rows, hide_index=True, width="stretch")
    else:
        st.caption("Nothing: the same settings, data and code.")
    st.subheader("What they score")
    metrics = ("val/dice", "test/dice", "time/training_s", "cost/cpu_hours", "cost/gpu_hours")
    rows = [
        {"score": metric} | {name: run.metric(metric) for name, run in zip(_names(chosen), chosen, strict=True)}
        for metric in metrics
        if any(metric in run.latest for run in chosen)
    ]
    st.dataframe(rows, hide_index=True, width="stretch")


def _curves(ids: Sequence[str], were_running: bool) -> None:
    with errands.asking():
        answers = [queries.view(run_id) for run_id in ids]
        chosen = [answer.value for answer in answers]
        if any(run.running for run in chosen) != were_running:  # what is over is read no more
            st.rerun()
        page.fresh(*answers)
        columns = st.columns(2)
        for column, (metric, title, unit) in zip(
            columns,
            (
                ("val/dice", "Validation Dice", "Dice of a patient, mean"),
                ("train/loss", "Training loss", "mean loss of an image"),
            ),
            strict=True,
        ):
            found = [queries.history(run, [metric]).value for run in chosen]
            series = {
                name: [(point.step, point.value) for point in one.get(metric, [])]
                for name, one in zip(_names(chosen), found, strict=True)
            }
            with column:
                st.subheader(title)
                if any(series.values()):
                    page.draw(
                        f"compare-{metric}-{'-'.join(ids)}",
                        found,
                        lambda series=series, unit=unit: figures.curves(series, "epoch", unit),
                    )
                else:
                    page.empty("None of them has any yet.")


def _patients(chosen: Sequence[RunView]) -> None:
    st.subheader("Patient by patient")
    scored = {}
    for name, run in zip(_names(chosen), chosen, strict=True):
        if SCORES in queries.files(run, "evaluation").value:
            scored[name] = json.loads(queries.content(run, SCORES))
    if len(scored) < 2:
        page.empty("Two runs that have come to their test are needed: then they are compared on the same patients.")
        return
    kinds = sorted(
        {key for rows in scored.values() for row in rows for key in row if key == "dice" or key.startswith("dice/")}
    )
    left, middle, right = st.columns(3)
    first = left.selectbox("First", list(scored), key="first", bind="query-params")
    second = middle.selectbox("Second", list(scored), index=1, key="second", bind="query-params")
    kind = right.selectbox("Score", kinds, key="score", bind="query-params")
    ours, theirs = _of_patients(scored[first], kind), _of_patients(scored[second], kind)
    common = sorted(ours.keys() & theirs.keys())
    if first == second or not common:
        st.info("Choose two runs with test patients in common.")
        return
    if left_out := len(ours.keys() ^ theirs.keys()):
        st.caption(f"{left_out} patients were tested by one of them alone, and are left out.")
    try:
        found = segeval.compare({name: theirs[name] for name in common}, {name: ours[name] for name in common})
    except InputError as error:
        st.info(page.plain(error))
        return
    better = "no difference that chance does not explain" if found.p >= 0.05 else "more than chance explains"
    st.markdown(
        f"The second's less the first's is **{found.difference:+.3f}** in the mean of {found.n} patients "
        f"(95 % interval {found.low:+.3f} to {found.high:+.3f}), p = {found.p:.3g} by Wilcoxon's signed-rank test: "
        f"{better}."
    )
    rows = [
        (name, ours[name], theirs[name]) for name in common if ours[name] == ours[name] and theirs[name] == theirs[name]
    ]
    picture, table = st.columns([3, 2])
    with picture:
        st.altair_chart(figures.paired(rows, first, second, "Dice of a patient's volume"), key="pairs")
    with table:
        told = [{"patient": name, "first": a, "second": b, "difference": b - a} for name, a, b in rows]
        three = st.column_config.NumberColumn(format="%.3f")
        st.dataframe(
            sorted(told, key=lambda row: row["difference"]),
            hide_index=True,
            width="stretch",
            column_config={"first": three, "second": three, "difference": three},
        )


def _of_patients(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float]:
    """The score of each patient: the mean over their scans that have it, NaN if none has."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = row.get(kind)
        values.setdefault(row["patient"], []).extend([] if value is None else [float(value)])
    return {patient: sum(some) / len(some) if some else float("nan") for patient, some in values.items()}


def _scaling(run: RunView) -> None:
    st.subheader(f"Scaling: {page.plain(run.name)}")
    if SCALING not in queries.files(run, SCALING.rpartition("/")[0]).value:
        page.empty("The study has not come to its end: its curves are drawn there.")
        return
    told = json.loads(queries.content(run, SCALING))
    summaries = told["summaries"]
    times = [
        (_by_rule(summaries, lambda one, key=key: one.get(key), factor), key, *told) for key, *told, factor in TIMES
    ]
    columns: list[Any] = []
    for series, key, title, unit in (one for one in times if one[0]):
        columns = columns or [*st.columns(ACROSS)]
        with columns.pop(0):
            st.subheader(title)
            counts = [x for points in series.values() for x, *_ in points]
            least, most = min(counts), max(counts)
            if "speedup" in key:
                series["ideal"] = [(count, count / least, None, None) for count in sorted({least, most})]
            unit = unit.format(least="one worker" if least == 1 else f"{least} workers")
            st.altair_chart(figures.intervals(series, "workers", unit), key=f"{run.run_id}-{key}")
    names = sorted({name for one in summaries for name, value in one["scores"].items() if _is_number(value)})
    if names:
        st.subheader("Scores")
        first = names.index("dice") if "dice" in names else 0
        score = st.columns(ACROSS)[0].selectbox("Score", names, index=first, key=f"{run.run_id}-score")
        series = _by_rule(summaries, lambda one: one["scores"].get(score), 1)
        st.altair_chart(figures.intervals(series, "workers", f"{score} of a patient, mean"), key=f"{run.run_id}-scores")
    rows = [
        {
            "rule": one["rule"],
            "workers": f"{one['workers']}{' virtual' if one['virtual'] else ''}",
            "repeats": one["repeats"],
            "diverged": one.get("diverged", 0),
            "Dice": (one["scores"].get("dice") or {}).get("value"),
            "points lost": ((one.get("loss") or {}).get("dice") or {}).get("value"),
            "verdict": one.get("verdict") or "",
        }
        for one in summaries
    ]
    three, two = (st.column_config.NumberColumn(format=f"%.{digits}f") for digits in (3, 2))
    st.dataframe(rows, hide_index=True, width="stretch", column_config={"Dice": three, "points lost": two})
    # Studies of before say nothing of their bars, which are over the patients of scores.
    bars = told.get("intervals", "95 % over patients")
    st.caption(
        page.plain(f"{told['scored']}; bars of scores: {bars}; of times: 95 % over seeds; no bar: a single seed.")
    )


def _by_rule(
    summaries: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], Any], factor: float
) -> dict[str, list[Interval]]:
    """Workers, value, low and high of each rule, None for ends that nobody knows; virtual workers apart."""
    found: dict[str, list[Interval]] = {}
    for one in summaries:
        if _is_number(told := value(one)):
            name = one["rule"] + (" (virtual)" if one["virtual"] else "")
            low, high = (factor * told[end] if isinstance(told.get(end), float) else None for end in ("low", "high"))
            found.setdefault(name, []).append((one["workers"], factor * told["value"], low, high))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}


def _is_number(told: Mapping[str, Any] | None) -> bool:
    """Whether there is a value that can be drawn: of a distance it may be infinite, which stands as a word."""
    return told is not None and isinstance(told.get("value"), float)


def _names(chosen: Sequence[RunView]) -> list[str]:
    """Their names, with a number where two are called the same."""
    names = [run.name for run in chosen]
    return [name if names.count(name) == 1 else f"{name} ({number + 1})" for number, name in enumerate(names)]


main()
