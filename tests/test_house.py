"""
The rules of the house: train_gpt2.py is one file, in the order of reading, and works alone; its
layers are mathematics; imports run one way; tools/ shows which of its files are programs.
"""

import ast
import graphlib
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import train_gpt2 as gpt2
from tools import formats

import numpy as np
import pytest
from helpers import PROJECT, V, add_data, write

SOURCE = (PROJECT / "train_gpt2.py").read_text(encoding="utf-8")
TREE = ast.parse(SOURCE)
FUNCTIONS = {node.name: node for node in TREE.body if isinstance(node, ast.FunctionDef)}


def test_it_imports_numpy_and_the_standard_library():
    found = set()
    for node in ast.walk(TREE):  # in functions, too
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module.split(".")[0])
    assert "numpy" in found and len(found) > 5
    assert found - {"numpy"} <= sys.stdlib_module_names


LAYERS = "embedding layernorm linear attention gelu head block gpt2".split()
LIMIT = 650  # lines, comments included


def test_its_length_and_its_order():
    assert SOURCE.count("\n") <= LIMIT  # as wc -l counts
    layers = [f"{layer}_{way}" for layer in LAYERS for way in ("forward", "backward")]
    assert [name for name in FUNCTIONS if name in layers] == layers
    assert FUNCTIONS[layers[0]].lineno <= 55
    order = ["gpt2_backward", "adamw_update", "in_chunks", "matmul", "read_header", "get_batch"]
    order += ["evaluate", "generate", "main"]
    assert [name for name in FUNCTIONS if name in order] == order
    for name in layers:
        assert FUNCTIONS[name].end_lineno - FUNCTIONS[name].lineno < 45, name
    assert FUNCTIONS["main"].end_lineno - FUNCTIONS["main"].lineno + 1 <= 60


def test_nothing_in_a_layer_is_there_for_speed():
    """No function within one, none of threads; what is written into is a gradient to be filled."""
    first, last = FUNCTIONS["embedding_forward"].lineno, FUNCTIONS["gpt2_backward"].lineno
    allocating, others = set(), {"by_rows", "in_chunks", "POOL", "THREADS", "CHUNK"}
    for name, function in FUNCTIONS.items():
        if not first <= function.lineno <= last:
            continue
        assert [ast.unparse(each) for each in function.decorator_list] in ([], ["by_rows"])
        for node in (node for line in function.body for node in ast.walk(line)):
            assert not isinstance(node, ast.FunctionDef | ast.Lambda), name
            assert not (isinstance(node, ast.Name) and node.id in others), name
            if isinstance(node, ast.Attribute) and node.attr.startswith(("empty", "zeros")):
                allocating.add(name)
            for target in node.targets if isinstance(node, ast.Assign) else []:
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Slice):
                    assert target.value.id in ("dw", "db", "dwte", "dwpe"), ast.unparse(target)
    assert allocating == {"attend_in_tiles_backward"}  # its tiles add up


def calls(name):
    """Return the layers that a function calls, in their order: what is called, the arguments."""
    nodes = [node for node in ast.walk(FUNCTIONS[name]) if isinstance(node, ast.Call)]
    nodes.sort(key=lambda node: (node.lineno, node.col_offset))
    return [(ast.unparse(node.func), [ast.unparse(arg) for arg in node.args]) for node in nodes]


def test_a_blocks_backward_pass_is_its_forward_pass_read_upwards():
    assigned = [node for node in ast.walk(FUNCTIONS["block_forward"]) if type(node) is ast.Assign]
    forward = [  # the layer, the cache that it leaves, its parameters
        (
            ast.unparse(node.value.func).removesuffix("_forward"),
            ast.unparse(node.targets[0].elts[1]),
            [text[1:] for text in map(ast.unparse, node.value.args) if text.startswith("p[")],
        )
        for node in sorted(assigned, key=lambda node: node.lineno)
        if isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Tuple)
    ]
    backward = [
        (function.removesuffix("_backward"), args[1], [arg.removeprefix("g") for arg in args[2:]])
        for function, args in calls("block_backward")
    ]
    assert len(forward) == 8 and backward == forward[::-1]


