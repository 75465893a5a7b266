"""The pixels of a DICOM film by decoders that a damaged file cannot crash."""

import numpy as np

# Which of pydicom's decoders reads what; it would take the first that is installed, and GDCM ends the whole process
# on damaged data.
BY_PYDICOM = {
    "1.2.840.10008.1.2": "",
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.2": "",
    "1.2.840.10008.1.2.1.99": "",
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG, 8 bits
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000, lossless
    "1.2.840.10008.1.2.4.91": "pillow",
}
BY_IMAGECODECS = {
    "1.2.840.10008.1.2.4.51": "jpeg8_decode",  # JPEG, 12 bits
    "1.2.840.10008.1.2.4.57": "jpeg8_decode",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "jpeg8_decode",
    "1.2.840.10008.1.2.4.80": "jpegls_decode",  # JPEG-LS, lossless
    "1.2.840.10008.1.2.4.81": "jpegls_decode",
}
_START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


class MissingDecoder(ImportError):
    """A film cannot be read without a package that is not installed."""


def decode_pixels(data, syntax: str) -> np.ndarray:
    """
    The single frame of a dataset.

    Args:
        data (`pydicom.Dataset`): With its pixel data as in the file.
        syntax (`str`): UID of its transfer syntax, in `BY_PYDICOM` or `BY_IMAGECODECS`.

    Returns:
        `np.ndarray`: Integers `[H, W]` or `[H, W, 3]`.

    Raises:
        MissingDecoder: if imagecodecs is needed and not installed.
        ValueError, RuntimeError and others: for damaged data.
    """
    try:  # a search for what code that travels needs leaves out what is tried
        from pydicom.encaps import get_frame
        from pydicom.pixels import pixel_array

        if syntax in BY_IMAGECODECS:
            import imagecodecs
    except ImportError as error:
        raise MissingDecoder(str(error)) from None
    if syntax in BY_PYDICOM:
        return pixel_array(data, decoding_plugin=BY_PYDICOM[syntax])
    frame = get_frame(data.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    if _jpeg_shape(frame) != (data.Rows, data.Columns) or not frame.endswith(b"\xff\xd9"):
        raise ValueError("The compressed frame is cut short, or of another size than its header says.")
    pixels = getattr(imagecodecs, BY_IMAGECODECS[syntax])(frame)
    return _signed(pixels, data.BitsStored) if data.PixelRepresentation == 1 else pixels


def _jpeg_shape(frame: bytes) -> tuple[int, int] | None:
    """Height and width in a JPEG or JPEG-LS stream; a decoder would trust them and allocate gigabytes."""
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] in _START_OF_FRAME:
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _signed(pixels: np.ndarray, bits: int) -> np.ndarray:
    pixels = pixels.astype(np.int32)
    return np.where(pixels >= 2 ** (bits - 1), pixels - 2**bits, pixels)
