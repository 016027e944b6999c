"""
Mistakes that are known, each made by an edit of one of the lesson's own functions.

check.py compares a wrong answer with what these produce on the same numbers; hunt.py hides one of
them. Each edit takes the shortest piece that makes the mistake. DON'T READ ON while you solve the
exercises or hunt.
"""

import functools
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import answers
import cases

# "== function", then for each mistake: what is wrong; a piece of that function that stands in it
# once; what it becomes. A leading * marks one of the thirty of hunt.py. Where a name ends with
# "is missing", it is a term of a sum, and grade.py recognises it with a wrong sign or factor, too.
MISTAKES = r"""
== linear_backward

the two are multiplied element by element, not by a matrix product
- return matmul(dout, w)
+ return dout * w.T

the two are multiplied element by element, not by a matrix product
- matmul(dout.T, x, out=dw)
+ dw[:] = dout.T * x.T

it is made of the gradient alone, without what it was multiplied with
- matmul(dout.T, x, out=dw)
+ dw[:] = dout.sum(0)[:, None]

* it is the mean over the rows, not their sum
- db[:] = dout.sum(0)
+ db[:] = dout.mean(0)

the sum is over positions and channels, not over sequences and positions
- db[:] = dout.sum(0)
+ db[:] = dout.reshape(len(db), len(db), -1).sum((1, 2))

the sum is over sequences and channels, not over sequences and positions
- db[:] = dout.sum(0)
+ db[:] = dout.reshape(len(db), len(db), -1).sum((0, 2))

* it is added to what was there, where it should fill it
- matmul(dout.T, x, out=dw)
+ dw += dout.T @ x

== linear_forward

* the bias is subtracted
- matmul(x, w.T) + b
+ matmul(x, w.T) - b

== embedding_forward

* the positions are one off
- wpe[:T]
+ np.roll(wpe, -1, 0)[:T]

== embedding_backward

only the first of a token's places counts
- np.add.at(dwte, tokens, dout)
+ dwte[tokens[::-1, ::-1]] += dout[::-1, ::-1]

* a repeated token counts once
- np.add.at(dwte, tokens, dout)
+ dwte[tokens] += dout

a repeated token counts once, and what was there before is overwritten
- np.add.at(dwte, tokens, dout)
+ dwte[tokens] = dout

tokens and rows are not in the same order: a transpose too many, or too few
- np.add.at(dwte, tokens, dout)
+ np.add.at(dwte, tokens.T.reshape(B, T), dout)

it is the mean over a token's places, where their sum belongs
- np.add.at(dwte, tokens, dout)
+ np.add.at(dwte, tokens, dout / np.bincount(tokens.ravel())[tokens][..., None])

it starts again from 0, where it should add to what is there
- np.add.at(dwte, tokens, dout)
+ dwte[:] = 0; np.add.at(dwte, tokens, dout)

* only the first of the B sequences counts
- dwpe[:T] = dout.sum(0)
+ dwpe[:T] = dout[0]

the rows are cut into (T, B), where they are (B, T)
- dwpe[:T] = dout.sum(0)
+ dwpe[:T] = dout.reshape(T, B, -1).sum(1)

the sum is over all tokens, so that every position gets the same
- dwpe[:T] = dout.sum(0)
+ dwpe[:T] = dout.sum((0, 1))

the tokens' rows get the gradient, not the positions' rows
- dwpe[:T] = dout.sum(0)
+ d = np.zeros((99, dwpe.shape[1])); np.add.at(d, tokens, dout); dwpe[:T] = d[:T]

== normalize

* the root of the variance is left out
- 1 / np.sqrt(np
+ 1 / (np

* the variance is the unbiased one, of C - 1
- np.square(centered).mean(-1, keepdims=True)
+ np.square(centered).sum(-1, keepdims=True) / (x.shape[-1] - 1)

== normalize_backward

* the term through the mean is missing
- - dnorm.mean(-1, keepdims=True)
+

* the term through the variance is missing
- - norm * along_norm
+

the terms through the mean and through the variance are left out
- - dnorm.mean(-1, keepdims=True) - norm * along_norm
+

the term through the mean is missing, and the factor rstd
- - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rstd
+ - norm * along_norm)

the term through the variance is missing, and the factor rstd
- - norm * along_norm) * rstd
+ )

the terms through the mean and through the variance are left out, and the factor rstd
- - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rstd
+ )

* the factor rstd is left out
- along_norm) * rstd
+ along_norm)

in the term through the variance, the factor rstd comes twice: norm has one already
- - norm * along_norm
+ - norm * along_norm * rstd

in the term through the mean, the factor rstd is left out
- - dnorm.mean(-1, keepdims=True)
+ - dnorm.mean(-1, keepdims=True) / rstd

in the term through the variance, the factor rstd is left out
- - norm * along_norm
+ - norm * along_norm / rstd

eps is left out: rstd has it
- along_norm) * rstd
+ along_norm) / np.sqrt(1 / rstd**2 - LAYERNORM_EPS)

eps is added once more: rstd has it already
- along_norm) * rstd
+ along_norm) / np.sqrt(1 / rstd**2 + LAYERNORM_EPS)

the means are over the rows, not over the channels
- along_norm = (dnorm * norm).mean(-1, keepdims=True)
+ along_norm = (dnorm * norm).mean(0, keepdims=True)
- dnorm.mean(-1, keepdims=True)
+ dnorm.mean(0, keepdims=True)

keepdims=True is forgotten, so that what belongs to a row is taken from a column
- dnorm.mean(-1, keepdims=True)
+ dnorm.mean(-1)
- (dnorm * norm).mean(-1, keepdims=True)
+ (dnorm * norm).mean(-1)

the means are over the whole array, not over each row
- dnorm.mean(-1, keepdims=True)
+ dnorm.mean()
- (dnorm * norm).mean(-1, keepdims=True)
+ (dnorm * norm).mean()

the means are sums: a factor of 1/C is missing in two terms
- (dnorm * norm).mean(-1, keepdims=True)
+ (dnorm * norm).sum(-1, keepdims=True)
- dnorm.mean(-1, keepdims=True)
+ dnorm.sum(-1, keepdims=True)

== layernorm_backward

the means have dout where dnorm (dout * w) belongs
- (dout * w, norm, rstd)
+ (dout, norm, rstd) - dout * (1 - w) * rstd

w is multiplied with at the end, where it belongs at the start: the means are of dout * w
- (dout * w, norm, rstd)
+ (dout, norm, rstd) * w

the factor w is in it, which belongs to dx
- (dout * norm).sum(0)
+ (dout * w * norm).sum(0)

the channels of a row are mixed: a matrix product, where each channel goes by itself
- (dout * norm).sum(0)
+ np.einsum("nc,nd->d", dout, norm)

the factor rstd is in it, which belongs to dx
- (dout * norm).sum(0)
+ (dout * rstd * norm).sum(0)

x less its mean is used, without rstd, where norm belongs
- (dout * norm).sum(0)
+ (dout / rstd * norm).sum(0)

the factor w is in it, which belongs to dx
- db[:] = dout.sum(0)
+ db[:] = (dout * w).sum(0)

the factor norm is in it, which belongs to dw
- db[:] = dout.sum(0)
+ db[:] = (dout * norm).sum(0)

== softmax

* the sum is over the wrong axis
- weights / weights.sum(-1, keepdims=True)
+ weights / weights.sum(-2, keepdims=True)

== attend

* 1/sqrt(HS) is left out
- .mT / math.sqrt(HS)
+ .mT

* a token sees the next one
- -np.inf, q.dtype), 1)
+ -np.inf, q.dtype), 2)

* the mask is -1, not -infinity
- -np.inf, q.dtype), 1)
+ -1, q.dtype), 1)

== attend_backward

the mask hides the token itself, too
- dpreatt /= math
+ dpreatt = np.tril(dpreatt, -1) / math

* the sum over the row is missing
- - (datt * att).sum(-1, keepdims=True)
+

this is the gradient of the logarithm of the softmax
- dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
+ dpreatt = datt - att * datt.sum(-1, keepdims=True)

only the diagonal of the softmax's Jacobian is used: the row's sum is left out
- (datt * att).sum(-1, keepdims=True)
+ datt * att

a plain mean of the gradient, where the weighted one belongs
- (datt * att).sum(-1, keepdims=True)
+ datt.mean(-1, keepdims=True)

keepdims=True is forgotten, so that what belongs to a row is taken from a column
- (datt * att).sum(-1, keepdims=True)
+ np.expand_dims((datt * att).sum(-1), -2)

the softmax's sum is over all rows, not over one
- (datt * att).sum(-1, keepdims=True)
+ (datt * att).sum((-1, -2), keepdims=True)

the softmax is left out: the gradient of the weights is taken for that of the scores
- dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
+ dpreatt = datt.copy()

* sqrt(HS) is multiplied with, not divided by
- dpreatt /= math.sqrt(q.shape[-1])
+ dpreatt *= math.sqrt(q.shape[-1])

sqrt(C) is used where sqrt(HS) belongs
- math.sqrt(q.shape[-1])
+ math.sqrt(len(q) * q.shape[-1])

it is divided by HS, not by sqrt(HS): the root is left out, or taken twice
- math.sqrt(q.shape[-1])
+ q.shape[-1]

the scores are used, where the weights belong
- dv = att.mT @
+ dv = (q @ k.mT).mT @

the gradient of the weights is transposed, which it should not be
- datt = dout @ v.mT
+ datt = v @ dout.mT

the gradient of the scores is used, where the weights belong
- @ q, dv
+ @ q, dpreatt.mT @ dout

== attend_in_tiles_backward

* dq and dk are swapped
- return dq, dk, dv
+ return dk, dq, dv

== attention_backward

the mask hides the token itself, too
- *atts)
+ *(np.tril(att, -1) for att in atts))

heads and channels are mixed up: a reshape without the transpose that belongs to it
- dqkv.transpose(2, 3, 0, 1, 4)
+ dqkv

heads and channels are mixed up: the channels of different heads alternate
- dqkv.transpose(2, 3, 0, 1, 4)
+ dqkv.transpose(2, 3, 0, 4, 1)

the rows have q, k and v for each head, where they should have all heads for each of q, k and v
- dqkv.transpose(2, 3, 0, 1, 4)
+ dqkv.transpose(2, 3, 1, 0, 4)

dout is cut into heads by a reshape without the transpose that belongs to it
- .reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
+ .reshape(NH, B, T, HS)

dout is cut into (B, NH, ...), where the cache has (NH, B, ...)
- .reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
+ .reshape(B, T, NH, HS).transpose(0, 2, 1, 3)

dout is cut into heads as if the channels of different heads alternated
- .reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
+ .reshape(B, T, HS, NH).transpose(3, 0, 1, 2)

== gelu_backward

* 1 + tanh^2, where 1 - tanh^2 belongs
- (1 - tanh * tanh)
+ (1 + tanh * tanh)

the tanh is of x itself, and so is its slope
- tanh = gelu_tanh(x)
+ tanh = np.tanh(x)
- * (GELU_SCALE * (1 + 3 * GELU_CUBIC * (x * x)))
+

in the tanh, the cube is left out
- tanh = gelu_tanh(x)
+ tanh = np.tanh(GELU_SCALE * x)

the factor 1 - tanh^2 is left out
- (1 - tanh * tanh) *
+ 1 *

* the 3 of the cube's slope is left out
- 3 * GELU_CUBIC
+ GELU_CUBIC

in the inner derivative, sqrt(2 / pi) should be a factor of both terms
- (GELU_SCALE * (1 + 3 * GELU_CUBIC * (x * x)))
+ (GELU_SCALE + 3 * GELU_CUBIC * (x * x))

* the term through tanh is missing
- + 0.5 * x * slope
+

this is the slope of the exact GELU, with erf, not of the approximation
- (0.5 * (1 + tanh)
+ (0.5 * (1 + np.vectorize(math.erf)(x / 2**0.5))
- 0.5 * x * slope
+ x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)

this is the slope of the approximation with a sigmoid, not of the one with tanh
- return dout * (0.5 * (1 + tanh) + 0.5 * x * slope)
+ s = 1 / (1 + np.exp(-1.702 * x)); return dout * (s + 1.702 * x * s * (1 - s))

== head_backward

away from the target it is 0, where the probabilities belong
- dlogits[np.arange(N), targets] -= 1
+ dlogits *= np.eye(len(wte))[targets]; dlogits[np.arange(N), targets] -= 1

* the 1 at the target is missing
- dlogits[np.arange(N), targets] -= 1
+ pass

1 is subtracted from every element of the row, not only at the target
- dlogits[np.arange(N), targets] -= 1
+ dlogits -= 1

* 1 is subtracted in every row at the targets of all rows: [:, targets] for [rows, targets]
- dlogits[np.arange(N), targets] -= 1
+ dlogits[:, targets] -= 1

1 is subtracted from whole rows: [targets] for [rows, targets]
- dlogits[np.arange(N), targets] -= 1
+ dlogits[targets] -= 1

1 is subtracted only in the last row
- dlogits[np.arange(N), targets] -= 1
+ dlogits[-1, targets[-1]] -= 1

the target's element has the wrong sign
- dlogits[np.arange(N), targets] -= 1
+ dlogits[np.arange(N), targets] = 1 - dlogits[np.arange(N), targets]

the logarithm of the probabilities is used, where the probabilities belong
- dlogits = probs
+ dlogits = np.log(probs)

the target's probability is set to -1, where 1 should be subtracted
- dlogits[np.arange(N), targets] -= 1
+ dlogits[np.arange(N), targets] = -1

the target's probability is set to 0, where 1 should be subtracted
- dlogits[np.arange(N), targets] -= 1
+ dlogits[np.arange(N), targets] = 0

this is the gradient with respect to the probabilities: the softmax is left out
- dlogits[np.arange(N), targets] -= 1
+ dlogits[:] = np.eye(len(wte))[targets] / -probs

the gradient through the softmax is taken twice
- dlogits[np.arange(N), targets] -= 1
+ d = probs - np.eye(len(wte))[targets]; dlogits *= d - (d * probs).sum(-1, keepdims=True)

== block_backward

the residual goes through the layernorm (post-norm), where it should go past it
- dmid = dout + layernorm_backward(dln2,
+ dmid = layernorm_backward(dout + dln2,

the residuals go through the layernorms (post-norm), where they should go past them
- dmid = dout + layernorm_backward(dln2,
+ dmid = layernorm_backward(dout + dln2,
- return dmid + layernorm_backward(dln1,
+ return layernorm_backward(dmid + dln1,

* the second residual's way past the network is left out (out = mid + fcproj)
- dmid = dout + layernorm_backward
+ dmid = layernorm_backward

the first residual's way past attention is left out (mid = x + attproj)
- return dmid + layernorm_backward
+ return layernorm_backward

both residuals' ways past are left out (mid = x + attproj, out = mid + fcproj)
- dmid = dout + layernorm_backward
+ dmid = layernorm_backward
- return dmid + layernorm_backward
+ return layernorm_backward

* the first residual gets dout, where dmid belongs
- return dmid + layernorm_backward
+ return dout + layernorm_backward

the way through the network is left out, past the residual
- dmid = dout + layernorm_backward(dln2, ln2_cache, g["ln2w"], g["ln2b"])
+ dmid = dout + 0 * layernorm_backward(dln2, ln2_cache, g["ln2w"], g["ln2b"])

the two layernorms' caches are swapped
- layernorm_backward(dln2, ln2_cache
+ layernorm_backward(dln2, ln1_cache
- layernorm_backward(dln1, ln1_cache
+ layernorm_backward(dln1, ln2_cache

gelu_backward is left out
- gelu_backward(dgelu, gelu_cache)
+ dgelu

== gpt2_backward

it gets what the head gives, not what comes from the first block
- dx = head_backward
+ dx = from_head = head_backward
- embedding_backward(dx,
+ embedding_backward(from_head,

* the embedding's gradient is left out
- embedding_backward(dx, embedding_cache, grads["wte"],
+ embedding_backward(dx, embedding_cache, np.empty_like(grads["wte"]),

the head's gradient is left out, or overwritten by the embedding's
- embedding_backward(dx, embedding_cache, grads["wte"],
+ grads["wte"][:] = 0; embedding_backward(dx, embedding_cache, grads["wte"],

* the blocks are taken in the order of the forward pass
- reversed(range(len(block_caches)))
+ range(len(block_caches))

the last layernorm's backward pass is left out of dx
- dx = layernorm_backward(dx, lnf_cache,
+ layernorm_backward(dx, lnf_cache,

dloss is left out
- head_backward(dloss,
+ head_backward(1.0,

every block gets the head's gradient, not that of the block after it
- dx = block_backward(dx, block_caches[l]
+ block_backward(dx, block_caches[l]

every block has the gradients of one of them
- block_caches[l], g)
+ block_caches[-1], g)

== adamw

eps is left out, or a constant stands for it
- + eps)
+ )

it is the larger one of before and after (AMSGrad), where it should be the sum
- v *= beta2
+ before = v.copy(); v *= beta2
- v += g * g
+ v += g * g; np.maximum(v, before, out=v)

m and v are updated after the step that needs them
- m_hat = m / ((1 - beta1**step) / (1 - beta1))
+ m_hat = (m - g) / beta1 / ((1 - beta1**step) / (1 - beta1))
- v_hat = v / ((1 - beta2**step) / (1 - beta2))
+ v_hat = (v - g * g) / beta2 / ((1 - beta2**step) / (1 - beta2))

* m is not divided by the sum of its weights
- m / ((1 - beta1**step) / (1 - beta1))
+ m + 0

m and v are not divided by the sums of their weights
- m / ((1 - beta1**step) / (1 - beta1))
+ m + 0
- v / ((1 - beta2**step) / (1 - beta2))
+ v + 0

the sum of the weights of m is that of endlessly many steps, 1 / (1 - beta1)
- m / ((1 - beta1**step) / (1 - beta1))
+ m * (1 - beta1)

the sum of the weights of v is that of endlessly many steps, 1 / (1 - beta2)
- v / ((1 - beta2**step) / (1 - beta2))
+ v * (1 - beta2)

the sums of the weights are those of endlessly many steps, 1 / (1 - beta)
- m / ((1 - beta1**step) / (1 - beta1))
+ m * (1 - beta1)
- v / ((1 - beta2**step) / (1 - beta2))
+ v * (1 - beta2)

m is divided by 1 - beta1**step, right only where g has the factor 1 - beta1
- ((1 - beta1**step) / (1 - beta1))
+ (1 - beta1**step)

m and v are divided by 1 - beta**step, right only where g has the factor 1 - beta
- ((1 - beta1**step) / (1 - beta1))
+ (1 - beta1**step)
- ((1 - beta2**step) / (1 - beta2))
+ (1 - beta2**step)

the step is one too large
- beta1**step
+ beta1 ** (step + 1)
- beta2**step
+ beta2 ** (step + 1)

the step is one too large where m is divided by the sum of its weights
- beta1**step
+ beta1 ** (step + 1)

v is divided by the sum of its weights outside the root
- np.sqrt(v_hat)
+ np.sqrt(v) / ((1 - beta2**step) / (1 - beta2))

eps is inside the root
- (np.sqrt(v_hat) + eps)
+ np.sqrt(v_hat + eps)

eps is added before v is divided by the sum of its weights
- (np.sqrt(v_hat) + eps)
+ ((np.sqrt(v) + eps) / math.sqrt((1 - beta2**step) / (1 - beta2)))

the decay goes through m and v (L2), where it should go past them
- m *= beta1
+ g = g + weight_decay * p; m *= beta1
- p *= 1 - lr * weight_decay
+ pass

there is no decay
- p *= 1 - lr * weight_decay
+ pass

the decay has the wrong sign
- 1 - lr *
+ 1 + lr *

the decay comes after the step, of the parameters that it left
- p *= 1 - lr * weight_decay
+ pass
- (np.sqrt(v_hat) + eps)
+ (np.sqrt(v_hat) + eps); p *= 1 - lr * weight_decay

the decay is divided by sqrt(v), where it should go past it
- p *= 1 - lr * weight_decay
+ m_hat += weight_decay * p

m has the factor 1 - beta1 of the paper, where it should be the sum without it
- m += g
+ m += (1 - beta1) * g

m and v have the factors 1 - beta of the paper, where they should be the sums without them
- m += g
+ m += (1 - beta1) * g
- v += g * g
+ v += (1 - beta2) * (g * g)
- m / ((1 - beta1**step) / (1 - beta1))
+ m / (1 - beta1**step)
- v / ((1 - beta2**step) / (1 - beta2))
+ v / (1 - beta2**step)

v has the factor 1 - beta2 of the paper, where it should be the sum without it
- v += g * g
+ v += (1 - beta2) * (g * g)

* beta1 is used for v
- v *= beta2
+ v *= beta1

the betas are swapped
- m *= beta1
+ m *= beta2
- v *= beta2
+ v *= beta1

the gradient is not squared
- g * g
+ g

the parameters move with the gradient, where they should move against it
- p -= lr
+ p += lr

m and v are swapped
- m_hat = m / (
+ m_hat = v / (
- v_hat = v / (
+ v_hat = abs(m) / (

the mean is stored, where the sum should stay
- m_hat = m / ((1 - beta1**step) / (1 - beta1))
+ m /= (1 - beta1**step) / (1 - beta1); m_hat = m
- v_hat = v / ((1 - beta2**step) / (1 - beta2))
+ v /= (1 - beta2**step) / (1 - beta2); v_hat = v

== adamw_update

* it decays, which only the tensors in DECAYING should
- if name in DECAYING else 0.0
+ if True else 0.0

== pairs

a word counts once, however often the text has it
- + count
+ + 1

a pair has the count of the last word that it stands in: the counts are not added up
- counts.get(pair, 0) + count
+ count

pairs that overlap count once, where "aaa" has "aa" twice
- for pair in zip(word[:-1], word[1:], strict=True):
+ last = None
        for pair in zip(word[:-1], word[1:], strict=True):
            last = None if pair == last else pair
            if last is None:
                continue

pairs of the end of one word and the beginning of the next count, too
- for word, count in zip(words, times, strict=True):
+ text = [token for word, n in zip(words, times) for token in word * n]
    for word, count in [(text, 1)]:

pairs across words count, too, and a word counts once
- for word, count in zip(words, times, strict=True):
+ for word, count in [(sum(words, []), 1)]:

a pair counts once in a word, though it stands there several times
- in zip(word[:-1], word[1:], strict=True)
+ in set(zip(word[:-1], word[1:]))

(a, b) and (b, a) count as one pair
- counts[pair] = counts.get(pair, 0) + count
+ pair = tuple(sorted(pair)); counts[pair] = counts.get(pair, 0) + count

pairs begin at every second token, where they should at every one
- zip(word[:-1], word[1:], strict=True)
+ zip(word[::2], word[1::2])

the last pair of each word is left out
- zip(word[:-1], word[1:], strict=True)
+ zip(word[:-2], word[1:-1])

the first pair of each word is left out
- zip(word[:-1], word[1:], strict=True)
+ zip(word[1:-1], word[2:])

of equal counts, the pair that was met first is taken, not that of the smaller ids
- min(counts, key=lambda pair: (-counts[pair], pair))
+ max(counts, key=counts.get)

of equal counts, the pair that was met last is taken, not that of the smaller ids
- min(counts, key=lambda pair: (-counts[pair], pair))
+ max(reversed(counts), key=counts.get)

of equal counts, the pair of the larger ids is taken, not that of the smaller ones
- min(counts, key=lambda pair: (-counts[pair], pair))
+ max(counts, key=lambda pair: (counts[pair], pair))

of equal counts, the second ids decide before the first ones
- (-counts[pair], pair)
+ (-counts[pair], pair[::-1])

the pair that occurs least is taken
- (-counts[pair], pair)
+ (counts[pair], pair)

== encode

nothing is merged: the bytes come back as they were
- word = merged
+ pass

pairs are merged from right to left, where they should be from left to right
- for token in word:
+ for token in word[::-1]:
- tuple(merged[-2:]) == pair
+ tuple(merged[:-3:-1]) == pair
- word = merged
+ word = merged[::-1]

only the first place of each pair is merged
- tuple(merged[-2:]) == pair
+ tuple(merged[-2:]) == pair and new not in merged

the second token of a pair stays, behind the new one
- merged[-2:] = [new]
+ merged[-2] = new

the token behind a new one is left out of the next pair
- merged = []
+ merged, free = [], 0
- tuple(merged[-2:]) == pair
+ tuple(merged[-2:]) == pair and len(merged) > free + 1
- merged[-2:] = [new]
+ merged[-2:] = [new]; free = len(merged) + 1

the last token is lost where it is not merged
- word = merged
+ word = merged if merged[-1:] == [new] else merged[:-1]

the merges are repeated in reverse order
- in enumerate(merges, 256)
+ in reversed([*enumerate(merges, 256)])

the pair that stands first in the word is merged first, not that of the oldest merge
- for new, pair in enumerate(merges, 256):
+ for _ in list(word):
- merged = []
+ merged, done = [], False
- tuple(merged[-2:]) == pair
+ not done and tuple(merged[-2:]) in merges
- merged[-2:] = [new]
+ merged[-2:], done = [256 + merges.index(tuple(merged[-2:]))], True

the pair that the word has most often is merged first, not that of the oldest merge
- for new, pair in enumerate(merges, 256):
+ for _ in list(word):
        known = [pair for pair in zip(word, word[1:]) if pair in merges]
        pair = max(known, key=known.count, default=None)
        new = 256 + merges.index(pair) if pair else None

the longest token that fits is taken, from the left, where merges should be repeated
- for new, pair in enumerate(merges, 256):
+ spelled, found = [[byte] for byte in range(256)], []
    for a, b in merges:
        spelled.append(spelled[a] + spelled[b])
    while word:
        fits = [i for i, each in enumerate(spelled) if word[: len(each)] == each]
        found.append(max(fits, key=lambda i: len(spelled[i])))
        word = word[len(spelled[found[-1]]) :]
    return found
    for new, pair in enumerate(merges, 256):

only bytes are merged, never a token that a merge has made
- tuple(merged[-2:]) == pair
+ tuple(merged[-2:]) == pair and max(pair) < 256

(b, a) is merged as if it were (a, b)
- tuple(merged[-2:]) == pair
+ sorted(merged[-2:]) == sorted(pair)

the ids of new tokens are one too large
- enumerate(merges, 256)
+ enumerate(merges, 257)
"""


