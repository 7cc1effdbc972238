# SPDX-License-Identifier: Apache-2.0
"""The requests: which are ours, whose span a record is on, attempts, tools, and all of AWS that is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import botocore.client
import botocore.endpoint
import botocore.eventstream
import botocore.exceptions
import pytest
import wrapt
from botocore.awsrequest import AWSResponse
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind

import otelstream
from otelstream import _semconv as s
from otelstream.bedrock.provider import AIOBOTOCORE, BOTOCORE

from .conftest import CONVERSE, START, USAGE, WHOLE, Reply, Scene, begin, chunk, delta, end, session, stop

HOOKS = {
    botocore.client.BaseClient: "_make_api_call",
    botocore.endpoint.Endpoint: "_get_response",
    botocore.eventstream.EventStream: "close",
}
IDENTITY = Reply([b"<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>"])
STANDARD = {"retries": {"total_max_attempts": 3, "mode": "standard"}}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("status", "word", "fault"), [
    (400, "ValidationException", "request_error"), (403, "AccessDeniedException", "request_error"),
    (424, "ModelErrorException", "provider_error"), (429, "ThrottlingException", "provider_error"),
    (503, "ServiceUnavailableException", "provider_error"),
])  # fmt: skip
def test_refused(scene: Scene, status: int, word: str, fault: str, asynchronous: bool) -> None:
    """A request that is answered with an error ends before any response, in the API's own word."""
    scene.plays(Reply(status=status, error=word))

    _, error = scene.reads("converse", asynchronous)

    assert error.startswith(word)
    view = scene.view
    assert (view.outcome, view.phase, view.fault) == ("failed", "before_response", fault)
    assert view.attributes[s.ERROR_TYPE] == word


