"""
The course as a site, with a search, in light and dark: `python doc/build.py` writes build/site/.

mkdocs (requirements-dev.txt) makes it of the project's pages as they are. What is added is the
lesson side by side: each section of train_gpt2.py, and to the left of it the page that derives it.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config
from pygments.formatters import HtmlFormatter

PROJECT = Path(__file__).resolve().parent.parent
FOLDERS = ".", "doc", "exercises", "experiments", "models", "tools"
COURSE = (  # in the order of doc/README.md
    "start numpy rules linear softmax head gelu layernorm embedding attention block model adamw "
    "schedule loss gradcheck accumulation sampling threads files step"
).split()
MORE = (
    "guide recipes see evaluate answers llama flash_attention recompute lora bpe proof speed errors"
).split()
FENCE = re.compile(r"(^```.*?^```\n)", re.M | re.S)
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)\s#]+)")
STYLE = """
.pair { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 2rem; }
.pair > .code { position: sticky; top: 4.5rem; max-height: calc(100vh - 5rem); overflow: auto;
  align-self: start; }
.code pre { font-size: 78%; }
@media (max-width: 62rem) { .pair { display: block; } .pair > .code { position: static; } }
body:has(.pair) .container { max-width: 110rem; }
body:has(.pair) .col-md-3 { display: none; }
body:has(.pair) .col-md-9 { width: 100%; }
table { display: block; overflow-x: auto; }
img { max-width: 100%; }
.codehilite pre, .codehilite code { background: transparent; }
"""
# The theme turns these two on and off, which it has for highlight.js
MAIN = """{% extends "base.html" %}
{% block styles %}{{ super() }}
<link id="hljs-light" rel="stylesheet" href="{{ 'light.css' | url }}">
<link id="hljs-dark" rel="stylesheet" href="{{ 'dark.css' | url }}" disabled>
{% endblock %}
"""


def listing(target):
    """Return a page that shows a file of code, or names what is in a folder."""
    if target.is_dir():
        names = sorted(path.name for path in target.iterdir() if path.suffix in (".py", ".md"))
        return f"# {target.name}\n\n" + "".join(f"* {name}\n" for name in names)
    return f"# {target.name}\n\n~~~~python\n{target.read_text(encoding='utf-8')}\n~~~~\n"


def with_links(text, folder, docs):
    """Return a page of the folder with links within the site; bring there what they name."""

    def follow(found):
        target = (folder / found[1]).resolve()
        place = docs / target.relative_to(PROJECT)
        place.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and (target / "README.md").exists():
            return f"{found[1].rstrip('/')}/README.md"
        if target.is_dir() or target.suffix in (".py", ".ipynb"):
            place.with_name(f"{place.name}.md").write_text(listing(target), encoding="utf-8")
            return f"{found[1].rstrip('/')}.md"
        if target.suffix != ".md":
            shutil.copy(target, place)
        return found[1]

    return LINK.sub(follow, text)


def as_mkdocs(text, folder, docs):
    """Return a page of GitHub's Markdown as mkdocs reads it."""
    parts = FENCE.split(text)
    for i, part in enumerate(parts):
        if part.startswith("```"):  # "python quote" is Python, too
            parts[i] = re.sub(r"\A```(\w*)[^\n]*", r"```\1", part)
        else:
            part = with_links(part, folder, docs).replace("<details>", '<details markdown="1">')
            for name in re.findall(r'(?:src|srcset)="([^":]+)"', part):
                (docs / (folder / name).relative_to(PROJECT)).parent.mkdir(exist_ok=True)
                shutil.copy(folder / name, docs / (folder / name).relative_to(PROJECT))
            parts[i] = part
    return "".join(parts)


def side_by_side(docs):
    """Return the page of the lesson: its sections, each beside the course's page that it names."""
    lesson = (PROJECT / "train_gpt2.py").read_text(encoding="utf-8")
    page = ["# The lesson, side by side\n\nThe code stands still while its derivation scrolls.\n"]
    for section in re.split(r"^# -{70,}\n", lesson, flags=re.M):
        comment = re.match(r"(?:#[^\n]*\n)*", section)[0]
        code = f'<div class="code" markdown="1">\n\n~~~~python\n{section.strip()}\n~~~~\n\n</div>'
        names = [name for name in re.findall(r"doc/(\w+)\.md", comment) if name in COURSE]
        if not names:  # what stands at the top, and the loop, for which there is the guide
            page.append(f"{code}\n")
            continue
        parts = []
        for name in names:
            text = (docs / "doc" / f"{name}.md").read_text(encoding="utf-8")
            parts += FENCE.split(re.sub(r"^Next: .*\Z", "", text, flags=re.M | re.S))
        for i, part in enumerate(parts):
            if not part.startswith("```"):  # headings, a level lower
                parts[i] = re.sub(r"^#", "##", part, flags=re.M)
        left = f'<div class="page" markdown="1">\n\n{"".join(parts)}\n\n</div>'
        page.append(f'<div class="pair" markdown="1">\n\n{left}\n{code}\n\n</div>\n')
    return "\n".join(page)


def build(folder):
    """Write the site, by way of folder / "docs" -> its folder. Abort if a link leads nowhere."""
    docs = folder / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    for name in FOLDERS:
        for path in (PROJECT / name).glob("*.md"):
            place = docs / path.relative_to(PROJECT)
            place.parent.mkdir(parents=True, exist_ok=True)
            text = as_mkdocs(path.read_text(encoding="utf-8"), path.parent, docs)
            place.write_text(text, encoding="utf-8")
    (docs / "doc" / "lesson.md").write_text(side_by_side(docs), encoding="utf-8")
    for name, style in ("light", "default"), ("dark", "github-dark"):
        colors = HtmlFormatter(style=style).get_style_defs(".codehilite")
        (docs / f"{name}.css").write_text(colors, encoding="utf-8")
    (docs / "site.css").write_text(STYLE, encoding="utf-8")
    (folder / "theme").mkdir()
    (folder / "theme" / "main.html").write_text(MAIN, encoding="utf-8")
    pages = {"The course": ["README", *COURSE], "To use it": MORE}
    nav = [{"GPT-2 in NumPy": "README.md"}, {"The lesson, side by side": "doc/lesson.md"}]
    nav += [{title: [f"doc/{name}.md" for name in names]} for title, names in pages.items()]
    nav += [{"Exercises": "exercises/README.md"}]
    experiments = sorted(path.name for path in (PROJECT / "experiments").glob("[a-z]*.md"))
    nav += [{"Experiments": [f"experiments/{name}" for name in ("README.md", *experiments)]}]
    settings = {
        "site_name": "GPT-2 in NumPy", "docs_dir": "docs", "site_dir": "site", "nav": nav,
        "strict": True, "validation": {"omitted_files": "ignore", "anchors": "warn"},
        "use_directory_urls": False, "extra_css": ["site.css"], "plugins": ["search"],
        "theme": {"name": "mkdocs", "color_mode": "auto", "user_color_mode_toggle": True,
                  "highlightjs": False, "custom_dir": "theme"},
        "markdown_extensions": ["tables", "fenced_code", "md_in_html",
                                {"codehilite": {"guess_lang": False}}],
    }  # fmt: skip
    (folder / "mkdocs.yml").write_text(json.dumps(settings), encoding="utf-8")  # YAML has JSON
    mkdocs_build(load_config(str(folder / "mkdocs.yml")))
    return folder / "site"


if __name__ == "__main__":
    print(f"wrote {build(PROJECT / 'build') / 'index.html'}", file=sys.stderr)
