# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin that switches otelstream on before anything else is imported, and looks that it stayed on."""

from __future__ import annotations

import os

import otelstream

otelstream.instrument()
ended: list[str] = []
otelstream.on_stream_end(lambda view: ended.append(view.outcome or ""))


def pytest_sessionfinish() -> None:
    if os.environ.get("FOREIGN_STREAMS") == "none":
        from botocore.client import BaseClient

        if type(vars(BaseClient)["_make_api_call"]).__name__ != "Hook":
            raise RuntimeError("otelstream is not on: the comparison would say nothing")
    elif not ended:
        raise RuntimeError("otelstream saw no stream: the comparison would say nothing")
