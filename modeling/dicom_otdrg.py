"""DICOM radiographs as grey values and the name of their view; nothing else of their header is read."""

import io
import warnings
import zlib
from dataclasses import dataclass

import numpy as np

from .dicom_decoding import BY_IMAGECODECS, BY_PYDICOM, MissingDecoder, decode_pixels

MAX_BYTES = 200_000_000
MAX_PIXELS = 15_000 * 10_000
# Digitised film (HC) and converted pictures (OT) are radiographs often enough.
RADIOGRAPH_MODALITIES = ("", "CR", "DX", "DR", "RG", "RF", "HC", "OT")
OTHER_MODALITIES = {
    "CT": "a CT slice",
    "MR": "an MR slice",
    "PT": "a PET slice",
    "NM": "a scintigram",
    "US": "an ultrasound image",
    "MG": "a mammogram",
}
VIEW_OF_MEANING = {
    "postero-anterior": "PA",
    "antero-posterior": "AP",
    "lateral": "LATERAL",
    "left lateral": "LATERAL",
    "right lateral": "LATERAL",
}
# The only elements that are parsed: none says who the patient is.
READ_ELEMENTS = [
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Modality", "ViewPosition", "ViewCodeSequence"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth", "PixelData"),
]
_DEFLATED = "1.2.840.10008.1.2.1.99"
_INSTALL = "pip install 'otdrg-hf[dicom]'"


@dataclass(frozen=True)
class DicomRadiograph:
    """
    What is read of a DICOM file.

    Attributes:
        pixels (`np.ndarray`): `[H, W]` stored integers, or float32 from 0 to 1 where a window or table was applied;
            `[H, W, 3]` for a colour picture.
        inverted (`bool`): Whether its lowest value is white.
        view (`str`): `"frontal"`, `"lateral"` or `"unknown"`.
    """

    pixels: np.ndarray
    inverted: bool
    view: str


def view_of(position: str | None) -> str:
    """
    Map a DICOM ViewPosition, as in MIMIC-CXR's metadata, or a plain word to one of "frontal", "lateral", "unknown".

    PA and AP, also axial or decubitus (`AP AXIAL`, `AP LLD`, `PA RLD`), are frontal; LATERAL, LL, RL and
    `XTABLE LATERAL` are lateral; obliques (LAO, RPO, ...), `SWIMMERS` and an empty position are unknown.
    """
    words = (position or "").upper().replace("-", " ").split()
    if "LATERAL" in words or words in (["LL"], ["RL"], ["LAT"]):
        return "lateral"
    if words and words[0] in ("PA", "AP", "FRONTAL"):
        return "frontal"
    return "unknown"


def is_dicom(head: bytes) -> bool:
    """Whether a file that starts with these bytes (132 are enough) is DICOM, with its preamble or without."""
    if head[128:132] == b"DICM":
        return True
    # Without preamble a file starts with its first element: group 2 or 8, then a value representation or a length.
    group, element = (int.from_bytes(head[at : at + 2], "little") for at in (0, 2))
    explicit = head[4:6] in (b"UL", b"OB", b"UI", b"SH", b"CS", b"DA", b"TM")
    implicit = len(head) >= 8 and int.from_bytes(head[4:8], "little") <= 128
    return group in (2, 8) and element <= 0x0070 and (explicit or implicit)


