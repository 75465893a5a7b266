"""DICOM in datasets: Pillow, by which `datasets` decodes images, opens it once `otdrg_hf.images` is imported."""

from otdrg_hf.images.dicom import view_in_file as view_in_file


def register_dicom() -> None:
    """Lets `PIL.Image.open` open DICOM in this process, such as a worker of a data loader."""
    import otdrg_hf.images  # noqa: F401
