"""What looks like a sign on a radiograph and is not: leads, folds, nipples, hair, fat. Nothing here is ever marked."""

from __future__ import annotations

import numpy as np

from otdrg_hf.data.phantom.anatomy import SIDES, Radiograph
from otdrg_hf.data.phantom.canvas import Sheet, blob, blur, disc, spline


def monitor_leads(radiograph: Radiograph, rng: np.random.Generator, lateral: bool = False) -> None:
    """Electrodes on the chest wall with wires that cross the lungs and leave the radiograph."""
    p, wires, studs = radiograph.patient, Sheet(radiograph.size), Sheet(radiograph.size)
    for sign in SIDES.values():
        for low in (0, 1):
            x = 0.5 + sign * rng.uniform(0.03, 0.12) if lateral else p.middle + sign * rng.uniform(0.17, 0.27)
            y = p.apex + (rng.uniform(0.10, 0.20) if low == 0 else rng.uniform(0.40, 0.52))
            leave = (0.5 + rng.uniform(-0.16, 0.16), 1.03) if low or rng.random() < 0.7 else (x + sign * 0.12, -0.03)
            bend = ((x + leave[0]) / 2 + rng.normal(0, 0.06), (y + leave[1]) / 2 + rng.normal(0, 0.04))
            wires.line(spline(np.array([(x, y), bend, leave], dtype=np.float32)), 0.0055)
            studs.ellipse(x, y, 0.016, 0.016, 0.35)
            studs.ellipse(x, y, 0.007, 0.007, 1.0)
    radiograph.density += blur(wires.field(), 0.0012) * 0.26 + blur(studs.field(), 0.0012) * 0.40


def skin_fold(radiograph: Radiograph, rng: np.random.Generator) -> None:
    """An edge parallel to the chest wall: bright on the inside, fading there, with vessels on both sides of it."""
    p, side = radiograph.patient, str(rng.choice(["left", "right"]))
    sign, sheet = SIDES[side], Sheet(radiograph.size)
    y = np.linspace(p.apex + rng.uniform(0.02, 0.08), p.apex + rng.uniform(0.42, 0.58), 9, dtype=np.float32)
    edge = p.wall(y, side) - sign * (rng.uniform(0.035, 0.08) + 0.03 * (y - y[0]))
    for k in reversed(range(9)):
        sheet.line(spline(np.stack([edge - sign * 0.006 * k, y], axis=1)), 0.008, 1 - k / 9)
    radiograph.density += blur(sheet.field(), 0.0018) * rng.uniform(0.09, 0.13) * radiograph.lungs


def nipple_shadows(radiograph: Radiograph, rng: np.random.Generator) -> None:
    """Round, softly outlined and in the same place on both sides, sometimes seen on one only."""
    p = radiograph.patient
    drop, out, radius = rng.uniform(0.03, 0.09), rng.uniform(0.52, 0.68), rng.uniform(0.024, 0.032)
    hidden = str(rng.choice(["left", "right"])) if rng.random() < 0.3 else None
    for side, sign in SIDES.items():
        if side != hidden:
            x, y = p.middle + sign * (out * p.half_width + rng.normal(0, 0.006)), p.dome(side) - drop
            radiograph.density += rng.uniform(0.11, 0.17) * disc(radiograph.size, x, y, radius, 0.014)


def hair_braid(radiograph: Radiograph, rng: np.random.Generator) -> None:
    """Strands that come down from the neck over one apex."""
    p, sign, sheet = radiograph.patient, float(rng.choice(list(SIDES.values()))), Sheet(radiograph.size)
    y = np.linspace(-0.03, p.apex + rng.uniform(0.10, 0.17), 10, dtype=np.float32)
    x = p.middle + sign * (rng.uniform(0.08, 0.11) + rng.uniform(0.1, 0.3) * np.clip(y, 0, None))
    for k in range(6):
        wave = 0.006 * np.sin(55 * y + k * 1.05)
        sheet.line(spline(np.stack([x + sign * 0.010 * (k - 2.5) + wave, y], axis=1)), 0.008, 0.55 + 0.45 * (k % 2))
    radiograph.density += blur(sheet.field(), 0.002) * rng.uniform(0.10, 0.15)


def fat_pad(radiograph: Radiograph, rng: np.random.Generator) -> None:
    """A soft triangle between the heart and the diaphragm, mostly on the left."""
    p, side = radiograph.patient, "left" if rng.random() < 0.75 else "right"
    reach = (0.65 if side == "left" else 0.35) * p.heart_width()
    x, y = p.middle + SIDES[side] * (reach + 0.005), p.dome(side) - 0.01
    pad = blob(radiograph.size, x, y, rng.uniform(0.045, 0.07), rng.uniform(0.045, 0.065), 2.2)
    radiograph.density += rng.uniform(0.11, 0.17) * pad * radiograph.lungs


def crowded_bases(radiograph: Radiograph, rng: np.random.Generator) -> None:
    """The haze of lungs that are not well filled, on both sides."""
    p = radiograph.patient
    for side, sign in SIDES.items():
        x, y = p.middle + sign * 0.55 * p.half_width, p.dome(side) - 0.02
        radiograph.density += (
            rng.uniform(0.03, 0.06) * blob(radiograph.size, x, y, 0.6 * p.half_width, 0.11, 2.2) * radiograph.lungs
        )


FRONTAL_LOOK_ALIKES = {
    "monitor leads": monitor_leads,
    "skin fold": skin_fold,
    "nipple shadows": nipple_shadows,
    "hair braid": hair_braid,
    "fat pad": fat_pad,
    "shallow breath": crowded_bases,
}
