"""The words of the generated sentences in roles.py, the verbs in two halves: those that training sees, and the others.

Knows nothing of grammar beyond a verb's three forms. No form of an unseen verb is any other word here.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    """give, gave, given."""

    base: str
    past: str
    participle: str


def _verbs(listed: str) -> tuple[Verb, ...]:
    """Read `give gave given, hand`: three forms, or one where the other two follow the rule."""
    return tuple(_verb(*forms.split()) for forms in listed.split(","))


def _verb(base: str, past: str = "", participle: str = "") -> Verb:
    regular = base + ("d" if base.endswith("e") else "ed")
    if base.endswith("y") and base[-2] not in "aeou":
        regular = base[:-1] + "ied"
    return Verb(base, past or regular, participle or past or regular)


def _words(listed: str) -> tuple[str, ...]:
    return tuple(listed.split())


# Kinds by what a verb asks for: a person alone; a thing that changes, with or without a cause; a thing; a person; a
# thing and who gets it; a clause; an action of one's own.
SEEN = {
    "acting": _verbs(
        "laugh, sing sang sung, dance, wait, sleep slept, work, smile, shout, arrive, leave left, pray, whistle, "
        "cough, swim swam swum, rest, complain"
    ),
    "changing": _verbs(
        "break broke broken, open, close, melt, sink sank sunk, burn, crack, roll, bend bent, dry, explode"
    ),
    "affecting": _verbs(
        "buy bought, paint, clean, build built, steal stole stolen, find found, lose lost, carry, hide hid hidden, "
        "repair, wash, cut cut, draw drew drawn, watch, admire, describe, destroy, forget forgot forgotten, "
        "choose chose chosen, examine, keep kept, take took taken, make made, use, remove"
    ),
    "meeting": _verbs(
        "greet, thank, hire, meet met, praise, follow, arrest, help, warn, kiss, invite, blame, visit, love, "
        "betray, know knew known, rescue, catch caught"
    ),
    "giving": _verbs(
        "give gave given, send sent, show showed shown, hand, sell sold, offer, lend lent, promise, "
        "bring brought, pass, mail, award, pay paid"
    ),
    "saying": _verbs("say said, think thought, claim, report, believe, hear heard, admit admitted, explain"),
    "trying": _verbs("try, want, refuse, decide, promise, begin began begun, plan planned, forget forgot forgotten"),
}
UNSEEN = {
    "acting": _verbs("weep wept, sneeze, yawn, kneel knelt, giggle, retire, depart, faint"),
    "changing": _verbs("shatter, freeze froze frozen, tear tore torn, collapse, shrink shrank shrunk"),
    "affecting": _verbs(
        "polish, sketch, discover, weigh, inspect, purchase, bury, measure, fix, photograph, drop dropped, "
        "assemble, borrow"
    ),
    "meeting": _verbs("welcome, scold, congratulate, accuse, chase, dismiss, adore, insult, recognize"),
    "giving": _verbs("grant, feed fed, throw threw thrown, teach taught, loan, deliver"),
    "saying": _verbs("announce, suspect, reveal, conclude"),
    "trying": _verbs("attempt, hope, agree, hesitate"),
}

NAMES = _words("Anna Boris Clara David Elena Felix Grace Hugo Irene Jonas Karin Leo Maria Nadia Oscar Paula")
PERSONS = _words(
    "chef guest teacher student doctor farmer judge painter sailor king nurse lawyer baker neighbour driver child "
    "soldier singer actor girl boy woman man widow merchant engineer journalist mayor tailor gardener thief"
)
THINGS = _words(
    "key letter book lamp picture table chair clock ring box bottle coat map knife piano ticket basket mirror carpet "
    "boat bell camera violin plate vase statue watch parcel coin apple cake"
)
PLACES = _words(
    "kitchen garden library station museum market park church school office theatre harbour bridge hotel castle "
    "village square cellar hospital factory"
)
# What can be bought or painted: a place too, the noun alone does not say that a phrase is an adverbial.
OWNABLE = THINGS + PLACES
# These change of themselves.
BREAKABLE = _words("window door ice gate wheel rope candle glass pipe wall roof ship mirror vase branch shirt")
FORCES = _words("storm fire flood wind explosion earthquake")
EVENTS = _words("meeting concert wedding war dinner trial lesson game funeral election")
PERSON_ADJECTIVES = _words("old young tall quiet rich famous friendly strange clever poor new")
THING_ADJECTIVES = _words("old small red heavy strange famous new grey precious dark ugly")
# What a person or a thing may have about it, none of which is a role of the verb.
PERSON_MARKS = ("with the red hat", "with a long beard", "from Vienna", "of the town", "in the green coat", "from work")
THING_MARKS = ("of silver", "with the golden edge", "from Japan", "of the widow", "about birds", "without a name")

WHERE = ("in", "at", "near", "behind", "outside", "beside", "inside")
WHERE_ALONE = ("there", "here", "outside", "upstairs", "abroad", "at home", "in Paris", "in London", "on the roof")
WHEN = (
    "yesterday", "today", "last week", "last night", "on Monday", "on Friday", "in the morning", "in the evening",
    "at noon", "at midnight", "in 1998", "in March", "two days ago", "a year ago", "every day", "this morning",
    "in winter", "at last", "for two hours", "by Sunday", "by noon", "within an hour",
)  # fmt: skip
WHEN_WITH_EVENT = ("before", "after", "during")
WHEN_ONE_WORD = ("recently", "soon", "finally", "often", "later", "never", "already")
HOW = (
    "with great care", "in silence", "without a word", "by hand", "by mistake", "with a smile", "in a hurry",
    "in secret", "on purpose", "with both hands", "by chance", "in a strange way",
)  # fmt: skip
HOW_ONE_WORD = (
    "quickly", "slowly", "quietly", "carefully", "gladly", "angrily", "secretly", "proudly", "bravely", "gently",
    "calmly", "suddenly", "clumsily", "politely",
)  # fmt: skip
