"""
The files that a run needs by default: making those that are missing, or doing without a network.

What may enter: which script makes which file, and what to train on where it can't.
"""

import shlex
import subprocess
import sys
from pathlib import Path

from tools.console import NO_NETWORK
from tools.token_files import shown
from train_gpt2 import HERE, SHAKESPEARE, WEIGHTS_FILE, UserError

PYTHON_DOCS = HERE / "data" / "python_docs"
OFFLINE_FLAGS = (
    "--init d2 --shuffle --steps 1500 --batch-size 16 --lr 1.5e-3"
    " --warmup 20 --min-lr-frac 0.1 --val-every 300 --sample-every 500"
)


def run_script(script, *flags):
    """Run a script of the project. False if it had no network; UserError if it failed otherwise."""
    print(f"preparing: python {' '.join((script, *flags))}", flush=True)
    status = subprocess.run([sys.executable, HERE / script, *flags]).returncode
    if status not in (0, NO_NETWORK):
        raise UserError(f"`python {script}` failed, as it says above")
    return status == 0


def make_defaults(data, init):
    """
    Make what is missing of the default files, unless others are given. Raises UserError.

    False if that takes a network and there is none: then offline() trains on something else.
    """
    okay = True
    if data is None and not Path(f"{SHAKESPEARE}_train.bin").exists():
        okay = run_script("prepro_tinyshakespeare.py")
    if okay and init is None and not WEIGHTS_FILE.exists():
        okay = run_script("reference_gpt2.py", "--weights-only")
    if not okay and (data or init):
        raise UserError("without a network, give both --data and --init or --resume")
    return okay


def offline():
    """Make the data that need no network -> the flags of a run on them. Raises UserError."""
    flags = [*OFFLINE_FLAGS.split(), "--data", shown(PYTHON_DOCS)]  # from where the user stands
    command = shlex.join(["python", shown(HERE / "train_gpt2.py"), *flags])
    print(f"training on Python's documentation instead: {command}")
    if not Path(f"{PYTHON_DOCS}_train.bin").exists():
        run_script("prepro_pythondocs.py")
    return flags
