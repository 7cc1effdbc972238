# SPDX-License-Identifier: Apache-2.0
"""Managed agent sessions: one connection that carries many answers, with a record for each request to a model."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream._core.process.closing import end
from otelstream._core.process.tap import Steps, broken, exhausted, kept_parked
from otelstream._core.record import given
from otelstream._core.record.ending import CUT_SHORT, Ending, cancelled, failed
from otelstream._core.record.stream import StreamObservation, clock
from otelstream._core.record.verdict import ask_to_stop
from otelstream._stainless.faults import leaving
from otelstream._stainless.sdk import Carrier, Handle, Observing, request_attributes
from otelstream._trouble import trouble
from otelstream.anthropic import _session_tools as tools
from otelstream.anthropic._session_grammar import DELTA, SPOKEN, Grammar

MAX_OPEN = 16  # requests of one connection; a thread, which is what one shows, has one at a time
_EVENTS = ("BetaManagedAgentsStreamSessionEvents", "BetaManagedAgentsStreamSessionThreadEvents")
_AGENTS = frozenset({"BetaManagedAgentsSession", "BetaManagedAgentsSessionThread"})  # what has an agent
MAX_MODELS = 1024
_models: dict[str, str] = {}  # by the id of a session or thread, as far as this process was told
_connected: weakref.WeakSet[Session] = weakref.WeakSet()


class _Request:
    """One request to a model that is open."""

    __slots__ = ("behind", "error", "interrupted", "previewed_at", "record", "settled", "steps", "whole")

    def __init__(self, record: StreamObservation, asynchronous: bool) -> None:
        self.record, self.steps = record, Steps(record)
        self.steps.begin(loop=asynchronous)
        self.behind = 0.0  # seconds waited since its last chunk, for anything else
        self.previewed_at = 0.0  # when its newest preview began
        self.settled = 0  # visible characters that messages have concluded
        self.whole = self.interrupted = False  # whole: a message or a tool call of it has come
        self.error: str | None = None  # what the session said of it

    def came_whole(self) -> None:
        """What no preview has shown before: when its first token came is not on the wire."""
        self.whole = True
        self.record.untimed = self.record.untimed or self.record.first_token_at is None

    def end(self, event: Mapping[str, Any], at: float) -> None:
        """Its last event has come. What a preview has shown that no message has concluded is withdrawn."""
        record = self.record
        wrong, withdrawn = event.get("is_error") is True, any(key is not None for key in record.blocks)
        ending: Ending = CUT_SHORT if withdrawn else record.by_finish()
        if self.interrupted and (withdrawn or wrong or not self.whole):
            ending = cancelled("user_stop" if record.stop_asked is None else record.stop_asked.trigger)
        elif wrong:
            ending = failed("provider_error", self.error or "api_error")
        shown = record.visible_chars - self.settled
        if withdrawn and shown and record.first_token_at is not None:
            exposure = at - max(record.first_token_at, self.previewed_at)
            why: dict[str, str | bool] = {s.RETRACTION_REASON: "other"}
            said: dict[str, AttributeValue] = {s.RETRACTION_VISIBLE_CHARS: shown, s.RETRACTION_EXPOSURE: exposure}
            record.event(s.EVENT_RETRACTION, at, {**why, **said})
            record.runtime.metrics.add(s.RETRACTIONS, record, why)
            record.runtime.metrics.add(s.RETRACTION_EXPOSURE_TIME, record, why, exposure)
        end(record, ending, at)


class Session(Carrier):
    """One connection that is read, and the requests that are open on it."""

    __slots__ = ("_asynchronous", "_attributes", "_observing", "_of", "_only", "_open", "_others",
                 "_previews", "_provider", "_request_id", "_stopped_by", "_thread", "_threshold", "id")  # fmt: skip

    def __init__(self, observing: Observing, client: Any, answer: Any, provider: str) -> None:
        self._observing, self._provider = observing, provider
        self._attributes = request_attributes(client, {})
        self._request_id = answer.headers.get(observing.sdk.request_id)
        url = answer.request.url
        self._previews = b"agent.message" in url.query
        _, _, path = url.path.partition("/sessions/")
        self.id, kind, thread = path.split("/")[:3]
        self._thread = thread if kind == "threads" else None
        self._others: set[Any] = set()  # threads that the session made
        self._open: dict[Any, _Request] = {}  # by the id of their first event, oldest first
        self._of: dict[Any, _Request] = {}  # by the id of the event that they preview
        self.stream = None
        self._only: _Request | None = None  # where it is the only one that is open
        self._asynchronous = False
        self._stopped_by: Any = None  # the newest interrupt that it told of
        self._threshold = 0.0

    # --- what is read -------------------------------------------------------------------------------------

    def asks(self, last: float) -> float:
        """The reader asks for what comes after the event of `last`."""
        now = clock()
        only = self._only
        if only is not None and not only.behind and now - last < self._threshold:
            only.record.waiting_since = now
            return now
        for each in self._open.values():
            each.record.waiting_since = each.record.last = now - each.behind
            kept_parked(each.record, last, now)
        return now

    def took(self, name: str | None, data: str, ask: float) -> float:
        """An event arrived that was asked for at `ask`."""
        got = clock()
        try:
            only = self._only
            if only is not None and name == DELTA:
                only.record.last = got
                only.behind = got - only.steps.took(DELTA, data, got, ask - only.behind)
            else:
                self._event(name, data, got, ask)
        except Exception:
            trouble("reading a session's event")
        return got

    def _event(self, name: str | None, data: str, got: float, ask: float) -> None:
        try:
            event = given.obj(json.loads(data)) if data else {}
        except ValueError:
            event = {"type": DELTA}  # it may have been one
        kind = name if name in ("ping", "error") else event.get("type")  # of the names nothing more is promised
        whose = self._whose(kind, event, got) if kind in SPOKEN and self._open else ()
        for each in self._open.values():
            each.record.last = got
            if each in whose:
                each.behind = got - each.steps.took(kind, data, got, ask - each.behind)
            else:
                each.behind += got - ask
        for each in whose:
            if kind == "span.model_request_end":
                each.end(event, got)
            elif kind == "agent.message":
                each.settled = each.record.visible_chars
            if each.record.ending is not None:
                self._forget(each)
        if kind == "span.model_request_start":
            self._start(event.get("id"))
        elif kind == "session.error":
            self._failed(given.word(given.obj(event.get("error")).get("type")) or "")
        elif kind == "user.interrupt":
            self.interrupt(event, got)
        elif kind == "session.thread_created":
            self._others.add(event.get("session_thread_id"))
        elif kind in tools.USES:
            self._asked(kind, event, got)
        else:
            tools.told(kind, event, got)

    def _whose(self, kind: Any, event: Mapping[str, Any], got: float) -> list[_Request]:
        """The requests that an event is of. Of two that are open, what has no preview is the newer one's."""
        if kind in ("ping", "error"):
            return list(self._open.values())
        if kind == "span.model_request_end":
            each = self._open.get(event.get("model_request_start_id"))
            return [] if each is None else [each]
        preview = given.obj(event.get("event")) if kind == "event_start" else event
        told = preview.get("event_id" if kind == DELTA else "id")
        each = self._of.get(told) or next(reversed(self._open.values()))
        if kind == "event_start":
            self._of[told], each.previewed_at = each, got
        elif kind == "agent.message":
            each.came_whole()
        return [each]

    def _asked(self, kind: str, event: Mapping[str, Any], got: float) -> None:
        """A tool call: of the request that is open, else of the last one. Another thread's is only shown here."""
        each = next(reversed(self._open.values()), None)
        record = self.stream if each is None else each.record
        if record is not None and not event.get("session_thread_id"):
            if each is not None:
                each.came_whole()
            tools.asked(record, kind, event, got, 0.0 if each is None else each.behind)

    def _start(self, id_: Any) -> None:
        runtime = self._observing.runtime
        if runtime is None or id_ in self._open or not is_instrumentation_enabled():
            return
        self._threshold = runtime.settings.stall_threshold
        if len(self._open) >= MAX_OPEN:
            oldest = next(iter(self._open.values()))
            self._forget(oldest)
            end(oldest.record, CUT_SHORT)
        record = self.stream = runtime.begin(
            operation="chat",
            provider=self._provider,
            model=_models.get(self._thread or self.id, "unknown"),
            grammar=Grammar(),
        )
        record.attached = Handle(self._observing.sdk, self._attributes)
        runtime.attach_span(record, self._attributes)
        record.attempt()
        record.responded(self._request_id)
        record.response_id, record.untimed = given.word(id_), not self._previews
        self._open[id_] = self._only = _Request(record, self._asynchronous)
        if len(self._open) > 1:
            self._only = None

    def _failed(self, word: str) -> None:
        for each in self._open.values():
            if word.startswith("model_") or word == "unknown_error":
                each.error = word

    def interrupt(self, event: Mapping[str, Any], at: float) -> None:
        """The user stops the session, or one thread of it."""
        said, thread = event.get("id"), event.get("session_thread_id")
        if said is not None and said == self._stopped_by:
            return  # it is said again, once it is dealt with: what has begun meanwhile goes on
        self._stopped_by = said
        if thread and (thread in self._others if self._thread is None else thread != self._thread):
            return
        for each in list(self._open.values()):
            each.interrupted = True
            ask_to_stop(each.record, "user_stop", at)

    def _forget(self, gone: _Request) -> None:
        self._open = {id_: each for id_, each in self._open.items() if each is not gone}
        self._of = {id_: each for id_, each in self._of.items() if each is not gone}
        self._only = next(iter(self._open.values())) if len(self._open) == 1 else None

    # --- the connection, whose end between two requests is none of an answer's ------------------------------

    def events(self, source: Iterator[Any]) -> Iterator[Any]:
        ask = clock()
        try:
            for sse in source:
                got = self.took(sse._event, sse._data, ask)
                yield sse
                ask = self.asks(got)
            for each in self._open.values():
                exhausted(each.record)
        except BaseException as error:
            self._broken(error)
            raise

    async def aevents(self, source: AsyncIterator[Any]) -> AsyncIterator[Any]:
        self._asynchronous = True
        ask = clock()
        try:
            async for sse in source:
                got = self.took(sse._event, sse._data, ask)
                yield sse
                ask = self.asks(got)
            for each in self._open.values():
                exhausted(each.record)
        except BaseException as error:
            self._broken(error)
            raise

    def _broken(self, error: BaseException) -> None:
        for each in self._open.values():
            broken(each.record, error)

    def closed(self, flying: BaseException | None) -> None:
        for each in list(self._open.values()):
            if each.record is not self.stream:
                end(each.record, leaving(each.record, flying), clock())


