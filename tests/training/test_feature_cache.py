"""Features of a frozen encoder from disk: the same steps, and never those of another encoder, size or film."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from tiny_training import speak_up, tiny_model, tiny_trainer

from otdrg_hf import OTDRGModel
from otdrg_hf.modeling.backbones_otdrg import square_image_processor
from otdrg_hf.training.collator import StudyCollator
from otdrg_hf.training.feature_cache import FeatureCache, encoder_checksum, fill_cache, undecoded
from otdrg_hf.training.report_metrics import ReportMetrics


@pytest.fixture
def filled(studies, tmp_path):
    model, processor = tiny_model()
    cache = FeatureCache(tmp_path / "features", encoder_checksum(model, processor))
    assert cache.fill(model, processor, studies, dtype=torch.float32) == len(studies)
    return model, processor, cache


def test_steps_are_those_without_it(filled, studies, tmp_path, monkeypatch):
    _, processor, cache = filled
    logs = []
    for name, data, features in (("plain", studies, None), ("cached", undecoded(studies), cache)):
        trainer = tiny_trainer(tmp_path / name, data, data, built=tiny_model(), stage="finetune", eval_strategy="epoch")
        trainer.data_collator = StudyCollator(processor, features=features)
        tower = trainer.model.model.vision_tower
        if features is not None:
            monkeypatch.setattr(tower, "forward", None)  # raises if it is run
        trainer.train()
        logs.append(trainer.state.log_history)
    losses = ("loss", "lm_loss", "ot_loss", "disease_loss", "eval_loss", "eval_lm_loss", "eval_disease_macro_f1")
    for plain, cached in zip(*logs, strict=True):
        expected = {name: plain[name] for name in losses if name in plain}
        assert {name: cached[name] for name in losses if name in cached} == pytest.approx(expected, abs=1e-5)


def test_reports_are_those_without_it(filled, studies, tmp_path, monkeypatch):
    model, processor, cache = filled
    speak_up(model)
    trainer = tiny_trainer(tmp_path, studies, studies, built=(model, processor))
    written = ReportMetrics(processor, "report", len(studies), 8).write_reports(trainer, studies)
    monkeypatch.setattr(OTDRGModel, "encode_views", None)  # raises if it is run
    from_cache = ReportMetrics(processor, "report", len(studies), 8, cache).write_reports(trainer, undecoded(studies))
    assert len(set(written)) > 1 and from_cache == written


def test_only_what_is_missing_is_made(filled, studies):
    model, processor, cache = filled
    row = undecoded(studies)[3]
    cache.path(row).unlink()
    with pytest.raises(ValueError, match="'study-3' has no features"):
        cache.read(row)
    assert cache.fill(model, processor, studies) == 1
    assert cache.read(row).shape == (2, 4, 4, 32) and not list(cache.folder.rglob("*.tmp"))


def test_what_makes_features_is_in_their_name(filled, studies):
    model, processor, cache = filled
    row = undecoded(studies)[0]
    names = {cache.path(row), cache.path(undecoded(studies)[1]), cache.path({**row, "id": "another"})}
    film = row["images"][0]
    names.add(cache.path({**row, "images": [{**film, "bytes": film["bytes"] + b"."}]}))
    processor.image_processor = square_image_processor(32)
    names.add(FeatureCache(cache.folder, encoder_checksum(model, processor)).path(row))
    with torch.no_grad():
        next(model.model.vision_tower.parameters()).view(-1)[7] += 1e-3
    names.add(FeatureCache(cache.folder, encoder_checksum(model, processor)).path(row))
    assert len(names) == 6
    with torch.no_grad():  # what comes after the encoder does not matter to them
        checksum = encoder_checksum(model, processor)
        model.model.fusion.image_dense.weight.add_(1.0)
    assert encoder_checksum(model, processor) == checksum


def test_padded_views_stay_empty(filled, studies):
    model, processor, cache = filled
    batch = StudyCollator(processor, features=cache)([undecoded(studies)[index] for index in range(3)])
    films = StudyCollator(processor)([studies[index] for index in range(3)])
    keys = ("view_mask", "disease_labels")
    with torch.no_grad():
        cached = model(vision_features=batch["vision_features"], **{key: batch[key] for key in keys})
        plain = model(pixel_values=films["pixel_values"], **{key: films[key] for key in keys})
    for name in ("transport_plan", "disease_logits", "ot_loss"):
        torch.testing.assert_close(cached[name], plain[name], atol=1e-5, rtol=1e-5)
    seen = [
        model.model.see(None, batch["view_mask"], batch["vision_features"]),
        model.model.see(films["pixel_values"], films["view_mask"]),
    ]
    torch.testing.assert_close(seen[0].patches, seen[1].patches, atol=1e-5, rtol=1e-5)


def test_images_of_a_filled_cache_are_hashed_once(filled, studies, monkeypatch, capsys):
    model, processor, cache = filled
    hashed, path = [], FeatureCache.path

    def note(self, study):
        hashed.append(study["id"])
        return path(self, study)

    monkeypatch.setattr(FeatureCache, "path", note)
    again = fill_cache(cache.folder, model, processor, (studies,))
    assert hashed == list(studies["id"]) and again.checksum == cache.checksum
    assert "GB" not in capsys.readouterr().out  # nothing is missing
    path(cache, undecoded(studies)[1]).unlink()
    fill_cache(cache.folder, model, processor, (studies,))
    assert "Features of 2 images: 0.00 GB" in capsys.readouterr().out


def test_processes_share_what_is_missing(studies, tmp_path, monkeypatch, capsys):
    """Threads stand for processes: each has a model and a state of its own."""
    barrier, local, written = threading.Barrier(2), threading.local(), {0: set(), 1: set()}

    def state():
        return SimpleNamespace(
            process_index=local.rank,
            num_processes=2,
            wait_for_everyone=lambda: barrier.wait(120),
            print=lambda text: print(text) if local.rank == 0 else None,
        )

    monkeypatch.setattr("otdrg_hf.training.feature_cache.PartialState", state)
    write = FeatureCache._write
    monkeypatch.setattr(
        FeatureCache, "_write", lambda self, path, maps: (written[local.rank].add(path), write(self, path, maps))
    )
    model, processor = tiny_model()
    few = studies.select(range(5)), studies.select(range(5, 8))

    def run(rank):
        local.rank = rank
        cache = fill_cache(tmp_path, model, processor, few)
        return [cache.missing(each) for each in few]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(run, (0, 1))) == [[[], []]] * 2
    assert {rank: len(paths) for rank, paths in written.items()} == {0: 3 + 2, 1: 2 + 1}
    assert not written[0] & written[1]
    assert capsys.readouterr().out.count("Features of ") == 2  # of each dataset, once
