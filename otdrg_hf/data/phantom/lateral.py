"""The lateral radiograph: a healthy chest seen from the side, front to the left, and the signs that show on it."""

from __future__ import annotations

import numpy as np

from otdrg_hf.data.phantom.anatomy import Patient, Radiograph, draw_vessels
from otdrg_hf.data.phantom.canvas import Sheet, axis, blob, blur, cloud, disc, filled, spline, stream
from otdrg_hf.data.phantom.devices import lateral_devices
from otdrg_hf.data.phantom.finding import Finding

CENTRES = {"upper": (0.50, 0.20), "mid": (0.52, 0.46), "lower": (0.66, 0.66)}


def shift(p: Patient) -> float:
    """How far this patient's diaphragm stands below the usual height."""
    return p.dome_right - 0.70


def lateral_lung(p: Patient, inset: float = 0.0) -> np.ndarray:
    """Closed outline of both lungs from the side [n, 2]."""
    a, d = p.apex, shift(p)
    points = [
        (0.52, a), (0.42, a + 0.06), (0.335, a + 0.15), (0.285, a + 0.27), (0.245, a + 0.42), (0.225, 0.68 + d),
        (0.33, 0.675 + d), (0.43, 0.68 + d), (0.58, 0.71 + d), (0.70, 0.77 + d), (0.80, 0.85 + d), (0.835, 0.80 + d),
        (0.845, 0.62), (0.825, 0.42), (0.77, 0.24), (0.68, a + 0.06), (0.60, a + 0.005),
    ]  # fmt: skip
    curve = spline(np.array(points, dtype=np.float32), closed=True, steps=4)
    middle = np.float32([0.54, 0.48])
    return middle + (curve - middle) * (1 - 2.6 * inset)


def lateral_heart(p: Patient) -> np.ndarray:
    """Closed outline of the heart from the side [n, 2]; grows backward with the cardiothoracic ratio."""
    d, grow = shift(p), (p.ratio - 0.43) / 0.2
    back, top = 0.50 + 0.10 * grow, 0.46 - 0.04 * grow
    points = [(0.27, 0.69 + d), (0.265, 0.58), (0.31, 0.50), (0.40, top), (0.46 + 0.05 * grow, 0.49)]
    points += [(back, 0.59), (back - 0.005, 0.68 + d), (0.42, 0.72 + d), (0.33, 0.72 + d)]
    return spline(np.array(points, dtype=np.float32), closed=True)


def lateral_radiograph(patient: Patient, size: int) -> Radiograph:
    p, radiograph, u, d = patient, Radiograph(patient, size), axis(size), shift(patient)
    stout = 0.03 * p.habitus
    front = [(0.36, -0.02), (0.33, 0.06), (0.27 - stout, 0.15), (0.20 - stout, 0.36), (0.165 - stout, 0.56)]
    front += [(0.17 - stout - 0.05 * p.breasts, 0.62), (0.16 - stout, 0.8), (0.15 - stout, 1.03)]
    back = [(0.87 + stout, 1.03), (0.90 + stout, 0.7), (0.91 + stout, 0.45), (0.86 + stout, 0.2)]
    back += [(0.74, 0.07), (0.68, -0.02)]
    body = blur(filled(size, spline(np.array(front + back, dtype=np.float32), closed=True)), 0.006)
    radiograph.density = body * (0.28 + (0.32 + 0.1 * p.habitus) * blur(body, 0.05))
    lungs = filled(size, lateral_lung(p))
    radiograph.lungs = blur(lungs, 0.004)
    air = radiograph.lungs * (0.6 + 0.4 * np.clip(blur(lungs, 0.05), 0, 1))
    air *= 1 + 0.035 * cloud(stream(p.split, p.seed, 5), size) + (0.30 * (u - 0.45))[:, None]
    heart = blur(filled(size, lateral_heart(p)), 0.008)
    radiograph.density -= (0.38 - 0.05 * p.habitus) * air * (1 - 0.72 * heart)
    wide = (p.mediastinum - 0.065) / 0.09
    radiograph.density += 0.05 * heart + (0.10 + 0.14 * max(wide, 0)) * blob(size, 0.47, p.apex + 0.16, 0.10, 0.16, 2.5)
    radiograph.density += 0.07 * blob(size, 0.50, p.apex + 0.35, 0.05, 0.05) * radiograph.lungs
    radiograph.density += 0.10 * np.clip((u - 0.72) / 0.2, 0, 1)[:, None] * body * (1 - radiograph.lungs)
    bones, lines = Sheet(size), Sheet(size)
    column = spline(np.array([(0.66, 0.02), (0.745, 0.2), (0.785, 0.4), (0.79, 0.6), (0.76, 0.8), (0.73, 1.0)]))
    for k in range(13):
        x, y = column[min(len(column) - 1, int(k * len(column) / 13))]
        bones.polygon(np.array([(-0.037, -0.024), (0.037, -0.028), (0.037, 0.024), (-0.037, 0.028)]) + [x, y], 0.75)
    for k in range(9):
        y = p.apex + 0.05 + 0.075 * k
        rib = [(0.80, y - 0.03), (0.74, y + 0.03), (0.55, y + 0.14), (0.36, y + 0.25)]
        lines.line(spline(np.array(rib, dtype=np.float32)), 0.016, 0.3)
    lines.line(np.array([(0.335, p.apex + 0.09), (0.225, p.apex + 0.42)]) - [0.008, 0], 0.017, 0.9)
    dome = [(0.24, 0.70 + d), (0.36, 0.655 + d), (0.50, 0.68 + d), (0.66, 0.745 + d), (0.80, 0.86 + d)]
    lines.line(spline(np.array(dome, dtype=np.float32)), 0.007, 0.35)
    radiograph.density += blur(bones.field(), 0.005) * 0.13 * p.bone
    radiograph.density += blur(lines.field(), 0.003) * 0.11 * p.bone * (0.35 + 0.65 * radiograph.lungs)
    airway = Sheet(size)
    airway.line(np.array([(0.46, -0.02), (0.485, p.apex + 0.1), (0.51, p.apex + 0.32)]), 0.032)
    radiograph.density -= blur(airway.field(), 0.006) * 0.10
    radiograph.density += 0.14 * blob(size, 0.52, 0.02, 0.16, 0.13, 3)  # shoulders and raised arms
    radiograph.centre = heart
    draw_vessels(radiograph, lateral=True)
    return radiograph


