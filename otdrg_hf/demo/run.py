"""The demo: reports of unseen phantoms and of any image given, with evidence pictures and a table of figures."""

import json
import os
import textwrap
from pathlib import Path

from PIL import Image
from transformers import pipeline

from otdrg_hf import DEMO_CHECKPOINT
from otdrg_hf.data.phantom import PhantomStudy, make_phantom
from otdrg_hf.images.overlay import save_overlay
from otdrg_hf.modeling.image_loading import load_radiograph
from otdrg_hf.modeling.pipeline_otdrg import TASK

from .figures import figures_table, phantom_figures

SHOWN_SEEDS = (1_000_001, 1_000_002, 1_000_003)
NOTE = "Synthetic-data demo; not for clinical use."


def run_demo(
    images: list[str], output_dir: str | os.PathLike, num_studies: int = 200, model: str | os.PathLike | None = None
) -> dict:
    """
    Writes `demo.json` and an overlay picture per study to `output_dir`.

    Args:
        images (`list[str]`): Films to report beside the phantoms; none of it leaves the machine.
        output_dir (`str` or `os.PathLike`): Made if it is not there.
        num_studies (`int`, *optional*, defaults to 200): Phantoms behind the table; 0 leaves it out.
        model (`str` or `os.PathLike`, *optional*): Defaults to the bundled checkpoint.

    Returns:
        `dict` with `studies` (name, generated_text, reference, findings, picture) and `figures`.
    """
    pictures = {f"image-{index}": load_radiograph(path) for index, path in enumerate(images, start=1)}
    report = pipeline(TASK, model=str(model or DEMO_CHECKPOINT))
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    studies = [_show_phantom(report, make_phantom(seed, "test", image_size=448), output) for seed in SHOWN_SEEDS]
    studies += [_show_image(report, name, picture, output) for name, picture in pictures.items()]
    result = {"note": NOTE, "studies": studies, "figures": {}}
    if num_studies:
        result["figures"] = phantom_figures(report, num_studies)
    temporary = output / "demo.json.tmp"
    temporary.write_text(json.dumps(result, indent=2))
    os.replace(temporary, output / "demo.json")
    return result


def _show_phantom(report, phantom: PhantomStudy, output: Path) -> dict:
    study = {"images": phantom.images, "views": phantom.views, "indication": phantom.indication}
    answer = report(study, evidence=True)
    picture = output / f"{phantom.id}.png"
    save_overlay(picture, phantom.images, answer, boxes=phantom.boxes, note=f"{NOTE} Blue: where the sign was drawn.")
    return _record(phantom.id, answer, picture, reference=phantom.report)


def _show_image(report, name: str, image: Image.Image, output: Path) -> dict:
    answer = report(image, evidence=True)
    picture = output / f"{name}.png"
    save_overlay(picture, [image], answer, note=NOTE)
    return _record(name, answer, picture, reference=None)


def _record(name: str, answer: dict, picture: Path, reference: str | None) -> dict:
    return {
        "name": name,
        "generated_text": answer["generated_text"],
        "reference": reference,
        "findings": answer["findings"],
        "picture": picture.name,
    }


def demo_text(result: dict, num_studies: int) -> str:
    """The demo's result as text for a terminal."""
    blocks = []
    for study in result["studies"]:
        lines = [study["name"], *_paragraph("report", study["generated_text"])]
        if study["reference"]:
            lines += _paragraph("truth", study["reference"])
        named = [f"{f['label']} {f['state']} {f['score']:.2f}" for f in study["findings"] if f["state"] != "blank"]
        lines += _paragraph("labels", "; ".join(named))
        blocks.append("\n".join([*lines, f"  picture {study['picture']}"]))
    if result["figures"]:
        blocks.append(figures_table(result["figures"], num_studies))
    return "\n\n".join([*blocks, result["note"]])


def _paragraph(name: str, text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent=f"  {name:<8}", subsequent_indent=" " * 10)
