# SPDX-License-Identifier: Apache-2.0
"""botocore and aiobotocore as this adapter knows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from otelstream._core.process.provider import Adapter, Beside
from otelstream._core.record.stream import StreamObservation
from otelstream.bedrock._attach import Patches
from otelstream.bedrock._events import observed


@dataclass(frozen=True, slots=True, eq=False)
class Provider(Adapter):
    """One of both."""

    package: str
    supported: tuple[tuple[int, int], tuple[int, int]]
    prefix: str  # of the names of its classes
    beside: Beside
    distribution: str = ""
    provider: str = "aws.bedrock"
    clients: Sequence[str] = ()

    @property
    def used(self) -> str:
        """The module that whoever makes a client imports: to import it for one who does not takes 200 ms."""
        return f"{self.package}.client"

    def installed_version(self) -> str | None:
        """The version of the installed SDK; None also for an older one than is supported.

        Most who have one ask no model, and would be told of it in vain.
        """
        version = Adapter.installed_version(self)
        numbers = (version or "0").split(".")[:2]
        young = all(map(str.isdigit, numbers)) and (*map(int, numbers),) >= self.supported[0]
        return version if young else None

    def patches(self) -> Patches:
        """What attaches to it."""
        return Patches(self.package, self.prefix)

    def observed(self, thing: object) -> StreamObservation | None:
        """The record of an event stream; None for anything else."""
        return observed(thing)


_PATIENCE = "config=botocore.config.Config(read_timeout=60, connect_timeout=5)"
_PATHS = ("/converse-stream", "/invoke-with-response-stream")
BOTOCORE = Provider(
    "botocore",
    ((1, 35), (2, 0)),
    "",
    Beside(
        peers={
            "opentelemetry-instrumentation-botocore": "botocore",
            "opentelemetry-instrumentation-bedrock": "boto3",
            "openinference-instrumentation-bedrock": "bedrock",
        },
        capturing={
            "opentelemetry-instrumentation-bedrock": {"TRACELOOP_TRACE_CONTENT": "false"},
            "openinference-instrumentation-bedrock": {
                "OPENINFERENCE_HIDE_INPUTS": "true",
                "OPENINFERENCE_HIDE_OUTPUTS": "true",
            },
        },
        calls=(("botocore.client", ("BaseClient._make_api_call",)),),
        paths=_PATHS,
        patience=_PATIENCE,
    ),
)
AIOBOTOCORE = Provider("aiobotocore", ((2, 15), (4, 0)), "Aio", Beside(paths=_PATHS, patience=_PATIENCE))
