"""Find the mentions of one sentence and decide the state of each from the triggers that reach it."""

from __future__ import annotations

from typing import NamedTuple

from .labels import LABELS, NEGATIVE, UNCERTAIN
from .phrases import TOKEN
from .rules import Ending, MentionRule, Rules, Trigger

_LISTING = frozenset(("or", "nor", "and/or", "/"))
_VERBS = frozenset("is are was were has have seen identified noted visualized demonstrated appreciated present".split())
_ALWAYS_ENDS = frozenset(";:-")
_SENTENCE_END = "$"
_NO_FINDING = LABELS.index("No Finding")


class Found(NamedTuple):
    """One mention in a sentence: character span in the sentence, state, and what decided the state."""

    label: int
    state: int
    start: int
    end: int
    rule: str
    trigger: str


def tokenize(sentence: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Lower-case words and marks of `sentence` with their character spans; masks such as XXXX are left out."""
    lowered = sentence.lower()
    if len(lowered) != len(sentence):
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in sentence)
    tokens, spans = [], []
    for match in TOKEN.finditer(lowered):
        if match.lastgroup == "mask":
            continue
        word = match.group()
        tokens.append("-" if word[0] == "-" else word.replace("’", "'"))
        spans.append(match.span())
    return tokens, spans


def _longest(found: list[tuple]) -> list[tuple]:
    """Matches left when longer ones take precedence over shorter ones that they overlap, in order of place."""
    kept: list[tuple] = []
    for match in sorted(found, key=lambda m: (-(m[1] - m[0] - m[2]), m[2], m[0])):
        if all(match[1] <= other[0] or match[0] >= other[1] or match[:2] == other[:2] for other in kept):
            kept.append(match)
    return sorted(kept, key=lambda m: m[0])


def _nearest(found: list[tuple]) -> list[tuple]:
    """Mentions of one label: of overlapping ones the one with fewest words skipped, then the longest."""
    kept: list[tuple] = []
    for match in sorted(found, key=lambda m: (m[2], -(m[1] - m[0]), m[0])):
        if all(match[1] <= other[0] or match[0] >= other[1] for other in kept):
            kept.append(match)
    return sorted(kept, key=lambda m: m[0])


def _new_statement(tokens: list[str], start: int, mention: tuple, rules: Rules) -> bool:
    """Whether a list that a trigger governs is left between the trigger, which ends at `start`, and `mention`."""
    verb, end = False, mention[0]
    has_course = any(word in rules.course for word in _predicate(tokens, mention[1]))
    for at in range(start, end):
        token = tokens[at]
        if token in _VERBS:
            verb = True
        elif token == "," or token == "and" or token == "(":
            rest = tokens[at + 1 : at + 14]
            if verb and not _LISTING.intersection(tokens[at + 1 : at + 3]):
                return True
            listed = any(word in _LISTING for word in rest[: _clause(rest)])
            if listed:
                continue
            if has_course or any(word in rules.assertive or word in _VERBS for word in tokens[at + 1 : end]):
                return True
    return False


def _predicate(tokens: list[str], start: int) -> list[str]:
    """What is said of the mention that ends at `start`: its verb, if any, and one word more."""
    stop = start
    while tokens[stop : stop + 1] and tokens[stop] in _VERBS:
        stop += 1
    return tokens[start : stop + 1]


def _clause(words: list[str]) -> int:
    for at, word in enumerate(words):
        if word in _VERBS or word in _ALWAYS_ENDS:
            return at
    return len(words)


def _reaches(
    trigger: tuple, mention: tuple, endings: list[tuple], hedges: list[tuple], tokens: list[str], rules: Rules
) -> bool:
    first, last, _, kind = trigger
    if kind.forward and last <= mention[0]:
        if kind.state != NEGATIVE and tokens[last] == ",":
            # "In the right clinical setting, this is ...": the comma belongs to the trigger.
            last += 1
        between = (last, mention[0])
        if between[1] - between[0] > kind.scope or _new_statement(tokens, last, mention, rules):
            return False
        return not _ended(endings, tokens, *between, forward=True)
    if kind.backward and first >= mention[1]:
        between = (mention[1], first)
        if between[1] - between[0] > kind.scope or _list_left(tokens, *between):
            return False
        # "Likely atelectasis, less likely pneumonia": behind a comma these words speak of what follows.
        if tokens[first - 1] == "," and last < len(tokens) and any(h[:2] == (first, last) for h in hedges):
            return False
        # "Opacity could reflect pneumonia, which is not excluded": the nearer hedge keeps the opacity out of it.
        # A hedge right before the trigger ("would be difficult to exclude") belongs to it.
        if kind.state == UNCERTAIN and any(between[0] <= h[0] and h[1] < between[1] for h in hedges):
            return False
        return not _ended(endings, tokens, *between, forward=False)
    return False


def _list_left(tokens: list[str], start: int, end: int) -> bool:
    """Whether a comma in `tokens[start:end]` (mention first, trigger after) parts clauses rather than list members."""
    for at in range(start, end):
        if tokens[at] == "," and at < end - 1 and not any(t in _LISTING or t == "and" for t in tokens[at:end]):
            return True
        if tokens[at] in ("and", ",") and any(t in _VERBS for t in tokens[start:at]):
            return True
    return False


def _ended(endings: list[tuple], tokens: list[str], start: int, end: int, forward: bool) -> bool:
    # "Effusion: none." answers the mention before the colon.
    stop = end - 1 if not forward and end > start and tokens[end - 1] == ":" else end
    if any(tokens[at] in _ALWAYS_ENDS for at in range(start, stop)):
        return True
    for first, last, _, kind in endings:
        if first >= start and last <= end and (kind.forward if forward else kind.backward):
            return True
    return False


def match_sentence(sentence: str, rules: Rules) -> tuple[Found, ...]:
    """All mentions of one sentence with their states, in order of place.

    Args:
        sentence (`str`): one sentence of a report, in any case.
        rules (`Rules`): from [`load_rules`].
    """
    tokens, spans = tokenize(sentence)
    if not tokens:
        return ()
    mentions: dict[int, list[tuple]] = {}
    signals: list[tuple] = []
    for match in rules.trie.find([*tokens, _SENTENCE_END]):
        kind = match[3]
        if isinstance(kind, MentionRule):
            mentions.setdefault(kind.label, []).append(match)
        else:
            signals.append(match)
    if not mentions:
        return ()
    signals = _longest(signals)
    triggers = [s for s in signals if isinstance(s[3], Trigger)]
    endings = [s for s in signals if isinstance(s[3], Ending) and (s[3].forward or s[3].backward)]
    result: list[Found] = []
    for label, found in mentions.items():
        hidden = [m for m in found if m[3].state is None]
        shown = [m for m in found if m[3].state is not None and not any(h[0] < m[1] and m[0] < h[1] for h in hidden)]
        for mention in _nearest(shown):
            decided = _decide(mention, triggers, endings, tokens, rules)
            if decided is not None:
                state, name = decided
                start, end = spans[mention[0]][0], spans[mention[1] - 1][1]
                result.append(Found(label, state, start, end, mention[3].name, name))
    return tuple(sorted(result, key=lambda f: (f.start, f.end, f.label)))


def _decide(mention, triggers, endings, tokens, rules) -> tuple[int, str] | None:
    rule: MentionRule = mention[3]
    if rule.label == _NO_FINDING or rule.state == NEGATIVE:
        return rule.state, ""
    best = None
    hedges = [t for t in triggers if t[3].state == UNCERTAIN and t[3].forward and not t[3].backward]
    for trigger in triggers:
        kind = trigger[3]
        if best is not None and best.priority >= kind.priority:
            continue
        if _reaches(trigger, mention, endings, hedges, tokens, rules):
            best = kind
    if best is None:
        return rule.state, ""
    if best.state is None:
        return None
    return best.state, best.name
