"""The signs on the frontal radiograph, one function per label; each adds to the radiograph and marks what it drew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from otdrg_hf.data.phantom.anatomy import (
    SIDES,
    Patient,
    Radiograph,
    bone_shadow,
    clavicle,
    draw_clavicle,
    draw_rib,
    mediastinal_outline,
    rib_arc,
)
from otdrg_hf.data.phantom.canvas import Sheet, axis, blob, blur, cloud, disc, filled, spline
from otdrg_hf.data.phantom.devices import frontal_devices
from otdrg_hf.data.phantom.finding import Finding

ZONES = {"upper": 0.20, "mid": 0.50, "lower": 0.78}  # height between apex and costophrenic angle


def zone_centre(p: Patient, side: str, zone: str, rng: np.random.Generator, spread: float = 1.0) -> tuple[float, float]:
    """A place inside a lung zone, clear of the heart."""
    t = ZONES[zone] + spread * rng.uniform(-0.05, 0.05)
    if zone == "lower":
        t -= 0.05
    y = p.apex + t * (p.angle(side) - p.apex)
    wall = abs(float(p.wall(y, side)) - p.middle)
    near = 0.07 if zone == "upper" else 0.1
    if zone == "lower":
        near = 0.36 * p.heart_width() if side == "right" else 0.6 * p.heart_width()
    near = min(near, wall - 0.1)
    share = 0.5 + spread * rng.uniform(-0.14, 0.14)
    return p.middle + SIDES[side] * (near + (wall - near) * share), y


def reshape_patient(p: Patient, findings: list[Finding]) -> Patient:
    """Findings that are a change of the anatomy itself: heart size, mediastinal width, loss of volume."""
    for f in findings:
        if f.label == "Cardiomegaly":
            p = replace(p, ratio=0.535 + 0.125 * f.severity)
        elif f.label == "Enlarged Cardiomediastinum":
            p = replace(p, mediastinum=0.098 + 0.055 * f.severity)
        elif f.label == "Atelectasis" and f.kind == "volume loss":
            lift = 0.05 + 0.06 * f.severity
            name = f"dome_{f.side}"
            p = replace(p, **{name: getattr(p, name) - lift})
    return p


def broken_bones(findings: list[Finding], p: Patient) -> set[tuple[str, int]]:
    """Bones that the healthy radiograph leaves out because a sign draws them broken."""
    return {(f.side, number) for f in findings if f.label == "Fracture" for number in fractured(f, p)}


def fractured(f: Finding, p: Patient) -> list[int]:
    if f.kind == "clavicle":
        return [0]
    first = int(f.rng(p.split, p.seed, 9).integers(3, 7))
    return list(range(first, first + (1 if f.severity < 0.25 else 2 if f.severity < 0.7 else 3)))


def enlarged_cardiomediastinum(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    p = radiograph.patient
    mask = filled(radiograph.size, mediastinal_outline(p))
    window = np.clip((axis(radiograph.size) - p.apex) / 0.02, 0, 1) * np.clip(
        (p.apex + 0.42 - axis(radiograph.size)) / 0.08, 0, 1
    )
    radiograph.fill(blur(mask, 0.006) * 0.5 * window[:, None], 0.62)
    radiograph.mark(mask * window[:, None], f.label)


def cardiomegaly(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    radiograph.mark(filled(radiograph.size, radiograph.patient.heart()), f.label)


def lung_opacity(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """A hazy, ill-defined ground-glass patch through which vessels still show."""
    size, haze = radiograph.size, 0.0
    for side in f.sides:
        x, y = zone_centre(radiograph.patient, side, f.place, rng, 0.7)
        rx, ry = rng.uniform(0.085, 0.115), rng.uniform(0.08, 0.115)
        haze = haze + blob(size, x, y, rx, ry, 2.2)
    ragged = np.clip(1 + 0.28 * cloud(rng, size, (5, 9)), 0.2, 1.8)
    radiograph.add((0.14 + 0.115 * f.severity) * np.clip(haze, 0, 1.1) * ragged * radiograph.lungs, f.label)


def lung_lesion(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Round, sharply outlined nodules or one mass."""
    p = radiograph.patient
    count = int(rng.integers(3, 6)) if f.kind == "nodules" else 1
    for k in range(count):
        side = f.sides[k % len(f.sides)]
        zone = f.place or ("upper", "mid", "lower")[(k + int(f.severity * 100)) % 3]
        x, y = zone_centre(p, side, zone, rng, 1.6 if count > 1 else 1.0)
        radius = 0.029 + 0.014 * f.severity
        if f.kind == "mass":
            radius = 0.050 + 0.030 * f.severity
        ball = disc(radiograph.size, x, y, radius * rng.uniform(0.92, 1.08), 0.010)
        radiograph.add((0.22 + 0.08 * f.severity) * ball * np.clip(radiograph.lungs + 0.15, 0, 1), f.label)


