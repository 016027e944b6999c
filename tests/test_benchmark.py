"""The benchmark on a tiny model: every contender takes its turns, and does the same work."""

import importlib.util
import json
import re
import shlex
import sys

from tools import benchmark
from tools.console import UserError

import helpers
import pytest
from helpers import PROJECT, succeeded

TINY = ["--model", "d1", "--batch-size", "1", "--seq-len", "8", "--runs", "1"]


def run(*flags, **how):
    return helpers.run(PROJECT, "tools/benchmark.py", *flags, timeout=120, **how)


def prints(text):
    """A command that prints the text."""
    return shlex.join([sys.executable, "-c", f"print({text!r})"])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Where a run writes what it measured."""
    return tmp_path_factory.mktemp("measured") / "times.json"


@pytest.fixture(scope="module")
def output(measured):
    command = prints("step 0: loss 9 (took 900.0 ms)\nstep 1: loss 8 (took 20.5 ms, 12 tokens/s)")
    return succeeded(run(*TINY, "--command", command, "--json", measured))


def numbers(output, name):
    """The numbers of the lines that begin with the name: in the table, then in that of ratios."""
    output, name = (text.replace(",", "").replace("[1]", "[one]") for text in (output, name))
    lines = [line for line in output.splitlines() if line.startswith(f"{name}  ")]
    return [[float(x) for x in re.findall(r"[\d.]+", line[len(name) :])] for line in lines]


def test_memory_is_told_first(output):
    names = "train_gpt2.py, PyTorch, fused AdamW, PyTorch, default AdamW, products by NumPy"
    names += ", products by matmul()"
    # five with 3,332,096 parameters, their gradients and two moments, 4 bytes each: 0.267 GB
    assert output.splitlines()[0] == f"{names}: together they take 0.3 GB or more"


def test_json_has_what_the_table_shows(output, measured, capsys):
    found = json.loads(measured.read_text())
    benchmark.print_report(found)
    assert capsys.readouterr().out in output
    assert f"{found['machine']}\n{found['versions']}\n" in output
    flags = {"model": "d1", "batch_size": 1, "seq_len": 8, "runs": 1}
    assert found["flags"] | flags == found["flags"]
    assert len(found["rounds"]) == 6
    assert found["rounds"]["[1]"][0]["step"] == 20.5  # the first step does not count
    for name, turns in found["rounds"].items():
        (laps,) = turns  # one round
        row = numbers(output, name)[0]
        assert row[0] == pytest.approx(laps["step"], rel=0.01)
        assert row[-1] == pytest.approx(laps["GB"], abs=0.006)


def test_the_page_shows_what_was_measured(capsys):
    page = (PROJECT / "doc" / "speed.md").read_text(encoding="utf-8")
    files = sorted((PROJECT / "doc" / "measured").glob("*.json"))
    assert len(files) >= 3
    for file in files:
        benchmark.print_report(json.loads(file.read_text()))
        table = "\n".join(f"    {line}".rstrip() for line in capsys.readouterr().out.splitlines())
        assert table in page and f"](measured/{file.name})" in page, file.name


def test_header(output):
    threads = re.search(r"\d+ cores, (\d+) threads", output)[1]
    assert re.search(rf"PyTorch \S+, {threads} threads$", output, re.M)  # it has all
    assert re.search(r"NumPy [\d.]+ with \S+", output)
    assert "d1, 3,332,096 parameters; batch size 1, 8 tokens each" in output


PHASES = {
    "train_gpt2.py": 4,
    "PyTorch, fused AdamW": 4,
    "PyTorch, default AdamW": 4,
    "products by NumPy": 2,
    "products by matmul()": 2,
}


@pytest.mark.parametrize("name", PHASES)
def test_row(output, name):
    row, *ratios = numbers(output, name)
    assert len(row) == 1 + PHASES[name] + 4 and min(row) > 0
    step, *phases = row[:-4]
    assert step == pytest.approx(sum(phases[:3]), rel=0.01)  # evaluation is not part of it
    tokens_per_second, flops = row[-4:-2]
    assert tokens_per_second == pytest.approx(8 / step * 1000, rel=0.01)
    assert flops == pytest.approx(6 * 3332096 * tokens_per_second / 1e9, rel=0.03, abs=0.01)
    if name != "train_gpt2.py":
        (ratio,) = ratios
        ours = numbers(output, "train_gpt2.py")[0][0]
        assert ratio[0] == pytest.approx(ours / step, rel=0.01, abs=0.02)
        assert ratio[-2:] == [ratio[0]] * 2  # one round: the lowest is the highest


def test_all_do_the_same_work(output):
    losses = re.search(r"losses in the last round: (.*)", output)[1].split()
    assert len(losses) == 3
    assert [float(loss) for loss in losses] == pytest.approx([float(losses[0])] * 3, abs=1e-3)
    assert len(re.findall(r"^products by \S+: \d+% of a step of train_gpt2.py$", output, re.M)) == 2


def test_sampling():
    there = importlib.util.find_spec("transformers") is not None
    done = run("--model", "d1", "--runs", "2", "--sample", "--tokens", "3", "--samples", "2")
    assert done.returncode == 0 and (there or done.stderr == "")
    assert "d1, 3,332,096 parameters; a text of 3 tokens\nmedians of 2 rounds\n" in done.stdout
    for name in ("train_gpt2.py", "2 texts", "transformers")[: 2 + there]:
        ((ms, per_second, cores, GB),) = numbers(done.stdout, name)
        assert per_second == pytest.approx(1000 / ms, rel=0.01) and min(cores, GB) > 0
    assert done.stdout.startswith("train_gpt2.py, 2 texts")
    assert re.search(r"^train_gpt2.py: [\d.]+ times the tokens/s of 2 texts \(", done.stdout, re.M)
    end = r"times the tokens/s of transformers \(" if there else "pip install transformers$"
    assert re.search(end, done.stdout, re.M)


def test_sampling_beside_transformers(capsys):
    ours = [{"step": ms, "cores": 2, "GB": 1} for ms in (100, 120, 110)]
    theirs = [{"step": ms, "cores": 1.5, "GB": 2} for ms in (150, 120, 220)]
    together = [{"step": ms, "cores": 2, "GB": 3} for ms in (300, 330, 330)]
    rounds = {"train_gpt2.py": ours, "3 texts": together, "transformers": theirs}
    benchmark.print_sampling(rounds, 11, 3)
    out = capsys.readouterr().out
    assert numbers(out, "train_gpt2.py") == [[10, 100, 2, 1]]
    assert numbers(out, "transformers") == [[13.6, 73.3, 1.5, 2]]
    assert numbers(out, "3 texts") == [[10, 100, 2, 3]]  # for a token of one of them
    assert "\ntrain_gpt2.py: 1.00 times the tokens/s of 3 texts (0.92 to 1.00)\n" in out
    assert "\ntrain_gpt2.py: 1.50 times the tokens/s of transformers (1.00 to 2.00)\n" in out


@pytest.mark.parametrize("command", [prints("(took 5 ms)"), "false", "no-such-program"])
def test_command_that_times_nothing(command):
    with pytest.raises((UserError, FileNotFoundError), match=command.split()[0]):
        benchmark.run_command(command)


def test_command_is_ended_after_four_steps():
    lines = "import time; [print(f'took {i}ms', flush=True) for i in range(9)]; time.sleep(600)"
    turn = benchmark.run_command(shlex.join([sys.executable, "-c", lines]))
    assert turn["step"] == 2 and turn["GB"] > 0  # the median of 1, 2, 3
