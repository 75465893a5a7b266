"""Tests of the labels of other studies: whose they are, and that they are the same in any batch."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import tiny_model, tiny_rows

from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.other_states import OtherStates


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
