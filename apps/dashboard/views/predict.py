"""Predict: a scan in, the mask over it in a viewer, volumes, and the mask to take away."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from niivue_component import niivue_viewer
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from apps.dashboard import door, errands, page
from apps.dashboard.legend import legend
from r2d2.engine import uploads, zoo
from r2d2.engine.looking import Segmented, segmenting
from r2d2.engine.promote import ALIAS
from r2d2.errors import InputError, WorkFailed
from r2d2.tracking import queries

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    from r2d2.imgmed import Volume

UPLOAD, CASE = "Upload", "A case of a dataset"
KINDS = ("nii", "nii.gz", "zip")
VIEWS = {"multiplanar": "Planes and 3D", "axial": "Axial", "coronal": "Coronal", "sagittal": "Sagittal", "3d": "3D"}
HEIGHT = 700


def main() -> None:
    """The page."""
    st.title("Predict")
    with errands.asking():
        versions = errands.answered(queries.shared("models", queries.list_models, 4.0))
        if not versions:
            page.empty(
                "A scan is segmented by a model, and there is none yet. These bring one:",
                "r2d2 demo",
                "r2d2 zoo push experiments/zoo/brain-tissue.zip",
            )
            return
        if not page.may_act():
            page.empty(
                "This dashboard only shows: it was started with `--read-only`. At a terminal:", "r2d2 predict -h"
            )
            return
        models = sorted(versions, key=lambda one: ALIAS not in one.aliases)
        names = {one.reference: " ".join([one.reference, *(f"@{alias}" for alias in one.aliases)]) for one in models}
        if errands.lost("model", [*names]):
            return
        left, right = st.columns([2, 3], gap="large")
        with left:
            key = errands.remember("model", next(iter(names)), [*names])
            model = st.selectbox("Model", [*names], key=key, format_func=lambda one: names[one])
            page.ask_for(model=model)
            card = queries.shared(("shown", model), lambda: zoo.show(model), 60.0).value.card
            classes = ", ".join(name for value, name in card["labels"].items() if value != "0")
            st.caption(page.plain(f"{card['task']} · {card['modality']} · finds {classes} · {card['intended_use']}"))
        with right:
            first = CASE if page.asked("data") else UPLOAD
            key = errands.remember("scan", first, [UPLOAD, CASE])
            source = st.segmented_control("Scan", [UPLOAD, CASE], key=key, required=True)
            if source == UPLOAD:
                _uploaded(model, card["channels"])
            else:
                _of_dataset(model)
    _result()


def _uploaded(model: str, channels: Sequence[str]) -> None:
    """Take a scan from whoever is there: a file for each channel, or one with all."""
    door.unlock()
    if told := st.session_state.pop("refused", None):
        st.error(page.plain(told), icon=":material/error:")
    number = st.session_state.setdefault("uploads", 0)
    many = len(channels) > 1
    files = [
        st.file_uploader(
            f"{page.plain(name)}, or all channels in one file"
            if many and not c
            else page.plain(name)
            if many
            else "File",
            KINDS,
            key=f"upload {number} {c}",
            max_upload_size=uploads.LARGEST_MB,
            help="NIfTI (.nii, .nii.gz), or a zip of the folder of one DICOM series.",
            label_visibility="visible" if many else "collapsed",
        )
        for c, name in enumerate(channels)
    ]
    given = [file for file in files if file is not None]
    channel = _shown(channels)
    left, right = st.columns([1, 3], vertical_alignment="center")
    pressed = left.button("Predict", type="primary", icon=":material/neurology:", disabled=not given)
    right.caption(
        "Checked, read without what the file says of the person, and deleted, at the latest when you leave this page. "
        "The mask stays until you discard it or close this page."
    )
    if not pressed:
        return
    try:
        with st.spinner("Reading"):
            if len(given) not in (1, len(channels)):
                raise InputError(f"{len(given)} files; give one with all channels, or one for each of {len(channels)}")
            _hand_in(model, uploads.read([file.getvalue() for file in given]), channel)
    except (InputError, WorkFailed) as error:
        st.session_state["refused"] = str(error)
    finally:
        _delete(given)
    st.session_state["uploads"] = number + 1
    st.rerun()


def _delete(files: "Sequence[UploadedFile]") -> None:
    """Let the server forget files that were uploaded: it would keep them as long as the page is open."""
    context = get_script_run_ctx()
    if context is not None and runtime.exists():
        for file in files:
            runtime.get_instance().uploaded_file_mgr.remove_file(context.session_id, file.file_id)


def _of_dataset(model: str) -> None:
    """Take a scan of a dataset."""
    chosen = errands.choose_dataset()
    dataset = errands.cases_of(*chosen) if chosen else None
    if dataset is None:
        return
    names = [case.name for case in dataset.cases]
    if errands.lost("case", names):
        return
    name = st.selectbox("Case", names, key=errands.remember("case", names[0], names))
    page.ask_for(case=name)
    channel = _shown(dataset.channels)
    if st.button("Predict", type="primary", icon=":material/neurology:"):
        _hand_in(model, dataset.cases[names.index(name)].images, channel)
        st.rerun()


def _shown(channels: Sequence[str]) -> int:
    """Which of a scan's channels is to be seen beneath the mask."""
    if len(channels) < 2:
        return 0
    numbers = range(len(channels))
    return int(st.selectbox("Shown beneath the mask", numbers, format_func=lambda one: channels[one]))


