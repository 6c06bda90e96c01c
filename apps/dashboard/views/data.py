"""Data: the cases of a dataset slice by slice, what a check finds, the fingerprint."""

import hashlib
import textwrap
from typing import Any

import streamlit as st

from apps.dashboard import errands, page
from apps.dashboard.legend import legend
from r2d2.data.cases import Dataset
from r2d2.engine.looking import Seen, see
from r2d2.segeval import foreground

PLANES = ("axial", "coronal", "sagittal")


def main() -> None:
    """The page."""
    st.title("Data")
    chosen = errands.choose_dataset()
    if chosen is None:
        return
    dataset = errands.cases_of(*chosen)
    if dataset is None:
        return
    patients = len({case.patient for case in dataset.cases})
    channels = ", ".join(page.plain(name) for name in dataset.channels)
    told = f"**{page.plain(dataset.name)}** · {len(dataset.cases)} scans of {patients} patients · channels {channels}"
    st.markdown(told)
    if dataset.licence:
        st.caption(page.plain(f"Licence: {textwrap.shorten(dataset.licence, 160, placeholder=' ...')}"))
    slices, checked = st.tabs(["Slices", "Check and fingerprint"], key="tab", bind="query-params")
    with slices:
        _slices(dataset)
    with checked:
        _check(*chosen, dataset)


@st.cache_resource(max_entries=4, ttl=900, show_spinner="Reading the case")
def _seen(key: str, _case: Any) -> Seen:  # noqa: ARG001
    return see(_case)


@st.fragment
def _slices(dataset: Dataset) -> None:
    names, channels = [case.name for case in dataset.cases], dataset.channels
    if errands.lost("case", names):
        return
    left, right = st.columns([2, 3], gap="large")
    with left:
        name = st.selectbox("Case", names, key=errands.remember("case", names[0], names))
        plane = st.segmented_control("Plane", PLANES, key=errands.remember("plane", PLANES[0], PLANES), required=True)
        channel = channels[0]
        if len(channels) > 1:
            key = errands.remember("channel", channel, channels)
            channel = st.pills("Channel", channels, key=key, format_func=page.plain, required=True)
        case = dataset.cases[names.index(name)]
        files = [*case.images, case.label]
        with page.sentences():
            state = repr([(str(file), file.stat().st_mtime_ns) for file in files]) + repr(case.structures)
            seen = _seen(hashlib.sha256(state.encode()).hexdigest(), case)
            count = seen.slices(plane)
            key = f"slice {name} {plane}"
            if key not in st.session_state:
                asked = page.asked("slice") if (name, plane) == (page.asked("case"), page.asked("plane")) else ""
                at = int(asked) if asked.isdecimal() and len(asked) < 6 else seen.fullest(plane) + 1
                st.session_state[key] = min(max(at, 1), count)
            number = st.slider("Slice", 1, count, key=key) if count > 1 else 1
            opacity = st.slider("Opacity of the labels", 0, 100, 45, 5, format="%d %%")
            low, high = seen.intensities[channels.index(channel)]
            shape = " x ".join(map(str, seen.mask.shape))
            spacing = " x ".join(f"{size:.3g}" for size in seen.spacing_mm)
            st.caption(
                f"{shape} voxels of {spacing} mm, to the right, front and top. Black {low:.4g}, white {high:.4g}."
            )
            legend(dict(foreground(dataset.labels)))
            with right:
                index = channels.index(channel)
                st.image(seen.picture(plane, number - 1, index, opacity / 100), width="stretch")
                words = f"{name}, {plane} slice {number} of {count}, channel {channel}"
                side = (
                    "The patient's front is on the left."
                    if plane == "sagittal"
                    else "The patient's left is on the right."
                )
                st.caption(f"{page.plain(words)}. {side}")
            page.ask_for(case=name, plane=plane, slice=str(number), channel=channel)


def _check(path: str, labels: str | None, dataset: Dataset) -> None:
    errand = errands.check_of(path, labels)
    if errand is None or errand.over:
        told = "Check again" if errand else "Check"
        about = "Reads every scan and mask once. Whoever opens this page sees what was found."
        if st.button(told, type="secondary" if errand else "primary", disabled=not page.may_act(), help=about):
            errands.check(path, labels)
            st.rerun()
    if errand is None:
        page.empty(
            "Nobody has checked this dataset since the dashboard was started. The check reads every scan and mask: "
            "grids, labels, doubled scans, odd spacings.",
            f"r2d2 data check {path}",
        )
        return
    if not errands.follow(errand, "Checking"):
        return
    found = errand.result
    for message in found["errors"]:
        st.error(page.plain(message), icon=":material/error:")
    for message in found["warnings"]:
        st.warning(page.plain(message), icon=":material/warning:")
    if not found["errors"]:
        st.success("Nothing here would spoil a training.", icon=":material/check_circle:")
    classes = [name for _, name in foreground(dataset.labels)]
    rows = [
        {
            "case": row["case"],
            "shape": " x ".join(map(str, row["shape"])),
            "spacing in mm": " x ".join(f"{size:.3g}" for size in row["spacing_mm"]),
        }
        | {f"{name}, voxels": row["voxels"][name] for name in classes}
        for row in found["cases"]
    ]
    st.subheader("Cases")
    st.dataframe(rows, hide_index=True)
    if found["fingerprint"]:
        _fingerprint(found["fingerprint"], classes)


def _fingerprint(found: dict[str, Any], classes: list[str]) -> None:
    st.subheader("Fingerprint")
    left, right = st.columns(2, gap="large")
    with left:
        axes = ("to the right", "to the front", "to the top")
        st.caption("Shape and spacing over all cases")
        st.dataframe(
            [
                {
                    "": f"{what} {axis}",
                    "smallest": values["min"][i],
                    "median": values["median"][i],
                    "largest": values["max"][i],
                }
                for what, values in (("voxels", found["shape"]), ("mm", found["spacing_mm"]))
                for i, axis in enumerate(axes)
            ],
            hide_index=True,
        )
    with right:
        st.caption("Volumes of the classes in the cases that have them, in ml")
        st.dataframe(
            [
                {"class": name, "cases": found["classes"][name]["cases"]}
                | {
                    title: (found["classes"][name]["volume_ml"] or {}).get(key)
                    for key, title in (("min", "smallest"), ("median", "median"), ("max", "largest"))
                }
                for name in classes
            ],
            hide_index=True,
        )
    st.caption("Intensities, over as many voxels of every case")
    st.dataframe(
        [
            {"channel": channel, "class": name}
            | {key: values.get(key) for key in ("mean", "deviation", "p0.5", "p50", "p99.5")}
            for channel, of in found["intensities"].items()
            for name, values in of.items()
        ],
        hide_index=True,
    )


main()
