"""Grammar of the generated sentences in roles.py: phrase trees whose nodes have semantic roles.

Every random choice is drawn from one generator in a fixed order: the same seed writes the same sentences. Knows nothing
of text or spans: roles.py renders the trees.
"""

import itertools
import random
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from training.zoo.datasets import roles_lexicon as lexicon
from training.zoo.datasets.roles_lexicon import Verb

# Label of the verb itself among the phrases of its clause, as in PropBank.
VERB = "V"
ADVERBIAL_ROLES = ("ARGM-TMP", "ARGM-LOC", "ARGM-MNR")


@dataclass(eq=False)
class Phrase:
    """A node of the phrase tree, with its role in each clause that it belongs to.

    `The chef` of `The chef sang and left` is ARG0 in two clauses. Clauses are numbered within a sentence.

    Attributes:
        children: words and smaller phrases, in order.
        roles: (clause, role) pairs.
        is_person: its question word is "who".
        ends_in_clause: what follows it would be read as part of that clause.
        preposition: the "to" or "by" that it begins with; empty for none.
    """

    children: list["str | Phrase"]
    roles: list[tuple[int, str]] = field(default_factory=list)
    is_person: bool = False
    ends_in_clause: bool = False
    preposition: str = ""


@dataclass
class Frame:
    """A verb, its voice and its arguments."""

    verb: Verb
    is_passive: bool
    subject: Phrase
    complements: list[Phrase]


