# SPDX-License-Identifier: Apache-2.0
"""An application that streams answers for the end-to-end test: the real SDK, instrumented, against the simulator.

Usage: application.py OBJECTIVES PORT EVERY. One stream in EVERY breaks mid-answer (0: none); /metrics is on PORT.
"""

from __future__ import annotations

import sys
import threading
import time

import anthropic
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

import otelstream
from otelstream.testing import ProviderSimulator, Schedule

SCHEDULE = Schedule(first=0.02, gap=0.002)


def main(objectives: str, port: str, every: str) -> None:
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    otelstream.instrument(objectives=objectives)
    start_http_server(int(port), "127.0.0.1")
    with ProviderSimulator() as simulator:
        client = anthropic.Anthropic(base_url=simulator.base_url, api_key="local", max_retries=0)
        lock, sent = threading.Lock(), [0]
        simulator.play("text_short", schedule=SCHEDULE, times=None)

        def chat() -> None:
            while True:
                with lock:
                    sent[0] += 1
                    if int(every) and sent[0] % int(every) == 0:
                        simulator.play("text_short", schedule=SCHEDULE, fault=simulator.cut_after(chunks=2))
                try:
                    with client.messages.stream(
                        model="claude-test", max_tokens=64, messages=[{"role": "user", "content": "hello"}]
                    ) as stream:
                        stream.until_done()
                except Exception:  # a broken stream raises what its transport raises
                    pass
                time.sleep(0.1)

        threads = [threading.Thread(target=chat, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
