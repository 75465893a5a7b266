"""What each source declares of its terms, and that MIMIC-CXR is recognised in whatever form it comes."""

import pytest

from otdrg_hf.data import study_features
from otdrg_hf.data.phantom import HARD_SPLITS, PHANTOM_NAMES
from otdrg_hf.data.schema import SPLITS, make_study
from otdrg_hf.data.sources import DOWNLOADS, SOURCES, source_of

DICOM = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"


@pytest.fixture
def studies(make, tmp_path):
    """A function that makes a dataset of studies with the ids given, and images at a path or embedded."""
    datasets = pytest.importorskip("datasets")

    def studies(*ids, path=None):
        image = {"bytes": make.png(), "path": None} if path is None else {"bytes": None, "path": str(path)}
        rows = [make_study(id=name, images=[image], report="Clear.", disease_labels=[0] * 14) for name in ids]
        return datasets.Dataset.from_list(rows, features=study_features())

    return studies


def test_terms():
    licenses = {name: source.license_name or source.license for name, source in SOURCES.items()}
    assert licenses == {
        "phantom": "apache-2.0",
        "phantom_hard": "apache-2.0",
        "iu_xray": "cc-by-nc-nd-4.0",
        "mimic_cxr": "physionet-credentialed-health-data-license-1.5.0",
        "folder": None,
        "unknown": None,
    }
    assert SOURCES["mimic_cxr"].license_link == "https://physionet.org/content/mimic-cxr/view-license/2.1.0/"
    assert {name for name, source in SOURCES.items() if source.credentialed} == {"mimic_cxr"}
    assert {name for name, source in SOURCES.items() if source.synthetic} == set(PHANTOM_NAMES)
    assert {name for name, source in SOURCES.items() if not source.known} == {"folder", "unknown"}
    assert all(SOURCES[name].citation and SOURCES[name].url for name in DOWNLOADS)


def test_splits():
    assert {name for name, source in SOURCES.items() if source.splits != SPLITS} == {"phantom_hard"}
    assert SOURCES["phantom_hard"].splits == HARD_SPLITS == (*SPLITS, "test_broken")


@pytest.mark.parametrize(
    "ids, dataset, expected",
    [
        (["study-0", "study-1"], "some/folder", "folder"),
        (["study-0", "study-1"], "iu_xray", "iu_xray"),
        (["study-0", "study-1"], "mimic_cxr", "mimic_cxr"),
        (["study-0", "s50414267"], "some/folder", "mimic_cxr"),
        (["study-0", DICOM], "some/folder", "mimic_cxr"),
        (["study-0", DICOM], "iu_xray", "mimic_cxr"),
        (["CXR2384_IM-0942", "s5041"], "iu_xray", "iu_xray"),
        (["phantom-train-000000", "study-1"], "phantom", "phantom"),
    ],
)
def test_mimic_cxr_is_recognised_by_its_names(studies, ids, dataset, expected):
    assert source_of(dataset, studies(*ids)) == expected


def test_mimic_cxr_is_recognised_by_its_paths_and_summaries(studies, make, tmp_path):
    folder = tmp_path / "p10" / "p10000032" / "s50414267"
    folder.mkdir(parents=True)
    (folder / "image.png").write_bytes(make.png())
    assert source_of("some/folder", studies("a", path=folder / "image.png")) == "mimic_cxr"
    (tmp_path / "summary.json").write_text('{"source": "mimic_cxr"}')
    assert source_of(tmp_path, studies("a", "b")) == "mimic_cxr"
    (tmp_path / "summary.json").write_text('{"source": "folder"}')
    assert source_of(str(tmp_path), studies("a", "b")) == "folder"
