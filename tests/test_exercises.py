"""
The exercises' grader: right answers pass, however written; wrong ones don't, and are named.

`pytest -s tests/test_exercises.py` prints the figures of exercises/README.md. Right answers are
made from the lesson's functions, and so are most wrong ones. All of it takes about a minute.
"""

import itertools
import re
import shutil
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import train_gpt2 as gpt2

import numpy as np
import pytest
from helpers import SMALL_STATE, SMALL_WEIGHTS, make_project, run

FOLDER = Path(gpt2.__file__).parent / "exercises"
sys.path.insert(0, str(FOLDER))

import cases  # noqa: E402
import check  # noqa: E402
import grade  # noqa: E402
import hunt  # noqa: E402
import mistakes  # noqa: E402
from hints import HINTS  # noqa: E402

cases.HOME = FOLDER  # not a folder of one's own, made by --start


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(gpt2, "THREADS", 1)  # as grade.py's main does: the arrays are small
    monkeypatch.setattr(gpt2, "POOL", cases.NO_POOL)


EMPTY = "    raise NotImplementedError  # your lines take the place of this one\n"

# The same functions, otherwise written: edits of the lesson's, as in exercises/mistakes.py
OTHERWISE = r"""
== linear_backward

einsum
- matmul(dout.T, x, out=dw)
+ dw[:] = np.einsum("no,nc->oc", dout, x)

a loop over the rows
- matmul(dout.T, x, out=dw)
+ dw[:] = sum(np.outer(a, b) for a, b in zip(dout, x))

sums in float32
- matmul(dout, w)
+ (dout.astype(np.float32) @ w.astype(np.float32)).astype(dout.dtype)

== embedding_backward

a loop over the tokens
- np.add.at(dwte, tokens, dout)
+ for t, d in zip(tokens.ravel(), dout.reshape(-1, dout.shape[-1])): dwte[t] += d

a product with ones
- np.add.at(dwte, tokens, dout)
+ dwte += np.eye(len(dwte), dtype=dout.dtype)[tokens.ravel()].T @ dout.reshape(tokens.size, -1)

zeros first
- dwpe[:T] = dout.sum(0)
+ dwpe.fill(0); dwpe[:T] += np.add.reduce(dout, 0)

== layernorm_backward

one channel at a time
- (dout * norm).sum(0)
+ [sum(dout[:, c] * norm[:, c]) for c in range(len(dw))]

== normalize_backward

sums times 1 / C
- dnorm.mean(-1, keepdims=True)
+ dnorm.sum(-1)[:, None] / dnorm.shape[1]

one row at a time, with the whole Jacobian
- along_norm = (dnorm * norm).mean(-1, keepdims=True)  # (N, 1)
+ for d, n in zip(dnorm, norm): d -= ((1 + np.outer(n, n)) / len(n)) @ d
- return (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rstd
+ return dnorm * rstd

in place
- return (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm) * rstd
+ dx = dnorm - dnorm.mean(-1, keepdims=True); dx -= norm * along_norm; dx *= rstd; return dx

== attend_backward

an einsum
- dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
+ dpreatt = att * datt - att * np.einsum("...ij,...ij->...i", datt, att)[..., None]

the whole Jacobian
- dpreatt = att * (datt - (datt * att).sum(-1, keepdims=True))
+ eye, HS = np.eye(att.shape[-1], dtype=att.dtype), q.shape[-1]
- dpreatt /= math.sqrt(q.shape[-1])
+ dpreatt = (att[..., None] * (eye - att[..., None, :]) @ datt[..., None])[..., 0] / HS**0.5

the factor later
- dpreatt /= math.sqrt(q.shape[-1])
+ HS = q.shape[-1]
- dpreatt @ k
+ (dpreatt @ k) * HS**-0.5
- dpreatt.mT @ q
+ dpreatt.mT @ (q / HS**0.5)

== gelu_backward

1 / cosh^2
- (1 - tanh * tanh)
+ np.cosh(GELU_SCALE * (x + GELU_CUBIC * x**3)) ** -2.0

== head_backward

rows of ones
- dlogits[np.arange(N), targets] -= 1
+ dlogits -= np.eye(len(wte), dtype=wte.dtype)[targets]

== adamw

the sum first
- m *= beta1
+ m[:] = beta1 * m + g
- m += g
+ pass

the weights one by one
- m / ((1 - beta1**step) / (1 - beta1))
+ m / sum(beta1**ago for ago in range(step))
"""

# The mutants of backward passes in tests/test_mutants.py that mistakes.py doesn't have
MUTANTS = r"""
== layernorm_backward

db a mean
- db[:] = dout.sum(0)
+ db[:] = dout.mean(0)

== linear_backward

dx of x
- return matmul(dout, w)
+ return 0.5 * matmul(dout, w)

== gelu_backward

a constant a little off
- tanh = gelu_tanh(x)
+ tanh = np.tanh(GELU_SCALE * (x + 0.04475 * (x * x * x)))

sqrt(2 / pi) rounded
- tanh = gelu_tanh(x)
+ tanh = np.tanh(0.798 * (x + GELU_CUBIC * (x * x * x)))

sign of the second term
- + 0.5 * x * slope
+ - 0.5 * x * slope

== head_backward

no 1/(B*T)
- dlogits *= dloss / N
+ dlogits *= dloss

no 1/(B*T) at the target
- dlogits[np.arange(N), targets] -= 1
+ dlogits[np.arange(N), targets] -= N

1/T for 1/(B*T)
- dlogits *= dloss / N
+ dlogits *= dloss / (N // 3)
"""

