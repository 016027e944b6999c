"""
The dataset that needs no download: the language reference that ships inside Python for help().

    python prepro_pythondocs.py

writes data/python_docs_train.bin, data/python_docs_val.bin and data/python_docs_tokenizer.bin. Its
tokens are bytes: 256 of them, and end-of-text, which stands before each topic.
"""

import argparse

from tools.console import Parser, UserError, run_program
from tools.encoding import byte_vocabulary
from tools.token_files import add_name_flag, prefix_of, write_splits, writing_to

VAL_EVERY = 10  # one topic in so many is for validation
EXAMPLES = """examples:
  python prepro_pythondocs.py                     in data/python_docs_*.bin
  python prepro_pythondocs.py --name ../docs      in ../docs_train.bin, ...
"""


def load_topics():
    """help()'s topics, name -> text. Raises UserError."""
    try:
        from pydoc_data.topics import topics  # some distributions of Python leave it out
    except ImportError as error:
        hint = "use a Python from python.org, or tokenize a text of your own with prepro_text.py"
        raise UserError(f"this Python comes without its documentation ({error}); {hint}") from error
    return topics


def paragraphs(text):
    """Each paragraph of a text, and the same in plain words, without indentation and line ends."""
    return [(paragraph, " ".join(paragraph.split())) for paragraph in text.split("\n\n")]


def split_topics(topics):
    """
    topics, name -> text, to two lists of texts, for training and for validation.

    A third of the reference is there twice (the topic "if" is part of "compound", say). What stands
    in a topic for validation is therefore left out of those for training.
    """
    texts = [topics[name] for name in sorted(topics)]
    val = texts[::VAL_EVERY]
    held_out = {words for text in val for _, words in paragraphs(text)}
    train = [
        "\n\n".join(paragraph for paragraph, words in paragraphs(text) if words not in held_out)
        for i, text in enumerate(texts)
        if i % VAL_EVERY
    ]
    return [text for text in train if text], val


def main(argv=None):
    parser = Parser(
        description="Make a dataset of Python's documentation, in bytes; it needs no download.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_name_flag(parser, "python_docs")
    prefix = prefix_of(parser.parse_args(argv).name)
    train, val = split_topics(load_topics())
    vocabulary, end_of_text = byte_vocabulary()

    def tokens(texts):
        for text in texts:
            yield [end_of_text, *text.encode()]

    with writing_to(prefix):
        write_splits(prefix, vocabulary, end_of_text, {"val": tokens(val), "train": tokens(train)})


if __name__ == "__main__":
    run_program(main)
