"""
Hints are followed, as the user would who has just read them: each leads to where it says.

(That every program and flag exists which a line names is tested in test_bad_input.py.)
"""

import re
import shlex
import shutil

from tools import formats
from tools.log import COLUMNS

import helpers
import pytest
from helpers import add_data, failed, make_project, succeeded
from running import DATA, FAST, long_run, mistake, small_weights, train, within


@pytest.fixture
def project(tmp_path):
    return add_data(make_project(tmp_path / "project"))


@pytest.mark.parametrize("steps", [3, 4])
def test_weights_of_the_best_validation_loss_are_not_resumed(project, steps):
    """They may be those of the last step: then, too, they have no moments."""
    flags = ["--val-every", 3, "--val-batches", 1, "--save", "w.bin", "--steps", steps]
    succeeded(long_run(project, *FAST, *DATA, *flags, "--lr", 1e-3))
    line = failed(long_run(project, "--resume", "w_best.bin"), "has weights only")
    (command,) = re.findall("`(--init .*?)`", line)
    out = succeeded(long_run(project, *FAST, *DATA, *shlex.split(command)))
    assert "step 1: train loss" in out


@pytest.mark.parametrize("flag", ["--save", "--out"])
def test_model_of_other_tokens_in_another_copy(project, tmp_path, flag):
    """There the tokenizer is missing, and GPT-2's is of no use."""
    (project / "text.txt").write_text("abc. jihg fed. \n" * 60)
    succeeded(helpers.run(project, "prepro_text.py", "text.txt", "--bytes"))
    run = long_run if flag == "--save" else train
    succeeded(run(project, *FAST, "--data", "data/text", flag, "w.bin"))
    copy, weights = make_project(tmp_path / "copy"), project / "w.bin"
    done = helpers.run(copy, "sample_gpt2.py", "--weights", weights, "--tokens", 3)
    known = "text_tokenizer.bin" if flag == "--save" else "NAME_tokenizer.bin"
    failed(done, "knows 257 tokens, not GPT-2's", known, "sample_gpt2.py --tokenizer FILE")
    (copy / "data").mkdir()
    shutil.copy(project / "data" / "text_tokenizer.bin", copy / "data")
    how = () if flag == "--save" else ("--tokenizer", "data/text_tokenizer.bin")
    done = helpers.run(copy, "sample_gpt2.py", "--weights", weights, "--tokens", 3, *how)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_vocabularies_of_one_size_are_told_apart(project):
    """By their digest: of a model, its data, their validation, the tokenizer; the hint helps."""
    for name, text in ("one", "to be or not "), ("two", "all the world "):
        (project / f"{name}.txt").write_text(text * 60)
        flags = f"{name}.txt", "--vocab-size", "259"
        succeeded(helpers.run(project, "prepro_text.py", *flags))
    data = project / "data"
    succeeded(long_run(project, *FAST, "--data", "data/one", "--save", "w.bin"))
    theirs = "--tokenizer", "data/two_tokenizer.bin"
    succeeded(train(project, *FAST, "--data", "data/one", "--out", "lesson.bin"))
    for run, file in (long_run, "w.bin"), (train, "w.bin"), (train, "lesson.bin"):
        done = run(project, *FAST, "--data", "data/two", "--init", file)
        failed(done, f"{file}", "is not that of ", "; prepare the text again ")
    done = helpers.run(project, "sample_gpt2.py", "w.bin", *theirs)
    failed(done, "data/two_tokenizer.bin: its vocabulary is not that of w.bin; ")
    succeeded(
        helpers.run(project, "prepro_text.py", "two.txt", "--vocab-size", "259", "--name", "one")
    )
    failed(long_run(project, "--resume", "w.bin", "--steps", 3), "w.bin: ")
    done = helpers.run(project, "sample_gpt2.py", "w.bin")
    failed(done, "w.bin: ", "their one_tokenizer.bin")

    succeeded(
        helpers.run(project, "prepro_text.py", "one.txt", "--vocab-size", "259", "--name", "1")
    )
    assert helpers.run(project, "sample_gpt2.py", "w.bin").returncode == 0  # finds data/1's
    again = "two.txt", "--name", "two", "--tokenizer", "data/1_tokenizer.bin"
    succeeded(helpers.run(project, "prepro_text.py", *again))
    out = succeeded(long_run(project, *FAST, "--data", "data/two", "--init", "w.bin"))
    assert "step 1: train loss" in out
    shutil.copy(data / "one_val.bin", data / "two_val.bin")
    for run in train, long_run:
        failed(run(project, *FAST, "--data", "data/two"), "not that of data/two_")


