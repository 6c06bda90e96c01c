"""What all pages share: who is there and may what, what is asked and done, text as it is, numbers for people."""

import contextlib
import ipaddress
import math
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import altair as alt
import pyarrow as pa
import streamlit as st

from r2d2.console import person
from r2d2.engine import runs as work
from r2d2.engine import watch
from r2d2.errors import InputError, WorkFailed
from r2d2.tracking import queries
from r2d2.tracking.shared import sentence

T = TypeVar("T")
KEPT = 500
"""Charts and tables that are kept for other viewers."""
_made: OrderedDict[Hashable, tuple[Sequence[Any], Any]] = OrderedDict()
_lock = threading.Lock()
LIVE_S = 2.0
"""How often the live parts of a page are read."""
NONE = "-"
"""What stands where there is no number."""
HOW = ("loopback", "oidc", "header")
"""How the server knows who is there, as `r2d2.engine.services.commands` has told it."""
JOIN = "\u2060"
"""A sign that is not seen and has no width."""
STATES = {
    "RUNNING": ("blue", ":material/play_circle:"),
    "FINISHED": ("green", ":material/check_circle:"),
    "FAILED": ("red", ":material/error:"),
    "KILLED": ("orange", ":material/stop_circle:"),
    "SCHEDULED": ("gray", ":material/schedule:"),
}
"""Of runs: a colour, and a sign for those who do not see it."""
TROUBLES = {
    "diverging": ":material/trending_up:",
    "stalled": ":material/hourglass_disabled:",
    "waiting": ":material/hourglass_top:",
    "slow": ":material/speed:",
}
"""Of `watch.Trouble`: a sign for each kind."""


def admit() -> None:
    """Let nobody see more than a door who has not said who they are, where the server is one that asks."""
    how = os.environ.get("R2D2_LOGIN_BY", "")
    if how == "oidc" and not st.user.is_logged_in:
        st.title("R2D2")
        st.write("Log in to see runs and models.")
        st.button("Log in", type="primary", on_click=st.login)
        st.stop()
    if how == "header" and not _named_by_proxy():
        _refuse("The proxy in front of this page has not said who you are. Open the page by the proxy's address.")
    if how not in HOW:
        _refuse("Nobody is asked here who is there. `r2d2 dashboard` starts this page so that it is safe.")


def logged_in() -> bool:
    """Whether who is there has logged in here, and may want to leave."""
    return os.environ.get("R2D2_LOGIN_BY") == "oidc" and bool(st.user.is_logged_in)


def _refuse(why: str) -> None:
    st.title("R2D2")
    st.error(why)
    st.stop()


def _named_by_proxy() -> str:
    """Who the proxy says is there; nothing if it does not, or it was not the proxy who said so."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(peer()) in ipaddress.ip_network(os.environ.get("R2D2_PROXY", "")):
            return str(st.user.get("name") or "")
    return ""


def peer() -> str:
    """The address that this page is asked from."""
    return st.context.ip_address or "127.0.0.1"


def who() -> str:
    """Who is there: the name of the login, or, on the loopback address, the system's user."""
    how = os.environ.get("R2D2_LOGIN_BY", "")
    if how == "oidc":
        name = str(st.user.get("email") or st.user.get("name") or st.user.get("sub") or "somebody")
    else:
        name = _named_by_proxy() if how == "header" else person()
    return "".join(letter for letter in name if letter.isprintable())[:100]


def may_act() -> bool:
    """Whether anything but looking is allowed here."""
    return not os.environ.get("R2D2_READ_ONLY")


def act(doing: str, verb: Callable[[], T]) -> T | None:
    """Do something for the person who is there; what goes wrong is said in a sentence.

    Args:
        doing: What is shown meanwhile.
        verb: What is done.

    Returns:
        What `verb` returns; None if it did not succeed.
    """
    if not may_act():
        st.error("This dashboard only shows: it was started with `--read-only`.")
        return None
    with sentences(), st.spinner(doing):
        done = verb()
        queries.forget()
        return done
    return None


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """What cannot be done or read is said in a sentence, and the rest of the page stays."""
    try:
        yield
    except (InputError, WorkFailed) as error:
        st.error(plain(error), icon=":material/error:")
    except (OSError, LookupError, ValueError) as error:
        told = f"That cannot be shown or done: {sentence(error)} ({type(error).__name__})."
        st.error(plain(told), icon=":material/error:")


