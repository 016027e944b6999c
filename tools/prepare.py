"""
The files that a run needs by default: make those that are missing, or do without a network.

train_gpt2.py calls this program with its own flags where a default file is missing. Standard output
is for flags that the run is to have besides, one word a line: none if all was made. What it says
goes to standard error.
"""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import train_gpt2 as gpt2
from tools.console import NO_NETWORK, UserError, print_error, run_program
from tools.token_files import shown
from train_gpt2 import HERE, SHAKESPEARE, WEIGHTS_FILE

PYTHON_DOCS, PLAYS = HERE / "data" / "python_docs", HERE / "data" / "shakespeare"
FROM_SCRATCH = (  # what prepro_text.py shows, too
    "--init d2 --steps 2000 --batch-size 16 --seq-len 32 --lr 4e-3 --warmup 100 --min-lr-frac 0.1"
    " --grad-clip 1 --val-every 500 --sample-every 500"
)


def run_script(script, *flags):
    """Run a script of the project. False if it had no network; UserError if it failed otherwise."""
    print_error(f"preparing: python {' '.join((script, *flags))}")
    command = [sys.executable, HERE / script, *flags]
    status = subprocess.run(command, stdout=sys.stderr.fileno()).returncode
    if status not in (0, NO_NETWORK):
        raise UserError(f"`python {script}` failed, as it says above")
    return status == 0


def missing_flags(data, init):
    """
    Make what is missing of the default files -> the flags that a run needs besides, a list.

    data and init are those of the command line; None: the default. Where the default files take a
    network and there is none, the flags are those of a small model, from scratch, on Shakespeare in
    a vocabulary of its own if the text is here, or else on Python's documentation. UserError.
    """
    okay = True
    if data is None and not Path(f"{SHAKESPEARE}_train.bin").exists():
        okay = run_script("prepro_tinyshakespeare.py")
    if okay and init is None and not WEIGHTS_FILE.exists():
        okay = run_script("reference_gpt2.py", "--weights-only")
    if okay:
        return []
    if data or init:
        raise UserError("without a network, give both --data and --init or --resume")
    text = Path(f"{SHAKESPEARE}.txt")
    own, script = PYTHON_DOCS, ["prepro_pythondocs.py"]
    if text.exists() and importlib.util.find_spec("regex"):  # which a vocabulary takes
        own, script = PLAYS, ["prepro_text.py", shown(text), "--vocab-size", "2048", "--name"]
        script.append(shown(own))
    if not Path(f"{own}_train.bin").exists():
        run_script(*script)
    flags = [*FROM_SCRATCH.split(), "--data", shown(own)]
    command = shlex.join(["python", shown(HERE / "train_gpt2.py"), *flags])
    print_error(f"without a network, a small model from scratch: {command}")
    return flags


def main():
    args, _ = gpt2.make_parser().parse_known_args()
    for word in missing_flags(args.data, args.init):
        print(word)


if __name__ == "__main__":
    run_program(main)
