"""
Train a vocabulary on texts of one's own, by byte pair encoding as GPT-2's was made:

    vocabulary = train_bpe(encoding.text_pieces("my.txt"), 4096)

BPE starts from single bytes and makes, again and again, one new token of the two that stand side by
side most often (Sennrich et al. 2016, section 3.2), within words only (Radford et al. 2019,
section 2.2). It needs the words only once each, with how often they occur. A merge then visits just
the places where its pair stands, so the time grows with the distinct words, not with the text.
"""

import heapq
from array import array
from collections import Counter

from tools.console import UserError
from tools.encoding import END_OF_TEXT, WORDS
from tools.log import bars

import regex  # comes with tiktoken, and knows \p{L}, which the standard library's re doesn't

BYTES = 256
MAX_VOCAB_SIZE = 2**16  # ids are 16 bits in a token file
MAX_TOKEN = 255  # bytes; a tokenizer file has one byte for the length of a token
NO_TOKEN = -1
MOST_BYTES = 2**22  # of distinct words, which bounds memory and time


def count_words(texts):
    """
    Count the words that GPT-2's pattern cuts texts, an iterable of str, into -> a Counter.

    In Chinese, say, a word is all between two punctuation marks, and nearly each is another. When
    there are more than MOST_BYTES of distinct words, the rarest so far are left out.
    """
    words, counts, size = regex.compile(WORDS), Counter(), 0
    for text in texts:
        counts.update(match[0] for match in words.finditer(text))
        size += len(text)  # no less than its words have
        if size > 2 * MOST_BYTES:
            counts = most_frequent(counts)
            size = sum(map(len, counts))
    return most_frequent(counts)


def most_frequent(counts):
    """Return those of the words that occur most, of MOST_BYTES together at most."""
    kept, size = Counter(), 0
    for word, count in counts.most_common():
        size += len(word.encode())
        if size > MOST_BYTES:
            return kept
        kept[word] = count
    return counts


class Pairs:
    """
    The pairs of tokens that stand side by side in words, which merge() makes fewer.

    The words lie end to end, each a chain of tokens: token[i] begins at byte i, next_[i] and
    last[i] are where the tokens beside it begin. NO_TOKEN stands before and behind each word, and
    inside of a token. counts[pair] is how often a pair occurs in the texts ("aaa" has "aa" twice,
    as in Sennrich's program), places[pair] where its first tokens begin, from left to right; a
    place may be out of date, if its tokens have been merged with others since.
    """

    def __init__(self, words):
        self.token, self.times = array("i", [NO_TOKEN]), array("q", [0])
        for word, count in words.items():
            self.token.extend([*word.encode(), NO_TOKEN])
            self.times.extend([count] * (len(self.token) - len(self.times)))
        self.last = array("q", range(-1, len(self.token) - 1))
        self.next_ = array("q", range(1, len(self.token) + 1))
        self.counts, self.places = Counter(), {}
        for i in range(len(self.token) - 1):
            self.add(i, self.token[i], self.token[i + 1])

    def add(self, i, a, b):
        """Count tokens a and b side by side at i, unless one of them is the end of the word."""
        if NO_TOKEN not in (a, b):
            self.counts[a, b] += self.times[i]
            self.places.setdefault((a, b), array("q")).append(i)

    def merge(self, a, b, new):
        """Make one token, new, of each a and b, from the left -> the pairs that new is part of."""
        token, last, next_, fresh = self.token, self.last, self.next_, set()
        for i in self.places.pop((a, b)):
            j = next_[i]
            if token[i] != a or token[j] != b:  # in "aaa" the second "aa" has lost its first "a"
                continue
            before, behind = last[i], next_[j]
            left, right = token[before], token[behind]
            self.counts[left, a] -= self.times[i]  # of the end of a word the count means nothing
            self.counts[b, right] -= self.times[i]
            token[i], token[j] = new, NO_TOKEN
            next_[i], last[behind] = behind, i
            self.add(before, left, new)
            self.add(i, new, right)
            fresh.update([(left, new), (new, right)])
        del self.counts[a, b]
        return [pair for pair in fresh if self.counts[pair] > 0]


def train_bpe(texts, vocab_size):
    """
    Train a vocabulary of vocab_size tokens, 257 to 65,536 -> a list, the bytes of each token.

    First come the 256 bytes in order, then a token for each merge in order, last the end of text.
    The pair that occurs most is merged first, of equal ones that of the smaller ids. texts: str,
    in pieces that end where GPT-2's pattern cuts, as those of text_pieces do. No pair is merged
    whose token would have more than 255 bytes. Raises UserError, also for too little text.

    tiktoken, which knows no pairs, merges any two tokens whose bytes together are a token's. That
    is the same here: no bytes become a token twice. Merges from the left cut the same bytes in the
    same way in every word where they begin and end with tokens ("aaa" is never "a", "aa"). So one
    pair at a time has these bytes, and once it is merged they are one token wherever they occur.
    """
    if not BYTES < vocab_size <= MAX_VOCAB_SIZE:
        takes = f"it can have {BYTES + 1} to {MAX_VOCAB_SIZE:,}"
        raise UserError(f"a vocabulary of {vocab_size:,} tokens: {takes}; give another size")
    vocabulary = [bytes([byte]) for byte in range(BYTES)]
    pairs = Pairs(count_words(texts))
    # All places of a pair are made by the merge that makes the newer of its tokens. From then on
    # its count only falls, so the heap may hold one that is too high, but none that is too low.
    heap = [(-count, pair) for pair, count in pairs.counts.items()]
    heapq.heapify(heap)
    bar = bars()(total=vocab_size - 1 - BYTES, unit=" merges", disable=None)
    while len(vocabulary) < vocab_size - 1:
        if not heap:
            what = f"a vocabulary of {vocab_size:,} tokens: the text is enough for"
            hint = "ask for no more, or give more text"
            raise UserError(f"{what} {len(vocabulary) + 1:,} only; {hint}")
        count, (a, b) = heapq.heappop(heap)
        now = pairs.counts[a, b]
        if now < -count:
            if now:
                heapq.heappush(heap, (-now, (a, b)))
            continue
        token = vocabulary[a] + vocabulary[b]
        if len(token) <= MAX_TOKEN:
            vocabulary.append(token)
            bar.update()
            for pair in pairs.merge(a, b, len(vocabulary) - 1):
                heapq.heappush(heap, (-pairs.counts[pair], pair))
    bar.close()
    vocabulary.append(END_OF_TEXT.encode())  # of signs and letters, so no word has it
    assert len(set(vocabulary)) == vocab_size  # noqa: S101
    return vocabulary
