# SPDX-License-Identifier: Apache-2.0
"""One series name by three roads: Python's Prometheus exporter, the Collector's, Prometheus's own OTLP."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from otelstream._semconv import LABELS, METRICS, Metric, label_name

from .tools import free_port, go_with, wait_for

ROOT = Path(__file__).parents[2]

TABLE = {metric.name: metric.prometheus for metric in METRICS}
# The Collector's Prometheus exporter and Prometheus's OTLP receiver both name series with this library.
TRANSLATOR = "github.com/prometheus/otlptranslator@v1.0.0"
GO = """\
package main

import (
	"encoding/json"
	"os"

	"github.com/prometheus/otlptranslator"
)

func main() {
	var in []struct {
		Name, Unit string
		Type       otlptranslator.MetricType
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	namer := otlptranslator.NewMetricNamer("", otlptranslator.UnderscoreEscapingWithSuffixes)
	labeler := otlptranslator.LabelNamer{}
	out := map[string]string{}
	for _, m := range in {
		var name string
		var err error
		if m.Type == otlptranslator.MetricTypeUnknown {
			name, err = labeler.Build(m.Name)
		} else {
			name, err = namer.Build(otlptranslator.Metric{Name: m.Name, Unit: m.Unit, Type: m.Type})
		}
		if err != nil {
			panic(err)
		}
		out[m.Name] = name
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""
GO_TYPES = {  # otlptranslator.MetricType in its order
    "observable_up_down_counter": 1,
    "counter": 2,
    "observable_counter": 2,
    "gauge": 3,
    "histogram": 4,
}


def exported(metric: Metric) -> set[str]:
    """The sample names of one instrument as the Python exporter prints them."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader()
    registry.register(reader._collector)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    meter = provider.get_meter("otelstream")
    attributes = {label.attribute: "x" for label in LABELS if label.attribute in metric.labels}
    if metric.kind == "counter":
        meter.create_counter(metric.name, metric.unit).add(1, attributes)
    elif metric.kind == "histogram":
        meter.create_histogram(metric.name, metric.unit).record(1, attributes)
    elif metric.kind == "gauge":
        meter.create_gauge(metric.name, metric.unit).set(1, attributes)
    elif metric.kind == "observable_counter":
        meter.create_observable_counter(metric.name, [lambda _: [Observation(1, attributes)]], metric.unit)
    else:
        meter.create_observable_up_down_counter(metric.name, [lambda _: [Observation(1, attributes)]], metric.unit)
    text = generate_latest(registry).decode()
    provider.shutdown()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    mine = [sample for sample in samples if sample.name != "target_info"]
    labels = {key for sample in mine for key in sample.labels if not key.startswith("otel_scope_")}
    assert {label_name(attribute) for attribute in attributes} <= labels
    return {sample.name for sample in mine}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_python_exporter(metric: Metric) -> None:
    """The Python exporter prints the names of the table, and the labels of the contract."""
    suffixes = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)

    assert {metric.prometheus + suffix for suffix in suffixes} == exported(metric)


def record(provider: MeterProvider) -> None:
    """Record once on every instrument of the contract."""
    meter = provider.get_meter("otelstream")
    for metric in METRICS:
        name, unit = metric.name, metric.unit
        if metric.kind == "counter":
            meter.create_counter(name, unit).add(1)
        elif metric.kind == "histogram":
            meter.create_histogram(name, unit).record(1)
        elif metric.kind == "gauge":
            meter.create_gauge(name, unit).set(1)
        elif metric.kind == "observable_counter":
            meter.create_observable_counter(name, [lambda _: [Observation(1)]], unit)
        else:
            meter.create_observable_up_down_counter(name, [lambda _: [Observation(1)]], unit)


def test_a_real_collector(tmp_path: Path) -> None:
    """OTLP into the Collector, out of its Prometheus exporter: the very series of the table."""
    collector = Path(os.environ.get("OTELSTREAM_COLLECTOR", ROOT / ".tools" / "bin" / "otelstream-collector"))
    if not collector.exists():
        pytest.skip(f"{collector} is not there: collector/build.sh builds it")
    exporter = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    otlp, scraped = free_port(), free_port()
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{otlp}"}}}},
        "exporters": {"prometheus": {"endpoint": f"127.0.0.1:{scraped}"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": ["prometheus"]}},
        },
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([str(collector), f"--config={tmp_path / 'config.yaml'}"], stdout=log, stderr=log)
        try:
            wait_for(lambda: reachable(otlp), "the Collector's OTLP port")
            reader = PeriodicExportingMetricReader(
                exporter.OTLPMetricExporter(endpoint=f"http://127.0.0.1:{otlp}/v1/metrics"), math.inf
            )
            provider = MeterProvider([reader], shutdown_on_exit=False)
            record(provider)
            assert provider.force_flush()
            provider.shutdown()
            text = wait_for(lambda: fetch(f"http://127.0.0.1:{scraped}/metrics"), "the series to be exported")
        finally:
            process.terminate()
            process.wait(30)
    # The text format names the family of a counter with its suffix, as the series.
    families = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)) - {"target_info"}
    assert set(TABLE.values()) == families


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text if "otelstream_info" in text else ""


@pytest.mark.slow
def test_collector_and_prometheus(tmp_path: Path) -> None:
    """The library that names series in the Collector and in Prometheus gives the same names and labels."""
    go = go_with(TRANSLATOR, GO, tmp_path)
    asked = [{"Name": m.name, "Unit": m.unit, "Type": GO_TYPES[m.kind]} for m in METRICS]
    asked += [{"Name": label.attribute, "Unit": "", "Type": 0} for label in LABELS]

    done = subprocess.run(
        [go, "run", "."], cwd=tmp_path, input=json.dumps(asked), capture_output=True, text=True, check=True
    )

    expected = {**TABLE, **{label.attribute: label.prometheus for label in LABELS}}
    assert expected == json.loads(done.stdout)
