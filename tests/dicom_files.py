"""DICOM films that the tests make themselves, in every transfer syntax that can be written here."""

import io

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

# What must never be seen outside a file.
SECRETS = {
    "PatientName": "Roentgen^Anna",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "18391225",
    "InstitutionName": "Wuerzburg Clinic",
    "StudyDate": "18951108",
    "AccessionNumber": "ACC-0815",
}
LOSSLESS = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg lossless": uid.JPEGLossless,
    "jpeg lossless sv1": uid.JPEGLosslessSV1,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg 2000": uid.JPEG2000Lossless,
}
LOSSY = {"jpeg": uid.JPEGBaseline8Bit, "jpeg 2000": uid.JPEG2000, "jpeg-ls": uid.JPEGLSNearLossless}
JPEG_FAMILY = {
    uid.JPEGExtended12Bit: ("jpeg8_encode", {"level": 95}),
    uid.JPEGLossless: ("jpeg8_encode", {"lossless": True, "predictor": 4}),
    uid.JPEGLosslessSV1: ("jpeg8_encode", {"lossless": True, "predictor": 1}),
    uid.JPEGLSLossless: ("jpegls_encode", {}),
    uid.JPEGLSNearLossless: ("jpegls_encode", {"level": 3}),
}


def make_dicom(
    pixels: np.ndarray, syntax: str = uid.ExplicitVRLittleEndian, bits: int | None = None, **elements
) -> bytes:
    """
    A digital radiograph with a telling header, as a file's content.

    Args:
        pixels (`np.ndarray`): `[H, W]`, or `[H, W, 3]`, uint8, uint16 or int16.
        syntax (`str`): The transfer syntax.
        bits (`int`, *optional*): Bits stored; by default all that are allocated.
        elements: Further elements by keyword; `None` leaves one out.
    """
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    data.Modality = "DX"
    for keyword, value in SECRETS.items():
        setattr(data, keyword, value)
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
    _set_pixels(data, pixels, syntax)
    for keyword, value in elements.items():
        if value is None:
            del data[keyword]
        else:
            setattr(data, keyword, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _set_pixels(data: pydicom.Dataset, pixels: np.ndarray, syntax: str) -> None:
    if syntax == uid.RLELossless:
        data.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == uid.ExplicitVRBigEndian:
        data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    elif uid.UID(syntax).is_encapsulated:
        data.PixelData = encapsulate([_frame(pixels, syntax, data.BitsStored)])
    data["PixelData"].is_undefined_length = uid.UID(syntax).is_encapsulated
    data.file_meta.TransferSyntaxUID = syntax


def _frame(pixels: np.ndarray, syntax: str, bits: int) -> bytes:
    if syntax in JPEG_FAMILY:
        import imagecodecs

        name, options = JPEG_FAMILY[syntax]
        if name == "jpeg8_encode":
            options = {**options, "bitspersample": bits}
        return getattr(imagecodecs, name)(pixels.astype(pixels.dtype.str.replace("i", "u")), **options)
    stream = io.BytesIO()
    if syntax == uid.JPEGBaseline8Bit:
        Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    else:
        lossy = {"irreversible": True, "quality_layers": [8]} if syntax == uid.JPEG2000 else {}
        Image.fromarray(pixels).save(stream, "JPEG2000", no_jp2=True, **lossy)
    return stream.getvalue()
