# SPDX-License-Identifier: Apache-2.0
"""A recording out of a Prometheus: the histograms of one model over a window that ends now."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate

from otelstream import _semconv as s
from otelstream._objectives_file import number
from otelstream._objectives_file.text import parse_duration
from otelstream._prometheus import ask, shown
from otelstream._promql import any_of, counted, eq, series, sum_by
from otelstream.texture._measures import WHOLE
from otelstream.texture._recording import PROMETHEUS, Buckets, Recording, RecordingError, Texture
from otelstream.view._record import plain

# The gaps between chunks are counted by chunk, and the chunks of one answer are not independent: left out.
_HISTOGRAMS = {
    "first_token": s.STREAM_TTFT,
    "thinking_time": s.STREAM_THINKING_TIME,
    "output_rate": s.STREAM_OUTPUT_RATE,
    "gap_max": s.STREAM_GAP_MAX,
    "tool_pause": s.TOOL_PAUSE,
}
_FROZE = ("provider", "server_tool")
_Counts = dict[str, float]


def recorded(address: str, model: str, window: str) -> Recording:
    """Ask for all that is kept of a model; RecordingError where it cannot be asked, or knows no such model."""
    url = shown(address)
    try:
        texture = _texture(lambda query: ask(address, query, timeout=30), model, window)
        if texture is None:
            known = ", ".join(sorted(_models(address, window))[:8]) or "none"
            raise RecordingError(f"--model {model}: no stream of it ended in {window} at {url}; known: {known}")
    except RecordingError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        why = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise RecordingError(
            f"--prometheus {url} does not answer as a Prometheus does: {why}; "
            "give its base address, as http://localhost:9090"
        ) from None
    return Recording(PROMETHEUS, {model: texture})


def _texture(asked: Callable[[str], list[dict[str, object]]], model: str, window: str) -> Texture | None:
    named = eq(s.REQUEST_MODEL, model)

    def sums(by: str, metric: s.Metric, *matchers: str, suffix: str = "") -> _Counts:
        seconds = number(parse_duration(window) or 0)
        grown = counted(series(metric, named, *matchers, suffix=suffix), s.START_TIME.prometheus, window, seconds)
        return dict(_counts(asked(sum_by((by,), grown)), s.label_name(by)))

    ended = {outcome: round(count) for outcome, count in sums(s.OUTCOME, s.STREAMS).items() if round(count)}
    if not ended:
        return None
    texture = Texture(
        sum(count for outcome, count in ended.items() if outcome in WHOLE),
        Counter({plain(outcome): count for outcome, count in ended.items() if outcome not in WHOLE}),
    )
    for key, metric in _HISTOGRAMS.items():
        found = _buckets(sums(s.GAP_LE, metric, suffix="_bucket"))
        # One bound alone is that by default of what is only summed up.
        if len(found.bounds) > 1 and found.count:
            texture.buckets[key] = found
    spoke = sums(s.FIRST_TOKEN_KIND, s.STREAM_TTFT, suffix="_count")
    thought = sums(s.FIRST_TOKEN_KIND, s.STREAM_THINKING_TIME, suffix="_count")
    _share(texture, "thinking", sum(thought.values()), sum(spoke.values()))
    calls = sums(s.TOOL_CALL_PREAMBLE, s.TOOL_PAUSE, suffix="_count")
    _share(
        texture, "preamble", sum(count for word, count in calls.items() if word.lower() == "true"), sum(calls.values())
    )
    froze = sums(s.STALL_SOURCE, s.STREAM_STALLED, any_of(s.STALL_SOURCE, *_FROZE))
    _share(texture, "stalls", sum(froze.values()), sum(ended.values()))
    return texture


def _share(texture: Texture, key: str, yes: float, of: float) -> None:
    if round(of) > 0:
        texture.shares[key] = min(round(yes), round(of)), round(of)


def _counts(found: list[dict[str, object]], label: str) -> Iterator[tuple[str, float]]:
    for each in found:
        metric, value = each["metric"], each["value"]
        if not isinstance(metric, dict) or not isinstance(value, list):
            raise TypeError("its answer has no metric and value")
        count = float(value[1])
        if not math.isfinite(count):
            raise ValueError(f"a count in it is {count}")
        yield str(metric.get(label, "")), count


def _buckets(counts: _Counts) -> Buckets:
    """In order of their bounds; processes of other bounds leave steps down, which are none."""
    pairs = sorted((math.inf if bound == "+Inf" else float(bound), count) for bound, count in counts.items())
    if not pairs or not math.isinf(pairs[-1][0]):
        return Buckets((), ())
    rising = accumulate((max(0.0, count) for _, count in pairs), max)
    return Buckets(tuple(bound for bound, _ in pairs), tuple(round(count, 3) for count in rising))


def _models(address: str, window: str) -> list[str]:
    label = s.label_name(s.REQUEST_MODEL)
    query = f"group by ({label}) (last_over_time({series(s.STREAMS)}[{window}]))"
    return [plain(str(each["metric"].get(label, ""))) for each in ask(address, query, timeout=30)]