def fresh(*answers: queries.Answer) -> None:
    """Say so where what is shown is not what is, and since when."""
    problems = {answer.problem: answer.age_s for answer in answers if answer.problem}
    for problem, age_s in problems.items():
        st.warning(f"As of {duration(age_s)} ago: {plain(problem)}. This page asks again.", icon=":material/cloud_off:")


def once(key: Hashable, source: Sequence[Any], make: Callable[[], T]) -> T:
    """What was made from these objects, once for all viewers, until they are other ones.

    Args:
        key: What it is known by.
        source: What it is made from: objects that nobody changes, and that are shared themselves.
        make: Makes it.
    """
    with _lock:
        before = _made.get(key)
        if before and len(before[0]) == len(source) and all(a is b for a, b in zip(before[0], source, strict=True)):
            _made.move_to_end(key)
            return before[1]
    made = make()
    with _lock:
        _made[key] = source, made
        while len(_made) > KEPT:
            _made.popitem(last=False)
    return made


def draw(key: str, source: Sequence[Any], make: Callable[[], alt.TopLevelMixin | dict[str, Any]]) -> None:
    """Draw a chart; as `once`, because a chart takes time to make and nothing to send.

    Args:
        key: What it is known by, among all charts of all pages.
        source: What it is made from.
        make: Makes it: a chart of Altair's, or a specification whose `datasets` are columns by name.
    """

    def spec() -> dict[str, Any]:
        made = make()
        if isinstance(made, dict):
            return made | {"datasets": {name: pa.table(columns) for name, columns in made["datasets"].items()}}
        told = made.to_dict(validate=False)
        return told | {
            "datasets": {name: pa.Table.from_pylist(rows) for name, rows in told.get("datasets", {}).items()}
        }

    st.vega_lite_chart(None, dict(once(key, source, spec)), key=key)


def live(running: bool) -> float | None:
    """For `st.fragment(run_every=...)`: what goes on is read again, what is over is not."""
    return LIVE_S if running else None


def empty(what: str, *commands: str) -> None:
    """Where there is nothing: what would make something."""
    with st.container(border=True):
        st.markdown(f":material/inbox: {what}")
        for command in commands:
            st.code(command, language=None)


def asked(name: str) -> str:
    """A parameter of the page's address."""
    return str(st.query_params.get(name, ""))


def ask_for(**parameters: str | None) -> None:
    """Put the state of the page into its address, so that it can be sent to a colleague."""
    for name, value in parameters.items():
        if value:
            if st.query_params.get(name) != value:
                st.query_params[name] = value
        elif name in st.query_params:
            del st.query_params[name]


def place(run: queries.RunView) -> tuple[str, str]:
    """The page on which a run is seen, and what that page's address calls it."""
    if run.kind == "scale" and run.status == "FINISHED":
        return "compare", "runs"  # its curves
    return ("sweep" if run.kind == "sweep" else "run"), "run"


def link(label: str, page: str, **parameters: str) -> None:
    """A link to a page."""
    st.page_link(Path(__file__).parent / "views" / f"{page}.py", label=plain(label), query_params=parameters)


def open_run(run: queries.RunView) -> None:
    """A link to where a run is seen."""
    page, called = place(run)
    link(run.name, page, **{called: run.run_id})


def stalled(answer: queries.Answer[queries.RunView]) -> bool:
    """Whether a run goes on as far as its store knows, and nothing had been heard of it when that was asked."""
    return any(one.kind == "stalled" for one in watch.troubles([answer.value], answer.at))


