"""What ReXrank asks for in a submission: inference.py, environment.yaml and a README.md."""

import os
from importlib import metadata
from pathlib import Path

from otdrg_hf.evaluation.rexrank.leaderboard_file import RUN_SUFFIX
from otdrg_hf.files import write_text
from otdrg_hf.reporting.loading import plain_name

_PINNED = ("otdrg-hf", "torch", "transformers", "huggingface-hub", "safetensors", "numpy", "pillow")
MODEL_FOLDER = "model"

_INFERENCE = '''\
"""Predictions for ReXrank: python inference.py --input_json_file X --save_json_file Y --img_root_dir Z"""

import argparse
import sys
from pathlib import Path

from otdrg_hf.evaluation.rexrank.command import run_rexrank

MODEL = {model}
SECTIONS = {sections!r}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("input_json_file", "save_json_file", "img_root_dir")
    for name in names:
        parser.add_argument(f"--{{name}}", type=Path)
    parser.add_argument("positional", nargs="*", type=Path, help="the three, in this order, without their names")
    parser.add_argument("--batch_size", type=int, default=8)
    arguments = parser.parse_args()
    given = [getattr(arguments, name) for name in names]
    paths = arguments.positional if not any(given) else given
    if len(paths) != 3 or not all(paths):
        parser.error("give --input_json_file, --save_json_file and --img_root_dir")
    run_rexrank(*paths, model=MODEL, sections=SECTIONS, batch_size=arguments.batch_size)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {{error}}")
'''

_ENVIRONMENT = """\
name: otdrg-rexrank
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
{packages}
"""

_README = """\
# {name}: submission to ReXrank

- Model: {name}, a radiology report generator of the OTDRG family (arXiv 2507.03908), run by otdrg-hf {version}.
- Board: {board}.
- Weights: {weights}
- For the e-mail: institution, paper, code and year of the model; what `otdrg rexrank` scores on the MIMIC-CXR test set.

```bash
conda env create -f environment.yaml
conda activate otdrg-rexrank
python inference.py --input_json_file INPUT.json --save_json_file OUTPUT.json --img_root_dir IMAGES
```

Each study is reported from all of its images, with their views and the indication and comparison of its context.
`OUTPUT.json` is `INPUT.json` with `model_prediction` in each study, and is checked before it is written. An interrupted
run resumes by the same command: `OUTPUT.json{run_suffix}/` holds what is done.
"""


def write_submission(folder: str | os.PathLike, model: str | None, sections: str) -> list[Path]:
    """
    Writes the three files of a submission. No weights are copied, and no path of this machine is named.

    Args:
        folder (`str` or `os.PathLike`): A folder that is not there yet, or is empty.
        model (`str`, *optional*): Hub id, or a folder, which is then to be laid next to the files as `model`; the
            bundled demo model by default.
        sections (`str`): The board.

    Raises:
        ValueError: for a folder with something in it, or a model's folder that is not one.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder.name} is there already: give a new folder")
    is_local = model is not None and os.path.isdir(model)
    if model is not None and not is_local and (model.count("/") > 1 or model.startswith((".", "~", "/"))):
        raise ValueError(f"the model {model!r} is not there: give a folder or a Hub id")
    name = plain_name(model) if model else "otdrg-demo (synthetic phantoms)"
    source, weights = "None", "those of the demo model in otdrg-hf."
    if is_local:
        source = f'str(Path(__file__).parent / "{MODEL_FOLDER}")'
        weights = f"copy the folder {name} next to this file as `{MODEL_FOLDER}/`."
    elif model:
        source, weights = repr(model), f"`{model}` on the Hub, downloaded once."
    boards = {"findings": "findings", "findings_impression": "findings + impression"}
    packages = "\n".join(f"      - {package}=={_version(package)}" for package in _PINNED)
    readme = {"name": name, "board": boards[sections], "weights": weights, "version": _version("otdrg-hf")}
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "environment.yaml": _ENVIRONMENT.format(packages=packages),
        "inference.py": _INFERENCE.format(model=source, sections=sections),
        "README.md": _README.format(**readme, run_suffix=RUN_SUFFIX),
    }
    for file, content in contents.items():
        write_text(folder / file, content)
    return [folder / file for file in contents]


def _version(package: str) -> str:
    """Without what names a build, such as +cpu, which package indexes do not have."""
    return metadata.version(package).partition("+")[0]
