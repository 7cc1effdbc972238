# SPDX-License-Identifier: Apache-2.0
"""Wrappers on an SDK's classes: taken off where they are on top, left without effect where others wrapped them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import wrapt

from otelstream._core.process.runtime import Runtime, when_idle

_ABSENT: Any = object()
Put = Callable[[Any, str, Callable[..., Any]], None]  # (owner, name, wrapper)


class _Bound(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]
    """A wrapped function as its class or an instance has it; it is pickled and copied as what it wraps is."""

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        hook, instance = self._self_parent, self._self_instance
        return getattr, (hook._self_home if instance is None else instance, hook._self_word)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        instance = self._self_instance
        return self if instance is None else getattr(copy.deepcopy(instance, memo), self._self_parent._self_word)


class Hook(wrapt.FunctionWrapper):  # type: ignore[type-arg]
    """One wrapper on one class or module. Dead, it is as if it were not there."""

    __bound_function_wrapper__ = _Bound

    def __init__(self, owner: Any, name: str, original: Any, wrapper: Callable[..., Any]) -> None:
        live = [True]
        super().__init__(original, wrapper, enabled=live.__len__)  # type: ignore[arg-type]
        self._self_live = live
        self._self_home, self._self_word = owner, name
        self._self_inherited = name not in owner.__dict__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called as it stands in its class, by who took it from there: the instance is the first argument.

        Or as it stands in its module.
        """
        if not isinstance(self._self_home, type):
            return super().__call__(*args, **kwargs)
        return self.__get__(None, self._self_home)(*args, **kwargs)

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        home = self._self_home
        if isinstance(home, type):
            return getattr, (home, self._self_word)
        return _of_module, (home.__name__, self._self_word)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, _: Any) -> Any:
        return self


def _of_module(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


class Hooks:
    """The wrappers of one SDK."""

    def __init__(self) -> None:
        self._on: list[Hook] = []
        self._buried: list[Hook] = []  # dead: somebody else's wrapper holds them
        self.lock = threading.RLock()

    def __bool__(self) -> bool:
        return bool(self._on)

    def put(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Wrap a function of a class or a module; where ours is still below another's, that one is used again."""
        hook = next((each for each in self._buried if _holds(owner, name, each)), None)
        if hook is not None:
            self._buried.remove(hook)
            hook._self_live[:] = [True]
        else:
            original = owner.__dict__[name] if name in owner.__dict__ else getattr(owner, name)
            hook = Hook(owner, name, original, wrapper)
            setattr(owner, name, hook)
        self._on.append(hook)

    def take_off(self) -> None:
        """Put back the very same functions, but where another's wrapper is on top."""
        self._buried += reversed(self._on)
        self._on.clear()
        for hook in self._buried:
            hook._self_live.clear()
        # One that another tool gave back meanwhile is on top again.
        self._buried = [hook for hook in self._buried if not _taken_off(hook)]


class Patches:
    """The wrappers on one SDK: put on by the first `instrument()`, and off once nothing of ours needs them."""

    def __init__(self) -> None:
        self.runtime: Runtime | None = None  # of the streams that begin now
        self._hooks = Hooks()

    def put_on(self, put: Put) -> None:
        """Wrap the SDK's functions, each by one call of `put`. Raises AttributeError when it lacks one."""
        raise NotImplementedError

    def attach(self, runtime: Runtime) -> None:
        """Observe what begins from now on. Raises AttributeError when the SDK lacks a hook point, with none wrapped."""
        with self._hooks.lock:
            self.runtime = runtime
            if not self._hooks:
                try:
                    self.put_on(self._hooks.put)
                except AttributeError:
                    self.runtime = None
                    self._hooks.take_off()
                    raise

    def remove(self) -> None:
        """Observe nothing that begins from now on, and put back the functions once no stream is open."""
        self.runtime = None
        when_idle(self._take_off)

    def _take_off(self) -> None:
        with self._hooks.lock:
            if self.runtime is None:
                self._hooks.take_off()


def _taken_off(hook: Hook) -> bool:
    owner, name = hook._self_home, hook._self_word
    if owner.__dict__.get(name, _ABSENT) is not hook:
        return False
    if hook._self_inherited:
        delattr(owner, name)
    else:
        setattr(owner, name, hook.__wrapped__)
    return True


def _holds(owner: Any, name: str, hook: Hook) -> bool:
    """Whether a call of that function comes to `hook`, as far as wrappers say what they wrap."""
    if hook._self_home is not owner or hook._self_word != name:
        return False
    function = owner.__dict__.get(name)
    for _ in range(64):
        if function is hook or getattr(function, "_self_parent", None) is hook:
            return True
        function = getattr(function, "__wrapped__", None)
    return False