# ----------------------------------------------------------------------------
# Alone


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of a virtual environment that has NumPy, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=os.name != "nt", with_pip=False)
    bin, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    python = folder / bin / name
    where = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    packages, numpy = Path(where.stdout.strip()), Path(np.__file__).parent
    for path in numpy, numpy.with_name("numpy.libs"):
        if path.exists():
            (packages / path.name).symlink_to(path, target_is_directory=True)
    done = subprocess.run([python, "-c", "import numpy, pytest"], capture_output=True, text=True)
    assert "No module named 'pytest'" in done.stderr
    return python


@pytest.fixture
def alone(tmp_path):
    """A folder with the one file, token files, a tokenizer and weights."""
    (tmp_path / "alone").mkdir()
    folder = add_data(tmp_path / "alone")
    write(folder / "train_gpt2.py", SOURCE.encode())
    config = gpt2.GPT2Config(maxT=32, V=V, L=2, NH=2, C=16)
    formats.write_weights(folder / "w.bin", gpt2.init_weights(config), config)
    return folder


def run_alone(python, folder, *flags):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OMP_", "OPENBLAS"))}
    command = [python, "-W", "error", "train_gpt2.py", *flags]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=120
    )


def losses(done):
    """Return the validation losses of a run that ended well."""
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return [float(line.split()[-1]) for line in done.stdout.splitlines() if ": val loss " in line]


def test_the_one_file_trains_alone(python, alone):
    flags = "--data data/letters --seq-len 16".split()
    more = "--init w.bin --steps 30 --lr 3e-3 --val-every 15"
    done = run_alone(python, alone, *flags, *more.split())
    before, _, after = losses(done)
    assert after < before - 0.3
    assert done.stdout.count(": train loss ") == 30 and done.stdout.count(": sample\n") == 2

    # what it has written goes on from there, and random weights need no file
    flags.append("--no-save")
    again = run_alone(python, alone, *flags, "--init", "out.bin", "--steps", "0")
    assert losses(again) == [after]
    done = run_alone(python, alone, *flags, "--init", "d1", "--steps", "1")
    assert len(losses(done)) == 2 and "step 0: train loss" in done.stdout


