"""DICOM films in datasets: Pillow, by which `datasets` decodes images, learns to open them."""

import os
import warnings

from PIL import Image

from otdrg_hf.extras import require
from otdrg_hf.modeling.dicom_otdrg import file_view, is_dicom

_FORMAT = "DICOM"
_SUFFIXES = (".dcm", ".dicom")
_VIEW_ELEMENTS = ["ViewPosition", "ViewCodeSequence"]


def register_dicom() -> None:
    """
    Lets `PIL.Image.open` open DICOM films (see [`load_radiograph`]), in this process.

    They open as 8-bit RGB. Opening raises `ValueError` for DICOM that is no radiograph, `ImportError` without pydicom.
    """
    if _FORMAT not in Image.OPEN:
        # The check that Pillow offers sees 16 bytes, and what tells DICOM stands at byte 128.
        Image.register_open(_FORMAT, _open)
        Image.register_extensions(_FORMAT, list(_SUFFIXES))


def view_in_file(path: str) -> str:
    """The view that a DICOM file names; `"unknown"` for any other file, and for one that is missing or damaged."""
    if not path.lower().endswith(_SUFFIXES) or not os.path.isfile(path):
        return "unknown"
    require("pydicom", extra="dicom")
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom")
            return file_view(pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_VIEW_ELEMENTS))
    except Exception:  # pydicom raises almost anything; reading the image will say what is wrong
        return "unknown"


def _open(file, filename: str) -> Image.Image:
    head = file.read(132)
    if not is_dicom(head):
        raise SyntaxError("not DICOM")
    from otdrg_hf.modeling.image_loading import load_radiograph  # which imports torch

    name = f"image {os.path.basename(filename)!r}" if filename else "DICOM image"
    return load_radiograph(head + file.read(), name)
