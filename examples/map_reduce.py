"""Count words in many files: one branch a file with ``.map``, then several reductions side by side, each by its name.

The files are the modules of this Python's standard library, so there is nothing to prepare.
"""

from __future__ import annotations

import re
import sysconfig
import time
from collections import Counter
from pathlib import Path
from typing import Any

from egregore_dist import Sequence, node, parallel

WORD = re.compile(r"[a-z]{4,}")


@node("find_files")
def find_files(folder: str, most: int = 150) -> dict[str, str]:
    """The input of the map. A mapping keeps its keys: each count comes back under its module's name."""
    files = sorted(Path(folder).glob("[a-z]*.py"))[:most]
    return {file.stem: str(file) for file in files}


@node("count_words")
def count_words(path: str) -> dict[str, int]:
    """Map: the words of one file. This runs once a file, on whichever worker is free."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return dict(Counter(WORD.findall(text.lower())))


@node("totals")
def totals(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    """Reduce: how much there is."""
    return {"files": len(counts), "words": sum(sum(words.values()) for words in counts.values())}


@node("most_common")
def most_common(counts: dict[str, dict[str, int]]) -> list[tuple[str, int]]:
    """Reduce: the words of all files together."""
    together: Counter[str] = Counter()
    for words in counts.values():
        together.update(words)
    return together.most_common(5)


@node("signature_words")
def signature_words(counts: dict[str, dict[str, int]]) -> dict[str, str]:
    """Reduce, using the names: of the five largest files, the word that hardly any other file has."""
    spread = Counter(word for words in counts.values() for word in words)
    largest = sorted(counts, key=lambda name: -sum(counts[name].values()))[:5]
    return {name: max(counts[name], key=lambda word: counts[name][word] / spread[word]) for name in largest}


count_all = Sequence(find_files, count_words.map(timeout=60.0), name="count_all")
flow = Sequence(count_all, parallel(totals, most_common, signature_words), name="word_count")


def main() -> None:
    """Count the words of the standard library, and show the three reductions."""
    started = time.perf_counter()
    result: dict[str, Any] = flow({"folder": sysconfig.get_path("stdlib")})
    seconds = time.perf_counter() - started
    print(f"{result['totals']['words']:,} words in {result['totals']['files']} files, {seconds:.1f} s in all")
    print("\nMost common words")
    for word, count in result["most_common"]:
        print(f"  {word:<12} {count:>7,}")
    print("\nA word that says which file it is")
    for name, word in result["signature_words"].items():
        print(f"  {name:<12} {word}")


if __name__ == "__main__":
    main()
