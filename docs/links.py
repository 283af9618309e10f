"""Hook of mkdocs: links to files outside docs/ point to the repository or, without `repo_url`, become plain text."""

from __future__ import annotations

import re
from typing import Any


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Return the page's Markdown with links to ../ replaced."""
    found = rf"[\1]({config.repo_url}/blob/main/\2)" if config.repo_url else r"\1 (`\2`)"
    return re.sub(r"(?<!!)\[([^\]]*)\]\(\.\./([^)]*)\)", found, markdown)