# Right answers with numbered lines, and under each what learners might write: what the report
# should have in it (and should not), then lines that take the place of those with the same number
LEARNERS = r"""
== product
1   dw[:] = x.T @ dout
2   return dout @ w.T
| dx: w is not transposed
2   return dout @ w
| dw: right shape, transposed contents
1   dw[:] = dout.T @ x
| dw: left unfilled
1   dw = x.T @ dout
| dw: it is added to what was there
1   dw += x.T @ dout
| dw it should fill
1   return dout @ w.T, x.T @ dout
| dx: the two are multiplied element by element
2   return dout * w
| dx: the two are multiplied in the wrong order
2   return w.T @ dout
| dx: x stands where dout belongs
2   return x @ w.T
| a factor of N is missing
1   dw[:] = (x.T @ dout) / len(x)
| dx: x is a factor too much
2   return (dout @ w.T) * x
| dx: the sums are multiplied
2   return dout.sum(1, keepdims=True) * w.sum(1)
| dw: x is not transposed
1   dw[:] = x @ dout

== bias
1   dp[:] = dout.sum(0)
2   db[:] = dout.sum((0, 1))
3   return dout
| dp: a mean, where a sum belongs
1   dp[:] = dout.mean(0)
| db: it is the mean over the rows
2   db[:] = dout.mean((0, 1))
| bias_backward returns nothing
3   pass
| dp: the sum is over the second axis
1   dp[:] = dout.sum(1)
| db: only the first sequence counts
2   db[:] = dout[0].sum(0)
| a factor of T is missing
2   db[:] = dp.mean(0)
| does not depend on dout
3   return np.ones_like(dout)
| dx: the sum belongs to dp
3   return dout.mean(0) + np.zeros_like(dout)
| db: it is made of an array that is not filled yet; not: alone
1   db[:] = dp.sum(0)
2   dp[:] = dout.sum(0)
| db: left unfilled: nothing is stored in it
2   pass
| db: the sum is over all axes, not only two
2   db[:] = dout.sum()

== softmax
1   return probs * (dout - (dout * probs).sum(1, keepdims=True))
| dx: only the diagonal of the softmax's Jacobian
1   return dout * probs * (1 - probs)
| dx: the sum over the row is missing
1   return dout * probs
| in the sum over the row, a factor of S is missing
1   return probs * (dout - (dout * probs).mean(1, keepdims=True))
| in the row's sum, the sum is over the wrong axis
1   return probs * (dout - (dout * probs).sum(0))
| the sign of the row's sum is wrong
1   return probs * (dout + (dout * probs).sum(1, keepdims=True))
| softmax_backward changes dout
1   dout -= (dout * probs).sum(1, keepdims=True)
1   dout *= probs
1   return dout
| probs stands where the row's sum belongs
1   return probs * (dout - probs)
| the factor dout is left out; and the sign is wrong
1   return probs * (1 - dout)
| the parentheses around dout - the row's sum
1   return dout * probs - (dout * probs).sum(1, keepdims=True)
| the sign of the row's sum is wrong
1   J = [np.diag(p) + np.outer(p, p) for p in probs]
1   return np.stack([j @ d for j, d in zip(J, dout)])
| the exponential of the weights
1   e = np.exp(probs)
1   return e * (dout - (dout * e).sum(1, keepdims=True))
| keepdims=True is forgotten
1   return probs * (dout - (dout * probs).sum(1))
| 1 - probs stands where probs belongs
1   return (1 - probs) * (dout - (dout * probs).sum(1, keepdims=True))
| the sign is wrong
1   return probs * ((dout * probs).sum(1, keepdims=True) - dout)
| the logarithm of the softmax
1   return dout - probs * dout.sum(1, keepdims=True)

== crossentropy
1   rows, N = np.arange(len(targets)), len(targets)
2   d = probs.copy()
3   d[rows, targets] -= 1
4   return d * dloss / N
| the division by N is left out
4   return d * dloss
| changes its cache
2   d = probs
| 1 is subtracted in every row
3   d[:, targets] -= 1
| dloss is left out
4   return d / N
| in the 1 at the target, a factor of 1/N is missing
2   d = probs / N
4   return d * dloss
| the sign is wrong
2   d = -probs
3   d[rows, targets] += 1
| V stands where N belongs
4   return d * dloss / probs.shape[1]
| 1 is subtracted from whole rows
3   d[targets] -= 1
| a factor of V is missing
4   return d * dloss / d.size
| the softmax is left out
2   d = np.zeros_like(probs)
3   d[rows, targets] = -1 / probs[rows, targets]
| the logarithm of the probabilities
2   d = np.log(probs)
| a factor of 1/2 is missing
4   return 2 * d * dloss / N
| set to 0, where 1 should be
3   d[rows, targets] = 0
| float32 becomes float64
4   return (probs - np.eye(probs.shape[1])[targets]) * dloss / N
| divided by N twice
2   d = probs / N
3   d[rows, targets] -= 1 / N
| only in the last row
3   d[rows[-1], targets[-1]] -= 1
| the parentheses around probs
3   d[rows, targets] -= dloss
4   return d / N
| the target's element has the wrong sign
3   d[rows, targets] = 1 - d[rows, targets]
| a factor of dloss/N is missing
4   return d
| the sign of the 1 at the target
3   d[rows, targets] += 1
| right in float64, but nan or infinite in float32
2   N, d = len(targets), np.zeros_like(probs)
3   d[rows, targets] = -dloss / N / probs[rows, targets]
4   return probs * (d - (d * probs).sum(-1, keepdims=True))
| away from the target it is 0
2   d = np.zeros_like(probs)
3   d[rows, targets] = probs[rows, targets] - 1
| in the term probs, a factor of 1/N is missing
3   d[rows, targets] -= 1 / N
4   return d * dloss
| the targets of another row are used
3   d[rows, np.roll(targets, -1)] -= 1

== gelu
1   t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
2   slope = (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)
3   return dout * (0.5 * (1 + t) + 0.5 * x * slope)
| the 3 of the cube's slope is left out
2   slope = (1 - t**2) * GELU_SCALE * (1 + GELU_CUBIC * x**2)
| tanh is used, where tanh ** 2 belongs
2   slope = (1 - t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)
| slope of the exact GELU
2   phi = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
3   return dout * (0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) + x * phi)
| a factor of 1/2 is missing
3   return dout * (1 + t + x * slope)
| the term through tanh is missing
3   return dout * 0.5 * (1 + t)
| float32 becomes float64
2   slope = (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * GELU_CUBIC * x**2)
| the parentheses around the term
3   return dout * 0.5 * (1 + t) + 0.5 * x * slope
| the factor x is left out
3   return dout * 0.5 * (1 + t) + dout * 0.5 * slope
| the power of x is one too high
2   slope = (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**3)
| should be a factor of both
2   slope = (1 - t**2) * (GELU_SCALE + 3 * GELU_CUBIC * x**2)
| the tanh is of x itself
1   t = np.tanh(x)
2   slope = 1 - t**2
| the factor 0.5 * x is left out
3   return dout * (0.5 * (1 + t) + slope)
| the factor GELU_SCALE is left out
2   slope = (1 - t**2) * (1 + 3 * GELU_CUBIC * x**2)
| gelu_backward calls gelu_forward
3   return dout * (gelu_forward(x + 1e-4)[0] - gelu_forward(x - 1e-4)[0]) / 2e-4
| right in float64, but not in float32
2   f = lambda x: 0.5 * x * (1 + np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3)))
3   return dout * (f(x + 1e-4) - f(x - 1e-4)) / 2e-4
| dx: it is nan or infinite
1   e = np.exp(2 * GELU_SCALE * (x + GELU_CUBIC * x**3))
1   t = (e - 1) / (e + 1)
| dx: it is nan or infinite
3   return dout * (0.5 * x * (1 + t) / x + 0.5 * x * slope)
| in the inner derivative, x stands where 1 belongs
2   slope = (1 - t**2) * GELU_SCALE * (x + 3 * GELU_CUBIC * x**2)
| 2 stands where 3 belongs
2   slope = (1 - t**2) * GELU_SCALE * (1 + 2 * GELU_CUBIC * x**2)
| sech is used
2   slope = np.sqrt(1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)

== layernorm
1   dw[:] = (dout * norm).sum(0)
2   db[:] = dout.sum(0)
3   d = dout * w
4   return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rstd
| dx: the term through the variance is missing
4   return (d - d.mean(1, keepdims=True)) * rstd
| in the term through the variance, the factor rstd comes twice
4   return (d - d.mean(1, keepdims=True) - rstd * norm * (d * norm).mean(1, keepdims=True)) * rstd
| dx: the term through the variance has the wrong sign
4   return (d - d.mean(1, keepdims=True) + norm * (d * norm).mean(1, keepdims=True)) * rstd
| dx: the term through the variance counts twice
4   return (d - d.mean(1, keepdims=True) - 2 * norm * (d * norm).mean(1, keepdims=True)) * rstd
| dw: the sum is over the last axis
1   dw[:] = (dout * norm).sum(1)
| dx: in dnorm, the factor w is left out
3   d = dout
| dx: the terms through the mean and through the variance are left out
4   return d * rstd
| a factor of (C-1)/C is missing
4   along_norm = (d * norm).sum(1, keepdims=True) / (len(w) - 1)
4   return (d - d.mean(1, keepdims=True) - norm * along_norm) * rstd
| keepdims=True is forgotten
4   return (d - d.mean(1) - norm * (d * norm).mean(1)) * rstd
| a factor of 1/2 is missing, and the sign is wrong
4   centered = norm / rstd
4   dvar = (d * centered).sum(1, keepdims=True) * rstd**3
4   dcentered = d * rstd + dvar * 2 / len(w) * centered
4   return dcentered - dcentered.mean(1, keepdims=True)
| dw and db are swapped
1   dw[:] = dout.sum(0)
2   db[:] = (dout * norm).sum(0)
| means are over the whole array
4   return (d - d.mean() - norm * (d * norm).mean()) * rstd
| in the term through the mean, the factor rstd
4   return d * rstd - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True) * rstd
| a factor of N/C is missing
4   means = [a.sum(1, keepdims=True) / len(dout) for a in (d, d * norm)]
4   return (d - means[0] - norm * means[1]) * rstd
| eps is added once more
4   s = np.sqrt(1 / rstd**2 + LAYERNORM_EPS)
4   return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) / s
| the factor rstd comes twice
4   return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rstd**2
| the term through the variance is missing
4   mean, mean_norm = d.mean(1, keepdims=True), norm.mean(1, keepdims=True)
4   return (d - mean - norm * mean * mean_norm) * rstd
| dx: the means have dout
4   return (d - dout.mean(1, keepdims=True) - norm * (dout * norm).mean(1, keepdims=True)) * rstd
| a factor of 1/C is missing
4   return (d - d.mean(1, keepdims=True) - norm * (d * norm).sum(1, keepdims=True)) * rstd
| dx: w is multiplied with at the end
3   d = dout - dout.mean(1, keepdims=True) - norm * (dout * norm).mean(1, keepdims=True)
4   return d * rstd * w
| dx: the term through the mean is missing
1   dw[:] = (dout * norm).mean(0)
2   db[:] = dout.mean(0)
4   return (d - norm * (d * norm).mean(1, keepdims=True)) * rstd
| dx: eps is left out
4   rstd = 1 / np.sqrt(1 / rstd**2 - LAYERNORM_EPS)
4   return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rstd
| a factor of sqrt(C/(C-1)) is missing
4   rstd = rstd * (1 - 1 / len(w)) ** 0.5
4   return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rstd
| raise NotImplementedError still stands below your lines
4   raise NotImplementedError

== embedding
1   B, T = tokens.shape
2   np.add.at(dwte, tokens.ravel(), dout)
3   dwpe[:] = 0
4   dwpe[:T] = dout.reshape(B, T, -1).sum(0)
| dwte: a repeated token counts once
2   dwte[tokens] += dout.reshape(B, T, -1)
| dwte: it starts again from 0
2   dwte[:] = 0
2   np.add.at(dwte, tokens.ravel(), dout)
| dwpe: right, but where it is 0 it is left unfilled
3   pass
| dwpe: it is added to what was there
3   dwpe[:T] += dout.reshape(B, T, -1).sum(0)
4   dwpe[T:] += 0
| dwpe: only the last sequence counts
4   for d in dout.reshape(B, T, -1):
4       dwpe[:T] = d
| counts once
2   for n, t in enumerate(tokens.ravel()):
2       dwte[t] = dout[n]
| the rows are cut into (T, B)
4   dwpe[:T] = dout.reshape(T, B, -1).sum(1)
| not in the same order
2   np.add.at(dwte, tokens.T.ravel(), dout)
| starts again from 0
2   d = np.zeros_like(dwte)
2   np.add.at(d, tokens.ravel(), dout)
2   dwte[:] = d
| the mean over a token's places
2   for t in np.unique(tokens):
2       dwte[t] += dout[tokens.ravel() == t].mean(0)
| dwpe: only the first
4   dwpe[:T] = dout[:T]
| it starts again from 0
2   dwte[:] = np.eye(len(dwte))[tokens.ravel()].T @ dout
| dwte: what was there before is changed, too
3   dwte /= 2
3   dwpe[:] = 0
| dwte: tokens are one too small
2   np.add.at(dwte, tokens.ravel() - 1, dout)
| dwte: nothing is added to it: = alone
2   dwte = dwte + np.eye(len(dwte))[tokens.ravel()].T @ dout
| dwte: the last row is left out
2   np.add.at(dwte, tokens.ravel()[:-1], dout[:-1])
| dwte: only the first of a token's places counts
2   flat = list(tokens.ravel())
2   for t in set(flat):
2       dwte[t] += dout[flat.index(t)]

== attention_head
1   datt = dout @ v.T
2   d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
3   return d @ k, d.T @ q, att.T @ dout
| dq and dk are swapped
3   return d.T @ q, d @ k, att.T @ dout
| dq, dk: in the gradient of q @ k.T, the division by math.sqrt(HS)
2   d = att * (datt - (datt * att).sum(1, keepdims=True))
| dv: att is not transposed
3   return d @ k, d.T @ q, att @ dout
| the softmax is left out
2   d = datt / math.sqrt(q.shape[1])
| dk: the gradient of q @ k.T is not transposed
3   return d @ k, d @ q, att.T @ dout
| keepdims=True is forgotten
2   d = att * (datt - (datt * att).sum(-1)) / math.sqrt(q.shape[1])
| dq: k is transposed, which it should not be
3   return d @ k.T, q.T @ d, d.T @ dout
| only the diagonal of the softmax's Jacobian
2   d = datt * att * (1 - att) / math.sqrt(len(q))
| dk: in the gradient of q @ k.T, the division by math.sqrt(HS)
2   d = att * (datt - (datt * att).sum(1, keepdims=True))
3   return d @ k / math.sqrt(q.shape[1]), d.T @ q, att.T @ dout
| divided by HS, not by sqrt(HS)
1   datt = dout @ v.T / math.sqrt(q.shape[1])
| not proportional to dout
2   d = softmax(datt) / math.sqrt(q.shape[1])
| this is what dk should be; and a factor of 1/sqrt(HS)
2   d = att * (datt - (datt * att).sum(1, keepdims=True))
3   return d.T @ q, d @ k, att.T @ dout
| the scores are used
3   return d @ k, d.T @ q, (q @ k.T).T @ dout
| the sum is over the wrong axis
2   d = att * (datt - (datt * att).sum(0, keepdims=True)) / math.sqrt(q.shape[1])
| the gradient of the weights is transposed
1   datt = (dout @ v.T).T
| dv: a factor of sqrt(HS)
3   return d @ k, d.T @ q, att.T @ dout / math.sqrt(q.shape[1])
| in dpreatt, the factor att is left out
2   d = (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
| in datt, the product with v.T is left out
1   datt = dout
| S stands where HS belongs
2   d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(len(k))
| a factor of S/sqrt(HS) is missing; not: T/
2   d = att * (datt - (datt * att).sum(1, keepdims=True)) / len(k)
| a factor of 0.125 stands where 1/sqrt(HS) belongs
2   d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(64)

== attention
1   dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
2   dqkv = np.empty((B * T, 3 * NH * HS), dout.dtype)
3   datt = dout @ v.mT
4   d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
5   views = dqkv.reshape(B, T, 3, NH, HS).transpose(2, 3, 0, 1, 4)
6   views[:] = d @ k, d.mT @ q, att.mT @ dout
7   return dqkv
| heads and channels are mixed up
5   return np.stack((d @ k, d.mT @ q, att.mT @ dout)).reshape(B * T, -1)
| dq and dk are swapped
6   views[:] = d.mT @ q, d @ k, att.mT @ dout
| has the shape
5   return np.stack((d @ k, d.mT @ q, att.mT @ dout))
| float32 becomes float64
2   dqkv = np.zeros((B * T, 3 * NH * HS))
| sqrt(C) is used
4   d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS * NH)
| dout is cut into (B, NH
1   dout = dout.reshape(B, T, NH, HS).transpose(0, 2, 1, 3)
| dk and dv are swapped
6   views[:] = d @ k, att.mT @ dout, d.mT @ q
| dq and dv are swapped
6   views[:] = att.mT @ dout, d.mT @ q, d @ k
| dk: in dk, .T reverses all axes
6   views[:] = d @ k, d.T @ q, att.mT @ dout
| dq, dk: the mask hides the token itself, too
4   d = np.tril(att * (datt - (datt * att).sum(-1, keepdims=True)), -1) / math.sqrt(HS)
| only the first sequence counts
3   datt = dout @ v.mT * (np.arange(B) == 0)[:, None, None]

== block
1   d = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
2   d = linear_backward(gelu_backward(d, gelu_cache), fc_cache, g["fcw"], g["fcb"])
3   dmid = dout + layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
4   d = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
5   d = linear_backward(attention_backward(d, att_cache), qkv_cache, g["qkvw"], g["qkvb"])
6   return dmid + layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
| the second residual's way past the network is left out
3   dmid = layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
| dx: the first residual's way past attention is left out
6   return layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
| changes dout
3   dout += layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
4   d = linear_backward(dout, attproj_cache, g["attprojw"], g["attprojb"])
6   return dout + layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
| left unfilled: = alone
1   for name in g:
1       g[name] = np.zeros_like(g[name])
1   return 0 * dout
| both residuals
3   dmid = layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
6   return layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
| dln2w and dln2b are swapped
3   dmid = dout + layernorm_backward(d, ln2_cache, g["ln2b"], g["ln2w"])
| gelu_backward is left out
2   d = linear_backward(d, fc_cache, g["fcw"], g["fcb"])
| post-norm
3   dmid = layernorm_backward(dout + d, ln2_cache, g["ln2w"], g["ln2b"])
| the term dout of dmid counts three times
3   dmid = 3 * dout + layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
| dx: in what comes from ln1, dout is added as well
6   return dout + dmid + layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])

== tied
1   dx = head_backward(dloss, head_cache, grads["wte"])
2   dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
3   for l in reversed(range(len(block_caches))):
4       g = {name: grads[name][l] for name in IN_BLOCKS}
5       dx = block_backward(dx, block_caches[l], g)
6   embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
| the head's gradient is left out
6   grads["wte"][:] = 0
6   embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
| the blocks are taken in the order of the forward pass
3   for l in range(len(block_caches)):
| left unfilled in part: from [1] on
4       g = {name: grads[name][0] for name in IN_BLOCKS}
| dwte: it is added to what was there
1   d = np.zeros_like(grads["wte"])
1   dx = head_backward(dloss, head_cache, d)
6   embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
6   grads["wte"] += d
| the last layernorm's backward pass is left out
2   layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
| it gets what the head gives
2   dhead, dx = dx, layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
6   embedding_backward(dhead, embedding_cache, grads["wte"], grads["wpe"])
| changes its cache
5       dx = block_backward(dx, block_caches.pop(), g)

== adamw
1   for n, p in params.items():
2       m[n][:] = beta1 * m[n] + grads[n]
3       v[n][:] = beta2 * v[n] + grads[n] ** 2
4       mhat = m[n] * (1 - beta1) / (1 - beta1**step)
4       vhat = v[n] * (1 - beta2) / (1 - beta2**step)
5       decay = weight_decay * p * (n in DECAYING)
6       p -= lr * (mhat / (np.sqrt(vhat) + eps) + decay)
| m and v are not divided by the sums of their weights
4       mhat, vhat = m[n], v[n]
| the sums of the weights are those of endlessly many steps
4       mhat, vhat = m[n] * (1 - beta1), v[n] * (1 - beta2)
| m and v have the factors 1 - beta of the paper
2       m[n][:] = beta1 * m[n] + (1 - beta1) * grads[n]
3       v[n][:] = beta2 * v[n] + (1 - beta2) * grads[n] ** 2
4       mhat, vhat = m[n] / (1 - beta1**step), v[n] / (1 - beta2**step)
| params not in DECAYING: it decays
5       decay = weight_decay * p
| not changed
2       m[n] = beta1 * m[n] + grads[n]
3       v[n] = beta2 * v[n] + grads[n] ** 2
6       params[n] = p - lr * (mhat / (np.sqrt(vhat) + eps) + decay)
| eps is inside the root
6       p -= lr * (mhat / np.sqrt(vhat + eps) + decay)
| the decay comes after the step
6       p -= lr * mhat / (np.sqrt(vhat) + eps)
6       p -= lr * weight_decay * p * (n in DECAYING)
| v is divided by the sum of its weights outside the root
6       p -= lr * mhat / (np.sqrt(v[n]) * (1 - beta2) / (1 - beta2**step) + eps)
6       p -= lr * weight_decay * p * (n in DECAYING)
| the mean is stored
4       m[n] *= (1 - beta1) / (1 - beta1**step)
4       v[n] *= (1 - beta2) / (1 - beta2**step)
4       mhat, vhat = m[n], v[n]
| in p, the factor lr is left out
6       p -= lr * (mhat / (np.sqrt(vhat) + eps)) + decay
| there is no decay
5       decay = 0
| params of ln1w, ln2w, lnfw: it decays
5       decay = weight_decay * p * (n[-1] == "w" or n in DECAYING)
| params of ln1w, ln1b, qkvb, attprojb, ln2w, ln2b, fcb, fcprojb: it decays
5       decay = weight_decay * p * (p.ndim >= 2)
| m: in m, 0.9 stands where beta1 belongs
2       m[n][:] = 0.9 * m[n] + grads[n]
| v: in v, 0.99 stands where beta2 belongs
2       m[n][:] = 0.9 * m[n] + grads[n]
3       v[n][:] = 0.99 * v[n] + grads[n] ** 2
4       mhat = m[n] * (1 - 0.9) / (1 - 0.9**step)
4       vhat = v[n] * (1 - 0.99) / (1 - 0.99**step)
6       p -= 0.1 * (mhat / (np.sqrt(vhat) + eps) + decay)
| params: 0.1 stands where lr belongs
6       p -= 0.1 * (mhat / (np.sqrt(vhat) + eps) + decay)
| eps is left out, or a constant stands for it
6       p -= lr * (mhat / (np.sqrt(vhat) + 1e-8) + decay)
| but for wte: not changed: does the loop end too early
6       p -= lr * (mhat / (np.sqrt(vhat) + eps) + decay)
6       return
| adamw_update changes wte
6       p -= lr * (mhat / (np.sqrt(vhat) + eps) + decay)
6       grads[n][:] = 0
| AMSGrad
3       v[n][:] = np.maximum(v[n], beta2 * v[n] + grads[n] ** 2)
| m and v are updated after the step that needs them
2       pass
3       pass
4       mhat = m[n] * (1 - beta1) / (1 - beta1**step)
4       vhat = v[n] * (1 - beta2) / (1 - beta2**step)
6       p -= lr * (mhat / (np.sqrt(vhat) + eps) + decay)
6       m[n][:] = beta1 * m[n] + grads[n]
6       v[n][:] = beta2 * v[n] + grads[n] ** 2
| params in DECAYING: in p, the factor lr comes twice
5       decay = lr * weight_decay * p * (n in DECAYING)

== accumulate
1   losses, some = [], {n: np.zeros_like(g) for n, g in grads.items()}
2   for g in grads.values():
2       g[:] = 0
3   for batch in batches:
4       loss, cache = gpt2_forward(params, config, *batch)
5       gpt2_backward(1 / len(batches), cache, some)
6       for n in grads:
7           grads[n] += some[n]
8       losses.append(loss)
9   return np.mean(losses)
| so that only the last counts; not: factor
7           grads[n][:] = some[n]
| all but the returned loss: the division by K is left out
5       gpt2_backward(1.0, cache, some)
| it is added to what was there
2   pass
| the returned loss: in mean_loss, the division by K
9   return np.sum(losses)
| the batches have different weights
7           grads[n] += some[n] - grads[n] / 2
| puts batches into one
3   some = [np.concatenate(a) for a in zip(*batches)]
3   loss, cache = gpt2_forward(params, config, *some)
3   gpt2_backward(1.0, cache, grads)
4   losses = [loss]
5   for n in ():
6       for n in ():
7           pass
8       pass
| the returned loss: only the first batch counts; not: factor
9   return losses[0]
| all but the returned loss: only the last batch counts
5       gpt2_backward(1.0, cache, some)
7           grads[n][:] = some[n]
| all but the returned loss: loss stands where 1 belongs
5       gpt2_backward(loss / len(batches), cache, some)
| the returned loss: loss stands where mean_loss belongs
9   return loss
| accumulate changes wte
9   params["wte"] *= 2
9   return np.mean(losses)

== flash
1   att = np.exp(scores(q, k) - logsum)
2   dscaled = att * (dout @ v.T - (dout * out).sum(1, keepdims=True)) / np.sqrt(q.shape[1])
3   return dscaled.astype(q.dtype) @ k, dscaled.T.astype(q.dtype) @ q, att.T @ dout
| in att, the mask is left out
1   att = np.exp(q @ k.T / np.sqrt(q.shape[1], dtype=q.dtype) - logsum)
| in att, it is divided by logsum
1   att = np.exp(scores(q, k)) / logsum
| dq, dk: the sum over the row is missing
2   dscaled = att * (dout @ v.T) / np.sqrt(q.shape[1])
| in the row's sum, the sum is over the wrong axis
2   dscaled = att * (dout @ v.T - (dout * out).sum(0)) / np.sqrt(q.shape[1])
| the sign of the row's sum is wrong
2   dscaled = att * (dout @ v.T + (dout * out).sum(1, keepdims=True)) / np.sqrt(q.shape[1])
| the division by math.sqrt(HS) is left out
2   dscaled = att * (dout @ v.T - (dout * out).sum(1, keepdims=True))
| dq and dk are swapped
3   return dscaled.T.astype(q.dtype) @ q, dscaled.astype(q.dtype) @ k, att.T @ dout
| in the sum over the row, a factor of HS is missing
2   dscaled = att * (dout @ v.T - (dout * out).mean(1, keepdims=True)) / np.sqrt(q.shape[1])
| flash_backward calls flash_forward
1   att = flash_forward(q, k, np.eye(len(q)))[0]

== pieces
1   dx, part = np.empty_like(x), np.empty_like(dwte)
2   dwte[:] = 0
3   for start in range(0, len(x), rows):
4       piece = slice(start, start + rows)
5       head_cache = head_forward(x[piece], wte, targets[piece])[1]
6       dx[piece] = head_backward(dloss * len(x[piece]) / len(x), head_cache, part)
7       dwte += part
8   return dx
| a piece's share of the rows is left out
6       dx[piece] = head_backward(dloss, head_cache, part)
| dloss is left out
6       dx[piece] = head_backward(len(x[piece]) / len(x), head_cache, part)
| so that only the last turn counts
7       dwte[:] = part
| dwte: it is added to what was there
2   pass
| more than `rows` rows at a time
3   head_cache = head_forward(x, wte, targets)[1]
3   return head_backward(dloss, head_cache, dwte)
4   for start in ():
4       piece = slice(0)
5       head_cache = ()
| rows is used for the last, shorter one as well
6       dx[piece] = head_backward(dloss * rows / len(x), head_cache, part)

== lora
1   dB[:] = scale * dout.T @ low
2   dlow = scale * dout @ B
3   dA[:] = dlow.T @ x
4   return dout @ w + dlow @ A
| dB: in the gradient of what is added, the factor scale is left out
1   dB[:] = dout.T @ low
| the factor scale is left out
2   dlow = dout @ B
| what comes through A is missing
4   return dout @ w
| the term dout @ w is missing
4   return dlow @ A
| dB: right shape, transposed contents
1   dB[:] = scale * low.T @ dout
| dA: left unfilled
3   dA = dlow.T @ x
| the factor scale comes twice
4   return dout @ w + scale * dlow @ A
| dA: low stands where x belongs
3   dA[:] = dlow.T @ low

== pairs
1   counts = {}
2   for word, n in zip(words, times):
3       for a, b in zip(word, word[1:]):
4           counts[a, b] = counts.get((a, b), 0) + n
5   return counts, min(counts, key=lambda pair: (-counts[pair], pair))
| counts: a word counts once
4           counts[a, b] = counts.get((a, b), 0) + 1
| counts, pair: pairs of the end of one word
2   for word, n in [([i for word, n in zip(words, times) for i in word * n], 1)]:
| pair: of equal counts, the pair that was met first is taken
5   return counts, max(counts, key=counts.get)
| pair: of equal counts, the pair of the larger ids
5   return counts, sorted(counts, key=lambda pair: (counts[pair], pair))[-1]
| pair: of equal counts, the pair that was met last
5   best = None
5   for pair in counts:
5       if best is None or counts[pair] >= counts[best]:
5           best = pair
5   return counts, best
| counts: a pair counts once in a word
3       for a, b in set(zip(word, word[1:])):
| counts: pairs that overlap count once
3       import re
3       text = "".join(map(chr, word))
3       for a, b in set(zip(word, word[1:])):
4           counts[a, b] = counts.get((a, b), 0) + n * text.count(chr(a) + chr(b))
| counts: the last pair of each word is left out
3       for i in range(len(word) - 2):
4           pair = word[i], word[i + 1]
4           counts[pair] = counts.get(pair, 0) + n
| counts, pair: a pair has the count of the last word
4           counts[a, b] = n
| best_pair changes times
4           counts[a, b] = counts.get((a, b), 0) + n
5   times.clear()
5   return counts, max(sorted(counts), key=counts.get)
| best_pair should return counts, a dict; and a pair
5   return max(sorted(counts), key=counts.get)
| best_pair returns nothing
5   pass

== encode
1   for new, pair in enumerate(merges, 256):
2       out, i = [], 0
3       while i < len(word):
4           found = tuple(word[i : i + 2]) == pair
5           out.append(new if found else word[i])
6           i += 1 + found
7       word = out
8   return word
| tokens: the second token of a pair stays
6           i += 1
| tokens: the last token is lost
3       while i < len(word) - 1:
| tokens: the merges are repeated in reverse order
1   for new, pair in reversed(list(enumerate(merges, 256))):
| tokens: the ids of new tokens are one too large
1   for new, pair in enumerate(merges, 257):
| tokens: 0 stands where 256 belongs
1   for new, pair in enumerate(merges):
| tokens: only the first place of each pair
4           found = tuple(word[i : i + 2]) == pair and new not in out
| tokens: pairs are merged from right to left
2       out, i = [], len(word) - 1
3       while i >= 0:
4           found = tuple(word[max(i - 1, 0) : i + 1]) == pair
5           out.insert(0, new if found else word[i])
6           i -= 1 + found
| tokens: the pair that stands first in the word is merged first
2       places = [i for i in range(len(word) - 1) if tuple(word[i : i + 2]) in merges]
3       while places:
4           i = places[0]
5           word = word[:i] + [256 + merges.index(tuple(word[i : i + 2]))] + word[i + 2 :]
6           places = [i for i in range(len(word) - 1) if tuple(word[i : i + 2]) in merges]
7       pass
| tokens: nothing is merged
7       pass
| tokens: only bytes are merged
4           found = word[i : i + 2] == list(pair) and max(pair) < 256
| tokens: (b, a) is merged
4           found = sorted(word[i : i + 2]) == sorted(pair)
| encode changes word
7       word[:] = out
| encode returns nothing
8   pass
| encode should return a list of tokens
8   return " ".join(map(str, word))
| IndexError: list index out of range (with word=[97, 110
4           found = (word[i], word[i + 1]) == pair

== rms
1   dw[:] = (dout * norm).sum(0)
2   d = dout * w
3   return (d - norm * (d * norm).mean(1, keepdims=True)) * rrms
| dx: the mean of dnorm is subtracted, too
3   return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rrms
| dx: in dnorm, the factor w is left out
2   d = dout
| the term through the root mean square is missing
3   return d * rrms
| in the term through the root mean square, a factor of 1/C is missing
3   return (d - norm * (d * norm).sum(1, keepdims=True)) * rrms
| the sign of the term through the root mean square is wrong
3   return (d + norm * (d * norm).mean(1, keepdims=True)) * rrms
| dw: left unfilled
1   dw = (dout * norm).sum(0)
| dw: the factor norm is left out
1   dw[:] = dout.sum(0)
| keepdims=True is forgotten
3   return (d - norm * (d * norm).mean(1)) * rrms
| it is divided by rrms
3   return (d - norm * (d * norm).mean(1, keepdims=True)) / rrms
| the factor rrms is left out
3   return d - norm * (d * norm).mean(1, keepdims=True)

== rope
1   y, z = dout[..., ::2], dout[..., 1::2]
2   dx = np.empty_like(dout)
3   dx[..., ::2] = y * cos + z * sin
4   dx[..., 1::2] = z * cos - y * sin
5   return dx
| dx: it is turned on, where it should be turned back
3   dx[..., ::2] = y * cos - z * sin
4   dx[..., 1::2] = z * cos + y * sin
| in da, the sign of dz * sin is wrong
3   dx[..., ::2] = y * cos - z * sin
| the term dz * sin of da is missing
3   dx[..., ::2] = y * cos
| channels of a pair are adjacent
5   return np.concatenate([dx[..., ::2], dx[..., 1::2]], -1)
| rope_backward calls rope_forward
5   return rope_forward(dout)[0]
| in da, sin stands where cos belongs
3   dx[..., ::2] = y * sin + z * sin

== grouped
1   T, HS = q.shape[1:]
2   d = att * (dout @ v.mT - (att * (dout @ v.mT)).sum(-1, keepdims=True)) / math.sqrt(HS)
3   dk, dv = ((a.mT @ b).reshape(-1, group, T, HS) for a, b in ((d, q), (att, dout)))
4   return d @ k, dk.sum(1), dv.sum(1)
| dk, dv: only the first copy of a head counts
4   return d @ k, dk[:, 0], dv[:, 0]
| dk, dv: a head's copies are adjacent
3   dk, dv = ((a.mT @ b).reshape(group, -1, T, HS) for a, b in ((d, q), (att, dout)))
4   return d @ k, dk.sum(0), dv.sum(0)
| dk, dv: a mean, where a sum belongs
4   return d @ k, dk.mean(1), dv.mean(1)
| dk: a mean, where a sum belongs
4   return d @ k, dk.mean(1), dv.sum(1)
| dk and dv are swapped
4   return d @ k, dv.sum(1), dk.sum(1)
| dq, dk: the softmax is left out
2   d = (dout @ v.mT) / math.sqrt(HS)
| the division by math.sqrt(HS) is left out
2   d = att * (dout @ v.mT - (att * (dout @ v.mT)).sum(-1, keepdims=True))
"""