class SentenceGenerator:
    """Generates sentences with one split's verbs, every choice drawn from `rng`."""

    def __init__(self, rng: random.Random, verbs: dict[str, tuple[Verb, ...]]) -> None:
        self.rng = rng
        self.verbs = verbs
        self.clause_ids = itertools.count()
        # No relative clause within another one, nor where it would make the sentence ambiguous.
        self.relative_clauses_allowed = True

    def generate_sentence(self) -> Phrase:
        """Generate one sentence."""
        self.clause_ids = itertools.count()
        with_relatives = [self.generate_statement, self.generate_question, self.generate_reported_speech]
        without_relatives = [self.generate_coordination, self.generate_subordination, self.generate_subject_control]
        generate = self.rng.choices([*with_relatives, *without_relatives], [5, 3, 1.5, 2, 2, 1.5])[0]
        self.relative_clauses_allowed = generate in with_relatives
        return generate()

    def flip(self, probability: float) -> bool:
        """Draw true with this probability."""
        return self.rng.random() < probability

    # Sentences.

    def generate_statement(self) -> Phrase:
        """`Yesterday, the old chef quietly gave the guest a key in the kitchen.` One declarative clause."""
        clause = next(self.clause_ids)
        front, used_roles = self.choose_fronted_adverbial(clause)
        return Phrase([*front, *self.linearize(clause, self.choose_frame(clause), used_roles), "."])

    def generate_question(self) -> Phrase:
        """`What did the chef give the guest in the kitchen?` One interrogative clause."""
        clause = next(self.clause_ids)
        frame, used_roles, front = self.choose_frame(clause), set[str](), list[str | Phrase]()
        if self.flip(0.25):
            frame.subject = _to_question_word(frame.subject)
            return Phrase([*self.linearize(clause, frame), "?"])
        candidates = [phrase for phrase in frame.complements if _role(phrase) != "ARG2" or phrase.preposition]
        if candidates and self.flip(0.5):
            questioned = self.rng.choice(candidates)
            frame.complements.remove(questioned)
            front = [_to_question_word(questioned)]
        elif self.flip(0.6):
            role, word = self.rng.choice((("ARGM-TMP", "when"), ("ARGM-LOC", "where"), ("ARGM-MNR", "how")))
            front, used_roles = [Phrase([word], [(clause, role)])], {role}
        auxiliaries = self.choose_auxiliaries(frame.is_passive) or ["did"]
        subject, first_auxiliary, *rest = self.linearize(clause, frame, used_roles, auxiliaries)
        return Phrase([*front, first_auxiliary, subject, *rest, "?"])

    def generate_reported_speech(self) -> Phrase:
        """`The judge announced that the chef had left.` The that-clause is ARG1."""
        outer, inner = next(self.clause_ids), next(self.clause_ids)
        front, used_roles = self.choose_fronted_adverbial(outer)
        that_clause = ["that", *self.linearize(inner, self.choose_frame(inner))]
        content = Phrase(that_clause, [(outer, "ARG1")], ends_in_clause=True)
        frame = Frame(self.choose_verb("reporting"), False, self.generate_person(outer, "ARG0"), [content])
        return Phrase([*front, *self.linearize(outer, frame, used_roles), "."])

    def generate_coordination(self) -> Phrase:
        """`The chef opened the door and sang.` Two verbs of one subject, or two full clauses."""
        first, second = next(self.clause_ids), next(self.clause_ids)
        if self.flip(0.4):
            conjunction = self.rng.choice((["and"], ["but"], [",", "and"], [",", "but"]))
            first_words = self.linearize(first, self.choose_frame(first))
            second_words = self.linearize(second, self.choose_frame(second))
            return Phrase([*first_words, *conjunction, *second_words, "."])
        frame = self.choose_agentive_frame(first)
        frame.subject.roles.append((second, "ARG0"))
        conjunction = self.rng.choice((["and"], ["but"], ["and", "then"]))
        first_words = self.linearize(first, frame)
        _, *second_words = self.linearize(second, self.choose_agentive_frame(second))
        return Phrase([*first_words, *conjunction, *second_words, "."])

    def generate_subordination(self) -> Phrase:
        """`After the guest left, the chef sang.` The subordinate clause is ARGM-TMP of the main clause."""
        main, subordinate = next(self.clause_ids), next(self.clause_ids)
        conjunction = self.rng.choice(("after", "before", "when", "while", "until"))
        subordinate_words = self.linearize(subordinate, self.choose_frame(subordinate))
        time = Phrase([conjunction, *subordinate_words], [(main, "ARGM-TMP")])
        main_words = self.linearize(main, self.choose_frame(main), {"ARGM-TMP"})
        return Phrase([time, ",", *main_words, "."] if self.flip(0.5) else [*main_words, time, "."])

    def generate_subject_control(self) -> Phrase:
        """`The chef tried to open the door.` The subject is ARG0 of both verbs, the infinitive ARG1 of the first."""
        outer, inner = next(self.clause_ids), next(self.clause_ids)
        front, used_roles = self.choose_fronted_adverbial(outer)
        inner_frame = self.choose_agentive_frame(inner)
        infinitive_words = self.linearize(inner, inner_frame, auxiliaries=["to"])[1:]
        infinitive = Phrase(infinitive_words, [(outer, "ARG1")], ends_in_clause=True)
        inner_frame.subject.roles.append((outer, "ARG0"))
        frame = Frame(self.choose_verb("subject_control"), False, inner_frame.subject, [infinitive])
        return Phrase([*front, *self.linearize(outer, frame, used_roles), "."])

    # Clauses.

    def linearize(
        self, clause: int, frame: Frame, used_roles: Set[str] = frozenset(), auxiliaries: list[str] | None = None
    ) -> list[str | Phrase]:
        """Order a frame: subject, auxiliaries, adverb, verb, complements, adverbials of roles not yet used."""
        auxiliaries = self.choose_auxiliaries(frame.is_passive) if auxiliaries is None else auxiliaries
        adverb = list[Phrase]()
        if not frame.subject.ends_in_clause and self.flip(0.25):
            role, words = self.rng.choice((("ARGM-TMP", lexicon.TIME_ADVERBS), ("ARGM-MNR", lexicon.MANNER_ADVERBS)))
            if role not in used_roles:
                adverb, used_roles = [Phrase([self.rng.choice(words)], [(clause, role)])], {*used_roles, role}
        verb = Phrase([_inflect_verb(frame, auxiliaries)], [(clause, VERB)])
        complements, adverbials = list(frame.complements), list[Phrase]()
        if not any(complement.ends_in_clause for complement in complements):
            adverbials = self.choose_final_adverbials(clause, used_roles)
        if adverbials and complements and complements[-1].preposition and self.flip(0.2):
            complements.insert(-1, adverbials.pop())
        return [frame.subject, *auxiliaries, *adverb, verb, *complements, *adverbials]

    def choose_frame(self, clause: int) -> Frame:
        """Choose a verb, its voice and its arguments."""
        categories = ("intransitive", "causative", "transitive_thing", "transitive_person", "ditransitive")
        category = self.rng.choices(categories, (3, 2, 4, 2, 5))[0]
        verb = self.choose_verb(category)
        if category == "intransitive":
            return Frame(verb, False, self.generate_person(clause, "ARG0"), [])
        if category == "ditransitive":
            return self.choose_ditransitive_frame(clause, verb)
        things = lexicon.CHANGEABLE_THINGS if category == "causative" else lexicon.OBJECTS
        if category == "causative" and self.flip(0.5):
            return Frame(verb, False, self.generate_thing(clause, "ARG1", things), [])
        is_passive = self.flip(0.4)
        generate_agent = self.generate_force if category == "causative" and self.flip(0.3) else self.generate_person
        by_phrase = self.choose_by_phrase(clause, generate_agent) if is_passive else []
        if category == "transitive_person":
            patient = self.generate_person(clause, "ARG1", is_subject=is_passive)
        else:
            patient = self.generate_thing(clause, "ARG1", things)
        if is_passive:
            return Frame(verb, True, patient, by_phrase)
        return Frame(verb, False, generate_agent(clause, "ARG0"), [patient])

    def choose_ditransitive_frame(self, clause: int, verb: Verb) -> Frame:
        """One of `gave the guest a key`, `gave a key to the guest`, and the passives of both."""
        recipient_last, is_passive = self.flip(0.5), self.flip(0.4)
        by_phrase = self.choose_by_phrase(clause, self.generate_person) if is_passive else []
        # Only the last complement may end in a clause, or what follows it would be read as part of that clause.
        first_relative, last_relative = is_passive, not by_phrase
        if recipient_last:
            theme = self.generate_thing(clause, "ARG1", allow_relative=first_relative)
            recipient = self.generate_person(clause, "ARG2", is_subject=False, allow_relative=last_relative)
            first, last = theme, _add_preposition("to", recipient)
        else:
            first = self.generate_person(clause, "ARG2", is_subject=is_passive, allow_relative=first_relative)
            last = self.generate_thing(clause, "ARG1", allow_relative=last_relative)
        if is_passive:
            return Frame(verb, True, first, [last, *by_phrase])
        return Frame(verb, False, self.generate_person(clause, "ARG0"), [first, last])

    def choose_agentive_frame(self, clause: int) -> Frame:
        """Choose an active frame whose subject is a person."""
        while True:
            frame = self.choose_frame(clause)
            if frame.subject.is_person and not frame.is_passive:
                return frame

    def choose_verb(self, category: str) -> Verb:
        """Choose a verb of a category of the lexicon."""
        return self.rng.choice(self.verbs[category])

    def choose_auxiliaries(self, is_passive: bool) -> list[str]:
        """Choose the auxiliaries of a verb; none for the simple past."""
        if is_passive:
            return self.rng.choice(["was", "was", "was", "is", "was not", "had been", "will be", "could be"]).split()
        return self.rng.choice(["", "", "", "", "", "had", "has", "will", "could", "must", "did not"]).split()

    def choose_by_phrase(self, clause: int, generate_agent: Callable[[int, str], Phrase]) -> list[Phrase]:
        """Choose the agent of a passive, or none."""
        return [_add_preposition("by", generate_agent(clause, "ARG0"))] if self.flip(0.6) else []

    # Adverbials.

    def choose_fronted_adverbial(self, clause: int) -> tuple[list[str | Phrase], set[str]]:
        """Choose an adverbial before the clause, or none; returns also the role that it uses."""
        if self.flip(0.7):
            return [], set()
        role = self.rng.choices(ADVERBIAL_ROLES, (3, 1, 1))[0]
        return [self.generate_adverbial(clause, role), *([","] if self.flip(0.6) else [])], {role}

    def choose_final_adverbials(self, clause: int, used_roles: Set[str]) -> list[Phrase]:
        """Choose the adverbials after the verb, in any order."""
        unused_roles = [role for role in ADVERBIAL_ROLES if role not in used_roles]
        count = self.rng.choices(range(4), (3, 4, 2.5, 0.5))[0]
        sample = self.rng.sample(unused_roles, min(count, len(unused_roles)))
        return [self.generate_adverbial(clause, role) for role in sample]

    def generate_adverbial(self, clause: int, role: str) -> Phrase:
        """Generate an adverbial of time, place or manner."""
        choice = self.rng.choice
        if role == "ARGM-TMP":
            event = f"{choice(lexicon.TIME_PREPOSITIONS)} the {choice(lexicon.EVENTS)}"
            words = event if self.flip(0.35) else choice(lexicon.TIME_ADVERBIALS)
        elif role == "ARGM-LOC":
            place = f"{choice(lexicon.PLACE_PREPOSITIONS)} the {choice(lexicon.PLACES)}"
            words = place if self.flip(0.7) else choice(lexicon.PLACE_ADVERBIALS)
        else:
            words = choice(lexicon.MANNER_ADVERBIALS if self.flip(0.6) else lexicon.MANNER_ADVERBS)
        return Phrase([*words.split()], [(clause, role)])

    # Noun phrases.

    def generate_person(
        self, clause: int, role: str, *, is_subject: bool = True, allow_relative: bool = True
    ) -> Phrase:
        """Generate a pronoun, a name, or a noun, which may have a relative clause."""
        if self.flip(0.12):
            pronoun = self.rng.choice(("he", "she") if is_subject else ("him", "her"))
            return Phrase([pronoun], [(clause, role)], is_person=True)
        if self.flip(0.25):
            return Phrase([self.rng.choice(lexicon.NAMES)], [(clause, role)], is_person=True)
        noun = self.generate_noun(lexicon.PERSONS, lexicon.PERSON_ADJECTIVES, lexicon.PERSON_MODIFIERS)
        noun.is_person = True
        return self.assign_role(noun, clause, role, allow_relative)

    def generate_thing(
        self, clause: int, role: str, nouns: tuple[str, ...] = lexicon.THINGS, *, allow_relative: bool = True
    ) -> Phrase:
        """Generate a noun for a thing, which may have a relative clause."""
        noun = self.generate_noun(nouns, lexicon.THING_ADJECTIVES, lexicon.THING_MODIFIERS)
        return self.assign_role(noun, clause, role, allow_relative)

    def generate_force(self, clause: int, role: str) -> Phrase:
        """Generate an inanimate cause."""
        return Phrase(["the", self.rng.choice(lexicon.FORCES)], [(clause, role)])

    def generate_noun(self, nouns: tuple[str, ...], adjectives: tuple[str, ...], modifiers: tuple[str, ...]) -> Phrase:
        """Generate a noun with an article, and possibly an adjective and a modifier that looks like an adverbial."""
        words = [*([self.rng.choice(adjectives)] if self.flip(0.3) else []), self.rng.choice(nouns)]
        article = self.rng.choice(("the", "the", "the", "a", "this", "her", "his", "every"))
        modifier = self.rng.choice(modifiers).split() if self.flip(0.15) else []
        return Phrase(["an" if article == "a" and words[0][0] in "aeiou" else article, *words, *modifier])

    def assign_role(self, head: Phrase, clause: int, role: str, allow_relative: bool) -> Phrase:
        """Assign the noun its role, and possibly add a relative clause in which it has another."""
        if not allow_relative or not self.relative_clauses_allowed or self.flip(0.85):
            return Phrase([head], [(clause, role)], is_person=head.is_person)
        self.relative_clauses_allowed = False
        inner = next(self.clause_ids)
        while True:
            frame = self.choose_frame(inner)
            objects = [c for c in frame.complements if _role(c) == "ARG1" and c.is_person == head.is_person]
            if objects and self.flip(0.5):
                head.roles.append((inner, "ARG1"))
                frame.complements.remove(objects[0])
                words = self.linearize(inner, frame)
                break
            if frame.subject.is_person == head.is_person:
                head.roles.append((inner, _role(frame.subject)))
                words = self.linearize(inner, frame)[1:]
                break
        self.relative_clauses_allowed = True
        pronoun = self.rng.choice(("who", "that") if head.is_person else ("which", "that"))
        return Phrase([head, pronoun, *words], [(clause, role)], is_person=head.is_person, ends_in_clause=True)


def _role(phrase: Phrase) -> str:
    return phrase.roles[0][1]


def _add_preposition(preposition: str, phrase: Phrase) -> Phrase:
    """Prepend `to` or `by` to a phrase; its role includes the preposition."""
    return Phrase(
        [preposition, *phrase.children],
        phrase.roles,
        is_person=phrase.is_person,
        ends_in_clause=phrase.ends_in_clause,
        preposition=preposition,
    )


def _to_question_word(phrase: Phrase) -> Phrase:
    """Replace a phrase by `who`, `what`, `to whom`, ..."""
    if phrase.preposition:
        return Phrase([phrase.preposition, "whom" if phrase.is_person else "what"], phrase.roles)
    return Phrase(["who" if phrase.is_person else "what"], phrase.roles)


def _inflect_verb(frame: Frame, auxiliaries: list[str]) -> str:
    """Choose the verb's form by its auxiliaries."""
    if frame.is_passive or auxiliaries in (["had"], ["has"]):
        return frame.verb.participle
    return frame.verb.base if auxiliaries else frame.verb.past
