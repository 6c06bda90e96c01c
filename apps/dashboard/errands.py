"""What takes long: handed to a desk, followed on the page, never done by the server's own threads of a page."""

import contextlib
import hashlib
import itertools
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from apps.dashboard import page
from r2d2 import config
from r2d2.engine import data
from r2d2.engine.desk import Desk, Errand
from r2d2.errors import InputError
from r2d2.tracking import queries
from r2d2.tracking.shared import Refused, Shared

T = TypeVar("T")
PREDICTIONS, JUDGEMENTS, CHECKS = Desk(most=2), Desk(), Desk()
SUBMISSIONS = Desk(keeps=True)  # who has pressed Train may close the page
EVERY_S, AGAIN_S = 0.5, 4.0
MOST_CHECKS = 20
MOST_FILES = 200_000
LISTED_S = 5.0
"""How old the list of a dataset's cases may be."""
_checks: OrderedDict[tuple[str, str | None], tuple[str, Errand]] = OrderedDict()
_listings = Shared(2)


def follow(errand: Errand, doing: str) -> bool:
    """Show how far an errand is, or why it failed; whether it is over and well.

    Args:
        errand: Of one of the desks.
        doing: What it does, for people.
    """
    if not errand.over:
        _progress(errand, doing)
        return False
    if errand.error:
        st.error(page.plain(errand.error), icon=":material/error:")
        return False
    return True


@st.fragment(run_every=EVERY_S)
def _progress(errand: Errand, doing: str) -> None:
    if errand.over:
        st.rerun()
    ahead = errand.ahead
    if ahead:
        others = "one other is" if ahead == 1 else f"{ahead} others are"
        st.progress(0.0, f"Waiting: {others} before this one, and one is done at a time.")
    elif errand.total:
        st.progress(min(1.0, errand.done / errand.total), f"{doing}: {errand.done} of {errand.total}")
    else:
        st.progress(0.0, f"{doing}: starting, which takes some seconds the first time")


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """As `page.sentences`, for what is to be there: the page runs again by itself until it is, or never will be."""
    with page.sentences():
        try:
            yield
        except InputError as error:
            if not isinstance(error, Refused):
                again()
            raise


def answered(answer: queries.Answer[T]) -> T:
    """What is known; if it is not the newest, that is said, and the page runs again by itself."""
    page.fresh(answer)
    if answer.problem:
        again()
    return answer.value


def again() -> None:
    """Run the page again in a few seconds."""
    _again(time.monotonic())


@st.fragment(run_every=AGAIN_S)
def _again(began: float) -> None:
    if time.monotonic() - began > AGAIN_S / 2:
        st.rerun()


def remember(name: str, default: Any = None, among: Sequence[Any] | None = None) -> str:
    """The key of a widget that begins with what the page's address says, and then is what somebody makes it.

    Args:
        name: The parameter of the address.
        default: What it begins with where the address says nothing.
        among: What it may be; what is not among these is the default.
    """
    key = f"widget {name}"
    value = st.session_state.get(key, page.asked(name) or default)
    st.session_state[key] = value if among is None or value in among else default
    return key


def lost(name: str, among: Sequence[Any]) -> bool:
    """Say so where the page's address names what is not there, and let somebody choose: nothing takes its place."""
    asked = page.asked(name)
    if f"widget {name}" in st.session_state or not asked or asked in among:
        return False
    st.error(f"{page.plain(asked)} is not here, or not any more.", icon=":material/error:")
    if st.button("Show those that are here", key=f"lost {name}"):
        page.ask_for(**{name: None})
        st.rerun()
    return True


