# SPDX-License-Identifier: Apache-2.0
"""OTLP straight into Prometheus 3: the names that it stores, and that the doctor and the rules tell of others."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otelstream._semconv import METRICS
from otelstream.doctor import _prometheus
from otelstream.slo._bundled import folder

from .test_names import record
from .tools import PrometheusServer, binary, prometheus, wait_for

pytestmark = pytest.mark.slow
exporter = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")


@pytest.fixture
def three() -> None:
    """Prometheus 2 takes no OTLP in without a feature flag; one that was built from its module names no version."""
    said = subprocess.run([binary("prometheus"), "--help"], capture_output=True, text=True, check=True)
    if "web.enable-otlp-receiver" not in said.stdout + said.stderr:
        pytest.skip("the prometheus on PATH is older than 3")


@contextmanager
def taking_otlp(home: Path, **settings: object) -> Iterator[PrometheusServer]:
    """A Prometheus with these settings of `otlp`, and one point of every instrument in it."""
    with prometheus(home, json.dumps({"otlp": settings}), "--web.enable-otlp-receiver") as server:
        endpoint = f"{server.url}/api/v1/otlp/v1/metrics"
        reader = PeriodicExportingMetricReader(exporter.OTLPMetricExporter(endpoint=endpoint), math.inf)
        resource = Resource({"service.name": "chat", "service.instance.id": "one"})
        provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        record(provider)
        assert provider.force_flush()
        provider.shutdown()
        wait_for(lambda: names(server), "the series to be stored")
        yield server


def names(server: PrometheusServer) -> set[str]:
    """The names of the instruments that are stored."""
    found = server.query('group by (__name__) ({__name__=~"(otelstream|gen_ai).+"})', time.time())
    stored = {each["metric"]["__name__"] for each in found}
    classic = {name.removesuffix("_bucket") for name in stored if name.endswith("_bucket")}
    parts = {f"{base}_{part}" for base in classic for part in ("bucket", "sum", "count")}
    return (stored - parts) | classic


def found(server: PrometheusServer) -> list[str]:
    return [finding.code for finding in _prometheus.stored(server.url)]


def alerts(server: PrometheusServer) -> list[dict[str, str]]:
    """What the expression of the alert gives, by the committed rules."""
    rules = yaml.safe_load((folder() / "rules" / "otelstream.rules.yaml").read_text(encoding="utf-8"))
    (expr,) = [
        rule["expr"]
        for group in rules["groups"]
        for rule in group["rules"]
        if rule.get("alert") == "OtelStreamNamesUntranslated"
    ]
    return [each["metric"] for each in server.query(expr, time.time())]


def test_the_default_gives_every_name(three: None, tmp_path: Path) -> None:
    """As Prometheus comes, all names of the contract are stored as rules and panels ask for them."""
    with taking_otlp(tmp_path) as server:
        assert names(server) == {metric.prometheus for metric in METRICS}
        assert (found(server), alerts(server)) == ([], [])


@pytest.mark.parametrize("strategy", ["NoTranslation", "NoUTF8EscapingWithSuffixes"])
def test_names_that_keep_their_dots_are_told(strategy: str, three: None, tmp_path: Path) -> None:
    """Without translation there is none of the names; the doctor and the alert say so."""
    with taking_otlp(tmp_path, translation_strategy=strategy) as server:
        kept = names(server)
        assert not kept & {metric.prometheus for metric in METRICS}
        assert len(kept) == len(METRICS)
        assert found(server) == ["names-untranslated"]
        assert alerts(server) == [{"job": "chat"}]


def test_underscores_without_suffixes_are_told(three: None, tmp_path: Path) -> None:
    """The remaining strategy: names without unit and `_total`; those few that have neither are right by chance."""
    with taking_otlp(tmp_path, translation_strategy="UnderscoreEscapingWithoutSuffixes") as server:
        right = names(server) & {metric.prometheus for metric in METRICS}
        assert len(right) < len(METRICS) / 2
        assert found(server) == ["names-untranslated"]
        assert alerts(server) == [{"job": "chat"}]


def test_native_histograms_are_told(three: None, tmp_path: Path) -> None:
    """Histograms that are converted as they come in have no buckets that a panel reads."""
    with taking_otlp(tmp_path, convert_histograms_to_nhcb=True) as server:
        assert names(server) >= {metric.prometheus for metric in METRICS}
        assert not [name for name in names(server) if re.search("_(bucket|count)$", name)]
        assert found(server) == ["histograms-native"]
