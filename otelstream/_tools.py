# SPDX-License-Identifier: Apache-2.0
"""Tool calls from ready to done: which function run serves which call, when it ran, and what became of it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from _thread import get_ident
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from time import perf_counter as clock
from typing import TYPE_CHECKING, Any, TypeVar, get_args, overload

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from otelstream import _semconv as s
from otelstream import _turn
from otelstream._call import ToolCall, hash_of
from otelstream._errors import ConfigurationError
from otelstream._trouble import trouble

if TYPE_CHECKING:
    from otelstream._hold import Hold
    from otelstream._stream import StreamObservation

NEVER_AFTER = 300.0  # seconds after the end of its stream
MAX_WAITING = 1024
MAX_RUNS = 64  # of which the time is remembered, to tell who kept a stream parked
_RANK: Mapping[s.Evidence, int] = {word: rank for rank, word in enumerate(get_args(s.Evidence))}

serving: ContextVar[ToolCall | None] = ContextVar("otelstream_tool_call", default=None)


def here() -> tuple[int, int]:
    """The thread and the asyncio task that run this."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return get_ident(), id(task) if task is not None else 0


class Registry:
    """The tool calls of the process that wait to be run, or run."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, in a forked child."""
        # Reentrant: a signal handler, or a finaliser, may come back in on the same thread.
        self._lock = threading.RLock()
        self._waiting: dict[int, ToolCall] = {}  # oldest first
        self._by_id: dict[str, list[ToolCall]] = {}
        self._seen: set[str] = set()  # names of tools that were seen to run
        self._runs: list[tuple[float, float, tuple[int, int], _turn.Turn | None]] = []

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._by_id

    # --- what waits ---------------------------------------------------------------------------------------

    def opened(self, stream: StreamObservation, call: ToolCall) -> None:
        """The model began to ask for a tool."""
        call.stream = stream
        call.effect = _effect(stream, call.name)
        with self._lock:
            self._waiting[id(call)] = call
            if call.id:
                self._by_id.setdefault(call.id, []).append(call)
        self.sweep()

    def sweep(self) -> None:
        """Stop waiting for what is too old, or too much. Called now and then: there is no thread for it."""
        now = clock()
        while True:
            with self._lock:
                oldest = next(iter(self._waiting.values()), None)
                excess = len(self._waiting) > MAX_WAITING
            if oldest is None or not (excess or _stale(oldest, now)):
                return
            self.never(oldest)

    def exit(self) -> None:
        """The process ends: nothing that waits will run, and what runs is counted as running."""
        with self._lock:
            waiting = list(self._waiting.values())
            running = [call for calls in self._by_id.values() for call in calls if call.dispatched_at is not None]
        for call in waiting:
            self.never(call)
        for call in running:
            self._count(call)

    def never(self, call: ToolCall) -> None:
        """Decide that `call` was never run."""
        with self._lock:
            if self._waiting.pop(id(call), None) is None:
                return
            self._drop(call)
            call.decided_never = True
            if call.ready is None or call.input == "incomplete":
                call.state = "discarded"
        stream = call.stream
        if stream is not None and call.state == "discarded" and call.effect != "read" and _stopped(stream):
            from otelstream._cancel import count_one

            count_one(stream, call, "discarded")
        self._count(call)

    def _drop(self, call: ToolCall) -> None:
        same = self._by_id.get(call.id)
        if same is not None and call in same:
            same.remove(call)
            if not same:
                del self._by_id[call.id]

    # --- which call ---------------------------------------------------------------------------------------

    def by_id(self, id: str) -> ToolCall | None:  # noqa: A002
        """The call of that id that waits or runs: of the turn we are in, where several streams made it up."""
        same = self._by_id.get(id)
        if not same:
            return None
        if len(same) == 1:
            return same[0]
        turn = _turn.current()
        return next((call for call in same if call.stream is not None and call.stream.turn is turn), same[0])

    def claim(self, name: str, arguments: int | None) -> tuple[ToolCall, bool] | None:
        """The call that a run of `name` with `arguments` serves, and whether that is a guess. Each is given once."""
        served = serving.get()
        if served is not None and served.name == name and served.finished_at is None:
            return (served, served.guessed) if _take(served) else None
        if self.idle:
            return None
        with self._lock:
            candidates = [call for call in self._waiting.values() if call.name == name]
            candidates += [
                call
                for calls in self._by_id.values()
                for call in calls
                if call.name == name and call.dispatched_at is not None and call.finished_at is None
            ]
        turn = _turn.current()
        mine = [call for call in candidates if call.stream is not None and call.stream.turn is turn]
        same = [call for call in mine if arguments is not None and call.arguments == arguments]
        if turn is None or turn.implicit:
            same += [call for call in candidates if arguments is not None and call.arguments == arguments]
            mine = mine or candidates
        elif not mine:
            same = [call for call in candidates if arguments is not None and call.arguments == arguments]
        for call in same:
            if _take(call):
                return call, False
        if served is not None and served.name != name:
            return None  # a tool that calls another one by itself
        # Those that are ready first: running a call before its input ended is what nobody should do.
        for call in sorted(mine, key=lambda call: call.ready is None):
            if _take(call):
                return call, True
        return None

    # --- what runs ----------------------------------------------------------------------------------------

    def dispatched(self, call: ToolCall, evidence: s.Evidence, at: float, *, guessed: bool = False) -> bool:
        """`call` was started, as `evidence` says; better evidence replaces what was known. False: known better."""
        with self._lock:
            if call.finished_at is not None or call.state == "withheld":
                return False
            known = call.evidence
            # `tool_call` around the decorated function: the function's own start is the truer one.
            if known is not None and _RANK[evidence] >= _RANK[known] and not known == evidence == "decorator":
                return False
            self._waiting.pop(id(call), None)
            call.evidence, call.guessed, call.dispatched_at = evidence, guessed, at
            call.state = "running"
            call.where = here()
            if evidence != "tool_result" and len(self._seen) < s.MAX_TOOL_NAMES:
                self._seen.add(call.name)
        return True

    def sees(self, name: str) -> bool:
        """Whether a run of that tool would be seen as it happens, so that none seen means none."""
        return name in _declared or name in self._seen

    def finished(self, call: ToolCall, state: s.ToolState, at: float) -> bool:
        """`call` is done. False when that was known."""
        with self._lock:
            if call.finished_at is not None or call.state == "withheld":
                return False
            self._waiting.pop(id(call), None)
            self._drop(call)
            call.state = state
            call.finished_at = at
            if call.dispatched_at is not None and call.where is not None:
                self.ran(call.dispatched_at, at, call.where, call.stream.turn if call.stream is not None else None)
        self._count(call)
        return True

    def withheld(self, call: ToolCall) -> None:
        """The hold of `call` refused it."""
        with self._lock:
            self._waiting.pop(id(call), None)
            self._drop(call)
            call.state = "withheld"
            call.dispatched_at = call.evidence = None  # the runner, or `tool_call`, had only meant to start it
            call.decided_never = True
        self._count(call)
        stream = call.stream
        if stream is not None and _stopped(stream) and call.effect != "read":
            from otelstream._cancel import count_one

            count_one(stream, call, "withheld")

    def ran(self, start: float, end: float, where: tuple[int, int], turn: _turn.Turn | None) -> None:
        """Remember when a tool ran, and where."""
        self._runs.append((start, end, where, turn))
        del self._runs[:-MAX_RUNS]

    def kept_parked(self, stream: StreamObservation, start: float, end: float) -> bool:
        """Whether a tool of ours ran in the reader of `stream` for most of that time, or its turn waited for one."""
        place = here()
        for began, ended, where, turn in list(self._runs):
            overlap = min(end, ended) - max(start, began)
            share = overlap / (end - start) if end > start else 0.0
            if share > 0.5 and (where == place or (share > 0.8 and turn is not None and turn is stream.turn)):
                return True
        return False

    # --- counting -----------------------------------------------------------------------------------------

    def ended(self, stream: StreamObservation) -> None:
        """The record of `stream` is out: its calls that are done can be counted."""
        metrics = stream.runtime.metrics
        for call in stream.tool_calls:
            if call.ready is not None:
                metrics.add(s.TOOL_PAUSE, metrics.common(stream), {s.TOOL_CALL_PREAMBLE: call.preamble}, call.pause)
            if call.finished_at is not None or call.state == "withheld" or call.decided_never:
                self._count(call)

    def _count(self, call: ToolCall) -> None:
        """Count `call` once, when its stream has ended and its own fate is known."""
        stream = call.stream
        if stream is None or not stream.emitted:
            return
        try:
            call.uncounted.pop()
        except IndexError:
            return
        try:
            stream.runtime.metrics.tool_call(stream, call)
        except Exception:
            trouble("counting a tool call")


