"""Who did what to whom, when, where and how: GENERATED sentences with the semantic roles of one marked verb.

Train walk: run.py -> data.py -> [roles.py]
Synthetic by necessity: no package brings sentences with roles, and PropBank (Palmer, Gildea, Kingsbury, 2005), whose
labels these are, is not free. A grammar writes the sentences, so that a score says how well a net has learnt the
grammar and carries it over to verbs that it has never seen; it says nothing about newspapers.
"""

import itertools
import random
from collections.abc import Callable, Set
from dataclasses import dataclass, field

import torch

from training.data.dataset import Dataset
from training.zoo.datasets import roles_lexicon as lexicon
from training.zoo.datasets.roles_lexicon import Verb

# A stretch of a text: first character, the one after the last, label.
Span = tuple[int, int, str]

LABELS = ("ARG0", "ARG1", "ARG2", "ARGM-TMP", "ARGM-LOC", "ARGM-MNR")
# The verb itself stands among the phrases of its clause under this name.
VERB = "V"


@dataclass(eq=False)
class Phrase:
    """Words and smaller phrases in order, and the role that the whole has in each clause it takes part in.

    `The chef` of `The chef sang and left` is ARG0 twice. Clauses are numbered within a sentence.
    """

    parts: list["str | Phrase"]
    roles: list[tuple[int, str]] = field(default_factory=list)
    # Asked for by "who".
    person: bool = False
    # It ends in a clause of its own: what follows would be read as part of that one.
    heavy: bool = False
    # The "to" or "by" that it begins with.
    opens: str = ""


@dataclass
class Frame:
    """A verb, how it is used, and what it asks for."""

    verb: Verb
    passive: bool
    subject: Phrase
    complements: list[Phrase]


def roles(rows: int = 10_000, seed: int = 42) -> Dataset:
    """Generated English sentences, one verb of each marked, with the PropBank roles of that verb.

    Four fifths are written with the verbs that training sees. The rest is held out and uses only verbs, marked or not,
    that appear nowhere in training, in no form. Beside the plain order there are passives, both forms of giving, things
    that change of themselves, questions, relative clauses, two verbs under one subject, clauses as time and as what was
    said, adverbials before and after the verb, and phrases that look like adverbials and are part of a noun.

    Each row is {"text": ..., "predicate": [start, end]}, characters of the marked verb; its target is the spans of that
    verb's roles. A relative pronoun has no role, the noun it stands for has; negation and modal verbs are not marked.
    """
    held_out = rows // 5
    rng = random.Random(seed)
    seen = _write(rows - held_out, Grammar(rng, lexicon.SEEN))
    unseen = _write(held_out, Grammar(rng, lexicon.UNSEEN))
    return Dataset(
        inputs=[{"text": text, "predicate": list(predicate)} for text, predicate, _ in seen + unseen],
        targets=[spans for _, _, spans in seen + unseen],
        labels=LABELS,
        input_schema=None,
        source=f"synthetic: {rows} sentences written by the grammar in training/zoo/datasets/roles.py, not by people; "
        "labels after PropBank (Palmer, Gildea, Kingsbury, 2005); test verbs never stand in training",
        license="Apache-2.0, as this product",
        test_index=torch.arange(rows - held_out, rows),
    )


Row = tuple[str, tuple[int, int], list[Span]]


def _write(rows: int, grammar: "Grammar") -> list[Row]:
    """Write this many different rows."""
    written: dict[tuple[str, tuple[int, int]], list[Span]] = {}
    while len(written) < rows:
        text, marked = _spoken(grammar.sentence())
        clause = grammar.rng.choice(sorted(marked))
        roles_of_one = marked[clause]
        predicate = next((start, end) for start, end, label in roles_of_one if label == VERB)
        written[text, predicate] = sorted(span for span in roles_of_one if span[2] != VERB)
    return [(text, predicate, spans) for (text, predicate), spans in written.items()]


def _spoken(sentence: Phrase) -> tuple[str, dict[int, list[Span]]]:
    """Put a sentence in one string; give the spans of each clause, its verb among them."""
    text, marked = "", dict[int, list[Span]]()

    def say(phrase: Phrase) -> tuple[int, int]:
        nonlocal text
        places = list[tuple[int, int]]()
        for part in phrase.parts:
            if isinstance(part, Phrase):
                places.append(say(part))
                continue
            text += part if not text or part in ",.?" else f" {part}"
            places.append((len(text) - len(part), len(text)))
        start, end = places[0][0], places[-1][1]
        for clause, role in phrase.roles:
            marked.setdefault(clause, []).append((start, end, role))
        return start, end

    say(sentence)
    return text[0].upper() + text[1:], marked