ENDINGS = r"""
== LINE: SyntaxError: '(' was never closed
    dw[:] = (dout * norm.sum(0)
== LINE: SyntaxError: invalid syntax
    dw[:] =
== LINE: IndentationError
      dw[:] = dout.sum(0)
== LINE: NameError: name 'dnorm' is not defined
    return dnorm * rstd
== LINE: ValueError: could not broadcast
    dw[:] = np.ones(17)
== LINE: KeyboardInterrupt
    raise KeyboardInterrupt
== LINE: SystemExit: 3
    raise SystemExit(3)
== LINE: RecursionError
    return layernorm_backward(dout, cache, dw, db)
== LINE, prints: (4, 4)
    print(dout.shape)
== LINE: still running
    while True: pass
== LINE: still running
    while True: print("again")
== LINE: no end after 10.0 seconds; what does it wait for
    __import__("time").sleep(60)
== Python itself ended
    __import__("os")._exit(0)
== returns nothing: a line `return dx` is missing
    ...
== dx is a int, not an array
    return 0
== dx is an array of <U4
    return np.full(dout.shape, "text")
== dx: it is nan or infinite
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    return dout / 0
== has no function layernorm_backward
    return 0


del layernorm_backward
"""


# of LEARNERS, the one that exercises/README.md shows
SHOWN = "dx: the term through the variance counts twice"


