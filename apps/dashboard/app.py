"""The dashboard's page: services and their state, the latest runs, the models; read anew every few seconds."""

import streamlit as st

from r2d2 import __version__
from r2d2.engine import services
from r2d2.errors import InputError
from r2d2.tracking import queries, store

EVERY_S = 5
COLOURS = {"running": "green", "elsewhere": "blue", "not answering": "orange"}


def main() -> None:
    """The whole page."""
    st.set_page_config(page_title="R2D2", page_icon=":material/neurology:", layout="wide")
    st.title("R2D2")
    st.caption(f"Version {__version__} · read every {EVERY_S} s")
    _services()
    _runs_and_models()


@st.fragment(run_every=EVERY_S)
def _services() -> None:
    st.subheader("Services", divider="gray")
    rows = services.status()
    if not rows:
        st.info("No services of this R2D2_HOME run: `r2d2 up` starts them.")
        return
    for column, row in zip(st.columns(len(rows)), rows, strict=True):
        with column.container(border=True):
            st.markdown(f"**{row.name}** :{COLOURS.get(row.state, 'red')}-badge[{row.state}]")
            st.markdown(f"[{row.page}]({row.page})" if row.name != "dashboard" else row.page)
            st.caption(" · ".join(part for part in (f"since {row.since}", row.about) if part))


@st.fragment(run_every=EVERY_S)
def _runs_and_models() -> None:
    try:
        runs, models = queries.list_runs(), queries.list_models()
        st.caption(f"Recorded in {store.resolve()}")
    except InputError as error:
        st.error(str(error))
        return
    st.subheader("Latest runs", divider="gray")
    if runs:
        score = st.column_config.NumberColumn(format="%.3f")
        columns = ("name", "status", "started", "val/dice", "test/dice", "reason", "run_id")
        st.dataframe(
            [{column: run[column] for column in columns} for run in runs],
            hide_index=True,
            column_config={"val/dice": score, "test/dice": score},
        )
    else:
        st.info("No runs yet: `r2d2 train FILE` makes the first, `r2d2 demo` shows one.")
    st.subheader("Models", divider="gray")
    if models:
        rows = [
            {
                "model": model.reference,
                "aliases": list(model.aliases),
                "task": model.task,
                "classes": model.classes,
                "Dice": model.dice,
                "from": model.dice_low,
                "to": model.dice_high,
                "run": model.run_id,
            }
            for model in models
        ]
        numbers = {name: st.column_config.NumberColumn(format="%.3f") for name in ("Dice", "from", "to")}
        st.dataframe(rows, hide_index=True, column_config=numbers | {"aliases": st.column_config.ListColumn()})
    else:
        st.info("No models yet: a run that ends registers one.")


main()
