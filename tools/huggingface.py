"""
GPT-2 as Hugging Face keeps it: a folder with model.safetensors, config.json, and a tokenizer.
"""

import itertools
import json
import os
import re
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, encoding, formats, tensor_file
from tools.console import NoNetwork, UserError

import numpy as np

OPENAI = "openai-community"
HF_MODELS = {  # whose it is; its L, NH and C; the file to make, by llm.c's name
    "gpt2": (OPENAI, (12, 12, 768), "gpt2_124M.bin"),
    "gpt2-medium": (OPENAI, (24, 16, 1024), "gpt2_355M.bin"),
    "gpt2-large": (OPENAI, (36, 20, 1280), "gpt2_774M.bin"),
    "gpt2-xl": (OPENAI, (48, 25, 1600), "gpt2_1558M.bin"),
    "distilgpt2": ("distilbert", (6, 12, 768), "distilgpt2.bin"),
}
HF_GPT2_SIZE = 548_105_171
HF_GPT2_SHA256 = "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707"
HF_NAMES = {  # by ours; {} is the number of the block
    "wte": "wte.weight", "wpe": "wpe.weight",
    "ln1w": "h.{}.ln_1.weight", "ln1b": "h.{}.ln_1.bias",
    "qkvw": "h.{}.attn.c_attn.weight", "qkvb": "h.{}.attn.c_attn.bias",
    "attprojw": "h.{}.attn.c_proj.weight", "attprojb": "h.{}.attn.c_proj.bias",
    "ln2w": "h.{}.ln_2.weight", "ln2b": "h.{}.ln_2.bias",
    "fcw": "h.{}.mlp.c_fc.weight", "fcb": "h.{}.mlp.c_fc.bias",
    "fcprojw": "h.{}.mlp.c_proj.weight", "fcprojb": "h.{}.mlp.c_proj.bias",
    "lnfw": "ln_f.weight", "lnfb": "ln_f.bias",
}  # fmt: skip
HF_MASK = r"h\.\d+\.attn\.(masked_)?bias"  # attention's, kept in older files
HF_SETTINGS = {  # of config.json, what any GPT-2 has, and what is meant where it is left out
    "model_type": "gpt2", "activation_function": "gelu_new", "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False, "layer_norm_epsilon": gpt2.LAYERNORM_EPS,
}  # fmt: skip
HF_SIZES = "n_positions", "vocab_size", "n_layer", "n_head", "n_embd"  # as in GPT2Config
HS = 64  # channels of a head, in every GPT-2 of OpenAI
HF_HINT = "give another --model"


def hf_views(flat, config):
    """Yield Hugging Face's name of each tensor, and the tensor, a view of the flat vector."""
    for name, view in gpt2.named_views(flat, config).items():
        in_blocks = name in gpt2.IN_BLOCKS
        # Hugging Face has Conv1D in blocks, x @ w with w (in, out): the transpose of our (out, in)
        conv1d = in_blocks and name in gpt2.DECAYING
        for l, part in enumerate(view if in_blocks else [view]):
            yield HF_NAMES[name].format(l), part.T if conv1d else part


# ----------------------------------------------------------------------------
# In


def hf_files(folder):
    """Return the safetensors files of a folder, which may share a model among them. UserError."""
    whole = folder / "model.safetensors"
    files = [whole] if whole.exists() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        hint = "save_pretrained(FOLDER, safe_serialization=True) of transformers writes it"
        raise UserError(f"{folder}: has no model.safetensors, and only that is read; {hint}")
    return files


def hf_settings(path):
    """Return what a config.json says, and what it leaves out; {} if there is none. UserError."""
    try:
        return HF_SETTINGS | json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not JSON with settings: {error}; get it again") from error


