"""Unpacks the image archive of IU X-Ray file by file, so that it can be cut off and taken up again."""

import json
import os
from typing import Any

from tqdm.auto import tqdm

from .archives import iter_files
from .rejections import DUPLICATE, rejection

MAX_IMAGE_BYTES = 256 << 20


def unpack_images(archive: str, folder: str, record: str) -> None:
    """
    Unpack every PNG of the archive, flat, into `folder`. `record` gets a line of rejected.jsonl for each member that
    is left out; it appears when all is unpacked, and nothing is done where it is there already. Files that were
    unpacked before with the same size are kept.
    """
    if os.path.exists(record):
        return
    os.makedirs(folder, exist_ok=True)
    seen: set[str] = set()
    temporary = record + ".tmp"
    with open(temporary, "w", encoding="utf-8") as rejected:

        def reject(reason: str, detail: str = "", **what: Any) -> None:
            rejected.write(json.dumps(rejection(reason, detail, **what), ensure_ascii=False) + "\n")

        files = iter_files(archive, ".png", MAX_IMAGE_BYTES, reject)
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
