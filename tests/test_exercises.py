"""
The exercises' grader: right answers pass, however written; wrong ones don't, and are named.

`pytest -s tests/test_exercises.py` prints the figures of exercises/README.md. Right answers are
made from the lesson's functions, and so are most wrong ones.
"""

import re
import shutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import train_gpt2 as gpt2

import numpy as np
import pytest

FOLDER = Path(gpt2.__file__).parent / "exercises"
sys.path.insert(0, str(FOLDER))

import cases  # noqa: E402
import check  # noqa: E402
import grade  # noqa: E402
import hunt  # noqa: E402
import mistakes  # noqa: E402
from hints import HINTS  # noqa: E402


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

the mean first
- m *= beta1
+ m[:] = beta1 * m + (1 - beta1) * g
- m += (1 - beta1) * g
+ pass

towards the gradient
- m += (1 - beta1) * g
+ m /= beta1; m += (1 - beta1) * (g - m)
"""

# The mutants of tests/test_mutants.py that are about layers and that mistakes.py doesn't have; what
# it has of the forward pass, for hunt.py alone, is tried with them
MUTANTS = r"""
== embedding_forward

no positions
- + wpe[:T]
+ + 0 * wpe[:T]

== embedding_backward

left from the step before
- dwpe[T:] = 0
+ pass

== normalize

not centered
- x - x.mean(-1, keepdims=True)
+ x - 0

mean over rows
- x - x.mean(-1, keepdims=True)
+ x - x.mean(0, keepdims=True)

eps outside the root
- np.sqrt(np.square(centered).mean(-1, keepdims=True) + LAYERNORM_EPS)
+ (np.sqrt(np.square(centered).mean(-1, keepdims=True)) + LAYERNORM_EPS)

== layernorm_forward

no bias
- norm * w + b
+ norm * w

== layernorm_backward

db a mean
- db[:] = dout.sum(0)
+ db[:] = dout.mean(0)

== linear_backward

dx of x
- return matmul(dout, w)
+ return 0.5 * matmul(dout, w)

== attend

sqrt(C)
- .mT / math.sqrt(HS)
+ .mT / math.sqrt(len(q) * HS)

no mask
- -np.inf, q.dtype), 1)
+ 0, q.dtype), 1)

keys shifted
- @ k.mT / math
+ @ np.roll(k, 1, 2).mT / math

values shifted
- att @ v
+ att @ np.roll(v, 1, 2)

== attention_forward

q and k swapped
- q, k, v = qkv
+ k, q, v = qkv

== gelu

erf
- (1 + gelu_tanh(x))
+ (1 + np.vectorize(math.erf)(x / 2**0.5))

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

== head_forward

sum for mean
- losses.mean()
+ losses.sum()

== softmax_in_place

wrong sign
- - target_logits
+ + target_logits

no logarithm of the sum
- np.log(total[:, 0])
+ total[:, 0]

maximum over rows
- logits -= logits.max(-1, keepdims=True)
+ logits -= logits.max(0, keepdims=True) / 2

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

== block_forward

first residual dropped
- mid = x + attproj
+ mid = attproj

second residual dropped
- out = mid + fcproj
+ out = fcproj

residual around norm
- out = mid + fcproj
+ out = ln2 + fcproj

== gpt2_forward

no last layernorm
- x, lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])
+ lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])[1]
"""

# Answers of learners: exercise | what the report should have in it
LEARNERS = r"""
== product | dx: w is not transposed
    dw[:] = x.T @ dout
    return dout @ w
== product | dw: right shape, transposed contents
    dw[:] = dout.T @ x
    return dout @ w.T
== product | dw: left unfilled
    dw = x.T @ dout
    return dout @ w.T
== product | dw: it is added to what was there
    dw += x.T @ dout
    return dout @ w.T
== product | dw it should fill
    return dout @ w.T, x.T @ dout
== product | dx: the two are multiplied element by element
    dw[:] = x.T @ dout
    return dout * w
== product | dx: the two are multiplied in the wrong order
    dw[:] = x.T @ dout
    return w.T @ dout
== bias | dp: it is the mean over the sequences
    dp[:] = dout.mean(0)
    db[:] = dout.sum((0, 1))
    return dout
== bias | db: it is the mean over the rows
    dp[:] = dout.sum(0)
    db[:] = dout.mean((0, 1))
    return dout
== bias | bias_backward returns nothing
    dp[:] = dout.sum(0)
    db[:] = dout.sum((0, 1))
== bias | dp: the sum is over the positions
    dp[:] = dout.sum(1)
    db[:] = dout.sum(0).sum(0)
    return dout
== bias | db: only the first of the sequences
    dp[:] = dout.sum(0)
    db[:] = dout[0].sum(0)
    return dout
== softmax | dx: only the diagonal of the softmax's Jacobian
    return dout * probs * (1 - probs)
== softmax | dx: the sum over the row is missing
    return dout * probs
== softmax | in the sum over the row, a factor of S is missing
    return probs * (dout - (dout * probs).mean(1, keepdims=True))
== softmax | the softmax's sum is over the wrong axis
    return probs * (dout - (dout * probs).sum(0))
== softmax | the sum over the row has the wrong sign
    return probs * (dout + (dout * probs).sum(1, keepdims=True))
== softmax | softmax_backward changes dout
    dout -= (dout * probs).sum(1, keepdims=True)
    dout *= probs
    return dout
