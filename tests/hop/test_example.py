# SPDX-License-Identifier: Apache-2.0
"""The example, in a real browser: click Stop, and look at the page, the provider's log and the record."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, start_http_server
from slo.tools import prometheus
from tools.bench import Bench, wait_for
from tools.browser import CHROMIUM, browser

import otelstream
from otelstream import _semconv as s
from otelstream._core.process import judges
from otelstream._face import instrumentor as _instrumentor
from otelstream.testing import ProviderSimulator

from .conftest import served

EXAMPLE = Path(__file__).parents[2] / "examples" / "chat"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's modules, without a trace of them afterwards."""
    monkeypatch.syspath_prepend(EXAMPLE)
    callbacks = list(_instrumentor._ended)
    import app
    import provider

    yield app, provider
    _instrumentor._ended[:] = callbacks
    judges.forget("tells")
    for name in ("app", "provider"):
        del sys.modules[name]


@pytest.fixture
def chat(bench: Bench, example: Any) -> Iterator[tuple[int, ProviderSimulator]]:
    """The example, served; its provider."""
    app, provider = example
    with provider.local_provider() as sim:
        client = anthropic.AsyncAnthropic(base_url=sim.base_url, api_key="unused", max_retries=0)
        with served(app.make_app(client)) as port:
            yield port, sim


def check_record(bench: Bench, sim: ProviderSimulator) -> None:
    """Stop came in the second stream, reached the provider, and found the mail sent."""
    first, second = bench.wait_for_ended(2)
    exchange = wait_for(lambda: sim.log[1].closed_at and sim.log[1])
    assert (first.outcome, first.cancel) == ("completed", None)
    cancel = second.cancel
    assert cancel is not None
    assert (second.outcome, cancel.trigger, cancel.where, cancel.propagation) == (
        "cancelled",
        "user_stop",
        "text",
        "closed",
    )
    assert exchange.closed_by == "peer"
    assert not exchange.complete
    assert cancel.at + (cancel.close_delay or 0.0) == pytest.approx(exchange.closed_at, abs=0.25)
    assert [call.name for call in cancel.ledger.committed] == ["send_email"]
    assert first.turn is second.turn
    assert second.route == "chat"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_stop_in_a_browser(bench: Bench, chat: Any, tmp_path: Path) -> None:
    """Click Stop mid-answer: upstream closes, the partial answer is marked, the mail is in the ledger, undo counts."""
    port, sim = chat
    shots = Path(os.environ.get("OTELSTREAM_SCREENSHOTS") or tmp_path)
    with browser(f"http://127.0.0.1:{port}/", tmp_path / "profile") as page:
        page.click("#ask")
        wait_for(lambda: len(page.text("#answer")) > 240)
        page.screenshot(shots / "chat-answering.png")
        page.click("#stop")
        wait_for(lambda: page.text("#verdict"))
        shown = page.text("#answer")
        time.sleep(0.2)
        assert page.text("#answer") == shown
        assert page.text("#verdict") == "You stopped this answer: it is not whole."
        assert page.run("document.querySelector('#answer').className") == "partial"
        assert "send_email had already happened" in page.text("#ledger")
        page.screenshot(shots / "chat-stopped.png")
        check_record(bench, sim)
        page.click("#ledger button")
        wait_for(lambda: "compensated" in page.text("#ledger"))
    effects = bench.points(s.CANCELLATION_SIDE_EFFECTS.name, s.SIDE_EFFECT)
    assert effects == {("committed",): 1, ("compensated",): 1}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_counts_what_it_shows(chat: Any, tmp_path: Path) -> None:
    """A paragraph may come in a chunk of its own: only the next stream counts from its own start."""
    with browser(f"http://127.0.0.1:{chat[0]}/", tmp_path / "profile") as page:
        assert page.run("show('Yes. '), show('\\n\\n'), show('\u26f5'), shown") == 8
        assert page.run("show('\\n\\n', true), show('No. '), shown") == 4


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_acted_on_what_was_taken_back(bench: Bench, chat: Any, tmp_path: Path) -> None:
    """Copy the first sentence, read on to the one that takes it back: it is on the page, and in Prometheus."""
    port, _ = chat
    shots = Path(os.environ.get("OTELSTREAM_SCREENSHOTS") or tmp_path)
    registry, reader = CollectorRegistry(), PrometheusMetricReader()
    registry.register(reader._collector)
    otelstream.instrument(spans="own", meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    server, thread = start_http_server(0, "127.0.0.1", registry)
    config = f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - {{job_name: chat, static_configs: [{{targets: ["127.0.0.1:{server.server_port}"]}}]}}
"""
    try:
        with prometheus(tmp_path, config) as store:
            with browser(f"http://127.0.0.1:{port}/", tmp_path / "profile") as page:
                page.click("#ask")
                wait_for(lambda: "Yes, the nets tell who rowed out before the fog. " in page.text("#answer"))
                page.click("#copy")
                wait_for(lambda: "No, I mixed that up: they tell nothing before they are dry. " in page.text("#answer"))
                time.sleep(0.5)
                page.click("#stop")
                wait_for(lambda: page.text("#taken"))
                page.screenshot(shots / "chat-taken-back.png")
                assert re.fullmatch(r"You acted on a yes that became a no \d+\.\d s later\.", page.text("#taken"))

            def counted() -> list[dict[str, Any]]:
                return store.query(s.REVERSALS.prometheus, time.time())  # type: ignore[no-any-return]

            wait_for(counted, 30)
            (series,) = counted()
            labels = {
                "otelstream_judge_name": "tells",
                "otelstream_judge_verdict": "yes",
                "otelstream_reversal_acted_on": "true",
            }
            assert labels.items() <= series["metric"].items()
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_tab_is_closed(bench: Bench, chat: Any, tmp_path: Path) -> None:
    """A tab that is closed mid-answer is a `client_disconnect` that reaches the provider."""
    port, sim = chat
    with browser(f"http://127.0.0.1:{port}/", tmp_path / "profile") as page:
        page.click("#ask")
        wait_for(lambda: len(page.text("#answer")) > 240)
        page.ask("Page.close")
        bench.wait_for_ended(2)
    cancel = bench.ended[1].cancel
    assert cancel is not None
    assert (cancel.trigger, cancel.propagation) == ("client_disconnect", "closed")
    wait_for(lambda: sim.log[1].closed_by == "peer")
