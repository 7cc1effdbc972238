# SPDX-License-Identifier: Apache-2.0
"""The settings: keyword over environment over declarative configuration file, each checked before anything starts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_args

from otelstream._core.record.objectives import Objectives
from otelstream._core.record.settings import ChunkMetric, Events, Semconv, Settings, Spans
from otelstream._errors import ConfigurationError
from otelstream._semconv import Effect

ENVIRONMENT_PREFIX = "OTELSTREAM_"


NAMES = tuple(item.name for item in fields(Settings))


def load(keywords: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    """Merge and check the settings of one `instrument()`.

    Raises:
        ConfigurationError: names the setting, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    unknown = sorted(set(keywords) - set(NAMES))
    if unknown:
        raise ConfigurationError(f"unknown setting {unknown[0]!r}; settings are {', '.join(NAMES)}")
    merged: dict[str, object] = {"semconv": _semconv_opt_in(environ)}
    merged.update(_declarative(environ))
    for name in NAMES:
        value = environ.get(ENVIRONMENT_PREFIX + name.upper(), "").strip()
        if value:
            merged[name] = value
    merged.update({name: value for name, value in keywords.items() if value is not None})
    return Settings(**{name: _CHECKS[name](name, value) for name, value in merged.items()})


def _semconv_opt_in(environ: Mapping[str, str]) -> Semconv:
    wanted = {word.strip() for word in environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")}
    if "gen_ai/dup" in wanted:
        return "dup"
    return "latest" if "gen_ai_latest_experimental" in wanted else "released"


def _declarative(environ: Mapping[str, str]) -> Mapping[str, object]:
    """The keys under `instrumentation/development: python: otelstream:` of the file in OTEL_CONFIG_FILE."""
    path = environ.get("OTEL_CONFIG_FILE", "")
    if not path:
        return {}
    try:
        import yaml

        text = Path(path).read_text(encoding="utf-8")
    except (ImportError, OSError, ValueError):
        return {}  # the SDK reads this file too, and reports what is wrong with it
    text = re.sub(
        r"\$\{(?:env:)?(\w+)(?::-([^}]*))?\}",
        lambda match: environ.get(match[1]) or match[2] or "",
        text,
    )
    try:
        node: Any = yaml.safe_load(text)
        for key in ("instrumentation/development", "python", "otelstream"):
            node = (node or {}).get(key)
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError):
        return {}
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise ConfigurationError(f"{path}: otelstream must be a mapping of settings, not {node!r}")
    unknown = sorted(str(key) for key in node if key not in NAMES)
    if unknown:
        raise ConfigurationError(f"{path}: unknown setting {unknown[0]!r}; settings are {', '.join(NAMES)}")
    return cast("dict[str, object]", node)


def _wrong(name: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{name}={value!r} is not allowed: use {allowed}")


def _choice(kind: Any) -> Any:
    allowed = get_args(kind)

    def check(name: str, value: object) -> object:
        # YAML and callers write switches as booleans.
        plain = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        if plain not in allowed:
            raise _wrong(name, value, " or ".join(map(repr, allowed)))
        return plain

    return check


def _switch(name: str, value: object) -> bool:
    if value in ("on", True, "true"):
        return True
    if value in ("off", False, "false"):
        return False
    raise _wrong(name, value, "'on' or 'off'")


def _seconds(name: str, value: object) -> float:
    try:
        number = float(cast("float", value))
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not (0 < number < math.inf):
        raise _wrong(name, value, "a positive number of seconds")
    return number


def _chunk_events(name: str, value: object) -> bool:
    if value in ("off", False):
        return False
    if value == "all":
        return True
    raise _wrong(name, value, "'off' or 'all'")


def _tools(name: str, value: object) -> Mapping[str, Effect]:
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        value = {tool.strip(): effect.strip() for tool, _, effect in pairs}
    allowed = get_args(Effect)
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a mapping of tool name to 'read' or 'write'")
    for tool, effect in value.items():
        if not isinstance(tool, str) or not tool or effect not in allowed:
            raise _wrong(f"{name}[{tool!r}]", effect, " or ".join(map(repr, allowed)))
    return dict(value)


def _objectives(name: str, value: object) -> Objectives:
    if isinstance(value, Objectives):
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise _wrong(name, value, "the path of an objectives file")
    from otelstream._objectives_file import load as load_objectives

    try:
        return load_objectives(Path(value))
    except OSError as error:
        raise _wrong(name, str(value), f"the path of a readable objectives file ({error.strerror})") from error
    except (ValueError, ImportError) as error:
        raise ConfigurationError(f"{name}={str(value)!r}: {error}") from error


def _view(name: str, value: object) -> str:
    if value is False:
        return "off"
    if isinstance(value, (str, os.PathLike)) and str(value):
        return str(value)
    raise _wrong(name, value, "'off', 'terminal' or the path of a page")


_CHECKS: Mapping[str, Any] = {
    "spans": _choice(Spans),
    "events": _choice(Events),
    "semconv": _choice(Semconv),
    "stall_threshold": _seconds,
    "freeze_threshold": _seconds,
    "cancel_late_after": _seconds,
    "repetition": _switch,
    "chunk_events": _chunk_events,
    "chunk_metric": _choice(ChunkMetric),
    "tools": _tools,
    "objectives": _objectives,
    "view": _view,
}