== crossentropy | a factor of 1/N is missing
    d = probs.copy()
    d[np.arange(len(targets)), targets] -= 1
    return d * dloss
== crossentropy | changes its cache
    probs[np.arange(len(targets)), targets] -= 1
    return probs * (dloss / len(targets))
== crossentropy | 1 is subtracted in every row
    d = probs.copy()
    d[:, targets] -= 1
    return d * (dloss / len(targets))
== crossentropy | dloss is left out
    d = probs.copy()
    d[np.arange(len(targets)), targets] -= 1
    return d / len(targets)
== crossentropy | in the 1 at the target, a factor of 1/N is missing
    d = probs / len(targets)
    d[np.arange(len(targets)), targets] -= 1
    return d * dloss
== crossentropy | the sign is wrong
    d = -probs
    d[np.arange(len(targets)), targets] += 1
    return d * (dloss / len(targets))
== crossentropy | a factor of V/N is missing
    d = probs.copy()
    d[np.arange(len(targets)), targets] -= 1
    return d * dloss / probs.shape[1]
== gelu | the 3 of the cube's slope is left out
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * GELU_SCALE * (1 + GELU_CUBIC * x**2))
== gelu | 1 - tanh is used
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2))
== gelu | slope of the exact GELU
    phi = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dout * (0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) + x * phi)
== gelu | a factor of 1/2 is missing
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * (1 + t + x * (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2))
== gelu | the term through tanh is missing
    return dout * 0.5 * (1 + np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3)))
== gelu | float32 becomes float64
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    slope = (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * GELU_CUBIC * x**2)
    return dout * (0.5 * (1 + t) + 0.5 * x * slope)
== layernorm | dx: the term through the variance is missing
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True)) * rstd
== layernorm | in the term through the variance, the factor rstd comes twice
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True) - rstd * norm * (d * norm).mean(1, keepdims=True)) * rstd
== layernorm | dx: the term through the variance has the wrong sign
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True) + norm * (d * norm).mean(1, keepdims=True)) * rstd
== layernorm | dx: in the term through the variance, a factor of 1/2 is missing
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True) - 2 * norm * (d * norm).mean(1, keepdims=True)) * rstd
== layernorm | dw: the sum is over the channels
    dw[:] = (dout * norm).sum(1)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rstd
== layernorm | dx: the factor w is left out
    dw[:] = np.sum(dout * norm, axis=0)
    db[:] = np.sum(dout, axis=0)
    return (dout - dout.mean(1, keepdims=True) - norm * (dout * norm).mean(1, keepdims=True)) * rstd
== layernorm | dx: the terms through the mean and through the variance are left out
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    return dout * w * rstd
== embedding | dwte: a repeated token counts once
    B, T = tokens.shape
    d = dout.reshape(B, T, -1)
    dwte[tokens] += d
    dwpe[:] = 0
    dwpe[:T] = d.sum(0)
== embedding | dwte: it starts again from 0
    B, T = tokens.shape
    dwte[:] = 0
    np.add.at(dwte, tokens.ravel(), dout)
    dwpe[:] = 0
    dwpe[:T] = dout.reshape(B, T, -1).sum(0)
== embedding | dwpe: right, but where it is 0 it is left unfilled
    B, T = tokens.shape
    np.add.at(dwte, tokens.ravel(), dout)
    dwpe[:T] = dout.reshape(B, T, -1).sum(0)
== embedding | dwpe: it is added to what was there
    B, T = tokens.shape
    np.add.at(dwte, tokens.ravel(), dout)
    dwpe[:T] += dout.reshape(B, T, -1).sum(0)
    dwpe[T:] += 0
== embedding | dwpe: only the last of the B sequences counts
    B, T = tokens.shape
    np.add.at(dwte, tokens.ravel(), dout)
    dwpe[:] = 0
    for d in dout.reshape(B, T, -1):
        dwpe[:T] = d
== attention_head | dq and dk are swapped
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
    return d.T @ q, d @ k, att.T @ dout
== attention_head | dq, dk: the factor 1/sqrt(HS) is left out
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(1, keepdims=True))
    return d @ k, d.T @ q, att.T @ dout
== attention_head | dv: the weights are not transposed
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att @ dout
== attention_head | the softmax is left out
    d = dout @ v.T / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== attention_head | dk: the gradient of the scores is not transposed
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d @ q, att.T @ dout
== attention | heads and channels are mixed up
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
    return np.stack((d @ k, d.mT @ q, att.mT @ dout)).reshape(B * T, -1)
== attention | dq and dk are swapped
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    dqkv = np.empty((B * T, 3 * NH * HS), dout.dtype)
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
    views = dqkv.reshape(B, T, 3, NH, HS).transpose(2, 3, 0, 1, 4)
    views[:] = d.mT @ q, d @ k, att.mT @ dout
    return dqkv
== attention | has the shape
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
    return np.stack((d @ k, d.mT @ q, att.mT @ dout))
== attention | float32 becomes float64
    dout, dqkv = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3), np.zeros((B * T, 3 * NH * HS))
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
    views = dqkv.reshape(B, T, 3, NH, HS).transpose(2, 3, 0, 1, 4)
    views[:] = d @ k, d.mT @ q, att.mT @ dout
    return dqkv
