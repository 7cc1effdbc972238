# SPDX-License-Identifier: Apache-2.0
"""Without a program: what is installed, and what the environment's variables would do."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from otelstream import cli
from otelstream.doctor import _environment, _gateways

from .conftest import Doctor


def test_a_sound_environment_has_nothing(doctor: Doctor) -> None:
    """Nothing wrong: exit 0, no finding, and what could not be looked at is said."""
    seen = doctor()

    assert (seen.exit_code, seen.codes) == (0, [])
    assert "otelstream doctor CMD" in seen.report["unseen"][0]


@pytest.mark.parametrize(
    ("code", "environ"),
    [
        ("switched-off", {"OTEL_SDK_DISABLED": "true"}),
        ("switched-off", {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "requests, otelstream"}),
        ("switched-off", {"OTEL_TRACES_EXPORTER": "none"}),
        ("setting-wrong", {"OTELSTREAM_SPANS": "some"}),
        ("setting-wrong", {"OTELSTREAM_STALL_TRESHOLD": "3"}),
        ("exporter-missing", {"OTEL_TRACES_EXPORTER": "zipkin"}),
        ("content-captured", {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}),
        ("span-limits", {"OTEL_SPAN_EVENT_COUNT_LIMIT": "8"}),
        ("span-limits", {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "16"}),
        ("span-limits", {"OTEL_ATTRIBUTE_COUNT_LIMIT": "16", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "128"}),
        ("sampling", {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}),
        ("sampling", {"OTEL_TRACES_SAMPLER": "always_off"}),
        (
            "histogram-bounds",
            {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
        ),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value,
)
def test_each_variable_is_found_and_nothing_else(
    code: str, environ: dict[str, str], doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong variable: exit 1 and its code alone."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    seen = doctor()

    assert (seen.exit_code, seen.codes) == (1, [code])


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_SDK_DISABLED": "false"},
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "requests"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"},
        {"OTELSTREAM_SPANS": "own", "OTELSTREAM_TOOLS": "search=read"},
        {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "NO_CONTENT"},
        {"OTEL_SPAN_EVENT_COUNT_LIMIT": "32", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "128"},
        {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.0"},
        {"ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "none"},
    ],
    ids=str,
)
def test_a_right_variable_is_left_alone(
    environ: dict[str, str], doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set and right is no finding."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    seen = doctor()

    assert (seen.exit_code, seen.codes) == (0, []), seen.report["findings"]


def test_an_endpoint_that_nobody_listens_at(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead OTLP endpoint is found by connecting to it; a live one is no finding."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert doctor().codes == []

    assert doctor().codes == ["exporter-unreachable"]


def facts(versions: dict[str, str], **environ: str) -> dict[str, Any]:
    known = {"opentelemetry-sdk": "1.40.0", "anthropic": "1.0.0", **versions}
    exporters = {"traces": ["otlp"], "metrics": ["otlp"]}
    return {"versions": known, "conflicts": [], "exporters": exporters, "environ": environ, "settings": []}


def codes(facts: dict[str, Any]) -> set[str]:
    checks = (*_environment.ALWAYS, *_environment.WITHOUT_PROGRAM)
    return {finding.code for check in checks for finding in check(facts)}


TRACELOOP, OPENINFERENCE = "opentelemetry-instrumentation-anthropic", "openinference-instrumentation-anthropic"
QUIET = {
    "TRACELOOP_TRACE_CONTENT": "false",
    "OPENINFERENCE_HIDE_INPUTS": "true",
    "OPENINFERENCE_HIDE_OUTPUTS": "true",
}


@pytest.mark.parametrize(
    ("versions", "environ", "expected"),
    [
        ({}, {}, set()),
        ({"anthropic": "0.50.0"}, {}, {"sdk-unsupported"}),
        ({"anthropic": "3.0.0"}, {}, {"sdk-unsupported"}),
        ({TRACELOOP: "0.62"}, QUIET, set()),
        ({TRACELOOP: "0.62"}, {}, {"content-captured"}),
        ({OPENINFERENCE: "3.1"}, {}, {"content-captured"}),
        ({TRACELOOP: "0.62", OPENINFERENCE: "3.1"}, QUIET, {"double-spans"}),
        ({TRACELOOP: "0.62", "anthropic": "1.14.0"}, QUIET, {"double-spans"}),
        ({TRACELOOP: "0.62", "anthropic": "1.14.0"}, {**QUIET, "ANTHROPIC_OPEN_TELEMETRY": "false"}, set()),
        (
            {TRACELOOP: "0.62", "anthropic": "1.14.0"},
            {**QUIET, "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "anthropic"},
            set(),
        ),
        ({"anthropic": "1.13.0"}, {"ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content"}, set()),
        ({"anthropic": "2.0.0"}, {"ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content"}, {"content-captured"}),
    ],
)
def test_what_is_installed(versions: dict[str, str], environ: dict[str, str], expected: set[str]) -> None:
    """Who traces the same calls, who records content by default, and which SDK is not observed."""
    assert codes(facts(versions, **environ)) == expected


@pytest.mark.parametrize(("package", "code"), [("anthropic", "sdk-missing"), ("opentelemetry-sdk", "otel-sdk-missing")])
def test_what_is_not_installed(package: str, code: str) -> None:
    """A package without which nothing is seen."""
    without = facts({})
    del without["versions"][package]

    assert codes(without) == {code}


def test_an_exporter_that_the_distro_would_use_and_is_missing() -> None:
    """opentelemetry-instrument exports by OTLP unless told otherwise: without that exporter it sets nothing up."""
    without = facts({"opentelemetry-distro": "0.61b0"})
    without["exporters"] = {"traces": ["console"], "metrics": ["console"]}

    assert codes(without) == {"exporter-missing"}


def test_a_package_outside_our_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that otelstream cannot work with is named, with what is needed."""
    found = tmp_path / "wrapt-0.9.dist-info"
    found.mkdir()
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: wrapt\nVersion: 0.9\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    (conflict,) = _environment.gather()["conflicts"]

    assert conflict.startswith("wrapt 0.9 is installed, ")


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    word = "Basic c2VjcmV0"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={word}")
    monkeypatch.setenv("ANTHROPIC_API_KEY", word)
    return word


