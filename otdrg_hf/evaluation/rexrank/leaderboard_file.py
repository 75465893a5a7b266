"""ReXrank's JSON file: one entry per study, which comes back with `model_prediction`."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otdrg_hf.data.errors import DataError
from otdrg_hf.data.source_files import join_inside
from otdrg_hf.files import atomic_path
from otdrg_hf.images.views import view_of

PREDICTION = "model_prediction"
RUN_SUFFIX = ".run"
SECTIONS = ("findings", "findings_impression")
_ABSENT = ("", "nan", "none")
_FIELDS = re.compile(r"(?<![A-Za-z])(Age|Gender|Indication|Comparison):", re.IGNORECASE)
_SEXES = {"m": "male", "f": "female"}
# What an indication says that names the person already.
_PERSON = re.compile(r"\b(years?|yrs?|y/?o|male|female|man|woman|[MF])\b")


@dataclass(frozen=True)
class Context:
    """What ReXrank's `context` says of a study; empty where it says nothing."""

    indication: str = ""
    comparison: str = ""
    age: str = ""
    sex: str = ""

    def described_indication(self) -> str:
        """The indication, with age and sex in words in front where it names neither."""
        age = f"{self.age}-year-old" if self.age else ""
        person = " ".join(filter(None, (age, self.sex)))
        if not person or _PERSON.search(self.indication):
            return self.indication
        return f"{person[0].upper()}{person[1:]}. {self.indication}".strip()


@dataclass(frozen=True)
class LeaderboardFile:
    """
    A file of ReXrank's form.

    Attributes:
        name (`str`): Of the file.
        entries (`dict[str, dict]`): By the id of the study, as they are in the file.
        warnings (`list[str]`): What was accepted but deserves a look.
    """

    name: str
    entries: dict[str, dict[str, Any]]
    warnings: list[str]


def parse_context(context: Any) -> Context:
    """
    Reads `Age:50-60.Gender:M.Indication: ... Comparison: ...`, of which any part may be missing, `nan` or `None`.

    The last `Comparison:` counts, and nothing within the indication does.
    """
    if not isinstance(context, str):
        return Context()
    text = context.replace("<context>", "").replace("</context>", "")
    found: dict[str, tuple[int, int]] = {}
    for match in _FIELDS.finditer(text):
        name = match[1].lower()
        if name not in found or name == "comparison":
            found[name] = match.span()
    values = {}
    for name, (_, start) in found.items():
        end = min((other for other, _ in found.values() if other >= start), default=len(text))
        value = " ".join(text[start:end].split())
        value = value.rstrip(".") if name in ("age", "gender") else value
        values[name] = "" if value.lower() in _ABSENT else value
    age = values.get("age", "").removesuffix(".0")
    sex = _SEXES.get(values.get("gender", "").lower(), "")
    return Context(values.get("indication", ""), values.get("comparison", ""), age, sex)


def read_leaderboard_file(path: str | os.PathLike) -> LeaderboardFile:
    """
    Reads and checks a file of ReXrank's form.

    Raises:
        ValueError: for a file of another form, an id that is there twice, and studies without an image, in one line
            with their number and the first id.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.name}")
    entries = _parse(path)
    _refuse(path.name, "without image_path (a list of names)", entries, lambda entry: not image_names(entry))
    warnings: list[str] = []
    _note(
        warnings,
        "without one view for each image",
        entries,
        lambda entry: _views(entry) is None,
        "their key_image_path is taken as frontal, other images as of an unknown view",
    )
    return LeaderboardFile(path.name, entries, warnings)


def _parse(path: Path) -> dict[str, dict[str, Any]]:
    twice: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path.name} is not a file of ReXrank's form: an object with an entry for each study")
    if twice:
        raise ValueError(f"{path.name} has {len(twice)} ids twice, the first is {twice[0]!r}")
    _refuse(path.name, "that are not objects", content, lambda entry: not isinstance(entry, dict))
    return content


def image_names(entry: dict[str, Any]) -> list[str]:
    """The names of a study's images, under `--img_root_dir`; none where the entry names none."""
    names = entry.get("image_path")
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip("/ ") for name in names):
        return []
    return names


def read_inputs(entry: dict[str, Any], img_root_dir: str | os.PathLike) -> dict[str, Any]:
    """
    What the pipeline takes of an entry: frontal images first, their views, the indication and the comparison.

    Raises:
        ValueError: for an image outside `img_root_dir`.
    """
    names = image_names(entry)
    views = _views(entry)
    if views is None:
        views = ["frontal" if name == entry.get("key_image_path") else "unknown" for name in names]
    order = sorted(range(len(names)), key=lambda position: views[position] != "frontal")
    context = parse_context(entry.get("context"))
    try:
        # MIMIC-CXR's names start with a slash, and mean the same folder.
        paths = [join_inside(str(img_root_dir), name.strip().lstrip("/")) for name in names]
    except DataError as error:
        raise ValueError(str(error).replace("dataset folder", "folder --img_root_dir")) from None
    return {
        "images": [paths[position] for position in order],
        "views": [views[position] for position in order],
        "indication": context.described_indication(),
        "comparison": context.comparison,
    }


