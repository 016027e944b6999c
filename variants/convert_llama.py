"""
A Llama from one form to another: files of llama2.c, version 0 and 1, and Hugging Face's folders.

    python variants/convert_llama.py llama.bin llama_hf     # for transformers
    python variants/convert_llama.py llama_hf llama.bin     # and back, version 1
    python variants/convert_llama.py llama.bin run.bin --version 0 --tokenizer data/X_tokenizer.bin

The last one is for llama2.c: `./run run.bin -z run_tokenizer.bin`. There, token 1 begins and ends a
text, so end-of-text and the token that had that number exchange theirs.
"""

import json
import os
import re
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
from pathlib import Path

from tools import formats, hf_tokenizer, huggingface, tensor_file
from tools.console import Parser, UserError, file_name, run_program
from tools.formats import check_writable
from variants import llama_files
from variants.llama_files import IN_BLOCKS, RMSNORM_EPS, ROTARY_BASE, LlamaConfig
from variants.train_llama import turns_of

import numpy as np

# ----------------------------------------------------------------------------
# Hugging Face's LlamaForCausalLM, a folder

HF_NAMES = {  # by ours; {} is the number of the block
    "wte": "model.embed_tokens.weight", "lnfw": "model.norm.weight", "headw": "lm_head.weight",
    "ln1w": "model.layers.{}.input_layernorm.weight",
    "ln2w": "model.layers.{}.post_attention_layernorm.weight",
    "qw": "model.layers.{}.self_attn.q_proj.weight",
    "kw": "model.layers.{}.self_attn.k_proj.weight",
    "vw": "model.layers.{}.self_attn.v_proj.weight",
    "attprojw": "model.layers.{}.self_attn.o_proj.weight",
    "gatew": "model.layers.{}.mlp.gate_proj.weight", "upw": "model.layers.{}.mlp.up_proj.weight",
    "fcprojw": "model.layers.{}.mlp.down_proj.weight",
}  # fmt: skip
HF_SIZES = {  # ours: theirs
    "C": "hidden_size", "H": "intermediate_size", "L": "num_hidden_layers",
    "NH": "num_attention_heads", "NKV": "num_key_value_heads", "V": "vocab_size",
    "maxT": "max_position_embeddings", "tied": "tie_word_embeddings",
}  # fmt: skip
HF_SETTINGS = {  # what we need to find; what a config.json that does not say it means
    "model_type": ("llama", None), "hidden_act": ("silu", "silu"),
    "rms_norm_eps": (RMSNORM_EPS, 1e-6), "attention_bias": (False, False),
    "mlp_bias": (False, False), "rope_scaling": (None, None),
}  # fmt: skip
HF_HINT = "give another folder"


