"""Zoo: every model with its scores, its card, where it comes from; promoted by evidence, given back, taken away."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from apps.dashboard import errands, figures, lineage, page
from r2d2.engine import zoo
from r2d2.engine.promote import ALIAS, promote, roll_back
from r2d2.tracking import queries
from r2d2.tracking.zoo import ModelVersion

LISTED_S, SHOWN_S = 4.0, 60.0
MOST_BARS = 25
SCORES = ("dice", "iou", "sensitivity", "precision", "hd95_mm", "surface_dice", "volume_error_ml")


def main() -> None:
    """The page."""
    st.title("Zoo")
    with errands.asking():
        versions = errands.answered(queries.shared("models", queries.list_models, LISTED_S))
        if not versions:
            page.empty(
                "No models yet: a run that ends registers one. To have one at once, push one of the starter zoo:",
                "r2d2 demo",
                "r2d2 zoo push experiments/zoo/brain-tissue.zip",
            )
            return
        chosen = _browse(versions)
        if chosen is not None:
            _one(chosen, versions)


def _browse(versions: Sequence[ModelVersion]) -> ModelVersion | None:
    """The table of models; the one that is chosen."""
    words = st.text_input(
        "Filter",
        key=errands.remember("filter", ""),
        placeholder="words of a name, task, modality, class, or an alias like @champion",
    )
    page.ask_for(filter=words)
    shown = [one for one in versions if all(word in _words(one) for word in words.lower().split())]
    if not shown:
        page.empty(f"None of {len(versions)} models has all of these words.")
        return None
    names = [one.reference for one in shown]
    rows = [
        {
            "model": one.reference,
            "aliases": [*one.aliases],
            "Dice": one.dice,
            "95 % interval": _interval(one.dice_low, one.dice_high),
            "task": one.task,
            "modality": one.modality,
            "classes": one.classes,
            "from": one.parents,
        }
        for one in shown
    ]
    left, right = st.columns([3, 2], gap="large")
    with left:
        picked = st.dataframe(
            rows,
            hide_index=True,
            height=min(420, 38 + 35 * len(rows)),
            column_config={
                "Dice": st.column_config.NumberColumn(format="%.3f"),
                "aliases": st.column_config.ListColumn(),
            },
            on_select="rerun",
            selection_mode="single-row",
            key=f"models {words}",
        )
    with right:
        if figure := _scores(shown):
            st.altair_chart(figure)
    clicked = picked["selection"]["rows"]
    if clicked and clicked[0] < len(names) and names[clicked[0]] != st.session_state.get("clicked"):
        st.session_state["clicked"] = st.session_state["widget model"] = names[clicked[0]]
    reference = st.selectbox("Model", names, key=errands.remember("model", _first(shown), names))
    page.ask_for(model=reference)
    return shown[names.index(reference)]


def _words(one: ModelVersion) -> str:
    aliases = " ".join(f"@{alias}" for alias in one.aliases)
    return f"{one.reference} {aliases} {one.task} {one.modality} {one.classes}".lower()


def _first(shown: Sequence[ModelVersion]) -> str:
    """What is looked at where nobody said what: a champion, or the first."""
    return next((one.reference for one in shown if ALIAS in one.aliases), shown[0].reference)


def _interval(low: float | None, high: float | None) -> str:
    return page.NONE if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _scores(shown: Sequence[ModelVersion]) -> alt.LayerChart | None:
    """Dice with its interval, model by model."""
    tested = [one for one in shown if one.dice is not None][:MOST_BARS]
    if not tested:
        return None
    table = pd.DataFrame(
        [
            {
                "model": one.reference,
                "Dice": one.dice,
                "low": one.dice if one.dice_low is None else one.dice_low,
                "high": one.dice if one.dice_high is None else one.dice_high,
                "holds": ", ".join(f"@{alias}" for alias in one.aliases) or "no alias",
                "champion": "champion" if ALIAS in one.aliases else "others",
            }
            for one in tested
        ]
    )
    order = [one.reference for one in tested]
    base = alt.Chart(table).encode(
        alt.Y("model:N", title=None, sort=order, axis=alt.Axis(labelLimit=180, labelOverlap=False)),
        color=alt.Color(
            "champion:N",
            title=None,
            scale=alt.Scale(domain=["champion", "others"], range=[figures.COLOURS[0], figures.GREY]),
            legend=alt.Legend(orient="bottom"),
        ),
        tooltip=["model", "Dice", "low", "high", "holds"],
    )
    across = alt.Scale(zero=False, nice=True, padding=12)
    bars = base.mark_rule(strokeWidth=2).encode(
        alt.X("low:Q", title="Dice, mean and 95 % interval", scale=across, axis=alt.Axis(tickCount=5)), alt.X2("high:Q")
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(alt.X("Dice:Q", scale=across))
    return (bars + points).properties(height=30 * len(tested) + 90)


def _one(chosen: ModelVersion, versions: Sequence[ModelVersion]) -> None:
    reference = chosen.reference
    st.subheader(page.plain(reference), divider="gray")
    shown = errands.answered(queries.shared(("shown", reference), lambda: zoo.show(reference), SHOWN_S))
    tabs = st.tabs(["Card", "Versions", "Lineage", "Promote", "Download"])
    with tabs[0]:
        _card(shown.card, chosen)
    with tabs[1]:
        _versions(chosen, versions, shown)
    with tabs[2]:
        _lineage(chosen, versions, shown.card)
    with tabs[3]:
        _promote(chosen, shown)
    with tabs[4]:
        _download(reference)


def _card(card: Mapping[str, Any], chosen: ModelVersion) -> None:
    if card["description"]:
        st.markdown(page.plain(card["description"]))
    patients = card["patients"]
    columns = st.columns(4)
    columns[0].metric("Dice", page.number(chosen.dice), help="Mean over the test patients.")
    columns[1].metric("95 % interval", _interval(chosen.dice_low, chosen.dice_high))
    columns[2].metric(
        "Patients", " + ".join(str(count) for count in patients.values()), help=page.plain(", ".join(patients))
    )
    columns[3].metric("Parameters", f"{card['parameters']:,}")
    left, right = st.columns([2, 3], gap="large")
    with left:
        classes = ", ".join(f"{value} {name}" for value, name in card["labels"].items())
        facts = {
            "Task": card["task"],
            "Modality": card["modality"],
            "Channels": ", ".join(card["channels"]),
            "Classes": classes,
            "Network": f"{card['network']}, {card['plane']} slices",
            "Intended use": card["intended_use"],
            "Licence of the data": textwrap.shorten(card["licence"], 160, placeholder=" ...") or "not stated",
            "Made": f"{card['lineage']['date']}, R2D2 {card['lineage']['r2d2']}, commit {card['lineage']['git'][:12]}",
        }
        st.markdown("\n".join(f"- **{name}:** {page.plain(value)}" for name, value in facts.items()))
        st.markdown("**Known failures**")
        failures = card["known_failures"] or ["None known; few have looked."]
        st.markdown("\n".join(f"- {page.plain(failure)}" for failure in failures))
    with right:
        rows = [
            {
                "score": name,
                "statistic": one["statistic"],
                "value": one["value"],
                "95 % interval": _interval(*(one[k] if isinstance(one[k], float) else None for k in ("low", "high"))),
                "patients": one["n"],
            }
            for name, one in card["scores"].items()
            if name.split("/")[0] in SCORES
        ]
        if rows:
            st.dataframe(rows, hide_index=True, column_config={"value": st.column_config.NumberColumn(format="%.3f")})
        else:
            page.empty("No scores: there were no test patients.")
        if card["worst"]:
            worst = ", ".join(f"{page.plain(one['patient'])} ({one['dice']:.3f})" for one in card["worst"])
            st.caption(f"Worst test patients, with their Dice: {worst}")
    with st.expander("Made for scans like these"):
        _ranges(card["ranges"])


def _ranges(ranges: Mapping[str, Any] | None) -> None:
    if not ranges:
        st.write("Not recorded.")
        return
    axes = ("to the right", "to the front", "to the top")
    rows = [
        {"of the training scans": f"spacing {axis}, mm", "least": low, "largest": high}
        for axis, (low, high) in zip(axes, ranges["spacing_mm"], strict=True)
    ]
    rows += [
        {"of the training scans": f"{channel}, normalized, {name}", "least": low, "largest": high}
        for channel, percentiles in ranges["intensities"].items()
        for name, (low, high) in percentiles.items()
    ]
    st.dataframe(rows, hide_index=True)


def _versions(chosen: ModelVersion, versions: Sequence[ModelVersion], shown: zoo.Shown) -> None:
    own = [one for one in versions if one.name == chosen.name]
    st.dataframe(
        [
            {
                "version": one.version,
                "aliases": [*one.aliases],
                "Dice": one.dice,
                "95 % interval": _interval(one.dice_low, one.dice_high),
                "from": one.parents or "random weights",
                "run": one.run_id,
            }
            for one in own
        ],
        hide_index=True,
        column_config={"Dice": st.column_config.NumberColumn(format="%.3f"), "aliases": st.column_config.ListColumn()},
    )
    if chosen.run_id:
        page.run_link(chosen.run_id, f"The run that made {chosen.reference}")
    st.markdown("**Who was promoted, by whom and why**")
    events = [{"alias": f"@{alias}"} | event for alias, trail in shown.history.items() for event in reversed(trail)]
    if events:
        st.dataframe(events, hide_index=True, column_order=("at", "alias", "did", "version", "by", "reason"))
    else:
        st.caption("Nobody yet.")
    for alias, judged in shown.judgements.items():
        whose = page.plain(f"{chosen.reference} for @{alias}")
        st.markdown(f"**Last judgement of {whose}:** {page.plain(judged['verdict'])}")
        for reason in judged["reasons"]:
            st.markdown(f"- {page.plain(reason)}")


def _lineage(chosen: ModelVersion, versions: Sequence[ModelVersion], card: Mapping[str, Any]) -> None:
    steps = queries.family(versions, chosen.reference)
    origin = [f"run {card['lineage']['run'][:12]}", f"prepared data {card['lineage']['data'][:12]}"]
    if not steps:
        origin.append("random weights")
    theme = "dark" if st.context.theme.type == "dark" else "light"
    st.graphviz_chart(lineage.picture(steps, versions, chosen.reference, origin, theme))
    st.caption(
        "An arrow leads from a model to one that started from its weights. No patient whom one of them was trained or "
        "chosen on plays a part where another is judged."
    )


def _promote(chosen: ModelVersion, shown: zoo.Shown) -> None:
    if told := st.session_state.pop("said", None):
        st.success(page.plain(told), icon=":material/check_circle:")
    left, right = st.columns([1, 2], gap="large")
    with left:
        alias = st.text_input(
            "Alias", key=errands.remember("alias", ALIAS), help="What the model is to be known by."
        ).strip()
        page.ask_for(alias=alias if alias != ALIAS else None)
        st.caption(
            "The gate judges both models on patients whom neither, nor any that they came from, was trained or chosen "
            "on. Nothing changes before somebody presses the button below its evidence."
        )
        reason = st.text_area("Reason", max_chars=500, placeholder="Why; it goes onto the model's record.")
    with right:
        if alias in chosen.aliases:
            st.info(page.plain(f"{chosen.reference} holds @{alias}."), icon=":material/verified:")
        else:
            _judge(chosen, alias, reason, f"judged {chosen.reference} @{alias}")
        _roll_back(chosen, alias, reason, shown)


def _judge(chosen: ModelVersion, alias: str, reason: str, key: str) -> None:
    errand = st.session_state.get(key)
    if errand is None or errand.over:
        again = errand is not None
        if st.button(
            "Judge again" if again else "Judge",
            type="secondary" if again else "primary",
            icon=":material/balance:",
            disabled=not page.may_act(),
        ):
            with page.sentences():
                st.session_state[key] = errands.JUDGEMENTS.hand_in(
                    lambda ask: ask("judge", name=chosen.name, version=chosen.version, alias=alias)
                )
                st.rerun()
    if errand is None or not errands.follow(errand, "Judging"):
        return
    evidence = errand.result
    _evidence(evidence)
    refused = bool(evidence["reasons"])
    if not refused and st.button(
        page.plain(f"Promote {chosen.reference} to @{alias}"),
        type="primary",
        icon=":material/military_tech:",
        disabled=not page.may_act(),
    ):
        _do(chosen, alias, reason, key, evidence, force=False)
    if refused:
        st.caption("To promote it all the same, give a reason: it goes onto the model's record, with your name.")
        if st.button(
            page.plain(f"Force {chosen.reference} to @{alias}"),
            icon=":material/gavel:",
            disabled=not page.may_act() or not reason.strip(),
        ):
            _do(chosen, alias, reason, key, evidence, force=True)


def _do(chosen: ModelVersion, alias: str, reason: str, key: str, evidence: Mapping[str, Any], force: bool) -> None:
    made = page.act(
        "Promoting",
        lambda: promote(chosen.name, chosen.version, alias, None, force, reason, evidence, by=page.who()),
    )
    if made is not None:
        del st.session_state[key]
        before = f", before it {made.before}" if made.before else ""
        st.session_state["said"] = f"{made.model} is @{made.alias} now{before}."
        st.rerun()


def _evidence(evidence: Mapping[str, Any]) -> None:
    """What the gate says, and what it rests on."""
    champion = evidence["champion"]
    if evidence["reasons"]:
        st.error("The gate refuses it.", icon=":material/block:")
        st.markdown("\n".join(f"- {page.plain(reason)}" for reason in evidence["reasons"]))
    else:
        st.success("The gate lets it pass.", icon=":material/check_circle:")
    if "policy" not in evidence:
        return
    st.caption(page.plain(evidence["about"]))
    policy, compared = evidence["policy"], evidence["comparison"]
    columns = st.columns(3)
    if compared:
        columns[0].metric(
            "Dice less the champion's",
            f"{compared['difference']:+.3f}",
            f"{compared['low']:+.3f} to {compared['high']:+.3f}",
            delta_color="off",
            delta_arrow="off",
            help=f"95 % interval over {compared['n']} patients; it may lose {policy['allowed_loss']:g}.",
        )
    else:
        columns[0].metric("Champion", "none", help="Then the number of patients and the floor count alone.")
    columns[1].metric("Patients", len(evidence["rows"]), help=f"At least {policy['min_patients']} are asked for.")
    lowest = min((row["dice"][0] for row in evidence["rows"] if row["dice"][0] is not None), default=None)
    columns[2].metric("Lowest Dice", page.number(lowest), help=f"The floor is {policy['floor']:g}.")
    models = [evidence["candidate"], *([champion] if champion else [])]
    points = [
        {"patient": row["patient"], "model": model, "Dice": value}
        for row in evidence["rows"]
        for model, value in zip(models, row["dice"], strict=True)
        if value is not None
    ]
    if points:
        st.altair_chart(_paired(points, models, policy["floor"]))


def _paired(points: list[dict[str, Any]], models: list[str], floor: float) -> alt.LayerChart:
    """Every patient's Dice from both models, joined by a line."""
    table = pd.DataFrame(points)
    base = alt.Chart(table).encode(alt.Y("patient:N", title=None, axis=alt.Axis(labelLimit=160)))
    lines = base.mark_line(color=figures.GREY, strokeWidth=1.5).encode(alt.X("Dice:Q"), detail="patient:N")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        alt.X("Dice:Q", title="Dice of each patient", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6)),
        alt.Color(
            "model:N",
            title=None,
            scale=alt.Scale(domain=models, range=list(figures.COLOURS[: len(models)])),
            legend=alt.Legend(orient="top"),
        ),
        alt.Shape("model:N", title=None, scale=alt.Scale(domain=models, range=["circle", "diamond"][: len(models)])),
        tooltip=["patient", "model", "Dice"],
    )
    line = alt.Chart(pd.DataFrame({"floor": [floor]})).mark_rule(strokeDash=[4, 4], color="#D55E00").encode(x="floor:Q")
    return (lines + dots + line).properties(height=22 * table["patient"].nunique() + 90)


def _roll_back(chosen: ModelVersion, alias: str, reason: str, shown: zoo.Shown) -> None:
    """Give the alias back to its previous holder."""
    if not shown.history.get(alias):
        return
    st.markdown(f"**Give @{page.plain(alias)} back** to whoever of {page.plain(chosen.name)} held it before.")
    if st.button("Roll back", icon=":material/undo:", disabled=not page.may_act()):
        made = page.act("Giving back", lambda: roll_back(chosen.name, alias, reason, by=page.who()))
        if made is not None:
            st.session_state["said"] = f"{made['model']} is @{made['alias']} again."
            st.rerun()


def _download(reference: str) -> None:
    st.write("Network, experiment, card, the scores of every test patient and checksums: what `r2d2 zoo pull` writes.")
    st.download_button(
        "Download the package",
        lambda: zoo.packed(reference),
        file_name=reference.replace("/", "-") + ".zip",
        mime="application/zip",
        icon=":material/download:",
        on_click="ignore",
    )
    st.code(f"r2d2 zoo push {reference.replace('/', '-')}.zip", language=None)
    st.caption("That brings it into another registry; its checksums are verified there.")


main()
