"""Find the mentions of one sentence and decide the state of each from the triggers that reach it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from .labels import LABELS, NEGATIVE, POSITIVE, UNCERTAIN
from .rules import AGAIN, OTHER, Ending, MentionRule, Rules, Trigger
from .tokens import tokenize

_LISTING = frozenset(("or", "nor", "and/or", "/"))
_ALTERNATIVE = frozenset(("or", "and/or"))
_ALWAYS_ENDS = frozenset(";:-")
_PARTS = frozenset((",", ";", "-", "and", "but", "with"))
_CLAUSES = frozenset((",", "and", "but", "while", "whereas"))
_DENIALS = frozenset(("no", "not", "without", "nor", "neither", "never"))
# "No kinking of the catheter": what a preposition and an article lead to is there, whatever is denied of it.
_PREPOSITIONS = frozenset("of in within along around at to on from by inside through".split())
_DEFINITE = frozenset("the this that these those known preexisting existing".split())
_SIDES = frozenset(("left", "right"))
_PLACES = frozenset("in at ends end terminates tip tips with overlies projects courses enters lies above below".split())
_SENTENCE_END = "$"
_NO_FINDING, _DEVICES = LABELS.index("No Finding"), LABELS.index("Support Devices")
_OPACITY = LABELS.index("Lung Opacity")
# How many words may stand between a finding and the "or" that makes it an alternative.
_NEAR = 5
# "Edema, which was moderate yesterday, is gone": what these begin between commas is set aside, as brackets are.
_ASIDES = frozenset(
    "which previously formerly initially clinically seen noted described present evident when last as once if".split()
)
_SUBJECTS = ("heart", "cardiac", "lung", "mediastin", "cardiomediastin", "bases", "base")
_PREDICATES = frozenset(
    "enlarged large larger big bigger widened wide wider broad broadened prominent dilated borderline increased"
    " globular bulky normal size limits clear".split()
)


class Found(NamedTuple):
    """One mention in a sentence: character span in the sentence, state, and what decided the state."""

    label: int
    state: int
    start: int
    end: int
    rule: str
    trigger: str


# A phrase of the rules in a sentence: first word, word after the last, words skipped by gaps, and what it is.
Match = tuple[int, int, int, MentionRule | Trigger | Ending]


def _longest(found: list[Match]) -> list[Match]:
    """Matches left when longer ones take precedence over shorter ones that they overlap, in order of place."""
    if len(found) < 2:
        return found
    kept: list[Match] = []
    for match in sorted(found, key=lambda m: (-(m[1] - m[0] - m[2]), m[2], m[0])):
        if all(match[1] <= other[0] or match[0] >= other[1] or match[:2] == other[:2] for other in kept):
            kept.append(match)
    return sorted(kept, key=lambda m: m[0])


def _nearest(found: list[Match]) -> list[Match]:
    """Mentions of one label: of overlapping ones the one with fewest words skipped, then the longest."""
    if len(found) == 1:
        return found
    kept: list[Match] = []
    for match in sorted(found, key=lambda m: (m[2], -(m[1] - m[0]), m[0])):
        if all(match[1] <= other[0] or match[0] >= other[1] for other in kept):
            kept.append(match)
    return sorted(kept, key=lambda m: m[0])


def _overlap(one: Match, other: Match) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _shown(found: list[Match]) -> list[Match]:
    """Mentions of one label that no longer phrase ("unless") hides."""
    hiding = [m for m in found if m[3].state is None]
    if not hiding:
        return _nearest(found)
    still = [m for m in found if m[3].name == "still"]
    hiding = [h for h in hiding if not any(_overlap(h, s) for s in still)]
    return _nearest([m for m in found if m[3].state is not None and not any(_overlap(h, m) for h in hiding)])


def _is_no_new_clause(token: str) -> bool:
    return token not in _CLAUSES and token not in _ALWAYS_ENDS


class _Sentence:
    """The words of one sentence, what the rules find in it, and how far triggers reach."""

    def __init__(self, tokens: list[str], rules: Rules) -> None:
        self.tokens, self.rules = tokens, rules
        by_label: dict[int, list[Match]] = {}
        signals: list[Match] = []
        for match in rules.trie.find([*tokens, _SENTENCE_END]):
            kind = match[3]
            if type(kind) is MentionRule:
                if kind.label in by_label:
                    by_label[kind.label].append(match)
                else:
                    by_label[kind.label] = [match]
            else:
                signals.append(match)
        self.mentions = {label: _shown(found) for label, found in by_label.items()}
        self.again = self.mentions.pop(AGAIN, [])
        self.all = sorted((m for found in self.mentions.values() for m in found), key=lambda m: m[:2])
        if not self.all:
            return
        self.triggers: list[Match] = []
        self.endings: list[Match] = []
        for signal in _longest([signal for signal in signals if self._is_answer_or_more(signal)]):
            kind = signal[3]
            if type(kind) is Trigger:
                self.triggers.append(signal)
            elif kind.forward or kind.backward:
                self.endings.append(signal)
        self.hedges = [t for t in self.triggers if t[3].state == UNCERTAIN and t[3].forward and not t[3].backward]
        self.brackets = dict(self._pairs()) if "(" in tokens or "," in tokens else {}

    def _is_answer_or_more(self, signal: Match) -> bool:
        """False for an answer ("no," of "effusion no, edema yes") that follows no mention."""
        first, _, _, kind = signal
        if not isinstance(kind, Trigger) or kind.forward or kind.scope > 1:
            return True
        return any(first - kind.scope <= m[1] <= first for m in self.all)

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """First and last place of what stands in brackets, or between commas as an aside."""
        tokens, opened = self.tokens, -1
        for at, token in enumerate(tokens):
            if token == "(":
                opened = at
            elif token == ")" and opened >= 0:
                yield opened, at
                opened = -1
            elif token == "," and tokens[at + 1 : at + 2] and tokens[at + 1] in _ASIDES and "," in tokens[at + 1 :]:
                yield at, tokens.index(",", at + 1)

    def _outside(self, start: int, end: int) -> Iterator[int]:
        """Places in a range but for what stands in brackets that open and close there."""
        at = start
        while at < end:
            closed = self.brackets.get(at, end)
            if closed < end:
                at = closed
            else:
                yield at
            at += 1

    def decide(self, mention: Match, since: int = 0) -> tuple[int, str] | None:
        """State of a mention and the trigger behind it; None where the sentence says nothing of today's image.

        Triggers before the word `since` are not looked at.
        """
        rule: MentionRule = mention[3]
        if rule.label == _NO_FINDING or rule.state == NEGATIVE:
            return rule.state, ""
        best = None
        for trigger in self.triggers:
            kind = trigger[3]
            if (best is None or best.priority < kind.priority) and trigger[0] >= since:
                if self._reaches(trigger, mention):
                    best = kind
        if best is None:
            return rule.state, ""
        return None if best.state is None else (best.state, best.name)

    def _reaches(self, trigger: Match, mention: Match) -> bool:
        first, last, skipped, kind = trigger
        if kind.forward and last <= mention[0]:
            return self._reaches_forward(last, kind, mention)
        if kind.backward and first >= mention[1]:
            return self._reaches_backward(trigger, mention)
        # "If pneumonia is suspected": a condition holds what it is about.
        return bool(skipped) and kind.state is None and first < mention[0] and mention[1] < last

    def _reaches_forward(self, start: int, kind: Trigger, mention: Match) -> bool:
        if self.tokens[start] in (",", ")"):
            # "Effusion absent, edema mild", but "in the right clinical setting, this is ...", and "no XXXX, edema".
            if self.tokens[start] == ")" or (kind.state == NEGATIVE and self.tokens[start - 1] not in _DENIALS):
                return False
            start += kind.state != NEGATIVE
        if kind.nearest and any(start <= m[0] and m[1] <= mention[0] for m in self.all):
            return False
        if mention[0] - start > kind.scope or self._new_statement(start, mention, kind.state == NEGATIVE):
            return False
        if kind.state == NEGATIVE and self._presupposed(start, mention):
            return False
        return not self._ended(start, mention[0], forward=True)

    def _reaches_backward(self, trigger: Match, mention: Match) -> bool:
        first, last, _, kind = trigger
        start, tokens = mention[1], self.tokens
        if first - start > kind.scope or self._list_left(start, first):
            return False
        if kind.nearest and any(start <= m[0] and m[1] <= first for m in self.all):
            return False
        if kind.state == NEGATIVE and self._is_other_side(mention, first, last):
            return False
        # "Consolidation is gone, effusion is not": what is left out is a denial itself.
        said = [token for token in tokens[first:last] if token not in (",", ";")]
        if said[-1:] == ["not"] and kind.state == NEGATIVE and self._is_denied_before(mention):
            return False
        # "Likely atelectasis, less likely pneumonia": behind a comma these words speak of what follows.
        if tokens[first - 1] == "," and last < len(tokens) and any(h[:2] == (first, last) for h in self.hedges):
            return False
        # "Opacity could reflect pneumonia, which is not excluded": the nearer hedge keeps the opacity out of it.
        # A hedge right before the trigger ("would be difficult to exclude") belongs to it.
        if kind.state == UNCERTAIN and any(start <= h[0] and h[1] < first for h in self.hedges):
            return False
        return not self._ended(start, first, forward=False)

    def _is_other_side(self, mention: Match, first: int, last: int) -> bool:
        """Whether a denial behind a mention is of the other side: "opacity on the right, not seen on the left"."""
        # "The right effusion has resolved; left lung is clear" speaks of the other side in a clause of its own.
        before = list(takewhile(_is_no_new_clause, reversed(self.tokens[max(0, mention[0] - 3) : mention[0]])))
        own = _SIDES.intersection(before + self.tokens[mention[0] : first])
        denied = _SIDES.intersection(takewhile(_is_no_new_clause, self.tokens[last : last + 3]))
        return bool(own and denied) and not own & denied

    def _is_denied_before(self, mention: Match) -> bool:
        return any(t[3].state == NEGATIVE and t[3].backward and t[1] <= mention[0] for t in self.triggers)

    def _new_statement(self, start: int, mention: Match, denied: bool) -> bool:
        """Whether a list that a trigger governs is left between the trigger, which ends at `start`, and `mention`."""
        tokens, rules, end = self.tokens, self.rules, mention[0]
        verb = False
        has_course = any(word in rules.course for word in self._predicate(mention[1]))
        for at in self._outside(start, end):
            token = tokens[at]
            if token in rules.verbs:
                verb = True
            elif token == "," or token == "and" or token == "(":
                if verb and not _LISTING.intersection(tokens[at + 1 : at + 3]):
                    return True
                if self._listed(at):
                    continue
                if has_course or any(word in rules.assertive or word in rules.verbs for word in tokens[at + 1 : end]):
                    return True
                if denied and self._is_placed(start, at, mention):
                    return True
        return denied and self._follows_statement(start, mention)

    def _listed(self, at: int) -> bool:
        """Whether an "or" still follows in the clause behind the comma at `at`: the list goes on until there."""
        for word in self.tokens[at + 1 : at + 14]:
            if word in self.rules.verbs or word in _ALWAYS_ENDS:
                return False
            if word in _LISTING:
                return True
        return False

    def _predicate(self, start: int) -> list[str]:
        """What is said of the mention that ends at `start`: its verb, if any, and one word more."""
        stop = start
        while self.tokens[stop : stop + 1] and self.tokens[stop] in self.rules.verbs:
            stop += 1
        return self.tokens[start : stop + 1]

    def _is_placed(self, start: int, at: int, mention: Match) -> bool:
        """Whether the mention behind a comma or "and" has a place: "no pneumothorax, ETT in the trachea"."""
        behind = self.tokens[mention[1] : mention[1] + 3]
        if mention[3].label == _DEVICES:
            # "No lines, tubes": a list of devices is one.
            listed = any(start <= m[0] < at for m in self.mentions[_DEVICES])
            return not listed and (self.tokens[at] != "and" or bool(_PLACES.intersection(behind[:1])))
        return self.tokens[at] != "and" and behind[:1] in (["on"], ["at"], ["in"]) and bool(_SIDES.intersection(behind))

    def _follows_statement(self, start: int, mention: Match) -> bool:
        """Without marks between them: "no effusion heart enlarged", "no edema lungs clear small nodule"."""
        between = [m for m in self.all if start <= m[0] and m[1] <= mention[0]]
        if not between:
            return False
        behind = self.tokens[mention[1] : mention[1] + 1]
        if mention[3].label == _DEVICES and between[-1][3].label != _DEVICES and _PLACES.intersection(behind):
            return not _LISTING.intersection(self.tokens[between[-1][1] : mention[0]])
        if self._is_statement(mention) or any(self._is_statement(m) for m in between):
            return True
        at = between[-1][1]
        said = self._predicate(mention[1])[-1:]
        if said and said[0] in self.rules.course and said[0] not in self.rules.verbs and not self._listed(at):
            return True
        return at < mention[0] and self.tokens[at] in self.rules.assertive and not self._listed(at)

    def _is_statement(self, mention: Match) -> bool:
        """Whether a mention has its subject and what is said of it: "heart is enlarged", "lungs clear"."""
        first, last = self.tokens[mention[0]], self.tokens[mention[1] - 1]
        return mention[1] - mention[0] > 1 and first.startswith(_SUBJECTS) and last in _PREDICATES

    def _presupposed(self, start: int, mention: Match) -> bool:
        """Whether something else is denied of the mention: "no kinking of the catheter"."""
        tokens = self.tokens
        for at in range(mention[0] - 1, max(start, mention[0] - 5) - 1, -1):
            if tokens[at] in _DEFINITE and at - 1 > start and tokens[at - 1] in _PREPOSITIONS:
                return not any(start <= m[0] < at and m[3].label != OTHER for m in self.all)
            if tokens[at] in _PARTS or tokens[at] in _LISTING:
                break
        return False

    def _list_left(self, start: int, end: int) -> bool:
        """Whether a comma between mention and trigger, `start` to `end`, parts clauses rather than list members."""
        tokens = self.tokens
        for at in self._outside(start, end):
            if tokens[at] == "," and at < end - 1 and not any(t in _LISTING or t == "and" for t in tokens[at:end]):
                return True
            if tokens[at] in ("and", ",") and any(t in self.rules.verbs for t in tokens[start:at]):
                # "... has been drained and is gone" goes on about it.
                return tokens[at] == "," or at < end - 1
        return False

    def _ended(self, start: int, end: int, forward: bool) -> bool:
        # "Effusion: none." answers the mention before the colon.
        stop = end - 1 if not forward and end > start and self.tokens[end - 1] in ":-" else end
        if not self.brackets:
            if any(token in _ALWAYS_ENDS for token in self.tokens[start:stop]):
                return True
            places = range(start, end)
        else:
            places = set(self._outside(start, end))
            if any(self.tokens[at] in _ALWAYS_ENDS for at in places if at < stop):
                return True
        return any(
            first in places and last <= end and (kind.forward if forward else kind.backward)
            for first, last, _, kind in self.endings
        )

    def alternatives(self, decided: dict[Match, tuple[int, str]]) -> set[Match]:
        """Mentions that an "or" leaves open: of "atelectasis or pneumonia" each may be there."""
        certain = [m for m, (state, trigger) in decided.items() if state == POSITIVE and not trigger]
        certain = [m for m in certain if m[3].label not in (_NO_FINDING, _DEVICES)]
        found: set[Match] = set()
        for at, token in enumerate(self.tokens):
            if token not in _ALTERNATIVE or self._is_denied_list(at):
                continue
            before = self._beside(certain, at, before=True)
            after = self._beside(certain, at, before=False)
            if before and after and {m[3].label for m in before} != {m[3].label for m in after}:
                found.update(before, after, self._listed_before(certain, min(m[0] for m in before)))
        return found

    def _is_denied_list(self, at: int) -> bool:
        """Whether a denial stands before the word at `at` in its part of the sentence: "no change in edema or ..."."""
        for place in range(at - 1, -1, -1):
            if self.tokens[place] in _ALWAYS_ENDS or self.tokens[place] == "but":
                return False
            if self.tokens[place] in _DENIALS:
                return True
        return False

    def _beside(self, mentions: list[Match], at: int, before: bool) -> list[Match]:
        """The nearest mentions before or after the word at `at`, as far as the clause and `_NEAR` words go."""
        if before:
            reached = [m for m in mentions if at - _NEAR <= m[1] <= at and self._is_joined(m[1], at)]
            return [m for m in reached if m[1] == max(r[1] for r in reached)]
        reached = [m for m in mentions if at < m[0] <= at + _NEAR and self._is_joined(at + 1, m[0])]
        return [m for m in reached if m[0] == min(r[0] for r in reached)]

    def _is_joined(self, start: int, end: int) -> bool:
        words = self.tokens[start:end]
        if words[-1:] == [","]:
            words = words[:-1]
        return not any(w in _PARTS or w in _ALWAYS_ENDS or w in self.rules.verbs or w in _DENIALS for w in words)

    def _listed_before(self, mentions: list[Match], first: int) -> set[Match]:
        """ "Edema, pneumonia or atelectasis" leaves the edema open, too; an opacity is what the others explain."""
        found: set[Match] = set()
        while True:
            commas = [at for at in range(max(0, first - _NEAR), first) if self.tokens[at] == ","]
            if not commas or not self._is_joined(commas[-1] + 1, first):
                return found
            listed = [m for m in self._beside(mentions, commas[-1], before=True) if m[3].label != _OPACITY]
            if not listed or self._is_joined(listed[0][1], commas[-1]) is False:
                return found
            found.update(listed)
            first = min(m[0] for m in listed)

    def spoken_again(self) -> Iterator[tuple[Match, list[Match]]]:
        """Words such as "a small one on the right", each with the mentions that it takes up."""
        for words in self.again:
            stated = words[3].state == POSITIVE
            if any(_overlap(words, m) for m in self.all + (self.triggers if stated else [])):
                continue
            before = [m for m in self.all if m[1] <= words[0] and m[3].label not in (_NO_FINDING, OTHER)]
            if not before:
                continue
            last = max(m[1] for m in before)
            if _PARTS.intersection(self.tokens[last : words[0] + 1]):
                yield words, [m for m in before if m[1] == last]

    def clause_start(self, at: int) -> int:
        """Where the clause begins that the word at `at` stands in."""
        return max((k + 1 for k in range(at) if self.tokens[k] in (",", ";", "but", "and", "-")), default=0)


def match_sentence(sentence: str, rules: Rules) -> tuple[Found, ...]:
    """All mentions of one sentence with their states, in order of place.

    Args:
        sentence (`str`): one sentence of a report, in any case.
        rules (`Rules`): from [`load_rules`].
    """
    tokens, spans = tokenize(sentence, rules.spelling)
    if not tokens:
        return ()
    read = _Sentence(tokens, rules)
    if not read.all:
        return ()
    decided = {mention: state for mention in read.all if (state := read.decide(mention)) is not None}
    if not _ALTERNATIVE.isdisjoint(tokens):
        decided.update(dict.fromkeys(read.alternatives(decided), (UNCERTAIN, "or")))
    result = [_found(mention, mention[3].label, state, spans) for mention, state in decided.items()]
    for words, taken_up in read.spoken_again() if read.again else ():
        state = read.decide(words, since=read.clause_start(words[0]))
        if state is not None:
            result.extend(_found(words, label, state, spans) for label in {m[3].label for m in taken_up})
    return tuple(sorted(result, key=lambda f: (f.start, f.end, f.label)))


def _found(mention: Match, label: int, state: tuple[int, str], spans: list[tuple[int, int]]) -> Found:
    return Found(
        label, state[0], spans[mention[0]][0], spans[min(mention[1], len(spans)) - 1][1], mention[3].name, state[1]
    )
