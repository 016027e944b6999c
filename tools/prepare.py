"""
Before a run: make the files that it needs by default, and say what is wrong with its flags.

train_gpt2.py calls this program with its own flags. Standard output is for flags that the run is to
have besides, one word a line. What it says goes to standard error.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import train_gpt2 as gpt2
from tools import formats
from tools.console import UNAVAILABLE, UserError, print_error, run_program
from tools.huggingface import HF_MODELS
from tools.token_files import data_of, shown, typed
from train_gpt2 import HERE, SHAKESPEARE, WEIGHTS_FILE

PREPARE_AGAIN = "prepare the text again with the model's, prepro_text.py --tokenizer FILE"
PYTHON_DOCS, PLAYS = HERE / "data" / "python_docs", HERE / "data" / "shakespeare"
FROM_SCRATCH = (  # what prepro_text.py shows, too
    "--init d2 --steps 2000 --batch-size 16 --seq-len 32 --lr 4e-3 --warmup 100 --min-lr-frac 0.1"
    " --grad-clip 1 --val-every 500 --sample-every 500"
)


def run_script(script, *flags):
    """Run a script. False if it lacked a network or a package; UserError if it failed otherwise."""
    print_error(f"preparing: python {' '.join((script, *flags))}")
    command = [sys.executable, HERE / script, *flags]
    status = subprocess.run(command, stdout=sys.stderr.fileno()).returncode
    if status not in (0, UNAVAILABLE):
        raise UserError(f"`python {script}` failed, as it says above")
    return status == 0


def missing_flags(data, init):
    """
    Make what is missing of the default files -> the flags that a run needs besides, a list.

    data and init are those of the command line; None: the default. Where the default files take a
    network or a package that is not there, the flags are those of a small model, from scratch, on
    Shakespeare in a vocabulary of its own (in bytes without the package "regex") if the text is
    here, or else on Python's documentation. UserError.
    """
    okay = True
    if data is None and not Path(f"{SHAKESPEARE}_train.bin").exists():
        okay = run_script("prepro_tinyshakespeare.py")
    if okay and init is None and not WEIGHTS_FILE.exists():
        okay = run_script("reference_gpt2.py", "--weights-only")
    if okay:
        return []
    if data or init:
        raise UserError("without these files, give both --data and --init or --resume")
    text = Path(f"{SHAKESPEARE}.txt")
    own, script = PYTHON_DOCS, ["prepro_pythondocs.py"]
    if text.exists():
        own, kind = PLAYS, "--vocab-size 2048" if importlib.util.find_spec("regex") else "--bytes"
        script = ["prepro_text.py", shown(text), *kind.split(), "--name", shown(own)]
    if not Path(f"{own}_train.bin").exists():
        run_script(*script)
    flags = [*FROM_SCRATCH.split(), "--data", shown(own)]
    command = typed(["python", shown(HERE / "train_gpt2.py"), *flags])
    print_error(f"so a small model from scratch, in a minute: {command}")
    return flags


def check_names(data, init):
    """Raise UserError, with the command that helps, for what is of another kind than is meant."""
    if init in HF_MODELS or init and os.path.exists(os.path.join(init, "config.json")):
        command, file = ["--model", init, "--weights-only"], f"{Path(init).resolve().name}.bin"
        if init in HF_MODELS:
            file = HF_MODELS[init][-1]
        else:
            command += ["--out", file]
        command = typed(["python", "reference_gpt2.py", *command])
        raise UserError(f"--init {init}: no file; give --init {file}, which `{command}` makes")
    if data and os.path.isfile(data):
        name = Path(data).stem
        command = typed(["python", "prepro_text.py", data, "--name", name])
        raise UserError(f"--data {data}: no tokens; `{command}` makes them, for --data data/{name}")


def check_vocabulary(data, init):
    """Raise UserError if a run's files, as far as they are there, are not of one vocabulary."""
    files = f"{data}_train.bin", f"{data}_val.bin", init
    digests = {file: formats.digest_in(file) for file in files if os.path.isfile(file)}
    formats.check_one_vocabulary(digests, PREPARE_AGAIN)


def tell_what_is_replaced(path):
    """Print the size of the model whose weights are in the file, if it is there."""
    if os.path.exists(path):
        sizes = gpt2.np.fromfile(path, "<i4", 7)[2:].tolist()
        print_error(f"to replace: {path} {gpt2.GPT2Config(*sizes) if len(sizes) == 5 else ''}")


def main():
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(0)  # train_gpt2.py will show its own
    args = gpt2.make_parser().parse_args()
    if args.steps < 0 or args.seed < 0:
        raise UserError(f"--steps {args.steps} or --seed {args.seed}: below 0; give another")
    data = data_of(args.data)
    check_names(data, args.init)
    if not args.no_save:
        formats.check_writable(args.out, gpt2.WEIGHTS_MAGIC, "--out")
    check_vocabulary(data or SHAKESPEARE, args.init or WEIGHTS_FILE)
    flags, has = missing_flags(data, args.init), {word.split("=")[0] for word in sys.argv}
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        if flag not in has:
            print(flag, value, sep="\n")
    if data != args.data:
        print("--data", data, sep="\n")
    if not args.no_save:
        tell_what_is_replaced(args.out)


if __name__ == "__main__":
    sys.argv[0] = "train_gpt2.py"  # what it says is an answer to that command
    run_program(main)
