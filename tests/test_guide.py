"""
The commands of the README and of the guide, one after the other, in a fresh copy without a network.

Each is run as it stands, with flags behind it that make it shorter. Those in a block that says
"network" have to end by saying that there is none. All of it takes about a minute.
"""

import re
import shlex
import subprocess
import sys
import textwrap

from tools import formats

import pytest
from helpers import PROJECT, make_project, succeeded, without_network

SHORTER = {  # what a command has in it: the flags that it gets
    "--recompute": "--steps 2",
    "--flash": "--steps 2",
    "variants/lora.py --init words.bin --data": "--steps 3",
    "tools/train.py --init d2": "--steps 30",
    "--resume words.bin": "--steps 40",
    "--save torch.bin": "--steps 3",
    "variants/train_llama.py": "--steps 3 --val-every 0",
    "python train_gpt2.py": "--steps 3 --val-every 2 --val-batches 1 --sample-every 2",
}
NOT_HERE = "pip install", "pytest", "ruff"  # what CI does before, and what this is a part of


def blocks(page, language):
    """Return the code blocks of a page in a language: the word behind it, and the text."""
    text = (PROJECT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language} ?(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page):
    """Return the commands of a page in their order, each with whether it takes a network."""
    return [
        (command, word == "network")
        for word, block in blocks(page, "sh")
        for command in re.split(r"\n| && ", block.strip())
        if not command.startswith(NOT_HERE)
    ]


def run(command, folder):
    """Run a command as a shell does, with this Python and its torchrun."""
    words = []
    for word in shlex.split(command):
        words += sorted(map(str, folder.glob(word))) if "*" in word else [word]
    known = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}
    assert words[0] in known, f"{words[0]} is neither python nor torchrun"
    words = [sys.executable, *known[words[0]], *words[1:]]
    env = without_network(folder, OMP_NUM_THREADS="2")
    kinds = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": 240}
    return subprocess.run(words, cwd=folder, env=env, **kinds)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A fresh copy in which the guide's commands have been run, and what each of them did."""
    folder = make_project(tmp_path_factory.mktemp("guide") / "copy")
    for pattern in "*.md", "doc/*.md", "models/*", "requirements*.txt":
        for path in PROJECT.glob(pattern):
            target = folder / path.relative_to(PROJECT)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    done = []
    for command, network in commands("README.md") + commands("doc/guide.md"):
        flags = next((flags for part, flags in SHORTER.items() if part in command), "")
        done.append((command, network, run(f"{command} {flags}", folder)))
    return folder, done


def test_there_are_commands():
    assert len(commands("README.md")) >= 1 and len(commands("doc/guide.md")) >= 12
    assert any(network for _, network in commands("doc/guide.md"))


def test_each_command_works(copy):
    _, done = copy
    for command, network, result in done:
        assert "Traceback" not in result.stderr, f"{command}: {result.stderr}"
        status = 3 if network else 0
        assert result.returncode == status, f"{command}: {result.stdout[-500:]} {result.stderr}"
        if network:
            assert result.stderr.count("\n") == 1 and "cannot reach" in result.stderr


def test_the_files_that_the_guide_names_are_there(copy):
    """What was exported and read again are the same weights."""
    folder, _ = copy
    names = "out", "words", "words_best", "more", "back", "torch", "two"
    weights = {name: formats.load_weights(folder / f"{name}.bin")[0] for name in names}
    assert weights["words"].tobytes() == weights["back"].tobytes()
    for name in "words.csv", "words.png", "step.html", "words_hf/model.safetensors":
        assert (folder / name).stat().st_size


def test_two_processes_are_one_with_two_batches(copy):
    """As the guide says of torchrun: the same losses."""
    folder, done = copy
    ((command, two),) = [(c, r) for c, _, r in done if c.startswith("torchrun")]
    flags = command.partition("tools/train.py ")[2].replace("two.bin", "one.bin")
    one = run(f"python tools/train.py {flags} --grad-accum 2", folder)
    found = [[float(x) for x in re.findall(r"loss ([\d.]+)", r.stdout)] for r in (one, two)]
    assert len(found[0]) >= 6 and found[0] == pytest.approx(found[1], abs=2e-5)


def test_ten_lines_of_python(copy):
    """The guide's example runs, and prints a finite loss and a text."""
    folder, _ = copy
    (_, code), (_, loop) = blocks("doc/guide.md", "python")
    assert len([line for line in code.splitlines() if line]) <= 14
    (folder / "example.py").write_text(textwrap.dedent(code + loop), encoding="utf-8")
    out = succeeded(run("python example.py", folder))
    steps = [float(loss) for loss in re.findall(r"step \d+: loss (\S+)", out)]
    before, mine = (formats.load_weights(folder / f"{name}.bin")[0] for name in ("words", "mine"))
    assert len(steps) == 20 and 0 < abs(mine - before).max() < 1e-2
    assert re.match(r"loss \d\.\d{3}, gradient .*: \d", out.replace("bias ", "bias: "))


def test_readme_is_short():
    lines = (PROJECT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 170
