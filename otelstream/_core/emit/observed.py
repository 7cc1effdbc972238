# SPDX-License-Identifier: Apache-2.0
"""What the observables of one meter tell, whichever `instrument()` the streams they tell of began under."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from otelstream import _semconv as s
from otelstream._core.emit.labels import Common, Labels
from otelstream._core.record.stream import StreamObservation

Key = tuple[tuple[str, str], ...]  # labels


@dataclass(slots=True, eq=False)
class Source:
    """One `instrument()`: its open streams, and what it says of itself."""

    open_streams: Callable[[], Iterable[StreamObservation]]
    info: Mapping[str, str]
    due: Callable[[], None] = lambda: None  # what is to be decided by now; never raises
    on: bool = True

    @property
    def tells(self) -> bool:
        """Whether it observes, or has a stream that began while it did."""
        return self.on or next(iter(self.open_streams()), None) is not None


class Observed:
    """A meter keeps the first observable of a name, and with it the first callback: so there is one for all."""

    def __init__(self) -> None:
        self.labels = Labels()
        self._known: set[Key] = set()  # labels of the streams that it has seen begin
        self._lock = threading.Lock()  # never taken where a finaliser or a signal may hold it, see `outbox`
        self._gaps: dict[Key, list[float]] = {}  # a count per bucket, then the sum
        self._counts: dict[str, dict[Key, int]] = {}  # per counter that is kept here
        self._started = time.time()
        self._sources: list[Source] = []
        self._made: set[str] = set()
        self._lean = True
        self._histograms: dict[str, Histogram] = {}

    def join(self, source: Source) -> None:
        """Tell of one more `instrument()`, the newest."""
        self._sources = [each for each in self._sources if each.tells] + [source]

    def create(self, meter: Meter, metric: s.Metric, *, lean: bool) -> None:
        """Make the observable of `metric`, once."""
        self._lean = lean
        if metric.name in self._made:
            return
        self._made.add(metric.name)
        if metric is s.STREAM_ACTIVE:
            meter.create_observable_up_down_counter(metric.name, [self._active], metric.unit, metric.says)
        elif metric.kind == "gauge":
            observe = {s.INFO: self._info, s.CLOCK: self._clock, s.START_TIME: self._start_time}[metric]
            meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.says)
        else:
            observe = {s.STREAM_GAP_BUCKET: self._buckets, s.STREAM_GAP_SUM: self._gap_sum, s.FOLDED: self._folded}.get(
                metric, partial(self._kept, metric.name)
            )
            meter.create_observable_counter(metric.name, [observe], metric.unit, metric.says)

    def histogram(self, meter: Meter, name: str, metric: s.Metric, bounds: Sequence[float]) -> Histogram:
        """The histogram of that name: a meter keeps the bounds that it was first asked for, and warns of others."""
        made = self._histograms.get(name)
        if made is None:
            made = meter.create_histogram(
                name, metric.unit, metric.says, explicit_bucket_boundaries_advisory=list(bounds)
            )
            self._histograms[name] = made
        return made

    def add_gaps(self, labels: Mapping[str, str], counts: Sequence[int], total: float) -> None:
        """Add the gaps of one ended stream."""
        with self._lock:
            kept = self._gaps.setdefault(tuple(labels.items()), [0] * (len(s.GAP_BOUNDS) + 2))
            for index, count in enumerate(counts):
                kept[index] += count
            kept[-1] += total

    def count(self, metric: s.Metric, labels: Mapping[str, str], amount: int = 1) -> None:
        """Add to a counter that is kept here."""
        key = tuple(labels.items())
        with self._lock:
            kept = self._counts.setdefault(metric.name, {})
            kept[key] = kept.get(key, 0) + amount

    def knows(self, common: Common) -> None:
        """Tell of these labels from now on, whether a stream of theirs is open or not."""
        self._known.add(tuple(common.of(s.STREAM_ACTIVE, lean=self._lean).items()))

    def common(self, stream: StreamObservation) -> Common:
        return self.labels.common(stream.operation, stream.provider, stream.model, stream.route)

    def restart(self) -> None:
        """Start anew, in a forked child."""
        self._lock = threading.Lock()
        self._gaps = {}
        self._counts = {name: dict.fromkeys(kept, 0) for name, kept in self._counts.items()}
        self.labels.restart()
        self._started = time.time()

    # --- collection ---------------------------------------------------------------------------------------

    def _active(self, _: CallbackOptions) -> Iterable[Observation]:
        counts = {key: dict.fromkeys(s.STREAM_STATES, 0) for key in list(self._known)}
        for source in list(self._sources):
            for stream in source.open_streams():
                key = tuple(self.common(stream).of(s.STREAM_ACTIVE, lean=self._lean).items())
                counts.setdefault(key, dict.fromkeys(s.STREAM_STATES, 0))[stream.state] += 1
        return [
            Observation(count, {**dict(key), s.STREAM_STATE: state})
            for key, states in counts.items()
            for state, count in states.items()
        ]

    def _clock(self, _: CallbackOptions) -> Iterable[Observation]:
        for source in list(self._sources):
            source.due()
        return [Observation(time.time())]

    def _start_time(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._started)]

    def _folded(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.labels.folded[what], {s.FOLDED_WHAT: what}) for what in s.FOLDED_NAMES]

    def _kept(self, name: str, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            kept = list(self._counts.get(name, {}).items())
        return [Observation(count, dict(key)) for key, count in kept]

    def _info(self, _: CallbackOptions) -> Iterable[Observation]:
        newest = next((source for source in reversed(list(self._sources)) if source.tells), None)
        return [] if newest is None else [Observation(1, dict(newest.info))]

    def _buckets(self, _: CallbackOptions) -> Iterable[Observation]:
        points, shown = [], {*s.STREAM_GAP_BUCKET.buckets(lean=self._lean), None}
        for key, kept in self._snapshot():
            total = 0.0
            for bound, count in zip((*s.GAP_BOUNDS, None), kept, strict=False):
                total += count
                if bound in shown:
                    le = "+Inf" if bound is None else str(bound)
                    points.append(Observation(int(total), {**dict(key), s.GAP_LE: le}))
        return points

    def _gap_sum(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(kept[-1], dict(key)) for key, kept in self._snapshot()]

    def _snapshot(self) -> list[tuple[Key, list[float]]]:
        with self._lock:
            return [(key, list(kept)) for key, kept in self._gaps.items()]


_kept: WeakKeyDictionary[Meter, Observed] = WeakKeyDictionary()


def observed(meter: Meter) -> Observed:
    """What is kept for `meter`: the same for one that stands for it until there is a provider."""
    for other, found in list(_kept.items()):
        if _real(other) is _real(meter):
            return found
    return _kept.setdefault(meter, Observed())


def everywhere() -> Iterator[Observed]:
    """What is kept for any meter."""
    return iter(list(_kept.values()))


def _real(meter: Meter) -> Any:
    """The SDK's meter behind the API's; None for those that wait for a provider, all for the same one."""
    return getattr(meter, "_real_meter", meter)
