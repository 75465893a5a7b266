"""DICOM radiographs as grey values and the name of their view; nothing else of their header is read."""

import io
import warnings
import zlib
from dataclasses import dataclass

import numpy as np

from .dicom_decoding import DicomFault, ImageHeader, MissingDecoder, StoredPixels, decode_pixels
from .dicom_display import displayed, is_padding, shutter, stored_values

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
PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"),
    *("YBR_ICT", "YBR_RCT"),
)
# The only elements that are parsed: none says who the patient is.
READ_ELEMENTS = [
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "Modality", "ViewPosition", "ViewCodeSequence"),
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "VOILUTSequence", "VOILUTFunction"),
    *("WindowCenter", "WindowWidth", "PixelPaddingValue", "PixelPaddingRangeLimit", "ShutterShape"),
    *("ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge"),
    *("ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter"),
    *("VerticesOfThePolygonalShutter", "PixelData"),
]
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Compressed pixels of unknown value representation, which pydicom would take for a sequence, as the standard has it.
_FRAGMENTS_UNKNOWN = [b"\xe0\x7f\x10\x00" + kind + b"\0\0\xff\xff\xff\xff" for kind in (b"UN", b"OB")]
_MISSING, _UNUSABLE = "the DICOM element {} is missing", "the DICOM element {} is unusable"
INSTALL = "pip install 'otdrg-hf[dicom]'"


@dataclass(frozen=True)
class DicomRadiograph:
    """
    What is read of a DICOM file.

    Attributes:
        pixels (`np.ndarray`): `[H, W]` integers from 0 upwards: grey values as uint8 where a window or table was
            applied, else as many bits as there are; `[H, W, 3]` for a colour picture.
        inverted (`bool`): Whether its lowest value is white.
        hidden (`np.ndarray`, *optional*): `[H, W]` bool, where there is padding or a display shutter.
        view (`str`): `"frontal"`, `"lateral"` or `"unknown"`.
    """

    pixels: np.ndarray
    inverted: bool
    hidden: np.ndarray | None
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
    JPEG 2000. Its modality table or rescaling and its first usable VOI table or window are applied (DICOM PS3.3, C.11.1
    and C.11.2); padding (C.7.5.1.1.2) and what a display shutter covers (C.7.6.11) are left out of the scale.

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
        raise ImportError(f"{name} is DICOM, which needs pydicom: {INSTALL}") from None
    with warnings.catch_warnings():
        # They quote the header, and what is wrong with a file is said in one line.
        warnings.filterwarnings("ignore", module=r"pydicom|PIL|.*dicom_")
        try:
            return _read(content, pydicom)
        except DicomFault as fault:
            raise ValueError(f"{name}: {fault}.") from None
        except MissingDecoder:
            raise ImportError(f"{name} is compressed DICOM, which needs imagecodecs: {INSTALL}") from None


def _read(content: bytes, pydicom) -> DicomRadiograph:
    try:
        content = _inflated(content).replace(*_FRAGMENTS_UNKNOWN, 1)
        data = pydicom.dcmread(io.BytesIO(content), force=True, specific_tags=READ_ELEMENTS)
        syntax = _transfer_syntax(data, pydicom)
    except DicomFault:
        raise
    except Exception:  # pydicom raises almost anything, and quotes what it reads
        raise DicomFault("the DICOM data is damaged or cut short") from None
    _require_radiograph(data)
    header = _image_header(data)
    try:
        pixels = decode_pixels(data.get_item("PixelData"), header, syntax)
        return _displayed(pixels, header, data)
    except (DicomFault, MissingDecoder):
        raise
    except Exception:
        raise DicomFault("the DICOM pixel data is damaged or cut short") from None


def _inflated(content: bytes) -> bytes:
    """A deflated file may unpack to a thousand times its size; pydicom would not stop."""
    start = 144 + int.from_bytes(content[140:144], "little")
    if content[132:138] == b"\x02\x00\x00\x00UL" and _DEFLATED.encode() in content[144:start]:
        if len(zlib.decompressobj(-15).decompress(content[start:], MAX_BYTES + 1)) > MAX_BYTES:
            raise DicomFault(f"unpacks to more than {MAX_BYTES // 10**6} MB, too large for a radiograph")
    return content


def _transfer_syntax(data, pydicom) -> str:
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        plain = pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian
        return pydicom.uid.ImplicitVRLittleEndian if implicit else plain
    return data.file_meta.TransferSyntaxUID


