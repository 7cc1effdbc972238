# SPDX-License-Identifier: Apache-2.0
"""Beside other instrumentations of the SDKs: the application sees what it sees without us, nothing is logged, nothing
of theirs is changed, and no second span is ours where theirs can be found. Each pair of a companion and an SDK has its
own environment, made on first use; `test_overridden.py` has stand-ins for what each of them does."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from otelstream.testing import ProviderSimulator

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = Path(os.environ.get("OTELSTREAM_COMPANIONS", HERE.parent / ".venv-companions"))
OUTCOMES = {
    **dict.fromkeys(("broken_off", "abroken_off", "closed", "invoked_closed", "task_cancelled"), "cancelled"),
    **dict.fromkeys(
        ("refused", "arefused", "answer_refused", "invoked_refused", "error_event", "cut", "answer_cut"), "failed"
    ),
    "dropped": "abandoned",
}
RAW = frozenset({"raw", "lines"})
HELPERS = frozenset({"stream", "text", "final", "astream", "afinal"})
ANSWERS = frozenset({"answer", "answer_stream", "answer_final", "aanswer", "answer_refused", "answer_cut"})
# Attributes that are another value in every run: times; and the digest of a traceback, which has our frames in it.
VARYING = ("time_to_first", "duration", "completion_start_time", "logfire.msg", "exception.fingerprint")
# And of who writes the whole answer, whose headers are of that moment, or its request id.
VARYING_OF = {
    "openinference.instrumentation.google_genai": ("output.value",),
    "opentelemetry.instrumentation.botocore.bedrock-runtime": ("aws.request_id",),
}


@dataclass(frozen=True)
class Companion:
    """One of them: what to install, how it is switched on, and where its span cannot have the record."""

    package: str
    switch: str
    versions: tuple[str, ...]  # of the SDK
    with_: tuple[str, ...] = ()  # what it needs to work with them, and does not say
    apart: frozenset[str] = frozenset()  # ways that have a span of ours: theirs is not current, or ends before
    over: frozenset[str] = frozenset()  # ways that have one where it was switched on before us: ours goes over it
    lost: frozenset[str] = frozenset()  # ways whose span it never ends: what we write there is never exported
    outcomes: dict[str, str] = field(default_factory=dict)  # where it changes what the application does
    suppresses: bool = False


# OpenInference 3 asks for anthropic 1.8 or later. Its span is not current while a helper sends its request, and ends
# with the call where a raw response is read.
ANTHROPIC = {
    "genai": Companion(
        "opentelemetry-instrumentation-genai-anthropic",
        "opentelemetry.instrumentation.genai.anthropic:AnthropicInstrumentor",
        ("0.79.0", "2.12.0"),
    ),
    "openinference": Companion(
        "openinference-instrumentation-anthropic",
        "openinference.instrumentation.anthropic:AnthropicInstrumentor",
        ("2.12.0",),
        apart=RAW | HELPERS,
    ),
    "traceloop": Companion(
        "opentelemetry-instrumentation-anthropic",
        "opentelemetry.instrumentation.anthropic:AnthropicInstrumentor",
        ("0.79.0", "2.12.0"),
        apart=frozenset({"create", "create_with", "broken_off", "beta", "acreate", "refused", "error_event"})
        | RAW | HELPERS,
    ),
}  # fmt: skip
# A task's cancel is decided some steps of the loop later, when those who see it pass have ended their span.
CANCELLED = frozenset({"task_cancelled"})
OPENAI = {
    # It knows chat completions alone; its `with` closes no stream, and its parsed lines are no lines.
    "openai-v2": Companion(
        "opentelemetry-instrumentation-openai-v2==2.4b0",
        "opentelemetry.instrumentation.openai_v2:OpenAIInstrumentor",
        ("2.54.0", "3.57.0"),
        with_=("httpx", "opentelemetry-util-genai==1.1b0"),
        apart=ANSWERS | {"completion", "broken_off", "abroken_off"},
        lost=CANCELLED,
        outcomes={"broken_off": "abandoned", "abroken_off": "abandoned", "lines": "caller_error"},
    ),
    "genai": Companion(
        "opentelemetry-instrumentation-genai-openai",
        "opentelemetry.instrumentation.genai.openai:OpenAIInstrumentor",
        ("2.54.0", "3.57.0"),
        apart=CANCELLED | {"completion"},
    ),
    # Its span of a response is made when that has ended; the other ones end before what they cannot read.
    "traceloop": Companion(
        "opentelemetry-instrumentation-openai",
        "opentelemetry.instrumentation.openai:OpenAIInstrumentor",
        ("2.54.0", "3.57.0"),
        apart=ANSWERS | RAW | {"broken_off"},
    ),
    "openinference": Companion(
        "openinference-instrumentation-openai",
        "openinference.instrumentation.openai:OpenAIInstrumentor",
        ("2.54.0", "3.57.0"),
        apart=CANCELLED,
    ),
    "logfire": Companion("logfire", "logfire", ("2.54.0", "3.57.0"), suppresses=True),
    # Its span is never current.
    "langfuse": Companion(
        "langfuse",
        "langfuse",
        ("2.54.0", "3.57.0"),
        apart=ANSWERS | RAW | HELPERS | CANCELLED | {
            "create", "create_with", "broken_off", "closed", "completion", "acreate", "abroken_off", "refused",
            "arefused", "error_event", "cut",
        },
    ),
}  # fmt: skip
GOOGLE = {
    # It ends its span, as an error, when a GeneratorExit passes, which is before what reads the body is let go of.
    "genai": Companion(
        "opentelemetry-instrumentation-google-genai",
        "opentelemetry.instrumentation.google_genai:GoogleGenAiSdkInstrumentor",
        ("2.34.0",),  # it knows no later make
        apart=frozenset({"broken_off"}),
    ),
    # Its span is current where the generator is made, not where that runs: the request leaves with the first `next`.
    "openinference": Companion(
        "openinference-instrumentation-google-genai",
        "openinference.instrumentation.google_genai:GoogleGenAIInstrumentor",
        ("2.34.0", "3.6.1"),
        apart=frozenset({"create", "chat", "broken_off", "closed", "acreate", "refused", "error_event", "cut"}),
    ),
}  # fmt: skip
BEDROCK = {
    # It never ends its span of a stream that is dropped or breaks, nor of the invocation that is played here.
    "opentelemetry": Companion(
        "opentelemetry-instrumentation-botocore",
        "opentelemetry.instrumentation.botocore:BotocoreInstrumentor",
        ("1.44.8",),
        with_=("boto3",),
        lost=frozenset({"invoked", "dropped", "cut"}),
    ),
    # It never ends its span of a refused `converse_stream`, and ends that of a dropped one before the body is dropped.
    "openinference": Companion(
        "openinference-instrumentation-bedrock",
        "openinference.instrumentation.bedrock:BedrockInstrumentor",
        ("1.44.8",),
        with_=("boto3",),
        apart=frozenset({"dropped"}),
        lost=frozenset({"refused"}),
    ),
    # Its span is never current.
    "traceloop": Companion(
        "opentelemetry-instrumentation-bedrock",
        "opentelemetry.instrumentation.bedrock:BedrockInstrumentor",
        ("1.44.8",),
        with_=("boto3",),
        apart=frozenset({
            "create", "invoked", "closed", "invoked_closed", "dropped", "refused", "invoked_refused", "error_event",
            "cut",
        }),
    ),
}  # fmt: skip
LITELLM = {
    # It ends its span as the GeneratorExit passes, before the router's stream is closed.
    "openinference": Companion(
        "openinference-instrumentation-litellm",
        "openinference.instrumentation.litellm:LiteLLMInstrumentor",
        ("1.110.2",),
        apart=frozenset({"closed"}),
        over=frozenset({"create", "closed", "acreate", "refused", "cut"}),
    ),
}
SDKS = {"anthropic": ANTHROPIC, "openai": OPENAI, "google-genai": GOOGLE, "botocore": BEDROCK, "litellm": LITELLM}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(fresh_ids=False) as sim:
        yield sim


@functools.cache
def python(sdk: str, name: str, version: str) -> str:
    home = ENVIRONMENTS / f"{sdk}-{name}-{version}"
    interpreter = home / "bin" / "python"
    if not (home / "ready").exists():
        companion = SDKS[sdk][name]
        venv.create(home, with_pip=True, clear=True)
        wanted = [companion.package, *companion.with_, f"{sdk}=={version}", "opentelemetry-sdk", "-e", str(HERE.parent)]
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *wanted], check=True)
        (home / "ready").touch()
    return str(interpreter)


def run(
    provider: ProviderSimulator, sdk: str, name: str, version: str, order: str, native: bool = False
) -> dict[str, Any]:
    done = subprocess.run(
        [python(sdk, name, version), str(HERE / "companions.py"), provider.base_url, sdk, order],
        env={
            **os.environ, "ANTHROPIC_OPEN_TELEMETRY": str(native).lower(), "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


def varying(scope: str) -> tuple[str, ...]:
    return (*VARYING, *VARYING_OF.get(scope, ()))


def said(seen: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What the spans of others say, but for what we add; and what is another value in every run."""
    return [
        (span["scope"], span["name"], span["status"], {
            name: value for name, value in span["attributes"].items()
            if not any(word in name for word in varying(span["scope"]))
        })
        for span in seen["spans"]
        if span["scope"] != "otelstream"
    ]  # fmt: skip


