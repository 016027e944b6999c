"""
Pre-norm or post-norm, and how large the first weights are: gradients by depth, and short runs.

    python experiments/norms.py     # minutes; writes to experiments/yours/
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
import itertools
import math

import train_gpt2 as gpt2
from experiments import common
from variants.model import model_with

import numpy as np

SETTINGS = {
    "scales": ("0.02/sqrt(2L)", "0.02", "0.125"), "L": 12, "NH": 4, "C": 64, "B": 8, "T": 64,
    "steps": 200, "lr": 1e-3, "seed": 1337, "data": "bytes",
}  # fmt: skip
FIGURES = "size of x", "norm of dx", "norm of the parameters' gradient", "rows alike"


def post_forward(x, p, B, NH):
    """x (B*T, C), p a block's tensors by name -> out (B*T, C). Vaswani et al. 2017, 3.1."""
    qkv, qkv_cache = gpt2.linear_forward(x, p["qkvw"], p["qkvb"])
    atty, att_cache = gpt2.attention_forward(qkv, B, NH)
    attproj, attproj_cache = gpt2.linear_forward(atty, p["attprojw"], p["attprojb"])
    mid, ln1_cache = gpt2.layernorm_forward(x + attproj, p["ln1w"], p["ln1b"])
    fc, fc_cache = gpt2.linear_forward(mid, p["fcw"], p["fcb"])
    gelu, gelu_cache = gpt2.gelu_forward(fc)
    fcproj, fcproj_cache = gpt2.linear_forward(gelu, p["fcprojw"], p["fcprojb"])
    out, ln2_cache = gpt2.layernorm_forward(mid + fcproj, p["ln2w"], p["ln2b"])
    caches = qkv_cache, att_cache, attproj_cache, ln1_cache, fc_cache, gelu_cache, fcproj_cache
    return out, (*caches, ln2_cache)


def post_backward(dout, cache, g):
    """dout (B*T, C) -> dx (B*T, C). Fills g, the gradients of the block's 12 tensors."""
    qkv_cache, att_cache, attproj_cache, ln1_cache = cache[:4]
    fc_cache, gelu_cache, fcproj_cache, ln2_cache = cache[4:]
    # ln2 read mid + fcproj: its dx is the gradient of fcproj, and one of the two of mid
    dfcproj = gpt2.layernorm_backward(dout, ln2_cache, g["ln2w"], g["ln2b"])
    dgelu = gpt2.linear_backward(dfcproj, fcproj_cache, g["fcprojw"], g["fcprojb"])
    dfc = gpt2.gelu_backward(dgelu, gelu_cache)
    dmid = dfcproj + gpt2.linear_backward(dfc, fc_cache, g["fcw"], g["fcb"])
    dattproj = gpt2.layernorm_backward(dmid, ln1_cache, g["ln1w"], g["ln1b"])
    datty = gpt2.linear_backward(dattproj, attproj_cache, g["attprojw"], g["attprojb"])
    dqkv = gpt2.attention_backward(datty, att_cache)
    return dattproj + gpt2.linear_backward(dqkv, qkv_cache, g["qkvw"], g["qkvb"])


MODELS = {"pre": gpt2, "post": model_with(block_forward=post_forward, block_backward=post_backward)}


def initial(config, scale, seed):
    """Return parameters by name: a block's matrices of this scale, all else as in the lesson."""
    params, (std, *divided) = common.fresh(config, seed), scale.split("/")
    for name in set(gpt2.IN_BLOCKS) & set(gpt2.DECAYING):
        undo = gpt2.TENSORS[name][1] == gpt2.PROJECTION and not divided  # by the lesson
        params[name] *= common.number(std) / 0.02 * (math.sqrt(2 * config.L) if undo else 1)
    return params


def by_depth(model, params, config, x, y):
    """Return figures of each block, lists by name; size is the root of the mean square."""
    sizes, norms, alike = [], [], []

    def forward(x, p, B, NH):
        sizes.append(math.sqrt(np.square(x).mean()))
        directions = x / np.linalg.norm(x, axis=1, keepdims=True)
        alike.append(float(np.square(directions.mean(0)).sum()))  # the mean cosine of two rows
        return model.block_forward(x, p, B, NH)

    def backward(dout, cache, g):
        norms.insert(0, float(np.linalg.norm(dx := model.block_backward(dout, cache, g))))
        return dx

    watched = model_with(block_forward=forward, block_backward=backward)
    grads = {name: np.empty_like(p) for name, p in params.items()}
    watched.gpt2_backward(1.0, watched.gpt2_forward(params, config, x, y)[1], grads)
    by_block = np.hstack([grads[name].reshape(config.L, -1) for name in gpt2.IN_BLOCKS])
    of_block = np.linalg.norm(by_block, axis=1).tolist()
    return dict(zip(FIGURES, (sizes, norms, of_block, alike), strict=True))


def measure(data, L, NH, C, B, T, steps, lr, scales, seed):
    tokens, _, V = common.load(data)
    config, runs = common.config_of(tokens, B, T, V, L, NH, C), []
    batch = gpt2.get_batch(tokens, 0, B, T)
    for scale, (norm, model) in itertools.product(scales, MODELS.items()):
        params = initial(config, scale, seed)
        start = by_depth(model, params, config, *batch)
        run = common.training(params, config, tokens, steps, B, T, model, lr=lr)
        losses = [round(loss, 4) for loss, _ in run]
        end = by_depth(model, params, config, *batch)
        runs.append({"norm": norm, "scale": scale, "start": start, "losses": losses, "end": end})
        print(f"{norm}-norm, {scale}: loss {np.mean(losses[-20:]):.3f}", flush=True)
    return {"runs": runs}


def draw(measured, settings):
    figure, axes = common.panels([*FIGURES[:3], "loss by step, mean of ten"], rows=2)
    for i, run in enumerate(measured["runs"]):
        style = {"color": f"C{i // 2}", "linestyle": "-" if run["norm"] == "pre" else "--"}
        for panel, name in zip(axes, FIGURES[:3], strict=False):
            panel.plot(run["start"][name], **style)
            panel.set(yscale="log", xlabel="block, from embedding to head")
        style["label"] = f"{run['norm']}-norm, {run['scale']}"
        axes[3].plot(np.convolve(run["losses"], np.ones(10) / 10, "valid"), **style)
    axes[3].legend(fontsize=8, loc="upper right")
    return figure


if __name__ == "__main__":
    common.experiment(__doc__, SETTINGS, measure, draw)
