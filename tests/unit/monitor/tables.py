"""Tables as people read them."""

from __future__ import annotations

import html
import re


def first_row(page: str) -> dict[str, str]:
    """The text of each cell in the first row of a page's first table, by the text of its head."""
    (head, body) = (re.findall(rf"<{part}>(.*?)</{part}>", page, re.DOTALL)[0] for part in ("thead", "tbody"))
    return dict(zip(_cells(head), _cells(body.partition("</tr>")[0]), strict=True))


def _cells(row: str) -> list[str]:
    found = re.findall(r"<(t[hd])\b[^>]*>(.*?)</\1>", row, re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split()) for _, text in found]