def kept(theirs: list[tuple[Any, ...]], alone: list[tuple[Any, ...]]) -> bool:
    """Whether they have all that they have alone, and the same of it."""
    return len(theirs) == len(alone) and all(
        span[:3] == before[:3] and span[3].items() >= before[3].items()
        for span, before in zip(theirs, alone, strict=True)
    )


def beside(provider: ProviderSimulator, sdk: str, name: str, version: str, native: bool = False) -> None:
    companion = SDKS[sdk][name]
    alone = run(provider, sdk, name, version, companion.switch, native)
    for order, over in ((f"{companion.switch},ours", companion.over), (f"ours,{companion.switch}", frozenset())):
        both = run(provider, sdk, name, version, order, native)
        new = [line for line in both["logged"] if line not in alone["logged"]]
        assert [line for line in both["logged"] if line not in new] == alone["logged"]
        assert [line.startswith("WARNING otelstream: ") for line in new] == [True] * companion.suppresses, order
        assert both["stderr"] == alone["stderr"]
        for way, seen in both["seen"].items():
            hint = order, way, seen["records"], [(each["scope"], each["outcome"]) for each in seen["spans"]]
            outcome = companion.outcomes.get(way, OUTCOMES.get(way, "completed"))
            assert seen["result"] == alone["seen"][way]["result"], hint
            assert seen["records"] == [outcome], hint
            native_here = native and not version.startswith("0.")
            if not native_here:
                assert kept(said(seen), said(alone["seen"][way])), hint
            holders = [span["scope"] for span in seen["spans"] if span["outcome"]]
            ours = [span for span in seen["spans"] if span["scope"] == "otelstream"]
            if companion.suppresses:
                # Its span ends with the call: it has what was known then, which of a refused one is all.
                assert not ours, hint
                assert any(span["early"] for span in seen["spans"]), hint
                assert len(holders) == ("refused" in way), hint
            else:
                assert len(holders) == (way not in companion.lost), hint
                assert bool(ours) == (way in companion.apart | over and not native_here), hint


