"""The grammar of phantom reports: present, possible and absent findings in anatomical order, and what they claim."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from otdrg_hf.data.phantom import phrases
from otdrg_hf.data.phantom.finding import Finding
from otdrg_hf.labeling.labels import BLANK, LABELS, NEGATIVE, POSITIVE, UNCERTAIN


@dataclass
class WrittenReport:
    """A report and the state of each label that its sentences claim."""

    indication: str = ""
    findings: str = ""
    impression: str = ""
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LABELS, BLANK))
    severity_words: dict[str, str] = field(default_factory=dict)


LUNG = ("Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia", "Atelectasis")
ORDER = ("Cardiomegaly", "Enlarged Cardiomediastinum", "Edema", "Consolidation", "Pneumonia", "Lung Opacity")
ORDER += ("Lung Lesion", "Atelectasis", "Pleural Effusion", "Pneumothorax", "Pleural Other", "Fracture")
WEIGHT = ("Pneumothorax", "Edema", "Consolidation", "Pneumonia", "Lung Lesion", "Enlarged Cardiomediastinum")
WEIGHT += ("Lung Opacity", "Pleural Effusion", "Fracture", "Cardiomegaly", "Atelectasis", "Pleural Other")


def severity_word(f: Finding) -> str:
    steps = phrases.SEVERITY[f.label]
    return steps[0 if f.severity < 0.25 else 1 if f.severity < 0.6 else 2 if f.severity < 0.82 else 3]


def place_phrase(f: Finding) -> str:
    """The place with its side, as read off the radiograph."""
    if f.label == "Fracture":
        return (
            f"{f.side} clavicle"
            if f.kind == "clavicle"
            else f"{f.side} ribs"
            if f.severity >= 0.25
            else f"{f.side} rib"
        )
    if f.label == "Atelectasis":
        return "lung bases" if f.side == "bilateral" else f"{f.side} lung base"
    if f.place == "mid":
        return "both mid lungs" if f.side == "bilateral" else f"{f.side} mid lung"
    if f.place in ("upper", "lower"):
        return f"both {f.place} lobes" if f.side == "bilateral" else f"{f.side} {f.place} lobe"
    return "both lungs" if f.side == "bilateral" else f"{f.side} lung"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def plural(sentence: str, f: Finding) -> str:
    """The sentence of one lesion, effusion or broken rib turned into one of several, or of both sides."""
    changes: tuple[tuple[str, str], ...] = ()
    if f.kind == "nodules":
        changes = (
            ("There is a {sev}", "There are {sev}"),
            ("A {sev}", "{Sev}"),
            ("A small", "Small"),
            ("projects", "project"),
            ("is seen", "are seen"),
        )
    elif f.label == "Pleural Effusion" and f.side == "bilateral":
        changes = (
            ("There is a {sev} {side} pleural effusion", "There are {sev} {side} pleural effusions"),
            ("{side} pleural effusion is", "{side} pleural effusions are"),
            (
                "A {sev} effusion blunts the {side} costophrenic angle",
                "{Sev} effusions blunt both costophrenic angles",
            ),
            ("A trace {side} pleural effusion", "Trace {side} pleural effusions"),
            ("{side} pleural effusion.", "{side} pleural effusions."),
        )
    elif f.label == "Fracture" and place_phrase(f).endswith("ribs"):
        changes = (
            ("There is a {sev} fracture", "There are {sev} fractures"),
            ("A {sev} fracture of the {where} is", "{Sev} fractures of the {where} are"),
            ("{sev} fracture of", "{sev} fractures of"),
            ("{Where} fracture.", "{ribs} fractures."),
        )
    for one, several in changes:
        sentence = sentence.replace(one, several)
    return sentence


def fill(sentence: str, f: Finding) -> str:
    """Put the finding's words into the slots of a sentence."""
    where = place_phrase(f)
    sentence = plural(sentence, f)
    if where.startswith("both"):
        lobes = {"": "lung", "mid": "mid lung"}.get(f.place, f"{f.place} lobe")
        lobes = f"bilateral {lobes}"
        sentence = sentence.replace("the {where}", "{where}").replace("{Where} shows", "{Where} show")
        if "show" not in sentence:  # before a noun: "bilateral lower lobe opacity"
            sentence = sentence.replace("{Where} ", capital(lobes) + " ").replace(
                "Possible {where}", f"Possible {lobes}"
            )
    else:
        sentence = sentence.replace("{Where} shows", "The {where} shows")
    sev, side = severity_word(f) if f.label in phrases.SEVERITY else "", f.side or ""
    return sentence.format(
        sev=sev,
        Sev=capital(sev),
        side=side,
        Side=capital(side),
        where=where,
        Where=capital(where),
        ribs=capital(f"{side} rib"),
        kind=phrases.PLEURAL_KIND.get(f.kind, f.kind),
    )


