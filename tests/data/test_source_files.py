"""Archives are read member by member; nothing unsafe comes out of them, and damage is never taken for their end."""

import gzip
import io
import tarfile
import zipfile

import pytest

from otdrg_hf.data.errors import DataError
from otdrg_hf.data.source_files import is_safe_member, iter_files, join_inside


class Rejections(list):
    def __call__(self, reason, detail="", **what):
        self.append((what.get("member"), reason))


def read(path, rejections=None, max_bytes=1000):
    return dict(iter_files(str(path), ".xml", max_bytes, Rejections() if rejections is None else rejections))


@pytest.fixture
def files():
    return {f"reports/{number}.xml": bytes([number]) * 600 for number in range(8)}


@pytest.mark.parametrize(
    "name", ["../x.xml", "/etc/x.xml", "a/../../x.xml", "C:\\x.xml", "a\\..\\..\\x.xml", "a\0.xml"]
)
def test_unsafe_names(name):
    assert not is_safe_member(name)


def test_tar_and_zip_and_folder_agree(tmp_path, make, files):
    make.tar(tmp_path / "a.tgz", files)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    for name, content in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    assert read(tmp_path / "a.tgz") == read(tmp_path / "a.zip") == read(tmp_path / "folder") == files


def test_traversal_links_and_giants_are_rejected_and_named(tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        for name, content in {"../evil.xml": b"x", "ok.xml": b"y", "giant.xml": b"z" * 2000}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("link.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    rejections = Rejections()
    assert read(tmp_path / "a.tgz", rejections) == {"ok.xml": b"y"}
    assert [name for name, _ in rejections] == ["../evil.xml", "giant.xml", "link.xml"]


def test_zip_traversal_is_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("../evil.xml", b"x")
    rejections = Rejections()
    assert read(tmp_path / "a.zip", rejections) == {} and len(rejections) == 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_archive_cut_short(tmp_path, make, files, share):
    make.tar(tmp_path / "a.tgz", files)
    content = (tmp_path / "a.tgz").read_bytes()
    (tmp_path / "a.tgz").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match="a.tgz is damaged or cut short"):
        read(tmp_path / "a.tgz")


def test_tar_cut_at_a_member_inside_a_whole_gzip(tmp_path, make, files):
    make.tar(tmp_path / "a.tgz", files)
    tar = gzip.decompress((tmp_path / "a.tgz").read_bytes())
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar[: 3 * 1536]))
    with pytest.raises(DataError, match="after 3 files"):
        read(tmp_path / "a.tgz")


def test_damaged_header_is_not_taken_for_the_end(tmp_path, make, files):
    make.tar(tmp_path / "a.tgz", files)
    tar = bytearray(gzip.decompress((tmp_path / "a.tgz").read_bytes()))
    tar[2 * 1536 : 2 * 1536 + 300] = b"\xff" * 300
    (tmp_path / "a.tgz").write_bytes(gzip.compress(bytes(tar)))
    with pytest.raises(DataError, match="after 2 files"):
        read(tmp_path / "a.tgz")


def test_damaged_zip_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("a.xml", b"x" * 500)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"x" * 500, b"x" * 499 + b"y"))
    with pytest.raises(DataError, match="a.zip is damaged"):
        read(tmp_path / "a.zip")


def test_no_archive_at_all(tmp_path):
    (tmp_path / "a.tgz").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="download it again"):
        read(tmp_path / "a.tgz")
    with pytest.raises(DataError, match="no folder or archive"):
        read(tmp_path / "b.tgz")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "C:/x", "a\\..\\x", ""])
def test_paths_cannot_leave_their_folder(name):
    with pytest.raises(DataError, match="leaves its dataset folder"):
        join_inside("/data", name)
