"""The code blocks of README.md and docs/, and the command lines in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
GUIDES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]


class Block(NamedTuple):
    """A fenced block: its language ("" for none) and its text."""

    language: str
    text: str

    def lines(self) -> list[str]:
        """The command lines of a shell block, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined) if line]

    def shows(self, printed: str) -> bool:
        """Whether this is what was printed, but for scores, line breaks and what `...` stands for."""
        of_output = _plain(printed)
        pieces = [_plain(piece) for piece in self.text.split("...") if piece.strip()]
        return bool(re.search(".*?".join(map(re.escape, pieces)), of_output, re.DOTALL))


def _plain(text: str) -> str:
    return re.sub(r"\d+\.\d+", "0.0", "".join(text.split()))


def blocks_of(guide: str) -> list[Block]:
    """The blocks of a guide, in order."""
    text = (ROOT / guide).read_text(encoding="utf-8")
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
