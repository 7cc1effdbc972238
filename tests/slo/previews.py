# SPDX-License-Identifier: Apache-2.0
"""Draw a picture of each dashboard from its JSON and a real Prometheus: a preview, for readme and reviews.

Run as `python -m slo.previews [-o DIR] [--incident NAME]` in `tests/`. Development only; Grafana draws better.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.dates import DateFormatter
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from otelstream.slo._bundled import folder

from .backfill import END, evaluate_rules, past_prometheus, write_past
from .panels import NAMES, Json, View, load, panels
from .tools import PrometheusServer

COLUMN, UNIT = 0.62, 0.36  # inches of a grid column and of a grid row
INK, PAPER, LINE, MUTED = "#d8d9da", "#111217", "#2c3235", "#8e8e9a"
PALETTE = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#fade2a", "#ca95e5", "#56a64b")
COLORS = {"green": "#73bf69", "yellow": "#fade2a", "orange": "#ff9830", "red": "#f2495c"}


def shown(value: float, unit: str) -> str:
    """Print a value in a Grafana unit."""
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    if unit == "percentunit":
        return f"{value * 100:.4g}%"
    if unit == "s":
        for limit, scale, word in ((0.001, 1e6, "µs"), (1, 1e3, "ms"), (90, 1, "s"), (5400, 1 / 60, "min")):
            if abs(value) < limit:
                return f"{value * scale:.3g} {word}"
        return f"{value / 3600:.3g} h" if abs(value) < 172800 else f"{value / 86400:.3g} d"
    if unit == "cps":
        return f"{value:.3g} c/s"
    if abs(value) >= 10_000 and unit in ("short", "cpm"):
        return f"{value / 1000:.3g} K"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def legend(pattern: str, labels: dict[str, str]) -> str:
    text = pattern
    for key, value in labels.items():
        text = text.replace(f"{{{{{key}}}}}", value)
    return text if "{{" not in text else "-"


class Preview:
    """Draws one dashboard."""

    def __init__(self, server: PrometheusServer, dashboard: Json, view: View) -> None:
        self.server, self.dashboard, self.view = server, dashboard, view

    def ranged(self, panel: Json) -> list[tuple[str, np.ndarray, np.ndarray]]:
        step = self.view.step()
        times = np.arange(self.view.end - self.view.span, self.view.end + 1, step, dtype=float)
        found = []
        for target in panel["targets"]:
            expr = self.view.fill(target["expr"], self.dashboard)
            for series in self.server.query_range(expr, times[0], times[-1], step):
                values = np.full(len(times), np.nan)
                for second, value in series["values"]:
                    values[round((float(second) - times[0]) / step)] = float(value)
                if not np.isnan(values).all():
                    found.append((legend(target["legendFormat"], series["metric"]), times, values))
        return sorted(found, key=lambda item: item[0])

    def instants(self, panel: Json) -> list[tuple[int, dict[str, str], float, str]]:
        found = []
        for place, target in enumerate(panel["targets"]):
            expr = self.view.fill(target["expr"], self.dashboard)
            for series in self.server.query(expr, self.view.end):
                labels = series["metric"]
                name = legend(target["legendFormat"], labels)
                found.append((place, labels, float(series["value"][1]), name))
        return found

    def draw(self, target: Path) -> None:
        placed = list(panels(self._opened(), rows=True))
        height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in placed) + 1.6
        figure = plt.figure(figsize=(24 * COLUMN, height * UNIT), facecolor=PAPER)
        self.figure, self.width, self.height = figure, 24 * COLUMN, height * UNIT
        figure.text(
            0.008, 1 - 0.25 / self.height, self.dashboard["title"], color=INK, fontsize=13, weight="bold", va="center"
        )
        figure.text(
            0.992, 1 - 0.25 / self.height,
            "preview drawn with matplotlib from the dashboard's JSON and a real Prometheus; not Grafana",
            color=MUTED, fontsize=7.5, ha="right", va="center",
        )  # fmt: skip
        for panel in placed:
            self._panel(panel)
        figure.savefig(target, dpi=88, facecolor=PAPER, metadata={"Software": None})
        plt.close(figure)
        _shrink(target)

    def _opened(self) -> Json:
        """The dashboard with its collapsed rows opened."""
        placed: list[Json] = []
        for panel in self.dashboard["panels"]:
            placed.append({**panel, "panels": []})
            if panel["type"] == "row" and panel.get("collapsed"):
                placed.extend(panel["panels"])
        return {"panels": placed}

    def _box(self, panel: Json) -> tuple[float, float, float, float]:
        grid = panel["gridPos"]
        left, top = grid["x"] / 24, (grid["y"] + 1.6) * UNIT / self.height
        return left, 1 - top - grid["h"] * UNIT / self.height, grid["w"] / 24, grid["h"] * UNIT / self.height

    def _panel(self, panel: Json) -> None:
        left, bottom, width, height = self._box(panel)
        if panel["type"] == "row":
            text = panel["title"] + ("   (collapsed)" if panel.get("collapsed") else "")
            self.figure.text(
                left + 0.008, bottom + height / 2, text, color=INK, fontsize=9.5, weight="bold", va="center"
            )
            return
        frame = self.figure.add_axes((left + 0.002, bottom + 0.001, width - 0.004, height - 0.002))
        frame.set_facecolor("#181b1f")
        frame.set_xticks([])
        frame.set_yticks([])
        for spine in frame.spines.values():
            spine.set_color(LINE)
        inch = 1 / self.height
        title = textwrap.shorten(panel["title"], int(width * 24 * COLUMN * 11), placeholder="…")
        self.figure.text(
            left + 0.006, bottom + height - 0.17 * inch, title, color=INK, fontsize=8.5, weight="bold", va="center"
        )
        area = (left + 0.006, bottom + 0.1 * inch, width - 0.012, height - 0.42 * inch)
        kind = {"stat": self._stat, "timeseries": self._lines, "table": self._table, "heatmap": self._heatmap}
        if not kind[panel["type"]](panel, area):
            text = panel["fieldConfig"]["defaults"].get("noValue", "No data")
            self.figure.text(
                left + width / 2, bottom + height / 2, text, color=MUTED, fontsize=9, ha="center", va="center"
            )

    def _color(self, panel: Json, name: str, value: float) -> str:
        config = panel["fieldConfig"]
        steps = config["defaults"]["thresholds"]["steps"]
        for override in config["overrides"]:
            if override["matcher"]["options"] == name:
                for item in override["properties"]:
                    if item["id"] == "thresholds":
                        steps = item["value"]["steps"]
        color = steps[0]["color"]
        for step in steps[1:]:
            if value >= step["value"]:
                color = step["color"]
        return COLORS[color]

    def _stat(self, panel: Json, area: tuple[float, float, float, float]) -> bool:
        found = sorted(self.instants(panel), key=lambda item: item[3])
        left, bottom, width, height = area
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for place, (_, _, value, name) in enumerate(found):
            middle = left + width * (place + 0.5) / len(found)
            self.figure.text(middle, bottom + height * 0.72, name, color=INK, fontsize=8, ha="center", va="center")
            self.figure.text(
                middle, bottom + height * 0.38, shown(value, unit), color=self._color(panel, name, value),
                fontsize=min(17, 46 / len(found)), weight="bold", ha="center", va="center",
            )  # fmt: skip
        return bool(found)

    def _axes(self, area: tuple[float, float, float, float], below: float) -> Any:
        left, bottom, width, height = area
        inch = 1 / self.height
        axes = self.figure.add_axes(
            (
                left + 0.48 / self.width,
                bottom + (0.2 + below) * inch,
                width - 0.56 / self.width,
                height - (0.24 + below) * inch,
            )
        )
        axes.set_facecolor("#181b1f")
        axes.tick_params(colors=MUTED, labelsize=6.5, length=2)
        axes.grid(color=LINE, linewidth=0.6)
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def _lines(self, panel: Json, area: tuple[float, float, float, float]) -> bool:
        found = self.ranged(panel)
        if not found:
            return False
        defaults = panel["fieldConfig"]["defaults"]
        custom, unit = defaults["custom"], defaults["unit"]
        stacked = custom["stacking"]["mode"] == "normal"
        two = area[2] * self.width > 4.2 or max(len(item[0]) for item in found) < 12
        rows = math.ceil(min(len(found), 6) / (2 if two else 1))
        axes = self._axes(area, 0.17 * rows)
        times = found[0][1].astype("datetime64[s]")
        base = np.zeros(len(times))
        for place, (name, _, values) in enumerate(found):
            color = PALETTE[place % len(PALETTE)]
            if stacked:
                top = base + np.nan_to_num(values)
                axes.fill_between(times, base, top, color=color, alpha=0.35, linewidth=0)
                axes.plot(times, top, color=color, linewidth=0.9)
                base = top
            else:
                axes.plot(times, values, color=color, linewidth=1.1)
                axes.scatter(times[-1:], values[-1:], color=color, s=4)
            if place < 6:
                self._key(area, place, rows, 2 if two else 1, color, name, values, unit)
        self._scale(axes, panel, found, base if stacked else None)
        if custom["axisLabel"]:
            axes.set_ylabel(custom["axisLabel"], color=MUTED, fontsize=6.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
        return True

    def _key(
        self, area: tuple[float, float, float, float], place: int, rows: int, columns: int, color: str, name: str,
        values: np.ndarray, unit: str,
    ) -> None:  # fmt: skip
        left, bottom, width, _ = area
        seen = values[~np.isnan(values)]
        last = shown(float(seen[-1]), unit) if len(seen) else "-"
        x = left + width * (place % columns) / columns
        y = bottom + (rows - place // columns - 0.6) * 0.17 / self.height
        room = max(8, int((width * self.width / columns - 0.25) * 15.5) - len(last) - 2)
        label = name if len(name) <= room else name[: room - 1] + "…"
        self.figure.text(x, y, "━", color=color, fontsize=8, va="center")
        self.figure.text(x + 0.2 / self.width, y, f"{label}  {last}", color=MUTED, fontsize=6.8, va="center")

    def _scale(self, axes: Any, panel: Json, found: Sequence[Any], stacked: np.ndarray | None) -> None:
        defaults = panel["fieldConfig"]["defaults"]
        if defaults["custom"]["scaleDistribution"]["type"] == "log":
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
            return
        top = float(np.nanmax(stacked if stacked is not None else [np.nanmax(item[2]) for item in found]))
        for step in defaults["thresholds"]["steps"][1:]:
            if defaults["custom"]["thresholdsStyle"]["mode"] != "off" and step["value"] <= max(top * 3, 1.05):
                axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=0.9, linestyle="--")
                top = max(top, step["value"])
        axes.set_ylim(0, defaults.get("max") or top * 1.12 or 1)
        axes.yaxis.set_major_locator(MaxNLocator(4))

    def _heatmap(self, panel: Json, area: tuple[float, float, float, float]) -> bool:
        found = self.ranged(panel)
        if not found:
            return False
        found.sort(key=lambda item: float(item[0].replace("+Inf", "inf")))
        counts = np.diff(np.vstack([np.zeros(len(found[0][2])), *[np.nan_to_num(item[2]) for item in found]]), axis=0)
        axes = self._axes(area, 0)
        times = found[0][1].astype("datetime64[s]")
        shade = np.ma.masked_less(counts, 0.5)
        axes.pcolormesh(
            times,
            np.arange(len(found)),
            shade,
            cmap="Oranges",
            norm=LogNorm(1, max(2, counts.max())),
            shading="nearest",
        )
        axes.grid(visible=False)
        names = [item[0] for item in found]
        axes.set_yticks(range(0, len(names), 3), [shown(float(n), "s") if n != "+Inf" else "more" for n in names[::3]])
        return True

    def _table(self, panel: Json, area: tuple[float, float, float, float]) -> bool:
        found = self.instants(panel)
        if not found:
            return False
        organize = panel["transformations"][-1]["options"]
        columns = [name for name, _ in sorted(organize["indexByName"].items(), key=lambda item: item[1])]
        titles = organize["renameByName"]
        units = {
            item["matcher"]["options"]: prop["value"]
            for item in panel["fieldConfig"]["overrides"]
            for prop in item["properties"]
        }
        many = len(panel["targets"]) > 1
        rows: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
        for place, labels, value, _ in found:
            row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
            row[f"Value #{chr(65 + place)}" if many else "Value"] = value
        key = next((name for name in columns if name.startswith("Value")), columns[0])
        ordered = sorted(rows.values(), key=lambda row: -row[key] if isinstance(row.get(key), float) else 0)
        left, bottom, width, height = area
        lines = max(2, int(height * self.height / 0.19))
        widths = np.array(
            [max(len(titles[c]), *(len(self._cell(r, c, titles, units)) for r in ordered)) + 2 for c in columns]
        )
        edges = left + width * np.concatenate([[0], np.cumsum(widths) / widths.sum()])
        for place, column in enumerate(columns):
            y = bottom + height - 0.1 / self.height
            self.figure.text(edges[place], y, titles[column], color="#6e9fff", fontsize=7.5, va="center", weight="bold")
            for line, row in enumerate(ordered[: lines - 1], 1):
                self.figure.text(
                    edges[place], y - line * 0.19 / self.height, self._cell(row, column, titles, units),
                    color=INK, fontsize=7.3, va="center",
                )  # fmt: skip
        return True

    @staticmethod
    def _cell(row: dict[str, Any], column: str, titles: dict[str, str], units: dict[str, str]) -> str:
        value = row.get(column, "")
        return shown(value, units.get(titles[column], "short")) if isinstance(value, float) else str(value)


def _shrink(target: Path) -> None:
    """Few colours suffice, and a picture in a repository should be small."""
    from PIL import Image

    with Image.open(target) as picture:
        picture.convert("RGB").quantize(96, dither=Image.Dither.NONE).save(target, optimize=True)


def draw_all(server: PrometheusServer, target: Path, view: View, names: Sequence[str] = NAMES) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        Preview(server, load(name), view).draw(target / f"preview-{name}.png")


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw the dashboard previews.")
    parser.add_argument("-o", "--output", type=Path, default=folder() / "previews")
    parser.add_argument("--incident")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "data").mkdir()
        write_past(work / "data", arguments.incident, after=60, month=arguments.incident is None)
        evaluate_rules(work, month=arguments.incident is None)
        with past_prometheus(work) as server:
            draw_all(server, arguments.output, View(END, 3 * 3600))
    return 0


if __name__ == "__main__":
    sys.exit(main())
