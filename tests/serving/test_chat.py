"""`POST /v1/chat/completions`: the official client of OpenAI works against it, and gets what the pipeline writes."""

import json

import anyio
import pytest

openai = pytest.importorskip("openai")

from otdrg_hf.serving.application import make_application  # noqa: E402
from otdrg_hf.serving.limits import Limits  # noqa: E402
from tests.serving.conftest import chat, data_url  # noqa: E402

CHAT = "/v1/chat/completions"


@pytest.fixture
def official(client):
    """The official client, whose connection is to the server in this process."""
    return openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none", http_client=client, max_retries=0)


def expected(report, study, tokens: int = 12) -> dict:
    return report(study, max_new_tokens=tokens)


def test_official_client(official, report, films, pictures):
    answer = official.chat.completions.create(**chat(pictures[0], "Cough."))
    text = expected(report, {"images": [films[0]], "indication": "Cough."})["generated_text"]
    [choice] = answer.choices
    assert choice.message.content == text and choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length") and answer.model == "tiny"
    assert answer.usage.completion_tokens > 0 and answer.usage.prompt_tokens > 0
    assert answer.otdrg["generated_text"] == text and len(answer.otdrg["findings"]) == 14
    assert [model.id for model in official.models.list()] == ["tiny"]


def test_official_client_streams(official, report, films, pictures):
    stream = official.chat.completions.create(**chat(pictures[1]), stream=True, stream_options={"include_usage": True})
    *pieces, last, usage = list(stream)
    text = expected(report, films[1])["generated_text"]
    assert "".join(piece.choices[0].delta.content for piece in pieces) == text and pieces
    assert pieces[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason in ("stop", "length") and last.otdrg["generated_text"] == text
    assert usage.choices == [] and usage.usage.completion_tokens > 0


def test_end_of_a_stream_is_marked(client, pictures):
    answer = client.post(CHAT, json=chat(pictures[0], stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]" and all(json.loads(event)["object"] for event in events[:-1])


def test_streams_of_overridden_labels_are_of_the_revision(client, report, films, pictures):
    """Streamed and whole answers of a batch agree, whatever else runs with them."""
    study = {"images": [data_url(pictures[0])], "disease_labels": {"Pneumothorax": "positive"}}
    row = client.post("/v1/reports", json=study).json()
    given = {"images": [films[0]], "disease_labels": study["disease_labels"]}
    assert row["generated_text"] == expected(report, given)["generated_text"]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_bound_on_tokens(official, report, films, pictures, name):
    answer = official.chat.completions.create(**chat(pictures[0]), **{name: 3})
    assert answer.usage.completion_tokens <= 3
    assert answer.choices[0].message.content == expected(report, films[0], 3)["generated_text"]


def test_samples_of_a_seed_are_the_same(official, pictures):
    def sample(seed):
        return official.chat.completions.create(**chat(pictures[0]), temperature=1.5, seed=seed).choices[0].message

    assert sample(1).content == sample(1).content
    assert len({sample(seed).content for seed in range(4)}) > 1


@pytest.mark.parametrize("temperature", [1e-300, 1.0547300902222347e-52, 1e-6])
def test_a_temperature_next_to_none_is_none(official, report, films, pictures, temperature):
    answer = official.chat.completions.create(**chat(pictures[0]), temperature=temperature)
    assert answer.choices[0].message.content == expected(report, films[0])["generated_text"]


def test_the_study_is_what_the_user_said_last(client, report, films, pictures):
    first, second = chat(pictures[0], "Fever.")["messages"], chat(pictures[1], "Cough.")["messages"]
    system = {"role": "system", "content": "You are a radiologist."}
    text = {"role": "user", "content": "Cough."}
    image = {"role": "user", "content": chat(pictures[1])["messages"][0]["content"]}
    wanted = expected(report, {"images": [films[1]], "indication": "Cough."})["generated_text"]
    for messages in (
        [system, *first, {"role": "assistant", "content": "Clear."}, *second],
        [system, text, image],
    ):
        answer = client.post(CHAT, json={"model": "tiny", "messages": messages})
        assert answer.json()["choices"][0]["message"]["content"] == wanted


def test_a_follow_up_question_is_not_answered(official, pictures):
    talk = [*chat(pictures[0])["messages"], {"role": "assistant", "content": "Clear."}]
    talk += [{"role": "user", "content": "Is there an effusion?"}]
    with pytest.raises(openai.BadRequestError, match="does not converse"):
        official.chat.completions.create(model="tiny", messages=talk)


def test_another_model_is_not_there(official, pictures):
    with pytest.raises(openai.NotFoundError, match="no such model"):
        official.chat.completions.create(**chat(pictures[0]) | {"model": "gpt-4o"})


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"stop": "."},
        {"n": 2},
        {"temperature": -1},
        {"max_tokens": 0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_not_done_is_refused(official, pictures, options):
    with pytest.raises(openai.UnprocessableEntityError) as error:
        official.chat.completions.create(**chat(pictures[0]) | options)
    assert next(iter(options)) in str(error.value) and "Traceback" not in str(error.value)


def test_an_image_that_cannot_be_read(official, pictures):
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError, match="not an image file"):
            official.chat.completions.create(**chat(b"no image at all"), stream=stream)


def test_room_of_a_stream_is_given_back_where_the_client_leaves_before_it(report, pictures):
    application = make_application(report, "tiny", Limits(max_new_tokens=12, max_queue=1, max_batch=1))
    body = json.dumps(chat(pictures[0], stream=True)).encode()
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"content-type", b"application/json")]}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": "", "raw_path": CHAT.encode()}
    statuses = []

    async def leave():
        messages = [{"type": "http.request", "body": body}]

        async def receive():
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message):
            statuses.append(message.get("status"))

        await application(dict(scope), receive, send)

    async def many():
        for _ in range(5):
            await leave()

    anyio.run(many)
    assert 429 not in statuses
