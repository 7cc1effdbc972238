# SPDX-License-Identifier: Apache-2.0
"""A provider on this machine: it sends an e-mail first, then talks for as long as it is let, and changes its mind."""

from __future__ import annotations

from otelstream.testing import ProviderSimulator, Request, Schedule, Script, prose


def _after_tool(request: Request) -> bool:
    last = request.body["messages"][-1]["content"]
    return isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)


def local_provider() -> ProviderSimulator:
    """A simulator that plays both halves of an answer, again and again."""
    provider = ProviderSimulator()
    first = Script().text("I will let the harbour master know, and then tell you all about it.")
    mail = {"to": "harbour.master@example.org", "subject": "A visitor asks about the nets"}
    provider.play(first.tool_use("send_email", mail), schedule=Schedule(first=0.3, gap=0.02), times=None)
    says = "Yes, the nets tell who rowed out before the fog."
    but = "No, I mixed that up: they tell nothing before they are dry."
    long = Script().text(f"{says} {prose(326)} {but} {prose(1900)}")
    provider.play(long, schedule=Schedule(first=0.4, gap=0.04, jitter=0.5), when=_after_tool, times=None)
    return provider
