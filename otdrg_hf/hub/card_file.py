"""Writes a card as a README.md, and never over one that somebody has edited."""

import hashlib
import re
from importlib import resources
from pathlib import Path

from otdrg_hf.files import write_text

CARD_FILE = "README.md"
TASK_TYPE = "image-to-text"
MARK = re.compile(r"\n<!-- Written by otdrg card, ([0-9a-f]{16}). -->\n$")
# What the trainer of TRL leaves in README.md at each checkpoint.
DRAFT = "generated_from_trainer"


def render_card(card_class, card_data, template: str, **fields) -> str:
    """
    Fills a template of hub_cards/.

    Args:
        card_class (`type`): [`~huggingface_hub.ModelCard`] or [`~huggingface_hub.DatasetCard`].
        card_data ([`~huggingface_hub.CardData`]): The metadata.
        template (`str`): File name of the template.
        fields: What its text asks for.
    """
    text = resources.files("otdrg_hf.hub_cards").joinpath(template).read_text(encoding="utf-8")
    content = str(card_class.from_template(card_data, template_str=text, **fields))
    return re.sub(r"\n{3,}", "\n\n", content).strip() + "\n"


def save_card(path: Path, content: str) -> None:
    """
    Writes a card, whole or not at all, with a mark by which later edits are noticed.

    Raises:
        ValueError: if there is a card that was not written by this function, or was edited since.
        FileNotFoundError: if the folder does not exist.
    """
    if not is_replaceable(path):
        raise ValueError(f"{path.name} was written or edited by someone: delete it, or give --output for another name.")
    write_text(path, f"{content}\n<!-- Written by otdrg card, {_digest(content)}. -->\n")


def is_replaceable(path: Path) -> bool:
    """Whether there is no card yet, or one that is as `save_card` wrote it, or a trainer's draft."""
    if not path.exists():
        return True
    content = path.read_text(encoding="utf-8")
    mark = MARK.search(content)
    return is_draft(content) or (mark is not None and mark[1] == _digest(content[: mark.start()]))


def is_draft(content: str) -> bool:
    return MARK.search(content) is None and DRAFT in content.partition("\n---\n")[0]


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
