# SPDX-License-Identifier: Apache-2.0
"""The fields of the objectives file: name, kind, default and meaning of each, stated once."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, get_args

from otelstream._objectives_file.kinds import Number, OneOf, Ratio, Seconds, Text, Version, Whole
from otelstream._objectives_file.promises import Severity
from otelstream._objectives_file.tables import Field, Labels, Names, OrOff, Rows, Table
from otelstream._semconv import MAX_OBJECTIVES, Fault, ObjectiveKind

# `request_error` is our caller's mistake and always excluded; `none` is no fault.
_FAULTS: Final = tuple(fault for fault in get_args(Fault) if fault not in ("none", "request_error"))
_LABEL: Final = "(?!__)[a-zA-Z_][a-zA-Z0-9_]*"
_RESERVED: Final = ("alertname", "severity", "sloth_id", "sloth_service", "otelstream_objective_name")
LEAST_FACTOR: Final = Decimal("0.001")

_SEVERITY: Final = OneOf(get_args(Severity))
_ANY: Final = Names(Text("name"), "chat")
_LINE: Final = Text("line of text", empty=True)
_VALUE: Final = Text("label value")
_GROUP: Final = Text("label to group by", "use names such as job or namespace", _LABEL, _RESERVED)
_NAME: Final = Text(
    "name", "use 1-40 of a-z, 0-9, _ and -, such as chat-first-token", "[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?"
)


def _label(reserved: tuple[str, ...] = ()) -> Text:
    return Text("label name", "use letters, digits and _, such as team", _LABEL, reserved)


_PAIR: Final = Table(
    (
        Field("severity", _SEVERITY, required=True),
        Field("long", Seconds("1h"), required=True),
        Field("short", Seconds("5m"), required=True),
        Field("for", Seconds("2m"), required=True),
        Field("budget", Ratio(0.02), "Share of the budget gone when it fires; factor = budget x window / long"),
        Field("factor", Number(14.4, float(LEAST_FACTOR)), "The burn rate itself, instead of budget"),
    ),
    either=("budget", "factor"),
)
_PAIRS: Final = Rows(_PAIR)
_PAIRS_SAY: Final = "Pairs of windows; an alert fires when both burn faster than the factor"
_MIN_BAD_SAYS: Final = "No alert with fewer bad streams in the long window"
# The four pairs everybody knows, by share of the budget: 30 d gives x14.4, x6, x3, x1.
_USUAL_PAIRS: Final = [
    {"severity": "page", "long": "1h", "short": "5m", "budget": 0.02, "for": "2m"},
    {"severity": "page", "long": "6h", "short": "30m", "budget": 0.05, "for": "15m"},
    {"severity": "ticket", "long": "1d", "short": "2h", "budget": 0.1, "for": "1h"},
    {"severity": "ticket", "long": "3d", "short": "6h", "budget": 0.1, "for": "3h"},
]

_OBJECTIVE: Final = Table(
    (
        Field("name", _NAME, required=True),
        Field("kind", OneOf(get_args(ObjectiveKind)), required=True),
        Field("target", Ratio(0.99), "The share of streams that must be good: 0.995", required=True),
        Field("threshold", Seconds("2.5s"), required=True, when=("kind", ("first_token", "completion"))),
        Field("models", _ANY, "Only streams of these models"),
        Field("routes", _ANY, "Only streams of these routes"),
        Field(
            "faults",
            Names(OneOf(_FAULTS), "provider_error, cut_short"),
            "What breaks integrity",
            when=("kind", ("integrity",)),
        ),
        Field("judges", Names(_NAME, "safe-to-ship"), "Only verdicts of these", when=("kind", ("reversal",))),
        Field("min_bad", Whole(3), _MIN_BAD_SAYS),
        Field("burn_rates", _PAIRS, _PAIRS_SAY),
        Field("description", _LINE, default=""),
    )
)


def _symptom(severity: Severity, hold: str, **knobs: Any) -> OrOff:
    kinds = {"threshold": Number(0.1), "share": Ratio(0.2), "at_least": Whole(3), "window": Seconds("1h")}
    named = {"share": "threshold"}
    return OrOff(
        Table(
            (
                Field("severity", _SEVERITY, default=severity),
                Field("for", Seconds("5m"), default=hold),
                *(Field(named.get(name, name), kinds[name], default=usual) for name, usual in knobs.items()),
            )
        )
    )


_SYMPTOMS: Final = {
    "hanging": _symptom("page", "5m", share=0.2, at_least=3),
    "cancels": _symptom("ticket", "5m", share=0.2, at_least=3, window="1h"),
    "side_effects": _symptom("ticket", "15m", at_least=1, window="6h"),
    "early_tools": _symptom("ticket", "1m", at_least=1, window="1h"),
    "invalid_tools": _symptom("ticket", "1m", at_least=1, window="1h"),
    "repetition": _symptom("ticket", "5m", threshold=0.01, at_least=3, window="1h"),
    "provider_stalls": _symptom("ticket", "10m", threshold=0.05, at_least=5, window="30m"),
    "retries": _symptom("ticket", "10m", threshold=0.1, at_least=3, window="30m"),
    "overflow": _symptom("ticket", "5m", window="1h"),
    "names": _symptom("ticket", "5m"),
    "objectives_differ": _symptom("ticket", "15m"),
    "silent": _symptom("ticket", "10m", window="6h"),
}

FILE: Final = Table(
    (
        Field("version", Version(), default=1),
        Field("window", Seconds("30d"), "The period a budget is for", default="30d"),
        Field("min_bad", Whole(3), _MIN_BAD_SAYS, default=3),
        Field("keep_firing", Seconds("1h"), "How long a page stays after its condition ended", default="1h"),
        Field("keep_ticket", Seconds("6h"), "How long a ticket stays after its condition ended", default="6h"),
        Field("group_by", Names(_GROUP, "job"), "One alert for each combination of these labels", default=["job"]),
        Field("select", Labels(_label(), _VALUE), "Only series with these labels", default={}),
        Field("labels", Labels(_label(_RESERVED), _VALUE), "Put on every alert", default={}),
        Field("runbook_url", _LINE, "Where runbook.md is served", default="runbook.md"),
        Field("burn_rates", _PAIRS, _PAIRS_SAY, default=_USUAL_PAIRS),
        Field("objectives", Rows(_OBJECTIVE, most=MAX_OBJECTIVES), required=True),
        Field(
            "symptoms",
            Table(tuple(Field(name, kind, default={}) for name, kind in _SYMPTOMS.items())),
            "Alerts that need no objective",
            default={},
        ),
    )
)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "otelstream objectives"}
    return {**head, **FILE.schema()}