== block | the second residual's way past the network is left out
    d = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    d = linear_backward(gelu_backward(d, gelu_cache), fc_cache, g["fcw"], g["fcb"])
    dmid = layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
    d = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    d = linear_backward(attention_backward(d, att_cache), qkv_cache, g["qkvw"], g["qkvb"])
    return dmid + layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
== block | dx: the first residual's way past attention is left out
    d = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    d = linear_backward(gelu_backward(d, gelu_cache), fc_cache, g["fcw"], g["fcb"])
    dmid = dout + layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
    d = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    d = linear_backward(attention_backward(d, att_cache), qkv_cache, g["qkvw"], g["qkvb"])
    return layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
== block | changes dout
    d = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    d = linear_backward(gelu_backward(d, gelu_cache), fc_cache, g["fcw"], g["fcb"])
    dout += layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
    d = linear_backward(dout, attproj_cache, g["attprojw"], g["attprojb"])
    d = linear_backward(attention_backward(d, att_cache), qkv_cache, g["qkvw"], g["qkvb"])
    return dout + layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
== tied | the head's gradient is left out
    dx = head_backward(dloss, head_cache, grads["wte"])
    dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l in (1, 0)[-len(block_caches):]:
        g = {name: grads[name][l] for name in IN_BLOCKS}
        dx = block_backward(dx, block_caches[l], g)
    grads["wte"][:] = 0
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
== tied | the blocks are taken in the order of the forward pass
    dx = head_backward(dloss, head_cache, grads["wte"])
    dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l, block_cache in enumerate(block_caches):
        g = {name: grads[name][l] for name in IN_BLOCKS}
        dx = block_backward(dx, block_cache, g)
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
== adamw | the biases of m and v are not corrected
    for n, p in params.items():
        m[n][:] = beta1 * m[n] + (1 - beta1) * grads[n]
        v[n][:] = beta2 * v[n] + (1 - beta2) * grads[n] ** 2
        p -= lr * (m[n] / (np.sqrt(v[n]) + eps) + weight_decay * p * (n in DECAYING))
== adamw | every tensor decays
    for n, p in params.items():
        m[n][:] = beta1 * m[n] + (1 - beta1) * grads[n]
        v[n][:] = beta2 * v[n] + (1 - beta2) * grads[n] ** 2
        mhat, vhat = m[n] / (1 - beta1**step), v[n] / (1 - beta2**step)
        p -= lr * (mhat / (np.sqrt(vhat) + eps) + weight_decay * p)
== adamw | not changed
    for n, p in params.items():
        m[n] = beta1 * m[n] + (1 - beta1) * grads[n]
        v[n] = beta2 * v[n] + (1 - beta2) * grads[n] ** 2
        mhat, vhat = m[n] / (1 - beta1**step), v[n] / (1 - beta2**step)
        params[n] = p - lr * (mhat / (np.sqrt(vhat) + eps) + weight_decay * p * (n in DECAYING))
== adamw | eps is inside the root
    for n, p in params.items():
        m[n][:] = beta1 * m[n] + (1 - beta1) * grads[n]
        v[n][:] = beta2 * v[n] + (1 - beta2) * grads[n] ** 2
        mhat, vhat = m[n] / (1 - beta1**step), v[n] / (1 - beta2**step)
        p -= lr * (mhat / np.sqrt(vhat + eps) + weight_decay * p * (n in DECAYING))
== block | left unfilled: = alone
    names = "ln1w ln1b qkvw qkvb attprojw attprojb ln2w ln2b fcw fcb fcprojw fcprojb".split()
    for name in names:
        g[name] = np.zeros_like(g[name])
    return 0 * dout
== accumulate | only the last batch counts
    losses = []
    for tokens, targets in batches:
        loss, cache = gpt2_forward(params, config, tokens, targets)
        gpt2_backward(1 / len(batches), cache, grads)
        losses.append(loss)
    return np.mean(losses)
== accumulate | a factor of 1/the number of batches is missing
    losses = []
    some = {name: np.empty_like(g) for name, g in grads.items()}
    for i, batch in enumerate(batches):
        loss, cache = gpt2_forward(params, config, *batch)
        gpt2_backward(1.0, cache, some)
        for name, g in grads.items():
            g[:] = some[name] + (g if i else 0)
        losses.append(loss)
    return np.mean(losses)
== accumulate | it is added to what was there
    losses = []
    some = {name: np.empty_like(g) for name, g in grads.items()}
    for batch in batches:
        loss, cache = gpt2_forward(params, config, *batch)
        gpt2_backward(1 / len(batches), cache, some)
        for name, g in grads.items():
            g += some[name]
        losses.append(loss)
    return np.mean(losses)
== layernorm | a factor of (C-1)/C is missing
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d, C = dout * w, len(w)
    dvar_term = norm * (d * norm).sum(1, keepdims=True) / (C - 1)
    return (d - d.mean(1, keepdims=True) - dvar_term) * rstd
== layernorm | keepdims=True is forgotten
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1) - norm * (d * norm).mean(1)) * rstd
== layernorm | a factor of 1/2 is missing, and the sign is wrong
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d, C = dout * w, len(w)
    centered = norm / rstd
    drstd = (d * centered).sum(1, keepdims=True)
    dvar = drstd * rstd**3
    dcentered = d * rstd + dvar * 2 / C * centered
    return dcentered - dcentered.mean(1, keepdims=True)
== layernorm | dw: the factor norm is left out
    dw[:] = dout.sum(0)
    db[:] = (dout * norm).sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rstd
