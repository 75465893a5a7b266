"""The tokenizer of models from scratch: its special tokens, its round trip and that it is learned the same twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import SENTENCES

from otdrg_hf.training.tokenizer import train_tokenizer

SPECIAL = ("<pad>", "<s>", "</s>")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES * 5, vocab_size=400)


def test_special_tokens(tokenizer):
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == [0, 1, 2]
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == SPECIAL
    assert tokenizer.padding_side == "left"
    assert len(tokenizer) <= 400
    assert tokenizer("The heart.</s>")["input_ids"][-1] == tokenizer.eos_token_id


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(st.text(), st.sampled_from(SENTENCES), st.from_regex(r"[A-Za-z0-9 .,:\n-]{0,40}")))
def test_round_trip(tokenizer, text):
    if not any(token in text for token in SPECIAL):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_words_of_the_reports_are_few_tokens(tokenizer):
    assert len(tokenizer(" pleural effusion")["input_ids"]) < 6
    assert len(tokenizer("125")["input_ids"]) == 3  # digits apart: a number is read, not remembered


def test_deterministic(tokenizer):
    again = train_tokenizer(SENTENCES * 5, vocab_size=400)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