def choose_dataset() -> tuple[str, str | None] | None:
    """Let somebody choose a folder of data; its path and, where its own file does not say them, its classes.

    Those that runs were trained on and those in R2D2_HOME/data are offered. Whoever may act may name another folder.
    """
    known = _known()
    asked = st.session_state.get("widget data") or page.asked("data")
    if asked and asked not in known and page.may_act():
        known[asked] = None
    if not known and not page.may_act():
        page.empty("No run has been trained on data of this machine yet.")
        return None
    path = st.selectbox(
        "Dataset",
        [*known],
        index=None,
        key=remember("data", among=[*known]),
        placeholder="A folder: choose one, or type its path" if page.may_act() else "Choose a folder",
        accept_new_options=page.may_act(),
        help="In the layout of the Medical Segmentation Decathlon or nnU-Net, with plain `images/` and `labels/`, or a "
        "folder for each patient with DICOM.",
    )
    page.ask_for(data=path)
    if not path:
        page.empty(
            "Choose a folder of annotated scans. Without one, these make some:",
            "r2d2 data synthesize brain brains --patients 12",
            "r2d2 data fetch Task01_BrainTumour .",
        )
        return None
    labels = known.get(path)
    if labels is None and not (Path(path) / "dataset.json").exists() and page.may_act():
        labels = st.text_input(
            "Classes",
            key=remember("classes", ""),
            placeholder="0: background, 1: lesion",
            help="By their value in the masks.",
        )
        page.ask_for(classes=labels)
    return path, labels or None


def _known() -> dict[str, str | None]:
    """The folders of data that are offered, with their classes."""
    found: dict[str, str | None] = {}
    with page.sentences():
        found |= queries.shared("datasets", queries.datasets, 15.0).value
    folder = config.home() / "data"
    if folder.is_dir():
        found |= {str(one): None for one in sorted(folder.iterdir()) if one.is_dir() and str(one) not in found}
    return found


def cases_of(path: str, labels: str | None) -> "data.Dataset | None":
    """The cases of a dataset; None if it is none, which is said."""
    try:
        return _listed(path, labels)
    except InputError as error:
        st.error(page.plain(error), icon=":material/error:")
        if not isinstance(error, Refused):
            again()
        return None


def _listed(path: str, labels: str | None) -> "data.Dataset":
    """The cases of a dataset, as they were some seconds ago at most; all viewers share them."""

    def question() -> "data.Dataset":
        # Without a list of its own a folder is walked, and what looks like DICOM opened: of `/`, all there is.
        files = (name for _, _, names in os.walk(path) for name in names)
        if not (Path(path) / "dataset.json").exists() and next(itertools.islice(files, MOST_FILES, None), None):
            raise LookupError(f"{path}: more than {MOST_FILES} files are in it, which a page does not list")
        try:
            return data.listed(path, labels)
        except InputError as error:  # what it was before is no answer
            raise LookupError(str(error)) from None

    return _listings.ask((path, labels), question, LISTED_S).value


def _state(path: str, labels: str | None) -> str:
    """What tells whether a dataset's files are still the same: which, how large, how old."""
    told = []
    for case in _listed(path, labels).cases:
        for path_of in (*case.images, case.label):
            with contextlib.suppress(OSError):
                for file in sorted(path_of.iterdir()) if path_of.is_dir() else (path_of,):
                    found = file.stat()
                    told.append(f"{file} {found.st_size} {found.st_mtime_ns}")
    return hashlib.sha256("\n".join(told).encode(errors="surrogateescape")).hexdigest()


def check_of(path: str, labels: str | None) -> Errand | None:
    """The check of a dataset that somebody has asked for, whoever it was; None if its files are other ones since."""
    if (path, labels) not in _checks:
        return None
    state, errand = _checks[path, labels]
    with contextlib.suppress(InputError):
        if state == _state(path, labels):
            return errand
    return None


def check(path: str, labels: str | None) -> None:
    """Have a dataset checked; whoever looks at it sees what was found."""
    with page.sentences():
        state = _state(path, labels)
        _checks[path, labels] = state, CHECKS.hand_in(lambda ask: ask("check", path=path, labels=labels))
        while len(_checks) > MOST_CHECKS:
            _checks.popitem(last=False)
