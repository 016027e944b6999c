"""
GPT-2 as Hugging Face keeps it: a folder with model.safetensors, config.json, and a tokenizer.
"""

import json
import os
import re
from pathlib import Path

import train_gpt2 as gpt2
from tools import checkpoints, encoding, formats, hf_tokenizer, tensor_file, token_files
from tools.console import Unavailable, UserError

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
HF_WRAPPERS = r"^((module|_orig_mod|transformer)\.)+"  # of DataParallel, torch.compile, its own
HF_MASK = r"h\.\d+\.attn\.(masked_)?bias"  # attention's, kept in older files
HF_SETTINGS = {  # of config.json, what any GPT-2 has, and what is meant where it is left out
    "model_type": "gpt2", "activation_function": "gelu_new", "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False, "layer_norm_epsilon": gpt2.LAYERNORM_EPS,
}  # fmt: skip
HF_SIZES = "n_positions", "vocab_size", "n_layer", "n_head", "n_embd"  # as in GPT2Config
HF_NH = 12  # its n_head, if config.json has none
HF_ALIASES = {  # its attribute_map: names that it takes for those above
    "hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}  # fmt: skip
HS = 64  # channels of a head, in every GPT-2 of OpenAI
HF_HINT = "give another --model"
GPT2_ROWS = gpt2.GPT2_VOCAB_SIZE + -gpt2.GPT2_VOCAB_SIZE % 128  # of wte where GPUs are fast


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
    """
    Return the safetensors files of a folder; by its index, {tensor: file}, None without one.

    As in transformers they are model.safetensors, or else those of the index. Raises UserError.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    if whole.exists() and shards:
        what = f"has model.safetensors and {shards[0].name}, of two saves"
        raise UserError(f"{folder}: {what}; delete those of one, or give the file itself")
    if whole.exists():
        return [whole], None
    if not index.exists():
        has = f"{index.name}, which lists its files" if shards else whole.name
        hint = "save_pretrained(FOLDER, safe_serialization=True) of transformers writes it"
        raise UserError(f"{folder}: has no {has}, and only that is read; {hint}")
    places = hf_tokenizer.read_json(index).get("weight_map")
    names = places.values() if isinstance(places, dict) else [None]
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{index}: its weight_map is none of files beside it; get it again")
    return [folder / name for name in sorted(set(names))], places


def hf_tensors(path):
    """Return the tensors of a file or a folder by their names in HF_NAMES, or lm_head.weight."""
    files, index = hf_files(path) if path.is_dir() else ([path], None)
    found, places = {}, {}
    for file in files:
        for stored, tensor in tensor_file.read_header(file, HF_HINT).items():
            name, places[stored] = re.sub(HF_WRAPPERS, "", stored), file.name
            if re.fullmatch(HF_MASK, name):
                continue
            if re.sub(r"^h\.\d+", "h.{}", name) not in (*HF_NAMES.values(), "lm_head.weight"):
                raise UserError(f"{file}: its tensor {stored!r} is none of a GPT-2's; {HF_HINT}")
            if name in found:
                raise UserError(f"{file}: its tensor {stored!r} is one more {name}; {HF_HINT}")
            found[name] = tensor
    if index is not None and index != places:
        name = min(name for name, _ in index.items() ^ places.items())
        what = f"its index has {name!r} in {index.get(name)}, but it is in {places.get(name)}"
        raise UserError(f"{path}: {what}; get the files of one save")
    return found


def hf_settings(path):
    """Return what a config.json says, and what it leaves out; {} if there is none. UserError."""
    found = hf_tokenizer.read_if_there(path)
    for alias, name in HF_ALIASES.items():
        if alias in found and found.setdefault(name, found[alias]) != found[alias]:
            what = f"has {name} {found[name]!r} and {alias} {found[alias]!r}, which are one"
            raise UserError(f"{path}: {what}; delete the wrong one")
    if found.get("activation_function") == "gelu_pytorch_tanh":  # the same, by another formula
        found["activation_function"] = HF_SETTINGS["activation_function"]
    return HF_SETTINGS | {"n_head": HF_NH} | found if path.exists() else {}


def load(path):
    """
    Read a GPT-2 of Hugging Face, a file or a folder -> a flat float32 vector, config. UserError.

    The config.json beside the tensors says how many heads there are; without one, C / 64.
    """
    path = Path(path)
    folder, found = path if path.is_dir() else path.parent, hf_tensors(path)
    settings = hf_settings(folder / "config.json")

    def take(name, shape):
        if name not in found:
            raise UserError(f"{path}: not a GPT-2, or it has no tensor {name}; {HF_HINT}")
        tensor = found.pop(name)
        if tensor.dtype not in tensor_file.DTYPES or tensor.shape != shape:
            what = f"its tensor {name} is {tensor.dtype!r} {tensor.shape}"
            raise UserError(f"{tensor.file}: {what}, not F32, F16 or BF16 {shape}; {HF_HINT}")
        return tensor_file.read_tensor(tensor)

    tied = settings.get("tie_word_embeddings", True) is True
    if not tied and not found.keys() >= {"wte.weight", "lm_head.weight"}:
        what = "config.json has tie_word_embeddings false, and of wte and lm_head one is missing"
        raise UserError(f"{folder}: {what}; set it to true if the model has one matrix for both")
    if "lm_head.weight" in found:  # wte once more, or instead
        found.setdefault("wte.weight", found["lm_head.weight"])
    L = sum(bool(re.fullmatch(r"h\.\d+\.ln_1\.weight", name)) for name in found)
    wte, wpe = (found[name].shape if name in found else () for name in ("wte.weight", "wpe.weight"))
    (V, C), maxT = (0, 0, *wte)[-2:], (0, *wpe)[min(1, len(wpe))]
    if "h.0.attn.c_attn.weight" in found and found["h.0.attn.c_attn.weight"].shape == (3 * C, C):
        what = "its matrices are (out, in), as nanoGPT's are, and Hugging Face's (in, out)"
        raise UserError(f"{path}: {what}; transpose the weights of each c_attn, c_fc and c_proj")
    NH = settings.get("n_head", 0 if C % HS else C // HS)
    config = gpt2.GPT2Config(maxT, V, L, NH, C)
    for key, value in (HF_SETTINGS | dict(zip(HF_SIZES, config, strict=True))).items():
        if (has := settings.get(key, value)) != value:
            of = "the tensors" if key in HF_SIZES else "any GPT-2"
            what = f"config.json has {key} {has!r}, but it is {value!r} in {of}"
            raise UserError(f"{folder}: {what}; {HF_HINT}")
    if type(NH) is not int or min(config) < 1 or C % NH:
        hint = f"NH is the n_head of config.json, {HF_NH} if that has none; without it, C / 64"
        raise UserError(f"{path}: not a GPT-2, to judge by its tensors, {config}; {hint}")

    flat = np.empty(gpt2.num_parameters(config), np.float32)
    for name, view in hf_views(flat, config):
        view[...] = take(name, view.shape)
    if "lm_head.weight" in found:
        wte = gpt2.named_views(flat, config)["wte"]
        if not np.array_equal(take("lm_head.weight", (V, C)), wte):
            why = "its lm_head.weight differs from wte.weight, and GPT-2 has one matrix for both"
            raise UserError(f"{path}: {why}; {HF_HINT}")
    if found:
        raise UserError(f"{path}: its tensor {min(found)!r} is of no block; {HF_HINT}")
    return flat, config


def import_model(path):
    """
    Read a GPT-2 as load() does, and its tokenizer -> flat, config, (vocabulary, end-of-text's id).

    In place of the last: None if there is no tokenizer, () if it is none that we can have. Rows of
    wte that have no token are left out. Of either the user is told. Raises UserError.
    """
    path = Path(path)
    flat, config = load(path)
    V = config.V
    try:
        tokenizer = hf_tokenizer.read(path if path.is_dir() else path.parent, V)
    except UserError as error:
        tokenizer = ()
        print(f"without its tokenizer: {error.text}")
    if tokenizer:
        V = len(tokenizer[0])
    elif tokenizer is None and V == GPT2_ROWS:
        V = gpt2.GPT2_VOCAB_SIZE
    elif tokenizer is None and V != gpt2.GPT2_VOCAB_SIZE:
        what = f"no tokenizer.json, nor vocab.json and merges.txt, for its {V:,} tokens"
        print(f"without a tokenizer: there is {what}")
    if V < config.V:
        print(f"left out: rows {V:,} to {config.V - 1:,} of wte, which are no token's")
        flat = np.delete(flat, slice(V * config.C, config.V * config.C))
    return flat, config._replace(V=V), tokenizer


def load_named(name):
    """Read a model of HF_MODELS, which is downloaded unless it is there -> as load. UserError."""
    owner, sizes, _ = HF_MODELS[name]
    file, size, sha256 = f"model_{name}.safetensors", None, None
    if name == "gpt2":
        file, size, sha256 = "model.safetensors", HF_GPT2_SIZE, HF_GPT2_SHA256
    path = gpt2.HERE / file
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
# The tokenizer file of a model that is read


def write_gpt2_tokenizer(path, required):
    """Write GPT-2's, unless a good one is there. Without a network: go on if not required."""
    try:
        formats.load_tokenizer(path)
        return
    except UserError:
        pass
    try:
        encoding.write_gpt2_tokenizer(path)
        print(f"wrote {path}")
    except Unavailable as error:
        if required:
            raise
        print(f"{path.name} is missing: {error.text}")  # it says what to run


def write_tokenizer(out, vocabulary, end_of_text):
    """Write the tokenizer of weights named out, beside them. UserError if there is another."""
    shared = out.with_name(gpt2.TOKENIZER_FILE.name)
    path = shared if token_files.is_gpt2(vocabulary) else checkpoints.own_tokenizer(out)
    same = path.exists() and formats.load_tokenizer(path) == (vocabulary, end_of_text)
    if path.exists() and not same or path == shared and not token_files.is_gpt2(vocabulary):
        raise UserError(f"{path}: is another model's tokenizer; give another --out")
    if not same:
        token_files.write_tokenizer(path, vocabulary, end_of_text)
        print(f"wrote {path}")


# ----------------------------------------------------------------------------
# Out: the folder

EXPORTED = "model.safetensors", "config.json", "generation_config.json"


def export(path, folder):
    """
    Write a weight file as a folder that transformers' from_pretrained reads. Raises UserError.

    With its tokenizer; without, saying so, where there is none of this model.
    """
    there = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if others := there.difference(EXPORTED, hf_tokenizer.FILES):
        raise UserError(f"{folder}: has {min(others)}, which is of no export; give a new folder")
    its = checkpoints.Checkpoint(path, formats.WEIGHTS_HINT)
    flat, config = its.weights(), its.config
    files, end_of_text = {}, None
    try:
        tokenizer = checkpoints.tokenizer_of(its)
        if tokenizer == gpt2.TOKENIZER_FILE and config.V == gpt2.GPT2_VOCAB_SIZE:
            write_gpt2_tokenizer(tokenizer, required=False)
        found = hf_tokenizer.files(tokenizer, config)
        digests = {name: formats.digest_in(name) for name in (path, tokenizer)}
        formats.check_one_vocabulary(digests, "its own belongs beside it, as NAME_tokenizer.bin")
        files, end_of_text = found
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
    for name in there.intersection(hf_tokenizer.FILES).difference(files):
        (folder / name).unlink()  # of an earlier model
    for name, text in files.items():
        with formats.replacing(folder / name, kind=0) as f:  # which is an export
            f.write(text.encode())
    print(f"wrote {folder}: model.safetensors, {', '.join(files)}")
