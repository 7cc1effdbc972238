# SPDX-License-Identifier: Apache-2.0
"""Answers of two models through the real SDK, for a Prometheus that scrapes them.

Usage: application.py PORT ANSWERS. The old model speaks, pauses and calls a tool; the new one calls it at once.
/metrics is on PORT; "done" is printed when all have answered, and the process ends with its standard input.
"""

from __future__ import annotations

import sys

import anthropic
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

import otelstream
from otelstream.testing import ProviderSimulator, Schedule, Script

SCRIPTS = {
    "old": Script().text("I will look it up for you.").pause(0.3).tool_use("search", {"q": "x"}),
    "new": Script().tool_use("search", {"q": "x"}),
}


def main(port: str, answers: str) -> None:
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    otelstream.instrument()
    start_http_server(int(port), "127.0.0.1")
    with ProviderSimulator() as simulator, anthropic.Anthropic(base_url=simulator.base_url, api_key="local") as client:
        for model, script in SCRIPTS.items():
            simulator.play(script, schedule=Schedule(first=0.02, gap=0.004), times=None)
            for _ in range(int(answers)):
                with client.messages.stream(
                    model=model, max_tokens=64, messages=[{"role": "user", "content": "hello"}]
                ) as stream:
                    stream.until_done()
        print("done", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
