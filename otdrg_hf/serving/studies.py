"""Requests as data: the studies of `/v1/reports`, and the chats of `/v1/chat/completions`."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from otdrg_hf.labeling import STATES
from otdrg_hf.serving.limits import Refusal

Indication = Annotated[str, StringConstraints(max_length=4_000)]
Comparison = Annotated[str, StringConstraints(max_length=20_000)]
Draft = Annotated[str, StringConstraints(max_length=20_000)]
View = Literal["frontal", "lateral", "unknown"]
# Below it, a sample is the most likely report, and logits divided by it overflow.
LEAST_TEMPERATURE = 0.01
NOT_SUPPORTED = ("tools", "functions", "logprobs", "top_logprobs", "stop", "audio", "prediction")


class ImageFile(BaseModel):
    """An image and what to call it in the answer."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description="A data URL, base64, or, where the server allows it, an http(s) address.")
    name: str | None = Field(default=None, max_length=200)


class StudyRequest(BaseModel):
    """A study whose report is asked for."""

    model_config = ConfigDict(extra="forbid")

    images: list[str | ImageFile] = Field(min_length=1, description="The views.")
    views: list[View] | None = Field(default=None, description="Of each image. Default: what DICOM files say.")
    indication: Indication | None = None
    comparison: Comparison | None = Field(default=None, description="The earlier report.")
    disease_labels: dict[str, Literal[STATES]] | None = Field(  # type: ignore[valid-type]
        default=None, description='Known states, such as {"Pneumothorax": "positive"}, which override predictions.'
    )
    operating_point: str | dict[str, Any] | None = Field(
        default=None, description="As the pipeline takes it, of a model that has been calibrated."
    )
    begins_with: Draft | None = Field(default=None, description="The beginning of the report, which is continued.")
    impression_of: Draft | None = Field(
        default=None, description="Findings whose impression is asked for, of a model that writes both sections."
    )
    evidence: Literal["png", "arrays"] | None = Field(default=None, description="Add heat maps, in this form.")
    sentences: bool | None = Field(
        default=None, description="Add what each sentence states and how sure that is. Default: if it is calibrated."
    )
    max_new_tokens: int | None = Field(default=None, ge=1, description="Bound on the length of the report.")

    @model_validator(mode="after")
    def _views_of_all_images(self) -> "StudyRequest":
        if self.views is not None and len(self.views) != len(self.images):
            raise ValueError("as many views as images are needed")
        return self


class ImageURL(BaseModel):
    url: str
    detail: str | None = None


class ContentPart(BaseModel):
    type: Literal["text", "image_url"]
    text: Comparison | None = None
    image_url: ImageURL | None = None

    @model_validator(mode="after")
    def _is_what_it_says(self) -> "ContentPart":
        if getattr(self, self.type) is None:
            raise ValueError(f"a part of type {self.type} needs {self.type}")
        return self


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None

    def parts(self) -> list[ContentPart]:
        if isinstance(self.content, str):
            return [ContentPart(type="text", text=self.content)]
        return self.content or []


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """
    A chat in OpenAI's form.

    The user messages at its end are the study: their images are its views, their text its indication. What comes before
    them is not read, and of OpenAI's parameters only those below are.
    """

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, description="Default: 0, the most likely report.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: Literal[1] | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_that_is_not_done(cls, values: Any) -> Any:
        if isinstance(values, dict):
            asked = [name for name in NOT_SUPPORTED if values.get(name)]
            form = values.get("response_format")
            if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
                asked.append("response_format")
            if asked:
                raise ValueError(f"{asked[0]} is not supported: this model writes a report and nothing else")
        return values

    def study(self) -> StudyRequest:
        """
        The study in the chat.

        Raises:
            Refusal: if the messages at the end hold no image, or more text than an indication.
        """
        last: list[ChatMessage] = []
        for message in reversed(self.messages):
            if message.role != "user":
                break
            last.insert(0, message)
        parts = [part for message in last for part in message.parts()]
        images: list[str | ImageFile] = [part.image_url.url for part in parts if part.image_url is not None]
        if not images:
            raise Refusal(
                400,
                "There is no image in the last user message: this model reports chest X-rays and does not converse.",
                "image_missing",
            )
        text = "\n".join(part.text.strip() for part in parts if part.text and part.text.strip())
        tokens = self.max_completion_tokens or self.max_tokens
        return parse(StudyRequest, {"images": images, "indication": text or None, "max_new_tokens": tokens})

    def sampling(self) -> dict[str, Any]:
        """Options of the pipeline; a temperature of 0 is the most likely report, whatever the model's own default."""
        # Sentences need the logits of all tokens, hundreds of megabytes for a large vocabulary, and a chat has none.
        options: dict[str, Any] = {"sentences": False, "generate_kwargs": {"do_sample": False}}
        if not self.temperature or self.temperature < LEAST_TEMPERATURE:
            return options
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p or 1.0, "top_k": 0}
        return {**options, "generate_kwargs": sampling} | ({} if self.seed is None else {"seed": self.seed})


def parse(kind: type[BaseModel], content: bytes | dict) -> Any:
    """
    A request of this kind, from JSON or from values.

    Raises:
        Refusal: which names the key at fault and quotes no value.
    """
    try:
        if isinstance(content, bytes):
            return kind.model_validate_json(content)
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(key)[:60] for key in first["loc"])
        status = 400 if first["type"] == "json_invalid" else 422
        message = "The body is not JSON." if status == 400 else f"{where or 'body'}: {first['msg']}."
        raise Refusal(status, message, "invalid_json" if status == 400 else "invalid_request") from None


def study_of_fields(fields: dict[str, list[str]], images: list[Any]) -> dict:
    """What [`StudyRequest`] takes, of the fields of a form; empty ones are as if they were not there."""
    values: dict[str, Any] = {"images": images}
    for name, given in fields.items():
        given = [text for text in given if text.strip()]
        if not given:
            continue
        if name == "views":
            values[name] = [view.strip() for text in given for view in text.split(",")]
        elif len(given) > 1:
            raise Refusal(422, f"{name[:60]}: given more than once.", "invalid_request")
        elif name == "disease_labels" or (name == "operating_point" and given[0].lstrip().startswith("{")):
            values[name] = _json_of(name, given[0])
        else:
            values[name] = given[0]
    return values


def _json_of(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(422, f"{name}: not a JSON object.", "invalid_request") from None
