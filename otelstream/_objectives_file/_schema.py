# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of the objectives file, for editors: made from the same constants as the checks."""

from __future__ import annotations

from typing import Any, Final, get_args

from otelstream._objectives_file._spec import FAULTS, KINDS, SYMPTOMS, Severity
from otelstream._semconv import MAX_COMMON_SETS

_DURATION: Final[dict[str, Any]] = {
    "type": "string",
    "pattern": r"^\s*(?!0+(\.0+)?[a-z])\d+(\.\d+)?(ms|s|m|h|d)\s*$",
    "description": "A number with its unit: 800ms, 2.5s, 5m, 1h, 30d",
}
_RATIO: Final[dict[str, Any]] = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
_POSITIVE: Final[dict[str, Any]] = {"type": "number", "exclusiveMinimum": 0}
_LINE: Final[dict[str, Any]] = {"type": "string", "pattern": r"^[^\n]*$"}
_NAMES: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"type": "string", "minLength": 1},
    "minItems": 1,
    "uniqueItems": True,
}
_SEVERITY: Final[dict[str, Any]] = {"enum": list(get_args(Severity))}
_LABELS: Final[dict[str, Any]] = {
    "type": "object",
    "propertyNames": {"pattern": "^(?!__)[a-zA-Z_][a-zA-Z0-9_]*$"},
    "additionalProperties": {"type": "string", "minLength": 1, "pattern": r"^[^\n]*$"},
}


def _object(properties: dict[str, Any], required: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def _said(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {**schema, "description": description}


def schema() -> dict[str, Any]:
    """Return the schema as plain data."""
    burn_rates = {
        "type": "array",
        "minItems": 1,
        "description": "Pairs of windows; an alert fires when both burn faster than the factor",
        "items": _object(
            {
                "severity": _SEVERITY,
                "long": _DURATION,
                "short": _DURATION,
                "for": _DURATION,
                "budget": _said(_RATIO, "Share of the budget gone when it fires; factor = budget x window / long"),
                "factor": _said(_POSITIVE, "The burn rate itself, instead of budget"),
            },
            ("severity", "long", "short", "for"),
            oneOf=[{"required": ["budget"]}, {"required": ["factor"]}],
        ),
    }
    objective = _object(
        {
            "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?$"},
            "kind": {"enum": list(KINDS)},
            "target": _said(_RATIO, "The share of streams that must be good: 0.995"),
            "threshold": _DURATION,
            "models": _said(_NAMES, "Only streams of these models"),
            "routes": _said(_NAMES, "Only streams of these routes"),
            "faults": _said({**_NAMES, "items": {"enum": list(FAULTS)}}, "What breaks integrity"),
            "min_bad": _said(_COUNT, "No alert with fewer bad streams in the long window"),
            "burn_rates": burn_rates,
            "description": _LINE,
        },
        ("name", "kind", "target"),
        allOf=[
            {
                "if": {"properties": {"kind": {"const": "integrity"}}},
                "then": {"properties": {"threshold": False}},
                "else": {"required": ["threshold"], "properties": {"faults": False}},
            }
        ],
    )
    symptoms = {}
    for key, default in SYMPTOMS.items():
        properties: dict[str, Any] = {"severity": _SEVERITY, "for": _DURATION}
        if default.threshold:
            properties["threshold"] = _POSITIVE
        if default.at_least:
            properties["at_least"] = _COUNT
        if default.window:
            properties["window"] = _DURATION
        symptoms[key] = {"oneOf": [{"enum": [False, "off"]}, _object(properties)]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "otelstream objectives",
        **_object(
            {
                "version": {"const": 1},
                "window": _said(_DURATION, "The period a budget is for"),
                "min_bad": _said(_COUNT, "No alert with fewer bad streams in the long window"),
                "keep_firing": _said(_DURATION, "How long a page stays after its condition ended"),
                "group_by": _said(_NAMES, "One alert for each combination of these labels"),
                "select": _said(_LABELS, "Only series with these labels"),
                "labels": _said(_LABELS, "Put on every alert"),
                "runbook_url": _said(_LINE, "Where runbook.md is served"),
                "burn_rates": burn_rates,
                "objectives": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_COMMON_SETS,
                    "items": objective,
                },
                "symptoms": _said(_object(symptoms), "Alerts that need no objective"),
            },
            ("objectives",),
        ),
    }
