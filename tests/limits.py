# SPDX-License-Identifier: Apache-2.0
"""What makes every run of the tests end: no test lasts for ever, and a worker that died is not replaced."""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Any

import pytest

SECONDS = 300  # of one test with its fixtures and its reruns, on a starved machine
SLOW_SECONDS = 3600

_stderr = pytest.StashKey[int]()
_died = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let the run end when a worker dies: with another in its place, `--dist loadfile` waits for ever."""
    config.stash[_stderr] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
    if getattr(config.option, "maxworkerrestart", "0") is None:
        config.option.maxworkerrestart = "0"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    if error:
        node.config.stash[_died] = True


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that lost a worker: with `--reruns` a crash is a rerun, which may never have come."""
    if exitstatus == pytest.ExitCode.OK and session.config.stash.get(_died, False):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_stderr])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its limit, unless it has its own or the command line says `--timeout`."""
    if not config.pluginmanager.hasplugin("timeout") or config.getoption("timeout") is not None:
        return
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS if item.get_closest_marker("slow") else SECONDS))


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Beyond the limit print all stacks and end the process, from outside the interpreter.

    The plugin's own ways wait for their turn, which a test that never lets go of the interpreter does not give; and
    what its thread prints is lost in a worker of xdist.
    """
    faulthandler.dump_traceback_later(settings.timeout, exit=True, file=item.config.stash[_stderr])
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_cancel_timer() -> bool:
    faulthandler.cancel_dump_traceback_later()
    return True