def answers(text):
    """
    Yield (exercise, what the report should have in it, body): of a right answer, it is "".

    Behind "; not: " stands what it should not have in it.
    """
    for section in text.strip().removeprefix("== ").split("\n\n== "):
        right, *wrong = section.split("\n| ")
        name, *right = right.splitlines()
        yield name, "", right
        for entry in wrong:
            expected, *changed = entry.splitlines()
            numbers = {line[0] for line in changed}
            kept = [line for line in right if line[0] not in numbers]
            yield name, expected, sorted(kept + changed, key=lambda line: line[0])


def report_of(name, path):
    """The grader's report of a file, as one text; "" if it is right."""
    try:
        return "\n".join(grade.grade(name, path))
    except grade.Stop as stop:
        return str(stop)


def report_of_functions(name, functions):
    """The grader's report of these functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "load", lambda path, function: functions)
        return report_of(name, cases.path_of(name))


def write_answer(path, name, body):
    """Write an exercise's file, with this body -> the line where the body begins."""
    before, after = cases.path_of(name).read_text(encoding="utf-8").split(EMPTY)
    path.write_text(before + body.rstrip() + "\n" + after, encoding="utf-8")
    return before.count("\n") + 1


def differs(name, functions):
    """Whether these functions give other numbers than the lesson's, in any case of an exercise."""
    for i in range(len(cases.EXERCISES[name].shapes)):
        case = grade.prepared(name, i)
        try:
            ours = grade.call(name, functions, case.inputs, 0.0)
        except Exception:
            return True
        if any(not grade.close(ours[g], case.want[g]) for g in case.want):
            return True
    return False


