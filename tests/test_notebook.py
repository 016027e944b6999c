"""
The notebook: it runs from its first cell to its last, and what is stored of it is small.
"""

import copy
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
    """All are made; a page runs, with its numbers, and each exercise; a solved one is done."""
    spec = importlib.util.spec_from_file_location("notebooks", PROJECT / "doc" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = make_project(tmp_path / "copy")
    shutil.copytree(PROJECT / "exercises", folder / "exercises")
    made = {path.stem: path for path in module.write(folder / "build" / "notebooks")}
    assert {"start", "attention", "exercise_06_layernorm"} < set(made) and len(made) > 30
    notebooks = {name: nbformat.read(path, 4) for name, path in made.items()}
    names = [name for name in made if name.startswith("exercise_")]
    solved = copy.deepcopy(notebooks[names[0]])
    for cell in solved.cells:
        answer = "dw[:] = x.T @ dout\n    return dout @ w.T"
        cell.source = cell.source.replace("raise NotImplementedError", answer)
        cell.id += "-solved"
    for notebook in notebooks.values():
        nbformat.validate(notebook)
    # a process for each would take a minute
    cells = [cell for name in names for cell in notebooks[name].cells] + solved.cells
    notebooks["exercises"] = nbformat.v4.new_notebook(cells=cells)
    outs = []
    for name in "embedding", "exercises":
        where = {"metadata": {"path": str(folder / "build" / "notebooks")}}
        nbclient.NotebookClient(notebooks[name], timeout=300, resources=where).execute()
        outs.append(output_of(notebooks[name]))
    shown = re.findall(r"^\[.*\]$", (PROJECT / "doc" / "embedding.md").read_text("utf-8"), re.M)
    assert shown and all(line in outs[0] for line in shown[:3])
    found = re.findall(r"^(\w+): (empty|done) \((\w+).py", outs[1], re.M)
    assert [file for _, _, file in found] == [
        name.removeprefix("exercise_") for name in names + names[:1]
    ]
    assert [how for _, how, _ in found] == ["empty"] * len(names) + ["done"]


def test_how_it_may_be_used():
    cited = (PROJECT / "CITATION.cff").read_text("utf-8")
    assert set(re.findall(r"^([\w-]+):", cited, re.M)) >= {
        "cff-version",
        "message",
        "title",
        "authors",
    }
    for page in "README.md", "doc/README.md", "exercises/README.md":
        assert re.search(
            r"may be used in slides.*CITATION\.cff", (PROJECT / page).read_text("utf-8"), re.S
        )