@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise there")
@pytest.mark.parametrize("native", [True, False], ids=["native", "plain"])
@pytest.mark.parametrize(("name", "version"), [(n, v) for n, each in ANTHROPIC.items() for v in each.versions])
def test_beside_anthropic(provider: ProviderSimulator, name: str, version: str, native: bool) -> None:
    """In both orders: results and log as with the companion alone, nothing of its spans changed, one record a stream,
    one outcome among its spans, and a span of ours only where no other of the call is to be found while it streams."""
    beside(provider, "anthropic", name, version, native)


@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise there")
@pytest.mark.parametrize(("name", "version"), [(n, v) for n, each in OPENAI.items() for v in each.versions])
def test_beside_openai(provider: ProviderSimulator, name: str, version: str) -> None:
    """The same; and under a companion that suppresses us no span of ours, but what was known in time on its own."""
    beside(provider, "openai", name, version)


@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise there")
@pytest.mark.parametrize(("name", "version"), [(n, v) for n, each in GOOGLE.items() for v in each.versions])
def test_beside_google(provider: ProviderSimulator, name: str, version: str) -> None:
    """The same of streams that are generators."""
    beside(provider, "google-genai", name, version)


@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise there")
@pytest.mark.parametrize("name", BEDROCK)
def test_beside_bedrock(provider: ProviderSimulator, name: str) -> None:
    """The same of both operations of Bedrock's."""
    beside(provider, "botocore", name, BEDROCK[name].versions[0])


@pytest.mark.skipif(sys.platform == "win32", reason="environments are laid out otherwise there")
@pytest.mark.parametrize("name", LITELLM)
def test_beside_litellm(provider: ProviderSimulator, name: str) -> None:
    """The same of a router, around whose functions the later one goes."""
    beside(provider, "litellm", name, LITELLM[name].versions[0])