def exercises_of(mistake):
    """The exercises that a mistake in a backward pass of the lesson is one of."""
    return [n for n, (where, _) in mistakes.WHERE.items() if re.fullmatch(where, mistake.function)]


def assert_in_readme(*figures):
    """The figures that exercises/README.md gives are these: tried, accepted, named."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(map(str, figures))} |" in text, f"it should say {figures}"


def assert_named(title, graded):
    """Of wrong answers, (which, report, whether it names it), none passed; 9 in 10 are named."""
    unnamed = []
    for which, report, named in graded:
        assert report, f"{which}: accepted"
        unnamed += [] if named else [f"{which}\n{report}"]
    count, named = len(graded), len(graded) - len(unnamed)
    print(f"\n{title}: {count}, {named} named", *unnamed, sep="\n")
    assert named >= 0.9 * count
    assert_in_readme(count, 0, named)


@pytest.mark.parametrize("name", cases.ORDER)
def test_the_lesson_itself_is_right(name):
    assert report_of_functions(name, cases.LESSON) == ""


def test_right_answers_pass_however_written():
    tried = 0
    for other in mistakes.read_mistakes(OTHERWISE):
        for name in exercises_of(other):
            report = report_of_functions(name, mistakes.lesson_with(other))
            assert report == "", (name, other.name)
            tried += 1
    print(f"\nright answers, written in another way: {tried} passed")
    assert_in_readme(tried, tried, "")
    assert tried >= 20


@pytest.mark.filterwarnings("ignore:invalid value")  # of a mistake: a root of what is negative
def test_mistakes_that_are_known():
    graded = []
    for name in cases.ORDER:
        for mistake, functions in mistakes.known_mistakes(name):
            if differs(name, functions):
                report = report_of_functions(name, functions)
                graded.append((f"{name}: {mistake}", report, mistake in report))
    assert len(graded) >= 100
    assert_named("mistakes that the grader knows", graded)


def test_mutants_of_layers():
    graded = []
    for mutant in mistakes.read_mistakes(MUTANTS):
        for name in exercises_of(mutant):
            functions = mistakes.lesson_with(mutant)
            if differs(name, functions):  # or else it is in a piece that this exercise doesn't have
                report = report_of_functions(name, functions)
                named = not re.search(r": wrong$|Error", report.partition("\n")[0])
                graded.append((f"{name}: {mutant.name}", report, named))
    assert len(graded) >= 8
    assert_named("mutants of layers", graded)


@pytest.mark.parametrize("name", [n for n in cases.ORDER if cases.EXERCISES[n].forward])
def test_a_forward_pass_that_was_changed_is_seen(name):
    forward, functions = cases.EXERCISES[name].forward, types.SimpleNamespace(**vars(cases.LESSON))

    def changed(*inputs):
        out, cache = getattr(cases.LESSON, forward)(*inputs)
        out = np.array(out)
        out.flat[-1] += 1e-3
        return out, cache

    setattr(functions, forward, changed)
    assert f"{forward} is not as it was given" in report_of_functions(name, functions)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_answers_of_learners(tmp_path):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    graded, shown = [], ""
    for name, expected, lines in answers(LEARNERS):
        path = tmp_path / cases.path_of(name).name
        write_answer(path, name, "\n".join(f" {line[1:]}" for line in lines))
        report = report_of(name, path)
        if not expected:
            assert report == ""
            continue
        words, _, never = expected.partition("; not: ")
        named = words in report and not (never and never in report)
        graded.append((f"{name} | {expected}", report, named))
        shown = report if expected == SHOWN else shown
    assert len(graded) >= 100
    assert shown and all(line.strip() in readme for line in shown.splitlines())
    assert_named("learners' mistakes", graded)


def test_of_a_single_number_no_factor_is_told(tmp_path):
    (right,) = (
        lines for name, what, lines in answers(LEARNERS) if name == "accumulate" and not what
    )
    path = tmp_path / "accumulate.py"
    for wrong in "np.sqrt(np.mean(losses))", "3 * losses[0]":
        lines = [line[1:].replace("np.mean(losses)", wrong) for line in right]
        write_answer(path, "accumulate", "\n".join(f" {line}" for line in lines))
        assert report_of("accumulate", path).startswith("the returned loss: wrong\n")


def test_the_clock_stands_while_the_grader_thinks(monkeypatch, tmp_path):
    """Its own time is not the answer's: a computer that is busy makes no loop without an end."""
    monkeypatch.setattr(grade, "diagnose", lambda *given: {"dx": f"{grade.RUNNING}"})
    write_answer(tmp_path / "gelu.py", "gelu", "    return 2 * dout\n")
    assert report_of("gelu", tmp_path / "gelu.py").startswith("dx: []")


