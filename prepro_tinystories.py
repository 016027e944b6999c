"""
The TinyStories dataset (Eldan & Li 2023) in GPT-2's tokens: data/TinyStories_train.bin, _val.bin.

    python prepro_tinystories.py [--workers N] [--name NAME] [--url URL]

downloads the archive (1.6 GB) and unpacks it, unless that is done, to data/TinyStories_all_data, a
folder of shards: JSON lists of stories. The shards are tokenized on all cores, an end-of-text token
before each story; the first one is for validation, the others hold 925,653,391 tokens. The stories
of a shard are shuffled, always in the same way, whatever the number of cores.
"""

import argparse
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

from tools.console import Parser, UserError, bounded, run_program
from tools.encoding import CHUNK, gpt2_encoding, needed, vocabulary_of
from tools.log import bars
from tools.token_files import add_name_flag, prefix_of, write_splits, writing_to

URL = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories_all_data.tar.gz"
SEED = 1337
MOST_WORKERS = 60  # Windows can't wait for more than 61 processes
EXAMPLES = """examples:
  python prepro_tinystories.py                        in data/TinyStories_*.bin
  python prepro_tinystories.py --workers 2            where memory is short
  python prepro_tinystories.py --name /big/stories    all of it in /big
"""


DAMAGE = tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError


def unpack(archive, folder):
    """Unpack a .tar.gz to folder, which appears only once it is whole. Raises UserError."""
    part = Path(f"{folder}.part")
    shutil.rmtree(part, ignore_errors=True)
    print(f"unpacking {Path(archive).name}", flush=True)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(part, filter="data")
            while tar.fileobj.read(CHUNK):
                pass  # to the end, where gzip's checksum stands
        os.replace(part, folder)
    except DAMAGE as error:
        hint = "delete it to download it again"
        raise UserError(f"{archive}: can't be unpacked ({error}); {hint}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def tokenize_shard(index, path):
    """Return the tokens of a shard's stories as an array of uint16. Raises UserError."""
    encoding = gpt2_encoding()
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


def start_worker():
    """Have a worker end by Ctrl-C without a word, which is its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tokenize_shards(paths, workers):
    """
    Yield the tokens of each shard, in order; no more than 2 * workers of them wait in memory.

    Raises UserError.
    """
    # Started anew ("spawn") as everywhere but on Linux, because a fork of a program with threads
    # can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, start_worker) as pool:
        try:
            jobs = (pool.submit(tokenize_shard, *shard) for shard in enumerate(paths))
            pending = deque(itertools.islice(jobs, 2 * workers))
            for _ in bars()(paths, unit="shard", disable=None):
                yield pending.popleft().result()
                pending.extend(itertools.islice(jobs, 1))
        except BrokenProcessPool as error:
            what = "a worker died, perhaps for want of memory"
            raise UserError(f"{what}; try again with fewer --workers") from error
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.kill()  # or we would wait until it has done what it is doing
            raise


def main(argv=None):
    parser = Parser(
        description="Download TinyStories (1.6 GB), and turn it into GPT-2's tokens.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = min(os.cpu_count() or 1, MOST_WORKERS)
    parser.add_argument(
        "--workers",
        type=bounded(int, 1, MOST_WORKERS),
        default=cores,
        metavar="N",
        help="processes that tokenize at the same time (default: one per core, here %(default)s)",
    )
    parser.add_argument(
        "--url", default=URL, help="where to download the archive from (default: %(default)s)"
    )
    add_name_flag(parser, "TinyStories")
    args = parser.parse_args(argv)
    prefix = prefix_of(args.name)
    folder = prefix.with_name(f"{prefix.name}_all_data")
    archive = Path(f"{folder}.tar.gz")
    with writing_to(prefix):
        if not folder.exists():
            if not archive.exists():
                needed("tools.download").download(args.url, archive)
            unpack(archive, folder)
        paths = sorted(folder.glob("*.json"))
        if len(paths) < 2:
            raise UserError(f"{folder}: has {len(paths)} shards, not two or more; delete it")
        # now, so that not every worker downloads the vocabulary
        vocabulary, end_of_text = vocabulary_of(gpt2_encoding())
        shards = tokenize_shards(paths, args.workers)
        splits = {"val": itertools.islice(shards, 1), "train": shards}
        write_splits(prefix, vocabulary, end_of_text, splits)


if __name__ == "__main__":
    run_program(main)
