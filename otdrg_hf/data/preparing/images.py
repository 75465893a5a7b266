"""The images of a preparation: unpacked, checked to their end, and resized with the grey values that a model sees."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from otdrg_hf.data.errors import DUPLICATE, IMAGE_MISSING, IMAGE_UNREADABLE, Rejected, rejection
from otdrg_hf.data.source_files import iter_files
from otdrg_hf.files import atomic_path, write_bytes
from otdrg_hf.modeling.image_loading import MAX_PIXELS, MIN_SIDE, load_radiograph

MAX_IMAGE_BYTES = 256 << 20
JPEG_QUALITY = 95
_PROBE_SIZE = 256


def unpack_images(archive: str, suffixes: tuple[str, ...], folder: str, record: str) -> None:
    """
    Unpacks every image of an archive, flat, one by one, so that an interrupted call is resumed.

    Args:
        archive (`str`): A tar or zip archive.
        suffixes (`tuple[str, ...]`): The endings of the names of images, in lower case.
        folder (`str`): Where to; a file that is there with the same size is kept.
        record (`str`): A file that gets a line of rejected.jsonl for each member that is left out. It appears when all
            is unpacked, and nothing is done if it is there already.
    """
    if os.path.exists(record):
        return
    os.makedirs(folder, exist_ok=True)
    seen: set[str] = set()
    with atomic_path(record) as unfinished, unfinished.open("w", encoding="utf-8") as rejected:

        def reject(reason: str, detail: str = "", **what: Any) -> None:
            rejected.write(json.dumps(rejection(reason, detail, **what), ensure_ascii=False) + "\n")

        files = iter_files(archive, suffixes, MAX_IMAGE_BYTES, reject)
        for member, content in tqdm(files, desc="Unpacking images", unit="image"):
            name = member.rpartition("/")[2]
            path = os.path.join(folder, name)
            if name in seen:
                reject(DUPLICATE, "a second image of this name", member=member)
            elif not (os.path.isfile(path) and os.path.getsize(path) == len(content)):
                write_bytes(path, content)
            seen.add(name)


def check_image(path: str) -> None:
    """
    Reads an image file, also DICOM, to its end.

    JPEGs are decoded at a reduced size, which reads all of the file. Damage in the middle that the decoder conceals is
    not noticed.

    Raises:
        [`Rejected`]: for a file that is missing or that [`load_radiograph`] refuses.
    """
    _load(path, _PROBE_SIZE)


def resized_jpeg(path: str, image_size: int) -> bytes:
    """
    The grey values that [`load_radiograph`] gives, as a JPEG of quality 95 whose shorter side is `image_size` pixels,
    the aspect kept; smaller images keep their size. Raises [`Rejected`].
    """
    image = _load(path, image_size).convert("L")
    scale = image_size / min(image.size)
    if scale < 1:
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=JPEG_QUALITY)
    return content.getvalue()


def _load(path: str, draft_size: int) -> Image.Image:
    if not os.path.isfile(path):
        raise Rejected(IMAGE_MISSING)
    try:
        with _reduced_jpeg(path, draft_size) as image:
            return load_radiograph(image or path)
    except ValueError as error:
        raise Rejected(IMAGE_UNREADABLE, str(error)) from None


@contextmanager
def _reduced_jpeg(path: str, draft_size: int) -> Iterator[Image.Image | None]:
    """
    A JPEG decoded without detail that is not needed, in less than half the time, and never below `draft_size`. `None`
    for any other file, and for one too large or damaged from its start.
    """
    try:
        image = Image.open(path, formats=("JPEG",))
    except Exception:  # Pillow's decoders raise almost anything; the loader will say what is wrong
        yield None
        return
    with image:
        if image.width * image.height > MAX_PIXELS:
            yield None
            return
        size = max(draft_size, MIN_SIDE)
        image.draft("L", (size, size))
        yield image
