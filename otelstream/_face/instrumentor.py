# SPDX-License-Identifier: Apache-2.0
"""Switch otelstream on and off: the BaseInstrumentor behind `instrument()`, and behind zero-code start-up."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Collection
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

import wrapt
from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from otelstream import _semconv as s
from otelstream._core.process import runtime as process
from otelstream._core.process.runtime import Runtime
from otelstream._core.record.settings import Settings
from otelstream._core.record.stream import StreamObservation
from otelstream._core.tools import spans as tool_spans
from otelstream._core.turns import turn as turns
from otelstream._errors import ConfigurationError, OtelstreamError, UnsupportedVersionError
from otelstream._face import config, providers
from otelstream._face.view import StreamView
from otelstream._trouble import logger

if TYPE_CHECKING:  # nothing of this is needed to run
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from typing_extensions import Unpack

    from otelstream._face.keywords import Settings as Keywords

VERSION = metadata.version("otelstream")
_GIVEN = ("tracer_provider", "meter_provider", "logger_provider")
_awaited: set[str] = set()  # SDKs that are attached to when they are imported
_heard: list[Callable[[StreamObservation], object]] = []
_ended: list[Callable[[StreamObservation], object]] = []
_repeats: list[Callable[[StreamObservation], object]] = []


class OtelStreamInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # typed in some versions only
    """Observe every streamed answer of the provider SDKs that are installed."""

    runtime: Runtime | None = None
    _settings: Settings | None = None
    _patches: list[Any] = []  # noqa: RUF012  # replaced, never changed

    def instrumentation_dependencies(self) -> Collection[str]:
        """Name none: the version is checked by us, with an error that says what to do."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """Start observing. Called again with other settings, those hold for streams begun afterwards.

        Raises:
            ConfigurationError: a setting's value is not allowed.
            UnsupportedVersionError: the installed SDK is outside the supported range.
        """
        # The zero-code loader passes these; an exception there would keep every other package from loading.
        zero_code = bool({"skip_dep_check", "raise_exception_on_conflict"} & kwargs.keys())
        for name in ("skip_dep_check", "raise_exception_on_conflict"):
            kwargs.pop(name, None)
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return
        try:
            self._start(zero_code=zero_code, **kwargs)
        except OtelstreamError as error:
            if not zero_code:
                raise
            logger.error("otelstream stays off: %s", error)
        except Exception as error:
            if not zero_code:
                raise
            logger.error("otelstream stays off: %s: %s", type(error).__name__, error)

    def _start(self, *, zero_code: bool = False, **kwargs: Any) -> None:
        given = {name: kwargs.pop(name, None) for name in _GIVEN}
        settings = config.load(kwargs)
        config.check_providers(given)
        if self.runtime is not None and settings == self._settings and not any(given.values()):
            return
        found = providers.installed()
        if not found:
            # Whoever wrote the line wants to know; whoever instruments whatever there is does not.
            level = logging.DEBUG if zero_code else logging.WARNING
            packages = " or ".join(provider.package for provider in providers.known())
            logger.log(level, "no provider SDK is installed, so there is nothing to observe: pip install %s", packages)
            return
        found = _supported(found)
        if self.runtime is not None:
            logger.info("new settings hold for streams begun from now on")
            self._retire()
        if settings.view != "off":
            from otelstream.view import attach

            given["tracer_provider"] = attach(given["tracer_provider"], settings.view)
        runtime = _make_runtime(settings, given, found)
        patched: list[Any] = []
        before = self._patches
        try:
            patched.extend(provider.patch(runtime) for provider in found if provider.used in sys.modules)
        except BaseException:
            self._patches = [*before, *patched]
            self._stop()
            raise
        self._patches = patched
        for patches in before:
            if patches not in patched:
                patches.remove()
        self.runtime, self._settings = runtime, settings
        self._is_instrumented_by_opentelemetry = True
        for provider in found:
            self._await(provider)

    def _await(self, provider: providers.Provider) -> None:
        """Attach to an SDK when the application imports it: one that it never uses costs nothing."""
        if provider.used in sys.modules or provider.used in _awaited:
            return
        _awaited.add(provider.used)

        def imported(_: object) -> None:
            if self.runtime is None:
                return
            try:
                patches = provider.patch(self.runtime)
                if patches not in self._patches:
                    self._patches.append(patches)
            except Exception as error:
                logger.error("%s is not observed: %s", provider.package, error)

        wrapt.register_post_import_hook(imported, provider.used)

    def uninstrument(self, **_: Any) -> None:
        """Observe nothing that begins from now on. The SDK's own functions are back once no stream is open."""
        if self.runtime is not None:
            self._stop()
        self._is_instrumented_by_opentelemetry = False

    def _stop(self) -> None:
        self._retire()
        patched, self._patches = self._patches, []
        for patches in patched:
            patches.remove()

    def _retire(self) -> None:
        """What is open stays with the runtime it began under, to its end."""
        if self.runtime is not None:
            tool_spans.detach(self.runtime.tracer_provider)
        if self._settings is not None and self._settings.view != "off":
            from otelstream.view import detach

            detach()
        self.runtime = self._settings = None
        process.unregister()

    def _instrument(self, **kwargs: Any) -> None:
        self._start(**kwargs)

    def _uninstrument(self, **kwargs: Any) -> None:
        self.uninstrument(**kwargs)