class Grammar:
    """Writes sentences with one half of the verbs, every choice drawn from `rng`."""

    def __init__(self, rng: random.Random, verbs: dict[str, tuple[Verb, ...]]) -> None:
        self.rng = rng
        self.verbs = verbs
        self.clauses = itertools.count()
        # Whether a noun may still get a relative clause: not within one, and not where two readings would arise.
        self.open = True

    def sentence(self) -> Phrase:
        """Write one sentence."""
        self.clauses = itertools.count()
        kinds = [self.plain, self.asked, self.said, self.joined, self.subordinate, self.controlled]
        kind = self.rng.choices(kinds, [5, 3, 1.5, 2, 2, 1.5])[0]
        self.open = kind in (self.plain, self.asked, self.said)
        return kind()

    def chance(self, share: float) -> bool:
        """Say yes this often."""
        return self.rng.random() < share

    # Sentences.

    def plain(self) -> Phrase:
        """`Yesterday, the old chef quietly gave the guest a key in the kitchen.` One clause, told."""
        clause = next(self.clauses)
        front, used = self.front(clause)
        return Phrase([*front, *self.told(clause, self.frame(clause), used), "."])

    def asked(self) -> Phrase:
        """`What did the chef give the guest in the kitchen?` One clause, asked."""
        clause = next(self.clauses)
        frame, used, front = self.frame(clause), set[str](), list[str | Phrase]()
        if self.chance(0.25):
            frame.subject = _question(frame.subject)
            return Phrase([*self.told(clause, frame), "?"])
        asked = [complement for complement in frame.complements if _role(complement) != "ARG2" or complement.opens]
        if asked and self.chance(0.5):
            chosen = self.rng.choice(asked)
            frame.complements.remove(chosen)
            front = [_question(chosen)]
        elif self.chance(0.6):
            role, word = self.rng.choice((("ARGM-TMP", "when"), ("ARGM-LOC", "where"), ("ARGM-MNR", "how")))
            front, used = [Phrase([word], [(clause, role)])], {role}
        subject, first, *rest = self.told(clause, frame, used, self.auxiliaries(frame.passive) or ["did"])
        return Phrase([*front, first, subject, *rest, "?"])

    def said(self) -> Phrase:
        """`The judge announced that the chef had left.` What is said is a clause."""
        outer, inner = next(self.clauses), next(self.clauses)
        front, used = self.front(outer)
        what = Phrase(["that", *self.told(inner, self.frame(inner))], [(outer, "ARG1")], heavy=True)
        frame = Frame(self.verb("saying"), False, self.person(outer, "ARG0"), [what])
        return Phrase([*front, *self.told(outer, frame, used), "."])

    def joined(self) -> Phrase:
        """`The chef opened the door and sang.` Two verbs of one subject, or two whole clauses."""
        first, second = next(self.clauses), next(self.clauses)
        if self.chance(0.4):
            link = self.rng.choice((["and"], ["but"], [",", "and"], [",", "but"]))
            ahead, after = self.told(first, self.frame(first)), self.told(second, self.frame(second))
            return Phrase([*ahead, *link, *after, "."])
        frame = self.active(first)
        frame.subject.roles.append((second, "ARG0"))
        link = self.rng.choice((["and"], ["but"], ["and", "then"]))
        return Phrase([*self.told(first, frame), *link, *self.told(second, self.active(second))[1:], "."])

    def subordinate(self) -> Phrase:
        """`After the guest left, the chef sang.` One clause is the time of the other."""
        main, lesser = next(self.clauses), next(self.clauses)
        word = self.rng.choice(("after", "before", "when", "while", "until"))
        time = Phrase([word, *self.told(lesser, self.frame(lesser))], [(main, "ARGM-TMP")])
        rest = self.told(main, self.frame(main), {"ARGM-TMP"})
        return Phrase([time, ",", *rest, "."] if self.chance(0.5) else [*rest, time, "."])

    def controlled(self) -> Phrase:
        """`The chef tried to open the door.` The subject is ARG0 of both verbs, the action ARG1 of the first."""
        outer, inner = next(self.clauses), next(self.clauses)
        front, used = self.front(outer)
        frame = self.active(inner)
        action = Phrase(self.told(inner, frame, auxiliaries=["to"])[1:], [(outer, "ARG1")], heavy=True)
        frame.subject.roles.append((outer, "ARG0"))
        trying = Frame(self.verb("trying"), False, frame.subject, [action])
        return Phrase([*front, *self.told(outer, trying, used), "."])

    # Clauses.

    def told(
        self, clause: int, frame: Frame, used: Set[str] = frozenset(), auxiliaries: list[str] | None = None
    ) -> list[str | Phrase]:
        """Put a frame in order: subject, auxiliaries, adverb, verb, complements, adverbials of roles not yet used."""
        auxiliaries = self.auxiliaries(frame.passive) if auxiliaries is None else auxiliaries
        adverb = list[Phrase]()
        if not frame.subject.heavy and self.chance(0.25):
            role, words = self.rng.choice((("ARGM-TMP", lexicon.WHEN_ONE_WORD), ("ARGM-MNR", lexicon.HOW_ONE_WORD)))
            if role not in used:
                adverb, used = [Phrase([self.rng.choice(words)], [(clause, role)])], {*used, role}
        verb = Phrase([_form(frame, auxiliaries)], [(clause, VERB)])
        complements = list(frame.complements)
        tail = [] if any(complement.heavy for complement in complements) else self.tail(clause, used)
        if tail and complements and complements[-1].opens and self.chance(0.2):
            complements.insert(-1, tail.pop())
        return [frame.subject, *auxiliaries, *adverb, verb, *complements, *tail]

    def frame(self, clause: int) -> Frame:
        """Choose a verb and what stands with it."""
        kinds = ("acting", "changing", "affecting", "meeting", "giving")
        kind = self.rng.choices(kinds, (3, 2, 4, 2, 5))[0]
        verb = self.verb(kind)
        if kind == "acting":
            return Frame(verb, False, self.person(clause, "ARG0"), [])
        if kind == "giving":
            return self.giving(clause, verb)
        if kind == "changing" and self.chance(0.5):
            return Frame(verb, False, self.thing(clause, "ARG1", lexicon.BREAKABLE), [])
        passive = self.chance(0.4)
        cause = self.force if kind == "changing" and self.chance(0.3) else self.person
        by = self.by(clause, cause) if passive else []
        if kind == "meeting":
            patient = self.person(clause, "ARG1", subject=passive)
        else:
            patient = self.thing(clause, "ARG1", lexicon.BREAKABLE if kind == "changing" else lexicon.OWNABLE)
        return Frame(verb, True, patient, by) if passive else Frame(verb, False, cause(clause, "ARG0"), [patient])

    def giving(self, clause: int, verb: Verb) -> Frame:
        """Write one of `gave the guest a key`, `gave a key to the guest`, and the passives of both."""
        to_last, passive = self.chance(0.5), self.chance(0.4)
        by = self.by(clause, self.person) if passive else []
        if to_last:
            # Only the last complement may end in a clause, or what follows it would be read as part of that.
            gift = self.thing(clause, "ARG1", bare=not passive)
            getter = _opened("to", self.person(clause, "ARG2", subject=False, bare=bool(by)))
            return Frame(verb, True, gift, [getter, *by]) if passive else self.done(clause, verb, [gift, getter])
        getter = self.person(clause, "ARG2", subject=passive, bare=not passive)
        gift = self.thing(clause, "ARG1", bare=bool(by))
        return Frame(verb, True, getter, [gift, *by]) if passive else self.done(clause, verb, [getter, gift])

    def done(self, clause: int, verb: Verb, complements: list[Phrase]) -> Frame:
        """Let a person do it."""
        return Frame(verb, False, self.person(clause, "ARG0"), complements)

    def active(self, clause: int) -> Frame:
        """Choose a frame whose subject is a person that acts."""
        while True:
            frame = self.frame(clause)
            if frame.subject.person and not frame.passive:
                return frame

    def verb(self, kind: str) -> Verb:
        """Choose a verb of this kind."""
        return self.rng.choice(self.verbs[kind])

    def auxiliaries(self, passive: bool) -> list[str]:
        """Choose the auxiliaries of a verb, none for the plain past."""
        if passive:
            return self.rng.choice(["was", "was", "was", "is", "was not", "had been", "will be", "could be"]).split()
        return self.rng.choice(["", "", "", "", "", "had", "has", "will", "could", "must", "did not"]).split()

    def by(self, clause: int, cause: Callable[[int, str], Phrase]) -> list[Phrase]:
        """Say by whom, or leave it out."""
        return [_opened("by", cause(clause, "ARG0"))] if self.chance(0.6) else []

    # Adverbials.

    def front(self, clause: int) -> tuple[list[str | Phrase], set[str]]:
        """Put an adverbial before the clause, or none; give also the role that is used up."""
        if self.chance(0.7):
            return [], set()
        role = self.rng.choices(LABELS[3:], (3, 1, 1))[0]
        return [self.adverbial(clause, role), *([","] if self.chance(0.6) else [])], {role}

    def tail(self, clause: int, used: Set[str]) -> list[Phrase]:
        """Choose the adverbials after the verb, in any order."""
        free = [role for role in LABELS[3:] if role not in used]
        count = self.rng.choices(range(4), (3, 4, 2.5, 0.5))[0]
        return [self.adverbial(clause, role) for role in self.rng.sample(free, min(count, len(free)))]

    def adverbial(self, clause: int, role: str) -> Phrase:
        """Say when, where or how."""
        pick = self.rng.choice
        if role == "ARGM-TMP":
            event = f"{pick(lexicon.WHEN_WITH_EVENT)} the {pick(lexicon.EVENTS)}"
            words = event if self.chance(0.35) else pick(lexicon.WHEN)
        elif role == "ARGM-LOC":
            place = f"{pick(lexicon.WHERE)} the {pick(lexicon.PLACES)}"
            words = place if self.chance(0.7) else pick(lexicon.WHERE_ALONE)
        else:
            words = pick(lexicon.HOW if self.chance(0.6) else lexicon.HOW_ONE_WORD)
        return Phrase([*words.split()], [(clause, role)])

    # Nouns.

    def person(self, clause: int, role: str, *, subject: bool = True, bare: bool = False) -> Phrase:
        """Name a person: a pronoun, a name, or a noun that may carry a clause unless it is to be bare."""
        if self.chance(0.12):
            return Phrase(
                [self.rng.choice(("he", "she") if subject else ("him", "her"))], [(clause, role)], person=True
            )
        if self.chance(0.25):
            return Phrase([self.rng.choice(lexicon.NAMES)], [(clause, role)], person=True)
        noun = self.noun(lexicon.PERSONS, lexicon.PERSON_ADJECTIVES, lexicon.PERSON_MARKS)
        noun.person = True
        return self.whole(noun, clause, role, bare)

    def thing(self, clause: int, role: str, nouns: tuple[str, ...] = lexicon.THINGS, *, bare: bool = False) -> Phrase:
        """Name a thing."""
        return self.whole(self.noun(nouns, lexicon.THING_ADJECTIVES, lexicon.THING_MARKS), clause, role, bare)

    def force(self, clause: int, role: str) -> Phrase:
        """Name what changes things and is no person."""
        return Phrase(["the", self.rng.choice(lexicon.FORCES)], [(clause, role)])

    def noun(self, nouns: tuple[str, ...], adjectives: tuple[str, ...], marks: tuple[str, ...]) -> Phrase:
        """Write a noun with its article, perhaps an adjective, perhaps a mark that looks like an adverbial."""
        words = [*([self.rng.choice(adjectives)] if self.chance(0.3) else []), self.rng.choice(nouns)]
        article = self.rng.choice(("the", "the", "the", "a", "this", "her", "his", "every"))
        mark = self.rng.choice(marks).split() if self.chance(0.15) else []
        return Phrase(["an" if article == "a" and words[0][0] in "aeiou" else article, *words, *mark])

    def whole(self, head: Phrase, clause: int, role: str, bare: bool) -> Phrase:
        """Give the noun its role, and perhaps a relative clause in which it has another."""
        if bare or not self.open or self.chance(0.85):
            return Phrase([head], [(clause, role)], person=head.person)
        self.open = False
        inner = next(self.clauses)
        while True:
            frame = self.frame(inner)
            gaps = [gap for gap in frame.complements if _role(gap) == "ARG1" and gap.person == head.person]
            if gaps and self.chance(0.5):
                head.roles.append((inner, "ARG1"))
                frame.complements.remove(gaps[0])
                words = self.told(inner, frame)
                break
            if frame.subject.person == head.person:
                head.roles.append((inner, _role(frame.subject)))
                words = self.told(inner, frame)[1:]
                break
        self.open = True
        link = self.rng.choice(("who", "that") if head.person else ("which", "that"))
        return Phrase([head, link, *words], [(clause, role)], person=head.person, heavy=True)


def _role(phrase: Phrase) -> str:
    return phrase.roles[0][1]


def _opened(word: str, phrase: Phrase) -> Phrase:
    """Put `to` or `by` before a phrase; its role covers both."""
    return Phrase([word, *phrase.parts], phrase.roles, person=phrase.person, heavy=phrase.heavy, opens=word)


def _question(phrase: Phrase) -> Phrase:
    """Ask for a phrase: `who`, `what`, `to whom`."""
    if phrase.opens:
        return Phrase([phrase.opens, "whom" if phrase.person else "what"], phrase.roles)
    return Phrase(["who" if phrase.person else "what"], phrase.roles)


def _form(frame: Frame, auxiliaries: list[str]) -> str:
    """Choose the verb's form by what stands before it."""
    if frame.passive or auxiliaries in (["had"], ["has"]):
        return frame.verb.participle
    return frame.verb.base if auxiliaries else frame.verb.past
