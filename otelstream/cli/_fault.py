# SPDX-License-Identifier: Apache-2.0
"""The faults that `--fault` names, their values checked by what each fault takes."""

from __future__ import annotations

import inspect
import json
from argparse import ArgumentTypeError
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from otelstream.cli import CommandError
from otelstream.cli._values import DAY, number, shown

if TYPE_CHECKING:
    from otelstream.testing import Fault

_MOST = 10_000_000  # characters, chunks or events: more is a reply that nobody waits for


def read_fault(text: str) -> Fault:
    """Read `cut_after=chunks:40`, `http_error=529,retry_after:0.1` or `gzip`."""
    from otelstream.testing import Faults

    faults = {name: getattr(Faults, name) for name in sorted(vars(Faults)) if not name.startswith("_")}
    name, _, given = text.strip().partition("=")
    if name not in faults:
        raise CommandError(f"--fault {shown(text)}: no fault {shown(repr(name))}; there are: {', '.join(faults)}")
    hints = get_type_hints(faults[name])
    free = [key for key, item in inspect.signature(faults[name]).parameters.items() if item.kind != item.KEYWORD_ONLY]
    known = [key for key in hints if key != "return"]
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in given.split(","))):
        key, colon, value = part.partition(":")
        if not colon:
            key, value = free.pop(0) if free else "", part
        if key not in known:
            allowed = f"use {', '.join(known)}" if known else "it takes no value"
            raise CommandError(f"--fault {shown(text)}: {part!r} is not known; {allowed}")
        if key in found:
            raise CommandError(f"--fault {shown(text)}: {key}:{value} is there twice; keep one")
        found[key] = _value(value, hints[key], f"--fault {shown(text)}: {key}:{shown(value)}")
    try:
        fault: Fault = replace(faults[name](**found), text=text.strip())
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CommandError(f"--fault {shown(text)}: {error}") from None
    return fault


def _value(text: str, hint: Any, where: str) -> Any:
    """Return the value as the parameter wants it."""
    kinds = get_args(hint) or (hint,)
    words = [word for kind in kinds for word in (get_args(kind) or (kind,)) if isinstance(word, str)]
    if text == "null" and type(None) in kinds:
        return None
    if str in kinds:
        plain = _json(text)
        return plain if isinstance(plain, str) else text
    if text in words:
        return text
    allowed = [", ".join(words)] if words else []
    if int in kinds:
        # A point may be 0, right before the first; a size may not.
        least = 0 if type(None) in kinds else 1
        if text.isdecimal() and len(text) <= len(str(_MOST)) and least <= int(text) <= _MOST:
            return int(text)
        allowed.append(f"a whole number from {least} to {_MOST}")
    elif float in kinds:
        try:
            return number(float, 0.0, DAY, "a number")(text)
        except ArgumentTypeError:
            allowed.append(f"a number from 0 to {DAY:g}")
    elif not words:
        return _headers(text, where)
    raise CommandError(f"{where} is not allowed; use {' or '.join(allowed)}")


def _headers(text: str, where: str) -> dict[str, str]:
    found = _json(text)
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return found
    raise CommandError(f'{where} is not allowed; use a JSON object such as {{"retry-after": "1"}}')


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