class Writer:
    """Collects sentences and the claims they make; a positive claim outweighs an uncertain, that a negative one."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.sentences, self.report = rng, [], WrittenReport()

    def pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def say(self, sentence: str, **claims: int) -> None:
        self.sentences.append(capital(sentence))
        for key, state in claims.items():
            self.claim(key.replace("_", " "), state)

    def claim(self, label: str, state: int) -> None:
        strength = {BLANK: 0, NEGATIVE: 1, UNCERTAIN: 2, POSITIVE: 3}
        if strength[state] > strength[self.report.states[label]]:
            self.report.states[label] = state

    def describe(self, f: Finding) -> None:
        """A present or possible finding."""
        if f.uncertain:
            options = phrases.POSSIBLE[f.label]
        elif f.label == "Pleural Other":
            options = phrases.PLEURAL_OTHER[f.kind]
        elif f.label == "Support Devices":
            options = phrases.DEVICES[f.kind]
        else:
            options = phrases.PRESENT[f.label]
        if f.kind == "volume loss" and not f.uncertain:
            sentence = f"There is {{sev}} atelectasis at the {{where}} with elevation of the {f.side} hemidiaphragm."
        else:
            sentence = self.pick(options)
        self.say(fill(sentence, f))
        self.claim(f.label, UNCERTAIN if f.uncertain else POSITIVE)


def write_report(rng: np.random.Generator, findings: list[Finding], views: tuple[str, ...]) -> WrittenReport:
    """Write indication, findings and impression for these findings."""
    w = Writer(rng)
    found = {f.label: f for f in findings if f.label != "Support Devices"}
    devices = [f for f in findings if f.label == "Support Devices"]
    if w.chance(0.6):
        view = "PA and lateral views of the chest." if len(views) > 1 else "Frontal view of the chest."
        w.say(view)
    for f in devices:
        w.describe(f)
    write_heart(w, found)
    write_lungs(w, found)
    write_pleura(w, found)
    write_bones(w, found)
    if w.chance(0.5):
        w.say(w.pick(("The visualized upper abdomen is unremarkable.", "No free air is seen below the diaphragm.")))
    w.report.findings = " ".join(w.sentences)
    w.sentences = []
    write_impression(w, found, devices)
    w.report.impression = " ".join(w.sentences)
    diseased = any(w.report.states[label] in (POSITIVE, UNCERTAIN) for label in ORDER)
    w.report.states["No Finding"] = BLANK if diseased else POSITIVE
    w.report.severity_words = {label: severity_word(f) for label, f in found.items()}
    w.report.indication = write_indication(w, found, devices)
    return w.report


def write_heart(w: Writer, found: dict[str, Finding]) -> None:
    heart, mediastinum = found.get("Cardiomegaly"), found.get("Enlarged Cardiomediastinum")
    if heart is None and mediastinum is None and w.chance(0.85):
        both = (
            "Heart size and mediastinal contours are normal.",
            "The heart and mediastinum are within normal limits.",
        )
        w.say(w.pick(both), Cardiomegaly=NEGATIVE, Enlarged_Cardiomediastinum=NEGATIVE)
        return
    if heart is not None:
        w.describe(heart)
    else:
        alone = ("Heart size is normal.", "The heart is normal in size.", "The heart size is within normal limits.")
        w.say(w.pick(alone), Cardiomegaly=NEGATIVE)
    if mediastinum is not None:
        w.describe(mediastinum)
    elif heart is not None and w.chance(0.85):
        normal = ("The mediastinum is unremarkable.", "Mediastinal contours are normal.")
        w.say(w.pick(normal), Enlarged_Cardiomediastinum=NEGATIVE)


def write_lungs(w: Writer, found: dict[str, Finding]) -> None:
    lung = [found[label] for label in ORDER if label in LUNG and label in found]
    if w.chance(0.4) and not any(f.kind == "volume loss" for f in lung):
        w.say(w.pick(("Both lungs are well expanded.", "Inspiratory effort is adequate.")))
    for f in lung:
        w.describe(f)
    if not lung:
        clear = ("The lungs are clear.", "Both lungs are clear.", "The lungs are clear bilaterally.")
        w.say(w.pick(clear), Lung_Opacity=NEGATIVE)
    congested = "Cardiomegaly" in found or "Pleural Effusion" in found
    if "Edema" not in found and w.chance(0.85 if congested else 0.06):
        w.say(w.pick(("There is no pulmonary edema.", "No overt pulmonary edema.")), Edema=NEGATIVE)
    if "Lung Lesion" not in found and not lung and w.chance(0.06):
        w.say("No pulmonary nodule is seen.", Lung_Lesion=NEGATIVE)


def write_pleura(w: Writer, found: dict[str, Finding]) -> None:
    for label in ("Pleural Effusion", "Pneumothorax", "Pleural Other"):
        if label in found:
            w.describe(found[label])
    absent = []
    airspace = any(label in found for label in ("Consolidation", "Pneumonia", "Lung Opacity"))
    if "Consolidation" not in found and w.chance(0.06 if airspace else 0.92):
        absent.append("Consolidation")
    absent += [label for label in ("Pleural Effusion", "Pneumothorax") if label not in found and w.chance(0.97)]
    if absent:
        words = ["focal consolidation" if label == "Consolidation" else label.lower() for label in absent]
        listed = " or ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]}, or {words[2]}"
        sentence = w.pick(("There is no {}.", "There is no evidence of {}.", "No {} is seen."))
        w.say(sentence.format(listed), **{label.replace(" ", "_"): NEGATIVE for label in absent})


def write_bones(w: Writer, found: dict[str, Finding]) -> None:
    if "Fracture" in found:
        w.describe(found["Fracture"])
    elif w.chance(0.07):
        w.say("No displaced fracture is seen.", Fracture=NEGATIVE)
    elif w.chance(0.85):
        bones = (
            "The bones are intact.",
            "There is no acute osseous abnormality.",
            "The osseous structures are unremarkable.",
        )
        w.say(w.pick(bones))


def write_impression(w: Writer, found: dict[str, Finding], devices: list[Finding]) -> None:
    listed = [found[label] for label in WEIGHT if label in found]
    items = []
    for f in sorted(listed, key=lambda f: f.uncertain)[:4]:
        items.append(fill(phrases.SUMMARY_POSSIBLE[f.label] if f.uncertain else w.pick(phrases.SUMMARY[f.label]), f))
    if not items:
        normal = ("No acute cardiopulmonary abnormality.", "No acute cardiopulmonary process.")
        items = [w.pick((*normal, "No acute disease in the chest."))]
    elif devices and w.chance(0.3):
        items.append("Support devices as above.")
    if len(items) > 1 and w.chance(0.5):
        items = [f"{k}. {item}" for k, item in enumerate(items, 1)]
    for item in items:
        w.say(item)


def write_indication(w: Writer, found: dict[str, Finding], devices: list[Finding]) -> str:
    if w.chance(0.2):
        return ""
    keys = [label for label in [*found, *(["Support Devices"] if devices else [])] if label in phrases.INDICATIONS]
    key = keys[int(w.rng.integers(len(keys)))] if keys and w.chance(0.5) else ""
    return w.pick(phrases.INDICATIONS[key])
