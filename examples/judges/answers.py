# SPDX-License-Identifier: Apache-2.0
"""A judge of English answers: yes, no, or a yes or no with a qualification. Small, measured, not the truth."""

from __future__ import annotations

import re

import otelstream

_ANY = re.IGNORECASE
_OPENS = {  # in this order: "definitely not" begins like "definitely"
    "no": re.compile(r"\W*(no|nope|unfortunately not|i'm afraid not|not really|definitely not|absolutely not)\b", _ANY),
    "yes": re.compile(r"\W*(yes|yeah|yep|sure|certainly|of course|absolutely|definitely|correct|indeed)\b", _ANY),
}
_TURNS = re.compile(
    r"\b(on second thought|on a second look|i was wrong|correction|scratch that|wait|actually,? no)\b", _ANY
)
_QUALIFIES = re.compile(
    r"\b(but|however|although|except|unless|only (?:if|when)|that said|provided|as long as|with (?:one|a) (?:exception|"
    r"caveat)|not (?:always|entirely|quite|necessarily)|it depends|careful)\b",
    _ANY,
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
_OTHER = {"yes": "no", "no": "yes"}


@otelstream.judge("answer", verdicts=("yes", "no", "qualified"))
def answer(text: str) -> str | None:
    """The answer as far as it goes: by the word it opens with, what qualifies that, and what takes it back."""
    verdict = None
    for sentence in _SENTENCE.findall(text):
        opens = next((word for word, pattern in _OPENS.items() if pattern.match(sentence)), None)
        if verdict is None or (opens and opens != verdict):
            verdict = opens
        elif _TURNS.search(sentence):
            verdict = _OTHER.get(verdict, verdict)
        if verdict and _QUALIFIES.search(sentence):
            verdict = "qualified"
    return verdict