== layernorm | means are over the whole array
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean() - norm * (d * norm).mean()) * rstd
== attention_head | keepdims=True is forgotten
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(-1)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== attention_head | dq: the keys are transposed
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k.T, q.T @ d, d.T @ dout
== attention_head | only the diagonal of the softmax's Jacobian
    datt = dout @ v.T
    d = datt * att * (1 - att) / math.sqrt(len(q))
    return d @ k, d.T @ q, att.T @ dout
== attention_head | dk: the factor 1/sqrt(HS) is left out
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(-1, keepdims=True))
    return d @ k / math.sqrt(q.shape[1]), d.T @ q, att.T @ dout
== attention_head | divided by HS, not by sqrt(HS)
    datt = dout @ v.T / math.sqrt(q.shape[1])
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== crossentropy | 1 is subtracted from whole rows
    d = probs.copy()
    d[targets] -= 1
    return d * dloss / len(targets)
== crossentropy | a factor of V is missing
    d = probs.copy()
    d[np.arange(len(targets)), targets] -= 1
    return d * dloss / d.size
== crossentropy | the softmax is left out
    d = np.zeros_like(probs)
    rows = np.arange(len(targets))
    d[rows, targets] = -1 / probs[rows, targets]
    return d * dloss / len(targets)
== crossentropy | the logarithm of the probabilities
    d = np.log(probs)
    d[np.arange(len(targets)), targets] -= 1
    return d * dloss / len(targets)
== crossentropy | a factor of 1/2 is missing
    onehot = np.eye(probs.shape[1])[targets]
    return 2 * (probs - onehot) * dloss / len(targets)
== crossentropy | set to 0, where 1 should be
    onehot = np.eye(probs.shape[1])[targets]
    return probs * (1 - onehot) * dloss / len(targets)
== crossentropy | float32 becomes float64
    return (probs - np.eye(probs.shape[1])[targets]) * dloss / len(targets)
== product | dx: x is used, where dout belongs
    dw[:] = x.T @ dout
    return x @ w.T
== product | a factor of N is missing
    dw[:] = (x.T @ dout) / len(x)
    return dout @ w.T
== product | dx: the sums are multiplied
    dw[:] = x.T @ dout
    return dout.sum(1, keepdims=True) * w.sum(1)
== bias | a factor of T is missing
    dp[:] = dout.sum(0)
    db[:] = dp.mean(0)
    return dout
== bias | does not depend on dout
    dp[:] = dout.sum(0)
    db[:] = dout.sum(0).sum(0)
    return np.ones_like(dout)
== softmax | not proportional to dout
    return probs * (dout - probs)
== softmax | not proportional to dout
    return probs * (1 - dout)
== softmax | the row's sum lacks the weight
    s = (dout * probs).sum(1, keepdims=True)
    return dout * probs - s
== softmax | wrong sign
    d = np.empty_like(dout)
    for n, p in enumerate(probs):
        J = np.diag(p) + np.outer(p, p)
        d[n] = J @ dout[n]
    return d
== gelu | not proportional to dout
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)
== gelu | the factor x is left out
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * 0.5 * (1 + t) + dout * 0.5 * (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)
== gelu | x^3 is used
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**3))
== gelu | should be a factor of both
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * (GELU_SCALE + 3 * GELU_CUBIC * x**2))
== embedding | counts once
    B, T = tokens.shape
    for n, t in enumerate(tokens.ravel()):
        dwte[t] = dout[n]
    dwpe[:] = 0
    dwpe[:T] = dout.reshape(B, T, -1).sum(0)
== embedding | the rows are cut into (T, B)
    B, T = tokens.shape
    np.add.at(dwte, tokens.ravel(), dout)
    dwpe[:] = 0
    dwpe[:T] = dout.reshape(T, B, -1).sum(1)
== embedding | not in the same order
    B, T = tokens.shape
    np.add.at(dwte, tokens.T.ravel(), dout)
    dwpe[:] = 0
    dwpe[:T] = dout.reshape(B, T, -1).sum(0)
== attention | sqrt(C) is used
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    dqkv = np.empty((B * T, 3 * NH * HS), dout.dtype)
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS * NH)
    views = dqkv.reshape(B, T, 3, NH, HS).transpose(2, 3, 0, 1, 4)
    views[:] = d @ k, d.mT @ q, att.mT @ dout
    return dqkv
