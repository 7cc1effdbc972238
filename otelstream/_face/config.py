# SPDX-License-Identifier: Apache-2.0
"""The settings: keyword over environment over declarative configuration file, each checked before anything starts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, get_args

from otelstream._core.record.objectives import Objectives
from otelstream._core.record.settings import ChunkMetric, Events, MetricSet, Semconv, Settings, Spans
from otelstream._errors import ConfigurationError
from otelstream._semconv import Effect
from otelstream._trouble import logger

ENVIRONMENT_PREFIX = "OTELSTREAM_"


NAMES = tuple(item.name for item in fields(Settings))


def load(keywords: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    """Merge and check the settings of one `instrument()`.

    Raises:
        ConfigurationError: names the setting by the road it came, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    unknown = sorted(set(keywords) - set(NAMES))
    if unknown:
        raise ConfigurationError(f"unknown setting {unknown[0]!r}; settings are {', '.join(NAMES)}")
    _warn_of_misspelt(environ)
    merged: dict[str, tuple[str, object]] = {"semconv": ("semconv", _semconv_opt_in(environ))}
    path, declared = _declarative(environ)
    merged.update({name: (f"{path}: {name}", value) for name, value in declared.items()})
    for name in NAMES:
        variable = ENVIRONMENT_PREFIX + name.upper()
        value = environ.get(variable, "").strip()
        if value:
            merged[name] = variable, value
    merged.update({name: (name, value) for name, value in keywords.items() if value is not None})
    return Settings(**{name: _CHECKS[name](shown, value) for name, (shown, value) in merged.items()})


def check_providers(given: Mapping[str, object]) -> None:
    """Refuse what is no provider. Raises ConfigurationError."""
    for name, provider in given.items():
        kind = name.removesuffix("_provider")
        if provider is not None and not callable(getattr(provider, f"get_{kind}", None)):
            raise _wrong(name, provider, f"a {kind.title()}Provider, or leave it out for the global one")


_misspelt: set[str] = set()


def _warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """Say once which of our variables is none, and which one it is nearest to."""
    known = [name.upper() for name in NAMES]
    for variable in environ:
        word = variable.upper().removeprefix(ENVIRONMENT_PREFIX)
        if word == variable.upper() or variable in _misspelt or (word in known and variable.isupper()):
            continue
        _misspelt.add(variable)
        near = get_close_matches(word, known, 1)
        remedy = f"did you mean {ENVIRONMENT_PREFIX}{near[0]}?" if near else f"settings are {', '.join(NAMES)}"
        logger.warning("%s is set, and no setting: %s", variable, remedy)


def _semconv_opt_in(environ: Mapping[str, str]) -> Semconv:
    wanted = {word.strip() for word in environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")}
    if "gen_ai/dup" in wanted:
        return "dup"
    return "latest" if "gen_ai_latest_experimental" in wanted else "released"


def _declarative(environ: Mapping[str, str]) -> tuple[str, Mapping[str, object]]:
    """The file in OTEL_CONFIG_FILE, and its keys under `instrumentation/development: python: otelstream:`."""
    path = environ.get("OTEL_CONFIG_FILE", "")
    return path, _keys_of(path, environ) if path else {}


def _keys_of(path: str, environ: Mapping[str, str]) -> Mapping[str, object]:
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


def _seconds_by_model(name: str, value: object) -> float | Mapping[str, float]:
    if isinstance(value, str) and "=" in value:
        value = _pairs(value)
    if not isinstance(value, Mapping):
        try:
            return _seconds(name, value)
        except ConfigurationError:
            allowed = "a positive number of seconds, or a mapping such as {'o3': 300, '*': 60}"
            raise _wrong(name, value, allowed) from None
    for model in value:
        if not isinstance(model, str) or not model:
            raise ConfigurationError(
                f"{name}: the key {model!r} is not allowed: use what names of models begin with, or '*' for all others"
            )
    return {model: _seconds(f"{name}[{model!r}]", seconds) for model, seconds in value.items()}


def _pairs(text: str) -> dict[str, str]:
    """What `name=value,name=value` says, as mappings are written in the environment."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    return {key.strip(): value.strip() for key, _, value in pairs}


def _chunk_events(name: str, value: object) -> bool:
    if value in ("off", False):
        return False
    if value == "all":
        return True
    raise _wrong(name, value, "'off' or 'all'")


def _tools(name: str, value: object) -> Mapping[str, Effect]:
    if isinstance(value, str):
        value = _pairs(value)
    allowed = get_args(Effect)
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a mapping of tool name to 'read' or 'write'")
    for tool, effect in value.items():
        if not isinstance(tool, str) or not tool:
            raise ConfigurationError(f"{name}: the key {tool!r} is not allowed: use the name of a tool")
        if effect not in allowed:
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
        said = str(error)  # of most problems it begins with the file's path
        where = name if said.startswith(str(value)) else f"{name}={str(value)!r}"
        raise ConfigurationError(f"{where}: {said}") from error


# What people write who take it for a switch: no page is named so.
_SWITCHES = frozenset(
    {
        "on", "true", "yes", "y", "t", "1", "enable", "enabled", "auto", "default",
        "no", "n", "f", "0", "disable", "disabled", "none", "null",
    }
)  # fmt: skip


def _view(name: str, value: object) -> str:
    word = str(value).strip().lower() if isinstance(value, (str, os.PathLike)) else ""
    if value is False or word in ("off", "false"):
        return "off"
    if word == "terminal":
        return word
    if not word or word in _SWITCHES:
        raise _wrong(name, value, "'off', 'terminal' or the path of a page, such as 'streams.html'")
    return str(value)


_CHECKS: Mapping[str, Any] = {
    "spans": _choice(Spans),
    "events": _choice(Events),
    "semconv": _choice(Semconv),
    "stall_threshold": _seconds,
    "hang_threshold": _seconds_by_model,
    "freeze_threshold": _seconds,
    "cancel_late_after": _seconds,
    "repetition": _switch,
    "chunk_events": _chunk_events,
    "chunk_metric": _choice(ChunkMetric),
    "metrics": _choice(MetricSet),
    "tools": _tools,
    "objectives": _objectives,
    "view": _view,
}