def test_every_ending_is_a_line(tmp_path):
    """Whatever an answer does, there is a line that names the file, and no traceback."""

    def check_ending(number, entry):
        expected, body = entry.split("\n", 1)
        path = tmp_path / f"{number}.py"
        line = write_answer(path, "layernorm", body)
        status, lines = check.run_grade("layernorm", path, 2.5)
        assert status == grade.WRONG
        assert "Traceback" not in "\n".join(lines)
        assert expected.replace("LINE", f"line {line}") in lines[0], (expected, lines)
        assert len(lines) == 1 or "prints" in lines[0] or "nan" in lines[0]
        assert path.name in lines[0] or "layernorm_backward" in lines[0] or "dx" in lines[0]

    entries = ENDINGS.strip().removeprefix("== ").split("\n== ")
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(check_ending, range(len(entries)), entries))) == len(entries)
    path = tmp_path / "bytes.py"
    path.write_bytes(b"\xff\xfe")
    assert check.run_grade("layernorm", path)[1] == ["bytes.py: is not a text in UTF-8"]
    path.unlink()
    assert "there is no such file" in check.run_grade("layernorm", path)[1][0]


def copied(tmp_path):
    """A copy of the project with the exercises."""
    make_project(tmp_path)
    ignored = shutil.ignore_patterns("hunt_*", "variant_*")
    shutil.copytree(FOLDER, tmp_path / "exercises", ignore=ignored)
    (tmp_path / "tests").mkdir()
    for path in SMALL_WEIGHTS, SMALL_STATE:
        shutil.copy(path, tmp_path / "tests")


