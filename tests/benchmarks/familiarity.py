"""
How well a model with input statistics tells what it knows: AUROC and share called unfamiliar for each kind of image.

    python -m tests.benchmarks.familiarity MODEL phantom --num_studies 300 --kind real=films/ --kind photos=photos/
    python -m tests.benchmarks.familiarity MODEL data/iu_xray --kind nih=nih/

The known images are the test studies of the dataset; other kinds are drawn, made of these, or read from folders.
"""

import argparse
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from otdrg_hf.data import load_study_dataset
from otdrg_hf.data.phantom import PHANTOM_NAMES, make_phantom
from otdrg_hf.images.finding import find_images
from otdrg_hf.modeling.familiarity_otdrg import InputStatistics
from otdrg_hf.modeling.image_loading import load_radiograph
from otdrg_hf.reporting import load_reporter
from tests.support.other_images import ALTERED, DRAWN, upsampled

BATCH = 16


class Judge:
    """Distances of images to each view, and the view that they look like."""

    def __init__(self, model: str):
        self.report = load_reporter(model)
        self.statistics = InputStatistics.unpack(self.report.model.config.input_statistics)
        self.views = list(self.statistics.views)

    @torch.no_grad()
    def __call__(self, images: Iterable[Image.Image]) -> tuple[np.ndarray, list[str]]:
        images, totals, looks = [load_radiograph(image) for image in images], [], []
        for start in range(0, len(images), BATCH):
            processor, model = self.report.processor, self.report.model
            values = processor.image_processor(images[start : start + BATCH], return_tensors="pt")["pixel_values"]
            features = model.model.get_vision_features(values.to(model.device, model.dtype))[:, 0]
            distances = self.statistics.distances(features, processor.plain_pixels(values))
            totals.append(distances.total.numpy())
            looks += [self.views[index] for index in distances.content.argmin(1)]
        return np.concatenate(totals), looks


def phantoms(view: str, count: int, size: int) -> Iterator[Image.Image]:
    for seed in range(count):
        study = make_phantom(seed, "test", image_size=size)
        yield from (image for image, each in zip(study.images, study.views, strict=True) if each == view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("model")
    parser.add_argument("dataset", help="whose test studies are known")
    parser.add_argument("--num_studies", type=int, default=300)
    parser.add_argument("--altered", type=int, default=100, help="known images of each view to alter")
    parser.add_argument("--image_size", type=int, default=128, help="of phantoms")
    parser.add_argument("--kind", action="append", default=[], metavar="NAME=FOLDER", help="images of another kind")
    parser.add_argument("--upsampled", action="append", default=[], metavar="NAME=FOLDER", help="at 64 pixels")
    parser.add_argument("--phantoms", type=int, default=0, help="phantoms, as another kind")
    args = parser.parse_args()
    judge = Judge(args.model)
    options = {"num_studies": args.num_studies, "image_size": args.image_size} if args.dataset in PHANTOM_NAMES else {}
    studies = load_study_dataset(args.dataset, split="test", **options)
    studies = studies.select(range(min(args.num_studies, len(studies))))
    known: dict[str, list[Image.Image]] = {view: [] for view in judge.views}
    for study in studies:
        for image, view in zip(study["images"], study["views"], strict=True):
            known.setdefault(view, []).append(image.convert("RGB"))
    seen = {view: judge(images) for view, images in known.items() if images and view in judge.views}
    inside = np.concatenate([totals[:, judge.views.index(view)] for view, (totals, _) in seen.items()])
    print("| images | number | AUROC | called unfamiliar | median distance |\n|---|---|---|---|---|")
    for view, (totals, _) in seen.items():
        own = totals[:, judge.views.index(view)]
        print(f"| known, {view} | {len(own)} | | {np.mean(own > 1):.3f} | {np.median(own):.2f} |", flush=True)

    def show(name: str, distances: np.ndarray) -> None:
        truth = np.r_[np.zeros(len(inside)), np.ones(len(distances))]
        auroc = roc_auc_score(truth, np.r_[inside, distances])
        share, middle = np.mean(distances > 1), np.median(distances)
        print(f"| {name} | {len(distances)} | {auroc:.4f} | {share:.3f} | {middle:.2f} |", flush=True)

    if set(seen) >= {"frontal", "lateral"}:
        show("lateral given as frontal", seen["lateral"][0][:, judge.views.index("frontal")])
        show("frontal given as lateral", seen["frontal"][0][:, judge.views.index("lateral")])
    for kind, alter in ALTERED.items():
        for view, images in known.items():
            if images and view in seen:
                show(f"{kind}, {view}", judge(map(alter, images[: args.altered]))[0].min(1))
    for kind, draw in DRAWN.items():
        show(kind, judge(draw(seed) for seed in range(60))[0].min(1))
    if args.phantoms:
        for view in ("frontal", "lateral"):
            show(f"phantoms, {view}", judge(phantoms(view, args.phantoms, args.image_size))[0].min(1))
    for given, change in ((args.kind, lambda image: image), (args.upsampled, upsampled)):
        for name, _, folder in (each.partition("=") for each in given):
            images = (change(load_radiograph(each.location)) for each in find_images([folder]))
            show(f"{name}{', at 64 pixels' if change is upsampled else ''}", judge(images)[0].min(1))
    right = [look == view for view, (_, looks) in seen.items() for look in looks]
    print(f"\nView recognised: {np.mean(right):.4f} of {len(right)} known images.")


if __name__ == "__main__":
    main()
