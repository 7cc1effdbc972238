# SPDX-License-Identifier: Apache-2.0
"""Readable filler text of any exact length, the same on every machine."""

from __future__ import annotations

from functools import cache

TEXT = """
The harbour wakes before the town does. A bell rings twice from the far pier, and somebody answers it with a
lamp. Gulls argue over the first crate while the ropes are still wet and the tide is only thinking of
turning. Old Marten counts his nets aloud, as he has done each morning since the winter that took the
eastern wall. He never reaches the same number, yet he never seems surprised. Numbers, he says, are for
people who own less rope. Behind the cooper's yard a narrow stair climbs to the signal house, where Ines
keeps the log in green ink. Her entries are short: wind from the north, two sails, bread late again. When a
storm is due she writes smaller. On the slate beside the door the children draw fish with far too many fins,
and nobody has the heart to wipe them off. By nine the market has filled the square. Pears stand next to
anchors, and a man sells clocks that all disagree. Which one is right, you ask him. The one you buy, he
answers, and winds it as though that settled the matter. There is a baker who trades loaves for stories and
keeps a careful ledger of both, with the better ones underlined. Stories about shipwrecks fetch two rolls;
stories about weddings fetch one, because there are more of them. Further along, a glazier holds each pane
against the sky before he lets it go, looking for the faults that only clouds reveal. Noon is quiet here.
The cranes stop where they are, half lifted, like long birds that forgot what they came for. Dogs sleep in
the shade of carts, and the smell of tar and oranges drifts slowly up the hill toward the school. Inside,
twenty pupils copy out the names of lighthouses while their teacher draws a coastline from memory and gets
it almost right. She leaves out the island on purpose. Somebody always notices, and that is how she learns
who has been listening. In the afternoon the ferry arrives with letters, salt, one piano and a quarrel that
began three villages ago. Six people carry the piano. Seven people advise them. It reaches the hall out of
tune but otherwise unharmed. The quarrel is settled by the postmistress, who reads both sides aloud in the
same voice until they sound alike. Towards evening the wind drops and the water takes the colour of slate,
then pewter, then nothing you could name. Lanterns come out one by one along the quay. Each is hung by a
different hand, and each hand believes its own was first. Marten mends a net he does not need to mend. Ines
closes the log, opens it again and adds a single word. What the word was depends on whom you ask: the cooper
says patience, the baker says flour, the children say fish. Later, when the last boat has been counted in,
the bell rings twice more, and from the far pier a lamp replies. If you walk out past the breakwater at that
hour you can hear the town breathing behind you, slow and even. Careful visitors carry a stone in one pocket
so that the gusts do not mistake them for washing. It is said that the first builders measured everything in
oar lengths, which explains the doors and most of the disputes. Some evenings a surveyor arrives with brass
instruments and leaves with a jar of honey and a map nobody can fold. He promises to return with better
paper. So far he has returned only with better questions and larger appetites. Below the signal house lies a
garden of borrowed seeds, labelled in three alphabets and weeded in a fourth. Beans climb the flagpole
there. On holidays the flag goes up regardless, and comes down smelling faintly of summer. Whoever finds the
oldest label may ring the bell at noon, which is otherwise forbidden and therefore very popular. Winter
shortens everything except the tales. Snow fills the boats to the gunwale, and people dig for their own
names. Yet by the thaw the paint is fresh, the ropes are dry, and somebody is already counting nets aloud on
the quay.
"""

_WORDS = TEXT.split()
# One stand-in for a gap of each length, so that any length comes out as whole words.
_BY_LENGTH = {
    1: "a",
    2: "by",
    3: "sea",
    4: "tide",
    5: "boats",
    6: "harbor",
    7: "lantern",
    8: "moorings",
    9: "evenings,",
    10: "lighthouse",
    11: "fishermen's",
    12: "weatherproof",
    13: "shipbuilders,",
    14: "northeasterly,",
    15: "weatherproofing",
    16: "circumnavigation",
}


class Prose:
    """Our own sentences, taken one after another; `take` never repeats itself before the text ends."""

    def __init__(self, start: int = 0) -> None:
        self._next = start % len(_WORDS)

    def take(self, length: int) -> str:
        """Return exactly *length* characters made of whole words, without line breaks."""
        if length <= 0:
            return ""
        words: list[str] = []
        used = -1
        while used + 1 + len(word := _WORDS[self._next]) <= length:
            words.append(word)
            used += 1 + len(word)
            self._next = (self._next + 1) % len(_WORDS)
        missing = length - max(used, 0) - (1 if words else 0)
        if missing > 0:
            words.append(_BY_LENGTH[missing])
        text = " ".join(words)
        # One character short of a further word: no word fits, a stop does.
        return text.ljust(length, ".")


@cache
def prose(length: int, start: int = 0) -> str:
    """Return *length* characters of readable text; another *start* gives other sentences."""
    return Prose(start).take(length)
