"""Streamlit's command, beside which what the first page needs is imported already: `serve.py run app.py ...`."""

import contextlib
import gc
import sys
import threading
from pathlib import Path

from streamlit.web.cli import main

if (root := str(Path(__file__).parents[2])) not in sys.path:  # of the clone, or of the files in the wheel
    sys.path.insert(0, root)

from apps.dashboard import door


def _warm() -> None:
    """Import what the pages need, and ask the store what the first of them shows."""
    import altair  # noqa: F401
    import pandas  # noqa: F401

    from r2d2.engine import watch
    from r2d2.errors import InputError
    from r2d2.tracking import queries

    for ask in (queries.latest_runs, watch.nodes):
        with contextlib.suppress(InputError):
            ask()
    gc.freeze()  # what was imported stays: nobody need look through it for what can go


if __name__ == "__main__":
    door.guard()
    threading.Thread(target=_warm, name="warm", daemon=True).start()
    sys.exit(main(prog_name="streamlit"))
