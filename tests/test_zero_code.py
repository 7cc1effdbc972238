# SPDX-License-Identifier: Apache-2.0
"""`opentelemetry-instrument python app.py` shows data: counted where an exporter without settings sends it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from receiver import Receiver, over_grpc, over_http

from otelstream import _semconv as s
from otelstream.testing import ProviderSimulator

PROJECT = Path(__file__).resolve().parent.parent
APP = """
import os
import anthropic

client = anthropic.Anthropic(base_url=os.environ["PROVIDER"], api_key="unused", max_retries=0)
ask = dict(model="some-model", max_tokens=9, messages=[dict(role="user", content="hi")])
with client.messages.stream(**ask) as stream:
    print(len(stream.get_final_text()))
with client.messages.create(**ask, stream=True) as stream:
    for event in stream:
        break
try:
    for event in client.messages.create(**ask, stream=True):
        continue
except anthropic.APIStatusError as error:
    print(type(error).__name__)
print("the application ran")
"""
OUTCOMES = ["cancelled", "completed", "failed"]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as sim:
        yield sim


def run(app: Path, provider: ProviderSimulator, python: str = sys.executable, **environment: str) -> str:
    """Run the application by the zero-code line of the README; return its stderr."""
    provider.clear()
    provider.play("text_short")
    provider.play("text_short")
    provider.play("text_short", fault=provider.error_after(chunks=2))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL", "ANTHROPIC"))}
    done = subprocess.run(
        [Path(python).parent / "opentelemetry-instrument", python, str(app)],
        env={**clean, "PROVIDER": provider.base_url, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the application ran" in done.stdout
    assert len(provider.log) == 3
    return done.stderr


def http(receiver: Receiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}",
    }


def outcomes(receiver: Receiver) -> list[str]:
    """The outcome on each span that came."""
    found = []
    for _, span in receiver.spans():
        attributes: dict[str, Any] = {each.key: each.value.string_value for each in span.attributes}
        found.append(attributes.get(s.OUTCOME, f"none on {span.name}"))
    return sorted(found)


def arrived(receiver: Receiver) -> None:
    """Three spans, each with its summary; three streams counted; chunks counted; zeros of what did not happen."""
    assert outcomes(receiver) == OUTCOMES
    assert sum(receiver.total(s.STREAMS.name).values()) == 3
    names = {metric.name for _, metric in receiver.metrics()}
    assert {s.STREAM_TTFT.name, s.STREAM_GAP_BUCKET.name, s.STREAM_ACTIVE.name, s.INFO.name} <= names
    assert s.OBJECTIVE_STREAMS.name in names
    assert all(resource.get("service.instance.id") for resource, _ in receiver.metrics())


@pytest.mark.skipif(sys.platform == "win32", reason="the script has another name there")
class TestTheLine:
    def test_without_any_setting(self, app: Path, provider: ProviderSimulator) -> None:
        """With nothing set, what was measured arrives at the port where an exporter without settings sends it."""
        receiver = over_grpc(4317)
        if not receiver.port:
            pytest.skip("port 4317 is taken on this machine")
        with receiver:
            assert run(app, provider) == ""
            arrived(receiver)

    def test_over_http(self, app: Path, provider: ProviderSimulator) -> None:
        """With the endpoint and the protocol of HTTP set as users set them, the same arrives there."""
        with over_http() as receiver:
            assert run(app, provider, **http(receiver)) == ""
            arrived(receiver)

    def test_without_native_tracing(self, app: Path, provider: ProviderSimulator) -> None:
        """With the SDK's own tracing off, the spans are ours, one a stream."""
        with over_http() as receiver:
            assert run(app, provider, **http(receiver), ANTHROPIC_OPEN_TELEMETRY="false") == ""
            arrived(receiver)
            assert {span.name for _, span in receiver.spans()} == {"chat some-model"}

    def test_settings_by_environment(self, app: Path, provider: ProviderSimulator) -> None:
        """Our settings reach us by the environment: here no spans of ours, but metrics."""
        with over_http() as receiver:
            run(app, provider, **http(receiver), OTELSTREAM_SPANS="off", ANTHROPIC_OPEN_TELEMETRY="false")
            assert outcomes(receiver) == []
            assert sum(receiver.total(s.STREAMS.name).values()) == 3

    @pytest.mark.parametrize(
        "off", [{"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "otelstream"}, {"OTEL_SDK_DISABLED": "true"}]
    )
    def test_switched_off(self, app: Path, provider: ProviderSimulator, off: dict[str, str]) -> None:
        """The switches of OpenTelemetry hold for us: nothing of ours arrives, and nothing is said."""
        with over_http() as receiver:
            assert run(app, provider, **http(receiver), ANTHROPIC_OPEN_TELEMETRY="false", **off) == ""
            assert outcomes(receiver) == []
            assert receiver.total(s.STREAMS.name) == {}

    def test_a_wrong_setting_is_one_error(self, app: Path, provider: ProviderSimulator) -> None:
        """A wrong setting is logged once, in one line that names it; the application runs, other spans still come."""
        with over_http() as receiver:
            said = run(app, provider, **http(receiver), OTELSTREAM_STALL_THRESHOLD="soon")
            assert [line for line in said.splitlines() if "otelstream" in line] == [said.strip()]
            assert "OTELSTREAM_STALL_THRESHOLD='soon' is not allowed: use a positive number of seconds" in said
            assert receiver.total(s.STREAMS.name) == {}

    def test_declarative_file(self, app: Path, provider: ProviderSimulator, tmp_path: Path) -> None:
        """The file that configures the SDK configures us too."""
        pytest.importorskip("opentelemetry.configuration", reason="not with this OpenTelemetry SDK")
        config = tmp_path / "otel.yaml"
        with over_http() as receiver:
            config.write_text(
                "file_format: '1.0'\n"
                "tracer_provider:\n  processors:\n    - batch:\n        exporter:\n          otlp_http:\n"
                f"            endpoint: http://127.0.0.1:{receiver.port}/v1/traces\n"
                "meter_provider:\n  readers:\n    - periodic:\n        exporter:\n          otlp_http:\n"
                f"            endpoint: http://127.0.0.1:{receiver.port}/v1/metrics\n"
                "instrumentation/development:\n  python:\n    otelstream:\n      chunk_metric: off\n"
            )
            said = run(app, provider, OTEL_CONFIG_FILE=str(config), OTEL_EXPERIMENTAL_CONFIG_FILE=str(config))
            names = {metric.name for _, metric in receiver.metrics()}
            assert s.STREAMS.name in names, said
            assert s.STREAM_GAP_BUCKET.name not in names


@pytest.mark.slow
def test_in_a_fresh_environment(app: Path, provider: ProviderSimulator, tmp_path: Path) -> None:
    """What `pip install "otelstream[otlp]"` brings is enough for the line to show data, beside the SDK itself."""
    home = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = str(home / "bin" / "python")
    import anthropic

    wanted = [f"{PROJECT}[otlp]", f"anthropic=={anthropic.__version__}"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    with over_http() as receiver:
        assert run(app, provider, python, **http(receiver)) == ""
        arrived(receiver)
    receiver = over_grpc(4317)
    if receiver.port:
        with receiver:
            assert run(app, provider, python) == ""
            arrived(receiver)


def test_an_sdk_is_attached_to_when_it_is_imported(sim: ProviderSimulator) -> None:
    """`instrument()` imports no SDK; one that is imported afterwards is observed, and one never used costs nothing."""
    program = f"""
import sys
import otelstream
otelstream.instrument()
assert not {{"anthropic", "openai"}} & sys.modules.keys()
ended = []
otelstream.on_stream_end(ended.append)
import anthropic
client = anthropic.Anthropic(base_url={sim.base_url!r}, api_key="unused")
for _ in client.messages.create(model="m", max_tokens=9, messages=[{{"role": "user", "content": "x"}}], stream=True):
    pass
assert [view.outcome for view in ended] == ["completed"], ended
assert "openai" not in sys.modules
otelstream.uninstrument()
assert type(vars(anthropic._base_client.SyncAPIClient)["request"]).__name__ == "function"
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