def command(folder, program, *words):
    """Run a program of a copy -> its exit status, what it wrote."""
    done = run(folder, program, *words)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_going_through_them(tmp_path):
    copied(tmp_path)
    body = "    dw[:] = x.T @ dout\n    return dout @ w.T\n"
    write_answer(tmp_path / "exercises" / "01_product.py", "product", body)
    status, text = command(tmp_path, "exercises/check.py")
    assert status == 1
    assert "  done  01_product.py" in text
    assert text.count(" empty  ") == len(cases.ORDER) - 1
    assert "02_bias.py" in text.split("next: ")[1]
    status, text = command(tmp_path, "exercises/check.py", "product")
    assert status == 0
    assert "done" in text
    assert command(tmp_path, "exercises/check.py", "bias")[0] == grade.EMPTY
    assert command(tmp_path, "exercises/check.py", "biased")[0] == 2
    for how in {"python": ["-I"]}, {"python": ["-OO"]}, {"PYTHONSAFEPATH": "1"}:
        assert run(tmp_path, "exercises/check.py", "product", **how).returncode == grade.RIGHT
    assert command(tmp_path, "exercises/check.py", "--hint")[0] == 2


def test_hints(capsys):
    assert list(HINTS) == cases.ORDER
    for name, hints in HINTS.items():
        for number, hint in enumerate(hints, 1):
            check.show_hint(name, number)
            out = " ".join(capsys.readouterr().out.split())
            assert hint in out
            assert (f"--hint {number + 1}" in out) == (number < len(hints))