class Mistake(NamedTuple):
    name: str
    function: str
    edits: list  # of (old, new)
    hunted: bool


def read_mistakes(text):
    """Return the mistakes that a text like MISTAKES has."""
    found = []
    for section in re.split(r"^== ", text, flags=re.M)[1:]:
        function, *entries = re.split(r"\n{2,}", section.strip("\n"))
        for entry in entries:
            name, *edits = re.split(r"\n[-+] ?", entry)
            pairs = list(zip(edits[::2], edits[1::2], strict=True))
            found.append(Mistake(name.removeprefix("* "), function, pairs, name.startswith("* ")))
    return found


KNOWN = read_mistakes(MISTAKES)
HUNTS = [mistake for mistake in KNOWN if mistake.hunted]


def source_of(mistake):
    """Return the mistaken function's source; AssertionError unless each edit applies once."""
    function = getattr(cases.gpt2, mistake.function, None) or getattr(answers, mistake.function)
    source = inspect.getsource(function)
    for old, new in mistake.edits:
        assert source.count(old) == 1, f"{mistake.name}: {source.count(old)} times: {old}"
        source = source.replace(old, new)
    return source


@functools.cache
def lesson_code():
    path = Path(cases.gpt2.__file__)
    return compile(path.read_text(encoding="utf-8"), str(path), "exec")


