"""
The notebook: it runs from its first cell to its last, and what is stored of it is small.
"""

import importlib.util
import re
import shutil

import nbclient
import nbformat
from helpers import PROJECT, make_project

NOTEBOOK = PROJECT / "notebooks" / "gpt2.ipynb"


def output_of(notebook):
    """Return all that a notebook has printed."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs)


def check(out):
    """It has learned; attention is weights; a broken gradient is seen, and the mended one right."""
    losses = [float(loss) for loss in re.findall(r"step \d+: validation loss (\S+)", out)]
    assert losses[0] > 5 and losses[-1] < 3 and "each row adds up to [1.]" in out
    broken, mended = (float(error) for error in re.findall(r"(?:broken|mended): (\S+)", out))
    assert broken > 0.1 and mended < 1e-8


def test_the_notebook_runs(tmp_path):
    """In a copy, with no network: nothing there asks for one. It takes 15 s or so."""
    folder = make_project(tmp_path / "copy")
    shutil.copytree(PROJECT / "doc", folder / "doc")
    (folder / "notebooks").mkdir()
    notebook = nbformat.read(NOTEBOOK, 4)
    where = {"metadata": {"path": str(folder / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    check(output_of(notebook))


def test_what_is_stored():
    notebook = nbformat.read(NOTEBOOK, 4)
    check(output_of(notebook))
    assert NOTEBOOK.stat().st_size < 100_000
    assert str(PROJECT) not in NOTEBOOK.read_text(encoding="utf-8")
    badge, setup, *_ = (cell.source for cell in notebook.cells)
    address = re.search(r"/github/([\w/-]+)/blob/main/notebooks/gpt2.ipynb", badge)[1]
    assert f'REPOSITORY = "{address}"' in setup


def test_pages_and_exercises_as_notebooks(tmp_path):
    """All are made; a page runs, with its numbers, and an exercise is graded."""
    spec = importlib.util.spec_from_file_location("notebooks", PROJECT / "doc" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = make_project(tmp_path / "copy")
    shutil.copytree(PROJECT / "exercises", folder / "exercises")
    made = {path.stem: path for path in module.write(folder / "build" / "notebooks")}
    assert {"start", "attention", "exercise_06_layernorm"} < set(made) and len(made) > 30
    outs = []
    for name in "embedding", "exercise_01_product":
        notebook = nbformat.read(made[name], 4)
        nbformat.validate(notebook)
        where = {"metadata": {"path": str(made[name].parent)}}
        nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
        outs.append(output_of(notebook))
    shown = re.findall(r"^\[.*\]$", (PROJECT / "doc" / "embedding.md").read_text("utf-8"), re.M)
    assert shown and all(line in outs[0] for line in shown[:3])
    assert "not begun" in outs[1]
