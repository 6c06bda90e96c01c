"""Train: an experiment as a form, the file that it makes, and the job that a cluster does with it."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import streamlit as st
import yaml

from apps.dashboard import errands, page
from r2d2 import config
from r2d2.config import Setting, form
from r2d2.config.reading import read_value
from r2d2.engine import jobs
from r2d2.errors import InputError
from r2d2.tracking import queries

# What most experiments say; all others are behind a section's name.
COMMON = (
    *("start_from", "preprocess.plane", "preprocess.image_size", "preprocess.normalization", "preprocess.window"),
    *("training.epochs", "training.batch_size", "training.learning_rate", "training.optimizer", "training.loss"),
    *("cluster.workers", "cluster.gpus_per_worker"),
)
# What stands above the form.
OWN = ("name", "model.network", "data.path", "data.labels")
TITLES = {"": "Experiment", "model": "Network", "card": "Card in the zoo"}


def main() -> None:
    """The page."""
    st.title("Train")
    if not page.may_act():
        page.empty("This dashboard only shows: it was started with `--read-only`. At a terminal:", "r2d2 train FILE")
        return
    chosen = errands.choose_dataset()
    dataset = errands.cases_of(*chosen) if chosen else None
    if chosen is None or dataset is None or not _accepted(*chosen):
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        changes = _form(dataset.name)
    page_changes = [one for one in changes if one.partition("=")[0] != "name"]
    if st.query_params.get_all("set") != page_changes:
        st.query_params["set"] = page_changes
    path, labels = chosen
    changes += [f"data.path={yaml.safe_dump(path).splitlines()[0]}", *([f"data.labels={{{labels}}}"] if labels else [])]
    with right:
        _file(changes)


def _accepted(path: str, labels: str | None) -> bool:
    """Whether the check lets a training have this dataset; what is missing is said, and can be done here."""
    errand = errands.check_of(path, labels)
    if errand is None or errand.error:
        if errand is not None:
            st.error(page.plain(errand.error), icon=":material/error:")
        page.empty("A training takes a dataset that the check accepts. It reads every scan and mask once.")
        if st.button("Check", type="primary"):
            errands.check(path, labels)
            st.rerun()
        return False
    if not errands.follow(errand, "Checking"):
        return False
    found = errand.result
    for message in found["errors"]:
        st.error(page.plain(message), icon=":material/error:")
    if found["errors"]:
        st.markdown("These would spoil a training: mend them, then check again.")
        if st.button("Check again"):
            errands.check(path, labels)
            st.rerun()
        return False
    warnings = f", {len(found['warnings'])} warnings (see Data)" if found["warnings"] else ""
    st.success(f"The check accepts it: {len(found['cases'])} scans{warnings}.", icon=":material/check_circle:")
    return True


def _form(dataset: str) -> list[str]:
    """The settings that somebody has changed, as overrides, from widgets made of the experiment's schema."""
    asked = _asked()
    left, right = st.columns(2)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", dataset).strip("-._").lower() or "experiment"
    about = "Of the experiment, and of its model in the zoo."
    name = left.text_input("Name", key=errands.remember("name", slug), help=about)
    page.ask_for(name=name)
    known = [*config.NETWORKS]
    first = str(asked.get("model.network", known[0]))
    key = errands.remember("network", first if first in known else known[0], known)
    network = str(right.selectbox("Network", known, key=key))
    settings = {one.key: one for one in form.settings(network)}
    values: dict[str, Any] = {}
    columns = st.columns(2)
    for number, key in enumerate(COMMON):
        with columns[number % 2]:
            values[key] = _widget(settings[key], asked)
    sections: dict[str, list[Setting]] = {}
    for one in settings.values():
        if one.key not in (*COMMON, *OWN):
            sections.setdefault(one.section, []).append(one)
    told = form.about(network)
    st.caption("Everything else; what is left empty is as it is by itself, in grey.")
    for section, inside in sections.items():
        changed = sum(one.key in asked for one in inside)
        title = TITLES.get(section, section.replace("_", " ").replace(".", " · ").capitalize())
        with st.expander(title + (f" ({changed} changed)" if changed else ""), key=f"section {section}"):
            if section in told:
                st.caption(told[section])
            columns = st.columns(2)
            for number, one in enumerate(inside):
                with columns[number % 2]:
                    values[one.key] = _widget(one, asked)
    changes = [f"name={yaml.safe_dump(name).splitlines()[0]}"]
    changes += [] if network == known[0] else [f"model.network={network}"]
    return changes + [settings[key].change(value) for key, value in values.items() if value not in (None, "")]