def sent(options: Any) -> None:
    """A request goes out: an interrupt in it stops what is read of that session in this process. Never raises."""
    try:
        body = options.json_data if _connected else None
        events = body.get("events") if isinstance(body, Mapping) else None
        for event in events if isinstance(events, (list, tuple)) else ():
            if given.obj(event).get("type") == "user.interrupt":
                at = clock()
                for session in list(_connected):
                    if session.id in options.url.split("/"):
                        session.interrupt(event, at)
    except Exception:
        trouble("reading what is sent to a session")


def heard(answer: Any) -> None:
    """A session, a thread, or a page of them: those say which model they run, which events never do. Never raises."""
    try:
        page = getattr(answer, "data", None) if type(answer).__module__.startswith("anthropic.") else None
        for each in page if isinstance(page, list) else (answer,):
            if type(each).__name__ not in _AGENTS:
                return
            model = given.word(getattr(each.agent.model, "id", each.agent.model))
            if model is not None:
                _models[each.id] = model
        while len(_models) > MAX_MODELS:
            del _models[next(iter(_models))]
    except Exception:
        trouble("reading which model a session runs")


def carrier(observing: Observing, made_of: Mapping[str, Any], provider: Callable[[Any], str]) -> Session | None:
    """The connection of a session, or of a thread of it, in the versions of the SDK that have them."""
    types, cast_to = sys.modules.get("anthropic.types.beta.sessions"), made_of.get("cast_to")
    if types is None or not any(cast_to is getattr(types, name, types) for name in _EVENTS):
        return None
    if not is_instrumentation_enabled():
        return None
    session = Session(observing, made_of["client"], made_of["response"], provider(made_of["client"]))
    _connected.add(session)
    return session
