"""A model's card: what it is, how well it does, what it was made for."""

import textwrap
from collections.abc import Mapping
from typing import Any

import streamlit as st

from apps.dashboard import page
from r2d2.tracking.zoo import ModelVersion

SCORES = ("dice", "iou", "sensitivity", "precision", "hd95_mm", "surface_dice", "volume_error_ml")


def show(card: Mapping[str, Any], chosen: ModelVersion) -> None:
    """Show the card of a model that is looked at."""
    if card["description"]:
        st.markdown(page.plain(card["description"]))
    patients = card["patients"]
    columns = st.columns(4)
    columns[0].metric("Dice", page.number(chosen.dice), help="Mean over the test patients.")
    columns[1].metric("95 % interval", page.interval(chosen.dice_low, chosen.dice_high))
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
                "95 % interval": page.interval(
                    *(one[k] if isinstance(one[k], float) else None for k in ("low", "high"))
                ),
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
