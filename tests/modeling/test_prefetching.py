"""Reading ahead: the same items in the same order, one ahead, errors where they belong."""

import threading

import pytest
from torch.utils.data import Dataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from otdrg_hf.modeling.prefetching import Prefetched
from tests.conftest import make_films


def test_same_items_in_order_more_than_once():
    ahead = Prefetched(range(50))
    assert list(ahead) == list(ahead) == list(range(50)) and len(ahead) == 50
    assert list(Prefetched([])) == []
    assert list(Prefetched([None, None])) == [None, None]


def test_next_item_is_read_while_the_consumer_works():
    second_read = threading.Event()

    def items():
        yield 1
        second_read.set()
        yield 2
        raise AssertionError("read too far ahead")

    consumer = iter(Prefetched(items()))
    assert next(consumer) == 1
    assert second_read.wait(timeout=30)
    consumer.close()


def test_error_comes_after_what_was_read_before_it():
    def items():
        yield 1
        yield 2
        raise ValueError("the third cannot be read")

    read = []
    with pytest.raises(ValueError, match="the third cannot be read"):
        for item in Prefetched(items()):
            read.append(item)
    assert read == [1, 2]


class Studies(Dataset):
    def __init__(self, films):
        self.rows = [{"id": index, "images": [film]} for index, film in enumerate(films)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def test_key_dataset_and_generator_are_answered_as_they_are_read(model, processor):
    report = pipeline("radiology-report", model=model, processor=processor)
    films = make_films(7)
    expected = [report(film, max_new_tokens=5)["generated_text"] for film in films]
    answers = report(KeyDataset(Studies(films), "images"), batch_size=3, max_new_tokens=5)
    assert [answer["generated_text"] for answer in answers] == expected

    taken = []

    def stream():
        for index, film in enumerate(films):
            taken.append(index)
            yield film

    answers = iter(report(stream(), batch_size=2, max_new_tokens=5))
    assert next(answers)["generated_text"] == expected[0]
    assert len(taken) <= 6  # two batches and what peeks ahead, not the whole stream
    assert [answer["generated_text"] for answer in answers] == expected[1:]
