# SPDX-License-Identifier: Apache-2.0
"""Our upstream, the two roads to it, and one request at a time down either: what the client and the upstream saw."""

from __future__ import annotations

import copy
import itertools
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from otelstream.probe._client import Answer, Call, Target, UnreachableError
from otelstream.probe._configs import known_as
from otelstream.probe._report import HTTP2
from otelstream.testing import Exchange, Fault, ProviderSimulator, Request, Schedule, Script

ROUTES = ("messages", "chat", "responses")
DIRECT, GATEWAY = "direct", "gateway"


class ProbeError(Exception):
    """The probe cannot go on; the message names the remedy."""


@dataclass(frozen=True)
class Settings:
    """How much is measured, and for how long."""

    route: str = "messages"
    model: str = "probe-model"
    repeats: int = 3
    chunks: int = 60
    gap: float = 0.04
    silence: float = 17.0  # a gateway that invents pings does it every 15 s
    total: float = 20.0  # Envoy ends every answer after 15 s
    idle: tuple[float, ...] = ()
    bodies: tuple[float, ...] = (0.9, 2.0, 12.0, 33.0)  # MB: nginx stops at 1, an API gateway at 10, the provider at 32
    pause: float = 0.3  # before a cut or a cancel, so that what went before has arrived
    patience: float = 2.2  # how long a cancel may take
    only: frozenset[str] = frozenset()  # codes; empty: all

    def wants(self, code: str) -> bool:
        """Whether a check is to be made; `body` stands for all its sizes, `http2` for all that are made over it."""
        group, _, size = code.rpartition("-")
        if not self.only or code in self.only or (size[:1].isdigit() and group in self.only):
            return True
        return code.startswith(HTTP2) and "http2" in self.only


@dataclass
class Seen:
    """One request: the client's side, and all that it set off at the upstream."""

    mark: str
    answer: Answer
    bench: Bench = field(repr=False)
    sent: dict[str, str] = field(default_factory=dict)
    left_at: float | None = None  # when the client cancelled

    @property
    def exchanges(self) -> list[Exchange]:
        """The upstream's log of it, as it is now: a late retry is there when it is judged."""
        return [each for each in self.bench.sim.log if mark_of(each.request) == self.mark]

    @property
    def upstream(self) -> Exchange | None:
        """The first of its requests at the upstream."""
        return next(iter(self.exchanges), None)


@dataclass(frozen=True)
class Leave:
    """When a client cancels: the upstream has come so far, and the client has seen so much (or never will)."""

    upstream: Callable[[Exchange], object]
    client: Callable[[Answer], object] = lambda answer: answer.status is not None


