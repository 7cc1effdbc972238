# SPDX-License-Identifier: Apache-2.0
"""Read a YAML or JSON file into plain data and the line of each value, within bounds."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any, Final

from otelstream._objectives_file.problems import ObjectivesError, Path, show

_REMEDY: Final = "`otelstream slo init` writes one to edit"
_BYTES: Final = 1_000_000
_DEPTH: Final = 32
_VALUES: Final = 10_000
_TOO_DEEP: Final = f"nested deeper than {_DEPTH}; write it flat"
_TOO_MANY: Final = f"more than {_VALUES} values{{}}; write only what is needed"


def read(path: str | PathLike[str], remedy: str = _REMEDY) -> tuple[object, dict[Path, int]]:
    """Return plain data and the lines; `.json` needs the standard library only and has no lines."""
    source = fspath(path)
    try:
        with open(source, "rb") as file:
            found = file.read(_BYTES + 1)
        text = found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = found.count(b"\n", 0, error.start) + 1
        raise ObjectivesError(source, [f"line {line} is not UTF-8; save it as UTF-8"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ObjectivesError(source, [f"cannot be read ({reason}); {remedy}"]) from None
    if len(found) > _BYTES:
        raise ObjectivesError(source, [f"is more than 1 MB; {remedy}"])
    return (_json(text, source), {}) if source.endswith(".json") else _yaml(text, source)


def _json(text: str, source: str) -> object:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ObjectivesError(source, [f"key {show(twice)} is there twice; keep one"])
        return found

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except ObjectivesError:
        raise
    except (ValueError, RecursionError) as error:
        raise ObjectivesError(source, [f"is no JSON ({error}); mend it there"]) from None


def _yaml(text: str, source: str) -> tuple[object, dict[Path, int]]:
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.constructor import RoundTripConstructor
    except ImportError:
        raise ObjectivesError(
            source,
            ['needs ruamel.yaml; `pip install "otelstream[dashboards]"`, or write the same as a .json file'],
        ) from None

    class Constructor(RoundTripConstructor):
        """Leaves dates as they are written: nothing in the file is one."""

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", Constructor.construct_scalar)
    loader = YAML(pure=True)
    loader.Constructor = Constructor
    try:
        # Its warnings are paragraphs on what YAML allows: an anchor that is set again, a float of YAML 1.1.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_events(loader.parse(text))
            return _Unfolded().whole(loader.load(text))
    except Exception as error:  # the library raises more than its own errors
        mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
        line = mark.line if mark else None if position is None else text.count("\n", 0, position)
        raise ObjectivesError(source, [f"{'' if line is None else f'line {line + 1}: '}{_said(error)}"]) from None


def _said(error: Exception) -> str:
    """What the library says of a file, in our words where it has too many."""
    if isinstance(error, _RefusedError):
        return str(error)
    problem = getattr(error, "problem", None) or (str(error).splitlines() or ["too deep"])[0]
    twice = re.match(r'found duplicate (?:merge )?key "(.*?)"', problem, re.DOTALL)
    return f"key {show(twice[1])} is there twice; keep one" if twice else f"is no YAML ({problem}); mend it there"


class _RefusedError(Exception):
    """What the library would read, and we do not want."""

    def __init__(self, problem: str, mark: Any = None) -> None:
        super().__init__(problem)
        self.problem_mark = mark


def _check_events(events: Any) -> None:
    """Refuse tags, and what would take the library very long, before anything is built."""
    depth = 0
    for count, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > _DEPTH + 2:  # stream and document are two of them
            raise _RefusedError(_TOO_DEEP, event.start_mark)
        if count > _VALUES:
            raise _RefusedError(_TOO_MANY.format(""), event.start_mark)
        if tag := getattr(event, "tag", None):
            short = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise _RefusedError(f"tag {show(short)} is not read here; remove it", event.start_mark)


class _Unfolded:
    """Plain values of loaded ones, each alias written out, and the line where each stands."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.count = 0

    def whole(self, loaded: Any) -> tuple[object, dict[Path, int]]:
        return self._plain(loaded, ()), self.lines

    def _plain(self, loaded: Any, path: Path) -> object:
        self.count += 1
        if self.count > _VALUES or len(path) > _DEPTH:
            raise _RefusedError(_TOO_MANY.format(" where aliases stand; write them out, and"))
        if not isinstance(loaded, (Mapping, list)):
            return loaded
        # Merged keys have no line of their own: that of the mapping is told for them.
        marked: Any = loaded
        for key, marks in (marked.lc.data or {}).items():
            here = (*path, key)
            self.lines[here] = marks[0] + 1
        if isinstance(loaded, list):
            return [self._plain(item, (*path, place)) for place, item in enumerate(loaded)]
        return {key: self._plain(value, (*path, key)) for key, value in loaded.items()}
