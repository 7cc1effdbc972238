# SPDX-License-Identifier: Apache-2.0
"""The settings: who wins over whom, what is refused and how, and switching on and off."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from shapes import ASK, Reply, Tape, clients

import otelstream
from otelstream._core.process.provider import Adapter
from otelstream._face import config as _config
from otelstream.testing import Script

TEXT = [event.frame for event in Script().text("Calm.").finished().events]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in _config.NAMES:
        monkeypatch.delenv(f"OTELSTREAM_{name.upper()}", raising=False)
    for name in ("OTEL_CONFIG_FILE", "OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    yield
    otelstream.uninstrument()


def settings() -> Any:
    return otelstream.OtelStreamInstrumentor()._settings


def observed() -> bool:
    """Whether a stream that begins now is observed."""
    transport, client, _ = clients(native=False)
    transport.tape = Tape([Reply(TEXT)])
    with client.messages.create(**ASK, stream=True) as stream:
        return otelstream.get_stream(stream).observed


def declared(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "otel.yaml"
    path.write_text(f"file_format: '1.0'\ninstrumentation/development:\n  python:\n    otelstream:\n{text}")
    monkeypatch.setenv("OTEL_CONFIG_FILE", str(path))


# --- who wins ---------------------------------------------------------------------------------------------


def test_keyword_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyword wins over the environment, that over the file, that over the default."""
    declared(tmp_path, "      stall_threshold: 7\n      freeze_threshold: 70\n      spans: own\n", monkeypatch)
    monkeypatch.setenv("OTELSTREAM_STALL_THRESHOLD", "6")
    monkeypatch.setenv("OTELSTREAM_FREEZE_THRESHOLD", "60")
    otelstream.instrument(stall_threshold=5)
    found = settings()
    assert (found.stall_threshold, found.freeze_threshold, found.spans, found.events) == (5.0, 60.0, "own", "span")


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("spell", ["keyword", "environment", "file"])
def test_booleans_are_on_and_off(value: bool, spell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`True` and `False` mean `on` and `off`, in code, in the environment and in YAML."""
    keywords: dict[str, Any] = {}
    if spell == "keyword":
        keywords = {"repetition": value}
    elif spell == "environment":
        monkeypatch.setenv("OTELSTREAM_REPETITION", "on" if value else "off")
    else:
        declared(tmp_path, f"      repetition: {'on' if value else 'off'}\n", monkeypatch)
    otelstream.instrument(**keywords)
    assert settings().repetition is value


def test_a_file_may_take_values_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${NAME}` and `${NAME:-default}` are replaced, as the SDK does in the same file."""
    declared(tmp_path, "      stall_threshold: ${STALL}\n      events: ${EVENTS:-log}\n", monkeypatch)
    monkeypatch.setenv("STALL", "3.5")
    otelstream.instrument()
    assert (settings().stall_threshold, settings().events) == (3.5, "log")


@pytest.mark.parametrize(
    ("opt_in", "semconv"),
    [("", "released"), ("http,gen_ai_latest_experimental", "latest"), ("gen_ai/dup", "dup"), ("database", "released")],
)
def test_semconv_follows_the_opt_in(opt_in: str, semconv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a setting of ours the conventions' own variable decides."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", opt_in)
    otelstream.instrument()
    assert settings().semconv == semconv


def test_tools_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names tools as `name=effect`, separated by commas."""
    monkeypatch.setenv("OTELSTREAM_TOOLS", "send_email=write, search=read")
    otelstream.instrument()
    assert settings().tools == {"send_email": "write", "search": "read"}


@pytest.mark.parametrize("road", ["keyword", "environment", "file"])
def test_a_hang_by_model(road: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest beginning of a model's name that is named, else all others, else the default."""
    keywords: dict[str, Any] = {}
    if road == "keyword":
        keywords = {"hang_threshold": {"o3": 300, "o3-mini": 90, "*": 20}}
    elif road == "environment":
        monkeypatch.setenv("OTELSTREAM_HANG_THRESHOLD", "o3=300, o3-mini=90, *=20")
    else:
        declared(tmp_path, "      hang_threshold: {o3: 300, o3-mini: 90, '*': 20}\n", monkeypatch)
    otelstream.instrument(**keywords)

    found = [settings().hangs_after(model) for model in ("o3-2025", "o3-mini-2025", "gpt-5", "*")]
    assert found == [300.0, 90.0, 20.0, 20.0]


def test_a_hang_of_models_that_are_not_named() -> None:
    """A mapping without `*` leaves the default to the others; a number is for all."""
    otelstream.instrument(hang_threshold={"o3": 300})
    assert [settings().hangs_after(model) for model in ("o3", "gpt-5")] == [300.0, 60.0]
    otelstream.instrument(hang_threshold=5)
    assert settings().hangs_after("o3") == 5.0


# --- bad input --------------------------------------------------------------------------------------------

WRONG: list[tuple[str, Any, str]] = [
    ("spans", "sometimes", "'auto' or 'own' or 'enrich' or 'off'"),
    ("events", 3, "'span'"),
    ("semconv", "newest", "'released'"),
    ("stall_threshold", "soon", "a positive number of seconds"),
    ("stall_threshold", -1, "a positive number of seconds"),
    ("stall_threshold", float("nan"), "a positive number of seconds"),
    ("hang_threshold", "soon", "a positive number of seconds, or a mapping such as {'o3': 300, '*': 60}"),
    ("hang_threshold", "o3=soon", "['o3']='soon' is not allowed: use a positive number of seconds"),
    ("hang_threshold", {"o3": 0}, "hang_threshold['o3']=0 is not allowed: use a positive number of seconds"),
    (
        "hang_threshold",
        {"": 5},
        "the key '' is not allowed: use what names of models begin with, or '*' for all others",
    ),
    ("hang_threshold", {3: 5}, "the key 3 is not allowed"),
    ("freeze_threshold", float("inf"), "a positive number of seconds"),
    ("cancel_late_after", True, "a positive number of seconds"),
    ("repetition", "maybe", "'on' or 'off'"),
    ("chunk_events", "some", "'off' or 'all'"),
    ("chunk_metric", "histogram", "'buckets'"),
    ("tools", {"send": "maybe"}, "'read'"),
    ("tools", "send", "'read'"),
    ("tools", 4, "a mapping"),
    ("objectives", "no/such/file.yaml", "no/such/file.yaml"),
    ("objectives", 5, "the path of an objectives file"),
    ("view", 6, "'off', 'terminal'"),
    ("view", "", "'off', 'terminal' or the path of a page"),
    *(("view", word, "'off', 'terminal' or the path of a page") for word in ("yes", "on", "True", "1", "no", "none")),
    ("view", True, "'off', 'terminal'"),
    ("tools", {1: "read"}, "the key 1 is not allowed: use the name of a tool"),
    ("tools", {"": "read"}, "the key '' is not allowed"),
]
PROVIDERS = [
    (name, value, f"{name}={value!r} is not allowed: use a {kind}")
    for name, kind in (("tracer_provider", "Tracer"), ("meter_provider", "Meter"), ("logger_provider", "Logger"))
    for value in ("x", 3, object)
]


@pytest.mark.parametrize(("name", "value", "allowed"), [*WRONG, *PROVIDERS])
def test_a_wrong_value_is_named(name: str, value: Any, allowed: str) -> None:
    """One line names the setting, the value and what is allowed; nothing is switched on, and nothing stays patched."""
    request = anthropic._base_client.SyncAPIClient.request
    with pytest.raises(otelstream.ConfigurationError) as caught:
        otelstream.instrument(**{name: value})
    said = str(caught.value)
    assert name in said
    assert allowed in said
    assert "\n" not in said
    assert isinstance(caught.value, ValueError)
    assert anthropic._base_client.SyncAPIClient.request is request
    assert not observed()


@pytest.mark.parametrize(("name", "value", "allowed"), [each for each in WRONG if isinstance(each[1], str) and each[1]])
def test_a_wrong_environment_under_zero_code(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the zero-code loader the same is one logged error, and the application runs without us."""
    monkeypatch.setenv(f"OTELSTREAM_{name.upper()}", value)
    with caplog.at_level(logging.DEBUG, "otelstream"):
        otelstream.OtelStreamInstrumentor().instrument(skip_dep_check=True)
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR
    assert f"OTELSTREAM_{name.upper()}" in record.getMessage()
    assert allowed in record.getMessage()
    assert record.exc_info is None
    assert not observed()


@pytest.mark.parametrize(("name", "value", "allowed"), [("stall_threshold", "soon", "seconds"), ("spans", 3, "'auto'")])
def test_an_error_names_the_road(
    name: str, value: Any, allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keyword is named as the keyword, a variable as the variable, a key of the file with the file."""

    def said(**keywords: Any) -> str:
        with pytest.raises(otelstream.ConfigurationError, match=allowed) as caught:
            otelstream.instrument(**keywords)
        return str(caught.value).partition(" is not allowed")[0]

    assert said(**{name: value}) == f"{name}={value!r}"
    declared(tmp_path, f"      {name}: {value}\n", monkeypatch)
    assert said() == f"{tmp_path / 'otel.yaml'}: {name}={value!r}"
    monkeypatch.setenv(f"OTELSTREAM_{name.upper()}", str(value))
    assert said() == f"OTELSTREAM_{name.upper()}={str(value)!r}"


@pytest.mark.parametrize("text", ["objectives: []", "objectives: [{name: x}]", "nonsense", None])
def test_an_objectives_file_is_named_once(text: str | None, tmp_path: Path) -> None:
    """What is wrong with the objectives file is said with its path, once for each thing that is wrong."""
    path = tmp_path / "objectives.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(otelstream.ConfigurationError) as caught:
        otelstream.instrument(objectives=path)
    assert str(caught.value).startswith(f"objectives: {path}: ")
    assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("zero_code", [True, False])
@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("OTELSTREAM_STALL_TRESHOLD", "did you mean OTELSTREAM_STALL_THRESHOLD?"),
        ("OTELSTREAM_TOOL", "did you mean OTELSTREAM_TOOLS?"),
        ("otelstream_spans", "did you mean OTELSTREAM_SPANS?"),
        ("OTELSTREAM_COFFEE", "settings are spans, events, "),
    ],
)
def test_a_misspelt_variable(
    variable: str, remedy: str, zero_code: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A variable of ours that is no setting is warned about, once, with the nearest that is; all else holds."""
    monkeypatch.setattr(_config, "_misspelt", set())
    monkeypatch.setenv(variable, "3")
    for threshold in (3, 4):
        if zero_code:
            otelstream.OtelStreamInstrumentor().instrument(skip_dep_check=True)
        else:
            otelstream.instrument(stall_threshold=threshold)
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{variable} is set, and no setting: ")
    assert remedy in record.getMessage()
    assert observed()


@pytest.mark.parametrize(
    ("value", "view"),
    [(False, "off"), ("OFF", "off"), ("false", "off"), ("Terminal", "terminal"), ("yes.html", "yes.html")],
)
def test_what_a_view_may_be(value: Any, view: str) -> None:
    """Off, the terminal, or a page, in any case."""
    assert _config.load({"view": value}, {}).view == view


def test_an_unknown_setting_is_named() -> None:
    """A setting that does not exist is refused with those that do."""
    with pytest.raises(otelstream.ConfigurationError, match=r"'stall_treshold'.*stall_threshold"):
        otelstream.instrument(stall_treshold=3)


@pytest.mark.parametrize("text", ["      stall_treshold: 3\n", "      - 3\n", "      5\n"])
def test_a_wrong_file_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the declarative file says wrongly of us is refused with the file's path."""
    declared(tmp_path, text, monkeypatch)
    with pytest.raises(otelstream.ConfigurationError, match=r"otel\.yaml"):
        otelstream.instrument()


@pytest.mark.parametrize("text", ["", "::: no yaml [", "- a\n- list\n", "instrumentation/development: 5\n"])
def test_somebody_elses_file_is_left_to_them(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without our section, or none that can be read, gives the defaults: the SDK reports what is wrong."""
    path = tmp_path / "otel.yaml"
    path.write_text(text)
    monkeypatch.setenv("OTEL_CONFIG_FILE", str(path))
    otelstream.instrument()
    assert settings() == _config.Settings()
    otelstream.uninstrument()
    monkeypatch.setenv("OTEL_CONFIG_FILE", str(tmp_path / "absent.yaml"))
    otelstream.instrument()
    assert settings() == _config.Settings()


@pytest.mark.parametrize("version", ["0.50.9", "9.0.0", "nonsense"])
def test_an_unsupported_sdk(version: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Outside the supported range `instrument()` raises with the remedy; a zero-code start logs it once and goes on."""
    monkeypatch.setattr(Adapter, "installed_version", lambda it: version if it.package == "anthropic" else None)
    with pytest.raises(otelstream.UnsupportedVersionError, match=rf"{version}.*0\.51.*install one of those"):
        otelstream.instrument()
    assert not observed()
    otelstream.OtelStreamInstrumentor().instrument(skip_dep_check=True)
    (record,) = [each for each in caplog.records if each.name == "otelstream"]
    assert record.levelno == logging.ERROR
    assert version in record.getMessage()
    assert not observed()


def test_an_sdk_without_a_hook_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK in the range that lacks what we wrap is refused too, with nothing left wrapped, and can be retried."""
    request = anthropic._base_client.SyncAPIClient.request
    with monkeypatch.context() as patch:
        patch.delattr(anthropic.AsyncStream, "close")
        with pytest.raises(otelstream.UnsupportedVersionError, match="hook point"):
            otelstream.instrument()
    assert anthropic._base_client.SyncAPIClient.request is request
    otelstream.uninstrument()
    otelstream.instrument()
    assert observed()


def test_no_sdk(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without a provider SDK a line of code is told so, with the remedy; the zero-code loader is not."""
    monkeypatch.setattr(Adapter, "installed_version", lambda _: None)
    otelstream.OtelStreamInstrumentor().instrument(skip_dep_check=True)
    assert not [each for each in caplog.records if each.levelno >= logging.INFO]
    otelstream.instrument()
    (record,) = [each for each in caplog.records if each.name.startswith("otelstream")]
    assert "pip install anthropic" in record.getMessage()


def test_any_failure_under_zero_code_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong in us at start-up, the loader goes on to the next instrumentation."""

    def broken(*_: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(Adapter, "patch", broken)
    otelstream.OtelStreamInstrumentor().instrument(skip_dep_check=True)
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "disk on fire" in record.getMessage()
    assert not observed()


# --- on and off -------------------------------------------------------------------------------------------


def test_again_with_the_same_settings_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """The second call with the same settings changes nothing and says nothing; with others it says so at INFO."""
    with caplog.at_level(logging.DEBUG):
        otelstream.instrument(stall_threshold=3)
        runtime = otelstream.OtelStreamInstrumentor().runtime
        otelstream.instrument(stall_threshold=3)
        assert otelstream.OtelStreamInstrumentor().runtime is runtime
        assert caplog.records == []
        otelstream.instrument(stall_threshold=4)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert settings().stall_threshold == 4


def test_new_settings_are_for_new_streams() -> None:
    """A stream begun under other settings keeps them to its end."""
    otelstream.instrument(stall_threshold=3)
    transport, client, _ = clients(native=False)
    transport.tape = Tape([Reply(TEXT)])
    stream = client.messages.create(**ASK, stream=True)
    otelstream.instrument(stall_threshold=4)
    assert vars(stream)["_otelstream"].stream.runtime.settings.stall_threshold == 3
    list(stream)
    assert otelstream.get_stream(stream).outcome == "completed"


def test_a_wrong_value_leaves_the_old_settings() -> None:
    """Refused settings change nothing: what was on stays on as it was."""
    otelstream.instrument(stall_threshold=3)
    with pytest.raises(otelstream.ConfigurationError):
        otelstream.instrument(stall_threshold="soon")
    assert settings().stall_threshold == 3
    assert observed()


def test_uninstrument_twice_and_before() -> None:
    """Switching off what is off does nothing."""
    otelstream.uninstrument()
    otelstream.instrument()
    assert observed()
    otelstream.uninstrument()
    otelstream.uninstrument()
    assert not observed()


@pytest.mark.parametrize("value", ["true", "True", " TRUE "])
def test_sdk_disabled(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `OTEL_SDK_DISABLED=true` nothing is patched."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    request = anthropic._base_client.SyncAPIClient.request
    otelstream.instrument()
    assert anthropic._base_client.SyncAPIClient.request is request
    assert not observed()


def test_suppressed() -> None:
    """A stream begun under `suppress_instrumentation()` is none of ours, wherever it is read."""
    otelstream.instrument()
    with suppress_instrumentation():
        assert not observed()
    assert observed()


def test_import_is_light() -> None:
    """`import otelstream` loads no provider SDK, no exporter, no OpenTelemetry SDK, no YAML and no web server."""
    import subprocess

    code = (
        "import sys, otelstream\n"
        "heavy = "
        "'anthropic openai httpx httpx2 pydantic yaml grafanalib h11 opentelemetry.sdk opentelemetry.exporter'\n"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