def test_what_is_prepared_elsewhere_is_named_as_it_is_seen_from_there(project, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    (here / "text.txt").write_text("abc. jihg fed. \n" * 60)
    out = succeeded(helpers.run(project, "prepro_text.py", "text.txt", "--bytes", cwd=here))
    assert all((here / path).exists() for path in re.findall(r" to (\S+\.bin)", out))
    (command,) = re.findall("to train on it: python (.*)", out)
    program, *flags = shlex.split(command.replace("d2", "d1"))
    out = succeeded(helpers.run(project, here / program, *flags, "--steps", 1, cwd=here))
    assert "step 0: train loss" in out


def test_one_of_two_files_without_a_network(project):
    """Both are asked for, and then it needs no network."""
    for run, program in (train, "train_gpt2.py"), (long_run, "train.py"):
        done = run(project, "--init", "d1", "--steps", 1)
        hint = f"{program}: without these files, give both --data and --init or --resume"
        assert hint in done.stderr.splitlines() and done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "step 0: train loss" in succeeded(run(project, *FAST, *DATA))


@pytest.mark.parametrize("run", [train, long_run])
def test_names_of_another_kind(project, run):
    """A text, a model at Hugging Face, and a folder are told what makes a file of them."""
    (project / "a b.txt").write_text("abc")
    (project / "hf").mkdir()
    (project / "hf" / "config.json").touch()
    for flags, says in {
        ("--data", "a b.txt"): "`python prepro_text.py 'a b.txt' --name 'a b'` makes",
        (
            "--init",
            "gpt2-xl",
            *DATA,
        ): "give --init gpt2_1558M.bin, which",
        ("--init", "hf", *DATA): "--model hf --weights-only --out hf.bin` makes",
    }.items():
        mistake(run(project, *flags), flags[1], says)
    files = "--data", "data/letters_train.bin", "--init", "d1"
    assert "data: data/letters, " in succeeded(run(project, *files, "--steps", 0))


PACKAGES = "requests", "tqdm", "tiktoken", "regex", "torch", "matplotlib"
WITHOUT = {  # what a program that takes more than NumPy says where there is no more
    "tools/train.py --init d1 --data data/letters --device cpu": "PyTorch is missing",
    "sample_gpt2.py --weights w.bin --tokenizer data/letters_tokenizer.bin --prompt ab": "tiktoken",
    "prepro_text.py text.txt": "tiktoken",
    "prepro_text.py text.txt --vocab-size 300": "regex",
    "prepro_tinyshakespeare.py": "requests",
    "prepro_tinystories.py": "requests",
    "reference_gpt2.py": "PyTorch is missing",
    "tools/plot_log.py log.csv -o x.png": "matplotlib",
}


@pytest.mark.parametrize("command", WITHOUT)
def test_packages_that_are_missing(project, command):
    """That is said in one line, with the command that installs them."""
    (project / "text.txt").write_text("abc. jihg fed. \n" * 60)
    (project / "log.csv").write_text(f"{COLUMNS}\n0,0,4.5,4.5,0.1,1,1,,\n1,64,4,,0.1,1,1,,\n")
    small_weights(project / "w.bin")
    program, *flags = command.split()
    block = within(f"sys.modules |= dict.fromkeys({PACKAGES})")
    done = helpers.run(project, program, *flags, python=block)
    missing = 3 if WITHOUT[command] in ("tiktoken", "regex", "requests") else 1
    failed(done, WITHOUT[command], "pip install -r requirements", status=missing)


@pytest.mark.parametrize("run", [train, long_run])
def test_weights_that_are_replaced_are_named_first(project, run):
    small_weights(project / "out.bin")
    config = formats.load_weights(project / "out.bin")[1]
    done = run(project, "--init", "d1", "--steps", 0, *DATA, "--seq-len", 8)
    assert done.stderr == f"to replace: out.bin {config}\n" and done.returncode == 0