def _require_radiograph(data) -> None:
    """Raises [`DicomFault`] for what is another image, or none."""
    if "PixelData" not in data:
        raise DicomFault("a DICOM file without an image: cut short, or a report, directory or other object")
    modality = _word(data, "Modality")
    if modality not in RADIOGRAPH_MODALITIES:
        raise DicomFault(f"{OTHER_MODALITIES.get(modality, 'a DICOM image of another modality')}, not a radiograph")
    if (_whole_number(data, "NumberOfFrames") or 1) != 1:
        raise DicomFault("a DICOM file of several frames; give one frame alone")
    if _word(data, "PhotometricInterpretation") == "PALETTE COLOR":
        raise DicomFault("a DICOM picture in palette colours, not a radiograph")


def _image_header(data) -> ImageHeader:
    sizes = [_required(data, keyword, range(1, 2**16)) for keyword in ("Rows", "Columns")]
    if sizes[0] * sizes[1] > MAX_PIXELS:
        raise DicomFault("too many pixels for a radiograph; reduce it below 15,000 x 10,000")
    photometric = _word(data, "PhotometricInterpretation")
    if not photometric:
        raise DicomFault(_MISSING.format("PhotometricInterpretation"))
    if photometric not in PHOTOMETRIC:
        raise DicomFault(_UNUSABLE.format("PhotometricInterpretation"))
    samples = _required(data, "SamplesPerPixel", (1, 3))
    if (samples == 3) == photometric.startswith("MONOCHROME"):
        raise DicomFault("the DICOM elements SamplesPerPixel and PhotometricInterpretation contradict each other")
    return ImageHeader(
        rows=sizes[0],
        columns=sizes[1],
        samples=samples,
        photometric=photometric,
        signed=_required(data, "PixelRepresentation", (0, 1)) == 1,
        allocated=_whole_number(data, "BitsAllocated"),
        stored=_whole_number(data, "BitsStored"),
        high_bit=_whole_number(data, "HighBit"),
        planar=_whole_number(data, "PlanarConfiguration"),
    )


def _required(data, keyword: str, usable) -> int:
    number = _whole_number(data, keyword)
    if number is None:
        raise DicomFault(_MISSING.format(keyword))
    if number not in usable:
        raise DicomFault(_UNUSABLE.format(keyword))
    return number


def _whole_number(data, keyword: str) -> int | None:
    try:
        value = data.get(keyword)
        return None if value is None or value == "" else int(value)
    except Exception:  # pydicom raises almost anything
        raise DicomFault(_UNUSABLE.format(keyword)) from None


def _word(data, keyword: str) -> str:
    try:
        return str(data.get(keyword) or "").strip(" \0").upper()
    except Exception:
        raise DicomFault(_UNUSABLE.format(keyword)) from None


def _displayed(pixels: StoredPixels, header: ImageHeader, data) -> DicomRadiograph:
    hidden = shutter(data, header.rows, header.columns)
    inverted = header.photometric == "MONOCHROME1"
    if pixels.words.ndim != 2:
        colours = pixels.words if hidden is None else np.where(hidden[..., None], 0, pixels.words)
        return DicomRadiograph(colours, inverted, hidden, file_view(data))
    # What a pixel is shown as depends on its word alone, and there are far fewer words than pixels.
    names, index = _distinct(pixels.words)
    occurs = np.zeros(len(names), bool)
    occurs[index if hidden is None else index[~hidden]] = True
    places = np.flatnonzero(occurs)
    values = stored_values(names[places], pixels, header)
    padded = is_padding(names[places], values, data, pixels.signed)
    padded &= not padded.all()
    shown, inverted = displayed(values[~padded], data, inverted)
    table, padding = np.zeros(len(names), shown.dtype), np.zeros(len(names), bool)
    table[places[~padded]] = shown
    padding[places[padded]] = True
    if padded.any():
        hidden = padding[index] if hidden is None else padding[index] | hidden
    return DicomRadiograph(table[index], inverted, hidden, file_view(data))


def _distinct(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names of words, and which of them each pixel is."""
    if words.dtype.itemsize <= 2:
        return np.arange(2 ** (8 * words.dtype.itemsize)), words
    names, index = np.unique(words, return_inverse=True)
    return names, index.reshape(words.shape)


def file_view(data) -> str:
    """The view of a `pydicom.Dataset` by its ViewPosition, else its ViewCodeSequence."""
    view = view_of(str(data.get("ViewPosition") or ""))
    if view == "unknown" and data.get("ViewCodeSequence"):
        meaning = str(data.ViewCodeSequence[0].get("CodeMeaning") or "")
        return view_of(VIEW_OF_MEANING.get(meaning.strip().lower()))
    return view