def check_images(file: LeaderboardFile, img_root_dir: str | os.PathLike) -> None:
    """Raises `ValueError` with the number of images that are not in the folder, and the first of them."""
    if not Path(img_root_dir).is_dir():
        raise ValueError(f"--img_root_dir {Path(img_root_dir).name} is not a folder")
    missing = []
    for key, entry in file.entries.items():
        paths = read_inputs(entry, img_root_dir)["images"]
        missing += [(key, os.path.relpath(path, img_root_dir)) for path in paths if not os.path.isfile(path)]
    if missing:
        key, name = missing[0]
        total = sum(len(image_names(entry)) for entry in file.entries.values())
        raise ValueError(f"{len(missing)} of {total} images are not in --img_root_dir, the first is {name} of {key!r}")


def reference(entry: dict[str, Any], sections: str) -> str:
    """What ReXrank compares a prediction with: the findings (empty where there are none), or both sections."""
    findings, impression = (section_text(entry, name) for name in ("findings", "impression"))
    if sections == "findings":
        return findings
    # ReXrank writes None for a section that is not there.
    return f"Findings: {findings or None} Impression: {impression or None}"


def section_text(entry: dict[str, Any], section: str) -> str:
    """A section of the reference; empty for NaN, which CheXpert Plus has in most studies."""
    text = entry.get(f"section_{section}")
    return text.strip() if isinstance(text, str) and text.strip().lower() not in _ABSENT else ""


def write_predictions(path: str | os.PathLike, file: LeaderboardFile, predictions: dict[str, str]) -> list[str]:
    """
    Writes the file that ReXrank takes, whole or not at all, and reads it back to check it.

    Args:
        path (`str` or `os.PathLike`): The file to write.
        file ([`LeaderboardFile`]): What was asked.
        predictions (`dict[str, str]`): A text for each study.

    Returns:
        `list[str]`: what ReXrank accepts but deserves a look: empty predictions.

    Raises:
        ValueError: as of [`check_predictions`]; nothing is written then.
    """
    answered = {
        key: {**entry, **({PREDICTION: predictions[key]} if key in predictions else {})}
        for key, entry in file.entries.items()
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(answered, indent=4) + "\n", encoding="utf-8")
        return check_predictions(json.loads(temporary.read_text(encoding="utf-8")), file)


def check_predictions(answered: dict[str, Any], file: LeaderboardFile) -> list[str]:
    """
    Checks an answer to a file of ReXrank's: the same studies in the same order, each as it was and with a prediction.

    Returns:
        `list[str]`: a line on empty predictions, where there are any.

    Raises:
        ValueError: in one line, with the number of studies at fault and the first id.
    """
    if list(answered) != list(file.entries):
        absent = [key for key in file.entries if key not in answered]
        raise ValueError(f"{len(absent)} studies of {file.name} are missing, the first is {next(iter(absent), None)!r}")
    name = "the answer"
    _refuse(name, "without a text as model_prediction", answered, lambda row: not isinstance(row.get(PREDICTION), str))
    changed = {
        key: json.dumps(_without(row)) != json.dumps(_without(file.entries[key])) for key, row in answered.items()
    }
    _refuse(name, "whose other fields have changed", changed, bool)
    warnings: list[str] = []
    _note(warnings, "with an empty prediction", answered, lambda row: not row[PREDICTION].strip(), "ReXrank scores 0")
    return warnings


def _without(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != PREDICTION}


def _views(entry: dict[str, Any]) -> list[str] | None:
    """The views of a study's images; `None` where the entry does not have one for each."""
    views = entry.get("frontal_lateral")
    views = [views] if isinstance(views, str) else views
    if not isinstance(views, list) or len(views) != len(image_names(entry)):
        return None
    return [view_of(view if isinstance(view, str) else None) for view in views]


def at_fault(entries: dict[str, Any], is_wrong: Callable[[Any], bool]) -> list[str]:
    """The ids of the entries for which `is_wrong`."""
    return [key for key, entry in entries.items() if is_wrong(entry)]


def counted(keys: Sequence[str], total: int) -> str:
    """`3 of 590 studies, the first is 'CXR1'`."""
    return f"{len(keys)} of {total} studies, the first is {keys[0]!r}"


def _refuse(name: str, what: str, entries: dict[str, Any], is_wrong: Callable[[Any], bool]) -> None:
    if keys := at_fault(entries, is_wrong):
        raise ValueError(f"{name} has studies {what}: {counted(keys, len(entries))}")


def _note(
    warnings: list[str], what: str, entries: dict[str, Any], is_so: Callable[[Any], bool], consequence: str
) -> None:
    if keys := at_fault(entries, is_so):
        warnings.append(f"studies {what}: {counted(keys, len(entries))}; {consequence}")