def _stale(call: ToolCall, now: float) -> bool:
    end = call.stream.end_at if call.stream is not None else None
    return end is not None and now - end > NEVER_AFTER


def _stopped(stream: StreamObservation) -> bool:
    return stream.cancel is not None or (stream.turn is not None and stream.turn.stopped is not None)


def _take(call: ToolCall) -> bool:
    try:
        return call.claims.pop()
    except IndexError:
        return False


def _effect(stream: StreamObservation, name: str) -> s.Effect:
    declared = _declared.get(name)
    if declared is not None and declared.effect is not None:
        return declared.effect
    return stream.runtime.settings.tools.get(name, "unknown")


registry = Registry()

# --- one run of a tool ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declared:
    """What `@tool` says of a function."""

    name: str
    effect: s.Effect | None
    hold: Hold | None


_declared: dict[str, Declared] = {}


def declared(name: str) -> Declared | None:
    """What the application said of the tool of that name."""
    return _declared.get(name)


class Run:
    """One run of a tool: finds its call, stamps its start and end, and keeps its span."""

    __slots__ = ("_began", "_context", "_own_span", "_token", "call", "evidence", "guessed", "name", "span")

    def __init__(self, name: str, call: ToolCall | None, evidence: s.Evidence, *, guessed: bool = False) -> None:
        self.name, self.call, self.evidence, self.guessed = name, call, evidence, guessed
        self.span: Span | None = None
        self._own_span = False
        self._began = 0.0
        self._token: Any = None
        self._context: Any = None

    def start(self, *, stamped: bool = True) -> None:
        """The tool is about to run; not `stamped`, a gate of its own says when. Never raises."""
        try:
            self._began = clock()
            call = self.call
            if call is not None and stamped:
                registry.dispatched(call, self.evidence, self._began, guessed=self.guessed)
            if call is not None:
                self._token = serving.set(call)
            self._open_span()
            if call is not None and self.span is not None:
                call.span = self.span
        except Exception:
            trouble("starting a tool")

    def end(self, error: BaseException | None = None, *, failed: bool = False) -> None:
        """The tool returned, or raised `error`. Never raises."""
        try:
            now = clock()
            call = self.call
            state: s.ToolState = "failed" if error is not None or failed else "committed"
            if self._token is not None:
                _turn._reset(serving, self._token)
            if call is not None:
                call.span = None
            if call is None:
                registry.ran(self._began, now, here(), _turn.current())
            else:
                registry.finished(call, state, now)
            self._close_span(error)
        except Exception:
            trouble("ending a tool")

    def _open_span(self) -> None:
        call = self.call
        current = trace.get_current_span()
        if self.evidence != "decorator":
            self.span = current if _carries(current, call) else None
            return
        if call is not None and _carries(current, call):
            self.span = current
            return
        runtime = _runtime_of(call)
        if runtime is None or runtime.settings.spans not in ("auto", "own"):
            return
        attributes: dict[str, AttributeValue] = {
            s.OPERATION: s.EXECUTE_TOOL,
            s.TOOL_NAME: runtime.labels.text(self.name),
        }
        links = []
        if call is not None:
            if call.id:
                attributes[s.TOOL_CALL_ID] = runtime.labels.text(call.id)
            if call.stream is not None and call.stream.span is not None:
                links.append(Link(call.stream.span.get_span_context()))
        name = f"{s.EXECUTE_TOOL} {runtime.labels.text(self.name)}"
        self.span = runtime.tracer.start_span(name, kind=SpanKind.INTERNAL, attributes=attributes, links=links)
        self._own_span = True
        self._context = trace.use_span(self.span, record_exception=False, set_status_on_exception=False)
        self._context.__enter__()

    def _close_span(self, error: BaseException | None) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
        span = self.span
        if span is None:
            return
        if span.is_recording():
            if self.call is not None:
                write(self.call, span, linked=self._own_span)
            if self._own_span and error is not None:
                span.set_attribute(s.ERROR_TYPE, type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR))
        if self._own_span:
            span.end()


