# SPDX-License-Identifier: Apache-2.0
"""How many series a process exports, and how long Prometheus takes for the rules, at 10 services x 20 models x 30 days.

`python benchmarks/rules.py` (needs prometheus and promtool). The series come from the instrumented SDK against the
simulator; the rules run over raw verdict counters of three days and recorded rates of thirty.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from slo.tools import PrometheusServer, prometheus

from otelstream._semconv import OBJECTIVE_STREAMS
from otelstream.slo import _rules
from otelstream.slo._bundled import bundled_config

CONFIG = bundled_config()
NAMES = [promise.objective.name for promise in CONFIG.promises]
END = 1_768_478_400
DAY = 86400


def series_of_a_process(models: int) -> Counter[str]:
    """Let one process stream with this many models, in many ways, and count what it exports."""
    import anthropic
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import REGISTRY, generate_latest

    import otelstream
    from otelstream.testing import ProviderSimulator

    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    otelstream.instrument()
    with ProviderSimulator() as simulator:
        client = anthropic.Anthropic(base_url=simulator.base_url, api_key="local", max_retries=0)
        plays = (
            ("text_short", None), ("thinking_then_text", None), ("tool_use_two_tools", None), ("refusal", None),
            ("text_max_tokens", None), ("text_cache_read", None), ("loop_text", None),
            ("text_long", simulator.cut_after(chunks=20)), ("text_long", simulator.error_after(chunks=20)),
            ("text_short", simulator.http_error(529)), ("text_short", simulator.http_error(429)),
        )  # fmt: skip
        for model in range(models):
            for script, fault in plays:
                simulator.play(script, fault=fault)
                _stream(client, f"claude-{model}", stop=False)
            simulator.play("text_long")
            _stream(client, f"claude-{model}", stop=True)
        text = generate_latest(REGISTRY).decode()
    lines = [line for line in text.splitlines() if line.startswith(("otelstream_", "gen_ai_"))]
    return Counter(
        line.split("{")[0].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for line in lines
    )


def _stream(client: object, model: str, stop: bool) -> None:
    try:
        with client.messages.stream(  # type: ignore[attr-defined]
            model=model, max_tokens=64, messages=[{"role": "user", "content": "hello"}]
        ) as stream:
            for place, _ in enumerate(stream):
                if stop and place > 20:
                    break
    except Exception:  # broken streams are part of the traffic
        pass


def write_verdicts(data: Path, services: int, models: int, step: int) -> int:
    """Three days of raw verdict counters, a file every six hours; returns the number of series."""
    rng = random.Random(1)
    family = OBJECTIVE_STREAMS.prometheus
    series = [
        (
            (
                f'{family}{{job="service-{s}",instance="{s}:1",gen_ai_request_model="m{m}",'
                f'otelstream_objective_name="{name}",otelstream_objective_result="{result}"}}'
            ),
            pace,
        )
        for s in range(services)
        for m in range(models)
        for name in NAMES
        for result, pace in (("good", 60.0), ("bad", 0.6), ("excluded", 2.0))
    ]
    values = [0] * len(series)
    for begin in range(END - 3 * DAY, END, DAY // 4):
        file = data.parent / "verdicts.om"
        with file.open("w") as out:
            out.write(f"# TYPE {family} unknown\n")
            for second in range(begin, begin + DAY // 4, step):
                for place, (text, pace) in enumerate(series):
                    values[place] += int(pace * step / 60 + rng.random())
                    out.write(f"{text} {values[place]} {second}\n")
            out.write("# EOF\n")
        _import(file, data)
    return len(series)


def write_rates(data: Path, services: int) -> None:
    """Thirty days of the recorded base rates, one a minute."""
    file = data.parent / "rates.om"
    with file.open("w") as out:
        for kind, rate in (("bad", 0.2), ("total", 20.2)):
            name = f"slo:sli_{kind}:rate5m"
            out.write(f"# TYPE {name} unknown\n")
            for service in range(services):
                for objective in NAMES:
                    text = (
                        f'{name}{{job="service-{service}",otelstream_objective_name="{objective}",sloth_window="5m"}}'
                    )
                    out.writelines(f"{text} {rate} {second}\n" for second in range(END - 30 * DAY, END + 60, 60))
        out.write("# EOF\n")
    _import(file, data)


def _import(file: Path, data: Path) -> None:
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=486h", "--quiet"]
    subprocess.run([*command, str(file), str(data)], check=True, stdout=subprocess.DEVNULL)
    file.unlink()


def evaluate(server: PrometheusServer, rounds: int) -> dict[str, tuple[int, float, float]]:
    """For each group: rules, seconds for all of them (median round), and the slowest rule."""
    found = {}
    for group in _rules.groups(CONFIG):
        times = []
        for rule in group["rules"]:
            took = []
            for _ in range(rounds):
                begun = time.perf_counter()
                server.query(rule["expr"], END - 30)
                took.append(time.perf_counter() - begun)
            times.append(statistics.median(took))
        found[group["name"]] = (len(times), sum(times), max(times))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--services", type=int, default=10)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--step", type=int, default=60, help="seconds between samples of the raw counters")
    arguments = parser.parse_args()
    counted = series_of_a_process(arguments.models)
    print(f"series of one process with {arguments.models} models: {sum(counted.values())}")
    for name, count in counted.most_common(8):
        print(f"  {count:6} {name}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "data").mkdir()
        count = write_verdicts(work / "data", arguments.services, arguments.models, arguments.step)
        write_rates(work / "data", arguments.services)
        print(f"verdict series: {count}, a sample every {arguments.step} s")
        with prometheus(work, "global: {}\n") as server:
            groups = evaluate(server, 3)
        for name, (rules, total, slowest) in groups.items():
            print(f"  {total * 1000:8.1f} ms  {rules:3} rules, slowest {slowest * 1000:7.1f} ms  {name}")
        print(f"  {sum(total for _, total, _ in groups.values()) * 1000:8.1f} ms for one evaluation of everything")
    return 0


if __name__ == "__main__":
    sys.exit(main())
