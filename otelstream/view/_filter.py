# SPDX-License-Identifier: Apache-2.0
"""A choice of what a page shows, by outcome and by model: check boxes and CSS, for a page without script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Final

from ._record import plain
from ._turns import Row

_MOST_MODELS: Final = 11  # by name; all others have one box together


class Filter:
    """Which boxes there are, and the classes by which a lane is found."""

    def __init__(self, rows: Sequence[Row], words: dict[str, str]) -> None:
        held = [row.line for row in rows if row.line]
        outcomes = Counter(line.outcome for line in held)
        models = Counter(line.model for line in held)
        self._words = words
        self._outcomes = [(outcome, word, outcomes[outcome]) for outcome, word in words.items() if outcomes[outcome]]
        self._models = {model: index for index, (model, _) in enumerate(models.most_common(_MOST_MODELS))}
        rest = sum(models.values()) - sum(models[model] for model in self._models)
        self._named = [(f"m{index}", model or "(no model)", models[model]) for model, index in self._models.items()]
        if rest:
            self._named.append((f"m{_MOST_MODELS}", "other models", rest))

    def classes(self, row: Row) -> str:
        """By what the lane of *row* is found."""
        if row.line is None:
            return ""
        outcome = row.line.outcome if row.line.outcome in self._words else "other"  # a span may say anything
        return f"o-{outcome} m{self._models.get(row.line.model, _MOST_MODELS)}"

    def boxes(self) -> str:
        """The check boxes, all set; nothing where there is nothing to choose."""
        outcomes = [(f"o-{outcome}", word, count) for outcome, word, count in self._outcomes]
        sets = [_set(title, held) for title, held in (("Outcome", outcomes), ("Model", self._named)) if len(held) > 1]
        if not sets:
            return ""
        rules = "".join(
            f"body:has(#show-{name}:not(:checked)) main .{name}{{display:none}}"
            for held in (outcomes, self._named)
            if len(held) > 1
            for name, _, _ in held
        )
        return f'<style>{rules}</style><form class="filter" aria-label="Which streams are shown">{"".join(sets)}</form>'


def _set(title: str, boxes: Sequence[tuple[str, str, int]]) -> str:
    drawn = "".join(
        f'<label><input type="checkbox" id="show-{escape(name)}" checked> <bdi>{escape(plain(word))}</bdi> '
        f"({count:,})</label>"
        for name, word, count in boxes
    )
    return f"<fieldset><legend>{title}</legend>{drawn}</fieldset>"
