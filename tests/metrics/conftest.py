"""Real reports and pairs made from them, for the tests of the metrics."""

import random
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "iu_xray" / "NLMCXR_reports.tgz"


@pytest.fixture(scope="session")
def real_reports() -> list[str]:
    """Findings and impressions of the real IU X-Ray reports, as they stand in the archive."""
    if not ARCHIVE.is_file():
        pytest.skip("the real reports (NLMCXR_reports.tgz) are not beside this checkout")
    reports = []
    with tarfile.open(ARCHIVE) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if member.name.endswith(".xml"):
                parts = {p.get("Label"): p.text for p in ElementTree.parse(archive.extractfile(member)).iter()}
                reports.append(" ".join(filter(None, (parts.get("FINDINGS"), parts.get("IMPRESSION")))))
    return [report for report in reports if report]


@pytest.fixture(scope="session")
def real_pairs(real_reports) -> tuple[list[str], list[list[str]]]:
    """2,000 predictions and reference lists: other studies' reports, corrupted reports, and edge cases."""
    generator = random.Random(0)

    def corrupt(report: str) -> str:
        words = [word for word in report.split() if generator.random() > 0.2]
        if generator.random() < 0.3:
            words = words[: len(words) // 2] * 2
        if generator.random() < 0.3:
            generator.shuffle(words)
        return " ".join(words)

    pairs = [
        ("", [""]),
        ("", ["no effusion ."]),
        ("no effusion .", [""]),
        (" ", ["  "]),
        ("normal", ["normal"]),
        ("normal", ["abnormal"]),
        ("normal chest", ["the lungs are clear"]),
        ("the the the the the the", ["the lungs the heart the"]),
        ("no no no no . no no no no .", ["no effusion . no effusion . no effusion ."]),
        ("two  blanks and a\ttab ", [" two blanks and a tab"]),
        ("heart is normal", ["", "the heart", "heart is normal in size", "lungs"]),
        ("a b c d e", ["a b c d", "a b c d e f"]),
    ]
    while len(pairs) < 2000:
        report = generator.choice(real_reports).lower()
        prediction = corrupt(report) if generator.random() < 0.6 else generator.choice(real_reports).lower()
        extra = [corrupt(report), generator.choice(real_reports).lower()] if generator.random() < 0.3 else []
        pairs.append((prediction, [report, *extra]))
    return [prediction for prediction, _ in pairs], [references for _, references in pairs]


@pytest.fixture
def no_java(monkeypatch):
    """As on a machine without Java, which takes seconds to start where there is one."""
    from otdrg_hf.metrics.meteor import NEEDS_JAVA, MeteorUnavailableError

    def unavailable():
        raise MeteorUnavailableError(NEEDS_JAVA)

    monkeypatch.setattr("otdrg_hf.metrics.meteor._find_java", unavailable)


@pytest.fixture(scope="session")
def offline_metrics(tmp_path_factory):
    """Modules of `evaluate` without a network, and a cache of their own."""
    pytest.importorskip("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("evaluate.config.HF_METRICS_CACHE", str(folder))
        patch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
        patch.setattr("evaluate.loading.init_dynamic_modules", lambda *args: _module_folder(folder), raising=True)
        patch.syspath_prepend(str(folder))
        yield


def _module_folder(folder):
    target = folder / "evaluate_modules"
    target.mkdir(exist_ok=True)
    (target / "__init__.py").touch()
    return str(target)