def edema(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Perihilar haze on both sides, blurred and cephalised vessels, septal lines at the bases."""
    p, size = radiograph.patient, radiograph.size
    haze = sum(
        blob(size, p.middle + sign * (0.135 + 0.02 * f.severity), p.apex + 0.37, 0.105 + 0.03 * f.severity, 0.19, 2)
        for sign in SIDES.values()
    )
    soft = blur(radiograph.vessels, 0.010)
    change = (0.5 + 0.4 * f.severity) * (1.7 * soft - radiograph.vessels)
    change += (
        (0.10 + 0.15 * f.severity) * haze * (1 - 0.6 * radiograph.centre) * (1 + 0.22 * cloud(rng, size, (10, 20)))
    )
    lines = Sheet(size)
    for side, sign in SIDES.items():
        for _ in range(int(10 + 16 * f.severity)):
            y = rng.uniform(p.angle(side) - 0.30, p.angle(side) - 0.06)
            x = float(p.wall(y, side)) - sign * 0.006
            lines.line(np.array([(x, y), (x - sign * rng.uniform(0.03, 0.055), y + rng.normal(0, 0.004))]), 0.0032)
        x, y = p.hilum(side)
        for _ in range(8):
            end = (x + sign * rng.uniform(0.02, 0.09), y - rng.uniform(0.10, 0.22))
            lines.line(spline(np.array([(x, y - 0.02), ((x + end[0]) / 2, (y + end[1]) / 2 - 0.01), end])), 0.009, 0.55)
    radiograph.add((change + blur(lines.field(), 0.0025) * 0.16) * radiograph.lungs, f.label)


def consolidation(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """A dense lobe or segment with a straight fissural border and dark air bronchograms."""
    p, size = radiograph.patient, radiograph.size
    side, sign, u = f.side, SIDES[f.side], axis(radiograph.size)
    x, y = zone_centre(p, side, f.place, rng, 0.4)
    tall = 0.085 + 0.05 * f.severity
    tilt = rng.uniform(-0.12, 0.12)
    height = u[:, None] - tilt * (u - x)[None, :]
    ragged = 0.014 * cloud(rng, size, (6, 14))
    if f.place == "upper":  # bounded below by the fissure
        fissure, reach = y + 0.8 * tall, 2.2 * tall
        band = np.clip((fissure - height) / 0.010, 0, 1) * np.clip((height - fissure + reach + ragged) / 0.06, 0, 1)
    else:  # bounded above
        fissure, reach = y - 0.75 * tall, 2.6 * tall
        band = np.clip((height - fissure) / 0.010, 0, 1) * np.clip((fissure + reach - height + ragged) / 0.06, 0, 1)
    half = 0.105 + 0.045 * f.severity
    mask = band * np.clip((half - np.abs(u - x)[None, :] + ragged) / 0.045, 0, 1) * radiograph.lungs
    airways = Sheet(size)
    hx, hy = p.middle + sign * 0.09, p.apex + 0.34
    for _ in range(5):
        end = np.array([x + rng.uniform(-0.7, 0.7) * half, y + rng.uniform(-0.7, 0.7) * tall])
        bend = (np.array([hx, hy]) + end) / 2 + rng.normal(0, 0.012, 2)
        airways.line(spline(np.array([(hx, hy), bend, end])), 0.0085)
    before = radiograph.density.copy()
    radiograph.fill(mask * (0.68 + 0.27 * f.severity), 0.65)
    radiograph.density -= blur(airways.field(), 0.002) * mask * 0.13
    radiograph.mark(radiograph.density - before, f.label)


def pneumonia(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Bronchopneumonia: a cluster of blotches that run together, with clear lung between them."""
    size, total = radiograph.size, 0.0
    for side in f.sides:
        x, y = zone_centre(radiograph.patient, side, f.place, rng, 0.7)
        for _ in range(int(11 + 7 * f.severity)):
            bx, by = x + rng.normal(0, 0.052), y + rng.normal(0, 0.058)
            r = rng.uniform(0.012, 0.026)
            total = total + rng.uniform(0.6, 1.0) * blob(size, bx, by, r, r * rng.uniform(0.8, 1.3))
    radiograph.add((0.16 + 0.12 * f.severity) * np.clip(total, 0, 1.25) * radiograph.lungs, f.label)


def atelectasis(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Bands at the bases; with loss of volume also a raised diaphragm (see reshape_patient)."""
    p, sheet = radiograph.patient, Sheet(radiograph.size)
    for side in f.sides:
        sign = SIDES[side]
        for k in range(2 if f.severity < 0.5 else 3):
            y = p.dome(side) - 0.03 - 0.042 * k + rng.uniform(-0.008, 0.008)
            wall = abs(float(p.wall(y, side)) - p.middle)
            inner = 0.33 * p.heart_width() if side == "right" else 0.55 * p.heart_width()
            inner = min(inner, wall - 0.13) + rng.uniform(0, 0.03)
            outer = wall - rng.uniform(0.015, 0.05)
            slope = rng.uniform(-0.02, 0.035)
            arc = [(inner, y), ((inner + outer) / 2, y + slope / 2 - 0.006), (outer, y + slope)]
            sheet.line(spline(np.array([(p.middle + sign * a, b) for a, b in arc])), rng.uniform(0.010, 0.013))
    radiograph.add((0.17 + 0.13 * f.severity) * blur(sheet.field(), 0.0028) * radiograph.lungs, f.label)
    if f.kind == "volume loss":
        x, y = p.middle + SIDES[f.side] * 0.5 * p.half_width, p.dome(f.side) + 0.05
        radiograph.mark(blob(radiograph.size, x, y, 0.4 * p.half_width, 0.10, 8), f.label)


def pneumothorax(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """A visceral pleural line with black, vessel-free space beyond it, and the lung drawn in."""
    p, size, sign = radiograph.patient, radiograph.size, SIDES[f.side]
    y = np.linspace(p.apex, p.angle(f.side) - 0.02, 14, dtype=np.float32)
    t = (y - p.apex) / (y[-1] - p.apex)
    depth = 0.03 + 0.13 * f.severity
    gap = depth * (1 - 0.75 * t ** (1.0 + 1.2 * f.severity)) + 0.004
    edge = p.wall(y, f.side) - sign * gap
    line = np.stack([edge, y + (0.025 + 0.75 * depth) * (1 - t) ** 3], axis=1)
    line = line[np.abs(line[:, 0] - p.middle) > 0.06]
    crown = np.array([(p.middle + sign * 0.035, line[0, 1] + 0.03)], dtype=np.float32)
    line = spline(np.concatenate([crown, line]))
    inside = np.concatenate([line, [(p.middle, line[-1, 1]), (p.middle, line[0, 1])]])
    own_lung = blur(filled(size, p.lung(f.side)), 0.004)
    free = own_lung * (1 - filled(size, inside)) * (axis(size) < line[-1, 1])[:, None]
    collapsed = own_lung - free
    stroke = Sheet(size)
    stroke.line(line, 0.0042)
    change = -free * (radiograph.vessels + 0.085 + 0.03 * f.severity)
    change += blur(stroke.field(), 0.0015) * own_lung * (0.17 + 0.05 * f.severity)
    radiograph.density += 0.05 * f.severity * collapsed
    radiograph.add(change, f.label)
    radiograph.vessels = radiograph.vessels * (1 - free)


def pleural_effusion(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Fluid from the costophrenic angle up, its upper border a meniscus that climbs the chest wall."""
    p, size = radiograph.patient, radiograph.size
    for side in f.sides:
        sign = SIDES[side]
        level = p.angle(side) - 0.075 - (0.27 * f.severity) * rng.uniform(0.9, 1.1)
        q = np.linspace(0, 1, 12, dtype=np.float32)
        wall = float(p.wall(level, side)) + sign * 0.03
        x = p.middle + (wall - p.middle) * q
        y = level + 0.05 - (0.05 + 0.055) * q**3
        outline = np.concatenate([np.stack([x, y], axis=1), [(wall, 0.97), (p.middle, 0.97)]])
        lung = filled(size, p.lung(side))
        fluid = blur(filled(size, outline), 0.006) * blur(lung, 0.003)
        radiograph.fill(fluid * 0.95, 0.68, f.label)


def pleural_other(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Thickened pleura: a cap over the apex, a rind along the wall, or calcified plaques."""
    p, size = radiograph.patient, radiograph.size
    for side in f.sides:
        sign = SIDES[side]
        lung = filled(size, p.lung(side))
        if f.kind == "apical":
            u = axis(size)
            thick = 0.036 + 0.040 * f.severity
            inner = filled(size, p.lung(side, 0.35 * thick) + np.float32([0, thick]))
            cap = np.clip((p.apex + 0.15 - u) / 0.05, 0, 1)[:, None]
            radiograph.fill(blur(np.clip(lung - inner, 0, 1) * cap, 0.003) * 0.9, 0.60, f.label)
        elif f.kind == "plaque":
            sheet = Sheet(size)
            for _ in range(2 + int(2 * f.severity)):
                y = rng.uniform(p.apex + 0.26, p.dome(side) - 0.04)
                x = float(p.wall(y, side)) - sign * rng.uniform(0.03, 0.12)
                angles = np.linspace(0, 6.28, 9)[:-1]
                r = rng.uniform(0.6, 1.3, 8) * (0.022 + 0.012 * f.severity)
                sheet.polygon(spline(np.stack([x + r * np.cos(angles) * 0.75, y + r * np.sin(angles)], 1), closed=True))
            radiograph.add(blur(sheet.field(), 0.002) * (0.32 + 0.12 * f.severity) * lung, f.label)
        else:
            thick = 0.024 + 0.028 * f.severity
            y = np.linspace(p.apex + 0.20, p.angle(side) - 0.03, 12, dtype=np.float32)
            bulge = thick * np.sin(np.linspace(0.3, 3.0, 12)) ** 0.6
            wall = p.wall(y, side)
            inner = np.stack([wall - sign * bulge, y], axis=1)
            outer = np.stack([wall + sign * 0.02, y], axis=1)
            rind = filled(size, np.concatenate([spline(inner), outer[::-1]]))
            radiograph.fill(blur(rind, 0.003) * blur(lung, 0.002) * 0.95, 0.62, f.label)


def fracture(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    """Displaced ends of a rib or clavicle with a dark gap between them."""
    p, size = radiograph.patient, radiograph.size
    bands, edges, gaps, where = (Sheet(size) for _ in range(4))
    step = 0.020 + 0.022 * f.severity
    for number in fractured(f, p):
        arc = clavicle(p, f.side) if number == 0 else rib_arc(p, number, f.side)
        arc = arc if number == 0 else spline(arc)
        cut = int((rng.uniform(0.42, 0.62) if number == 0 else rng.uniform(0.55, 0.72)) * len(arc))
        along = arc[min(cut + 2, len(arc) - 1)] - arc[cut - 2]
        along = along / (np.linalg.norm(along) + 1e-6)
        normal = np.array([-along[1], along[0]]) * (1 if along[0] > 0 else -1)
        ramp = np.clip(1 - np.arange(len(arc) - cut) / max(4, 0.7 * (len(arc) - cut)), 0, 1)[:, None]
        inner, outer = arc[:cut] - along * 0.004, arc[cut:] + (normal * step + along * 0.008) * ramp
        for piece in (inner, outer):
            (draw_clavicle if number == 0 else draw_rib)(bands, edges, piece)
        for tip in (inner[-1], outer[0]):
            edges.line(np.stack([tip - normal * 0.012, tip + normal * 0.012]), 0.006)
        gap = (inner[-1] + outer[0]) / 2
        gaps.line(np.stack([gap - normal * 0.026, gap + normal * 0.026]), 0.010)
        where.ellipse(*gap, 0.03 + 0.4 * step, 0.03 + 0.4 * step)
        where.line(outer[: max(2, int(0.6 * len(outer)))], 0.05)
    radiograph.density += bone_shadow(bands, edges) * radiograph.bone_gain
    near = blur(where.field(), 0.008)
    radiograph.density += near * (0.14 * blur(bands.field(), 0.004) + 0.11 * blur(edges.field(), 0.003))
    radiograph.density -= blur(gaps.field(), 0.002) * 0.14
    radiograph.mark(where.field(), f.label)


FRONTAL_SIGNS = {
    "Enlarged Cardiomediastinum": enlarged_cardiomediastinum,
    "Cardiomegaly": cardiomegaly,
    "Edema": edema,
    "Lung Opacity": lung_opacity,
    "Pneumonia": pneumonia,
    "Consolidation": consolidation,
    "Lung Lesion": lung_lesion,
    "Atelectasis": atelectasis,
    "Pneumothorax": pneumothorax,
    "Pleural Effusion": pleural_effusion,
    "Pleural Other": pleural_other,
    "Fracture": fracture,
    "Support Devices": frontal_devices,
}  # in drawing order: haze before what lies in it, fluid and metal last
