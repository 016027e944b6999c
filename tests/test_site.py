"""
The site of doc/build.py: it builds, its links lead somewhere, and a browser shows it.
"""

import importlib.util
import re
import urllib.parse

import pytest
from browser import (
    chromium,  # noqa: F401, a fixture
    needs_chromium,
)
from helpers import PROJECT

SHOWN = "index.html", "doc/lesson.html", "doc/attention.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("build_site", PROJECT / "doc" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build(tmp_path_factory.mktemp("site") / "build")


def test_every_link_leads_somewhere(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(pages) > 60
    count = 0
    for path, text in pages.items():
        for link in re.findall(r'(?:href|src|srcset)="([^"#?]+)', text):
            if not re.match(r"\w+:|//|/", link):
                count += 1
                target = path.parent / urllib.parse.unquote(link)
                assert target.exists(), f"{path.relative_to(site)}: {link}"
    assert count > 2000


def test_all_of_the_lesson_stands_beside_its_pages(site):
    text = (site / "doc" / "lesson.html").read_text(encoding="utf-8")
    source = (PROJECT / "train_gpt2.py").read_text(encoding="utf-8")
    for name in re.findall(r"^def (\w+)", source, re.M):
        assert text.count(f'<span class="nf">{name}</span>') >= 1, name
    assert text.count('<div class="pair">') >= 11
    search = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "layernorm" in search


@needs_chromium
@pytest.mark.parametrize("page", SHOWN)
@pytest.mark.parametrize("width", [1400, 400])
def test_a_page_in_a_browser(site, chromium, page, width):  # noqa: F811
    colors = set()
    chromium.errors.clear()
    for scheme in "light", "dark":
        chromium.open(site / page, width, scheme)
        assert chromium.js("document.documentElement.scrollWidth") <= width
        colors.add(chromium.js("getComputedStyle(document.body).backgroundColor"))
    assert len(colors) == 2
    # The search is a worker, which a browser refuses to a page that comes from a file
    assert not [error for error in chromium.errors if "worker" not in error.lower()]
    if "lesson" in page:
        sides = "[...document.querySelectorAll('.pair > *')].slice(0, 2)"
        (left, top), (other_left, other_top) = chromium.js(
            f"{sides}.map((e) => e.getBoundingClientRect()).map(({{x, y}}) => [x, y])"
        )
        assert (other_left > left + 300) == (width == 1400)
        assert (other_top > top + 300) == (width == 400)
