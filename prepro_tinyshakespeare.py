"""
The tinyshakespeare dataset in GPT-2's tokens: data/tiny_shakespeare_train.bin and _val.bin.

    python prepro_tinyshakespeare.py

downloads the text (1.1 MB) to data/tiny_shakespeare.txt unless it is there. A paragraph, which is
what one character says, is a document: an end-of-text token stands before each. The first 32,768
tokens are for validation.
"""

import argparse

from tools.console import Parser, UserError, run_program
from tools.encoding import gpt2_encoding, needed, text_pieces, vocabulary_of
from tools.token_files import add_name_flag, prefix_of, write_splits, writing_to

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
VAL_TOKENS = 32768  # llm.c's
EXAMPLES = """examples:
  python prepro_tinyshakespeare.py                  in data/tiny_shakespeare_*
  python prepro_tinyshakespeare.py --name ../it     in ../it_train.bin, ...
"""


def tokenize(text, encoding):
    """Return the tokens of text: for each paragraph end-of-text, itself, and its blank line."""
    *paragraphs, last = text.split("\n\n")
    tokens = []
    for paragraph in (*(p + "\n\n" for p in paragraphs), last):
        tokens.append(encoding.eot_token)
        tokens.extend(encoding.encode_ordinary(paragraph))
    return tokens


def main(argv=None):
    parser = Parser(
        description="Download tinyshakespeare, and turn it into GPT-2's tokens.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_name_flag(parser, "tiny_shakespeare")
    prefix = prefix_of(parser.parse_args(argv).name)
    path = prefix.with_name(f"{prefix.name}.txt")
    if not path.exists():
        with writing_to(prefix):
            needed("tools.download").download(URL, path, sha256=SHA256)
    text = "".join(text_pieces(path, "delete it to download it again"))
    encoding = gpt2_encoding()
    tokens = tokenize(text, encoding)
    if len(tokens) <= VAL_TOKENS:
        have = f"has {len(tokens):,} tokens, and validation alone takes {VAL_TOKENS:,}"
        raise UserError(f"{path}: {have}; delete it to download the whole text")
    splits = {"val": [tokens[:VAL_TOKENS]], "train": [tokens[VAL_TOKENS:]]}
    with writing_to(prefix):
        write_splits(prefix, *vocabulary_of(encoding), splits)


if __name__ == "__main__":
    run_program(main)
