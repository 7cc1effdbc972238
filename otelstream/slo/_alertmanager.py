# SPDX-License-Identifier: Apache-2.0
"""Routing and inhibition for Alertmanager: who is woken, what a page silences, how often it is said again."""

from __future__ import annotations

from typing import Any

from otelstream._objectives_file import SloConfig
from otelstream._semconv import OBJECTIVE_NAME, label_name

REPEAT = "12h"


def alertmanager(config: SloConfig) -> dict[str, Any]:
    """Return a whole configuration; its receivers are empty, for the pages and the tickets of whoever loads it."""
    group = list(config.group_by)
    ours = 'alertname=~"OtelStream.+"'
    return {
        "route": {
            "receiver": "otelstream-tickets",
            "group_by": ["alertname", label_name(OBJECTIVE_NAME), *group],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": REPEAT,
            "routes": [{"matchers": [ours, 'severity="page"'], "receiver": "otelstream-pages"}],
        },
        "inhibit_rules": [
            # Who is woken by a page needs no ticket of the same objective,
            _silences(
                ['alertname=~"OtelStream.+BudgetBurnPage"'],
                ['alertname=~"OtelStream.+BudgetBurnTicket"'],
                [label_name(OBJECTIVE_NAME), *group],
            ),
            # and what fails shows no first token either.
            _silences(
                ['alertname="OtelStreamCompletionBudgetBurnPage"'],
                ['alertname=~"OtelStreamFirstTokenBudgetBurn(Page|Ticket)|OtelStreamRetriesRising"'],
                group,
            ),
            # What is silent says nothing true of the rest.
            _silences(
                ['alertname="OtelStreamTelemetrySilent"'], [ours, 'alertname!="OtelStreamTelemetrySilent"'], group
            ),
        ],
        "receivers": [{"name": "otelstream-pages"}, {"name": "otelstream-tickets"}],
    }


def _silences(source: list[str], target: list[str], equal: list[str]) -> dict[str, Any]:
    return {"source_matchers": source, "target_matchers": target, "equal": equal}
