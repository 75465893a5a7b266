# Copyright 2026 The otdrg-hf authors. Licensed under the Apache License, Version 2.0.
"""
The prompt of a study as text: its lines, chats in the same words, and its placeholders.

    Frontal view: <image>
    Lateral view: <image>
    Findings: <finding>
    Indication: Cough.
    Report:
"""

import re
from collections.abc import Sequence
from typing import Any

from transformers import processing_utils
from transformers.utils.chat_template_utils import render_jinja_template

from .image_loading import is_data_url

IMAGE_TOKEN, FINDING_TOKEN = "<image>", "<finding>"
VIEW_NAMES = {"frontal": "Frontal view:", "lateral": "Lateral view:", "unknown": "View:"}
# transformers marks what users wrote of control tokens in a chat, where it is to be read as plain text.
_UNMARKED = getattr(processing_utils, "_UNMARKED", "")
_PLACEHOLDERS = re.compile(f"{_UNMARKED}(?:{IMAGE_TOKEN}|{FINDING_TOKEN})")
_NAMED_IMAGE = re.compile(f"(?:{'|'.join(VIEW_NAMES.values())}) {IMAGE_TOKEN}")

# A message of parts as one text.
_PARTS = """\
{%- for part in message.content -%}
  {%- if part.type == 'image' -%}{{ '<image>' }}
  {%- elif part.type == 'finding' -%}{{ '<finding>' }}
  {%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
"""

# The chat of a language model without a template of its own: one turn of a user renders as `build_prompt` words it.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {%- if not loop.first -%}{{ '\\n' }}{%- endif -%}
  {%- if message.role == 'assistant' -%}{{ 'Report: ' }}{%- endif -%}
  {%- if message.content is string -%}{{ message.content }}
  {%- else -%}
PARTS
  {%- endif -%}
  {%- if message.role == 'assistant' -%}{{ eos_token }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '\\nReport:' }}{%- endif -%}
""".replace("PARTS\n", _PARTS)

# Arguments of `apply_chat_template` that say something of one conversation; others can be variables of the template.
_OF_CONVERSATIONS = (
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "return_assistant_tokens_mask",
)

# Set before a template that reads text only: the parts of a message become one text.
PARTS_TO_TEXT = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
  {%- if message.content is defined and message.content is not string -%}
    {%- set text -%}
PARTS
    {%- endset -%}
    {%- set message = dict(message, content=text) -%}
  {%- endif -%}
  {%- set flat.messages = flat.messages + [message] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
""".replace("PARTS\n", _PARTS)


def prompt_text(views: Sequence[str], indication: str, comparison: str, label_prompt: bool) -> str:
    """
    The lines of a prompt, without a chat template.

    Args:
        views (`list[str]`): The view of each image, of `VIEW_NAMES`.
        indication, comparison (`str`): Why the image was taken, and the earlier report; empty where not known.
        label_prompt (`bool`): Whether there is a line for the labels.
    """
    lines = [f"{VIEW_NAMES[view]} {IMAGE_TOKEN}" for view in views]
    if label_prompt:
        lines.append(f"Findings: {FINDING_TOKEN}")
    if indication:
        lines.append(f"Indication: {indication}")
    if comparison:
        lines.append(f"Earlier report: {comparison}")
    return "\n".join([*lines, "Report:"])


def rename_views(prompt: str, views: Sequence[str]) -> str:
    """A prompt in which the images are called by these views instead, in their order."""
    names = iter(views)
    return _NAMED_IMAGE.sub(lambda _: f"{view_name(next(names))} {IMAGE_TOKEN}", prompt)


def view_name(view: str) -> str:
    """What a view is called in the prompt; `ValueError` for one that is not known."""
    if view not in VIEW_NAMES:
        raise ValueError(f"{view!r} is not a view; choose from {', '.join(VIEW_NAMES)}.")
    return VIEW_NAMES[view]


def count_placeholders(token: str, text: str) -> int:
    """How often `<image>` or `<finding>` stands in a text as a placeholder."""
    return _PLACEHOLDERS.findall(text).count(token)