def write(call: ToolCall, span: Span, *, linked: bool) -> None:
    """Say on the span of a tool what its call was; with its events where the stream's span has ended before."""
    stream = call.stream
    span.set_attributes(_attributes(call))
    if stream is None or stream.runtime.settings.events not in ("span", "both"):
        return
    if not linked and stream.span is not None and hasattr(span, "add_link") and "link" not in call.told:
        call.told.add("link")
        span.add_link(stream.span.get_span_context())
    for name, at, attributes in events(call, after=stream.emitted_at):
        if name not in call.told:
            call.told.add(name)
            span.add_event(name, attributes, timestamp=stream.started_ns + int((at - stream.started) * 1e9))


def _attributes(call: ToolCall) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue | None] = {
        s.TOOL_CALL_EFFECT: call.effect,
        s.TOOL_CALL_STATE: call.state,
        s.DISPATCH_PHASE: call.phase,
        s.DISPATCH_EVIDENCE: call.evidence,
        s.DISPATCH_GUESSED: call.guessed,
        s.TOOL_CALL_SINCE_END: call.since_end,
        s.TOOL_CALL_SINCE_READY: _since_ready(call, call.dispatched_at),
    }
    return {name: value for name, value in found.items() if value is not None}


def _since_ready(call: ToolCall, at: float | None) -> float | None:
    if call.stream is None or call.ready is None or at is None:
        return None
    return at - call.stream.started - call.ready