== attention | dout is cut into (B, NH
    dout = dout.reshape(B, T, NH, HS).transpose(0, 2, 1, 3)
    dqkv = np.empty((B * T, 3 * NH * HS), dout.dtype)
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
    views = dqkv.reshape(B, T, 3, NH, HS).transpose(2, 3, 0, 1, 4)
    views[:] = d @ k, d.mT @ q, att.mT @ dout
    return dqkv
== attention | dk and dv are swapped
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
    parts = [a.transpose(1, 2, 0, 3).reshape(B * T, -1) for a in (d @ k, att.mT @ dout, d.mT @ q)]
    return np.concatenate(parts, 1)
== tied | left unfilled, or nan, in part: from [1] on
    dx = head_backward(dloss, head_cache, grads["wte"])
    dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l in reversed(range(len(block_caches))):
        g = {name: grads[name][0] for name in IN_BLOCKS}
        dx = block_backward(dx, block_caches[l], g)
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
== tied | dwte: it is added to what was there
    d = np.zeros_like(grads["wte"])
    dx = head_backward(dloss, head_cache, d)
    dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l in reversed(range(len(block_caches))):
        g = {name: grads[name][l] for name in IN_BLOCKS}
        dx = block_backward(dx, block_caches[l], g)
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
    grads["wte"] += d
== adamw | the decay comes after the step
    for n, p in params.items():
        m[n][:] = beta1 * m[n] + (1 - beta1) * grads[n]
        v[n][:] = beta2 * v[n] + (1 - beta2) * grads[n] ** 2
        mhat, vhat = m[n] / (1 - beta1**step), v[n] / (1 - beta2**step)
        p -= lr * mhat / (np.sqrt(vhat) + eps)
        if n in DECAYING:
            p -= lr * weight_decay * p
== adamw | the correction of v is outside the root
    for n, p in params.items():
        m[n] *= beta1
        m[n] += (1 - beta1) * grads[n]
        v[n] *= beta2
        v[n] += (1 - beta2) * grads[n] ** 2
        p -= lr * m[n] / (1 - beta1**step) / (np.sqrt(v[n]) / (1 - beta2**step) + eps)
        p -= p * lr * weight_decay * (n in DECAYING)
== adamw | the corrected value is stored
    for n, p in params.items():
        m[n] *= beta1
        m[n] += (1 - beta1) * grads[n]
        v[n] *= beta2
        v[n] += (1 - beta2) * grads[n] ** 2
        m[n] /= 1 - beta1**step
        v[n] /= 1 - beta2**step
        if n in DECAYING:
            p *= 1 - lr * weight_decay
        p -= lr * m[n] / (np.sqrt(v[n]) + eps)
== adamw | the decay is not scaled by lr
    for n, p in params.items():
        m[n] *= beta1
        m[n] += (1 - beta1) * grads[n]
        v[n] *= beta2
        v[n] += (1 - beta2) * grads[n] ** 2
        if n in DECAYING:
            p *= 1 - weight_decay
        p -= lr * m[n] / (1 - beta1**step) / (np.sqrt(v[n] / (1 - beta2**step)) + eps)
== accumulate | the returned loss: a factor
    total = 0
    some = {n: np.zeros_like(g) for n, g in grads.items()}
    for n in grads: grads[n][:] = 0
    for tokens, targets in batches:
        loss, cache = gpt2_forward(params, config, tokens, targets)
        gpt2_backward(1.0, cache, some)
        for n in grads: grads[n] += some[n]
        total += loss
    for n in grads: grads[n] /= len(batches)
    return total
== accumulate | the batches have different weights
    total = 0
    for i, (tokens, targets) in enumerate(batches):
        loss, cache = gpt2_forward(params, config, tokens, targets)
        before = {n: g.copy() for n, g in grads.items()}
        gpt2_backward(1 / len(batches), cache, grads)
        if i:
            for n in grads: grads[n] += before[n] / 2
        total += loss / len(batches)
    return total
== block | both residuals
    dgelu = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    dln2 = linear_backward(gelu_backward(dgelu, gelu_cache), fc_cache, g["fcw"], g["fcb"])
    dmid = layernorm_backward(dln2, ln2_cache, g["ln2w"], g["ln2b"])
    d = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    d = linear_backward(attention_backward(d, att_cache), qkv_cache, g["qkvw"], g["qkvb"])
    return layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
== block | dln2w and dln2b are swapped
    dgelu = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    dln2 = linear_backward(gelu_backward(dgelu, gelu_cache), fc_cache, g["fcw"], g["fcb"])
    dmid = dout + layernorm_backward(dln2, ln2_cache, g["ln2b"], g["ln2w"])
    d = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    d = linear_backward(attention_backward(d, att_cache), qkv_cache, g["qkvw"], g["qkvb"])
    return dmid + layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
== layernorm | in the term through the mean, the factor rstd
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return d * rstd - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True) * rstd
== layernorm | a factor of N/C is missing
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d, N = dout * w, len(dout)
    return (d - d.sum(1, keepdims=True) / N - norm * (d * norm).sum(1, keepdims=True) / N) * rstd
== layernorm | eps is added once more
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    s = np.sqrt(1 / rstd**2 + LAYERNORM_EPS)
    return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) / s
== layernorm | the factor rstd comes twice
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True) - norm * (d * norm).mean(1, keepdims=True)) * rstd**2
== layernorm | the term through the variance is missing
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    mean = d.mean(1, keepdims=True)
    return (d - mean - norm * mean * norm.mean(1, keepdims=True)) * rstd
== attention_head | not proportional to dout
    datt = dout @ v.T
    d = softmax(datt) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== attention_head | this is what dk should be; and a factor of 1/sqrt(HS)
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(1, keepdims=True))
    return d.T @ q, d @ k, att.T @ dout