def test_no_credentials_in_the_facts(doctor: Doctor, secret: str) -> None:
    """What the doctor collects and prints holds no header and no key of the environment."""
    assert secret not in json.dumps([_environment.gather(), doctor().report])


def test_the_report_for_people(
    plain_environment: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of what, a line of remedy, and the code in front."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")

    assert cli.main(["doctor"]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "1 found in this environment",
        "",
        "switched-off: OTEL_SDK_DISABLED=true switches off the SDK, and otelstream",
        "    remedy: unset it",
    ]


@pytest.mark.parametrize(
    ("base", "provider", "gateway"),
    [
        ("https://api.anthropic.com", "anthropic", None),
        ("https://api.openai.com/v1/", "openai", None),
        ("https://us.api.openai.com/v1", "openai", None),
        ("https://shop.openai.azure.com/openai", "openai", None),
        ("https://bedrock-runtime.eu-west-1.amazonaws.com", "anthropic", None),
        ("", "openai", None),
        ("http://[::1", "openai", None),
        ("http://localhost:4000/anthropic/", "anthropic", "http://localhost:4000/anthropic"),
        ("https://user:secret@llm.example/v1?key=secret", "openai", "https://llm.example/v1"),
        ("https://openai.example.com/v1", "openai", "https://openai.example.com/v1"),
        ("http://[::1]:8080", "openai", "http://[::1]:8080"),
    ],
)
def test_what_a_gateway_is(base: str, provider: str, gateway: str | None) -> None:
    """Whatever is neither the provider's own host nor a cloud's; no password of a URL is repeated."""
    assert _gateways.elsewhere(base, provider) == gateway


def test_a_gateway_of_the_environment(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says that it can be probed, and how; it is no finding."""
    before = doctor()
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://gateway:4000/anthropic")

    seen = doctor()

    assert (seen.exit_code, seen.codes) == (before.exit_code, before.codes)
    (told,) = [each for each in seen.report["unseen"] if "otelstream probe http://gateway:4000/anthropic" in each]
    assert "not the provider's own host" in told