def events(
    call: ToolCall, *, before: float | None = None, after: float | None = None
) -> Iterator[tuple[str, float, dict[str, AttributeValue]]]:
    """The dispatch and the end of `call` as events: those that were known `before` an instant, or came `after`."""
    stream = call.stream
    if stream is None:
        return
    for name, at in ((s.EVENT_TOOL_DISPATCHED, call.dispatched_at), (s.EVENT_TOOL_FINISHED, call.finished_at)):
        if at is None or (before is not None and at > before) or (after is None) == (before is None):
            continue
        if after is not None and at <= after:
            continue
        values: dict[str, AttributeValue | None] = {
            s.TOOL_NAME: stream.runtime.labels.text(call.name),
            s.TOOL_CALL_ID: stream.runtime.labels.text(call.id),
            s.TOOL_CALL_SINCE_READY: _since_ready(call, at),
            s.TOOL_CALL_SINCE_END: None if stream.end_at is None else at - stream.end_at,
            s.TOOL_CALL_EFFECT: call.effect,
        }
        if name == s.EVENT_TOOL_DISPATCHED:
            values |= {
                s.DISPATCH_PHASE: call.phase,
                s.DISPATCH_EVIDENCE: call.evidence,
                s.DISPATCH_GUESSED: call.guessed,
            }
        else:
            values[s.TOOL_CALL_STATE] = call.state
        yield name, at, {key: value for key, value in values.items() if value is not None}


