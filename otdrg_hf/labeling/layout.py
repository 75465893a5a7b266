"""Where sentences end without a full stop: with a line, before a list number, where a capital begins anew."""

import re
from collections.abc import Iterator

_EMPTY = re.compile(r"[ \t\r]*\n")
_BULLET = re.compile(
    r"[ \t]*(?:[-*•–>+]|\((?:\d{1,2}|[a-hA-H]|[ivxIVX]{1,4})\)|(?:\d{1,2}|[a-hA-H]|[ivxIVX]{1,4})[.):])"
    r"[ \t]?(?=\S)"
)
_FORM_ROW = re.compile(r"[ \t]*[A-Za-z][\w /-]{0,40}?(?:[ \t]*[:=|]|[ \t][-–][ \t])")
_GOES_ON_WITH_NO = re.compile(r"[.,;]|[ \t]+longer|\s*$")
_LETTERS = re.compile(r"[A-Za-z]+")
_WORD_AFTER_SPACE = re.compile(r" +([A-Za-z]+)")
NEXT_WORD = re.compile(r"[\W_]*?([A-Za-z]+)")
_CAPITAL = re.compile(r"[a-z)] +[A-Z][a-z]")
# Numbers, letters and bullets of lists, also where they are glued to a sentence.
_HAS_MARKERS = re.compile(r"[)#•▪►·*]|\d[./]| \d{1,2} [-–]")
_MARKER = re.compile(
    r"(?<=[\s.])\(?(?:\d{1,2}|[a-h]|i{1,3}|iv|vi{0,3}|ix|x)\)(?=\s?[A-Za-z])|(?<=[a-z])\(\d{1,2}\)(?=\s?[A-Z])"
    r"|(?<=\s)#(?=\d)|(?<=[\s.;])\d{1,2}(?=/\s|\.[A-Za-z]{2}|\s[-–]\s[A-Z])|(?<=[a-z]{3})\d{1,2}(?=\.[A-Z])"
    r"|(?<=\s)\*(?=\s)|[•▪►·]"
)
_LONGEST_WORD = 30

# A line that ends with one of the first goes on, as does one before a line that begins with one of the second.
_OPEN = frozenset(
    "a an the no not without with and or nor of in on at to for from by is are was were be been being has have"
    " had there this that these those which who as than if may might could can would should cannot neither either"
    " both all any some each more less most very left right bilateral bibasilar basilar basal upper lower middle"
    " mid small tiny trace mild moderate large severe minimal slight subtle focal acute chronic new old stable"
    " possible probable likely pleural pulmonary lung lobar cardiac mediastinal hilar central venous interstitial"
    " airspace air rib evidence sign signs suggest suggests consistent compatible concerning suspicious due"
    " secondary related interval increased decreased persistent residual significant definite discrete overt"
    " patchy hazy vague between within into over under above below near through after before since until during"
    " per via versus vs show shows demonstrate demonstrates reveal reveals represent represents reflect reflects"
    " mildly moderately severely slightly markedly minimally remain remains appear appears its their his her our"
    " your endotracheal nasogastric et ng chest port subclavian jugular internal external single dual dr mr mrs ms"
    " previous prior last first second third one two three overlying underlying adjacent".split()
)
_GOES_ON = frozenset(
    "of in on at to for from by with without within and or nor but which that who whose is are was were be been"
    " being has have had may might could can would should cannot not than as versus vs then seen noted identified"
    " present visualized demonstrated appreciated suggesting consistent compatible likely possibly probably"
    " representing reflecting although though however while whereas due secondary since following after before"
    " until during along projecting overlying measuring obscuring involving extending except if concerning"
    " suspicious worrisome per via between above below".split()
)
# Without a capital or a full stop, a line ends a sentence where it ends with one of the first and the next line begins
# with one of the second.
_ENDS = frozenset(
    "effusion effusions pneumothorax pneumothoraces ptx edema oedema consolidation consolidations pneumonia pna"
    " atelectasis opacity opacities nodule nodules mass masses lesion lesions fracture fractures cardiomegaly"
    " infiltrate infiltrates thickening scarring congestion failure chf emphysema hernia granuloma disease process"
    " abnormality abnormalities change changes finding findings lungs base bases apex apices lobe lobes side sides"
    " hemithorax svc ra rv atrium stomach carina diaphragm place position junction tube line catheter picc"
    " pacemaker wires clear normal enlarged unchanged stable seen identified noted present intact improved"
    " resolved persists absent none nil bilaterally size limits unremarkable widened left right yes no worse"
    " better larger smaller expanded inflated ribs clavicle spine".split()
)
_BEGINS = frozenset(
    "no the there heart lungs lung cardiac cardiomediastinal mediastinum mediastinal hila hilar trachea aorta"
    " bones ribs osseous costophrenic small tiny trace mild moderate large severe minimal stable unchanged new old"
    " left right bilateral bibasilar interval increased decreased improved worsening persistent residual ett picc"
    " ngt ogt et ng endotracheal nasogastric enteric feeding tracheostomy trach lines tubes support pacemaker"
    " sternotomy median low possible probable questionable patchy hazy streaky multiple several clear normal".split()
)
_BEGINS_INSIDE = _BEGINS | frozenset(
    "pleural effusion effusions pneumothorax pneumonia edema atelectasis consolidation opacity opacities nodule"
    " mass fracture cardiomegaly it visualized".split()
)
_ORGANS = re.compile(
    r"\b(?:heart|lungs?|cardiac|silhouette|\w*mediastin\w+|bases?|angles?|bones|vessels)\b", re.IGNORECASE
)
_NOUNS_LATER = frozenset(
    "heart lung lungs cardiac cardiomediastinal mediastinum mediastinal hila hilar bones costophrenic".split()
)
_SIDED = frozenset("lung hilar costophrenic cardiac".split())
_COURSES = frozenset("stable unchanged increased decreased improved worsening clear normal".split())