def lesson_with(mistake):
    """Return the lesson's functions, by their names in the exercises, one of them mistaken."""
    names = {"__name__": "lesson", "__file__": cases.gpt2.__file__}
    exec(lesson_code(), names)  # the whole of it, so that its functions call the mistaken one
    names |= {"THREADS": cases.gpt2.THREADS, "POOL": cases.gpt2.POOL}
    exec(source_of(mistake), names)
    return cases.lesson_functions(SimpleNamespace(**names))


# Which of the lesson's functions an exercise's mistakes are made in, and in which pieces of it
WHERE = {
    "product": ("linear_backward", "matmul"),
    "bias": ("linear_backward|embedding_backward", r"dout\.sum"),
    "softmax": ("attend_backward", r"\(datt"),
    "crossentropy": ("head_backward", ""),
    "gelu": ("gelu_backward", ""),
    "layernorm": ("layernorm_backward|normalize_backward", ""),
    "embedding": ("embedding_backward", ""),
    "attention_head": ("attend_backward", ""),
    "attention": ("attend_backward|attention_backward", ""),
    "block": ("block_backward", ""),
    "tied": ("gpt2_backward", ""),
    "adamw": ("adamw|adamw_update", ""),
    "accumulate": ("gpt2_backward", "embedding"),
    "flash": ("attend_backward", ""),
    "pieces": ("head_backward", ""),
    "lora": ("linear_backward", "matmul"),
    "pairs": ("pairs", ""),
    "encode": ("encode", ""),
    "rms": ("", ""),  # by rule alone
    "rope": ("", ""),
    "grouped": ("attend_backward", ""),
}


def known_mistakes(exercise):
    """Yield the name of each known mistake of an exercise, and functions that make it."""
    function, piece = WHERE[exercise]
    for mistake in KNOWN:
        if re.fullmatch(function, mistake.function) and re.search(piece, mistake.edits[0][0]):
            yield mistake.name, lesson_with(mistake)