def read_dicom(content: bytes, name: str) -> DicomRadiograph:
    """
    Reads a single-frame radiograph of 8 to 16 bits: uncompressed, deflated, RLE, JPEG, JPEG lossless, JPEG-LS or
    JPEG 2000, with its modality table and its first VOI table or window (DICOM PS3.3, C.11.1 and C.11.2) applied.

    Args:
        content (`bytes`): The file.
        name (`str`): What to call it in an error. Errors never quote the header.

    Raises:
        ImportError: if pydicom, or the decoder of its compression, is not installed.
        ValueError: if it is damaged, or no single-frame radiograph.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise ImportError(f"{name} is DICOM, which needs pydicom: {_INSTALL}") from None
    with warnings.catch_warnings():
        # They quote the header, and what is wrong with a file is said in one line.
        warnings.filterwarnings("ignore", module=r"pydicom|PIL|.*dicom_")
        return _read(content, name, pydicom)


class _Refused(Exception):
    pass


def _read(content: bytes, name: str, pydicom) -> DicomRadiograph:
    try:
        data = pydicom.dcmread(io.BytesIO(_inflated(content, name)), force=True, specific_tags=READ_ELEMENTS)
        syntax = _transfer_syntax(data, pydicom)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception:  # pydicom raises almost anything, and quotes what it reads
        raise ValueError(f"{name}: the DICOM data is damaged or cut short.") from None
    problem = _problem(data)
    if problem:
        raise ValueError(f"{name}: {problem}.")
    if syntax not in (*BY_PYDICOM, *BY_IMAGECODECS):
        raise ValueError(f"{name}: its compression cannot be read; export it uncompressed.")
    try:
        pixels = _pixels(data, syntax, pydicom.pixels)
        return DicomRadiograph(pixels, data.PhotometricInterpretation == "MONOCHROME1", file_view(data))
    except MissingDecoder:
        raise ImportError(f"{name} is compressed DICOM, which needs imagecodecs: {_INSTALL}") from None
    except Exception:
        raise ValueError(f"{name}: the DICOM pixel data is damaged or cut short.") from None


def _inflated(content: bytes, name: str) -> bytes:
    """A deflated file may unpack to a thousand times its size; pydicom would not stop."""
    start = 144 + int.from_bytes(content[140:144], "little")
    if content[132:138] == b"\x02\x00\x00\x00UL" and _DEFLATED.encode() in content[144:start]:
        if len(zlib.decompressobj(-15).decompress(content[start:], MAX_BYTES + 1)) > MAX_BYTES:
            raise _Refused(f"{name}: unpacks to more than {MAX_BYTES // 10**6} MB, too large for a radiograph.")
    return content


def _transfer_syntax(data, pydicom) -> str:
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        plain = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian if implicit else plain
    return data.file_meta.TransferSyntaxUID


def _problem(data) -> str | None:
    """Why this is no radiograph, in words that do not come from its header."""
    try:
        if "PixelData" not in data:
            return "a DICOM file without an image: cut short, or a report, directory or other object"
        modality = str(data.get("Modality") or "").strip().upper()
        if modality not in RADIOGRAPH_MODALITIES:
            return f"{OTHER_MODALITIES.get(modality, 'a DICOM image of another modality')}, not a radiograph"
        if int(data.get("NumberOfFrames") or 1) != 1:
            return "a DICOM file of several frames; give one frame alone"
        if data.PhotometricInterpretation == "PALETTE COLOR":
            return "a DICOM picture in palette colours, not a radiograph"
        if data.Rows * data.Columns > MAX_PIXELS:
            return "too many pixels for a radiograph; reduce it below 15,000 x 10,000"
    except Exception:
        return "the DICOM data is damaged or cut short"
    return None


def _pixels(data, syntax: str, processing) -> np.ndarray:
    pixels = decode_pixels(data, syntax)
    if pixels.ndim != 2:
        return pixels
    if data.PixelRepresentation == 0 and data.BitsStored < data.BitsAllocated:
        # Old files keep overlays in the bits above the stored ones.
        pixels = pixels & pixels.dtype.type(2**data.BitsStored - 1)
    shown = _voi(processing.apply_modality_lut(pixels, data), data, processing)
    if shown is not None and np.ptp(shown) > 1 / 256:
        return shown.astype(np.float32)
    # No window, or one that would show nothing: the stored values, upwards from 0.
    pixels = pixels.astype(np.int64)
    if float(data.get("RescaleSlope") or 1) < 0:
        pixels = pixels.max() - pixels
    return pixels - min(int(pixels.min()), 0)


def _voi(values: np.ndarray, data, processing) -> np.ndarray | None:
    """The values that the file says to show, from 0 to 1; `None` where it does not say."""
    if data.get("VOILUTSequence"):
        bits = data.VOILUTSequence[0].LUTDescriptor[2]
        return processing.apply_voi(values.astype(np.int64), data) / (2.0**bits - 1)
    center, width = (_first(data.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = data.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    return np.clip((values - center + 0.5) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _first(value) -> float | None:
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    return None if not values or values[0] in (None, "") else float(values[0])


def file_view(data) -> str:
    """The view of a `pydicom.Dataset` by its ViewPosition, else its ViewCodeSequence."""
    view = view_of(str(data.get("ViewPosition") or ""))
    if view == "unknown" and data.get("ViewCodeSequence"):
        meaning = str(data.ViewCodeSequence[0].get("CodeMeaning") or "")
        return view_of(VIEW_OF_MEANING.get(meaning.strip().lower()))
    return view