def halves(w, heads, back=False):
    """
    Return the rows of qw or kw (OC, C) as Hugging Face has them, or, back, from there.

    It turns channels i and i + HS / 2 of a head as a pair, where the paper turns 2i and 2i + 1.
    """
    HS = len(w) // heads
    pairs = w.reshape(heads, 2, HS // 2, -1) if back else w.reshape(heads, HS // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(w.shape)


def hf_views(flat, config):
    """Yield Hugging Face's name of each tensor, the tensor, a view, and the heads of its rows."""
    for name, view in llama_files.named_views(flat, config).items():
        heads = {"qw": config.NH, "kw": config.NKV}.get(name)  # None: not turned
        for l, part in enumerate(view if name in IN_BLOCKS else [view]):
            yield HF_NAMES[name].format(l), part, heads


def read_settings(folder):
    """Return the config of a folder's config.json. UserError unless it is a Llama as ours."""
    path = folder / "config.json"
    settings = hf_tokenizer.read_json(path)
    try:
        rope = settings.get("rope_parameters") or {}  # where newer files have it
        rope = {"rope_theta": settings.get("rope_theta", ROTARY_BASE)} | rope
        NH = settings["num_attention_heads"]
        given = {"num_key_value_heads": NH, "tie_word_embeddings": False} | settings
        config = LlamaConfig(**{ours: given[theirs] for ours, theirs in HF_SIZES.items()})
        if not all(type(n) is int for n in config[:7]) or not llama_files.is_possible(config):
            raise ValueError(f"there is no {config}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the settings of a Llama: {error!r}; {HF_HINT}") from error
    has = [(key, settings.get(key, unsaid), need) for key, (need, unsaid) in HF_SETTINGS.items()]
    has += [("rope_theta", rope["rope_theta"], ROTARY_BASE)]
    has += [("rope_type", rope.get("rope_type", "default"), "default")]
    has += [("head_dim", settings.get("head_dim") or config.C // NH, config.C // NH)]
    for key, value, need in has:
        if value != need:
            raise UserError(f"{path}: its {key} is {value!r}, and only {need!r} is read; {HF_HINT}")
    return config._replace(tied=bool(config.tied))


def load_folder(folder):
    """Read Hugging Face's LlamaForCausalLM -> a flat float32 vector; config. Raises UserError."""
    folder = Path(folder)
    config, found = read_settings(folder), {}
    for file in huggingface.hf_files(folder)[0]:
        found |= tensor_file.read_header(file, HF_HINT)
    flat = np.empty(llama_files.num_parameters(config), np.float32)
    for name, view, heads in hf_views(flat, config):
        tensor = found.pop(name, None)
        if not tensor or tensor.dtype not in tensor_file.DTYPES or tensor.shape != view.shape:
            has = f"{tensor.dtype} {tensor.shape}" if tensor else "not there"
            what = f"its tensor {name} is {has}, not F32, F16 or BF16 {view.shape}"
            raise UserError(f"{folder}: {what}; {HF_HINT}")
        view[:] = tensor_file.read_tensor(tensor)
        if heads:
            view[:] = halves(view, heads, back=True)
    others = [n for n in found if not re.search(r"rotary_emb\.inv_freq$", n)]  # kept in older files
    if others and (others != ["lm_head.weight"] or not config.tied):
        raise UserError(f"{folder}: its tensor {min(others)!r} is none of a Llama's; {HF_HINT}")
    return flat, config


def write_folder(folder, flat, config):
    """Write a folder that LlamaForCausalLM.from_pretrained reads. Raises UserError."""
    folder = Path(folder)
    there = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if others := there.difference({"config.json", "model.safetensors"}):
        raise UserError(f"{folder}: has {min(others)}, which is of no export; give a new folder")
    settings = {key: need for key, (need, _) in HF_SETTINGS.items()}
    settings |= {theirs: getattr(config, ours) for ours, theirs in HF_SIZES.items()}
    settings |= {"architectures": ["LlamaForCausalLM"], "rope_theta": ROTARY_BASE}
    settings |= {"torch_dtype": "float32"}
    folder.mkdir(parents=True, exist_ok=True)
    views = hf_views(flat, config)
    named = [(name, halves(view, heads) if heads else view) for name, view, heads in views]
    tensor_file.write(folder / "model.safetensors", named)
    with formats.replacing(folder / "config.json", kind=0) as f:
        f.write(json.dumps(settings, indent=2).encode())


# ----------------------------------------------------------------------------
# The program


def main(argv=None):
    parser = Parser(description="Convert a Llama: file of llama2.c, or folder of Hugging Face.")
    add = parser.add_argument
    add("source", type=file_name, metavar="FROM", help="a .bin file, or a folder")
    add("target", type=file_name, metavar="TO", help="NAME.bin, a file; any other, a folder")
    text = "of a file: 0, which llama2.c's program runs, or 1 (default: 1)"
    add("--version", type=int, choices=(0, 1), default=1, help=text)
    text = "a tokenizer file of ours; write it for llama2.c, NAME_tokenizer.bin (default: none)"
    add("--tokenizer", type=file_name, metavar="FILE", help=text)
    args = parser.parse_args(argv)
    target, to_file = Path(args.target), args.target.endswith(".bin")
    if args.tokenizer and not to_file:
        parser.error(f"--tokenizer: is for a file of llama2.c, and {target} is to be a folder")
    if to_file:
        kind = llama_files.MAGIC if args.version else b""  # version 0 has none
        check_writable(target, kind)
    load = load_folder if os.path.isdir(args.source) else llama_files.load_weights
    flat, config = load(args.source)
    if args.tokenizer:
        vocabulary, end = formats.load_tokenizer(args.tokenizer)
        if len(vocabulary) != config.V:
            what = f"{args.tokenizer}: has {len(vocabulary):,} tokens, {args.source} {config.V:,}"
            raise UserError(f"{what}; give the one that it was trained with")
        beside = target.with_name(f"{target.stem}_tokenizer.bin")
        llama_files.write_tokenizer(beside, vocabulary, end)
        print(f"wrote {beside}")
        params = llama_files.named_views(flat, config)
        for name in {"wte", "headw"} & params.keys():
            params[name][:] = llama_files.exchanged(params[name], end)
    if to_file:
        HS = config.C // config.NH
        turns = None if args.version else turns_of(0, config.maxT, HS, np.float32)
        llama_files.write_weights(target, flat, config, turns=turns)
    else:
        write_folder(target, flat, config)
    print(f"wrote {target}: {len(flat):,} parameters, {config}")


if __name__ == "__main__":
    run_program(main)