== attention_head | the scores are used
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, (q @ k.T).T @ dout
== attention_head | wrong axis
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(0, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== attention_head | the gradient of the weights is transposed
    datt = (dout @ v.T).T
    d = att * (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== crossentropy | a factor of N is missing
    d = probs / len(targets)
    d[np.arange(len(targets)), targets] -= 1 / len(targets)
    return d * dloss / len(targets)
== crossentropy | only in the last row
    d = np.zeros_like(probs)
    for n, t in enumerate(targets):
        d = probs.copy()
        d[n, t] -= 1
    return d * dloss / len(targets)
== crossentropy | not proportional to dout
    d = probs.copy()
    d[np.arange(len(targets)), targets] -= dloss
    return d / len(targets)
== crossentropy | the target's element has the wrong sign
    d = probs.copy()
    d[np.arange(len(targets)), targets] = 1 - d[np.arange(len(targets)), targets]
    return d * dloss / len(targets)
== softmax | the exponential of the weights
    e = np.exp(probs)
    return e * (dout - (dout * e).sum(1, keepdims=True))
== softmax | keepdims=True is forgotten
    return probs * (dout - (dout * probs).sum(1))
== gelu | the tanh is of x itself
    return dout * (0.5 * (1 + np.tanh(x)) + 0.5 * x * (1 - np.tanh(x)**2))
== embedding | starts again from 0
    B, T = tokens.shape
    d = np.zeros_like(dwte)
    np.add.at(d, tokens.ravel(), dout)
    dwte[:] = d
    dwpe[:] = 0
    dwpe[:T] = dout.reshape(B, T, -1).sum(0)
== embedding | the mean over a token's places
    B, T = tokens.shape
    for t in np.unique(tokens):
        dwte[t] += dout[tokens.ravel() == t].mean(0)
    dwpe[:] = 0
    dwpe[:T] = dout.reshape(B, T, -1).sum(0)
== embedding | only the first of the B sequences
    B, T = tokens.shape
    np.add.at(dwte, tokens.ravel(), dout)
    dwpe[:] = 0
    dwpe[:T] = dout[:T]
== product | dw: x is not transposed
    dw[:] = x @ dout
    return dout @ w.T
== bias | dx: the sum belongs to dp
    dp[:] = dout.sum(0)
    db[:] = dout.sum((0, 1))
    return dout.mean(0) + np.zeros_like(dout)
== softmax | the sign is wrong
    return probs * ((dout * probs).sum(1, keepdims=True) - dout)
== softmax | the logarithm of the softmax
    return dout - probs * dout.sum(1, keepdims=True)
== crossentropy | a factor of dloss/N is missing
    d = probs.copy()
    d[np.arange(len(targets)), targets] -= 1
    return d
== crossentropy | the 1 at the target has the wrong sign
    d = probs.copy()
    d[np.arange(len(targets)), targets] += 1
    return d * dloss / len(targets)
== gelu | the factor 0.5 * x is left out
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * (0.5 * (1 + t) + (1 - t**2) * GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2))
== gelu | sqrt(2 / pi) is left out
    t = np.tanh(GELU_SCALE * (x + GELU_CUBIC * x**3))
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * (1 + 3 * GELU_CUBIC * x**2))
== layernorm | dx: the means have dout
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - dout.mean(1, keepdims=True) - norm * (dout * norm).mean(1, keepdims=True)) * rstd
== layernorm | a factor of 1/C is missing
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout * w
    return (d - d.mean(1, keepdims=True) - norm * (d * norm).sum(1, keepdims=True)) * rstd
== layernorm | dx: w is multiplied with at the end
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    d = dout - dout.mean(1, keepdims=True) - norm * (dout * norm).mean(1, keepdims=True)
    return d * rstd * w
== layernorm | dx: the term through the mean is missing
    dw[:] = (dout * norm).mean(0)
    db[:] = dout.mean(0)
    d = dout * w
    return (d - norm * (d * norm).mean(1, keepdims=True)) * rstd
== embedding | it starts again from 0
    B, T = tokens.shape
    dwte[:] = np.eye(len(dwte))[tokens.ravel()].T @ dout
    dwpe[:] = 0
    dwpe[:T] = dout.reshape(B, T, -1).sum(0)
== attention_head | dv: a factor of sqrt(HS)
    s = math.sqrt(q.shape[1])
    datt = dout @ v.T
    d = att * (datt - (datt * att).sum(1, keepdims=True)) / s
    return d @ k, d.T @ q, att.T @ dout / s
== attention_head | the weights in front
    datt = dout @ v.T
    d = (datt - (datt * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== attention_head | the values are left out
    d = att * (dout - (dout * att).sum(1, keepdims=True)) / math.sqrt(q.shape[1])
    return d @ k, d.T @ q, att.T @ dout
== attention | dq and dv are swapped
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    dqkv = np.empty((B * T, 3 * NH * HS), dout.dtype)
    datt = dout @ v.mT
    d = att * (datt - (datt * att).sum(-1, keepdims=True)) / math.sqrt(HS)
    views = dqkv.reshape(B, T, 3, NH, HS).transpose(2, 3, 0, 1, 4)
    views[:] = att.mT @ dout, d.mT @ q, d @ k
    return dqkv
== adamw | there is no decay
    for n, p in params.items():
        m[n][:] = beta1 * m[n] + (1 - beta1) * grads[n]
        v[n][:] = beta2 * v[n] + (1 - beta2) * grads[n] ** 2
        p -= lr * (m[n] / (1 - beta1**step)) / (np.sqrt(v[n] / (1 - beta2**step)) + eps)
== block | gelu_backward is left out
    d = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    d = linear_backward(d, fc_cache, g["fcw"], g["fcb"])
    dmid = dout + layernorm_backward(d, ln2_cache, g["ln2w"], g["ln2b"])
    d = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    d = linear_backward(attention_backward(d, att_cache), qkv_cache, g["qkvw"], g["qkvb"])
    return dmid + layernorm_backward(d, ln1_cache, g["ln1w"], g["ln1b"])
== tied | the last layernorm's backward pass is left out
    dx = head_backward(dloss, head_cache, grads["wte"])
    layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l in reversed(range(len(block_caches))):
        g = {name: grads[name][l] for name in IN_BLOCKS}
        dx = block_backward(dx, block_caches[l], g)
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])
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
SHOWN = "layernorm | dx: in the term through the variance, a factor of 1/2 is missing"


