"""The access log: JSON lines on stderr, for the journal."""

from __future__ import annotations

import asyncio
import json
import select
import sys
from datetime import datetime, timezone
from typing import Any

# A write for every line would cost a tenth of what a small image does.
_FLUSH_SECONDS = 0.05


class AccessLog:
    """Writes lines together, some times a second. To be used and flushed in one event loop."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, entry: dict[str, Any]) -> None:
        """Log an entry, with the time of now."""
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self._lines.append(json.dumps({"time": time, **entry}, ensure_ascii=False))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what has not been written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        block = ""
        for line in lines:
            # Up to this size a write to a pipe is not mixed with those of other workers.
            if block and len(block) + len(line) >= select.PIPE_BUF:
                _write(block)
                block = ""
            block += line + "\n"
        if block:
            _write(block)


def _write(block: str) -> None:
    sys.stderr.write(block)
    sys.stderr.flush()