def load(path):
    """
    Read a GPT-2 of Hugging Face, a file or a folder -> a flat float32 vector, config. UserError.

    The config.json beside the tensors says how many heads there are; without one, C / 64.
    """
    path = Path(path)
    folder, files = (path, hf_files(path)) if path.is_dir() else (path.parent, [path])
    found = {
        name.removeprefix("transformer."): tensor
        for file in files
        for name, tensor in tensor_file.read_header(file, HF_HINT).items()
    }
    found = {k: v for k, v in found.items() if not re.fullmatch(HF_MASK, k)}

    def take(name, shape):
        if name not in found:
            raise UserError(f"{path}: not a GPT-2, or it has no tensor {name}; {HF_HINT}")
        tensor = found.pop(name)
        if tensor.dtype not in tensor_file.DTYPES or tensor.shape != shape:
            what = f"its tensor {name} is {tensor.dtype!r} {tensor.shape}"
            raise UserError(f"{tensor.file}: {what}, not F32, F16 or BF16 {shape}; {HF_HINT}")
        return tensor_file.read_tensor(tensor)

    if "lm_head.weight" in found:  # wte once more, or instead
        found.setdefault("wte.weight", found["lm_head.weight"])
    L = sum(bool(re.fullmatch(r"h\.\d+\.ln_1\.weight", name)) for name in found)
    wte, wpe = (found[name].shape if name in found else () for name in ("wte.weight", "wpe.weight"))
    (V, C), maxT = (0, 0, *wte)[-2:], (0, *wpe)[min(1, len(wpe))]
    settings = hf_settings(folder / "config.json")
    NH = settings.get("n_head", 0 if C % HS else C // HS)
    config = gpt2.GPT2Config(maxT, V, L, NH, C)
    if type(NH) is not int or min(config) < 1 or C % NH:
        hint = "NH is the n_head of config.json, or else C / 64"
        raise UserError(f"{path}: not a GPT-2, to judge by its tensors, {config}; {hint}")
    for key, value in (HF_SETTINGS | dict(zip(HF_SIZES, config, strict=True))).items():
        if (has := settings.get(key, value)) != value:
            of = "the tensors" if key in HF_SIZES else "any GPT-2"
            what = f"config.json has {key} {has!r}, but it is {value!r} in {of}"
            raise UserError(f"{folder}: {what}; {HF_HINT}")

    flat = np.empty(gpt2.num_parameters(config), np.float32)
    for name, view in hf_views(flat, config):
        view[...] = take(name, view.shape)
    if "lm_head.weight" in found:
        wte = gpt2.named_views(flat, config)["wte"]
        if not np.array_equal(take("lm_head.weight", (V, C)), wte):
            why = "its lm_head.weight differs from wte.weight, and GPT-2 has one matrix for both"
            raise UserError(f"{path}: {why}; {HF_HINT}")
    if found:
        raise UserError(f"{path}: its tensor {min(found)!r} is none of a GPT-2's; {HF_HINT}")
    return flat, config


def load_named(name, folder):
    """
    Read a model of HF_MODELS -> as load. Raises UserError.

    It is downloaded to the folder, unless it is there or in the project's.
    """
    owner, sizes, _ = HF_MODELS[name]
    file, size, sha256 = f"model_{name}.safetensors", None, None
    if name == "gpt2":
        file, size, sha256 = "model.safetensors", HF_GPT2_SIZE, HF_GPT2_SHA256
    path = gpt2.HERE / file if (gpt2.HERE / file).exists() else folder / file
    if not path.exists():
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        url = f"{endpoint.rstrip('/')}/{owner}/{name}/resolve/main/model.safetensors"
        encoding.needed("tools.download").download(url, path, size, sha256)
    elif size not in (None, path.stat().st_size):
        raise UserError(f"{path}: does not have GPT-2's {size:,} bytes; delete it")
    flat, config = load(path)
    if config != (1024, gpt2.GPT2_VOCAB_SIZE, *sizes):
        raise UserError(f"{path}: is {config}, not {name}; delete it")
    return flat, config


# ----------------------------------------------------------------------------
# Out: the tokenizer


def write_tokenizer(path, required):
    """Write GPT-2's, unless a good one is there. Without a network: go on if not required."""
    try:
        formats.load_tokenizer(path)
        return
    except UserError:
        pass
    try:
        encoding.write_gpt2_tokenizer(path)
        print(f"wrote {path}")
    except NoNetwork as error:
        if required:
            raise
        print(f"{path.name} is missing: {error.text}")  # it says what to run


UNSEEN = (byte for byte in range(256) if byte == ord(" ") or not chr(byte).isprintable())
LETTERS = {byte: 256 + i for i, byte in enumerate(UNSEEN)}  # for bytes that Latin-1 doesn't show


def spelled(token):
    """Return the bytes of a token as letters, one each (bytes_to_unicode in GPT-2's encoder.py)."""
    return token.decode("latin-1").translate(LETTERS)


def merges(vocabulary, end_of_text):
    """
    Return the pairs of tokens that BPE joins, one for each token of several bytes, in their order.

    The pair is what BPE makes of the token's bytes with the tokens before it. Raises UserError.
    """
    ranks = {token: i for i, token in enumerate(vocabulary) if i != end_of_text}
    found = []
    for token, rank in ranks.items():
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            order = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
            i = order.index(min(order))
            if order[i] >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) > 2 or not ranks.keys() >= set(parts):
            raise UserError(f"its token {token} is none that BPE makes of others")
        if len(parts) == 2:
            found.append(parts)
    return found


