"""Answers in OpenAI's form: a completion, or its chunks as server-sent events."""

import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from otdrg_hf.serving.limits import ClientGone, Refusal
from otdrg_hf.serving.service import Pieces, Written

logger = logging.getLogger("otdrg_hf.serving")


def completion(written: Written, model: str) -> dict[str, Any]:
    """The report as a chat completion; `otdrg` holds the line of `otdrg report --json`."""
    message = {"role": "assistant", "content": written.row["generated_text"], "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": written.finish_reason}
    return {**_head("chat.completion", model), "choices": [choice], "usage": _usage(written), "otdrg": written.row}


async def completion_chunks(pieces: Pieces, model: str, include_usage: bool) -> AsyncIterator[bytes]:
    """
    The report as events: its text as it is written, then `otdrg` with the reason of its end, then, where asked for, the
    usage. An error after the first event is an event as well.
    """
    head = _head("chat.completion.chunk", model)

    def event(delta: dict, finish_reason: str | None = None, **more) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if include_usage else {}
        return _event({**head, "choices": [choice], **usage, **more})

    yield event({"role": "assistant", "content": ""})
    try:
        async for piece in pieces:
            yield event({"content": piece})
        written = pieces.written
        assert written is not None
        yield event({}, written.finish_reason, otdrg=written.row)
        if include_usage:
            yield _event({**head, "choices": [], "usage": _usage(written)})
    except Refusal as refusal:
        yield _event(refusal.body)
    except ClientGone:
        return
    except Exception as error:  # only the type, as everywhere
        logger.error("a request failed: %s", type(error).__name__)
        yield _event(Refusal(500, "The report could not be written.", "internal_error").body)
    yield b"data: [DONE]\n\n"


def _head(kind: str, model: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}


def _usage(written: Written) -> dict[str, int]:
    prompt, completion = written.prompt_tokens, written.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _event(content: dict) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
