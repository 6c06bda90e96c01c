"""Files on their way into the server: taken where a page waits for them, so many bytes at most, and not kept longer.

Streamlit itself takes them from whoever has opened a page, logged in or not, and keeps them until it is closed.
"""

import threading
from typing import Any

from starlette.exceptions import HTTPException
from streamlit import runtime
from streamlit.runtime import Runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager as Files
from streamlit.runtime.scriptrunner import get_script_run_ctx

from r2d2.engine import uploads

MOST_OF_ONE, MOST = 2 * uploads.LARGEST_MB << 20, 4 * uploads.LARGEST_MB << 20
"""Bytes that one page may have uploaded at a time, and all together."""
_taking: set[str] = set()
_lock = threading.Lock()


def guard() -> None:
    """Have Streamlit, in this process, take files from those alone to whom a page has opened."""
    active, add, remove = Runtime.is_active_session, Files.add_file, Files.remove_session_files

    def takes(self: Runtime, session_id: str) -> bool:
        # Uploads alone ask for this (streamlit 1.67), before they read a byte.
        return session_id in _taking and active(self, session_id)

    def taken(self: Files, session_id: str, file: Any) -> None:
        with _lock:
            if session_id not in _taking:
                raise HTTPException(403, "No page waits for a file")
            held = {one: sum(len(file.data) for file in [*of.values()]) for one, of in [*self.file_storage.items()]}
            if held.get(session_id, 0) + len(file.data) > MOST_OF_ONE or sum(held.values()) + len(file.data) > MOST:
                raise HTTPException(413, "So many files wait already that there is no room for this one")
            add(self, session_id, file)

    def removed(self: Files, session_id: str) -> None:
        with _lock:
            _taking.discard(session_id)
            remove(self, session_id)

    Runtime.is_active_session = takes  # type: ignore[method-assign]
    Files.add_file, Files.remove_session_files = taken, removed  # type: ignore[method-assign]


def unlock() -> None:
    """Take files from whoever this page is shown to."""
    if (context := get_script_run_ctx()) is not None:
        _taking.add(context.session_id)


def shut() -> None:
    """Take none any more, and forget those that were not used."""
    if (context := get_script_run_ctx()) is not None:
        _taking.discard(context.session_id)
        if runtime.exists():
            runtime.get_instance().uploaded_file_mgr.remove_session_files(context.session_id)
