"""Check every link inside the built documentation: the file and the anchor must exist.

    python scripts/check_site.py docs/_build/html

Links to other sites are counted, never opened, so that a build does not depend on a network.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Collect the links of a page and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record ids, names and links of an element."""
        given = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := given.get(name))}
        link = given.get("src") or (given.get("href") if tag != "base" else None)
        if link:
            self.links.append(link)


def faults(site: Path) -> tuple[list[str], int, int]:
    """Return the broken links of a site, and the numbers of internal and external links."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    broken, inside, outside = [], 0, 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                outside += 1
                continue
            inside += 1
            where = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not _reaches(where / "index.html" if where.is_dir() else where, unquote(parts.fragment), pages):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken, inside, outside


def _reaches(where: Path, place: str, pages: Mapping[Path, Page]) -> bool:
    return where.exists() and (where not in pages or place in pages[where].places)


def main() -> None:
    """Print the broken links and fail, or print the number of sound links."""
    broken, inside, outside = faults(Path(sys.argv[1]))
    if broken:
        sys.exit("\n".join(["broken links:", *broken]))
    print(f"{inside} internal links are sound; {outside} external links were not opened")


if __name__ == "__main__":
    main()
