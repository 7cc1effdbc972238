# SPDX-License-Identifier: Apache-2.0
"""The SDKs' own clients for the clouds, and the clouds' paths and framing in front of the local provider."""
# mypy: ignore-errors

from __future__ import annotations

import base64
import http.client
import json
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from .case import GPT, MODEL, PARAMETERS, QUESTION, Case, Leave, get_weather


def claude(name: str, **options: Any) -> Callable[[Leave], None]:
    """An agent's loop with one of the clients of `anthropic`."""

    def run(leave: Leave) -> None:
        import anthropic

        tools = [{"name": "get_weather", "description": "Look the weather up.", "input_schema": PARAMETERS}]
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        client = getattr(anthropic, name)(**options)
        while True:
            with client.messages.stream(model=MODEL, max_tokens=64, messages=messages, tools=tools) as stream:
                for _ in stream.text_stream:
                    if leave():
                        return
                said = stream.get_final_message().content
            results = [
                {"type": "tool_result", "tool_use_id": part.id, "content": get_weather(**part.input)}
                for part in said
                if part.type == "tool_use"
            ]
            if not results:
                return
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": results}]

    return run


def gpt(name: str, **options: Any) -> Callable[[Leave], None]:
    """The same with one of the clients of `openai`."""

    def run(leave: Leave) -> None:
        import openai

        tools = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS, "strict": False}}]
        messages: list[Any] = [{"role": "user", "content": QUESTION}]
        client = getattr(openai, name)(**options)
        while True:
            with client.chat.completions.stream(model=GPT, messages=messages, tools=tools) as stream:
                for event in stream:
                    if event.type == "content.delta" and leave():
                        return
                said = stream.get_final_completion().choices[0].message
            if not said.tool_calls:
                return
            messages.append({"role": "assistant", "tool_calls": [call.to_dict() for call in said.tool_calls]})
            messages += [
                {"role": "tool", "tool_call_id": call.id, "content": get_weather("Oslo")} for call in said.tool_calls
            ]

    return run


def _frame(data: bytes) -> bytes:
    """One message of the event stream that Bedrock answers with: lengths, checksums, headers, payload."""
    headers = b""
    pairs = ((":event-type", "chunk"), (":content-type", "application/json"), (":message-type", "event"))
    for name, value in pairs:
        headers += struct.pack(
            f"!B{len(name)}sBH{len(value)}s", len(name), name.encode(), 7, len(value), value.encode()
        )
    payload = json.dumps({"bytes": base64.b64encode(data).decode()}).encode()
    message = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    message += struct.pack("!I", zlib.crc32(message)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


@contextmanager
def platforms(base_url: str) -> Iterator[str]:
    """Answer at the paths of Bedrock and Vertex, and at those that the local provider has."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            path, bedrock = unquote(self.path), False
            if found := re.search(r"/models?/([^/]+?)(:streamRawPredict|/invoke-with-response-stream)$", path):
                bedrock = found[2].startswith("/")
                body = json.dumps({**json.loads(body), "model": found[1], "stream": True}).encode()
                path = "/v1/messages"
            provider = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=30)
            try:
                provider.request("POST", path, body, {"content-type": "application/json"})
                answer = provider.getresponse()
                self.send_response(answer.status)
                kind = "application/vnd.amazon.eventstream" if bedrock else answer.headers["content-type"]
                self.send_header("content-type", kind)
                self.end_headers()
                for line in answer:
                    if not bedrock:
                        self.wfile.write(line)
                    elif line.startswith(b"data: "):
                        self.wfile.write(_frame(line.removeprefix(b"data: ").strip()))
            except OSError:
                pass  # the client left
            finally:
                provider.close()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


_ANTHROPIC = ("anthropic[bedrock,vertex]", "openai")
_AWS = {"aws_access_key": "none", "aws_secret_key": "none", "aws_region": "us-east-1"}
_LEFT = "`return` from `with messages.stream()`"


def _claude(name: str, **options: Any) -> Case:
    return Case(claude(name, **options), ("anthropic",), _LEFT, _ANTHROPIC, through=True)


def _gpt(name: str, **options: Any) -> Case:
    left = "`return` from `with completions.stream()`"
    return Case(gpt(name, **options), ("openai",), left, _ANTHROPIC, through=True)


CLIENTS = {
    "AnthropicBedrock": _claude("AnthropicBedrock", **_AWS),
    "AnthropicBedrockMantle": _claude("AnthropicBedrockMantle", **_AWS),
    "AnthropicAWS": _claude("AnthropicAWS", workspace_id="none", **_AWS),
    "AnthropicVertex": _claude("AnthropicVertex", access_token="none", project_id="none", region="us-east5"),
    "AnthropicFoundry": _claude("AnthropicFoundry", api_key="none", resource="none"),
    "AzureOpenAI": _gpt("AzureOpenAI", api_key="none", api_version="2024-10-21", azure_endpoint="https://azure.test"),
}
