"""What the collator supervises, pads and keeps, and the labels of other studies that it adds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import tiny_model, tiny_rows

from otdrg_hf.training.collator import IndicationDropout, OtherStates, StudyCollator


@pytest.fixture(scope="module")
def processor():
    return tiny_model()[1]


@pytest.fixture(scope="module")
def rows():
    return tiny_rows(4)


def test_only_the_report_and_its_end_are_supervised(processor, rows):
    batch = StudyCollator(processor)(rows)
    assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        supervised = labels[labels != -100]
        assert processor.tokenizer.decode(supervised) == f" {row['report']}{processor.tokenizer.eos_token}"
        first = int((labels != -100).nonzero()[0])
        assert (ids[labels != -100] == supervised).all()
        assert (labels[first : first + len(supervised)] != -100).all()
        prompt = processor.tokenizer.decode(ids[:first])
        assert prompt.startswith(processor.tokenizer.bos_token) and prompt.endswith("Report:")
        assert ("Indication: Cough." in prompt) == bool(row["indication"])


def test_padding_is_on_the_right_and_not_supervised(processor, rows):
    batch = StudyCollator(processor)(rows)
    mask = batch["attention_mask"]
    lengths = mask.sum(-1)
    assert len(set(lengths.tolist())) > 1  # of different length, or nothing is tested
    assert torch.equal(mask, (torch.arange(mask.shape[1]) < lengths[:, None]).long())
    assert (batch["input_ids"][mask == 0] == processor.tokenizer.pad_token_id).all()
    assert (batch["labels"][mask == 0] == -100).all()


def test_views_are_padded_and_have_their_tokens(processor, rows):
    batch = StudyCollator(processor)(rows)
    assert batch["view_mask"].tolist() == [[True, False], [True, True]] * 2
    assert batch["pixel_values"].shape == (4, 2, 3, 64, 64)
    tokens = (batch["input_ids"] == processor.image_token_id).sum(-1)
    assert tokens.tolist() == [views * processor.num_image_tokens for views in (1, 2, 1, 2)]
    assert ((batch["input_ids"] == processor.finding_token_id).sum(-1) == processor.num_finding_tokens).all()


def test_disease_labels_are_kept(processor, rows):
    batch = StudyCollator(processor)(rows)
    assert batch["disease_labels"].dtype == torch.int64
    assert batch["disease_labels"].tolist() == [row["disease_labels"] for row in rows]


def test_the_target_is_chosen_by_name(processor, rows):
    rows = [{**row, "impression": "Normal."} for row in rows]
    labels = StudyCollator(processor, target="impression")(rows)["labels"]
    assert processor.tokenizer.decode(labels[0][labels[0] != -100]) == f" Normal.{processor.tokenizer.eos_token}"


@pytest.mark.parametrize("column", ["indication", "comparison", "report"])
@pytest.mark.parametrize("token", ["<image>", "<finding>"])
def test_placeholders_in_the_text_are_harmless(column, token, processor, rows):
    rows = [{**row, column: f"a {token} b"} for row in rows]
    batch = StudyCollator(processor)(rows)
    plain = StudyCollator(processor)([{**row, column: "a b"} for row in rows])
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    model, _ = tiny_model()
    assert torch.isfinite(model(**batch).loss)


def test_rows_are_left_as_they_were(processor, rows):
    keys = [set(row) for row in rows]
    StudyCollator(processor)(rows)
    assert [set(row) for row in rows] == keys


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.text())
def test_others_are_label_sets_of_the_data_and_not_the_own(seed, count, name):
    labels = np.random.default_rng(seed).integers(0, 2, (count, 3))
    own = labels[0]
    others = OtherStates(labels).of({"id": name, "disease_labels": own.tolist()})
    assert others.shape == (4, 3)
    rows, kept = {tuple(row) for row in labels}, [tuple(row) for row in others if (row != own).any()]
    assert set(kept) <= rows
    assert not kept or tuple(own) not in kept
    assert [tuple(row) for row in others[: len(kept)]] == kept  # the own ones, where none was met, come last


def test_where_all_differ_all_are_others():
    labels = np.arange(400).reshape(100, 4)
    study = {"id": "a", "disease_labels": labels[7].tolist()}
    others = OtherStates(labels).of(study)
    assert (others != labels[7]).any(-1).all() and len(np.unique(others, axis=0)) > 1
    assert (OtherStates(labels).of(study) == others).all()
    assert (OtherStates(labels).of({**study, "id": "b"}) != others).any()


def test_the_collator_gives_each_study_the_same_in_any_batch():
    rows = tiny_rows(4)
    others = OtherStates(np.array([row["disease_labels"] for row in rows]))
    collate = StudyCollator(tiny_model()[1], others=others)
    batch = collate(rows)["other_labels"]
    assert batch.shape == (4, 4, 14) and batch.dtype == torch.long
    assert torch.equal(collate(rows[2:])["other_labels"], batch[2:])
    assert (batch != collate(rows)["disease_labels"][:, None]).any()


def test_indication_dropout_leaves_texts_out_of_some_prompts(processor):
    rows = [{**row, "indication": "Cough.", "comparison": ""} for row in tiny_rows(8)]
    dropout = IndicationDropout(0.5)

    def prompts(epoch=0):
        dropout.epoch.fill_(epoch)
        ids = StudyCollator(processor, indication_dropout=dropout)(rows)["input_ids"]
        return ["Cough" in text for text in processor.batch_decode(ids)]

    assert 0 < sum(prompts()) < len(rows)
    assert prompts() == prompts() != prompts(epoch=1)
    assert all(rows[at]["indication"] == "Cough." for at in range(len(rows)))
