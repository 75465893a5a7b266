"""Lists the studies of an R2Gen-format or image folder for preparation."""

import os

from . import image_folder, r2gen
from .errors import DataError
from .rejections import UNKNOWN_COLUMN
from .schema import SPLITS, STUDY_COLUMNS
from .study_index import StudyIndexWriter


def list_files(folder: str) -> list[str]:
    """The files that say which studies the folder has."""
    if r2gen.is_r2gen_folder(folder):
        return [os.path.join(folder, r2gen.ANNOTATION_FILE)]
    return image_folder.image_folder_files(folder)


def build_index(index: StudyIndexWriter, folder: str) -> None:
    """Add every study of every split that the folder has, in their order."""
    if r2gen.is_r2gen_folder(folder):
        splits = r2gen.read_annotation(os.path.join(folder, r2gen.ANNOTATION_FILE))
        read = r2gen.r2gen_studies
    elif image_folder.is_image_folder(folder):
        for key in image_folder.ignored_keys(folder):
            index.reject(UNKNOWN_COLUMN, column=key)
        splits, read = image_folder.image_folder_splits(folder), image_folder.image_folder_studies
    else:
        raise DataError("The folder to prepare has neither annotation.json (R2Gen) nor metadata.jsonl (image folder)")
    for split in SPLITS:
        for study in read(folder, split) if split in splits else ():
            study["images"] = [os.path.relpath(path, folder).replace(os.sep, "/") for path in study["images"]]
            index.add(split, study["id"], {name: study[name] for name in STUDY_COLUMNS if name != "id"})
