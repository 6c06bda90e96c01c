"""What a person sees while long work runs: one bar or line at a time, on standard error."""

import getpass
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

Advance = Callable[..., None]
"""Called when one more part is done; a `note` given to it stands behind the bar."""

stderr = Console(stderr=True, highlight=False)


def command() -> str:
    """How this program is called from here: `r2d2`, or the path it was called by where no PATH leads to it."""
    called = Path(sys.argv[0])
    return "r2d2" if shutil.which("r2d2") or called.name != "r2d2" else str(called)


def person() -> str:
    """The system's user, or the number of one without a name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def say(text: str) -> None:
    """A line for a person, on standard error."""
    stderr.print(text, soft_wrap=True, markup=False)


_watchers: list[Callable[[str, int, int], None]] = []


@contextmanager
def watched(report: Callable[[str, int, int], None]) -> Iterator[None]:
    """Meanwhile tell `report` what every bar counts, how much is done, and of how much; no bar is shown."""
    _watchers.append(report)
    try:
        yield
    finally:
        _watchers.remove(report)


@contextmanager
def bar(description: str, total: int) -> Iterator[Advance]:
    """A progress bar on standard error; where that is no terminal, a line at a tenth of the way each time."""
    if _watchers:
        passed = 0

        def tell(note: str = "", done: int | None = None) -> None:  # noqa: ARG001
            nonlocal passed
            passed = passed + 1 if done is None else done
            _watchers[-1](description, passed, total)

        _watchers[-1](description, 0, total)
        yield tell
        return
    if stderr.is_terminal:
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=stderr) as progress:
            task = progress.add_task(description, total=total, note="")

            def advance(note: str = "", done: int | None = None) -> None:
                if done is None:
                    progress.advance(task)
                else:
                    progress.update(task, completed=done)
                if note:
                    progress.update(task, note=note)

            yield advance
        return

    count, shown = 0, 0

    def report(note: str = "", done: int | None = None) -> None:
        nonlocal count, shown
        count = count + 1 if done is None else done
        tenths = 10 * count // max(1, total)
        if tenths > shown or count == total:
            shown = tenths
            print(f"{description}: {count}/{total}  {note}".rstrip(), file=sys.stderr, flush=True)

    yield report


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Bars one after another, for work that says itself what it counts, how much is done, and of how much."""
    with ExitStack() as shown:
        counted, last = "", -1
        advance: Advance = lambda: None  # noqa: E731

        def report(what: str, done: int, total: int) -> None:
            nonlocal counted, last, advance
            if what != counted:
                shown.close()
                counted, last, advance = what, -1, shown.enter_context(bar(what, total))
            if done != last:  # who counts megabytes tells of each of them many times
                last = done
                advance(done=done)

        yield report


@contextmanager
def live_table(render: Callable[[], tuple[Sequence[str], list[Sequence[str]]]]) -> Iterator[Callable[..., None]]:
    """A table on standard error that changes in place; where that is no terminal, the lines that are said instead.

    Args:
        render: Gives the headings and the rows, the most important first: of more than fit, the others are counted.

    Yields:
        Called when something has changed, with a line that says what.
    """

    def drawn() -> Table:
        headings, rows = render()
        fit = max(5, stderr.height - 6)
        shown = Table(*headings, box=None, pad_edge=False)
        for row in rows[:fit]:
            shown.add_row(*row)
        if len(rows) > fit:
            shown.add_row(f"and {len(rows) - fit} more")
        return shown

    if not stderr.is_terminal:
        yield lambda line="": say(line) if line else None
        return
    with Live(drawn(), console=stderr, auto_refresh=False) as live:
        yield lambda line="": live.update(drawn(), refresh=True)  # noqa: ARG005
