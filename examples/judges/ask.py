# SPDX-License-Identifier: Apache-2.0
"""An answer that says yes, is believed, and says no: from a provider on this machine, read by both judges."""

from __future__ import annotations

import answers  # noqa: F401  # importing a judge declares it
import anthropic
import guard  # noqa: F401

import otelstream
from otelstream.testing import ProviderSimulator, Schedule, Script

ANSWER = (
    "Yes, you can ship it today. The tests are green, and nobody has touched the schema since Monday. "
    "The release notes are with marten@harbour.example. On second thought, no: the migration locks the table "
    "for an hour."
)


def main() -> None:
    otelstream.instrument()
    with ProviderSimulator() as provider, otelstream.turn("question"):
        provider.play(Script().text(ANSWER), schedule=Schedule(first=0.3, gap=0.06))
        client = anthropic.Anthropic(base_url=provider.base_url, api_key="none-needed")
        question = [{"role": "user", "content": "Can we ship today?"}]
        with client.messages.stream(model="claude-opus-4-8", max_tokens=200, messages=question) as stream:  # type: ignore[arg-type]
            shown = ""
            for text in stream.text_stream:
                print(text, end="", flush=True)
                if "Monday" in text + shown[-8:] and "Monday" not in shown:
                    otelstream.record_action()  # the user presses Ship
                shown += text
        print()
        for judge in otelstream.get_stream(stream).judges or ():
            print(f"{judge.name}: {judge.verdict}, {judge.readings} readings in {judge.seconds * 1000:.2f} ms")
        for back in otelstream.get_stream(stream).reversals or ():
            acted = ", and the user had acted on it" if back.acted_on else ""
            print(f"{back.judge}: took {back.before} back for {back.after} after {back.exposure:.1f} s{acted}")


if __name__ == "__main__":
    main()
