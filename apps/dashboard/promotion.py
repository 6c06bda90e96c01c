"""A model's promotion: judged first, by the desk, then taken by whoever has seen the evidence; or given back."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from apps.dashboard import errands, figures, page
from r2d2.engine.promote import ALIAS, promote, roll_back
from r2d2.engine.zoo import Shown
from r2d2.tracking.zoo import ModelVersion


def show(chosen: ModelVersion, shown: Shown) -> None:
    """Have a model judged and promoted, or an alias given back."""
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


def _roll_back(chosen: ModelVersion, alias: str, reason: str, shown: Shown) -> None:
    """Give the alias back to its previous holder."""
    if not shown.history.get(alias):
        return
    st.markdown(f"**Give @{page.plain(alias)} back** to whoever of {page.plain(chosen.name)} held it before.")
    if st.button("Roll back", icon=":material/undo:", disabled=not page.may_act()):
        made = page.act("Giving back", lambda: roll_back(chosen.name, alias, reason, by=page.who()))
        if made is not None:
            st.session_state["said"] = f"{made['model']} is @{made['alias']} again."
            st.rerun()
