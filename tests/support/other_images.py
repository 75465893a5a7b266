"""Images that are not upright chest radiographs: drawn from a seed, or made of radiographs. Nothing is downloaded."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

SIDE = 256
WORDS = (
    "invoice patient date history of the and total hospital street number report signed medication daily dose left "
    "right amount paid tax please return this form to department room visit insurance name born clinic letter dear"
).split()


def text_page(seed: int) -> Image.Image:
    """A page of text: black on a light page, of one or two columns, with a heading or a table."""
    rng = np.random.default_rng([1, seed])
    width, height = int(rng.integers(400, 800)), int(rng.integers(500, 900))
    page = Image.new("L", (width, height), int(rng.integers(220, 256)))
    draw, ink = ImageDraw.Draw(page), int(rng.integers(0, 90))
    size, columns = int(rng.integers(9, 22)), int(rng.integers(1, 3))
    font, margin = ImageFont.load_default(size), int(rng.integers(10, 60))
    draw.text((margin, margin // 2), " ".join(rng.choice(WORDS, 4)).title(), ink, ImageFont.load_default(2 * size))
    for column in range(columns):
        left = margin + column * (width - margin) // columns
        for top in range(margin + 3 * size, height - margin, int(1.5 * size)):
            if rng.random() < 0.9:
                draw.text((left, top), " ".join(rng.choice(WORDS, int(width / columns / size / 3.5))), ink, font)
    if rng.random() < 0.5:
        for top in range(height // 2, height - margin, 3 * size):
            draw.line([(margin, top), (width - margin, top)], ink, 2)
    return page.convert("RGB")


def screenshot(seed: int) -> Image.Image:
    """Windows, buttons and a chart on a coloured desktop."""
    rng = np.random.default_rng([2, seed])
    screen = Image.new("RGB", (800, 500), tuple(int(each) for each in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(screen)
    for _ in range(int(rng.integers(3, 8))):
        left, top = (int(each) for each in rng.integers(0, 400, 2))
        box = [left, top, left + int(rng.integers(100, 400)), top + int(rng.integers(60, 300))]
        draw.rectangle(box, tuple(int(each) for each in rng.integers(150, 256, 3)), "black")
        draw.rectangle([*box[:3], top + 18], tuple(int(each) for each in rng.integers(0, 160, 3)))
        draw.text((left + 4, top + 30), "\n".join(" ".join(rng.choice(WORDS, 4)) for _ in range(4)), "black")
    points = np.stack([np.linspace(450, 780, 40), 400 + rng.normal(0, 8, 40).cumsum()], 1)
    draw.line([tuple(each) for each in points], "red", 3)
    return screen


def noise(seed: int) -> Image.Image:
    """Noise: uniform, normal or in colour, of one pixel or blurred to clouds."""
    rng = np.random.default_rng([3, seed])
    shape = (SIDE, SIDE, 3) if seed % 3 == 2 else (SIDE, SIDE)
    values = rng.uniform(0, 255, shape) if seed % 2 else rng.normal(128, rng.uniform(10, 60), shape)
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    radius = (0, 0, 2, 8, 25)[seed % 5]
    return ImageOps.autocontrast(image.filter(ImageFilter.GaussianBlur(radius))) if radius else image


def blank(seed: int) -> Image.Image:
    """One grey value all over, from black to white, of every third one with a slight gradient."""
    rng = np.random.default_rng([4, seed])
    level = (0, 255, 128)[seed] if seed < 3 else rng.uniform(0, 255)
    gradient = np.linspace(0, rng.uniform(5, 40), SIDE)[:, None] if seed % 3 == 2 else np.zeros((SIDE, 1))
    return Image.fromarray((level + np.broadcast_to(gradient, (SIDE, SIDE))).clip(0, 255).astype(np.uint8)).convert(
        "RGB"
    )


def hand(seed: int) -> Image.Image:
    """A hand as a radiograph shows it: bright bones of five fingers in grey flesh on black."""
    rng = np.random.default_rng([5, seed])
    flesh, bones = (Image.new("L", (2 * SIDE, 2 * SIDE)) for _ in range(2))
    on_flesh, on_bones = ImageDraw.Draw(flesh), ImageDraw.Draw(bones)
    wrist = np.array([256 + rng.uniform(-30, 30), 430.0])
    lengths = np.array([0.55, 0.85, 1.0, 0.92, 0.7]) * rng.uniform(260, 340)
    for angle, length in zip(np.radians([-52, -22, -4, 14, 34]) + rng.uniform(-0.05, 0.05), lengths, strict=True):
        direction = np.array([np.sin(angle), -np.cos(angle)])
        joints = [wrist + direction * length * share for share in (0.08, 0.45, 0.70, 0.87, 1.0)]
        on_flesh.line([tuple(wrist), *map(tuple, joints)], 255, 46, "curve")
        for start, end in zip(joints, joints[1:], strict=False):
            gap = (end - start) * 0.06
            on_bones.line([tuple(start + gap), tuple(end - gap)], 255, int(rng.integers(14, 22)))
    on_flesh.ellipse([wrist[0] - 80, wrist[1] - 150, wrist[0] + 80, wrist[1] + 60], 255)
    for shift in (-28, 28):
        on_flesh.line([tuple(wrist), (wrist[0] + shift, 520)], 255, 80)
        on_bones.line([(wrist[0] + shift, wrist[1] + 20), (wrist[0] + shift, 520)], 255, 34)
    for _ in range(8):
        x, y = wrist + rng.normal(0, [30, 12])
        on_bones.ellipse([x - 14, y - 14, x + 14, y + 14], 230)
    return _radiograph(flesh, bones, rng)


def skull(seed: int) -> Image.Image:
    """A skull from the front: an oval with orbits, sinuses, jaw and teeth."""
    rng = np.random.default_rng([6, seed])
    flesh, bones = (Image.new("L", (2 * SIDE, 2 * SIDE)) for _ in range(2))
    on_flesh, on_bones = ImageDraw.Draw(flesh), ImageDraw.Draw(bones)
    x, y, width, height = 256 + rng.uniform(-20, 20), 220, rng.uniform(140, 180), rng.uniform(170, 200)
    on_flesh.ellipse([x - width - 12, y - height - 12, x + width + 12, y + height + 60], 255)
    on_flesh.rectangle([x - 80, y + height, x + 80, 512], 255)
    on_bones.ellipse([x - width, y - height, x + width, y + height], 150)
    on_bones.ellipse([x - width, y - height, x + width, y + height], None, 255, 14)
    for side in (-1, 1):
        on_bones.ellipse([x + side * 70 - 42, y - 10, x + side * 70 + 42, y + 62], 60, 220, 5)
        on_bones.line([(x + side * 120, y + 60), (x + side * 90, y + 210), (x, y + 240)], 220, 26)
    on_bones.polygon([(x, y + 50), (x - 24, y + 110), (x + 24, y + 110)], 50)
    for tooth in range(-5, 6):
        on_bones.rectangle([x + tooth * 15 - 6, y + 140, x + tooth * 15 + 6, y + 180], 255)
    for level in range(4):
        on_bones.rectangle([x - 35, y + 250 + level * 30, x + 35, y + 270 + level * 30], 210)
    return _radiograph(flesh, bones, rng)


def knee(seed: int) -> Image.Image:
    """A knee, or another joint of two long bones."""
    rng = np.random.default_rng([7, seed])
    flesh, bones = (Image.new("L", (2 * SIDE, 2 * SIDE)) for _ in range(2))
    on_flesh, on_bones = ImageDraw.Draw(flesh), ImageDraw.Draw(bones)
    x, width, joint = 256 + rng.uniform(-40, 40), rng.uniform(40, 60), 256 + rng.uniform(-30, 30)
    on_flesh.rectangle([x - 3 * width, 0, x + 3 * width, 512], 255)
    for end, towards in ((-20, -1), (532, 1)):
        on_bones.rectangle([x - width, min(end, joint), x + width, max(end, joint)], 190)
        on_bones.line([(x - width, end), (x - width, joint)], 255, 14)
        on_bones.line([(x + width, end), (x + width, joint)], 255, 14)
        top = joint + towards * 55
        on_bones.ellipse([x - 2.1 * width, top - 50, x + 2.1 * width, top + 50], 225)
    if rng.random() < 0.6:
        on_bones.rectangle([x + 2.2 * width, joint + 60, x + 2.7 * width, 520], 210)
    return _radiograph(flesh, bones, rng)


def _radiograph(flesh: Image.Image, bones: Image.Image, rng: np.random.Generator) -> Image.Image:
    soft = np.asarray(flesh.filter(ImageFilter.GaussianBlur(12)), np.float32) / 255
    hard = np.asarray(bones.filter(ImageFilter.GaussianBlur(2)), np.float32) / 255
    grey = 255 * (rng.uniform(0.2, 0.4) * soft + rng.uniform(0.4, 0.6) * hard) + rng.normal(0, 4, soft.shape) + 8
    image = Image.fromarray(grey.clip(0, 255).astype(np.uint8)).rotate(rng.uniform(-12, 12))
    return image.resize((SIDE, SIDE)).convert("RGB")


def rotated(radiograph: Image.Image, quarters: int) -> Image.Image:
    """The radiograph turned by so many quarters of a circle."""
    return radiograph.rotate(90 * quarters, expand=True)


def upsampled(radiograph: Image.Image, side: int = 64) -> Image.Image:
    """What is left of the radiograph at `side` pixels, at its own size."""
    return radiograph.resize((side, side), Image.Resampling.BILINEAR).resize(radiograph.size, Image.Resampling.BICUBIC)


DRAWN: dict[str, Callable[[int], Image.Image]] = {
    "text pages": text_page,
    "screenshots": screenshot,
    "noise": noise,
    "blank": blank,
    "hands": hand,
    "skulls": skull,
    "knees": knee,
}
ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "negatives": ImageOps.invert,
    "upside down": lambda radiograph: rotated(radiograph, 2),
    "turned left": lambda radiograph: rotated(radiograph, 1),
    "turned right": lambda radiograph: rotated(radiograph, 3),
}


def chest(seed: int, view: str = "frontal", side: int = 48) -> Image.Image:
    """A rough chest radiograph, cheap to draw: two dark lungs and a heart from the front, one lung from the side."""
    rng = np.random.default_rng([8, seed, len(view)])
    image = Image.new("L", (4 * side, 4 * side), int(rng.integers(150, 190)))
    draw = ImageDraw.Draw(image)

    def ellipse(x: float, y: float, width: float, height: float, grey: int) -> None:
        x, y, width, height = 4 * side * (np.array([x, y, width, height]) + rng.normal(0, 0.012, 4))
        draw.ellipse([x - width, y - height, x + width, y + height], int(grey + rng.integers(-10, 10)))

    if view == "frontal":
        ellipse(0.28, 0.42, 0.16, 0.30, 60)
        ellipse(0.72, 0.42, 0.16, 0.30, 60)
        ellipse(0.55, 0.60, 0.16, 0.14, 200)
    else:
        ellipse(0.50, 0.42, 0.26, 0.32, 60)
        ellipse(0.34, 0.62, 0.14, 0.12, 190)
        ellipse(0.88, 0.50, 0.07, 0.50, 215)
    small = np.asarray(image.filter(ImageFilter.GaussianBlur(5)).resize((side, side)), np.float32)
    return Image.fromarray((small + rng.normal(0, 3, small.shape)).clip(0, 255).astype(np.uint8)).convert("RGB")


def chest_studies(count: int, first: int = 0, side: int = 48) -> list[dict]:
    """Studies of a rough chest from the front and from the side."""
    views = ["frontal", "lateral"]
    seeds = range(first, first + count)
    return [{"images": [chest(seed, view, side) for view in views], "views": views} for seed in seeds]