def draw_lateral_sign(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Draw a finding where it shows from the side; some (a rib fracture, air over the apex) do not."""
    p, size, s, d = radiograph.patient, radiograph.size, f.severity, shift(radiograph.patient)
    x, y = CENTRES.get(f.place, CENTRES["mid"])
    x, y = x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)
    if f.label == "Cardiomegaly":
        radiograph.mark(filled(size, lateral_heart(p)), f.label)
    elif f.label == "Enlarged Cardiomediastinum":
        radiograph.mark(blob(size, 0.47, p.apex + 0.16, 0.10, 0.16, 2.5) > 0.4, f.label)
    elif f.label == "Lung Opacity":
        radiograph.add((0.10 + 0.12 * s) * blob(size, x, y, 0.095, 0.095) * radiograph.lungs, f.label)
    elif f.label == "Lung Lesion":
        radius = 0.050 + 0.026 * s if f.kind == "mass" else 0.027 + 0.014 * s
        for k in range(3 if f.kind == "nodules" else 1):
            dx, dy = ((0.0, -0.05), (0.11, 0.05), (-0.11, 0.15))[k]
            radiograph.add((0.18 + 0.08 * s) * disc(size, x + dx, y + dy, radius, 0.01), f.label)
    elif f.label == "Edema":
        haze = blob(size, 0.53, 0.45, 0.17, 0.19)
        radiograph.add(
            (0.08 + 0.12 * s)
            * haze
            * radiograph.lungs
            * (1 - 0.6 * radiograph.centre)
            * (1 + 0.25 * cloud(rng, size, (10, 20))),
            f.label,
        )
    elif f.label == "Consolidation":
        mask = blur(blob(size, x, y, 0.12 + 0.04 * s, 0.085 + 0.04 * s, 7), 0.004) * radiograph.lungs
        radiograph.fill(mask * (0.65 + 0.25 * s), 0.60, f.label)
    elif f.label == "Pneumonia":
        total = np.zeros_like(radiograph.density)
        for _ in range(int(9 + 6 * s)):
            r = rng.uniform(0.012, 0.026)
            total += blob(size, x + rng.normal(0, 0.05), y + rng.normal(0, 0.05), r, r)
        radiograph.add((0.14 + 0.11 * s) * np.clip(total, 0, 1.25) * radiograph.lungs, f.label)
    elif f.label == "Atelectasis":
        sheet = Sheet(size)
        for k in range(2):
            v = 0.64 + d - 0.05 * k
            sheet.line(spline(np.array([(0.53, v - 0.01), (0.63, v + 0.01), (0.76, v + 0.045)])), 0.011)
        radiograph.add((0.14 + 0.12 * s) * blur(sheet.field(), 0.0025) * radiograph.lungs, f.label)
    elif f.label == "Pleural Effusion":
        level = 0.80 + d - 0.22 * s
        outline = [
            (0.50, level + 0.10),
            (0.62, level + 0.055),
            (0.74, level),
            (0.80, level - 0.05),
            (0.87, level - 0.11),
        ]
        outline = np.concatenate([spline(np.array(outline)), [(0.9, 1.0), (0.4, 1.0)]])
        radiograph.fill(blur(filled(size, outline), 0.006) * radiograph.lungs * 0.92, 0.66, f.label)
    elif f.label == "Pleural Other" and f.kind == "apical":
        cap = radiograph.lungs * np.clip((p.apex + 0.03 + 0.035 * s - axis(size)) / 0.012, 0, 1)[:, None]
        radiograph.fill(cap * 0.8, 0.58, f.label)
    elif f.label == "Support Devices":
        lateral_devices(radiograph, f, rng)
