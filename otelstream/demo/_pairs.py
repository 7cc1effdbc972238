# SPDX-License-Identifier: Apache-2.0
"""Stories told in pairs: the same answer twice, and what made the difference."""

from __future__ import annotations

import contextvars
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import otelstream
from otelstream.testing import Script, prose

from ._mailbox import Mailbox
from ._stories import Act, Story, play_of, story_of

if TYPE_CHECKING:
    from ._hop import Hop

_MAIL_SECONDS = 0.3
_BEFORE_STOP = 0.5  # seconds from the mail to the Stop
_HEEDED = 3  # chunks from the Stop to the close
_GUARDED = 900  # characters until the guardrail of the demo finds something
_LIMIT = 30.0

_MAIL = {"to": "crew@harbour.test", "body": "The ferry leaves at six. Be there by five."}
_REPORT = {"title": "Departures", "body": prose(420, start=3)}
_ASKS_TWICE = (Script("mail and report").text(prose(180)).tool_use("send_email", _MAIL, chunk=10)).tool_use(
    "file_report", _REPORT, chunk=10
)
_ASKS_ONCE = Script("mail").text(prose(120)).tool_use("send_email", _MAIL, chunk=10)


@dataclass(frozen=True)
class Pair:
    """Stories to be seen side by side."""

    title: str
    stories: tuple[Story, ...]


class Stage:
    """What the stories need beside the provider: a mailbox and, where uvicorn is installed, a web application."""

    def __init__(self, provider: str, speed: float = 1.0, *, browser: bool = True) -> None:
        self._provider = provider
        self._speed = speed
        self._mailing: set[str] = set()
        self.mailbox = Mailbox(_MAIL_SECONDS / speed)
        self.hop: Hop | None = None
        self.missing = "" if not browser or importlib.util.find_spec("uvicorn") else "uvicorn"

        if browser and not self.missing:
            from ._hop import Hop

            self.hop = Hop(self._answer)

    def close(self) -> None:
        self.mailbox.close()
        if self.hop is not None:
            self.hop.close()

    def mails(self, story: str) -> bool:
        """Whether a story has a mail to send."""
        return story in self._mailing

    def opening(self) -> Pair:
        """What Stop could not take back, and what a hold kept from happening: the first lines of every demo."""
        mail = play_of(_ASKS_TWICE, 0.5, 0.04)
        sent, held = "mail, then Stop", "with hold=True"
        return Pair(
            "The e-mail and the Stop",
            (
                story_of(sent, mail, self._agent(sent, hold=False)),
                story_of(held, mail, self._agent(held, hold=True)),
            ),
        )

    def pairs(self) -> tuple[Pair, ...]:
        """The other pairs that can be played here."""
        long = play_of("text_long", 0.5, 0.035)
        found = [
            Pair(
                "The browser leaves",
                (
                    story_of("endpoint heeds it", long, self._browser("heeds", "endpoint heeds it")),
                    story_of("endpoint burns on", long, self._browser("burns", "endpoint burns on")),
                ),
            ),
            Pair(
                "What was out already",
                (
                    story_of("guardrail at 900", long, _guarded),
                    story_of(
                        "Stop, next stream",
                        (play_of(_ASKS_ONCE, 0.4, 0.03), play_of("text_long", 0.4, 0.035)),
                        self._loop("Stop, next stream"),
                    ),
                ),
            ),
        ]
        return tuple(pair for pair in found if self.hop is not None or pair.title != "The browser leaves")

    def _answer(self, story: str) -> Any:
        import anthropic

        from ._play import request_of

        client = anthropic.AsyncAnthropic(base_url=self._provider, api_key="simulated", max_retries=0)
        return client.messages.stream(**request_of(story))

    def _browser(self, path: str, name: str) -> Act:
        def act(client: Any, request: dict[str, Any]) -> None:
            if self.hop is not None:
                self.hop.browse(path, name, 900, _LIMIT)

        return act

    def _mail_tool(self, subject: str, *, hold: bool) -> Any:
        self._mailing.add(subject)

        def send_email(to: str, body: str) -> str:
            return self.mailbox.send(to, subject, body)

        return otelstream.tool(effect="write", hold=hold)(send_email)

    def _agent(self, name: str, *, hold: bool) -> Act:
        """An agent that runs a tool as soon as its input is whole, while the model goes on; then comes a Stop."""
        send_email = self._mail_tool(name, hold=hold)

        def serve(block: Any) -> None:
            with otelstream.tool_call(block):
                send_email(**block.input)

        def act(client: Any, request: dict[str, Any]) -> None:
            sent: list[float] = []  # when the mail was gone; of one that is held, when it would have been
            with (
                otelstream.turn(),
                ThreadPoolExecutor(1) as pool,
                client.messages.stream(**request) as stream,
            ):
                served, stopped = False, 0
                for event in stream:
                    whole = event.type == "content_block_stop" and event.content_block.type == "tool_use"
                    if whole and not served:
                        served = True
                        call = pool.submit(contextvars.copy_context().run, serve, event.content_block)
                        if hold:
                            sent.append(perf_counter() + _MAIL_SECONDS / self._speed)
                        else:
                            call.add_done_callback(lambda _: sent.append(perf_counter()))
                    stopped += bool(stopped)
                    if sent and not stopped and perf_counter() >= sent[0] + _BEFORE_STOP / self._speed:
                        otelstream.record_stop()
                        stopped = 1
                    if stopped > _HEEDED:
                        return

        return act

    def _loop(self, name: str) -> Act:
        """An ordinary agent: the tool runs between two streams, and Stop comes in the second."""
        send_email = self._mail_tool(name, hold=False)

        def act(client: Any, request: dict[str, Any]) -> None:
            with otelstream.turn():
                with client.messages.stream(**request) as stream:
                    asked = stream.get_final_message()
                (block,) = (block for block in asked.content if block.type == "tool_use")
                with otelstream.tool_call(block):
                    result = send_email(**block.input)
                answers = [{"type": "tool_result", "tool_use_id": block.id, "content": result}]
                asked_again = [
                    *request["messages"],
                    {"role": "assistant", "content": asked.content},
                    {"role": "user", "content": answers},
                ]
                with client.messages.stream(**{**request, "messages": asked_again}) as stream:
                    for index, _ in enumerate(stream.text_stream):
                        if index == 20:
                            otelstream.record_stop()
                        if index == 22:
                            return

        return act


def _guarded(client: Any, request: dict[str, Any]) -> None:
    """Show text as it comes, until a check that lags behind withdraws it."""
    shown = 0
    with client.messages.stream(**request) as stream:
        for text in stream.text_stream:
            shown += len(text)
            if shown >= _GUARDED:
                otelstream.record_retraction(reason="guardrail")
                return
