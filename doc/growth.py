"""
The plots of doc/speed.md: how time and memory of a step grow with its tokens and with the model.

    python doc/growth.py     # draws doc/growth.png from the files of doc/measured/growth
"""

import json
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train_gpt2 as gpt2  # noqa: E402

from matplotlib.figure import Figure  # noqa: E402

HERE = Path(__file__).resolve().parent
OURS, PRODUCTS = "train_gpt2.py", "products by matmul()"
TOKENS, MILLIONS = "tokens in a step", "millions of parameters"


def read(file):
    """Read a file of tools/benchmark.py --json -> the sizes of its model; medians by contender."""
    measured = json.loads(file.read_text(encoding="utf-8"))
    flags, medians = measured["flags"], {}
    for name, turns in measured["rounds"].items():
        medians[name] = {key: median(turn[key] for turn in turns) for key in ("step", "GB")}
    config = gpt2.named_config(flags["model"], gpt2.GPT2_VOCAB_SIZE)
    sizes = {MILLIONS: gpt2.num_parameters(config) / 1e6}
    sizes[TOKENS] = flags["batch_size"] * flags["seq_len"]
    return {"model": flags["model"], "machine": measured["machine"], **sizes}, medians


def main():
    found = [read(file) for file in sorted((HERE / "measured" / "growth").glob("*.json"))]
    figure = Figure(figsize=(10, 7), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2, sharex="col")
    for (time, memory), axis in zip(panels.T, (TOKENS, MILLIONS), strict=True):
        fixed = (lambda about: about["model"] == "d12", lambda about: about[TOKENS] == 256)
        runs = [run for run in found if fixed[axis == MILLIONS](run[0])]
        runs.sort(key=lambda run: run[0][axis])
        x = [about[axis] for about, _ in runs]
        for name, style in (OURS, "o-"), (PRODUCTS, "s--"):
            y = [medians[name]["step"] / 1000 for _, medians in runs]
            time.plot(x, y, style, label=name, markersize=4)
            for place, seconds in zip(x, y, strict=True):
                print(f"{place:8,.0f} {axis}: {name} {seconds:.2f} s")
        memory.plot(x, [medians[OURS]["GB"] for _, medians in runs], "o-", markersize=4)
        time.set_ylim(0)
        memory.set_ylim(0)
        memory.set_xlim(0)
        memory.set_xlabel(axis + (", of d12" if axis == TOKENS else ", 256 tokens in a step"))
    panels[0, 0].set_ylabel("seconds a step")
    panels[1, 0].set_ylabel("GB at the peak")
    panels[0, 0].legend()
    figure.suptitle(found[0][0]["machine"].split(";")[0], fontsize=10)
    figure.savefig(HERE / "growth.png")


if __name__ == "__main__":
    main()
