"""Radiographs in files: DICOM as a Pillow plugin, which importing this registers; finding images; evidence overlays."""

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from otdrg_hf.modeling.image_loading import load_radiograph as load_radiograph

__all__ = ["load_radiograph"]


def _open_dicom(file, filename) -> Image.Image:
    from otdrg_hf.images.dicom import DicomImageFile  # numpy, and pydicom for a DICOM file, when an image is opened

    return DicomImageFile(file, filename)


# Without a check of the first 16 bytes, which is all that Pillow offers: DICOM is recognised by byte 128.
Image.register_open("DICOM", _open_dicom)
Image.register_mime("DICOM", "application/dicom")
Image.register_extensions("DICOM", [".dcm", ".dicom"])


def __getattr__(name: str):
    if name == "load_radiograph":
        from otdrg_hf.modeling.image_loading import load_radiograph

        return load_radiograph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