def test_no_answer_in_the_exercises():
    table = re.findall(r"^\| \d+ \|.*", (FOLDER / "README.md").read_text(encoding="utf-8"), re.M)
    for number, name in enumerate(cases.ORDER, 1):
        text = cases.path_of(name).read_text(encoding="utf-8")
        assert text.count(EMPTY) == 1
        assert text.endswith(EMPTY)
        assert f"check.py {name}" in text
        page = cases.EXERCISES[name].page  # which asks for it
        assert f"(doc/{page}.md)" in text and f"](../doc/{page}.md) |" in table[number - 1]
        asks = f"    python exercises/check.py {name}\n"
        assert asks in (FOLDER.parent / "doc" / f"{page}.md").read_text(encoding="utf-8")
        assert f"Exercise {number}: " in text


def test_each_hunt_changes_a_line_and_the_numbers():
    """So that none has the loss curve of the healthy lesson, without its comments."""
    healthy, seen = hunt.curve.losses(gpt2), set()
    hunts = [(1, i) for i in range(1, 31)] + [(3, i) for i in range(1, 11)] + [(4, 1), (4, 30)]
    for level, number in hunts:
        text, lines = hunt.hunted_file(level, number)
        assert len(lines) == 1 + (level == 4) and "# " not in text.replace("A comment # (N", "")
        module = types.ModuleType("hunted")
        module.__file__ = gpt2.__file__
        exec(compile(text, gpt2.__file__, "exec"), vars(module))
        with np.errstate(all="ignore"):
            assert not hunt.curve.alike(hunt.curve.losses(module), healthy), (level, number)
        seen.add(text)
    assert len(seen) == len(hunts)
    second = [hunt.hunted_file(2, number) for number in range(1, 31)]
    assert {text for text, _ in second} < seen and second[0] != hunt.hunted_file(1, 1)


def test_hunting(tmp_path):
    copied(tmp_path)
    status, text = command(tmp_path, "exercises/hunt.py")
    assert status == 0
    assert len(re.findall(r"(?<= )\d+(?= |$)", text, re.M)) >= len(mistakes.HUNTS) == 30
    for number in 3, 24:  # two of them: all thirty take a minute
        made, text = command(tmp_path, "exercises/hunt.py", number)
        folder = tmp_path / "exercises" / f"hunt_1_{number:02}"
        assert made == 0
        assert folder.name in text
        status, text = command(folder, "test_gpt2.py", "--quick")
        assert status == 1
        assert "failed: " in text
    copy = tmp_path / "exercises" / "hunt_1_03" / "train_gpt2.py"
    copy.write_text("mine")  # is not replaced
    status, text = command(tmp_path, "exercises/hunt.py", 3)
    assert status == 1 and "delete it to begin again" in text and copy.read_text() == "mine"
    copy.unlink()
    assert command(tmp_path, "exercises/hunt.py", 3, "--check", 1)[0] == 1  # not there
    assert command(tmp_path, "exercises/hunt.py", 3)[0] == 0
    _, (line,) = hunt.hunted_file(1, 3)
    assert command(tmp_path, "exercises/hunt.py", 3, "--check", line)[0] == 0
    assert command(tmp_path, "exercises/hunt.py", 3, "--check", line + 1)[0] == 1
    assert command(tmp_path, "exercises/hunt.py", 31)[0] == 2

    # the other levels have a loss curve, which a copy that was mended has again
    assert command(tmp_path, "exercises/hunt.py", 2, "--level", 3)[0] == 0
    copy = tmp_path / "exercises" / "hunt_3_02" / "train_gpt2.py"
    check = "exercises/hunt.py", 2, "--level", 3, "--check"
    assert command(tmp_path, *check)[0] == 1
    text, lines = hunt.hunted_file(3, 2)
    assert command(tmp_path, *check, lines[0])[0] == 0
    copy.write_text(text.replace("tokens[places + 2]", "tokens[1 + places]"))
    assert command(tmp_path, *check)[0] == 0


def test_no_factor_has_two_names():
    """A factor that is missing is named by its values in all cases: N/T is B, but nothing else."""
    for name, exercise in cases.EXERCISES.items():
        tables = [grade.factors(cases.letters(name, sizes)) for sizes in exercise.shapes]
        values = {factor: tuple(t.get(factor) for t in tables) for factor in tables[0]}
        for letters in itertools.combinations("B T S V NH HS OC parts".split(), 2):
            one, two = (values.get(grade.SIZE_NAMES.get(a, a)) for a in letters)
            assert one is None or not np.allclose(one, two if two else 0), (name, letters)
