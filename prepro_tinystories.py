"""
The TinyStories dataset (Eldan & Li 2023) in GPT-2's tokens: data/TinyStories_train.bin, _val.bin.

    python prepro_tinystories.py [--workers N]

downloads the archive (1.6 GB) and unpacks it, unless that is done, to data/TinyStories_all_data, a
folder of shards: JSON lists of stories. The shards are tokenized on all cores, an end-of-text token
before each story; the first one is for validation, the others hold 925,653,391 tokens. The stories
of a shard are shuffled, always in the same way, whatever the number of cores.
"""

import gzip
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import tarfile
import zlib
from array import array
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import prepro
from common import GPT2_VOCAB_SIZE, Parser, UserError, number, run

from tqdm import tqdm

URL = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories_all_data.tar.gz"
SEED = 1337


def plain(member, folder):
    """tarfile's data filter (nothing leaves the folder, no devices), and no links either."""
    if member.issym() or member.islnk():
        raise tarfile.TarError(f"{member.name} is a link")
    return tarfile.data_filter(member, folder)


def unpack(archive, folder):
    """Unpack a .tar.gz to folder, which appears only once it is whole. Raises UserError."""
    part = Path(f"{folder}.part")
    shutil.rmtree(part, ignore_errors=True)
    print(f"unpacking {Path(archive).name}", flush=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(part, filter=plain)
            while tar.fileobj.read(prepro.CHUNK):
                pass  # to the end, where gzip's checksum stands
        os.replace(part, folder)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        hint = "delete it to download it again"
        raise UserError(f"{archive}: can't be unpacked ({error}); {hint}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def tokenize_shard(index, path):
    """The tokens of a shard's stories as an array of uint16. Raises UserError."""
    encoding = prepro.gpt2_encoding()
    try:
        with open(path, encoding="utf-8") as f:
            stories = [item["story"] for item in json.load(f)]
        if not stories:
            raise ValueError("there are none")
        random.Random(SEED + index).shuffle(stories)
        tokens = array("H")
        for story in stories:
            tokens.append(encoding.eot_token)
            tokens.extend(encoding.encode_ordinary(story.strip()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "delete its folder to unpack it again"
        raise UserError(f"{path}: not a JSON list of stories ({error}); {hint}") from error
    return tokens


def tokenize_shards(paths, workers):
    """Yield the tokens of each shard, in order; no more than 2 * workers of them wait in memory."""
    # Started anew ("spawn") as everywhere but on Linux, since a fork of a program with threads can
    # hang; and ended by Ctrl-C without a word, as the message is the parent's.
    context = multiprocessing.get_context("spawn")
    on_interrupt = (signal.SIGINT, signal.SIG_DFL)
    pool = ProcessPoolExecutor(workers, context, signal.signal, on_interrupt)
    try:
        jobs = (pool.submit(tokenize_shard, i, path) for i, path in enumerate(paths))
        pending = deque(itertools.islice(jobs, 2 * workers))
        for _ in tqdm(paths, unit="shard", disable=None):
            yield pending.popleft().result()
            pending.extend(itertools.islice(jobs, 1))
    finally:
        pool.shutdown(cancel_futures=True)


def main(argv=None):
    parser = Parser(description="Download and tokenize TinyStories.")
    cores = min(os.cpu_count() or 1, 60)  # Windows can't wait for more than 61
    parser.add_argument(
        "--workers", type=number(int, 1), default=cores, help="processes (default: one per core)"
    )
    parser.add_argument("--url", default=URL, help="where the archive is")
    args = parser.parse_args(argv)
    folder = prepro.DATA / "TinyStories_all_data"
    archive = Path(f"{folder}.tar.gz")
    if not folder.exists():
        if not archive.exists():
            prepro.download(args.url, archive)
        unpack(archive, folder)
    paths = sorted(folder.glob("*.json"))
    if len(paths) < 2:
        raise UserError(f"{folder}: has {len(paths)} shards, not two or more; delete it")
    prepro.gpt2_encoding()  # so that not every worker downloads the vocabulary
    shards = tokenize_shards(paths, args.workers)
    try:
        prepro.write_tokens(prepro.DATA / "TinyStories_val.bin", GPT2_VOCAB_SIZE, [next(shards)])
        prepro.write_tokens(prepro.DATA / "TinyStories_train.bin", GPT2_VOCAB_SIZE, shards)
    except BrokenProcessPool as error:
        hint = "try again with fewer --workers"
        raise UserError(f"a worker died, perhaps for want of memory; {hint}") from error


if __name__ == "__main__":
    run(main)