def line_ends(text: str, at: int) -> bool:
    """Whether a sentence ends with the line that ends at `at`."""
    if _EMPTY.match(text, at + 1) or _BULLET.match(text, at + 1) or _FORM_ROW.match(text, at + 1):
        return True
    line = text[max(text.rfind(mark, 0, at) for mark in ".,;\n") + 1 : at].rstrip()
    after = NEXT_WORD.match(text, at + 1)
    words = _LETTERS.findall(line)
    if not words or after is None or line[-1] in ":-/(?":
        return False
    last, following = words[-1].lower(), after[1].lower()
    if following in _GOES_ON or (last in _OPEN and not _is_place(words)):
        return False
    if following == "no" and _GOES_ON_WITH_NO.match(text, after.end()):
        return False
    if after[1].istitle() and len(following) > 1 and not words[-1].istitle():
        return not last.endswith("ing") or following in _BEGINS
    return last in _ENDS and following in _BEGINS and _is_complete(words, following, text, after.end())


def _is_place(words: list[str]) -> bool:
    """ "On the left" and "in size" end a line, "the small left" does not."""
    before = words[-2].lower() if len(words) > 1 else ""
    return words[-1].lower() in ("left", "right", "size") and before in ("the", "on", "in")


def _is_complete(words: list[str], following: str, text: str, end: int) -> bool:
    """Whether the next line does not bring the noun ("normal", "heart") or what is said of it ("edema", "improved")."""
    last = words[-1].lower()
    if last in ("left", "right") and following in _SIDED:
        return False
    if following in _NOUNS_LATER and last in ("clear", "normal", "enlarged", "widened", "unremarkable"):
        return _ORGANS.search(" ".join(words)) is not None
    if last in ("lungs", "bases", "size") and following in _COURSES:
        return False
    if following in _COURSES:
        after = _WORD_AFTER_SPACE.match(text, end)
        return after is not None and after[1].lower() not in _GOES_ON
    return True


def list_markers(text: str) -> Iterator[tuple[int, int]]:
    """Where a number, letter or bullet of a list begins and where its sentence starts, also in "edema(2)Effusion"."""
    if _HAS_MARKERS.search(text):
        for match in _MARKER.finditer(text):
            is_bullet = not (match[0][-1].isalnum() or match[0][-1] in ")#")
            yield match.start(), match.end() if is_bullet else match.start()


def capitals(text: str) -> Iterator[int]:
    """Where a capital in the middle of a line begins a sentence: "No effusion Heart enlarged"."""
    for match in _CAPITAL.finditer(text):
        if _begins_inside(text, match.start(), match.end() - 2):
            yield match.end() - 2


def _begins_inside(text: str, end: int, start: int) -> bool:
    """Whether a capital in the middle of a line, at `start`, begins a sentence: "No effusion Heart enlarged"."""
    following = NEXT_WORD.match(text, start)[1]
    if following.lower() not in _BEGINS_INSIDE or not following.istitle():
        return False
    before = text[max(0, end - _LONGEST_WORD) : end + 1].rpartition(" ")[2]
    return before.islower() and before not in _OPEN and len(before.strip("()")) > 1