MISTAKES = {
    "no weights": ("--data data/letters", 1, "gpt2_124M.bin"),
    "no data": ("--init w.bin", 1, "tiny_shakespeare_train.bin"),
    "a flag of tools/train.py": ("--data data/letters --init w.bin --resume x", 2, "--resume x"),
    "a flag without a number": ("--steps many", 2, "--steps"),
    "longer than the model": ("--data data/letters --init w.bin --seq-len 33", 1, "--seq-len 33"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_alone_it_says_what_is_wrong(python, alone, mistake):
    flags, status, word = MISTAKES[mistake]
    done = run_alone(python, alone, *flags.split())
    assert done.returncode == status, done.stderr
    assert word in done.stderr and done.stderr.count("\n") == 1
    assert not (alone / "out.bin").exists()


# ----------------------------------------------------------------------------
# Threads: a user's own settings stand


@pytest.mark.parametrize("omp", ["1", "3", None])
@pytest.mark.parametrize("openblas", ["3", None])
def test_numbers_of_threads(omp, openblas):
    wanted = {"OMP_NUM_THREADS": omp, "OPENBLAS_NUM_THREADS": openblas}
    env = {k: v for k, v in (os.environ | wanted).items() if v is not None}
    code = (
        "import os, train_gpt2 as g; print(g.THREADS, g.CORES, os.environ['OPENBLAS_NUM_THREADS'])"
    )
    command = [sys.executable, "-c", code]
    threads, cores, blas = subprocess.check_output(command, cwd=PROJECT, env=env, text=True).split()
    assert threads == (omp or cores) and blas == (openblas or "1")


@pytest.mark.parametrize("text, most", [("150000 100000", 2), ("20000 100000", 1), ("max 1", None)])
def test_the_quota_of_a_container_counts_as_cores(text, most):
    """Its file says how many microseconds of how many; "max" is what one without a quota has."""
    code = f"""
import builtins, io, os
there = open
quota = io.BytesIO({text!r}.encode())
builtins.open = lambda path, *how: quota if "cpu.max" in str(path) else there(path, *how)
os.sched_getaffinity = lambda pid: range(8)
import train_gpt2
print(train_gpt2.CORES, train_gpt2.THREADS)
"""
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    out = subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, env=env, text=True)
    assert out.split() == [str(most or 8)] * 2


# ----------------------------------------------------------------------------
# The other files


FOLDERS = "tools", "variants", "experiments"


def module_files():
    """Return our modules, name -> file: programs, tools.NAME, and those of the exercises."""
    found = {path.stem: path for path in [*PROJECT.glob("*.py"), *PROJECT.glob("exercises/*.py")]}
    folders = [path for name in FOLDERS for path in PROJECT.glob(f"{name}/*.py")]
    return found | {f"{path.parent.name}.{path.stem}": path for path in folders}


def imports_of(source, modules):
    """Return which of our modules a source imports: in functions, too, and by name (needed())."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and str(node.value).startswith(("tools.", "variants.")):
            names.add(node.value)
    return names & set(modules)


@pytest.fixture(scope="module")
def graph():
    modules = module_files()
    return {
        name: imports_of(path.read_text(encoding="utf-8"), modules)
        for name, path in modules.items()
    }


def test_imports_run_one_way(graph):
    assert graph["train_gpt2"] == set() and len(graph) > 30
    assert "reference_gpt2" in graph["tools.torch_engine"] and "train_gpt2" in graph["tools.train"]
    assert "tools.bpe" in graph["prepro_text"]  # by name
    list(graphlib.TopologicalSorter(graph).static_order())
    with pytest.raises(graphlib.CycleError):  # as it would be with this import
        list(graphlib.TopologicalSorter(graph | {"train_gpt2": {"tools.train"}}).static_order())


def test_variants_stand_above_what_they_vary(graph):
    """
    No program, nor tools/, imports them, but for the layers that the engine takes by a flag;
    what opens other models than GPT-2 is found by its file's name.
    """
    below = [n for n, path in module_files().items() if path.parent in (PROJECT, PROJECT / "tools")]
    layers = {f"variants.{name}" for name in ("model", "flash_attention", "recompute")}
    taken = {name: {x for x in graph[name] if x.startswith("variants.")} for name in below}
    assert {name: found for name, found in taken.items() if found} == {"tools.numpy_engine": layers}
    for name in layers:  # and these import no engine, nor a program
        assert graph[name] <= layers | {"train_gpt2", "tools.console"}
    assert {"tools.sampling", "variants.train_llama"} <= graph["variants.open_llama"]


def test_the_reference_imports_no_engine(graph):
    seen, to_see = set(), ["reference_gpt2"]
    while to_see:
        name = to_see.pop()
        seen.add(name)
        to_see += graph[name] - seen
    assert not seen & {"tools.numpy_engine", "tools.torch_engine", "tools.train"}


def test_a_listing_of_tools_shows_which_are_programs(graph):
    """And no module that is only imported imports one of them."""
    listing = (PROJECT / "tools" / "README.md").read_text(encoding="utf-8").split("Modules")
    rows = [re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\) \|", part, re.M) for part in listing]
    files = {path.stem: path.read_text(encoding="utf-8") for path in PROJECT.glob("tools/*.py")}
    programs = {name for name in files if '\nif __name__ == "__main__":\n' in files[name]}
    modules = files.keys() - programs
    assert "train" in programs and [set(each) for each in rows] == [programs, modules]
    for name in modules:
        assert not graph[f"tools.{name}"] & {f"tools.{program}" for program in programs}, name
    contributing = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [name for name in files if f"`{name}`" not in contributing]


PAGES = [*PROJECT.glob("*.md"), *PROJECT.glob("*/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_the_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    folders = "tests|tools|variants|exercises|experiments|doc"
    names = re.findall(rf"(?<![\w/])(?:{folders})/[\w./]+\.(?:py|md|bin)\b", text)
    names += re.findall(r"(?<![\w/])\w+_gpt2\.py\b|(?<![\w/])prepro_\w+\.py\b", text)
    assert not [name for name in names if "NAME" not in name and not (PROJECT / name).exists()]


def test_the_length_of_variants():
    lengths = [path.read_text("utf-8").count("\n") for path in PROJECT.glob("variants/*.py")]
    assert len(lengths) >= 4 and max(lengths) <= 300


def test_the_readme_quotes_it():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (quoted,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert quoted.startswith("def ") and quoted in SOURCE
    for page in "README.md", "CONTRIBUTING.md":
        assert f"{LIMIT} lines" in (PROJECT / page).read_text(encoding="utf-8")
