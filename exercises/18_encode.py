"""
Exercise 18: from a word to its tokens, by merges that are given (doc/bpe.md).

A token below 256 is a byte. The first merge (a, b) has made token 256 of a and b, the second one
token 257, and so on. All merges are repeated in the order in which training made them, each from
left to right wherever its pair stands.

    python exercises/check.py encode
"""


def encode(word, merges):
    """word, a list of bytes; merges, a list of pairs (a, b) -> the word's tokens, a list."""
    raise NotImplementedError  # your lines take the place of this one
