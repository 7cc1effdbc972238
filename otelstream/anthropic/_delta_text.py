# SPDX-License-Identifier: Apache-2.0
"""Get the text of a batch of deltas without parsing each: the JSON around the text is the same in all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_decode = json.JSONDecoder().raw_decode
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

# What a delta holds before its text, and the pattern of what stands between the texts of two deltas. One entry for
# each producer and block index met; all are forgotten when there are too many, or when one misleads.
_borders: dict[str, re.Pattern[str]] = {}
_MAX_BORDERS = 64


class BatchText(NamedTuple):
    """What the deltas of one batch say together."""

    text: str
    """Their text, decoded. A surrogate pair that two deltas share is one character."""
    silent: Sequence[int] = ()
    """The places in the batch of deltas that contribute nothing: empty, of another kind, malformed."""
    malformed: bool = False
    """Whether one of them is no JSON, or not that of a delta."""


def batch_text(datas: Sequence[str], field: str) -> BatchText:
    """Return the text in the `field` of these deltas, each the raw `data` of an event, as if each was parsed.

    Never raises. Where all look alike, whatever their padding, a delta costs a quarter of parsing it or less.
    """
    prefix = _prefix(datas, field)
    border = _borders.get(prefix) if prefix else None
    if border is None:
        return _parsed(datas, field)
    fast = _cut(datas, prefix, border)
    if fast is not None:
        return fast
    odd = [place for place, data in enumerate(datas) if not data.startswith(prefix)]
    others = _parsed([datas[place] for place in odd], field)
    if odd and not others.text:
        alike = [place for place, data in enumerate(datas) if data.startswith(prefix)]
        fast = _cut([datas[place] for place in alike], prefix, border)
        if fast is not None:
            silent = sorted([*odd, *(alike[place] for place in fast.silent)])
            return BatchText(fast.text, silent, others.malformed)
    _borders.pop(prefix, None)
    return _parsed(datas, field)


def _prefix(datas: Iterable[str], field: str) -> str:
    """Return all that the first delta with this field has before its text; "" if none does in a way we know."""
    opening = f'"{field}":"'
    for data in datas:
        at = data.find(opening)
        if at < 0:
            spaced = re.search(rf'"{field}"\s*:\s*"', data)
            if spaced is None:
                continue
            prefix = data[: spaced.end()]
        else:
            prefix = data[: at + len(opening)]
        return prefix if prefix in _borders or _learn(prefix, data, field) else ""
    return ""


def _learn(prefix: str, data: str, field: str) -> bool:
    """Note what stands between two texts of such deltas, if another text in the same place parses to just that."""
    try:
        _, size = _decode(data[len(prefix) - 1 :])
        suffix = data[len(prefix) - 1 + size - 1 :].rstrip()
        if json.loads(f"{prefix}?{suffix}")["delta"][field] != "?":
            return False
    except (ValueError, TypeError, LookupError, RecursionError):
        return False
    # A provider pads each delta its own way behind the text; what else may follow is the same in all.
    closing = r'" *\} *\}' if re.fullmatch(r'"\s*\}\s*\}', suffix) else re.escape(suffix)
    if len(_borders) >= _MAX_BORDERS:
        _borders.clear()
    _borders[prefix] = re.compile(f"{closing} *\n{re.escape(prefix)}")
    return True


def _cut(datas: Sequence[str], prefix: str, border: re.Pattern[str]) -> BatchText | None:
    """Return the text of deltas that all look alike; None if one does not, or its text is not JSON."""
    joined = "\n".join(datas)
    raws = border.split(f"{joined}\n{prefix}")
    if len(raws) != len(datas) + 1 or not joined.startswith(prefix):
        return None
    raws[0] = raws[0][len(prefix) :]
    raws.pop()
    text = "".join(raws)
    try:
        decoded, end = _decode(f'"{text}"')
        if end != len(text) + 2:
            return None
        # An escape that one delta leaves unfinished must not be finished by the next: not with an x between.
        if "\\" in text and _decode('"' + "x".join(raws) + '"')[1] != len(text) + len(raws) + 1:
            return None
    except ValueError:
        return None
    silent = [place for place, raw in enumerate(raws) if not raw] if "" in raws else ()
    return BatchText(decoded, silent)


def _parsed(datas: Iterable[str], field: str) -> BatchText:
    """Return the text of any deltas at all, each parsed."""
    texts: list[str] = []
    malformed = False
    for data in datas:
        text = None
        try:
            text = json.loads(data)["delta"].get(field)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            malformed = True
        texts.append(text if isinstance(text, str) else "")
    whole = _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), "".join(texts))
    return BatchText(whole, [place for place, text in enumerate(texts) if not text], malformed)
