"""DICOM radiographs for Pillow: their grey values and the name of their view; nothing else of their header is read."""

import io
import logging
import os
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageFile

from otdrg_hf.extras import require
from otdrg_hf.images.dicom_decoding import DicomFault, ImageHeader, MissingDecoder, StoredPixels, decode_pixels
from otdrg_hf.images.dicom_display import displayed, is_padding, shutter, stored_values
from otdrg_hf.images.views import view_of
from otdrg_hf.modeling.image_loading import DICOM, INSTALL, MAX_BYTES, MAX_PIXELS, VIEW, eight_bit, is_dicom

# Digitised film (HC) and converted images (OT) are radiographs often enough.
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
_VIEW_ELEMENTS = ["ViewPosition", "ViewCodeSequence"]
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Compressed pixels of unknown value representation, which pydicom would take for a sequence, as the standard has it.
_FRAGMENTS_UNKNOWN = [b"\xe0\x7f\x10\x00" + kind + b"\0\0\xff\xff\xff\xff" for kind in (b"UN", b"OB")]
_MISSING, _UNUSABLE = "the DICOM element {} is missing", "the DICOM element {} is unusable"
_TOO_LARGE = f"more than {MAX_BYTES // 10**6} MB, too large for a radiograph"


class DicomImageFile(ImageFile.ImageFile):
    """
    A single-frame DICOM radiograph as Pillow opens it: 8-bit grey or RGB as it is meant to be displayed.

    Stored as 8 to 16 bits: uncompressed, deflated, RLE, JPEG, JPEG lossless, JPEG-LS or JPEG 2000, with the file's
    preamble or without. Its modality table or rescaling and its first usable VOI table or window are applied (DICOM
    PS3.3, C.11.1 and C.11.2), and MONOCHROME1 is inverted; padding (C.7.5.1.1.2) and what a display shutter covers
    (C.7.6.11) are black and left out of the scale. `info` holds the view and nothing of the patient; without a window
    the smallest of 8, 10, 12, 14 and 16 bits that holds the values is their scale.

    Opening reads the header, loading decodes the pixels. Both raise `ValueError` with one line, which never quotes the
    header, for what is damaged or not a single-frame radiograph, and `ImportError` without pydicom or, for compressed
    files, imagecodecs.
    """

    format = DICOM
    format_description = "DICOM radiograph"
    _undecoded: tuple | None = None

    def _open(self) -> None:
        head = self.fp.read(132)
        if not is_dicom(head):
            raise SyntaxError("not a DICOM file")
        with self._one_line_errors("the DICOM data is damaged or cut short"):
            data, syntax = _parsed(head + self.fp.read(MAX_BYTES + 1 - len(head)))
            _require_radiograph(data)
            header = _image_header(data)
            self.info[VIEW] = file_view(data)
        self._size, self._mode = (header.columns, header.rows), "L" if header.samples == 1 else "RGB"
        self._undecoded = data, header, syntax

    def load(self):
        if self._undecoded is not None:
            data, header, syntax = self._undecoded
            with self._one_line_errors("the DICOM pixel data is damaged or cut short"):
                pixels = decode_pixels(data.get_item("PixelData"), header, syntax)
                image = Image.fromarray(_as_displayed(pixels, header, data))
            self._undecoded, self._mode, self.im = None, image.mode, image.im
            if self._exclusive_fp and self.fp:
                self.fp.close()
            self.fp = None
        return super().load()

    @contextmanager
    def _one_line_errors(self, otherwise: str) -> Iterator[None]:
        name = os.path.basename(os.fsdecode(self.filename))
        of_image = f"image {name!r}: " if name else ""
        try:
            with NO_QUOTES:
                yield
        except DicomFault as fault:
            raise ValueError(f"{of_image}{fault}.") from None
        except MissingDecoder as missing:
            raise ImportError(f"{of_image}{missing}: {INSTALL}") from None
        except Exception:  # pydicom and the decoders raise almost anything, and quote what they read
            raise ValueError(f"{of_image}{otherwise}.") from None


class _NoQuotes(logging.Filter):
    """Keeps warnings and log records of pydicom, which quote the header, to itself, also in several threads at once."""

    def __init__(self):
        super().__init__()
        self._lock, self._readers, self._here = threading.Lock(), 0, threading.local()

    def __enter__(self):
        self._here.reading = True
        with self._lock:
            if self._readers == 0:  # the filters belong to all threads: the first to read sets, the last restores them
                logging.getLogger("pydicom").addFilter(self)
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"pydicom|highdicom|PIL|otdrg_hf\.(images|hospital)")
            self._readers += 1

    def __exit__(self, *error):
        self._here.reading = False
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._filters.__exit__(*error)

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self._here, "reading", False)


