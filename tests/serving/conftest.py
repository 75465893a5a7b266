"""A server around a tiny model, in this process, and images for it."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

pytest.importorskip("prometheus_client")

from starlette.testclient import TestClient  # noqa: E402

from otdrg_hf.labeling import LABELS  # noqa: E402
from otdrg_hf.serving.application import make_application  # noqa: E402
from otdrg_hf.serving.limits import Limits  # noqa: E402
from tests.support.tiny_models import make_model  # noqa: E402


def png(film: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="session")
def report(model, processor):
    return pipeline("radiology-report", model=model, processor=processor)


@pytest.fixture(scope="session")
def calibrated(processor):
    """The pipeline of a model that knows operating points."""
    curve = [[1.0, 1.0, 0.1], [0.6, 0.8, 0.7], [0.3, 0.7, 0.9], [1e-9, 0.1, 1.0]]
    curves = {label: curve for label in LABELS if label != "No Finding"}
    fitted = make_model(positive_thresholds=[0.5] * len(LABELS), operating_curves=curves)
    return pipeline("radiology-report", model=fitted, processor=processor)


@pytest.fixture(scope="session")
def pictures(films) -> list[bytes]:
    return [png(film) for film in films]


@pytest.fixture
def serve(report):
    """Starts a server with these bounds; gives a client."""
    clients = []

    def start(keys=None, local=False, of=report, **limits) -> TestClient:
        application = make_application(of, "tiny", Limits(**({"max_new_tokens": 12} | limits)), keys, local)
        clients.append(TestClient(application, base_url="http://127.0.0.1:8000", raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serve):
    return serve()


def chat(picture: bytes, text: str | None = None, **options) -> dict:
    parts: list[dict] = [{"type": "image_url", "image_url": {"url": data_url(picture)}}]
    parts += [{"type": "text", "text": text}] if text else []
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}], **options}