class Bench:
    """The upstream and its two roads."""

    def __init__(self, gateway: Target, settings: Settings, host: str = "127.0.0.1", port: int = 0) -> None:
        self.settings = settings
        self.gateway = gateway
        self.sim = ProviderSimulator(port, host=host, fresh_ids=False, log_limit=2000)
        self._host = host
        self._token = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._calls: set[Call] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def start(self) -> None:
        """Listen; raises SimulatorError where the port is taken."""
        self.sim.start()

    def stop(self) -> None:
        """Close every connection, so that no thread of ours waits for one, then the port."""
        self._over.set()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.close()
        self.sim.stop()

    @property
    def upstream(self) -> str:
        """Its base URL, as a gateway reaches it."""
        port = urlsplit(self.sim.base_url).port
        if (name := known_as(self._host)) != self._host:
            return f"http://{name}:{port}"
        return self.sim.base_url

    def over_http2(self) -> Bench:
        """The same bench, whose road through the gateway begins with HTTP/2."""
        other = copy.copy(self)
        other.gateway = replace(self.gateway, http2=True)
        return other

    def target(self, road: str) -> Target:
        """Where a road begins."""
        if road == GATEWAY:
            return self.gateway
        return Target(self.sim.base_url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:"))

    def ask(
        self,
        road: str,
        script: Script,
        *,
        fault: Fault | Sequence[Fault] | None = None,
        schedule: Schedule | None = None,
        headers: dict[str, str] | None = None,
        filler: int = 0,
        within: float = 15.0,
        leave: Leave | None = None,
    ) -> Seen:
        """Ask for *script* once, and read it to its end, or cancel it on the way."""
        mark = f"probe-{self._token}-{next(self._numbers)}"
        # By the prompt, which every gateway hands on, and not by a header, which some drop. A retry gets the same.
        self.sim.play(script, fault=fault, schedule=schedule, when=lambda request: mark_of(request) == mark, times=None)
        sent = {**credentials(self.settings.route), **(headers or {})}
        seen = Seen(mark, Answer(end="nothing"), self, sent)
        if self._over.is_set():
            return seen
        try:
            call = Call(self.target(road), self.settings.route, self._body(mark, filler), sent)
        except UnreachableError:
            return seen
        seen.answer = call.answer
        with self._lock:
            self._calls.add(call)
        try:
            if leave is None:
                call.read(within=within)
            else:
                self._leave(seen, call, leave)
        finally:
            call.close()
            with self._lock:
                self._calls.discard(call)
        return seen

    def _leave(self, seen: Seen, call: Call, leave: Leave) -> None:
        def reached(_: object) -> object:
            return (exchange := seen.upstream) and leave.upstream(exchange)

        try:
            self.sim.wait_for(reached, timeout=8.0)
        except TimeoutError:
            return
        # Where the gateway holds back what was sent, the client waits in vain, and cancels all the same.
        call.read(until=leave.client, within=1.0)
        call.read(until=lambda _: False, within=self.settings.pause)
        if call.answer.end == "waiting":
            seen.left_at = call.leave()
            try:
                self.sim.wait_for(lambda _: all(each.closed_at for each in seen.exchanges), self.settings.patience)
            except TimeoutError:
                pass

    def _body(self, mark: str, filler: int) -> bytes:
        return request_body(self.settings.route, self.settings.model, mark, filler)

    def reach(self, wait: float) -> Seen:
        """Ask through the gateway until the upstream is asked; raises ProbeError where it never is, or for nothing."""
        began = time.monotonic()
        deadline = began + wait
        while True:
            seen = self.ask(GATEWAY, Script("hello").text("Hello there."), within=min(30.0, wait))
            answer, exchange = seen.answer, seen.upstream
            if exchange is not None:
                if exchange.status == 200 and answer.status == 200:
                    return seen
                raise ProbeError(
                    f"{self.gateway.url}: our upstream was asked and the client got {answer.status or 'no answer'}: "
                    f"{_excerpt(answer)}; see the gateway's own log"
                )
            # A gateway may listen before it has its routes, as Traefik does.
            if answer.status not in {404, 405} or time.monotonic() >= min(deadline, began + 5.0):
                self._refused(answer)
            if time.monotonic() >= deadline:
                raise ProbeError(self._unreached(answer))
            time.sleep(0.5)

    def _refused(self, answer: Answer) -> None:
        """What no waiting will change."""
        url, status = self.gateway.url, answer.status
        if answer.end == "nothing":
            try:
                Call(self.gateway, self.settings.route, b"{}", {}, timeout=5.0).close()
            except UnreachableError as error:
                if "certificate" in str(error) or "TLS" in str(error):
                    raise ProbeError(f"{url}: {error}") from None
        if answer.end == "corrupt":
            over, other = ("2", "leave --http2 out") if self.gateway.http2 else ("1.1", "try --http2")
            raise ProbeError(f"{url} does not speak HTTP/{over}; {other}")
        if status in {401, 403}:
            raise ProbeError(f"{url} answered {status}: give its key by --header 'authorization: Bearer ...'")
        if status in {404, 405}:
            path = self.gateway.address(self.settings.route)[3]
            raise ProbeError(
                f"{url} answered {status} to POST {path}: give the base URL under which it serves that path, or --route"
            )
        asked = [each for each in self.sim.log if mark_of(each.request) == ""]
        if asked:
            raise ProbeError(
                f"{url}: our upstream was asked for {asked[-1].request.path} without the prompt that was sent; "
                "the gateway has to hand on bodies and paths"
            )

    def _unreached(self, answer: Answer) -> str:
        url, remedy = self.gateway.url, f"point its upstream at {self.upstream}"
        if answer.status is not None:
            return f"{url} answered {answer.status} and never asked our upstream; {remedy}"
        try:
            Call(self.gateway, self.settings.route, b"{}", {}, timeout=5.0).close()
        except UnreachableError as error:
            return f"{url}: {error}; start it, or mend the URL"
        over = " over HTTP/2 (leave --http2 out if it speaks none)" if self.gateway.http2 else ""
        return f"{url} gave no answer{over} and never asked our upstream; {remedy}"


def credentials(route: str) -> dict[str, str]:
    """The headers that an API's clients always send; a key that opens nothing."""
    if route == "messages":
        return {"anthropic-version": "2023-06-01", "x-api-key": "otelstream-probe"}
    return {"authorization": "Bearer otelstream-probe"}


def request_body(route: str, model: str, prompt: str, filler: int = 0, **more: Any) -> bytes:
    """A streamed request with *filler* bytes before its prompt."""
    padding = "lorem ipsum " * (filler // 12)
    body: dict[str, Any] = {"model": model, "stream": True, **more}
    turn = {"role": "user", "content": prompt}
    if route == "responses":
        body |= {"input": prompt, **({"instructions": padding} if filler else {})}
    elif route == "chat":
        body["messages"] = [*([{"role": "system", "content": padding}] if filler else []), turn]
    else:
        body |= {"max_tokens": 1024, **more, "messages": [turn], **({"system": padding} if filler else {})}
    return json.dumps(body).encode()


_MARK = re.compile(r"probe-[0-9a-f]{8}-\d+")


def mark_of(request: Request) -> str:
    """The mark in a request's prompt."""
    return _mark_in(request.body)


def _mark_in(value: Any) -> str:
    if isinstance(value, str):
        # The filler of a large body is not searched.
        found = _MARK.search(value) if len(value) < 1000 else None
        return found.group() if found else ""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((mark for mark in map(_mark_in, inside) if mark), "")


def _excerpt(answer: Answer) -> str:
    text = " ".join(answer.said.decode("utf-8", "replace").split())
    return text[:160] or answer.end