def report_of(name, functions):
    """The grader's report of these functions, as one text; "" if they are right."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grade, "load", lambda path, function: functions)
        try:
            return "\n".join(grade.grade(name, cases.path_of(name)))
        except grade.Stop as stop:
            return str(stop)


def learner(name, body, tmp_path):
    """The report of an exercise's file, with this body."""
    path = tmp_path / cases.path_of(name).name
    text = cases.path_of(name).read_text(encoding="utf-8")
    path.write_text(text.replace(EMPTY, body + "\n"), encoding="utf-8")
    try:
        return "\n".join(grade.grade(name, path))
    except grade.Stop as stop:
        return str(stop)


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


def assert_in_readme(*figures):
    """The figures that exercises/README.md gives are these: tried, accepted, named."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(map(str, figures))} |" in text, f"it should say {figures}"


FORWARD = {  # the lesson's functions of the forward pass, and the exercise that each is in
    "embedding_forward": "embedding", "layernorm_forward": "layernorm", "normalize": "layernorm",
    "softmax": "softmax", "attend": "attention", "attention_forward": "attention", "gelu": "gelu",
    "softmax_in_place": "crossentropy", "head_forward": "crossentropy", "block_forward": "block",
    "gpt2_forward": "tied",
}  # fmt: skip


def exercises_of(mistake):
    """The exercises that a mistake in the lesson is one of, for backward passes and forward."""
    if mistake.function in FORWARD:
        return [FORWARD[mistake.function]]
    return [n for n, (where, _) in mistakes.WHERE.items() if re.fullmatch(where, mistake.function)]


@pytest.mark.parametrize("name", cases.ORDER)
def test_the_lesson_itself_is_right(name):
    assert report_of(name, cases.LESSON) == ""


def test_right_answers_pass_however_written():
    tried = 0
    for other in mistakes.read_mistakes(OTHERWISE):
        for name in exercises_of(other):
            assert report_of(name, mistakes.lesson_with(other)) == "", (name, other.name)
            tried += 1
    print(f"\nright answers, written in another way: {tried} passed")
    assert_in_readme(tried, tried, "")
    assert tried >= 20


@pytest.mark.filterwarnings("ignore:invalid value")  # of a mistake: a root of what is negative
def test_mistakes_that_are_known():
    counted, named, unnamed = 0, 0, []
    for name in cases.ORDER:
        for mistake, functions in mistakes.known_mistakes(name):
            if differs(name, functions):
                report = report_of(name, functions)
                assert report, f"{name}: {mistake}: accepted"
                counted += 1
                named += mistake in report
                unnamed += [] if mistake in report else [f"{name}: {mistake}\n{report}"]
    print(f"\nmistakes that the grader knows: {counted}, {named} named", *unnamed, sep="\n")
    assert named >= 0.9 * counted
    assert_in_readme(counted, 0, named)


def test_mutants_of_layers():
    counted, named, unnamed = 0, 0, []
    hunts = [mistake for mistake in mistakes.KNOWN if mistake.function in FORWARD]
    for mutant in mistakes.read_mistakes(MUTANTS) + hunts:
        for name in exercises_of(mutant):
            functions = mistakes.lesson_with(mutant)
            if mutant.function.endswith("backward") and not differs(name, functions):
                continue  # in a piece of the function that this exercise doesn't have
            report = report_of(name, functions)
            assert report, f"{name}: {mutant.name}: accepted"
            first = report.splitlines()[0]
            good = not re.search(r": wrong$|Error", first)
            counted, named = counted + 1, named + good
            print(f"{name:<15}{mutant.name:<30}{first}")
            unnamed += [] if good else [f"{name}: {mutant.name}\n{report}"]
    print(f"\nmutants of layers: {counted}, {named} named", *unnamed, sep="\n")
    assert counted >= 30
    assert named >= 0.9 * counted
    assert_in_readme(counted, 0, named)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_answers_of_learners(tmp_path):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    counted, named, unnamed = 0, 0, []
    for entry in LEARNERS.strip().removeprefix("== ").split("\n== "):
        head, body = entry.split("\n", 1)
        name, expected = head.split(" | ")
        report = learner(name, body, tmp_path)
        assert report, f"{head}: accepted"
        if head == SHOWN:
            assert all(line.strip() in readme for line in report.splitlines())
        counted, named = counted + 1, named + (expected in report)
        unnamed += [] if expected in report else [f"{head}\n{report}"]
    assert f"== {SHOWN}\n" in LEARNERS
    print(f"\nlearners' mistakes: {counted}, {named} named", *unnamed, sep="\n")
    assert counted >= 20
    assert named >= 0.9 * counted
    assert_in_readme(counted, 0, named)


def test_every_ending_is_a_line(tmp_path):
    """Whatever an answer does, there is a line that names the file, and no traceback."""
    with ThreadPoolExecutor(2) as pool:
        entries = [entry.split("\n", 1) for entry in ENDINGS.strip()[3:].split("\n== ")]
        paths = [tmp_path / f"{i}.py" for i in range(len(entries))]
        text = cases.path_of("layernorm").read_text(encoding="utf-8")
        line = f"line {text[: text.index(EMPTY)].count(chr(10)) + 1}"
        for path, (_, body) in zip(paths, entries, strict=True):
            path.write_text(text.replace(EMPTY, body.rstrip() + "\n"), encoding="utf-8")
        reports = pool.map(lambda path: check.run_grade("layernorm", path, 2.5), paths)
        for path, (expected, _), (status, lines) in zip(paths, entries, reports, strict=True):
            assert status == grade.WRONG
            assert "Traceback" not in "\n".join(lines)
            assert expected.replace("LINE", line) in lines[0], (expected, lines)
            assert len(lines) == 1 or "prints" in lines[0] or "nan" in lines[0]
            assert path.name in lines[0] or "layernorm_backward" in lines[0] or "dx" in lines[0]
    path.write_bytes(b"\xff\xfe")
    assert check.run_grade("layernorm", path)[1] == [f"{path.name}: is not a text in UTF-8"]
    path.unlink()
    assert "there is no such file" in check.run_grade("layernorm", path)[1][0]


def copied(tmp_path):
    """A copy of the project's files that the exercises need."""
    for name in "tests", "tools":
        (tmp_path / name).mkdir()
    for name in "train_gpt2.py", *hunt.TESTED_WITH:
        shutil.copy(FOLDER.parent / name, tmp_path / name)
    shutil.copytree(FOLDER, tmp_path / "exercises", ignore=shutil.ignore_patterns("hunt_*"))


