# SPDX-License-Identifier: Apache-2.0
"""The streams of one run: counted all, held as far as a page can show them."""

from __future__ import annotations

import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

from ._page import page, write_page
from ._record import SpanRecord
from ._sentences import Headline
from ._timeline import Timeline, timeline
from ._turns import Row, assemble

HELD = 10_000  # streams drawn; older ones are only counted
PAGE_NAME = "otelstream.html"


class Session:
    """Collects records in the order in which their streams ended."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque(maxlen=HELD)
        self._tools: deque[SpanRecord] = deque(maxlen=HELD)
        self._outcomes: Counter[str] = Counter()
        self._received = 0
        self._said_200 = 0
        self._failed_after = 0

    def add(self, record: SpanRecord) -> Timeline | None:
        """Count one ended stream, keep its timeline and return it; keep the span of a tool for the page."""
        self._received += 1
        if not record.is_stream:
            self._tools.append(record)
            return None
        line = timeline(record)
        self._rows.append(Row(line.model or record.name, line))
        self._outcomes[line.outcome] += 1
        self._said_200 += line.said_200
        self._failed_after += line.failed_after_200
        return line

    @property
    def received(self) -> int:
        """How many spans there were: a page that was drawn of as many is up to date."""
        return self._received

    @property
    def headline(self) -> Headline:
        return Headline(self._outcomes.total(), self._said_200, self._failed_after)

    @property
    def rows(self) -> list[Row]:
        """What is still held, streams of one turn together."""
        return assemble(self._rows, self._tools)

    def page(self, notes: Sequence[str] = ()) -> str:
        return page(self.rows, notes=notes, counted=self.headline, outcomes=self._outcomes)


class PageFile:
    """Where the page goes, rewritten as a session grows but never more often than it is worth.

    The directory wanted may be read-only: then the page goes to a temporary one, and `moved` says so.
    """

    def __init__(self, path: str | Path, *, fall_back: bool = True) -> None:
        self.path = Path(path).absolute()
        self.moved = False
        self._next = 0.0
        self._written = -1
        if not _writable(self.path):
            if not fall_back:
                raise OSError(f"{self.path} cannot be written")
            self.moved = True
            self.path = Path(tempfile.mkdtemp(prefix="otelstream-")) / self.path.name

    def update(self, session: Session, *, last: bool = False) -> bool:
        """Write the page if there is something new and it is time, or if it is the last chance."""
        received = session.received
        now = time.monotonic()
        if received == self._written or not session.headline.streams or (now < self._next and not last):
            return False
        write_page(self.path, session.page())
        self._written = received
        # At most a tenth of one core, whatever the size of the page.
        self._next = time.monotonic() + max(1.0, 10 * (time.monotonic() - now))
        return True


def _writable(path: Path) -> bool:
    """Whether a file can be made there: permission bits alone do not tell."""
    if path.is_dir():
        return False
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            return True
    except OSError:
        return False
