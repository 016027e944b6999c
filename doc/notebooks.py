"""
The course as notebooks: `python doc/notebooks.py` writes one for each page and exercise.

They lie in build/notebooks/ and run there. What is shown behind prompts is left out, because the
notebook shows it; the text and the code are the page's.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PROJECT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```(python)?( quote)?[^\n]*\n(.*?)^```\n", re.M | re.S)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)")
SETUP = """import os, sys

sys.path.insert(0, os.path.abspath("../.."))  # the project, where train_gpt2.py is"""


def without_prompts(block):
    """Return the statements of a doctest, or of a block without prompts as it is."""
    if not block.startswith(">>>"):
        return block.rstrip()
    lines = re.findall(r"^(?:>>>|\.\.\.) ?(.*)$", block, re.M)
    return "\n".join(lines)


def markdown(text):
    """Return a cell of a page's text, whose links lead from build/notebooks/."""
    return new_markdown_cell(LINK.sub("../../doc/", text).strip())


def of_page(path):
    """Return the notebook of a page."""
    text, cells, at = path.read_text(encoding="utf-8"), [new_code_cell(SETUP)], 0
    for fence in FENCE.finditer(text):
        if fence[1] and not fence[2]:
            cells.append(markdown(text[at : fence.start()]))
            cells.append(new_code_cell(without_prompts(fence[3])))
            at = fence.end()
    cells.append(markdown(text[at:]))
    return new_notebook(cells=[cell for cell in cells if cell.source])


def of_exercise(path):
    """Return the notebook of an exercise: what it asks, a copy of its file, and the grader."""
    name, source = path.stem[3:], path.read_text(encoding="utf-8")
    asked = re.match(r'"""(.*?)"""\n', source, re.S)
    file = f"%%writefile {path.name}\n{source}"
    grade = f"!{{sys.executable}} ../../exercises/check.py {name} --folder ."
    cells = [new_markdown_cell(f"# {name}\n\n{asked[1].strip()}"), new_code_cell(SETUP)]
    return new_notebook(cells=[*cells, new_code_cell(file), new_code_cell(grade)])


def write(folder):
    """Write all notebooks into a folder -> their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {path: path.read_text("utf-8") for path in sorted((PROJECT / "doc").glob("[a-z]*.md"))}
    made = {path.stem: of_page(path) for path, text in pages.items() if "\n>>> " in text}
    exercises = sorted((PROJECT / "exercises").glob("[0-9][0-9]_*.py"))
    made |= {f"exercise_{path.stem}": of_exercise(path) for path in exercises}
    for name, notebook in made.items():
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return [folder / f"{name}.ipynb" for name in made]


if __name__ == "__main__":
    print(f"wrote {len(write(PROJECT / 'build' / 'notebooks'))} notebooks", file=sys.stderr)