def tokenizer_files(path, config):
    """Return a tokenizer file as Hugging Face's, {name: text}; its end-of-text. UserError."""
    vocabulary, end_of_text = formats.load_tokenizer(path)
    letters = [spelled(token) for token in vocabulary]
    letters[end_of_text] = vocabulary[end_of_text].decode("utf-8", "replace")
    ids = {token: i for i, token in enumerate(letters)}
    if len(ids) != config.V:
        raise UserError(f"{path}: has {len(ids):,} different tokens, the model {config.V:,}")
    lines = (f"{spelled(a)} {spelled(b)}\n" for a, b in merges(vocabulary, end_of_text))
    special = {f"{name}_token": letters[end_of_text] for name in ("bos", "eos", "unk")}
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": config.maxT}
    return {
        "vocab.json": json.dumps(ids),
        "merges.txt": "#version: 0.2\n" + "".join(lines),
        "tokenizer_config.json": json.dumps(settings | special, indent=2),
    }, end_of_text


# ----------------------------------------------------------------------------
# Out: the folder

EXPORTED = "model.safetensors", "config.json", "generation_config.json"
EXPORTED_TOKENIZER = "vocab.json", "merges.txt", "tokenizer_config.json"


def export(path, folder):
    """
    Write a weight file as a folder that transformers' from_pretrained reads. Raises UserError.

    With its tokenizer; without, saying so, where there is none of this model.
    """
    there = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if others := there.difference(EXPORTED, EXPORTED_TOKENIZER):
        raise UserError(f"{folder}: has {min(others)}, which is of no export; give a new folder")
    flat, config = formats.load_weights(path)
    checkpoints.check_finite(path, flat)
    files, end_of_text = {}, None
    try:
        tokenizer = checkpoints.tokenizer_of(path)
        if tokenizer == gpt2.TOKENIZER_FILE and config.V == gpt2.GPT2_VOCAB_SIZE:
            write_tokenizer(tokenizer, required=False)
        files, end_of_text = tokenizer_files(tokenizer, config)
    except UserError as error:
        print(f"without a tokenizer: {error.text}")
    ids = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    settings = HF_SETTINGS | dict(zip(HF_SIZES, config, strict=True)) | ids
    settings |= {"architectures": ["GPT2LMHeadModel"], "n_ctx": config.maxT, "n_inner": None}
    settings |= {"tie_word_embeddings": True, "torch_dtype": "float32"}
    files["config.json"] = json.dumps(settings, indent=2)
    files["generation_config.json"] = json.dumps({"_from_model_config": True} | ids, indent=2)

    folder.mkdir(parents=True, exist_ok=True)
    named = [(f"transformer.{name}", view) for name, view in hf_views(flat, config)]
    tensor_file.write(folder / "model.safetensors", named)
    for name in there.intersection(EXPORTED_TOKENIZER).difference(files):
        (folder / name).unlink()  # of an earlier model
    for name, text in files.items():
        with formats.replacing(folder / name) as f:
            f.write(text.encode())
    print(f"wrote {folder}: model.safetensors, {', '.join(files)}")
