"""
Exercise 17: which pair of tokens is merged next (doc/bpe.md).

Byte pair encoding begins with a token for each byte, and again and again makes a new token of the
two that stand side by side most often. To find them it counts pairs: within words only, and each
place counts, though two of them overlap. Of equal ones the pair of the smaller ids is taken.

    python exercises/check.py pairs
"""


def best_pair(words, times):
    """
    Return counts, a dict: how often each pair (a, b) occurs in the text; and the pair to merge.

    words: the text's different words, each a list of tokens; times: how often each word occurs.
    """
    raise NotImplementedError  # your lines take the place of this one