def _carries(span: Span, call: ToolCall | None) -> bool:
    attributes = getattr(span, "attributes", None)
    if call is None or not attributes or not span.is_recording():
        return False
    return bool(attributes.get(s.TOOL_CALL_ID) == call.id)


def _runtime_of(call: ToolCall | None) -> Any:
    if call is not None and call.stream is not None:
        return call.stream.runtime
    from otelstream import _runtime

    runtime = None
    for runtime in _runtime.runtimes():  # noqa: B007 - the newest
        pass
    return runtime


# --- the public ways to say so ----------------------------------------------------------------------------

F = TypeVar("F")


@overload
def tool(function: F) -> F: ...
@overload
def tool(
    *,
    name: str | None = None,
    effect: s.Effect | None = None,
    hold: bool | str = False,
    hold_timeout: float = 300.0,
    hold_patience: float = 1.0,
) -> Callable[[F], F]: ...
def tool(
    function: Any = None,
    *,
    name: str | None = None,
    effect: s.Effect | None = None,
    hold: bool | str = False,
    hold_timeout: float = 300.0,
    hold_patience: float = 1.0,
) -> Any:
    """Declare a function that serves tool calls: its runs are matched to the calls that the model asked for.

    Args:
        name: the tool's name in the API, where that is not the function's.
        effect: `read` may run any time and again; `write` touches the world.
        hold: run only after a clean end of the stream, else raise ToolWithheld; `"ack"` waits for `call.release()` too.
        hold_timeout: seconds to wait for that release.
        hold_patience: seconds without anybody reading the stream after which a held call is withheld.

    Raises:
        ConfigurationError: at definition, for what cannot be a tool.
    """
    if effect is not None and effect not in get_args(s.Effect):
        raise ConfigurationError(f"effect={effect!r} is not allowed: use {' or '.join(map(repr, get_args(s.Effect)))}")
    gate = None
    if hold is not False:
        from otelstream._hold import Hold

        gate = Hold.checked(hold, hold_timeout, hold_patience)

    def declare(function: Any) -> Any:
        return _declare(function, name, effect, gate)

    return declare if function is None else declare(function)


