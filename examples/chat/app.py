# SPDX-License-Identifier: Apache-2.0
"""A chat whose Stop button works, and that can say what had already happened when it was pressed."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, StreamingResponse
from provider import local_provider

import otelstream
from otelstream.asgi import StreamHopMiddleware
from otelstream.typing import StreamView, ToolCall

MODEL = "claude-opus-4-8"
TOOLS: list[Any] = [
    {
        "name": "send_email",
        "description": "Send an e-mail.",
        "input_schema": {
            "type": "object",
            "properties": {"to": {"type": "string"}, "subject": {"type": "string"}},
            "required": ["to", "subject"],
        },
    }
]

otelstream.instrument()


@otelstream.on_stream_end
def say(view: StreamView) -> None:
    """One line a stream, where the server logs."""
    stopped = f", {view.trigger} at {view.cancelled_at}: {view.propagation}" if view.trigger else ""
    print(f"{view.turn_id}: {view.outcome}, {view.visible_chars} characters shown{stopped}", flush=True)


@otelstream.judge("tells", verdicts=("yes", "no"))
def tells(text: str) -> str | None:
    """Whether the nets tell anything, as far as the answer goes: its last sentence that begins with yes or no."""
    said = re.findall(r"(?:^|[.!?]\s+)(Yes|No)\b", text)
    return said[-1].lower() if said else None


@otelstream.tool(effect="write")
async def send_email(to: str, subject: str) -> str:
    """Stands for whatever touches the world."""
    await asyncio.sleep(0.1)
    return f"sent to {to}: {subject}"


class Chats:
    """What this process must remember of a question while it is answered: its Stop, and what may be undone."""

    def __init__(self) -> None:
        self.stops: dict[str, asyncio.Event] = {}
        self.undoable: dict[str, ToolCall] = {}


def make_app(client: anthropic.AsyncAnthropic) -> FastAPI:
    """The chat over any client."""
    app, chats = FastAPI(), Chats()
    app.add_middleware(StreamHopMiddleware)  # who leaves the page is a client_disconnect

    async def answer(chat_id: str, question: str) -> AsyncIterator[str]:
        stop = chats.stops[chat_id] = asyncio.Event()
        messages: list[Any] = [{"role": "user", "content": question}]
        with otelstream.turn(chat_id, route="chat") as turn:
            while not stop.is_set():
                async with client.messages.stream(
                    model=MODEL, max_tokens=1024, messages=messages, tools=TOOLS
                ) as stream:
                    async for event in stream:
                        if stop.is_set():
                            break
                        if event.type == "text":
                            yield line(text=event.text)
                    else:
                        message = await stream.get_final_message()
                        results = [await run(block) for block in message.content if block.type == "tool_use"]
                        messages += [
                            {"role": "assistant", "content": message.content},
                            {"role": "user", "content": results},
                        ]
                        if results:
                            yield line(text="\n\n", anew=True)
                            continue
                break
            view = otelstream.current_stream()
            back = next((back for back in view.reversals or () if back.acted_on), None)
            done = turn.ledger.committed
        chats.undoable.update({call.id: call for call in done})
        yield line(
            partial=view.partial is not False,
            stopped=view.trigger is not None,
            taken_back=back and f"You acted on a {back.before} that became a {back.after} {back.exposure:.1f} s later.",
            done=[{"id": call.id, "tool": call.name} for call in done],
        )
        chats.stops.pop(chat_id, None)

    async def run(block: Any) -> Any:
        return {"type": "tool_result", "tool_use_id": block.id, "content": await send_email(**block.input)}

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(Path(__file__).parent / "page.html")

    @app.post("/chats/{chat_id}")
    async def ask(chat_id: str, body: dict[str, str]) -> StreamingResponse:
        return StreamingResponse(answer(chat_id, body["question"]), media_type="application/x-ndjson")

    @app.post("/chats/{chat_id}/stop")
    async def stop(chat_id: str) -> dict[str, bool]:
        found = otelstream.record_stop(turn=chat_id)  # in another request than the stream's
        if chat_id in chats.stops:
            chats.stops[chat_id].set()
        return {"found": found}

    @app.post("/chats/{chat_id}/action")
    async def act(chat_id: str, body: dict[str, int]) -> dict[str, bool]:
        return {"found": otelstream.record_action(turn=chat_id, visible_chars=body["visible_chars"])}

    @app.post("/undo/{call_id}")
    async def undo(call_id: str) -> dict[str, str]:
        call = chats.undoable.pop(call_id, None)
        if call is None:
            raise HTTPException(404, "nothing to undo")
        call.record_compensated()
        return {"state": call.state or ""}

    return app


def line(**fields: object) -> str:
    """One line of the answer as the page reads it."""
    return json.dumps(fields) + "\n"


def main() -> None:
    """Serve the chat, from a local provider unless there is a key."""
    if os.environ.get("ANTHROPIC_API_KEY"):
        uvicorn.run(make_app(anthropic.AsyncAnthropic()), port=8000, log_level="warning")
        return
    with local_provider() as provider:
        client = anthropic.AsyncAnthropic(base_url=provider.base_url, api_key="none-needed")
        print("the chat: http://127.0.0.1:8000", flush=True)
        uvicorn.run(make_app(client), port=8000, log_level="warning")


if __name__ == "__main__":
    main()
