"""Tubes, lines and implants on both views: bright, sharp, and where a radiologist expects their tips."""

from __future__ import annotations

import numpy as np

from otdrg_hf.data.phantom.anatomy import SIDES, Radiograph
from otdrg_hf.data.phantom.canvas import Sheet, blur, spline
from otdrg_hf.data.phantom.finding import Finding

METAL, PLASTIC = 0.46, 0.33


def frontal_devices(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    p, metal, plastic = radiograph.patient, Sheet(radiograph.size), Sheet(radiograph.size)
    m, top, sign = p.middle, p.apex, SIDES[f.side or "right"]

    def path(*points: tuple[float, float]) -> np.ndarray:
        return spline(np.array([(m + x, y) for x, y in points], dtype=np.float32))

    if f.kind == "endotracheal tube":
        tube = path((0.005, -0.03), (0.0, 0.05), (0.0, top + rng.uniform(0.13, 0.18)))
        plastic.line(tube + [0.0085, 0], 0.0055, 1.0)
        plastic.line(tube - [0.0085, 0], 0.0055, 1.0)
        plastic.line(tube, 0.013, 0.5)
    elif f.kind == "nasogastric tube":
        end = p.dome_left + 0.09
        plastic.line(path((0.008, -0.03), (0.012, 0.3), (0.014, 0.55), (0.03, end - 0.06), (0.10, end)), 0.0095, 1.0)
    elif f.kind == "central venous catheter":
        entry = [(sign * 0.16, -0.03), (sign * 0.11, 0.06), (sign * 0.07, top + 0.06)]
        plastic.line(path(*entry, (-0.045, top + 0.15), (-0.055, top + rng.uniform(0.24, 0.32))), 0.0095, 1.0)
    elif f.kind == "port":
        x, y = sign * 0.235, top + 0.14
        metal.ellipse(m + x, y, 0.026, 0.026, 0.55)
        metal.ellipse(m + x, y, 0.026, 0.026, 0.95, width=0.006)
        hook = [(x, y), (sign * 0.2, top + 0.04), (sign * 0.12, top + 0.035)]
        plastic.line(path(*hook, (-0.045, top + 0.14), (-0.055, top + 0.27)), 0.0095, 1.0)
    elif f.kind == "pacemaker":
        x, y = sign * 0.27, top + 0.10
        body = spline(np.array([(-0.04, -0.03), (0.04, -0.035), (0.045, 0.03), (-0.035, 0.035)]), closed=True)
        metal.polygon(body + [m + x, y], 0.95)
        right_atrium, apex = (-0.07, top + 0.42), (0.42 * p.heart_width(), p.dome_left - 0.035)
        start = [(x, y), (sign * 0.2, top + 0.02), (sign * 0.09, top + 0.06), (-0.045, top + 0.17)]
        metal.line(path(*start, (-0.065, top + 0.33), (-0.03, p.dome_left - 0.05), apex), 0.0085, 0.75)
        metal.line(path(*start, (-0.06, top + 0.36), right_atrium), 0.0075, 0.75)
    elif f.kind == "sternal wires":
        for k in range(5):
            y = top + 0.13 + 0.075 * k + rng.normal(0, 0.004)
            metal.ellipse(m + rng.normal(0, 0.003), y, 0.019, 0.012, 0.95, width=0.0075)
    elif f.kind == "chest tube":
        y = p.apex + 0.42
        wall = abs(float(p.wall(y, f.side)) - m)
        drain = path((sign * (wall + 0.12), y + 0.14), (sign * wall, y + 0.05), (sign * 0.19, top + 0.16))
        plastic.line(drain, 0.013)
    drawn = blur(metal.field(), 0.0012) * METAL + blur(plastic.field(), 0.0012) * PLASTIC
    radiograph.add(drawn, f.label)


def lateral_devices(radiograph: Radiograph, f: Finding, rng: np.random.Generator) -> None:
    p, metal, plastic = radiograph.patient, Sheet(radiograph.size), Sheet(radiograph.size)
    top = p.apex

    def path(*points: tuple[float, float]) -> np.ndarray:
        return spline(np.array(points, dtype=np.float32))

    if f.kind == "endotracheal tube":
        plastic.line(path((0.47, -0.03), (0.485, 0.08), (0.50, top + 0.16)), 0.014, 0.9)
    elif f.kind == "nasogastric tube":
        plastic.line(path((0.50, -0.03), (0.56, 0.3), (0.58, 0.55), (0.52, 0.72), (0.42, 0.78)), 0.0095)
    elif f.kind in ("central venous catheter", "port"):
        plastic.line(path((0.36, 0.02), (0.40, top + 0.1), (0.42, top + 0.27)), 0.0095)
        if f.kind == "port":
            metal.ellipse(0.24, top + 0.17, 0.014, 0.026, 0.95)
    elif f.kind == "pacemaker":
        metal.ellipse(0.23, top + 0.12, 0.018, 0.042, 0.95)
        lead = path((0.23, top + 0.12), (0.36, top + 0.06), (0.42, top + 0.25), (0.42, 0.52), (0.27, 0.63))
        metal.line(lead, 0.0085, 0.75)
    elif f.kind == "sternal wires":
        for k in range(5):
            y = top + 0.13 + 0.075 * k
            metal.ellipse(0.285 - 0.17 * (y - 0.2), y, 0.010, 0.010, 0.95, width=0.0075)
    elif f.kind == "chest tube":
        plastic.line(path((0.52, 0.62), (0.50, 0.4), (0.47, top + 0.12)), 0.013)
    radiograph.add(blur(metal.field(), 0.0012) * METAL + blur(plastic.field(), 0.0012) * PLASTIC, f.label)
