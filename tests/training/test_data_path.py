"""Films that stay in their shards, batches of similar length, and a resume in the middle of an epoch."""

import os
from collections import Counter

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from tiny_training import tiny_model, tiny_rows, tiny_trainer, write_study_folder
from transformers import TrainerState

from otdrg_hf.data import load_study_dataset, prepare_dataset
from otdrg_hf.data.errors import DataError
from otdrg_hf.data.schema import study_features
from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.studies import load_studies
from otdrg_hf.training.trainer import BATCHES_PER_BUCKET, LengthBuckets, study_lengths


@pytest.fixture(scope="module", params=["embedded", "by path"])
def prepared(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared")
    (path / "raw").mkdir()
    source = write_study_folder(path / "raw", train=40)
    size = {"image_size": 64} if request.param == "embedded" else {}
    prepare_dataset("folder", path / "out", source, shard_size=16, **size)
    return path


def test_studies_are_those_of_the_copy_and_no_film_is_copied(prepared):
    options = {"split": "train", "cache_dir": prepared / "cache"}
    copied = load_study_dataset(prepared / "out", **options)
    options["cache_dir"] = prepared / "in_place"
    studies = load_study_dataset(prepared / "out", in_place=True, **options)
    assert studies.column_names == copied.column_names and list(studies["id"]) == list(copied["id"])
    for index in (37, 0, 18):
        row, expected = studies[index], copied[index]
        assert [film.tobytes() for film in row.pop("images")] == [film.tobytes() for film in expected.pop("images")]
        assert row == expected
    sizes = {
        name: sum(file.stat().st_size for file in (prepared / name).rglob("*.arrow")) for name in ("cache", "in_place")
    }
    assert sizes["in_place"] < 25_000
    if copied.cast_column("images", study_features(decode=False)["images"])[0]["images"][0]["bytes"]:
        assert sizes["cache"] > 100_000


def test_training_script_takes_them(prepared):
    options = {"in_place": True, "cache_dir": str(prepared / "c"), "data_dir": None}
    args = StudyArguments(dataset=str(prepared / "out"), load_kwargs=options, target="impression")
    studies = load_studies(args, "train", None, None)
    assert len(studies) == 14 and len(studies[13]["images"]) == len(studies[13]["views"])
    assert studies.shuffle(seed=0)[0]["images"][0].size == (64, 64)


def test_in_place_is_for_prepared_folders(tmp_path):
    with pytest.raises(DataError, match="in_place is for the shards of a prepared folder"):
        load_study_dataset(write_study_folder(tmp_path, train=2), in_place=True)


class Counting(StudyCollator):
    """Notes which process collates, and how often each film is decoded."""

    def torch_call(self, examples):
        batch = super().torch_call(examples)
        return {**batch, "process": torch.tensor([os.getpid()] * len(examples))}


def test_films_are_decoded_and_resized_by_the_workers(prepared):
    studies = load_study_dataset(prepared / "out", in_place=True, cache_dir=prepared / "workers")
    _, processor = tiny_model()
    loader = torch.utils.data.DataLoader(studies, 4, collate_fn=Counting(processor), num_workers=2)
    processes = Counter(int(process) for batch in loader for process in batch["process"])
    assert os.getpid() not in processes and len(processes) == 2 and sum(processes.values()) == 40


def test_no_film_is_decoded_twice_in_a_step(prepared, monkeypatch):
    import datasets

    decoded, decode = [], datasets.Image.decode_example

    def count(self, value, *args, **kwargs):
        decoded.append(1)
        return decode(self, value, *args, **kwargs)

    studies = load_study_dataset(prepared / "out", in_place=True, cache_dir=prepared / "twice")
    monkeypatch.setattr(datasets.Image, "decode_example", count)
    rows = [studies[index] for index in range(4)]
    StudyCollator(tiny_model()[1])(rows)
    assert len(decoded) == sum(len(row["views"]) for row in rows)


def test_batches_hold_studies_of_similar_length():
    lengths = torch.randint(50, 500, (1003,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthBuckets(lengths, 8, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(1003)) and list(sampler) == order

    def padding(indices):
        batches = [[lengths[index] for index in indices[start : start + 8]] for start in range(0, len(indices), 8)]
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches) / sum(lengths)

    assert padding(order) < 0.05 < 0.3 < padding(list(range(1003)))
    sampler.on_epoch_begin(None, TrainerState(epoch=1.4), None)
    assert list(sampler) != order and padding(list(sampler)) < 0.05
    assert BATCHES_PER_BUCKET * 8 < 1003  # several buckets


def test_lengths_follow_views_and_texts(studies):
    lengths = study_lengths(studies, "report", tokens_per_view=4)
    views = [len(row["views"]) for row in tiny_rows(len(studies))]
    assert [length // 4 >= view for length, view in zip(lengths, views, strict=True)] == [True] * len(views)
    assert len(set(lengths)) > 2


def test_a_run_over_buckets_in_place_is_resumed_in_the_middle_of_an_epoch(prepared, tmp_path):
    studies = load_study_dataset(prepared / "out", in_place=True, cache_dir=prepared / "resume")
    options = {"train_sampling_strategy": "group_by_length", "save_strategy": "steps", "save_steps": 11}
    options |= {"max_steps": 12, "per_device_train_batch_size": 4}  # the second epoch begins after ten steps
    logs = []
    for name, resume in (("unbroken", None), ("resumed", str(tmp_path / "unbroken/checkpoint-11"))):
        trainer = tiny_trainer(tmp_path / name, studies, built=tiny_model(), **options)
        trainer.train(resume_from_checkpoint=resume)
        logs.append([entry["lm_loss"] for entry in trainer.state.log_history if "lm_loss" in entry])
    assert trainer.evaluate(studies.select(range(6)))["eval_lm_loss"] > 0
    assert logs[1][-1:] == pytest.approx(logs[0][-1:], abs=1e-6) and len(set(logs[0])) == 12


@pytest.mark.parametrize("process", [0, 1])
def test_a_resumed_epoch_of_two_processes_has_the_order_of_an_unbroken_one(process):
    def rest_of_epoch(resumed: bool) -> list[list[int]]:
        buckets = LengthBuckets(list(range(16)), batch_size=4, seed=0)
        loader = torch.utils.data.DataLoader(range(16), 2, sampler=buckets)
        loader = prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
        buckets.on_epoch_begin(None, TrainerState(epoch=1.0), None)
        batches = skip_first_batches(loader, 2) if resumed else loader
        return [batch.tolist() for batch in batches][0 if resumed else 2 :]

    assert len(rest_of_epoch(False)) == 2 and rest_of_epoch(True) == rest_of_epoch(False)
