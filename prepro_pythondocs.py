"""
The dataset that needs no download: the language reference that ships inside Python for help().

    python prepro_pythondocs.py

writes data/python_docs_train.bin, data/python_docs_val.bin and data/python_docs_tokenizer.bin. Its
tokens are bytes: 256 of them, and end-of-text, which stands before each topic.
"""

import prepro
from common import Parser, UserError, run

END_OF_TEXT = 256
VAL_EVERY = 10  # one topic in so many is for validation


def load_topics():
    """help()'s topics, name -> text. Raises UserError."""
    try:
        from pydoc_data.topics import topics  # some distributions of Python leave it out
    except ImportError as error:
        hint = "use a Python from python.org, or tokenize a text of your own with prepro.py"
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
    parser = Parser(description="Make a dataset of Python's documentation.")
    parser.parse_args(argv)
    train, val = split_topics(load_topics())
    vocabulary = [bytes([i]) for i in range(END_OF_TEXT)] + [prepro.END_OF_TEXT.encode()]
    prefix = prepro.DATA / "python_docs"
    for split, texts in ("val", val), ("train", train):
        chunks = ([END_OF_TEXT, *text.encode()] for text in texts)
        prepro.write_tokens(f"{prefix}_{split}.bin", len(vocabulary), chunks)
    prepro.write_tokenizer(f"{prefix}_tokenizer.bin", vocabulary, END_OF_TEXT)


if __name__ == "__main__":
    run(main)
