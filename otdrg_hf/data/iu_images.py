"""The images of IU X-Ray: unpacked from their archive, and joined to reports and projections by their names."""

import json
import os
from collections import defaultdict
from typing import Any

from tqdm.auto import tqdm

from .archives import iter_files
from .iu_reports import IUReport
from .projections import Projection, image_key, study_number
from .rejections import DUPLICATE, rejection

MAX_IMAGE_BYTES = 256 << 20
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def unpack_images(archive: str, folder: str, record: str) -> None:
    """
    Unpack every PNG and JPEG of the archive, flat, into `folder`, one by one, so that an interrupted call is resumed.
    `record` gets a line of rejected.jsonl for each member that is left out; it appears when all is unpacked, and
    nothing is done where it is there already. Files that were unpacked before with the same size are kept.
    """
    if os.path.exists(record):
        return
    os.makedirs(folder, exist_ok=True)
    seen: set[str] = set()
    temporary = record + ".tmp"
    with open(temporary, "w", encoding="utf-8") as rejected:

        def reject(reason: str, detail: str = "", **what: Any) -> None:
            rejected.write(json.dumps(rejection(reason, detail, **what), ensure_ascii=False) + "\n")

        files = iter_files(archive, IMAGE_SUFFIXES, MAX_IMAGE_BYTES, reject)
        for member, content in tqdm(files, desc="Unpacking images", unit="image"):
            name = member.rpartition("/")[2]
            if name in seen:
                reject(DUPLICATE, "a second image of this name", member=member)
                continue
            seen.add(name)
            _write_once(os.path.join(folder, name), content)
    os.replace(temporary, record)


def _write_once(path: str, content: bytes) -> None:
    if os.path.isfile(path) and os.path.getsize(path) == len(content):
        return
    try:
        with open(path + ".tmp", "wb") as file:
            file.write(content)
        os.replace(path + ".tmp", path)
    except BaseException:
        if os.path.exists(path + ".tmp"):
            os.remove(path + ".tmp")
        raise


class StudyImages:
    """The images of the studies by the files that are there, whatever they were converted to or renamed by."""

    def __init__(self, image_root: str, projections: list[Projection]):
        self._views: dict[tuple[str, str], str] = {}
        self._projected: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for row in projections:
            key = image_key(row.uid, row.filename)
            self._views.setdefault(key, row.view)
            self._projected[row.uid].setdefault(key, row.filename)
        files = sorted(os.listdir(image_root)) if os.path.isdir(image_root) else []
        self._files = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        self._by_name = set(self._files)
        self._by_key = {image_key(name.split("_")[0], name): name for name in self._files}
        self._used: set[str] = set()

    def of(self, report: IUReport) -> tuple[list[str], list[str]]:
        """File names and views of a study's images, which the report names or else the projections do."""
        if report.images:
            keys = [image_key(report.id, stem) for stem in report.images]
            names, captioned = [f"{stem}.png" for stem in report.images], report.views
        else:
            projected = self._projected.get(study_number(report.id), {})
            keys, names, captioned = list(projected), list(projected.values()), ["unknown"] * len(projected)
        names = [self._file(key, name) for key, name in zip(keys, names, strict=True)]
        self._used.update(names)
        return names, [self._views.get(key, view) for key, view in zip(keys, captioned, strict=True)]

    def _file(self, key: tuple[str, str], name: str) -> str:
        name = os.path.basename(name.replace("\\", "/"))
        return name if name in self._by_name else self._by_key.get(key, name)

    def unnamed(self) -> list[str]:
        """The files that no report was given."""
        return [name for name in self._files if name not in self._used]
