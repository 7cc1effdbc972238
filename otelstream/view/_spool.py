# SPDX-License-Identifier: Apache-2.0
"""A private directory through which many processes hand their finished streams to one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ._record import SpanRecord

ROTATE_AT = 16 * 1024 * 1024  # bytes of one file; what has been read of a longer run is deleted


@dataclass(frozen=True, slots=True)
class Note:
    """What a process says of itself: `started`, `observed`, or `refused` and why."""

    kind: str
    text: str
    process: int


class SpoolWriter:
    """Appends lines, one `write` each and without a lock: it is also called inside the garbage collector.

    A line is on its way to the reader when `write` returns, so a process killed right after loses nothing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._process = 0
        self._file = -1
        self._size = 0
        self._number = 0

    def record(self, record: SpanRecord) -> None:
        self._append(record.to_json())

    def _append(self, line: str) -> None:
        data = line.encode() + b"\n"
        if self._process != os.getpid():
            # A forked child must not write into its parent's file: the reader may delete that one.
            self._process, self._size, self._number = os.getpid(), 0, 0
            self._open()
        elif self._size > ROTATE_AT:
            os.close(self._file)
            self._size, self._number = 0, self._number + 1
            self._open()
        self._size += os.write(self._file, data)

    def _open(self) -> None:
        path = self.folder / f"{self._process}-{self._number:06d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


class SpoolReader:
    """Reads what was appended since the last call; half-written lines wait for their rest."""

    def __init__(self, folder: str | Path, *, delete: bool = True) -> None:
        self.folder = Path(folder)
        self._delete = delete
        self._offsets: dict[str, int] = {}

    def read(self) -> Iterator[SpanRecord | Note]:
        try:
            found = sorted(entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".jsonl"))
        except FileNotFoundError:
            return
        for index, name in enumerate(found):
            yield from self._read(name)
            process = name.partition("-")[0]
            follows = index + 1 < len(found) and found[index + 1].partition("-")[0] == process
            if follows and self._delete:
                # A second look: the writer may have added a last line before it went on to the next file.
                yield from self._read(name)
                (self.folder / name).unlink(missing_ok=True)
                self._offsets.pop(name, None)

    def _read(self, name: str) -> Iterator[SpanRecord | Note]:
        offset = self._offsets.get(name, 0)
        try:
            with open(self.folder / name, "rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offsets[name] = offset + len(whole)
        for line in whole.splitlines():
            try:
                yield _parse(line)
            except (ValueError, TypeError, KeyError):
                # A process that ran out of disk may leave half a line before a whole one.
                continue


def _parse(line: bytes) -> SpanRecord | Note:
    if line.startswith(b'{"note"'):
        data = json.loads(line)
        return Note(data["note"], data["text"], data["process"])
    return SpanRecord.from_json(line)
