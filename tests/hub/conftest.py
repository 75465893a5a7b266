"""A published model folder, an evaluation and a stand-in for the Hub's client; nothing reaches the network."""

import json
import shutil
import socket
from collections import Counter

import huggingface_hub
import pytest
from transformers import pipeline

from otdrg_hf.data.preparing.summary import count_studies, describe_counts
from otdrg_hf.evaluation.compare import evaluate_files
from otdrg_hf.hub.model_card import read_scores, write_model_card
from otdrg_hf.hub.provenance import FORMAT, RECORD_FILE
from tests.hub.fake_hub import FakeHub

PAIRS = (
    ("Small left pleural effusion.", "There is a small left pleural effusion."),
    ("No pneumothorax. Heart size is normal.", "No pneumothorax. The heart is enlarged."),
    ("Right lower lobe pneumonia.", "Possible right lower lobe pneumonia. No pleural effusion."),
    ("The lungs are clear.", "The lungs are clear."),
)


def stage(dataset: str = "phantom", **changes) -> dict:
    """A stage of training as training/record.py writes one."""
    described = {
        "stage": "joint",
        "dataset": dataset,
        "image_size": [32, 32],
        "studies": {"train": 12, "validation": 4},
        "target": "report",
        "labels_from": "labeler",
        "vision_model": None,
        "text_model": None,
        "starts_from": None,
        "otdrg_config": {"predicted_label_rate": 0.5},
        "recipe": {"num_train_epochs": 3.0, "max_steps": -1, "learning_rate": 0.002, "optim": "adamw_torch", "seed": 7},
        "lora": None,
        "precision": "fp32",
        "device": "CPU",
        "processes": 1,
        "parameters": 123456,
        "trained_parameters": 120000,
        "steps": 18,
        "epochs": 3.0,
        "validation": {"loss": 1.25, "disease_micro_f1": 0.625},
        "versions": {"otdrg_hf": "0.1.0", "torch": "2.13.0"},
    }
    return described | changes


def write_stages(folder, *stages) -> None:
    (folder / RECORD_FILE).write_text(json.dumps({"format": FORMAT, "stages": stages}))


def prepared(folder, source: str, **options):
    """A folder as `otdrg prepare` leaves it, of ten studies that differ in their labels."""
    counts = {
        split: count_studies(
            {
                "images": ["a.png", "b.png"],
                "views": ["frontal", "lateral"],
                "indication": "",
                "comparison": "",
                "findings": "The lungs are clear.",
                "impression": "" if index % 2 else "Normal.",
                "disease_labels": [1 if index == 0 else 2] * 14,
            }
            for index in range(number)
        )
        for split, number in (("train", 8), ("test", 2))
    }
    summary = {
        "source": source,
        "image_root": "../../secret/films",
        "options": {"image_size": 256, "labels": "auto", "seed": 3, "inputs": {"reports": ["secret.tgz", 1]}} | options,
        **describe_counts(sum(counts.values(), Counter())),
        "splits": {split: describe_counts(count) for split, count in counts.items()},
        "rejected": {"report missing": 4},
    }
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever opens a connection to another machine fails the test."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def check(host):
        assert host in ("127.0.0.1", b"127.0.0.1"), f"the network was touched: {host}"

    def checked_connect(self, address):
        check(address[0])
        return connect(self, address)

    def checked_resolve(host, *arguments, **options):
        check(host)
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", checked_connect)
    monkeypatch.setattr(socket, "getaddrinfo", checked_resolve)


@pytest.fixture(scope="session")
def evaluation_file(tmp_path_factory):
    """What `otdrg evaluate --json` writes, of four reports."""
    folder = tmp_path_factory.mktemp("evaluation")
    rows = [{"id": str(i), "generated_text": a, "reference": b} for i, (a, b) in enumerate(PAIRS)]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = evaluate_files([folder / "predictions.jsonl"], meteor=False, num_bootstrap=50)
    evaluation.write_json(folder / "evaluation.json")
    return folder / "evaluation.json"


@pytest.fixture
def figures(evaluation_file):
    return read_scores(evaluation_file, "phantom", "test")


@pytest.fixture(scope="session")
def saved_once(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "tiny-otdrg"
    pipeline("radiology-report", model=str(folder)).save_pretrained(path)
    write_stages(path, stage())
    write_model_card(path, repo_id="org/tiny-otdrg")
    return path


@pytest.fixture
def hub(monkeypatch) -> FakeHub:
    """A Hub that is made up, to which the user is logged in."""
    fake = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_of_the_test")
    return fake


@pytest.fixture
def published(saved_once, tmp_path):
    """A model folder that is ready to be pushed; a copy, for tests to spoil."""
    return shutil.copytree(saved_once, tmp_path / "tiny-otdrg")