def _hand_in(model: str, scan: "Volume | Sequence[Path]", channel: int) -> None:
    st.session_state["prediction"] = errands.PREDICTIONS.hand_in(segmenting(model, scan, channel))


def _result() -> None:
    errand = st.session_state.get("prediction")
    if errand is None:
        return
    st.divider()
    if errands.follow(errand, "Predicting"):
        _show(errand.result)
    elif not errand.over and st.button("Discard", icon=":material/delete:"):
        del st.session_state["prediction"]
        st.rerun()


def _show(found: Segmented) -> None:
    for line in found.warnings:
        st.warning(f"{page.plain(line)}. The mask may be wrong.", icon=":material/warning:")
    left, right = st.columns([5, 2], gap="large")
    with right:
        st.subheader("Volumes")
        if found.classes:
            names = {value: name for name, value in found.classes.items()}
            legend(names, {value: f"{found.volumes_ml[name]:.1f} ml" for value, name in names.items()})
        shape = " x ".join(map(str, found.shape))
        spacing = " x ".join(f"{size:.3g}" for size in found.spacing_mm)
        st.caption(page.plain(f"By {found.model}; {shape} voxels of {spacing} mm, on the scan's own grid."))
        opacity = st.slider("Opacity of the mask", 0, 100, 50, 5, format="%d %%")
        view = st.selectbox("View", [*VIEWS], format_func=lambda one: VIEWS[one])
        crosshair = st.toggle("Crosshair", True)
        st.download_button(
            "Download the mask",
            found.mask,
            "mask.nii.gz",
            "application/gzip",
            icon=":material/download:",
            on_click="ignore",
        )
        if st.button("Discard", icon=":material/delete:", help="Deletes the mask and what is shown of the scan."):
            del st.session_state["prediction"]
            st.rerun()
        if found.step != (1, 1, 1):
            every = " x ".join(map(str, found.step))
            st.caption(f"The viewer shows one of {every} voxels; the mask to download has all.")
        st.caption("Contrast: drag with the right mouse button, or *ColorScale* above the picture. Slices: the wheel.")
    with left:
        niivue_viewer(
            nifti_data=found.scan,
            filename="scan.nii.gz",
            overlays=[{"data": found.painted, "name": "mask.nii.gz", "colormap": "gray", "opacity": opacity / 100}],
            height=HEIGHT,
            view_mode=view,
            settings={"crosshair": crosshair, "interpolation": True, "radiological": True},
            update_interval_ms=None,
            key="viewer",
        )


main()