def command(folder, *words):
    """Run a program in a copy -> its exit status, what it wrote."""
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_going_through_them(tmp_path):
    copied(tmp_path)
    path = tmp_path / "exercises" / "01_product.py"
    body = "    dw[:] = x.T @ dout\n    return dout @ w.T\n"
    path.write_text(path.read_text(encoding="utf-8").replace(EMPTY, body), encoding="utf-8")
    status, text = command(tmp_path, "exercises/check.py")
    assert status == 1
    assert "  done  01_product.py" in text
    assert text.count(" empty  ") == 12
    assert "02_bias.py" in text.split("next: ")[1]
    status, text = command(tmp_path, "exercises/check.py", "product")
    assert status == 0
    assert "done" in text
    assert command(tmp_path, "exercises/check.py", "bias")[0] == grade.EMPTY
    assert command(tmp_path, "exercises/check.py", "biased")[0] == 2
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
    for name in cases.ORDER:
        text = cases.path_of(name).read_text(encoding="utf-8")
        assert text.count(EMPTY) == 1
        assert text.endswith(EMPTY)
        assert f"check.py {name}" in text
        assert f"Exercise {cases.ORDER.index(name) + 1} of {len(cases.ORDER)}" in text


def trained(lesson):
    """The parameters and gradients of a small model after two steps with this lesson."""
    flat, config = lesson.load_weights(FOLDER.parent / "tests" / "small_weights.bin")
    views = [lesson.named_views(a, config) for a in (flat, *np.zeros((3, len(flat)), np.float32))]
    params, grads, m, v = views
    tokens = np.random.default_rng(1).integers(config.V, size=(2, 3, config.maxT - 1))
    for step, x in enumerate(tokens, 1):
        _, cache = lesson.gpt2_forward(params, config, x, np.roll(x, -1, 1))
        lesson.gpt2_backward(1.0, cache, grads)
        lesson.adamw_update(params, grads, m, v, step, 1e-2, weight_decay=0.1)
    return np.concatenate([view.ravel() for view in (params | grads).values()] + [flat])


def test_each_hunt_has_a_line_and_a_red_test(tmp_path):
    copied(tmp_path)
    status, text = command(tmp_path, "exercises/hunt.py")
    assert status == 0
    assert len(re.findall(r"\d+", text)) == len(mistakes.HUNTS) == 30
    original = Path(gpt2.__file__).read_text(encoding="utf-8").splitlines()
    healthy = trained(gpt2)
    for number in range(1, 31):
        text, line = hunt.hunted_file(number)
        pairs = enumerate(zip(original, text.splitlines(), strict=True), 1)
        assert [i for i, (a, b) in pairs if a != b] == [line]
        module = types.ModuleType("hunted")
        module.__file__ = gpt2.__file__
        exec(compile(text, gpt2.__file__, "exec"), vars(module))
        assert not np.allclose(trained(module), healthy, 1e-4, 1e-6), number

    def red(number):
        made, text = command(tmp_path, "exercises/hunt.py", number)
        folder = tmp_path / "exercises" / f"hunt_{number:02}"
        assert made == 0
        assert folder.name in text
        status, text = command(folder, "test_gpt2.py", "--quick")
        return status == 1 and "failed: " in text

    with ThreadPoolExecutor(2) as pool:  # two of them: all thirty take a minute
        assert all(pool.map(red, (3, 24)))
    _, line = hunt.hunted_file(3)
    assert command(tmp_path, "exercises/hunt.py", 3, "--check", line)[0] == 0
    assert command(tmp_path, "exercises/hunt.py", 3, "--check", line + 1)[0] == 1
    assert command(tmp_path, "exercises/hunt.py", 31)[0] == 2
