"""
A Llama for sample_gpt2.py, and for all that opens models as it does: text, and losses of texts.

What is opened is a file of llama2.c, as train_llama.py writes it, or a folder of Hugging Face's.
"""

from pathlib import Path

from tools import checkpoints, sampling
from tools.console import one_line
from tools.hf_tokenizer import read_if_there
from train_gpt2 import matmul
from variants import convert_llama, llama_files
from variants.llama_files import IN_BLOCKS
from variants.train_llama import (
    block_forward,
    embedding_forward,
    llama_forward,
    rmsnorm_forward,
    turns_of,
)


def new_tokens_forward(params, config, tokens, past, start):
    """tokens (B, T) -> logits (B, V) of the next. Fills past (L, 2, NKV, B, maxT, HS) at start."""
    (B, T), end = tokens.shape, start + tokens.shape[1]
    x, _ = embedding_forward(tokens, params["wte"])
    turns = turns_of(start, end, config.C // config.NH, x.dtype)
    for l in range(config.L):
        p = {name: params[name][l] for name in IN_BLOCKS}
        x, _ = block_forward(x, p, turns, config, past[l][..., :end, :])
    newest, _ = rmsnorm_forward(x.reshape(B, T, -1)[:, -1], params["lnfw"])
    return matmul(newest, params.get("headw", params["wte"]).T)  # (B, V)


def open_model(args, whose):
    """Return a sampling.Model of --weights and --tokenizer; None if it is no Llama. UserError."""
    folder = Path(args.weights)
    if read_if_there(folder / "config.json").get("model_type") == "llama":
        load = convert_llama.load_folder
    elif llama_files.is_weights(args.weights):
        load = llama_files.load_weights
    else:
        return None
    flat, config = load(args.weights)
    checkpoints.check_finite(args.weights, flat)
    path = args.tokenizer or checkpoints.own_tokenizer(args.weights)
    if not args.tokenizer and not path.exists():
        path = checkpoints.tokenizer_that_fits(args.weights, config.V)
    found = llama_files.open_tokenizer(path, args.weights, config.V, whose)
    params, about = llama_files.named_views(flat, config), f"{len(flat):,} parameters"
    about = f"{one_line(folder.name)}: {about}"
    return sampling.Model(params, config, *found, llama_forward, new_tokens_forward, about)