def test_a_retry(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are counted, each failure in its word; the stream has the request id of the last."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    scene.client = scene.make(**STANDARD)
    scene.plays(Reply(status=429, error="ThrottlingException"), Reply(WHOLE, headers={"x-amzn-requestid": "second"}))

    list(scene.converse())

    view = scene.view
    assert (view.outcome, view.attributes[s.ATTEMPTS], view.attributes[s.REQUEST_ID]) == ("completed", 2, "second")
    retries = scene.telemetry.points()[s.STREAM_RETRIES.name]
    assert [(dict(labels)[s.ERROR_TYPE], count) for labels, count in retries.items()] == [("ThrottlingException", 1)]


def test_a_request_never_sent(scene: Scene) -> None:
    """A request that the SDK refuses to build is no stream."""
    scene.plays(WHOLE)

    with pytest.raises(botocore.exceptions.ParamValidationError):
        scene.client.converse_stream(modelId="some-model", messages=3)

    assert scene.recorder.streams == []
    assert list(otelstream.open_streams()) == []


def test_nothing_listens(scene: Scene) -> None:
    """A connection that cannot be made fails before any response."""
    client = session("botocore").create_client(
        "bedrock-runtime", endpoint_url="http://127.0.0.1:9", region_name="us-east-1", aws_access_key_id="a",
        aws_secret_access_key="b", config=botocore.config.Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip

    with pytest.raises(botocore.exceptions.EndpointConnectionError):
        client.converse_stream(**CONVERSE)

    view = scene.view
    assert (view.outcome, view.phase, view.fault) == ("failed", "before_response", "connection_lost")


def test_other_operations(scene: Scene) -> None:
    """Any other operation of any service passes; a service that streams events too has no record."""
    scene.plays(IDENTITY)
    client = session("botocore").create_client(
        "sts", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.meta.events.register("before-send.*", lambda request, **_: scene._answer(request))

    client.get_caller_identity()

    assert scene.recorder.streams == []


def test_a_request_inside_the_request(scene: Scene) -> None:
    """What is asked for inside of the request, for credentials say, is no attempt of it."""
    other = session("botocore").create_client(
        "sts", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    other.meta.events.register("before-send.*", lambda request, **_: scene._answer(request))
    scene.client.meta.events.register("before-sign.*", lambda **_: other.get_caller_identity())
    scene.plays(IDENTITY, WHOLE)

    list(scene.converse())

    assert (scene.view.outcome, scene.view.attributes[s.ATTEMPTS]) == ("completed", 1)


def test_somebody_answers_in_its_place(scene: Scene) -> None:
    """A stub that answers before anything is sent leaves no record."""
    answer = AWSResponse("", 200, {}, None), {"stream": iter(()), "ResponseMetadata": {}}
    scene.client.meta.events.register("before-call.*", lambda **_: answer)

    assert list(scene.converse()) == []

    assert (scene.recorder.streams, list(otelstream.open_streams())) == ([], [])


# --- spans ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def companion(scene: Scene, *, quiet: bool = False, ends: bool = False) -> Iterator[list[Any]]:
    """Around each call a span of somebody's, which ends when its reader does; put on after us."""
    spans: list[Any] = []
    tracer = scene.telemetry.tracer_provider.get_tracer("companion")
    original = botocore.client.BaseClient.__dict__["_make_api_call"]

    def call(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        span = tracer.start_span("theirs", kind=SpanKind.CLIENT, attributes={s.OPERATION: "chat"})
        spans.append(span)
        with trace.use_span(span), suppress_instrumentation() if quiet else contextlib.nullcontext():
            try:
                return wrapped(*args, **kwargs)
            finally:
                if ends:
                    span.end()

    botocore.client.BaseClient._make_api_call = wrapt.FunctionWrapper(original, call)
    try:
        yield spans
    finally:
        botocore.client.BaseClient._make_api_call = original


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_beside_a_companion(scene: Scene, first: str) -> None:
    """Whoever was there first, the record goes on the companion's span of the call: there is one."""
    scene.plays(WHOLE)
    with contextlib.ExitStack() as stack:
        if first == "theirs":
            otelstream.uninstrument()
        spans = stack.enter_context(companion(scene))
        if first == "theirs":
            otelstream.instrument(tracer_provider=scene.telemetry.tracer_provider)
        list(scene.converse())
        spans[0].end()

        (span,) = scene.telemetry.spans()
        assert (span.name, (span.attributes or {})[s.OUTCOME]) == ("theirs", "completed")
        if first == "theirs":
            otelstream.uninstrument()


def test_a_companion_that_says_late_what_it_is(scene: Scene) -> None:
    """OpenInference's span of an invocation is a model's, though it does not say so yet when the request leaves."""
    scene.plays([chunk(outputText="Calm", completionReason="FINISH")])
    tracer = scene.telemetry.tracer_provider.get_tracer("openinference.instrumentation.bedrock")

    with tracer.start_as_current_span("bedrock.invoke_model_with_response_stream"):
        list(scene.invoke())
    with tracer.start_as_current_span("an application's own"):
        list(scene.invoke())

    found = {span.name: (span.attributes or {}).get(s.OUTCOME) for span in scene.telemetry.spans()}
    assert found == {
        "bedrock.invoke_model_with_response_stream": "completed",
        "an application's own": None,
        "chat some-model": "completed",
    }


@pytest.mark.parametrize("retries", [1, 3])
def test_a_companion_that_ends_with_a_refusal(scene: Scene, monkeypatch: pytest.MonkeyPatch, retries: int) -> None:
    """A refusal is on the companion's span, which ends with it, though that companion was there before us."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    otelstream.uninstrument()
    scene.client = scene.make(retries={"total_max_attempts": retries, "mode": "standard"})
    scene.plays(Reply(status=429, error="ThrottlingException"))
    with companion(scene, ends=True):
        otelstream.instrument(tracer_provider=scene.telemetry.tracer_provider)
        with pytest.raises(botocore.exceptions.ClientError):
            scene.converse()
        otelstream.uninstrument()

    (span,) = scene.telemetry.spans()
    has = span.attributes or {}
    assert (span.name, has[s.OUTCOME], has[s.ERROR_TYPE], has[s.ATTEMPTS]) == (
        "theirs", "failed", "ThrottlingException", retries,
    )  # fmt: skip


@pytest.mark.parametrize("how", ["closes", "raises"])
def test_a_companion_that_ends_with_the_end(scene: Scene, how: str) -> None:
    """What is known when the SDK is told of the end is on the span before its owner ends it there."""
    scene.plays(WHOLE[:3])
    with companion(scene) as spans:
        stream = scene.converse()
        body = scene.bodies[0]
        body.close = lambda: spans[0].end()  # type: ignore[method-assign]
        if how == "closes":
            next(iter(stream))
        else:
            list(stream)
        stream.close()

    (span,) = scene.telemetry.spans()
    assert (span.attributes or {})[s.OUTCOME] == ("cancelled" if how == "closes" else "failed")


def test_suppressed(scene: Scene) -> None:
    """Where instrumentation is suppressed nothing is observed; below a companion's call span its span is."""
    scene.plays(WHOLE)

    with suppress_instrumentation():
        list(scene.converse())
    assert scene.recorder.streams == []
    with companion(scene, quiet=True) as spans:
        list(scene.converse())
        spans[0].end()

    (span,) = scene.telemetry.spans()
    assert (span.attributes or {})[s.OUTCOME] == "completed"


def test_our_span_is_current_in_the_call(scene: Scene) -> None:
    """What the call itself does, an HTTP client's span say, is below our span; what comes after is not."""
    scene.plays(WHOLE)
    seen: list[Any] = []
    scene.client.meta.events.register_first("before-send.*", lambda **_: seen.append(trace.get_current_span()))

    stream = scene.converse()
    seen.append(trace.get_current_span())
    list(stream)

    (span,) = scene.telemetry.spans()
    assert seen[0].get_span_context() == span.context
    assert not seen[1].get_span_context().is_valid


# --- tools and turns --------------------------------------------------------------------------------------

CALL = [START, begin(0, "look"), delta(0, toolUse={"input": "{}"}), stop(0), end("tool_use"), USAGE]


def results(status: str) -> list[dict[str, Any]]:
    return [
        {"role": "assistant", "content": [{"toolUse": {"toolUseId": "tooluse_0", "name": "look", "input": {}}}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "tooluse_0", "content": [], "status": status}}]},
    ]


@pytest.mark.parametrize(("status", "state"), [("success", "committed"), ("error", "failed")])
def test_results_of_tools(scene: Scene, status: str, state: str) -> None:
    """A result in a later request says that its call was run, if nobody saw it."""
    scene.plays(CALL, WHOLE)

    with otelstream.turn("chat") as turn:
        list(scene.converse())
        list(scene.client.converse_stream(modelId="m", messages=results(status))["stream"])

    (ran,) = turn.tool_calls
    assert (ran.state, ran.evidence) == (state, "tool_result")


def test_a_forced_tool(scene: Scene) -> None:
    """A tool that the request forces is the schema of an answer: no call."""
    scene.plays(CALL)
    spec = {"toolSpec": {"name": "look", "inputSchema": {"json": {"type": "object"}}}}

    list(scene.converse(toolConfig={"tools": [spec], "toolChoice": {"tool": {"name": "look"}}}))

    assert scene.view.tool_calls == ()


ANSWER = (
    b'{"output": {"message": {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "look",'
    b' "input": {"city": "H"}}}]}}, "stopReason": "tool_use", "usage": {"inputTokens": 1, "outputTokens": 1,'
    b' "totalTokens": 2}, "metrics": {"latencyMs": 3}}'
)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_answer_that_is_not_streamed(scene: Scene, asynchronous: bool) -> None:
    """Inside a turn `converse` is counted, and the tools that it asks for are the turn's; no stream, no span."""
    scene.plays(Reply([ANSWER]))

    async def aasks() -> Any:
        async with AsyncExitStack() as stack:
            return await (await scene.amake(stack)).converse(**CONVERSE)

    with otelstream.turn("chat") as turn:
        answer = asyncio.run(aasks()) if asynchronous else scene.client.converse(**CONVERSE)

    assert answer["stopReason"] == "tool_use"
    assert ([call.name for call in turn.tool_calls], turn.streams) == (["look"], ())
    assert scene.telemetry.spans() == []


# --- on and off -------------------------------------------------------------------------------------------


def test_taken_off() -> None:
    """The wrappers are taken off as they were put on; an open stream keeps its record to the end."""
    bare = {owner: vars(owner)[name] for owner, name in HOOKS.items()}
    otelstream.instrument()
    assert all(vars(owner)[name] is not bare[owner] for owner, name in HOOKS.items())
    otelstream.uninstrument()

    assert {owner: vars(owner)[name] for owner, name in HOOKS.items()} == bare


def test_versions() -> None:
    """Both are known by their distributions, and refuse versions nobody here has tried."""
    for provider in (BOTOCORE, AIOBOTOCORE):
        provider.check_version(provider.installed_version() or f"{provider.supported[0][0]}.{provider.supported[0][1]}")
        with pytest.raises(otelstream.UnsupportedVersionError, match=provider.package):
            provider.check_version("0.9")


IMPORTS = """
import sys, otelstream
otelstream.instrument()
import botocore, botocore.exceptions
assert not {"botocore.client", "botocore.eventstream"} & sys.modules.keys()
import botocore.client
from otelstream._core.process.hooks import Hook
assert isinstance(vars(botocore.client.BaseClient)["_make_api_call"], Hook)
assert "aiobotocore" not in sys.modules and "urllib3.connectionpool" in sys.modules
"""


def test_attached_when_it_is_used() -> None:
    """Who imports no client of botocore has none imported by us; who does, is observed."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", IMPORTS], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_an_aio_answer_is_garbage_at_once(scene: Scene) -> None:
    """What is kept of an answer goes with it."""
    scene.plays(WHOLE)

    list(scene.converse())
    gc.collect()

    assert list(otelstream.open_streams()) == []