def resume(run: queries.RunView) -> None:
    """What a run, a sweep or a study that did not finish, or has stalled, can be gone on with."""
    resumed = run.run_id, run.ended
    with st.popover("Resume", icon=":material/resume:", key="resume-menu"):
        if watch.clustered():
            st.caption("The cluster goes on with it from its last checkpoint, as a job.")
            told = "Its driver is gone: one that is there all the same loses the run to the job"
            sure = not run.running or st.checkbox(told, key="resume-sure")
            if st.button("Resume it", type="primary", key="resume", disabled=not sure):
                job = act("The cluster takes the job", lambda: work.resume(run.run_id, who(), run.running))
                if job:
                    st.success(plain(f"Job {job.job}: it goes on within half a minute."))
                    st.session_state["resumed"] = resumed
        else:
            st.caption("No cluster takes jobs here. `r2d2 up` starts one; or, where its data are:")
            verb = {"sweep": "tune", "scale": "scale"}.get(run.kind, "train")
            st.code(f"r2d2 {verb} --resume {run.run_id}", language=None)
    if not run.running and st.session_state.get("resumed") == resumed:
        _until_it_goes_on(run.run_id)


@st.fragment(run_every=LIVE_S)
def _until_it_goes_on(run_id: str) -> None:
    with contextlib.suppress(InputError):
        if any(run.run_id == run_id and run.running for run in queries.latest_runs().value):
            queries.forget()
            st.rerun()


def plain(text: Any) -> str:
    """Text as it is: nothing in it is Markdown, HTML, a formula or a sign."""
    told = "".join(letter if letter.isprintable() else " " for letter in str(text))
    for mark in ("://", "www.", "@"):  # what is made a link of, behind any backslash
        told = told.replace(mark, f"{mark[:-1]}{JOIN}{mark[-1]}" if len(mark) > 1 else f"{JOIN}{mark}")
    told = re.sub(r":(?=[\w+-]+:)", f":{JOIN}", told)  # what is made an emoji of
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()<>#+-.!|~:$&^=\"'" else letter for letter in told)


def badge(status: str) -> str:
    """A run's state, in colour and with a sign, as Markdown."""
    colour, sign = STATES.get(status, ("gray", ":material/help:"))
    return f":{colour}-badge[{sign} {plain(status.lower())}]"


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash if there is none."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """An interval for people; a dash if it is not known."""
    return NONE if low is None or high is None else f"{low:.3f} to {high:.3f}"


def duration(seconds: float) -> str:
    """How long: 12 s, 3 min, 2 h 5 min, 3 d 4 h."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if minutes < 90:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {int(seconds % 3600 // 60)} min"
    return f"{hours // 24} d {hours % 24} h"


def ago(at: float | None) -> str:
    """How long ago a time of the clock was."""
    return NONE if at is None else f"{duration(time.time() - at)} ago"


def size(count: float) -> str:
    """How much: 512 B, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def clock(at: float) -> str:
    """A time of the clock, local to this server."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def choose_run(runs: Sequence[queries.RunView]) -> str | None:
    """Let a person choose a run, which the page's address then names; None, and what to do, if there is none.

    Args:
        runs: Those to choose from; one that the address names, by its id or its name, is added.
    """
    # No state of a run is in its name here: what is not among the options any more is taken for one that was typed.
    names = {run.run_id: f"{run.name} · {clock(run.began)}" for run in runs}
    at: int | None = 0
    before = told = asked("run")
    if told:
        try:
            found = queries.find(told).value if told not in names else None
        except InputError as error:
            st.error(plain(error), icon=":material/error:")
            at = None
        else:
            if found is not None and found.run_id not in names:
                names = {found.run_id: f"{found.name} · {clock(found.began)}"} | names
            before = found.run_id if found else told
            at = list(names).index(before)
    if not names:
        empty("No runs yet. The first one:", "r2d2 demo", "r2d2 train FILE")
        return None
    chosen = st.selectbox(
        "Run",
        list(names),
        at,
        lambda one: names.get(one, one),
        key=f"run-{told}",
        placeholder="Choose a run, or type the name or id of one",
        label_visibility="collapsed",
        accept_new_options=True,
    )
    if chosen is None or (chosen not in names and chosen == told):
        return None
    ask_for(run=chosen)
    if chosen != before:
        ask_for(epoch=None)
    if chosen not in names:
        st.rerun()
    return chosen