NO_QUOTES = _NoQuotes()


# Views


def file_view(data) -> str:
    """The view of a `pydicom.Dataset` by its ViewPosition, else its ViewCodeSequence."""
    view = view_of(str(data.get("ViewPosition") or ""))
    if view == "unknown" and data.get("ViewCodeSequence"):
        meaning = str(data.ViewCodeSequence[0].get("CodeMeaning") or "")
        return view_of(VIEW_OF_MEANING.get(meaning.strip().lower()))
    return view


def view_in_file(path: str) -> str:
    """The view that a DICOM file names; `"unknown"` for any other file, and for one that is missing or damaged."""
    try:
        with open(path, "rb") as file:
            if not is_dicom(file.read(132)):
                return "unknown"
    except OSError:
        return "unknown"
    require("pydicom", extra="dicom")
    import pydicom

    try:
        with NO_QUOTES:
            return file_view(pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_VIEW_ELEMENTS))
    except Exception:  # pydicom raises almost anything; loading the image will say what is wrong
        return "unknown"


# Header


def _pydicom():
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise MissingDecoder("a DICOM file, which needs pydicom") from None
    return pydicom


def _parsed(content: bytes):
    """A file as a `pydicom.Dataset` and the UID of its transfer syntax."""
    if len(content) > MAX_BYTES:
        raise DicomFault(_TOO_LARGE)
    pydicom = _pydicom()
    content = inflated(content).replace(*_FRAGMENTS_UNKNOWN, 1)
    data = pydicom.dcmread(io.BytesIO(content), force=True, specific_tags=READ_ELEMENTS)
    return data, _transfer_syntax(data, pydicom)


def inflated(content: bytes) -> bytes:
    """A deflated file may unpack to a thousand times its size; pydicom would not stop."""
    if _DEFLATED.encode() not in content:
        return content
    from pydicom.filereader import _read_file_meta_info, read_preamble

    # As pydicom finds where the data begin, which needs neither a preamble nor the length of what stands before them.
    file = io.BytesIO(content)
    read_preamble(file, force=True)
    deflated = _read_file_meta_info(file).get("TransferSyntaxUID") == _DEFLATED
    if deflated and len(zlib.decompressobj(-15).decompress(file.read(), MAX_BYTES + 1)) > MAX_BYTES:
        raise DicomFault(f"unpacks to {_TOO_LARGE}")
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
        raise DicomFault("a DICOM image in palette colours, not a radiograph")


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


# Pixels


def _as_displayed(pixels: StoredPixels, header: ImageHeader, data) -> np.ndarray:
    """uint8 `[H, W]`, or `[H, W, 3]` of a colour image."""
    hidden = shutter(data, header.rows, header.columns)
    inverted = header.photometric == "MONOCHROME1"
    if pixels.words.ndim == 2:
        values, inverted, hidden = _grey_values(pixels, header, data, inverted, hidden)
    else:
        values = pixels.words if hidden is None else np.where(hidden[..., None], 0, pixels.words)
    try:
        shown = eight_bit(values)
    except ValueError as error:
        raise DicomFault(str(error).rstrip(".")) from None
    shown = 255 - shown if inverted else shown
    if hidden is not None:
        shown = np.array(shown)
        shown[hidden] = 0
    return shown


def _grey_values(pixels: StoredPixels, header: ImageHeader, data, inverted: bool, hidden: np.ndarray | None):
    """Values `[H, W]` from 0 upwards, whether the lowest is white, and where there is padding or a shutter."""
    # What a pixel is shown as depends on its word alone, and there are far fewer words than pixels.
    names, index = _distinct(pixels.words)
    occurs = np.zeros(len(names), bool)
    occurs[index if hidden is None else index[~hidden]] = True
    positions = np.flatnonzero(occurs)
    values = stored_values(names[positions], pixels, header)
    padded = is_padding(names[positions], values, data, pixels.signed)
    padded &= not padded.all()
    shown, inverted = displayed(values[~padded], data, inverted)
    table, padding = np.zeros(len(names), shown.dtype), np.zeros(len(names), bool)
    table[positions[~padded]] = shown
    padding[positions[padded]] = True
    if padded.any():
        hidden = padding[index] if hidden is None else padding[index] | hidden
    return table[index], inverted, hidden


def _distinct(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Names of words, and which of them each pixel is."""
    if words.dtype.itemsize <= 2:
        return np.arange(2 ** (8 * words.dtype.itemsize)), words
    names, index = np.unique(words, return_inverse=True)
    return names, index.reshape(words.shape)