def _asked() -> dict[str, Any]:
    """The settings in the page's address; what makes no sense there is left out."""
    found = {}
    for change in st.query_params.get_all("set"):
        key, _, text = change.partition("=")
        try:
            found[key] = read_value(text)
        except ValueError:
            continue
    return found


def _widget(one: Setting, asked: Mapping[str, Any]) -> Any:
    """What somebody sets a key to; None for its default, which is shown."""
    label = one.key.rpartition(".")[2].replace("_", " ")
    default = "not set" if one.default in (None, "") else one.default
    about = {"help": one.help or None, "key": f"set {one.key}"}
    value = asked.get(one.key)
    if one.kind in ("whole", "number"):
        kind = int if one.kind == "whole" else float
        least, most = (None if bound is None else kind(bound) for bound in (one.least, one.most))
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        fits = fits and (least is None or value >= least) and (most is None or value <= most)
        step = 1 if one.kind == "whole" else None
        form_at = "%d" if one.kind == "whole" else "%g"
        start = kind(value) if fits else None
        return st.number_input(label, least, most, start, step, form_at, placeholder=str(default), **about)
    if one.kind in ("choice", "truth") or one.key == "start_from":
        choices = _models() if one.key == "start_from" else [*(one.choices or ("true", "false"))]
        told = str(value).lower() if one.kind == "truth" else value
        index = choices.index(told) if told in choices else None
        shown = str(default).lower() if one.kind == "truth" else str(default)
        picked = st.selectbox(label, choices, index, placeholder=shown, **about)
        return picked if one.kind != "truth" or picked is None else picked == "true"
    if one.kind == "yaml":
        text = "" if value is None else _flow(value)
        return st.text_input(label, text, placeholder=_flow(one.default) if one.default else "none", **about)
    return st.text_input(label, "" if value is None else str(value), placeholder=str(default), **about)


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=100_000).splitlines()[0]


def _models() -> list[str]:
    """What a training may start from."""
    try:
        versions = queries.shared("models", queries.list_models, 4.0).value
    except InputError:  # said elsewhere on the page
        return []
    return [f"zoo:{one.reference}" for one in versions]


def _file(changes: list[str]) -> None:
    """The experiment file, or why there can be none; saved, and done by a cluster."""
    st.markdown("**The experiment file**")
    try:
        text = form.as_file(changes)
        experiment = config.parse(text)
    except InputError as error:
        st.error(page.plain(str(error).removeprefix("experiment: ")), icon=":material/error:")
        return
    st.code(text, language="yaml")
    file = f"{experiment.name}.yaml"
    st.download_button("Save", text, file, "application/yaml", icon=":material/save:", on_click="ignore")
    st.caption("What is not in it is as it is by itself; the run records every key.")
    _submit(text, experiment.name)


@st.fragment(run_every=10.0)
def _until_a_cluster_answers() -> None:
    with contextlib.suppress(InputError):
        queries.shared("takes jobs", jobs.takes_jobs, 10.0)
        st.rerun()


def _submit(text: str, name: str) -> None:
    try:
        answer = queries.shared("takes jobs", jobs.takes_jobs, 10.0)
    except InputError as error:
        st.info(page.plain(f"No cluster takes jobs: {error}"), icon=":material/cloud_off:")
        page.empty("Start one and come back to this page; or save the file and train it at a terminal:", "r2d2 up")
        st.code(f"r2d2 train {name}.yaml", language=None)
        _until_a_cluster_answers()
        return
    cluster = errands.answered(answer)
    errand = st.session_state.get("submission")
    waiting = errand is not None and not errand.over
    off = waiting or bool(answer.problem)
    if st.button("Train", type="primary", icon=":material/play_circle:", disabled=off):
        who = page.who()
        submission = page.act(
            "Submitting", lambda: errands.SUBMISSIONS.hand_in(lambda _: jobs.submit_text(text, name, who))
        )
        if submission is not None:
            st.session_state["submission"] = submission
            st.rerun()
    st.caption(page.plain(f"A job of the cluster at {cluster}"))
    if errand is None or not errands.follow(errand, "Submitting; the data are prepared first"):
        return
    job = errand.result
    if job.exit_code:
        st.error(page.plain(f"Job {job.job} failed: {job.reason or f'r2d2 jobs logs {job.job} says why'}"))
        return
    st.success(page.plain(f"Job {job.job} is {job.status.lower()}."), icon=":material/check_circle:")
    if job.run_id:
        page.link("Watch its run", "run", run=job.run_id)
    else:
        page.empty("Its run begins when the data are prepared; then Overview shows it.", f"r2d2 jobs logs {job.job}")


main()
