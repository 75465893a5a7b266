"""DICOM films that the tests make themselves, in every transfer syntax that can be written here."""

import io
import struct

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
    pixels: np.ndarray,
    syntax: str = uid.ExplicitVRLittleEndian,
    bits: int | None = None,
    pixel_data: bytes | None = None,
    **elements,
) -> bytes:
    """
    A digital radiograph with a telling header, as a file's content.

    Args:
        pixels (`np.ndarray`): `[H, W]`, or `[H, W, 3]`, uint8, uint16 or int16.
        syntax (`str`): The transfer syntax.
        bits (`int`, *optional*): Bits stored; by default all that are allocated.
        pixel_data (`bytes`, *optional*): What stands in the place of the pixels, of undefined length if it is in items.
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
    if pixel_data is None:
        _set_pixels(data, pixels, syntax)
    else:
        data.PixelData = pixel_data
        data["PixelData"].is_undefined_length = pixel_data.startswith(b"\xfe\xff\x00\xe0")
        data.file_meta.TransferSyntaxUID = syntax
    for keyword, value in elements.items():
        if value is None:
            data.pop(keyword, None)
        else:
            setattr(data, keyword, value)
    buffer = io.BytesIO()
    if pixel_data is None:
        pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    else:  # pydicom writes no pixels that contradict their syntax, but this it does not look at
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        pydicom.dcmwrite(buffer, data, enforce_file_format=True)
        return change_syntax(buffer.getvalue(), syntax)
    return buffer.getvalue()


def change_syntax(content: bytes, syntax: str) -> bytes:
    """The same explicit little-endian file under another transfer syntax, true or not."""
    data = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    start = 144 + int.from_bytes(content[140:144], "little")
    meta = io.BytesIO()
    data.file_meta.TransferSyntaxUID = syntax
    pydicom.filewriter.write_file_meta_info(meta, data.file_meta)
    return bytes(128) + b"DICM" + meta.getvalue() + content[start:]


def in_items(*fragments: bytes, table: bytes | None = b"") -> bytes:
    """Fragments, each of an even length, behind an offset table (`None` for without it)."""
    items = fragments if table is None else (table, *fragments)
    return b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in items)


def even(stream: bytes) -> bytes:
    return stream + bytes(len(stream) % 2)


def lut(values, bits: int, first: int = 0, packed: bool = False, **elements) -> pydicom.Sequence:
    """A sequence of one table. `elements` replace its own; `None` leaves one out."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 2**16, first % 2**16, bits])
    words = np.asarray(values, np.uint8 if packed else np.uint16).tobytes()
    item.add_new("LUTData", "OW", even(words))
    for keyword, value in elements.items():
        del item[keyword]
        if value is not None:
            item.add_new(keyword, "OW" if keyword == "LUTData" else "US", value)
    return pydicom.Sequence([item])


def _set_pixels(data: pydicom.Dataset, pixels: np.ndarray, syntax: str) -> None:
    if syntax == uid.RLELossless:
        data.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == uid.ExplicitVRBigEndian:
        data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    elif uid.UID(syntax).is_encapsulated:
        data.PixelData = encapsulate([compress(pixels, syntax, data.BitsStored)])
    data["PixelData"].is_undefined_length = uid.UID(syntax).is_encapsulated
    data.file_meta.TransferSyntaxUID = syntax


def compress(pixels: np.ndarray, syntax: str, bits: int) -> bytes:
    """The pixels as a stream of a syntax of JPEG's family."""
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