def expand_placeholders(prompt: str, lengths: dict[str, int]) -> tuple[str, list[dict]]:
    """
    A prompt with as many placeholders as tokens, and where they were and are, as transformers notes it.

    Args:
        lengths (`dict[str, int]`): Tokens of one `<image>` and one `<finding>`.
    """
    text, spans, end = "", [], 0
    for match in _PLACEHOLDERS.finditer(prompt):
        tokens = match[0] * lengths[match[0]]
        text += prompt[end : match.start()]
        kind = "image" if match[0] == IMAGE_TOKEN else "finding"
        span = {"type": kind, "span": match.span(), "new_span": (len(text), len(text) + len(tokens))}
        spans.append({**span, "text": match[0], "replacement": tokens})
        text, end = text + tokens, match.end()
    return text + prompt[end:], spans


def parts_of(message: dict) -> list[dict]:
    """The parts of a message; none of one that is a text."""
    content = message.get("content")
    return content if isinstance(content, list) else []


def with_parts(message: dict) -> dict:
    """A message with its images as transformers names them, however they are given."""
    if not isinstance(message.get("content"), (list, tuple)):
        return message
    parts = []
    for part in message["content"]:
        kind = part.get("type")
        if kind not in ("text", "image", "image_url"):
            raise ValueError(f"A message has a part of type {kind!r}: OTDRG reads 'image' and 'text'.")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise ValueError("A message has a part of type 'text' without a 'text'.")
        if kind == "image_url":  # as OpenAI's clients send it
            url = part["image_url"]
            part = {"type": "image", "url": url["url"] if isinstance(url, dict) else url}
        elif isinstance(part.get("base64"), str) and not is_data_url(part["base64"]):
            part = {**part, "base64": f"data:image/*;base64,{part['base64']}"}
        parts.append({**part})  # the same image may be given twice
    return {**message, "content": parts}


def reads_parts(template: str, images: bool, variables: dict[str, Any]) -> bool:
    """
    Whether a chat template renders messages whose content is a list of parts.

    Args:
        template (`str`): In Jinja.
        images (`bool`): Whether there are images among the parts.
        variables (`dict`): Of the template, such as the special tokens.
    """
    probe = "The heart is normal."
    parts = [{"type": "image"}] * images + [{"type": "text", "text": probe}]
    # Not a conversation of the caller's: only what the template itself makes of parts counts.
    variables = {name: value for name, value in variables.items() if name not in _OF_CONVERSATIONS}
    try:
        (rendered,), _ = render_jinja_template(
            conversations=[[{"role": "user", "content": parts}]],
            chat_template=template,
            **variables,
        )
    except Exception:  # a template fails in any way on what it does not expect
        return False
    return rendered.count(probe) == 1 and "'type'" not in rendered and rendered.count(IMAGE_TOKEN) == images


def worded_chat(chat: Sequence[dict], label_prompt: bool, plain: bool, parts_read: bool) -> list[dict]:
    """
    A conversation with words around its images, and the labels after the last of them.

    Args:
        chat (`list[dict]`): Messages, as of [`with_parts`].
        label_prompt (`bool`): Whether the prompt shows labels.
        plain (`bool`): Whether the template is `CHAT_TEMPLATE`, which asks for the report by itself.
        parts_read (`bool`): Whether the template reads parts, of which it knows images and text only.
    """
    parts = [part for message in chat for part in parts_of(message)]
    last = next((part for part in reversed(parts) if part["type"] == "image"), None)
    texts = [message["content"] for message in chat if isinstance(message.get("content"), str)]
    texts += [part["text"] for part in parts if part["type"] == "text"]
    labels = label_prompt and not any(FINDING_TOKEN in text for text in texts)
    finding = {"type": "text", "text": FINDING_TOKEN} if parts_read and not plain else {"type": "finding"}
    worded = []
    for message in chat:
        lines: list[list[dict]] = []
        for part in (parts := parts_of(message)):
            if part["type"] == "image":
                lines.append([{"type": "text", "text": f"{view_name(part.get('view', 'unknown'))} "}, part])
            elif part["text"]:
                lines.append([part])
            if labels and part is last:
                lines.append([{"type": "text", "text": "Findings: "}, finding])
        shown = sum(part["type"] == "image" for part in parts)
        if not shown:
            worded.append(message)
            continue
        if shown == len(parts) and not plain:
            lines.append([{"type": "text", "text": "Report:"}])
        between = [[{"type": "text", "text": "\n"}, *line] for line in lines[1:]]
        worded.append({**message, "content": sum(between, lines[0])})
    return worded
