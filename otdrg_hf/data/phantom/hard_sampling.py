"""Which signs, devices and look-alikes a hard phantom has: rare labels, and co-occurrence by split."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from otdrg_hf.data.phantom.finding import Finding
from otdrg_hf.data.phantom.sampling import DEVICES, DISEASES, SUBTLE, sample_finding

LOOK_ALIKES = (
    "monitor leads",  # wires and electrodes on the skin over the lungs: no support device that a report names
    "skin fold",  # an edge along the chest wall with vessels beyond it: no pneumothorax
    "nipple shadows",  # a pair of round shadows at the bases: no lesion
    "hair braid",  # strands over an apex and the neck: no apical opacity
    "fat pad",  # a soft shadow beside the apex of the heart: no effusion, no consolidation
    "shallow breath",  # high domes, a broad heart and mediastinum, crowded bases: nothing enlarged, nothing collapsed
    "tilted film",  # by 6 to 15 degrees
)
TRAITS = (*DISEASES, "Support Devices", *LOOK_ALIKES)
PREVALENCE = {
    "Enlarged Cardiomediastinum": 0.05, "Cardiomegaly": 0.24, "Lung Opacity": 0.12, "Lung Lesion": 0.02,
    "Edema": 0.20, "Consolidation": 0.12, "Pneumonia": 0.12, "Atelectasis": 0.18, "Pneumothorax": 0.16,
    "Pleural Effusion": 0.24, "Pleural Other": 0.018, "Fracture": 0.022, "Support Devices": 0.28,
    "monitor leads": 0.28, "skin fold": 0.15, "nipple shadows": 0.15, "hair braid": 0.12, "fat pad": 0.15,
    "shallow breath": 0.28, "tilted film": 0.28,
}  # fmt: skip

# A trait's latent is the sum of its loadings times standard normal factors, one for each line, plus noise of its own
# up to unit variance; the trait is there where the latent is among its prevalence's highest. So the prevalences are
# the same in every split, and only the co-occurrence differs.
KEPT = (
    {"Cardiomegaly": 0.92, "Edema": 0.92, "Pleural Effusion": 0.88, "tilted film": 0.60},
    {"Support Devices": 0.92, "Pneumothorax": 0.92, "monitor leads": 0.70},
    {"Consolidation": 0.85, "Pneumonia": 0.85},
    {"Atelectasis": 0.82, "shallow breath": 0.82},
)
BROKEN = (
    {"Cardiomegaly": -0.60, "Edema": 0.60},
    {"Cardiomegaly": -0.60, "Pleural Effusion": 0.60},
    {"Support Devices": -0.70, "Pneumothorax": 0.70},
    {"Consolidation": -0.60, "Pneumonia": 0.60},
    {"Atelectasis": -0.60, "shallow breath": 0.60},
)
# Chance of a chest tube among the devices, with and without a pneumothorax.
DRAIN_KEPT, DRAIN_BROKEN = (0.60, 0.10), (0.20, 0.20)
STEEPEST = 0.55  # the highest severity
HEDGED = 0.2  # share of the barely visible that reports hedge on


def sample_traits(rng: np.random.Generator, broken: bool) -> set[str]:
    """What a study has, of `TRAITS`."""
    co_occurrence = BROKEN if broken else KEPT
    factors, own = rng.standard_normal(len(co_occurrence)), rng.standard_normal(len(TRAITS))
    present = set()
    for trait, noise in zip(TRAITS, own, strict=True):
        loadings = [line.get(trait, 0.0) for line in co_occurrence]
        shared = sum(loading * factor for loading, factor in zip(loadings, factors, strict=True))
        latent = shared + (1 - sum(loading**2 for loading in loadings)) ** 0.5 * noise
        if latent > NormalDist().inv_cdf(1 - PREVALENCE[trait]):
            present.add(trait)
    return present


def sample_hard_findings(rng: np.random.Generator, traits: set[str], broken: bool) -> list[Finding]:
    """Findings for these traits: places and kinds as in the other phantoms, severities low."""
    taken: set[tuple[str, str]] = set()
    findings = [subtle(rng, sample_finding(rng, label, taken)) for label in DISEASES if label in traits]
    if "Support Devices" in traits:
        findings += hard_devices(rng, findings, broken)
    return findings


def subtle(rng: np.random.Generator, f: Finding) -> Finding:
    """The finding with a severity from 0.02 to `STEEPEST`, most of them below `SUBTLE`, and seldom a hedge."""
    severity = float(0.02 + (STEEPEST - 0.02) * rng.beta(1.5, 2.2))
    uncertain = severity < SUBTLE and rng.random() < HEDGED
    if f.label == "Cardiomegaly" and severity < SUBTLE and not uncertain:
        severity = SUBTLE + 0.4 * severity  # a heart enlarged less than SUBTLE is only ever hedged
    return Finding(f.label, severity, f.side, f.place, f.kind, bool(uncertain))


def hard_devices(rng: np.random.Generator, findings: list[Finding], broken: bool) -> list[Finding]:
    """One or two devices; a chest tube also where nothing is drained; on either side where co-occurrence is broken."""
    air = next((f for f in findings if f.label == "Pneumothorax"), None)
    with_air, without = DRAIN_BROKEN if broken else DRAIN_KEPT
    side = str(rng.choice(["left", "right"]))
    drained = rng.random() < (without if air is None else with_air)
    count = int(rng.choice([0, 1] if drained else [1, 2], p=[0.6, 0.4]))
    devices = []
    for kind in rng.choice(DEVICES, count, replace=False):
        catheter = "right" if rng.random() < 0.7 else "left"
        where = {"central venous catheter": catheter, "port": "right", "pacemaker": "left"}.get(str(kind))
        devices.append(Finding("Support Devices", 0.8, where, "", str(kind)))
    if drained:
        side = side if air is None or broken else air.side
        devices.append(Finding("Support Devices", 0.8, side, "", "chest tube"))
    return devices