def _supported(found: dict[providers.Provider, str]) -> dict[providers.Provider, str]:
    """Leave out, with a warning, the SDKs of unknown versions; raises UnsupportedVersionError if none is left."""
    refused: dict[providers.Provider, UnsupportedVersionError] = {}
    for provider, version in found.items():
        try:
            provider.check_version(version)
        except UnsupportedVersionError as error:
            refused[provider] = error
    for why in refused.values():
        if len(refused) == len(found):
            raise why
        logger.warning("%s", why)
    return {provider: version for provider, version in found.items() if provider not in refused}


def _make_runtime(settings: Settings, given: dict[str, Any], found: dict[providers.Provider, str]) -> Runtime:
    tracer = trace.get_tracer(s.SCOPE, VERSION, given["tracer_provider"], s.SCHEMA_URL)
    meter = metrics.get_meter(s.SCOPE, VERSION, given["meter_provider"], s.SCHEMA_URL)
    log_writer = get_logger(s.SCOPE, VERSION, given["logger_provider"], s.SCHEMA_URL)
    info = {
        s.VERSION: VERSION,
        s.SDK_NAME: ",".join(provider.package for provider in found),
        s.SDK_VERSION: ",".join(found.values()),
        s.OBJECTIVES_HASH: settings.objectives.hash,
    }
    names = [provider.provider for provider in found]
    runtime = Runtime(settings, tracer, meter, log_writer, info, names)
    runtime.listeners, runtime.stream_ended, runtime.stream_repeats = _heard, _ended, _repeats
    runtime.tracer_provider = given["tracer_provider"]
    process.register(runtime)
    return runtime


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    **settings: Unpack[Keywords],
) -> None:
    """Observe every streamed answer from now on. Each setting is also `OTELSTREAM_<NAME>`.

    Raises:
        ConfigurationError: names the setting, the value and what is allowed.
        UnsupportedVersionError: the installed SDK is outside the supported range.
    """
    OtelStreamInstrumentor().instrument(
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        logger_provider=logger_provider,
        **settings,
    )


def uninstrument() -> None:
    """Restore the SDK's own functions. Streams that are open keep their record to the end."""
    OtelStreamInstrumentor().uninstrument()


def get_stream(stream: object) -> StreamView:
    """View an SDK stream, a stream helper, its manager or a raw response; unobserved for anything else."""
    found = (provider.observed(stream) for provider in providers.known())
    return StreamView(next((record for record in found if record is not None), None))


def current_stream() -> StreamView:
    """View the newest stream of the current turn, open or ended, until the next one opens; unobserved before any."""
    return StreamView(turns.newest())


def open_streams() -> tuple[StreamView, ...]:
    """Snapshot the streams that have not ended, oldest first: for draining before a deploy."""
    return tuple(StreamView(stream) for runtime in process.runtimes() for stream in runtime.open_streams())


def listen(listener: Callable[[StreamObservation], object], *, stop: bool = False) -> None:
    """Call `listener`, of ours, with the record of every stream that ends, at once; or stop doing so."""
    if stop:
        _heard.remove(listener)
    else:
        _heard.append(listener)


Callback = TypeVar("Callback", bound=Callable[[StreamView], object])


def on_stream_end(callback: Callback) -> Callback:
    """Call `callback(view)` after every stream has ended. Errors in it are logged; it is no coroutine function.

    It never runs inside a finaliser, whose thread may hold any lock: for a stream, or a generator around it, that was
    dropped or closed like one, it is called from a thread of its own, a moment later.
    """
    _ended.append(_checked(callback))
    return callback


def on_repetition(callback: Callback) -> Callback:
    """Call `callback(view)` when a loop is seen while it streams; True closes the stream before its next read."""
    _repeats.append(_checked(callback))
    return callback


def _checked(callback: Any) -> Callable[[StreamObservation], object]:
    from inspect import iscoroutinefunction

    if not callable(callback) or iscoroutinefunction(callback):
        raise ConfigurationError(f"{callback!r} is no plain function: a callback is called, never awaited")
    return lambda stream: callback(StreamView(stream))
