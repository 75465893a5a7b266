"""Augmentation: small, never a flip, drawn by study, epoch and seed, and for training batches alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import refusal, train
from tiny_training import tiny_model, tiny_rows, tiny_studies, write_study_folder

from otdrg_hf.training.arguments import StudyArguments
from otdrg_hf.training.augmentation import BRIGHTNESS, Augmentation
from otdrg_hf.training.collator import StudyCollator


@pytest.fixture(scope="module")
def processor():
    return tiny_model()[1]


def arrays(study: dict, epoch: float = 0, seed: int = 0) -> list[np.ndarray]:
    augmentation = Augmentation(seed)
    augmentation.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None)
    return [np.asarray(view) for view in augmentation(study)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_draws_follow_from_study_epoch_and_seed():
    study = tiny_rows(2)[1]
    assert same(arrays(study), arrays(study)) and same(arrays(study, epoch=1.2), arrays(study, epoch=1.9))
    for other in (arrays(study, epoch=1), arrays(study, seed=1), arrays({**study, "id": "another"})):
        assert not same(arrays(study), other)


def spot(x: int, y: int, mode: str = "L") -> Image.Image:
    """A bright spot of 5 pixels on a grey image of 100."""
    image = np.full((100, 100), 100, dtype=np.uint8)
    image[y - 2 : y + 3, x - 2 : x + 3] = 250
    return Image.fromarray(image).convert(mode)


@pytest.mark.parametrize("x, y", [(20, 30), (80, 30), (50, 50), (70, 80)])
def test_what_is_on_one_side_stays_there_and_moves_little(x, y):
    where = []
    for index in range(200):
        [view] = arrays({"id": str(index), "images": [spot(x, y)]})
        rows, columns = np.nonzero(view[..., 0] >= view.max() - 5)
        where.append((columns.mean(), rows.mean()))
    moved = np.array(where) - (x + 0.5, y + 0.5)
    # 8 degrees and 15 % of 42 pixels from the centre, and a shift of 5.
    assert np.abs(moved).max() < 15 and moved.std(0).min() > 1.5
    assert np.abs(moved.mean(0)).max() < 3
    if x != 50:
        assert ((np.array(where)[:, 0] > 50) == (x > 50)).all()


def test_grey_values_keep_their_order_and_range():
    gradient = Image.fromarray(np.tile(np.linspace(0, 255, 100).astype(np.uint8), (100, 1)))
    middles = []
    for index in range(200):
        [view] = arrays({"id": str(index), "images": [gradient]})
        assert view.shape == (100, 100, 3) and (view == view[..., :1]).all()
        middles.append(view[50, 50, 0])
        row = view[50, 20:80, 0].astype(int)
        assert (np.diff(row) >= -2).all() and row[-1] - row[0] > 60
    assert np.std(middles) > 5 and abs(np.mean(middles) - 127) < 255 * BRIGHTNESS


def test_images_of_any_mode_and_size_keep_their_size(processor):
    for mode, size in (("L", (64, 80)), ("RGB", (33, 47)), ("I;16", (40, 40))):
        study = {**tiny_rows(1)[0], "images": [Image.new(mode, size)]}
        assert arrays(study)[0].shape == (size[1], size[0], 3)
        assert StudyCollator(processor, augmentation=Augmentation())([study])["pixel_values"].shape[-1] == 64


def test_batches_are_the_same_for_any_number_of_workers(processor):
    studies, collate = tiny_studies(6), StudyCollator(processor, augmentation=Augmentation())
    batches = [
        torch.cat([batch["pixel_values"] for batch in torch.utils.data.DataLoader(studies, 2, collate_fn=collate, **w)])
        for w in ({}, {"num_workers": 2})
    ]
    assert torch.equal(*batches)
    plain = StudyCollator(processor)([studies[index] for index in range(6)])["pixel_values"]
    assert not torch.allclose(batches[0], plain, atol=0.1)


def test_training_batches_alone_are_augmented_in_a_run(tmp_path, monkeypatch):
    data = write_study_folder(tmp_path, train=4, validation=3)
    augmented = []
    draw = Augmentation.__call__

    def note(self, study):
        augmented.append((int(self.epoch), study["id"]))
        return draw(self, study)

    monkeypatch.setattr(Augmentation, "__call__", note)
    train(tmp_path, data, augment=True, stage="align", max_steps=4, eval_strategy="epoch")
    epochs = [{key for epoch, key in augmented if epoch == each} for each in (0, 1)]
    assert epochs == [{f"study-{index}" for index in range(4)}] * 2 and len(augmented) == 8


def test_features_that_are_encoded_once_cannot_be_augmented(tmp_path):
    data = write_study_folder(tmp_path, train=2, validation=2)
    error = refusal(tmp_path, data, augment=True, stage="finetune", feature_cache=str(tmp_path / "features"))
    assert "--augment" in error and "--feature_cache" in error
    StudyArguments(augment=True, stage="finetune")
