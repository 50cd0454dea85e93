"""Vocabulary of the generated sentences in roles.py, with separate verbs for the training and the test split.

Of grammar it has only a verb's three forms. No form of a test verb occurs among the other words.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    """The forms of a verb: give, gave, given."""

    base: str
    past: str
    participle: str


def _parse_verbs(verbs: str) -> tuple[Verb, ...]:
    """Parse `give gave given, hand`: three forms, or only the base form of a regular verb."""
    return tuple(_conjugate(*forms.split()) for forms in verbs.split(","))


def _conjugate(base: str, past: str = "", participle: str = "") -> Verb:
    regular = base + ("d" if base.endswith("e") else "ed")
    if base.endswith("y") and base[-2] not in "aeou":
        regular = base[:-1] + "ied"
    return Verb(base, past or regular, participle or past or regular)


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


# Categories by arguments. intransitive: a person; causative: a thing that changes, with or without a cause;
# transitive_thing and transitive_person: a direct object; ditransitive: a thing and its recipient; reporting: a
# that-clause; subject_control: an infinitive with the same subject.
TRAIN_VERBS = {
    "intransitive": _parse_verbs(
        "laugh, sing sang sung, dance, wait, sleep slept, work, smile, shout, arrive, leave left, pray, whistle, "
        "cough, swim swam swum, rest, complain"
    ),
    "causative": _parse_verbs(
        "break broke broken, open, close, melt, sink sank sunk, burn, crack, roll, bend bent, dry, explode"
    ),
    "transitive_thing": _parse_verbs(
        "buy bought, paint, clean, build built, steal stole stolen, find found, lose lost, carry, hide hid hidden, "
        "repair, wash, cut cut, draw drew drawn, watch, admire, describe, destroy, forget forgot forgotten, "
        "choose chose chosen, examine, keep kept, take took taken, make made, use, remove"
    ),
    "transitive_person": _parse_verbs(
        "greet, thank, hire, meet met, praise, follow, arrest, help, warn, kiss, invite, blame, visit, love, "
        "betray, know knew known, rescue, catch caught"
    ),
    "ditransitive": _parse_verbs(
        "give gave given, send sent, show showed shown, hand, sell sold, offer, lend lent, promise, "
        "bring brought, pass, mail, award, pay paid"
    ),
    "reporting": _parse_verbs("say said, think thought, claim, report, believe, hear heard, admit admitted, explain"),
    "subject_control": _parse_verbs(
        "try, want, refuse, decide, promise, begin began begun, plan planned, forget forgot forgotten"
    ),
}
TEST_VERBS = {
    "intransitive": _parse_verbs("weep wept, sneeze, yawn, kneel knelt, giggle, retire, depart, faint"),
    "causative": _parse_verbs("shatter, freeze froze frozen, tear tore torn, collapse, shrink shrank shrunk"),
    "transitive_thing": _parse_verbs(
        "polish, sketch, discover, weigh, inspect, purchase, bury, measure, fix, photograph, drop dropped, "
        "assemble, borrow"
    ),
    "transitive_person": _parse_verbs("welcome, scold, congratulate, accuse, chase, dismiss, adore, insult, recognize"),
    "ditransitive": _parse_verbs("grant, feed fed, throw threw thrown, teach taught, loan, deliver"),
    "reporting": _parse_verbs("announce, suspect, reveal, conclude"),
    "subject_control": _parse_verbs("attempt, hope, agree, hesitate"),
}

NAMES = _split("Anna Boris Clara David Elena Felix Grace Hugo Irene Jonas Karin Leo Maria Nadia Oscar Paula")
PERSONS = _split(
    "chef guest teacher student doctor farmer judge painter sailor king nurse lawyer baker neighbour driver child "
    "soldier singer actor girl boy woman man widow merchant engineer journalist mayor tailor gardener thief"
)
THINGS = _split(
    "key letter book lamp picture table chair clock ring box bottle coat map knife piano ticket basket mirror carpet "
    "boat bell camera violin plate vase statue watch parcel coin apple cake"
)
PLACES = _split(
    "kitchen garden library station museum market park church school office theatre harbour bridge hotel castle "
    "village square cellar hospital factory"
)
# What can be bought or painted. Includes places, so that the noun alone does not mark a phrase as an adverbial.
OBJECTS = THINGS + PLACES
# What can change without a cause.
CHANGEABLE_THINGS = _split("window door ice gate wheel rope candle glass pipe wall roof ship mirror vase branch shirt")
FORCES = _split("storm fire flood wind explosion earthquake")
EVENTS = _split("meeting concert wedding war dinner trial lesson game funeral election")
PERSON_ADJECTIVES = _split("old young tall quiet rich famous friendly strange clever poor new")
THING_ADJECTIVES = _split("old small red heavy strange famous new grey precious dark ugly")
# Modifiers of a noun, which look like adverbials and have no role of the verb.
PERSON_MODIFIERS = (
    "with the red hat",
    "with a long beard",
    "from Vienna",
    "of the town",
    "in the green coat",
    "from work",
)
THING_MODIFIERS = ("of silver", "with the golden edge", "from Japan", "of the widow", "about birds", "without a name")

PLACE_PREPOSITIONS = ("in", "at", "near", "behind", "outside", "beside", "inside")
PLACE_ADVERBIALS = ("there", "here", "outside", "upstairs", "abroad", "at home", "in Paris", "in London", "on the roof")
TIME_ADVERBIALS = (
    "yesterday", "today", "last week", "last night", "on Monday", "on Friday", "in the morning", "in the evening",
    "at noon", "at midnight", "in 1998", "in March", "two days ago", "a year ago", "every day", "this morning",
    "in winter", "at last", "for two hours", "by Sunday", "by noon", "within an hour",
)  # fmt: skip
TIME_PREPOSITIONS = ("before", "after", "during")
TIME_ADVERBS = ("recently", "soon", "finally", "often", "later", "never", "already")
MANNER_ADVERBIALS = (
    "with great care", "in silence", "without a word", "by hand", "by mistake", "with a smile", "in a hurry",
    "in secret", "on purpose", "with both hands", "by chance", "in a strange way",
)  # fmt: skip
MANNER_ADVERBS = (
    "quickly", "slowly", "quietly", "carefully", "gladly", "angrily", "secretly", "proudly", "bravely", "gently",
    "calmly", "suddenly", "clumsily", "politely",
)  # fmt: skip
