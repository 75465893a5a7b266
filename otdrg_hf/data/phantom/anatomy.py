"""The patient and the healthy chest: outlines shared by anatomy and signs, and the frontal projection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otdrg_hf.data.phantom.canvas import Sheet, axis, blob, blur, cloud, filled, spline, stream

SIDES = {"right": -1.0, "left": 1.0}  # the patient's left is on the image's right


@dataclass(frozen=True)
class Patient:
    """What differs from patient to patient; lengths in units of the radiograph's width."""

    split: str
    seed: int
    middle: float  # x of the midline
    half_width: float  # inner half width of the thorax
    apex: float  # y of the lung apices
    dome_right: float  # y of the hemidiaphragms
    dome_left: float
    angle_depth: float  # costophrenic angle below the dome
    ratio: float  # cardiothoracic ratio
    mediastinum: float  # half width of the upper mediastinum
    rib_gap: float
    rib_slope: float
    bone: float
    habitus: float  # 0 slim .. 1 stout
    breasts: float

    def dome(self, side: str) -> float:
        return self.dome_right if side == "right" else self.dome_left

    def angle(self, side: str) -> float:
        return max(self.dome_right, self.dome_left - 0.02) + self.angle_depth

    def wall(self, y: np.ndarray | float, side: str) -> np.ndarray:
        """x of the inner chest wall at height y."""
        t = np.clip((np.asarray(y, dtype=np.float32) - self.apex) / (self.angle(side) - self.apex), 0, 1)
        return self.middle + SIDES[side] * self.half_width * (1 - 0.62 * (1 - t) ** 3.0)

    def floor(self, q: np.ndarray, side: str) -> np.ndarray:
        """y of the hemidiaphragm; q runs from 0 at the midline to 1 at the costophrenic angle."""
        drop = self.angle(side) - self.dome(side)
        outer = np.clip((q - 0.45) / 0.55, 0, 1) ** 2.6
        inner = 0.28 * np.clip((0.45 - q) / 0.45, 0, 1) ** 2
        return self.dome(side) + drop * (outer + inner)

    def lung(self, side: str, inset: float = 0.0) -> np.ndarray:
        """Closed outline of a lung [n, 2], `inset` inside the chest wall."""
        sign, top, bottom = SIDES[side], self.apex, self.angle(side)
        head = np.array([[0.045, 0.085], [0.06, 0.03], [0.088, 0.004], [0.118, 0.012]], dtype=np.float32)
        head = np.stack([self.middle + sign * head[:, 0], top + inset + head[:, 1]], axis=1)
        y = top + (bottom - top) * np.linspace(0.09, 0.985, 10, dtype=np.float32)
        flank = np.stack([self.wall(y, side) - sign * inset, y], axis=1)
        q = np.linspace(0.99, 0.06, 14, dtype=np.float32)
        edge = float(self.wall(bottom, side)) - self.middle - sign * inset
        base = np.stack([self.middle + q * edge, self.floor(q, side)], axis=1)
        medial = np.array([[self.middle + sign * 0.03, 0.5]], dtype=np.float32)
        return spline(np.concatenate([head, flank, base, medial]), closed=True, steps=4)

    def heart_width(self) -> float:
        return self.ratio * 2 * self.half_width

    def heart(self) -> np.ndarray:
        """Closed outline of the heart [n, 2]; its transverse diameter is ratio times the inner thoracic width."""
        right, left = 0.35 * self.heart_width(), 0.65 * self.heart_width()
        top = self.apex + 0.27
        tall = min(self.dome_right, self.dome_left) - top
        floor_right, floor_left = self.dome_right, self.dome_left
        outline = [
            (-0.045, top), (-0.7 * right, top + 0.38 * tall), (-right, top + 0.66 * tall),
            (-0.86 * right, floor_right), (-0.4 * right, floor_right + 0.05),
            (0.3 * left, floor_left + 0.065), (0.82 * left, floor_left + 0.045),
            (left, floor_left - 0.07 * tall), (0.87 * left, top + 0.62 * tall), (0.56 * left, top + 0.3 * tall),
            (0.05, top),
        ]  # fmt: skip
        curve = spline(np.array(outline, dtype=np.float32), closed=True)
        scale = self.heart_width() / max(float(np.ptp(curve[:, 0])), 1e-6)
        return curve * np.float32([scale, 1]) + np.float32([self.middle, 0])

    def hilum(self, side: str) -> tuple[float, float]:
        lift = 0.335 if side == "right" else 0.315
        return self.middle + SIDES[side] * (0.095 if side == "right" else 0.10), self.apex + lift


