"""Zoo: every model with its scores, its card, where it comes from; promoted by evidence, given back, taken away."""

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd
import streamlit as st

from apps.dashboard import card, errands, figures, lineage, page, promotion
from r2d2.engine import zoo
from r2d2.engine.promote import ALIAS
from r2d2.tracking import queries
from r2d2.tracking.zoo import ModelVersion

LISTED_S, SHOWN_S = 4.0, 60.0
MOST_BARS = 25


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
    if errands.lost("model", [one.reference for one in versions]):
        return None
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
            "aliases": ", ".join(one.aliases),
            "Dice": one.dice,
            "95 % interval": page.interval(one.dice_low, one.dice_high),
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
                "model": st.column_config.TextColumn(width=120),
                "aliases": st.column_config.TextColumn(width=140),  # both names of one
                "Dice": st.column_config.NumberColumn(format="%.3f", width=60),
                "95 % interval": st.column_config.TextColumn(width=110),
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
    if shown.changed:
        st.warning(page.plain(shown.changed), icon=":material/warning:")
    tabs = st.tabs(["Card", "Versions", "Lineage", "Promote", "Download"], key="tab", bind="query-params")
    with tabs[0]:
        card.show(shown.card, chosen)
    with tabs[1]:
        _versions(chosen, versions, shown)
    with tabs[2]:
        _lineage(chosen, versions, shown.card["lineage"])
    with tabs[3]:
        promotion.show(chosen, shown)
    with tabs[4]:
        _download(reference)


def _versions(chosen: ModelVersion, versions: Sequence[ModelVersion], shown: zoo.Shown) -> None:
    own = [one for one in versions if one.name == chosen.name]
    st.dataframe(
        [
            {
                "version": one.version,
                "aliases": [*one.aliases],
                "Dice": one.dice,
                "95 % interval": page.interval(one.dice_low, one.dice_high),
                "from": one.parents or "random weights",
                "run": one.run_id,
            }
            for one in own
        ],
        hide_index=True,
        column_config={"Dice": st.column_config.NumberColumn(format="%.3f"), "aliases": st.column_config.ListColumn()},
    )
    if chosen.run_id:
        page.link(f"The run that made {chosen.reference}", "run", run=chosen.run_id)
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


def _lineage(chosen: ModelVersion, versions: Sequence[ModelVersion], made: Mapping[str, str]) -> None:
    steps = queries.family(versions, chosen.reference)
    origin = [f"run {made['run'][:12]}", f"prepared data {made['data'][:12]}"]
    if not steps:
        origin.append("random weights")
    theme = "dark" if st.context.theme.type == "dark" else "light"
    st.graphviz_chart(lineage.picture(steps, versions, chosen.reference, origin, theme))
    st.caption(
        "An arrow leads from a model to one that started from its weights. No patient whom one of them was trained or "
        "chosen on plays a part where another is judged."
    )


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
