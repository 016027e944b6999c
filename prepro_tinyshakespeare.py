"""
The tinyshakespeare dataset in GPT-2's tokens: data/tiny_shakespeare_train.bin and _val.bin.

    python prepro_tinyshakespeare.py

downloads the text (1.1 MB) to data/tiny_shakespeare.txt unless it is there. A paragraph, which is
what one character says, is a document: an end-of-text token stands before each. The first 32,768
tokens are for validation.
"""

import prepro
from common import Parser, UserError, run

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
VAL_TOKENS = 32768  # llm.c's


def tokenize(text, encoding):
    """The tokens of text, end-of-text before each paragraph, the blank line behind it kept."""
    *paragraphs, last = text.split("\n\n")
    tokens = []
    for paragraph in (*(p + "\n\n" for p in paragraphs), last):
        tokens.append(encoding.eot_token)
        tokens.extend(encoding.encode_ordinary(paragraph))
    return tokens


def main(argv=None):
    parser = Parser(description="Download and tokenize tinyshakespeare.")
    parser.parse_args(argv)
    path = prepro.DATA / "tiny_shakespeare.txt"
    if not path.exists():
        prepro.download(URL, path, sha256=SHA256)
    text = "".join(prepro.text_pieces(path, "delete it to download it again"))
    encoding = prepro.gpt2_encoding()
    tokens = tokenize(text, encoding)
    if len(tokens) <= VAL_TOKENS:
        have = f"has {len(tokens):,} tokens, and validation alone takes {VAL_TOKENS:,}"
        raise UserError(f"{path}: {have}; delete it to download the whole text")
    for split, part in ("val", tokens[:VAL_TOKENS]), ("train", tokens[VAL_TOKENS:]):
        out = prepro.DATA / f"tiny_shakespeare_{split}.bin"
        prepro.write_tokens(out, encoding.n_vocab, [part])


if __name__ == "__main__":
    run(main)
