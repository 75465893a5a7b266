"""Made-up downloads of IU X-Ray and MIMIC-CXR in their exact layouts, for the tests of the readers."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from otdrg_hf.data import load_study_dataset

SHARED_IU = Path(__file__).parents[3] / "shared" / "data" / "iu_xray"

IU_REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">{indication}</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH><major>Cardiomegaly/mild</major><automatic>Heart</automatic></MeSH>
{images}</eCitation>"""
IU_IMAGE = '<parentImage id="{stem}"><caption>{caption}</caption></parentImage>'


@pytest.fixture(scope="session")
def mimic_tree():
    """The module that writes MIMIC-CXR trees."""
    from tests.data import mimic_tree

    return mimic_tree


@pytest.fixture(scope="session")
def shared_iu() -> Path:
    """The folder of the real IU X-Ray reports, where it is there."""
    if not SHARED_IU.is_dir():
        pytest.skip("the real IU X-Ray reports are not in ../shared/data/iu_xray")
    return SHARED_IU


def png_bytes(size=(24, 30), mode="L") -> bytes:
    content = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(content, "PNG")
    return content.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def iu_report(
    number: int, findings="The lungs are clear.", impression="No acute disease.", stems=None, caption="PA"
) -> bytes:
    stems = [f"CXR{number}_IM-{number:04d}-1001", f"CXR{number}_IM-{number:04d}-2001"] if stems is None else stems
    images = "".join(IU_IMAGE.format(stem=stem, caption=caption) for stem in stems)
    text = IU_REPORT.format(
        number=number, indication="Chest  pain", findings=findings, impression=impression, images=images
    )
    return text.encode()


@pytest.fixture
def iu_download(tmp_path):
    """A folder with the two IU archives: 20 good reports of two images each."""
    folder = tmp_path / "iu"
    folder.mkdir()
    reports = {f"ecgen-radiology/{number}.xml": iu_report(number) for number in range(1, 21)}
    images = {
        f"CXR{number}_IM-{number:04d}-{series}.png": png_bytes() for number in range(1, 21) for series in (1001, 2001)
    }
    write_tar(folder / "NLMCXR_reports.tgz", reports)
    write_tar(folder / "NLMCXR_png.tgz", images)
    return folder


@pytest.fixture
def r2gen_folder(tmp_path):
    """An R2Gen-format folder of three training, one validation and one test study; the test key is blanks."""
    folder = tmp_path / "r2gen"
    entries = {}
    for key, count in (("train", 3), ("val", 1), ("    ", 1)):
        entries[key] = []
        for number in range(count):
            name = f"CXR{len(entries)}{number}_IM-0001"
            (folder / "images" / name).mkdir(parents=True)
            paths = [f"{name}/0.png", f"{name}/1.png"]
            for path in paths:
                (folder / "images" / path).write_bytes(png_bytes())
            split = "test" if not key.strip() else key
            entries[key].append(
                {"id": name, "report": "Small left pleural effusion .", "image_path": paths, "split": split}
            )
    (folder / "annotation.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def make():
    """The functions that write single reports, images and archives."""

    class Make:
        report = staticmethod(iu_report)
        png = staticmethod(png_bytes)
        tar = staticmethod(write_tar)

    return Make


@pytest.fixture
def warned(caplog, monkeypatch):
    """What was logged, which transformers' loggers keep to themselves."""
    import transformers

    for name in ("transformers", "otdrg_hf"):
        monkeypatch.setattr(transformers.utils.logging.get_logger(name), "propagate", True)
    return lambda: caplog.text


@pytest.fixture
def load(tmp_path):
    """`load_study_dataset` with a cache of the test's own."""

    def load(*arguments, **options):
        return load_study_dataset(*arguments, cache_dir=tmp_path / "cache", **options)

    return load