def _declare(function: Any, name: str | None, effect: s.Effect | None, gate: Hold | None) -> Any:
    inner = getattr(function, "func", None)
    if inner is not None and hasattr(function, "call") and isinstance(getattr(function, "name", None), str):
        # A tool object of an SDK: it keeps its identity, and what it runs is observed.
        spec = Declared(name or function.name, effect, gate)
        for attribute in ("func", "_func_with_validate"):
            if callable(getattr(function, attribute, None)):
                setattr(function, attribute, _observed(getattr(function, attribute), spec, like=inner))
        _declared[spec.name] = spec
        return function
    if not callable(function):
        raise ConfigurationError(f"@tool decorates a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"@tool decorates a function that returns, {function!r} is a generator function")
    known = name or getattr(function, "__name__", None)
    if not isinstance(known, str) or not known:
        raise ConfigurationError(f"@tool(name=...) is needed: {function!r} has no name of its own")
    spec = Declared(known, effect, gate)
    _declared[known] = spec
    return _observed(function, spec, like=function)


def _observed(function: Any, spec: Declared, *, like: Any) -> Any:
    """`function`, each of whose runs is told to the registry."""
    try:
        signature: inspect.Signature | None = inspect.signature(like)
    except (TypeError, ValueError):
        signature = None
    call_method = getattr(type(like), "__call__", None)  # noqa: B004 - an object with an async __call__
    if inspect.iscoroutinefunction(like) or inspect.iscoroutinefunction(call_method):

        @wraps(function)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            run = _find(spec, signature, args, kwargs)
            if spec.hold is not None and run.call is not None:
                await spec.hold.apass(run.call)
            run.start()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                run.end(error)
                raise
            run.end()
            return result

        return arun

    @wraps(function)
    def run_it(*args: Any, **kwargs: Any) -> Any:
        run = _find(spec, signature, args, kwargs)
        if spec.hold is not None and run.call is not None:
            spec.hold.pass_(run.call)
        run.start()
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            run.end(error)
            raise
        run.end()
        return result

    return run_it


def _find(spec: Declared, signature: inspect.Signature | None, args: Any, kwargs: Any) -> Run:
    try:
        waiting = not registry.idle or serving.get() is not None
        found = registry.claim(spec.name, _arguments(signature, args, kwargs)) if waiting else None
        if found is not None:
            return Run(spec.name, found[0], "decorator", guessed=found[1])
        if spec.hold is not None:
            spec.hold.ungated(spec.name)
    except Exception:
        trouble("matching a tool call")
    return Run(spec.name, None, "decorator")


def _arguments(signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """A hash of the arguments by name, as the model gave them: without defaults and without `self`."""
    if not args:
        return hash_of(kwargs)
    if signature is None:
        return None
    try:
        bound = dict(signature.bind(*args, **kwargs).arguments)
    except TypeError:
        return None
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    first = next(iter(bound), None)
    if first in ("self", "cls"):
        del bound[first]
    return hash_of(bound)


@contextmanager
def tool_call(block: object, *, effect: s.Effect | None = None) -> Iterator[ToolCall]:
    """Serve one tool call in this block: `with tool_call(block): send_email(**block.input)`.

    Args:
        block: the `tool_use` block of the model's message, as an object or a mapping, or its id.
        effect: what the tool does, where neither `@tool` nor the setting `tools` says so.

    Raises:
        ConfigurationError: for an effect that is none.
    """
    if effect is not None and effect not in get_args(s.Effect):
        raise ConfigurationError(f"effect={effect!r} is not allowed: use {' or '.join(map(repr, get_args(s.Effect)))}")
    run = _serve(block, effect)
    run.start()
    try:
        yield run.call or ToolCall(run.name, "")
    except BaseException as error:
        run.end(error)
        raise
    run.end()


_PARTS = ("id", "name", "input")


def _serve(block: object, effect: s.Effect | None) -> Run:
    name, call = "unknown", None
    try:
        if isinstance(block, str):
            id_, arguments = block, None
        else:
            parts = block if isinstance(block, Mapping) else {key: getattr(block, key, None) for key in _PARTS}
            id_, name = str(parts.get("id") or ""), str(parts.get("name") or "unknown")
            arguments = hash_of(parts.get("input"))
        call = registry.by_id(id_) if id_ else None
        guessed = False
        if call is None and not isinstance(block, str) and not id_:
            call, guessed = registry.claim(name, arguments) or (None, False)
        if call is not None:
            if effect is not None:
                call.effect = effect
            return Run(call.name, call, "decorator", guessed=guessed)
    except Exception:
        trouble("matching a tool call")
    return Run(name, call, "decorator")


def results(messages: object) -> None:
    """A later request carries the results of calls: they have run by now, if nobody saw them run. Ids only."""
    if registry.idle or not isinstance(messages, (list, tuple)):
        return
    now = clock()
    for message in reversed(messages):
        if not isinstance(message, Mapping) or message.get("role") == "assistant":
            return
        content = message.get("content")
        for block in content if isinstance(content, (list, tuple)) else ():
            if not isinstance(block, Mapping) or block.get("type") != "tool_result":
                continue
            call = registry.by_id(str(block.get("tool_use_id")))
            if call is not None and registry.dispatched(call, "tool_result", now):
                registry.finished(call, "failed" if block.get("is_error") is True else "committed", now)
