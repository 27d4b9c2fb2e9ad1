"""The prose: links lead somewhere, every page can be found, and the README is short."""

import pathlib
import re

import pytest
from test_words import public_objects

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted(ROOT.glob("docs/*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]


def links(text: pathlib.Path) -> list[str]:
    """Targets of the links and pictures of a page that are files of this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text.read_text())
    return [target for target in targets if "://" not in target]


def anchors(page: pathlib.Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_links_lead_somewhere(text):
    for link in links(text):
        name, _, anchor = link.partition("#")
        target = (text.parent / name).resolve() if name else text
        assert target.exists(), f"{text.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{text.name} links to {link}"


def test_every_page_and_notebook_is_in_the_index():
    linked = {
        (ROOT / "docs" / link.partition("#")[0]).resolve()
        for link in links(PAGES[0].parent / "index.md")
    }
    pages = {page for page in PAGES if page.name != "index.md"}
    assert pages | set((ROOT / "notebooks").glob("*.ipynb")) <= linked


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_every_public_name_has_a_page_and_every_page_a_name():
    listed = [
        name
        for page in ROOT.glob("docs/reference/*.md")
        for name in re.findall(r"^   (jaxmup\.\S+)$", page.read_text(), re.MULTILINE)
    ]
    names = {f"jaxmup.{module}.{name}".replace("..", ".") for module, name, _ in public_objects()}
    assert len(listed) == len(set(listed))
    assert set(listed) == names


def test_the_three_lines_are_the_same_everywhere():
    diffs = [
        re.findall(r"```diff\n(.*?)```", page.read_text(), re.DOTALL)
        for page in (ROOT / "README.md", ROOT / "docs" / "index.md")
    ]
    assert len(diffs[0]) == 1
    assert diffs[0] == diffs[1]
