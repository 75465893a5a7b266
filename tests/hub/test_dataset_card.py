"""The dataset card: counts, licence and words of each source, and huggingface_hub's reading of it."""

from collections import Counter

import pytest
from huggingface_hub import DatasetCard, metadata_load

from otdrg_hf.data.phantom import make_hard_phantom, make_phantom
from otdrg_hf.data.preparing.summary import count_studies, describe_counts
from otdrg_hf.hub.dataset_card import phantom_summary, write_dataset_card, write_phantom_card
from otdrg_hf.labeling import LABELS
from tests.hub.conftest import prepared


@pytest.mark.parametrize(
    "source, metadata, words",
    [
        (
            "iu_xray",
            {"license": "cc-by-nc-nd-4.0", "pretty_name": "IU X-Ray"},
            ["Indiana University", "split 70/10/20 under the seed 3", "Demner-Fushman", "rule-based labeler"],
        ),
        (
            "mimic_cxr",
            {"license": "other", "license_name": "physionet-credentialed-health-data-license-1.5.0"},
            ["Not to be passed on", "CheXpert table", "The splits are the official ones", "Johnson et al."],
        ),
        ("folder", {"pretty_name": "A collection of the publisher's own"}, ["where the folder gave none", "not given"]),
    ],
)
def test_the_card_of_a_prepared_folder(source, metadata, words, tmp_path):
    folder = prepared(tmp_path / "set", source)
    path = write_dataset_card(folder)
    assert path == folder / "README.md"
    read = metadata_load(path)
    assert metadata.items() <= read.items()
    assert read["size_categories"] == "n<1K" and read["task_categories"] == ["image-to-text"]
    card = DatasetCard.load(path)
    assert card.data.to_dict() == read
    assert ("license" in read) == (source != "folder")
    for text in (
        "| all | 10 | 20 | 10 | 10 | 0 | 10 | 5 |",
        "| train | 8 | 16 | 8 | 8 | 0 | 8 | 4 |",
        "| Pneumothorax | 2 | 8 | 0 | 0 | 20.0 | 12.5 | 50.0 |",
        "- report missing: 4",
        "shorter side of 256 pixels",
        *words,
    ):
        assert text in card.text, text
    assert "secret" not in path.read_text() and str(tmp_path) not in path.read_text()
    assert "synthetic" not in path.read_text().lower()


def test_a_licence_can_be_given_for_data_of_ones_own_only(tmp_path):
    assert metadata_load(write_dataset_card(prepared(tmp_path / "own", "folder"), license="mit"))["license"] == "mit"
    folder = prepared(tmp_path / "iu", "iu_xray")
    with pytest.raises(ValueError, match="The licence of IU X-Ray is cc-by-nc-nd-4.0, not mit"):
        write_dataset_card(folder, license="mit")
    assert not (folder / "README.md").exists()


def test_the_card_of_phantoms_counts_what_would_be_drawn(tmp_path):
    path = write_phantom_card({"train": 6, "val": 2}, tmp_path / "README.md")
    drawn = Counter()
    for split, number in (("train", 6), ("validation", 2)):
        for seed in range(number):
            phantom = make_phantom(seed, split, image_size=64)
            texts = {name: getattr(phantom, name) for name in ("indication", "findings", "impression")}
            row = {"images": phantom.images, "views": phantom.views, "comparison": "", **texts}
            drawn += count_studies([row | {"disease_labels": phantom.disease_labels}])
    expected, summary = describe_counts(drawn), phantom_summary({"train": 6, "val": 2})
    assert {key: summary[key] for key in expected} == expected
    text = DatasetCard.load(path).text
    assert f"| all | 8 | {expected['images']} | 8 |" in text
    for label in LABELS:
        states = expected["labels"][label]
        counts = " | ".join(str(states[name]) for name in ("positive", "negative", "uncertain", "blank"))
        assert f"| {label} | {counts} |" in text
    assert 'load_study_dataset("phantom", split="validation", num_studies=2)' in text
    assert "**Synthetic data.**" in text and "seeds 0 to" in text
    metadata = metadata_load(path)
    assert metadata["license"] == "apache-2.0" and "synthetic" in metadata["tags"]


def test_the_card_of_hard_phantoms_has_their_broken_split(tmp_path):
    path = write_phantom_card({"train": 5, "test_broken": 3}, tmp_path / "README.md", "phantom_hard")
    views = [len(make_hard_phantom(seed, "test_broken", 64).images) for seed in range(3)]
    text = DatasetCard.load(path).text
    assert f"| test_broken | 3 | {sum(views)} | 3 |" in text
    assert 'load_study_dataset("phantom_hard", split="test_broken", num_studies=3)' in text
    assert "**Synthetic data.**" in text and "avoid each other" in text and "Health data" not in text
    with pytest.raises(ValueError, match="test_broken"):
        write_phantom_card({"test_broken": 3}, tmp_path / "none.md", "phantom")


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"source": "iu_xray"}', '{"source": "elsewhere", "studies": 3}'])
def test_a_damaged_summary_is_one_line(content, tmp_path):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ValueError, match="summary.json") as error:
        write_dataset_card(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("studies, words", [({"train": 0}, "train=0"), ({}, "Nothing"), ({"tarin": 3}, "tarin")])
def test_phantoms_that_are_none_are_refused(studies, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_phantom_card(studies, tmp_path / "README.md")
    assert not [*tmp_path.iterdir()]