def sample_patient(split: str, seed: int) -> Patient:
    rng = stream(split, seed, 1)
    dome = rng.uniform(0.66, 0.74)
    return Patient(
        split=split,
        seed=seed,
        middle=0.5 + rng.normal(0, 0.01),
        half_width=rng.uniform(0.335, 0.395),
        apex=rng.uniform(0.09, 0.14),
        dome_right=dome,
        dome_left=dome + rng.uniform(0.005, 0.04),
        angle_depth=rng.uniform(0.08, 0.12),
        ratio=rng.uniform(0.39, 0.47),
        mediastinum=rng.uniform(0.055, 0.075),
        rib_gap=rng.uniform(0.062, 0.074),
        rib_slope=rng.uniform(0.06, 0.16),
        bone=rng.uniform(0.7, 1.25),
        habitus=rng.beta(1.6, 2.2),
        breasts=rng.uniform(0.4, 1.0) if rng.random() < 0.45 else 0.0,
    )


class Radiograph:
    """A radiograph in the making: attenuation `density` [S, S] (0 air .. 1 white), the layers that signs
    need to know (lungs, heart with mediastinum, vessels, bone), and where each sign was drawn."""

    def __init__(self, patient: Patient, size: int):
        self.patient = patient
        self.size = size
        self.density = np.zeros((size, size), dtype=np.float32)
        self.lungs = np.zeros_like(self.density)
        self.vessels = np.zeros_like(self.density)
        self.centre = np.zeros_like(self.density)
        self.bone_gain = np.ones_like(self.density)
        self.marks: dict[str, list[np.ndarray]] = {}

    def add(self, change: np.ndarray, label: str | None = None) -> None:
        """Add attenuation, and remember where if it belongs to a label."""
        self.density += change
        if label is not None:
            self.mark(change, label)

    def fill(self, mask: np.ndarray, target: float, label: str | None = None) -> None:
        """Bring the density towards that of fluid or soft tissue, so that borders within vanish (silhouette sign)."""
        self.add(mask * np.clip(target - self.density, 0, None), label)

    def mark(self, change: np.ndarray, label: str) -> None:
        step = max(1, self.size // 128)
        self.marks.setdefault(label, []).append(np.abs(change[::step, ::step]))


def vessel_strokes(rng: np.random.Generator, root: tuple[float, float], sign: float, reach: float, down: float):
    """A branching tree from a hilum as arrays: starts [n, 2], ends [n, 2], widths [n]."""
    angles = np.concatenate([rng.uniform(-1.3, -0.2, 4), rng.uniform(-0.1, 1.4, 7)])
    place = np.tile(np.float32(root), (len(angles), 1)) + rng.normal(0, 0.012, (len(angles), 2))
    width = rng.uniform(0.009, 0.014, len(angles))
    starts, ends, widths = [], [], []
    for generation in range(7):
        step = reach * rng.uniform(0.75, 1.25, len(angles)) * 0.93**generation
        heading = np.stack([sign * np.cos(angles), np.sin(angles) * down], axis=1)
        following = place + heading * step[:, None]
        starts.append(place)
        ends.append(following)
        widths.append(width)
        fork = rng.random(len(angles)) < (0.75 if generation < 4 else 0.3)
        spread = rng.uniform(0.2, 0.55, len(angles))
        turn = rng.choice([-1.0, 1.0], len(angles))
        place = np.concatenate([following, following[fork]])
        angles = np.concatenate([angles + turn * spread * 0.6, (angles - turn * spread * 1.2)[fork]])
        width = np.concatenate([width * 0.8, (width * 0.62)[fork]])
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(widths)


def draw_vessels(radiograph: Radiograph, lateral: bool = False) -> None:
    """Pulmonary vessels over the lungs, kept apart in `radiograph.vessels` for the signs that blur or remove them."""
    p = radiograph.patient
    rng = stream(p.split, p.seed, 2, int(lateral))
    sheet = Sheet(radiograph.size)
    roots = [((0.50, p.apex + 0.34), 1.0), ((0.50, p.apex + 0.34), -1.0)] if lateral else None
    for root, sign in roots or [(p.hilum(s), SIDES[s]) for s in SIDES]:
        starts, ends, widths = vessel_strokes(rng, root, sign, 0.052, 1.0)
        for k in np.argsort(widths):
            shade = min(1.0, 0.22 + 55 * widths[k])
            sheet.line(np.stack([starts[k], ends[k]]), max(widths[k], 0.0022), shade)
    radiograph.vessels = blur(sheet.field(), 0.0022) * radiograph.lungs * (1 - 0.75 * radiograph.centre) * 0.15
    radiograph.density += radiograph.vessels


def rib_arc(p: Patient, number: int, side: str, front: bool = False) -> np.ndarray:
    """Centre line of a rib from medial to lateral [n, 2]; back ribs run outward, front ribs inward and down."""
    sign = SIDES[side]
    y = p.apex - 0.015 + number * p.rib_gap
    q = np.linspace(0, 1, 9, dtype=np.float32)
    if front:
        outer = float(p.wall(min(y + 0.07, 0.8), side))
        x = outer + (p.middle + sign * 0.13 - outer) * q
        return np.stack([x, y + 0.07 + (0.13 + 0.3 * p.rib_slope) * q**1.25], axis=1)
    outer = float(p.wall(y + 0.04, side)) - sign * 0.002
    x = p.middle + sign * 0.05 + (outer - p.middle - sign * 0.05) * q
    arch = -0.045 * np.sin(np.pi * q**0.8) * (1 - 0.05 * number)
    return np.stack([x, y + arch + (p.rib_slope * 0.55 + 0.02) * q**2 + 0.05 * q**5], axis=1)


def clavicle(p: Patient, side: str) -> np.ndarray:
    """Centre line of a clavicle from the sternum to the shoulder [n, 2]."""
    sign, y = SIDES[side], p.apex + 0.085
    points = [(0.035, y), (0.12, y - 0.028), (0.22, y - 0.045), (0.32, y - 0.07), (0.41, y - 0.075)]
    return spline(np.array([(p.middle + sign * x, v) for x, v in points], dtype=np.float32))


def draw_bones(radiograph: Radiograph, skip: set[tuple[str, int]] | None = None) -> None:
    """Ribs with bright cortices, clavicles, and the spine seen through the mediastinum."""
    p, size = radiograph.patient, radiograph.size
    bands, edges = Sheet(size), Sheet(size)
    for side in SIDES:
        for number in range(1, 11):
            if (side, number) not in (skip or ()):
                draw_rib(bands, edges, rib_arc(p, number, side))
            if number < 8:
                bands.line(rib_arc(p, number, side, front=True), 0.024, 0.42)
        if (side, 0) not in (skip or ()):
            draw_clavicle(bands, edges, clavicle(p, side))
    blades = Sheet(size)
    for sign in SIDES.values():
        blade = [(0.27, 0.02), (0.43, 0.03), (0.44, 0.12), (0.37, 0.36), (0.34, 0.30), (0.29, 0.12)]
        blades.polygon(spline(np.array([(p.middle + sign * x, p.apex + y) for x, y in blade]), closed=True), 0.55)
        blades.ellipse(p.middle + sign * 0.475, p.apex + 0.065, 0.042, 0.045, 0.8)
        arm = [(0.475, p.apex + 0.065), (0.53, p.apex + 0.3)]
        blades.line(np.array([(p.middle + sign * x, y) for x, y in arm]), 0.055, 0.8)
    radiograph.density += blur(blades.field(), 0.004) * 0.075 * p.bone
    cage = np.clip(blob(size, p.middle, 0.46, p.half_width * 1.22, 0.44, 8), 0, 1)
    seen = np.clip(0.45 + 0.55 * radiograph.lungs + np.clip((p.apex + 0.13 - axis(size)) / 0.04, 0, 0.5)[:, None], 0, 1)
    radiograph.bone_gain = p.bone * (0.35 + 0.65 * cage) * seen * (1 - 0.45 * radiograph.centre)
    radiograph.density += bone_shadow(bands, edges) * radiograph.bone_gain
    spine = Sheet(size)
    for k in range(15):
        y = 0.03 + 0.065 * k
        wide = 0.034 + 0.0011 * k
        body = np.array([(-wide, y), (wide, y), (wide * 0.92, y + 0.05), (-wide * 0.92, y + 0.05)])
        spine.polygon(body + [p.middle, 0], 0.8)
        spine.ellipse(p.middle, y + 0.03, 0.006, 0.012, 1.0)
    radiograph.density += blur(spine.field(), 0.005) * 0.075 * p.bone


def bone_shadow(bands: Sheet, edges: Sheet) -> np.ndarray:
    """Attenuation of marrow and cortex strokes, float32 [S, S]."""
    return blur(bands.field(), 0.003) * 0.10 + blur(edges.field(), 0.0016) * 0.075


def draw_rib(bands: Sheet, edges: Sheet, arc: np.ndarray) -> None:
    bands.line(arc, 0.021, 0.75)
    edges.line(arc + np.float32([0, 0.0105]), 0.0035, 0.9)
    edges.line(arc - np.float32([0, 0.0105]), 0.003, 0.6)


def draw_clavicle(bands: Sheet, edges: Sheet, arc: np.ndarray) -> None:
    bands.line(arc, 0.027, 0.95)
    edges.line(arc + np.float32([0, 0.0125]), 0.004, 0.9)
    edges.line(arc - np.float32([0, 0.0125]), 0.004, 0.9)


def body_outline(p: Patient) -> np.ndarray:
    wide = p.half_width + 0.055 + 0.07 * p.habitus
    half = [(0.10, -0.02), (0.115, 0.05), (0.22, 0.085), (0.40, 0.10), (0.52, 0.17), (0.55, 0.34)]
    half += [(wide + 0.035, 0.42), (wide, 0.55), (wide + 0.005, 0.8), (wide + 0.015, 1.03)]
    right = [(p.middle - x, y) for x, y in reversed(half)]
    return spline(np.array([(p.middle + x, y) for x, y in half] + right, dtype=np.float32), closed=True)


def frontal_radiograph(patient: Patient, size: int, skip: set[tuple[str, int]] | None = None) -> Radiograph:
    """A healthy frontal chest of this patient; `skip` leaves out bones that a sign will draw broken (0: clavicle)."""
    p, radiograph = patient, Radiograph(patient, size)
    u = axis(size)
    body = blur(filled(size, body_outline(p)), 0.006)
    rim = blur(body, 0.05)
    radiograph.density = body * (0.30 + (0.30 + 0.10 * p.habitus) * rim)
    lungs = np.maximum(filled(size, p.lung("right")), filled(size, p.lung("left")))
    radiograph.lungs = blur(lungs, 0.004)
    air = radiograph.lungs * (0.62 + 0.38 * np.clip(blur(lungs, 0.045), 0, 1))
    rng = stream(p.split, p.seed, 3)
    air *= 1 + 0.035 * cloud(rng, size) - (0.10 * (u - 0.35))[:, None]
    centre = np.maximum(blur(filled(size, p.heart()), 0.006), blur(filled(size, mediastinal_outline(p)), 0.007))
    radiograph.centre = centre
    radiograph.density -= (0.40 - 0.05 * p.habitus) * air * (1 - 0.84 * centre)
    radiograph.density += 0.05 * centre
    belly = np.clip((u - 0.62) / 0.3, 0, 1)[:, None] * (1 - radiograph.lungs)
    radiograph.density += 0.13 * belly * body
    if p.breasts:
        for side, sign in SIDES.items():
            x, y = p.middle + sign * p.half_width * 0.58, p.dome(side) - 0.03
            radiograph.density += 0.075 * p.breasts * disc_like(size, x, y, p.half_width * 0.5)
    gas = (p.middle + rng.uniform(0.13, 0.2), p.dome_left + rng.uniform(0.055, 0.08))
    radiograph.density -= rng.uniform(0.0, 0.14) * blob(
        size, *gas, rng.uniform(0.03, 0.06), rng.uniform(0.018, 0.03), 3
    )
    trachea = np.array([(0.0, -0.02), (0.002, p.apex + 0.1), (-0.004, p.apex + 0.235)]) + [p.middle, 0]
    airway = Sheet(size)
    airway.line(trachea, 0.034)
    for sign in (-1, 1):
        airway.line(np.array([trachea[-1], trachea[-1] + [sign * 0.06, 0.07]]), 0.02, 0.8)
    radiograph.density -= blur(airway.field(), 0.005) * 0.085
    for side in SIDES:
        x, y = p.hilum(side)
        radiograph.density += 0.075 * blob(size, x, y, 0.035, 0.055) * (1 - 0.8 * centre)
    draw_bones(radiograph, skip)
    draw_vessels(radiograph)
    return radiograph


def disc_like(size: int, x: float, y: float, radius: float) -> np.ndarray:
    """The shadow of a breast: round below, fading upward."""
    u = axis(size)
    distance = np.sqrt(((u - y) ** 2 * 1.15)[:, None] + ((u - x) ** 2)[None, :])
    return np.clip((radius - distance) / 0.03, 0, 1) * np.clip((u - y + 0.12) / 0.2, 0, 1)[:, None]


def mediastinal_outline(p: Patient) -> np.ndarray:
    """The upper mediastinum with the superior vena cava, the aortic knob and the pulmonary trunk [n, 2]."""
    w, y = p.mediastinum, p.apex
    left = [
        (0.05, -0.02),
        (0.75 * w, y),
        (0.82 * w, y + 0.12),
        (1.05 * w + 0.012, y + 0.165),
        (1.1 * w + 0.02, y + 0.20),
    ]
    left += [
        (w + 0.008, y + 0.245),
        (0.95 * w + 0.01, y + 0.28),
        (1.05 * w + 0.022, y + 0.32),
        (0.9 * w + 0.015, y + 0.38),
        (0.5 * w, y + 0.44),
    ]
    right = [
        (-0.5 * w, y + 0.45),
        (-0.95 * w, y + 0.37),
        (-0.97 * w, y + 0.25),
        (-0.85 * w, y + 0.1),
        (-0.75 * w, y),
        (-0.05, -0.02),
    ]
    return spline(np.array(left + right, dtype=np.float32) + np.float32([p.middle, 0]), closed=True)
