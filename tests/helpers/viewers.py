"""Viewers of a Streamlit page that are bare WebSocket sessions: they do what a browser does, and draw nothing."""

import asyncio
import time
from collections.abc import Callable

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect


class Viewer:
    """One session.

    Attributes:
        first_s: How long its first page took.
        refreshes_s: How long each refresh of a live part took, from asking to its last word.
        received: Bytes.
        errors: What the page shows as an exception.
    """

    def __init__(self, address: str, page: str, query: str) -> None:
        self.address, self.page, self.query = address.replace("http", "ws", 1), page, query
        self.first_s = 0.0
        self.refreshes_s: list[float] = []
        self.received = 0
        self.errors: list[str] = []
        self._live: dict[str, float] = {}
        self._hash = ""

    async def watch(self, seconds: float, on_first: Callable[[], None] = lambda: None) -> None:
        """Open the page, and see its live parts refreshed for so long."""
        stream = f"{self.address}/_stcore/stream"
        async with connect(stream, subprotocols=["streamlit"], max_size=None) as socket:  # type: ignore[list-item]
            self.first_s = await self._run(socket)
            on_first()
            due = {part: time.monotonic() + every for part, every in self._live.items()}
            ended = time.monotonic() + seconds
            while due and time.monotonic() < ended:
                part = min(due, key=due.__getitem__)
                await asyncio.sleep(max(0.0, min(due[part], ended) - time.monotonic()))
                if time.monotonic() >= ended:
                    break
                self.refreshes_s.append(await self._run(socket, part))
                due[part] = max(due[part] + self._live[part], time.monotonic())

    async def _run(self, socket, part: str = "") -> float:
        asked = BackMsg()
        state = asked.rerun_script
        state.query_string, state.page_name, state.page_script_hash = self.query, self.page, self._hash
        if part:
            state.fragment_id, state.is_auto_rerun = part, True
        began = time.monotonic()
        await socket.send(asked.SerializeToString())
        while True:
            data = await socket.recv()
            self.received += len(data)
            told = ForwardMsg.FromString(data)
            kind = told.WhichOneof("type")
            if kind == "auto_rerun":
                self._live[told.auto_rerun.fragment_id] = told.auto_rerun.interval
            elif kind == "navigation":
                self._hash = told.navigation.page_script_hash
            elif kind == "delta" and told.delta.new_element.WhichOneof("type") == "exception":
                self.errors.append(told.delta.new_element.exception.message)
            elif kind == "script_finished" and told.script_finished in (0, 1, 3):
                return time.monotonic() - began


def watch(viewers: list[Viewer], seconds: float, on_first: Callable[[], None] = lambda: None) -> None:
    """Have all of them watch at the same time, each from a moment of its own; `on_first`: when one has its page."""

    async def all_of_them() -> None:
        async def one(viewer: Viewer, number: int) -> None:
            await asyncio.sleep(2.0 * number / len(viewers))
            await viewer.watch(seconds, on_first)

        await asyncio.gather(*(one(viewer, number) for number, viewer in enumerate(viewers)))

    asyncio.run(all_of_them())
