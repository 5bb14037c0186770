"""A gateway for the tests of the drivers in tests/e2e: it answers as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

LABELS = ("red", "green", "blue")


class Gateway:
    """Answers as the file `behaviour.json` says at that moment.

    Its keys: `stable` and `canary`, each (version, label, scores); `every`, the n-th request goes to the canary;
    `clients`, whose requests go there; `status`; `shadow`, how many comparisons are counted for each answer.
    """

    def __init__(self, behaviour: Path) -> None:
        self._behaviour = behaviour
        self._requests = 0
        self._shadowed = 0

    def __enter__(self) -> Gateway:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = [line for line in head.split("\r\n") if line.startswith("content-length:")]
                await reader.readexactly(int(length[0].split(":")[1]) if length else 0)
                if head.startswith("get /metrics"):
                    status, body = 200, self._metrics()
                else:
                    status, body = self._answer(writer.get_extra_info("peername")[0])
                writer.write(f"HTTP/1.1 {status} Reason\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    def _answer(self, client: str) -> tuple[int, bytes]:
        self._requests += 1
        told = json.loads(self._behaviour.read_text())
        every = told.get("every", 0)
        to_canary = client in told["clients"] if "clients" in told else every and self._requests % every == 0
        version, label, scores = told["canary"] if to_canary else told["stable"]
        self._shadowed += told.get("shadow", 0)
        predictions = [{"label": name, "score": score} for name, score in zip(LABELS, scores)]
        model = {"name": "colours", "version": str(version), "label": label}
        return told.get("status", 200), json.dumps(
            {"success": True, "predictions": predictions, "model": model}
        ).encode()

    def _metrics(self) -> bytes:
        labels = 'model="colours",result="other_label",version="2"'
        return f"# TYPE x counter\ntf2x_gateway_shadow_total{{{labels}}} {self._shadowed}.0\n".encode()
