"""Which findings a study has: common co-occurrence and frequencies, every label also alone."""

from __future__ import annotations

import numpy as np

from otdrg_hf.data.phantom.finding import Finding

DISEASES = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
)
SUBTLE = 0.25  # findings below this are at the edge of what can be seen; reports hedge on them
CLUSTERS = (
    # share, {label: chance}; what radiologists see together
    (0.26, {"Cardiomegaly": 0.75, "Edema": 0.65, "Pleural Effusion": 0.6, "Support Devices": 0.3}),
    (0.20, {"Pneumonia": 0.6, "Consolidation": 0.5, "Pleural Effusion": 0.35, "Lung Opacity": 0.2}),
    (0.16, {"Fracture": 0.7, "Pneumothorax": 0.55, "Pleural Effusion": 0.2, "Support Devices": 0.3}),
    (0.16, {"Atelectasis": 0.7, "Pleural Effusion": 0.35, "Pneumothorax": 0.2, "Support Devices": 0.65}),
    (0.12, {"Lung Lesion": 0.75, "Enlarged Cardiomediastinum": 0.5, "Lung Opacity": 0.25, "Pleural Other": 0.2}),
    (0.10, {"Pleural Other": 0.7, "Atelectasis": 0.4, "Lung Opacity": 0.4, "Enlarged Cardiomediastinum": 0.25}),
)
BACKGROUND = 0.09  # chance of each further disease in a study with several
NORMAL, SINGLE = 0.26, 0.26
DEVICES = ("endotracheal tube", "nasogastric tube", "central venous catheter", "port", "pacemaker", "sternal wires")


def sample_findings(rng: np.random.Generator) -> list[Finding]:
    """The findings of one study, at most five diseases and the devices."""
    draw = rng.random()
    if draw < NORMAL:
        labels, device = [], rng.random() < 0.10
    elif draw < NORMAL + SINGLE:
        labels, device = [DISEASES[int(rng.integers(len(DISEASES)))]], rng.random() < 0.08
    else:
        shares = np.array([share for share, _ in CLUSTERS])
        cluster = CLUSTERS[int(rng.choice(len(CLUSTERS), p=shares / shares.sum()))][1]
        chance = {label: max(cluster.get(label, 0.0), BACKGROUND) for label in DISEASES}
        labels = [label for label in DISEASES if rng.random() < chance[label]]
        if len(labels) > 5:
            labels = sorted(rng.choice(labels, 5, replace=False), key=DISEASES.index)
        device = rng.random() < cluster.get("Support Devices", 0.12)
    taken: set[tuple[str, str]] = set()
    findings = [sample_finding(rng, label, taken) for label in labels]
    return findings + (sample_devices(rng, labels, findings) if device else [])


def sample_finding(rng: np.random.Generator, label: str, taken: set[tuple[str, str]]) -> Finding:
    """Side, place, kind and severity of one disease; focal signs keep out of lung zones that are `taken`."""
    subtle = rng.random() < 0.18
    severity = rng.uniform(0.05, SUBTLE) if subtle else rng.uniform(0.4, 1.0)
    side, place, kind = None, "", ""
    if label in ("Lung Opacity", "Lung Lesion", "Consolidation", "Pneumonia"):
        kind = str(rng.choice(["nodule", "mass", "nodules"], p=[0.4, 0.4, 0.2])) if label == "Lung Lesion" else ""
        side, place = free_zone(rng, label, kind, taken)
    elif label == "Edema":
        side = "bilateral"
    elif label == "Atelectasis":
        kind = "volume loss" if rng.random() < 0.3 else "bands"
        side = str(rng.choice(["left", "right"] if kind == "volume loss" else ["left", "right", "bilateral"]))
        place = "base"
    elif label == "Pneumothorax":
        side = str(rng.choice(["left", "right"]))
    elif label == "Pleural Effusion":
        side = str(rng.choice(["left", "right", "bilateral"]))
    elif label == "Pleural Other":
        kind = str(rng.choice(["apical", "rind", "plaque"]))
        side = str(rng.choice(["left", "right", "bilateral"]))
        place = {"apical": "apex", "rind": "lateral wall", "plaque": ""}[kind]
    elif label == "Fracture":
        kind = "clavicle" if rng.random() < 0.4 else "rib"
        side = str(rng.choice(["left", "right"]))
    return Finding(label, float(severity), side, place, kind, uncertain=subtle and rng.random() < 0.9)


def free_zone(rng: np.random.Generator, label: str, kind: str, taken: set[tuple[str, str]]) -> tuple[str, str]:
    sides = ["left", "right"]
    if kind == "nodules":
        return "bilateral", ""
    if label in ("Lung Opacity", "Pneumonia"):
        sides.append("bilateral")
    zones = ["lower", "lower", "mid"] if label == "Pneumonia" else ["upper", "mid", "lower"]
    if label == "Consolidation":
        zones = ["upper", "lower", "lower"]
    for _ in range(12):
        side, place = str(rng.choice(sides)), str(rng.choice(zones))
        cells = {(s, place) for s in (("left", "right") if side == "bilateral" else (side,))}
        if not cells & taken:
            break
    taken |= cells
    return side, place


def sample_devices(rng: np.random.Generator, labels: list[str], findings: list[Finding]) -> list[Finding]:
    """One to three devices; a chest tube only where there is something to drain."""
    drained = [f for f in findings if f.label in ("Pneumothorax", "Pleural Effusion") and f.side != "bilateral"]
    kinds = list(rng.choice(DEVICES, int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1])), replace=False))
    if "port" in kinds and "pacemaker" in kinds:
        kinds.remove("port")
    devices = []
    for kind in kinds:
        catheter = "right" if rng.random() < 0.7 else "left"
        side = {"central venous catheter": catheter, "port": "right", "pacemaker": "left"}.get(kind)
        devices.append(Finding("Support Devices", 0.8, side, "", str(kind)))
    if drained and rng.random() < 0.4:
        devices.append(Finding("Support Devices", 0.8, drained[0].side, "", "chest tube"))
    return devices
