"""
Errors put into the code: each turns `test_gpt2.py --quick` red, or else the test it names.

An error is one small edit, made in a copy. It counts as caught by the parity test only if a row of
its table says so; a crash does not count. What the parity test can't see (sampling, batches, files,
the training loop, numbers far from 1) is caught by the pytest file behind the question mark.
`pytest -s tests/test_mutants.py` prints the table: mutant, what caught it.
"""

import json
import os
import queue
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import PROJECT, SMALL_STATE, SMALL_WEIGHTS, make_project

WORKERS = 2

# What is wrong; behind a question mark, the tests to run; behind an @, the file, if that is not
# train_gpt2.py; a piece that stands in it once; what it becomes. $: end of line
MUTANTS = r"""
embedding: no positions
- out = wte[tokens] + wpe[:T]
+ out = wte[tokens] + 0 * wpe[:T]

embedding: positions off by one
- out = wte[tokens] + wpe[:T]
+ out = wte[tokens] + wpe[1 : T + 1]

embedding: a repeated token counts once
- np.add.at(dwte, tokens, dout)
+ dwte[tokens] += dout

tied wte: = for +=
- np.add.at(dwte, tokens, dout)
+ dwte[:] = 0; np.add.at(dwte, tokens, dout)

tied wte: head's gradient missing
- matmul(dlogits.T, x, out=dwte)
+ dwte[:] = 0

tied wte: left from the step before
- matmul(dlogits.T, x, out=dwte)
+ dwte += dlogits.T @ x

wpe: mean over B, not sum
- dwpe[:T] = dout.sum(0)
+ dwpe[:T] = dout.mean(0)

wpe: rows beyond T stale
- dwpe[T:] = 0
+ pass

layernorm: x not centered
- centered = x - x.mean(-1, keepdims=True)
+ centered = x - 0

layernorm: mean over rows
- x - x.mean(-1, keepdims=True)
+ x - x.mean(0, keepdims=True)

layernorm: eps 1e-6
- LAYERNORM_EPS = 1e-5
+ LAYERNORM_EPS = 1e-6

layernorm: eps outside the root
- np.sqrt(np.square(centered).mean(-1, keepdims=True) + LAYERNORM_EPS)
+ (np.sqrt(np.square(centered).mean(-1, keepdims=True)) + LAYERNORM_EPS)

layernorm: unbiased variance
- np.square(centered).mean(-1, keepdims=True)
+ np.square(centered).sum(-1, keepdims=True) / (x.shape[-1] - 1)

layernorm: no bias
- norm * w + b, (norm
+ norm * w, (norm

layernorm: no w in dx
- normalize_backward(dout * w, norm
+ normalize_backward(dout, norm

layernorm: first term dropped
- (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm)
+ (-dnorm.mean(-1, keepdims=True) - norm * along_norm)

layernorm: mean term dropped
- (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm)
+ (dnorm - norm * along_norm)

layernorm: variance term dropped
- (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm)
+ (dnorm - dnorm.mean(-1, keepdims=True))

layernorm: no rstd in dx
- - norm * along_norm) * rstd
+ - norm * along_norm)

layernorm: dw of dout alone
- dw[:] = (dout * norm).sum(0)
+ dw[:] = dout.sum(0)

layernorm: db a mean
- db[:] = dout.sum(0)$    return normalize
+ db[:] = dout.mean(0)$    return normalize

linear: no bias
- matmul(x, w.T) + b, (x, w)
+ matmul(x, w.T), (x, w)

linear: dx of x
- return matmul(dout, w)$
+ return 0.5 * matmul(dout, w)$

linear: db summed over channels
- db[:] = dout.sum(0)$    return matmul
+ db[:] = np.resize(dout.sum(1), db.shape)$    return matmul

linear: db of the first row
- db[:] = dout.sum(0)$    return matmul
+ db[:] = dout[0]$    return matmul

linear: dw added to what was there
- matmul(dout.T, x, out=dw)
+ dw += dout.T @ x

attention: no 1/sqrt(HS) forward
- q @ k.mT / math.sqrt(HS)
+ q @ k.mT

attention: no 1/sqrt(HS) backward
- dpreatt /= math.sqrt(q.shape[-1])
+ pass

attention: no 1/sqrt(HS) in both
- q @ k.mT / math.sqrt(HS)
+ q @ k.mT
- dpreatt /= math.sqrt(q.shape[-1])
+ pass

attention: sqrt(C)
- q @ k.mT / math.sqrt(HS)
+ q @ k.mT / math.sqrt(len(q) * HS)

attention: mask off by one
- -np.inf, q.dtype), 1)
+ -np.inf, q.dtype), 2)

attention: no mask
- -np.inf, q.dtype), 1)
+ 0, q.dtype), 1)

attention: -1 for -inf
- -np.inf, q.dtype), 1)
+ -1, q.dtype), 1)

attention: keys shifted
- q @ k.mT / math
+ q @ np.roll(k, 1, 2).mT / math

attention: values shifted
- return att @ v, att
+ return att @ np.roll(v, 1, 2), att

attention: q and k swapped forward
- q, k, v = qkv.transpose
+ k, q, v = qkv.transpose

attention: dq and dk swapped
- return dq, dk, dv$
+ return dk, dq, dv$

attention: dk and dv swapped
- return dq, dk, dv$
+ return dq, dv, dk$

attention: softmax's mean term dropped
- (datt - (datt * att).sum(-1, keepdims=True))
+ datt

attention: plain mean in softmax
- (datt * att).sum(-1, keepdims=True)
+ datt.mean(-1, keepdims=True)

attention: mean over queries
- (datt * att).sum(-1, keepdims=True)
+ (datt * att).sum(-2, keepdims=True)

attention: dpreatt without att
- dpreatt = att * (datt
+ dpreatt = 1 * (datt

attention: dv of the last tile only
- dv[seen] += dv_tile
+ dv[seen] = dv_tile

attention: dk of the last tile only
- dk[seen] += dk_tile
+ dk[seen] = dk_tile

attention: gradients of the newest keys alone
- end - TILE : end], np.s_[:, :, :end]
+ end - TILE : end], np.s_[:, :, -end:]

attention: dv begins at 1
- np.zeros_like(k), np.zeros_like(v)
+ np.zeros_like(k), np.ones_like(v)

attention: heads and channels mixed
- qkv.reshape(B, -1, 3, NH, qkv.shape[1] // (3 * NH))
+ qkv.reshape(B, -1, 3, qkv.shape[1] // (3 * NH), NH).swapaxes(3, 4)

attention: heads and tokens mixed in dout
- dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
+ dout.reshape(NH, B, T, HS)

softmax: sum over the wrong axis
- return weights / weights.sum(-1, keepdims=True)
+ return weights / weights.sum(-2, keepdims=True)

gelu: erf
- return 0.5 * x * (1 + gelu_tanh(x))
+ return 0.5 * x * (1 + np.vectorize(math.erf, [x.dtype])(x / 2**0.5))

gelu: erf in both
- return np.tanh(GELU_SCALE * (x + GELU_CUBIC * (x * x * x)))
+ return np.vectorize(math.erf, [x.dtype])(x / 2**0.5)

gelu: a constant a little off
- math.pi), 0.044715
+ math.pi), 0.04475

gelu: sqrt(2 / pi) rounded
- = math.sqrt(2 / math.pi), 0
+ = 0.798, 0

gelu: x squared for cubed
- GELU_CUBIC * (x * x * x)
+ GELU_CUBIC * (x * x)

gelu: 1 + tanh^2
- (1 - tanh * tanh)
+ (1 + tanh * tanh)

gelu: no 3
- (1 + 3 * GELU_CUBIC * (x * x))
+ (1 + GELU_CUBIC * (x * x))

gelu: second term dropped
- dout * (0.5 * (1 + tanh) + 0.5 * x * slope)
+ dout * (0.5 * (1 + tanh))

gelu: sign of the second term
- + 0.5 * x * slope
+ - 0.5 * x * slope

loss: no 1/(B*T)
- dlogits *= dloss / N
+ dlogits *= dloss

loss: no 1/(B*T) at the target
- dlogits[np.arange(N), targets] -= 1
+ dlogits[np.arange(N), targets] -= N

loss: target not subtracted
- dlogits[np.arange(N), targets] -= 1
+ pass

loss: subtracted from the token before the target
- dlogits[np.arange(N), targets] -= 1
+ dlogits[np.arange(N), targets - 1] -= 1

loss: subtracted from each row's other targets
- dlogits[np.arange(N), targets] -= 1
+ dlogits[:, targets] -= 1

loss: 1/T for 1/(B*T)
- dlogits *= dloss / N
+ dlogits *= dloss / (N // 3)

loss: sum for mean
- return losses.mean(), (probs
+ return losses.sum(), (probs

loss: wrong sign
- return np.log(total[:, 0]) - target_logits
+ return target_logits - np.log(total[:, 0])

loss: no logarithm of the sum
- np.log(total[:, 0])
+ total[:, 0]

loss: maximum over rows
- logits -= logits.max(-1, keepdims=True)
+ logits -= logits.max(0, keepdims=True, initial=-99)

head: not scaled by dloss
- dlogits *= dloss / N
+ dlogits *= 1 / N

head: dwte not scaled
- dlogits *= dloss / N
+ matmul(dlogits.T, x, out=dwte); dlogits *= dloss / N
- matmul(dlogits.T, x, out=dwte)
+ pass

head: probabilities that do not sum to 1
- logits /= total
+ pass

head: targets end before the last token
- logits[np.arange(len(targets)), targets]
+ logits[np.arange(len(targets)), np.minimum(targets, logits.shape[1] - 2)]

block: first residual dropped
- mid = x + attproj$
+ mid = attproj$

block: second residual dropped
- out = mid + fcproj$
+ out = fcproj$

block: residual around norm
- out = mid + fcproj$
+ out = ln2 + fcproj$

block: first residual's gradient
- return dmid + layernorm_backward(dln1
+ return layernorm_backward(dln1

block: second residual's gradient
- dmid = dout + layernorm_backward
+ dmid = layernorm_backward

block: residual past the middle
- return dmid + layernorm_backward(dln1
+ return dout + layernorm_backward(dln1

block: second layernorm reads x
- layernorm_forward(mid, p["ln2w"]
+ layernorm_forward(x, p["ln2w"]

block: no gelu
- linear_forward(gelu, p["fcprojw"]
+ linear_forward(fc, p["fcprojw"]

block: fc's gradient without gelu's
- linear_backward(dfc, fc_cache
+ linear_backward(dgelu, fc_cache

model: blocks backward in order
- for l in reversed(range(len(block_caches))):
+ for l in range(len(block_caches)):

model: no last layernorm
- x, lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])
+ lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])[1]

model: lnf's gradients swapped
- lnf_cache, grads["lnfw"], grads["lnfb"])
+ lnf_cache, grads["lnfb"], grads["lnfw"])

table: wpe is no matrix
- "wpe": ("maxT C", MATRIX)
+ "wpe": ("maxT C", SHIFT)

table: fcprojw is no matrix
- "fcprojw": ("L C 4C", PROJECTION)
+ "fcprojw": ("L C 4C", SHIFT)

table: lnfw decays
- "lnfw": ("C", SCALE)
+ "lnfw": ("C", MATRIX)

adamw: no bias correction of m
- m / (1 - beta1**step)
+ m + 0

adamw: no bias correction of v
- v / (1 - beta2**step)
+ v + 0

adamw: step off by one
- m / (1 - beta1**step)
+ m / (1 - beta1 ** (step + 1))

adamw: eps inside the root
- (np.sqrt(v_hat) + eps)
+ np.sqrt(v_hat + eps)

adamw: eps before the correction
- (np.sqrt(v_hat) + eps)
+ (np.sqrt(v_hat) + eps / math.sqrt(1 - beta2**step))

adamw: decay coupled (L2)
- m *= beta1
+ g = g + weight_decay * p; m *= beta1
- p *= 1 - lr * weight_decay
+ pass

adamw: decay on everything
- weight_decay if name in DECAYING else 0.0
+ weight_decay

adamw: no decay
- p *= 1 - lr * weight_decay
+ pass

adamw: decay not scaled by lr
- p *= 1 - lr * weight_decay
+ p *= 1 - weight_decay

adamw: decay after the step
- if weight_decay:$        p *= 1 - lr * weight_decay$    p -= lr * m_hat / (np.sqrt(v_hat) + eps)
+ p -= lr * m_hat / (np.sqrt(v_hat) + eps)$    p *= 1 - lr * weight_decay

adamw: m and v swapped
- lr * m_hat / (np.sqrt(v_hat) + eps)
+ lr * v_hat / (np.sqrt(abs(m_hat)) + eps)

adamw: beta1 for beta2
- v *= beta2
+ v *= beta1

adamw: g for g squared
- (1 - beta2) * (g * g)
+ (1 - beta2) * abs(g)

adamw: uphill
- p -= lr
+ p += lr

chunks: the last row of a chunk
- rows = slice(start, start + size)
+ rows = slice(start, start + max(1, size - 1))

chunks: one thread's share
- POOL.map(work, range(THREADS))
+ POOL.map(work, range(max(1, THREADS - 1)))

chunks: outputs of float64
- out.shape[1:]), out.dtype)
+ out.shape[1:]))

chunks: only the first array is changed in place
? test_layers.py -k by_rows
- found = f(*(a[rows] for a in arrays)
+ found = f(arrays[0][rows], *(a[rows].copy() for a in arrays[1:])

chunks: options are lost
? test_layers.py -k by_rows
- for a in arrays), **options)$        return found
+ for a in arrays))$        return found

chunks: the first output alone
? test_layers.py -k by_rows
- return outs[0] if len(outs) == 1 else tuple(outs)
+ return outs[0]

chunks: the last one of a large array
? test_layers.py -k "pytorch and chunk"
- in range(thread * size, n, THREADS * size)
+ in range(thread * size, n - size * (arrays[0].size > 2**18), THREADS * size)

chunks: an error in a thread is lost
? test_layers.py -k raises_what_was_raised
- list(POOL.map(work, range(THREADS)))
+ [POOL.submit(work, thread).exception() for thread in range(THREADS)]

matmul: float64
? test_layers.py -k "keeps_dtype"
- b.shape[1]), a.dtype)
+ b.shape[1]))

matmul: the last part is missing
? test_layers.py -k test_matmul
- list(POOL.map(np.matmul, *parts))
+ list(POOL.map(np.matmul, *(part[: max(1, len(part) - 1)] for part in parts)))

attention: scores in float64
? test_layers.py -k scores_are
- q @ k.mT / math.sqrt(HS)
+ q @ k.mT / np.sqrt(HS)

attention: the first columns are masked
? test_layers.py -k plain_loop
- preatt[..., -t:] +=
+ preatt[..., :t] +=

attention: a tile sees the key after it
? test_layers.py -k plain_loop
- k[:, :, :end], v[:, :, :end])
+ k[:, :, : end + 1], v[:, :, : end + 1])
- end - TILE : end], np.s_[:, :, :end]
+ end - TILE : end], np.s_[:, :, : end + 1]

attention: -50 for -inf
? test_layers.py -k future
- -np.inf, q.dtype), 1)
+ -50, q.dtype), 1)

attention: -10,000 for -inf
? test_layers.py -k future
- -np.inf, q.dtype), 1)
+ -10000, q.dtype), 1)

attention: -1e9 for -inf
? test_layers.py -k future
- -np.inf, q.dtype), 1)
+ -1e9, q.dtype), 1)

layernorm: variance as E[x^2] - mean^2
? test_layers.py -k layernorm_far_from_0
- np.square(centered).mean(-1, keepdims=True)
+ np.square(x).mean(-1, keepdims=True) - np.square(x.mean(-1, keepdims=True))

gelu: 0.044716
? test_layers.py -k published_formula
- math.pi), 0.044715
+ math.pi), 0.044716

softmax: no maximum subtracted
? test_layers.py -k stay_finite
- np.exp(x - x.max(-1, keepdims=True))
+ np.exp(x)

head: no maximum subtracted
? test_layers.py -k loss_of_large_logits
- logits -= logits.max(-1, keepdims=True)
+ pass

head: a loss of no more than 100
? test_layers.py -k no_chance
- return losses.mean(), (probs
+ return np.minimum(losses, 100).mean(), (probs

model: token ids wrapped at 2**15
? test_layers.py -k "pytorch and ids"
- embedding_cache = embedding_forward(tokens,
+ embedding_cache = embedding_forward(tokens % 2**15,

model: targets wrapped at 2**15
? test_layers.py -k "pytorch and ids"
- targets.reshape(-1))$    return loss
+ targets.reshape(-1) % 2**15)$    return loss

model: blocks above the eighth skipped
? test_layers.py -k "pytorch and 12"
- for l in range(config.L):
+ for l in range(min(config.L, 8)):

model: blocks above the eighth have no gradient
? test_layers.py -k "pytorch and 12"
- for l in reversed(range(len(block_caches))):
+ for l in reversed(range(min(len(block_caches), 8))):

adamw: gradients above 10,000 clipped
? test_layers.py -k one_size
- m += (1 - beta1) * g
+ m += (1 - beta1) * np.clip(g, -1e4, 1e4)

adamw: eps of 1e-7 by default
? test_layers.py -k "one_size or gpt2s"
- beta2=0.999, eps=1e-8, weight_decay=0.0)
+ beta2=0.999, eps=1e-7, weight_decay=0.0)

adamw: eps on v only where it is small
? test_layers.py -k one_size
- (np.sqrt(v_hat) + eps)
+ np.maximum(np.sqrt(v_hat), eps)

adamw: m's correction ends at step 100
? test_layers.py -k many_steps
- m / (1 - beta1**step)
+ m / (1 - beta1 ** min(step, 100))

adamw: v's correction ends at step 1,000
? test_layers.py -k many_steps
- v / (1 - beta2**step)
+ v / (1 - beta2 ** min(step, 1000))

learning rate: begins at 0
? test_layers.py -k test_learning_rate
- return lr * (step + 1) / warmup
+ return lr * step / warmup

learning rate: one step more of warm-up
? test_layers.py -k test_learning_rate
- if step < warmup:
+ if step <= warmup:

learning rate: cosine from the start of the warm-up
? test_layers.py -k test_learning_rate
- progress = (step - warmup) / max(1, steps - warmup)
+ progress = step / max(1, steps)

learning rate: a straight line
? test_layers.py -k test_learning_rate
- 0.5 * (1 + math.cos(math.pi * progress))
+ (1 - progress)

learning rate: down to 0
? test_layers.py -k test_learning_rate
- lr * (min_lr_frac + (1 - min_lr_frac) * 0.5
+ lr * (0.5

clipping: no root
? test_layers.py -k clipping
- norm = math.sqrt(sum(
+ norm = (sum(

clipping: half of the numbers
? test_layers.py -k clipping
- by_rows(np.vecdot)(x, x)
+ 2 * by_rows(np.vecdot)(x[:, ::2], x[:, ::2])

clipping: the odd row of a tensor
? test_layers.py -k clipping
- by_rows(np.vecdot)(x, x)
+ by_rows(np.vecdot)(x, x)[: max(1, len(x) // 2 * 2)]

clipping: biases and layernorms left out
? test_layers.py -k clipping
- for x in rows)
+ for x in rows if len(x) > 1)

clipping: to the norm of each tensor
? test_layers.py -k clipping
- grad *= max_norm / norm
+ grad *= max_norm / np.linalg.norm(grad)

clipping: small gradients grow
? test_layers.py -k clipping
- if max_norm < norm < math.inf:
+ if 0 < max_norm < math.inf:

clipping: infinity divided away
? test_layers.py -k clipping
- if max_norm < norm < math.inf:
+ if max_norm < norm:

clipping: returns the norm after it
? test_layers.py -k clipping
- grad *= max_norm / norm$    return norm
+ grad *= max_norm / norm$    return min(norm, max_norm)

random weights: projections as large as matrices
? test_layers.py -k initial_weights
- 0.02 if TENSORS[name][1] == MATRIX else 0.02 / math.sqrt(2 * config.L)
+ 0.02

random weights: the root of L
? test_layers.py -k initial_weights
- / math.sqrt(2 * config.L)
+ / math.sqrt(config.L)

random weights: layernorms of 0
? test_layers.py -k initial_weights
- view[:] = 1
+ view[:] = 0

random weights: uniform
? test_layers.py -k initial_weights
- rng.standard_normal(out=view, dtype=np.float32)
+ view[:] = rng.uniform(-(3**0.5), 3**0.5, view.shape)

random weights: one seed for all
? test_layers.py -k initial_weights
- rng = np.random.default_rng(seed)$    flat
+ rng = np.random.default_rng(1337)$    flat

random weights: no more than 99 layers
? test_layers.py -k named_sizes
- len(name) < 5
+ len(name) < 4

random weights: d24 has 24 heads of fewer channels
? test_layers.py -k named_sizes
- 24: (16, 1024)
+ 24: (32, 1024)

random weights: d48 has 50 heads
? test_layers.py -k named_sizes
- 48: (25, 1600)
+ 48: (50, 1600)

generate: sees a token less than maxT
? test_layers.py -k generate_sees
- tokens[-config.maxT :]
+ tokens[-max(1, config.maxT - 1) :]

generate: sees the oldest tokens
? test_layers.py -k generate_sees
- tokens[-config.maxT :]
+ tokens[: config.maxT]

generate: what follows the first token
? test_layers.py -k generate_sees
- cache[-1][0][-1].astype
+ cache[-1][0][0].astype

generate: the likeliest token
? test_layers.py -k generate_draws
- int(rng.choice(len(probs), p=probs / probs.sum()))
+ int(probs.argmax())

generate: a temperature of 0.5
? test_layers.py -k generate_draws
- p=probs / probs.sum()
+ p=probs**2 / (probs**2).sum()

generate: the given list grows
? test_layers.py -k generate_draws
- tokens = [*tokens, int(
+ tokens += [int(

kept keys: always written at the beginning
? test_sampling.py -k whole_forward
@ tools/sampling.py
- past[l][:, :, :, start : start + T] = k, v
+ past[l][:, :, :, :T] = k, v

kept keys: k and v swapped
? test_sampling.py -k whole_forward
@ tools/sampling.py
- *past[l][:, :, :, : start + T]
+ *past[l][::-1, :, :, : start + T]

kept keys: heads and channels mixed
? test_sampling.py -k whole_forward
@ tools/sampling.py
- transpose(1, 2, 0, 3).reshape
+ transpose(1, 2, 3, 0).reshape

kept keys: all positions are the first
? test_sampling.py -k whole_forward
@ tools/sampling.py
- params["wpe"][start:]
+ params["wpe"]

kept keys: those of one block for all
? test_sampling.py -k whole_forward
@ tools/sampling.py
- past[l][:, :, :, start : start + T] = k, v
+ past[0][:, :, :, start : start + T] = k, v
- *past[l]
+ *past[0]

kept keys: of float64
? test_sampling.py -k whole_forward
@ tools/sampling.py
- C // NH), params["wte"].dtype)
+ C // NH))

kept keys: not used
? test_sampling.py -k only_new
@ tools/sampling.py
- start, new = tokens.shape[1], pick(
+ start, new = 0, pick(

kept keys: blocks above the eighth skipped
? test_sampling.py -k whole_forward
@ tools/sampling.py
- for l in range(L):
+ for l in range(min(L, 8)):

kept keys: another row than the last
? test_sampling.py -k whole_forward
@ tools/sampling.py
- x.reshape(B, T, C)[:, -1]
+ x[-B:]

kept keys: no last layernorm
? test_sampling.py -k whole_forward
@ tools/sampling.py
- newest, _ = layernorm_forward(x.reshape(B, T, C)[:, -1], params["lnfw"], params["lnfb"])
+ newest = x.reshape(B, T, C)[:, -1]

kept keys: forgets before it has to
? test_sampling.py -k only_new
@ tools/sampling.py
- if tokens.shape[1] > maxT:
+ if tokens.shape[1] >= maxT:

kept keys: forgets one token more
? test_sampling.py -k whole_forward
@ tools/sampling.py
- -max(1, maxT // 2) :]
+ -max(1, maxT // 2 - 1) :]

kept keys: forgets with the old keys and values
? test_sampling.py -k whole_forward
@ tools/sampling.py
- maxT // 2) :], 0
+ maxT // 2) :], max(1, maxT // 2) - 1

kept keys: the last rows of a product
? test_sampling.py -k products
@ tools/sampling.py
- w[whole:] @ x.T
+ 0

samples: of logits that are not finite
? test_sampling.py -k not_finite
@ tools/sampling.py
- if not np.isfinite(logits.max()):
+ if False:

samples: of logits of which one is infinite
? test_sampling.py -k not_finite
@ tools/sampling.py
- if not np.isfinite(logits.max()):
+ if not np.isfinite(logits.min()):

batches: one too many
? test_formats.py -k batches
- i % ((len(tokens) - 1) // (B * T)) * (B * T)
+ i % (len(tokens) // (B * T)) * (B * T)

batches: no wrapping around
? test_formats.py -k batches_in_order
- i % ((len(tokens) - 1) // (B * T)) * (B * T)
+ i * (B * T)

batches: overlapping
? test_formats.py -k batches_in_order
- (len(tokens) - 1) // (B * T)) * (B * T)
+ (len(tokens) - 1) // (B * T)) * T

batches: y is x
? test_formats.py -k batches_in_order
- window[1:].reshape(B, T)
+ window[:-1].reshape(B, T)

batches: token ids wrapped at 2**15
? test_formats.py -k large_ids
- .astype(np.int64)$    return window
+ .astype(np.int16).astype(np.int64)$    return window

lesson's files: token ids wrapped at 2**15
? test_formats.py -k lesson_reads
- np.fromfile(path, "<u2"
+ np.fromfile(path, "<i2"

lesson's files: 0 is no vocabulary
? test_formats.py -k lesson_reads
- V or GPT2_VOCAB_SIZE
+ V

lesson's files: a token too high
? test_formats.py -k lesson_refuses
- tokens.max() >= V:
+ tokens.max() > V:

lesson's files: count of tokens not compared
? test_formats.py -k lesson_refuses
- if not 0 < len(tokens) == count or
+ if not 0 < len(tokens) or

lesson's files: length of weights not compared
? test_formats.py -k lesson_refuses
- or have < 4 * count:
+ or have < 0:

lesson's files: version not compared
? test_formats.py -k lesson_refuses
- header[:2] != [magic, version]
+ header[0] != magic

lesson's files: written in place
? test_formats.py -k lesson_leaves
- with open(f"{path}.part", "wb") as f:
+ with open(path, "wb") as f:
- os.replace(f"{path}.part", path)
+ pass

lesson's files: padding of ones
? test_formats.py -k lesson_reads
- np.zeros(padding, "<f4")
+ np.ones(padding, "<f4")

lesson's files: no padded vocabulary in the header
? test_formats.py -k lesson_reads
- *config, config.V + -config.V % 128
+ *config, config.V

lesson's files: padding kept by the reader
? test_formats.py -k lesson_reads
- slice(wte, wte + padding)
+ slice(len(flat) - padding, len(flat))

lesson's files: end of text is the last token
? test_formats.py -k lesson_reads
- TOKENIZER_MAGIC, 2)[3]
+ TOKENIZER_MAGIC, 2)[2]

token files: ids wrapped at 2**15
? test_formats.py -k read_token_file
@ tools/formats.py
- np.memmap(path, "<u2", "r"
+ np.memmap(path, "<i2", "r"

token files: 0 is no vocabulary
? test_formats.py -k read_token_file
@ tools/formats.py
- header[3] or GPT2_VOCAB_SIZE
+ header[3]

token files: a token too high
? test_formats.py -k damaged_tokens
@ tools/formats.py
- tokens.max() < V:
+ tokens.max() <= V:

files: length not compared
? test_formats.py -k "damaged_weights or damaged_state"
@ tools/formats.py
- if size_of and found != (size := size_of(header)):
+ if size_of and found < (size := size_of(header)):

files: version not compared
? test_formats.py -k "damaged_weights or damaged_state"
@ tools/formats.py
- header[0] != magic or header[1] not in versions
+ header[0] != magic

files: written in place
? test_formats.py -k failed_write
@ tools/formats.py
- part = Path(f"{target}.{os.getpid()}.part")
+ part = Path(f"{target}.part")
- os.replace(part, target)
+ target.write_bytes(part.read_bytes())

files: not on the disk before they take their place
? test_formats.py -k whole_on_disk
@ tools/formats.py
- os.fsync(f.fileno())
+ pass

weights: padding of ones
? test_formats.py -k written_weights
@ tools/formats.py
- np.zeros(padding, "<f4")
+ np.ones(padding, "<f4")

weights: no padded vocabulary in the header
? test_formats.py -k written_weights
@ tools/formats.py
- *config, config.V + -config.V % 128
+ *config, config.V

weights: padding kept by the reader
? test_formats.py -k read_float32_weights
@ tools/formats.py
- slice(wte, wte + padding)
+ slice(len(flat) - padding, len(flat))

weights: bfloat16 as the lower half
? test_formats.py -k bfloat16
@ tools/formats.py
- << 16)
+ << 0)

weights: v before m
? test_formats.py -k checkpoint_byte_by_byte
@ tools/formats.py
- *moments, about)
+ *moments[::-1], about)

weights: moments and text of the header swapped
? test_formats.py -k checkpoint_byte_by_byte
@ tools/formats.py
- len(about), len(moments)
+ len(moments), len(about)

tokenizer: end of text may be one too high
? test_formats.py -k damaged_tokenizer
@ tools/formats.py
- 0 <= end_of_text < count
+ 0 <= end_of_text <= count

tokenizer: what follows is not looked at
? test_formats.py -k damaged_tokenizer
@ tools/formats.py
- if at != len(data) or len(vocabulary)
+ if len(vocabulary)

loop: always the first batch
? test_loop.py -k each_loss
- get_batch(train, step, B, T)
+ get_batch(train, 0, B, T)

loop: AdamW counts from 0
? test_loop.py -k each_loss
- adamw_update(params, grads, m, v, step + 1
+ adamw_update(params, grads, m, v, step + 2

loop: no schedule
? test_loop.py -k each_loss
- lr = learning_rate(step, args.steps,
+ lr = args.lr or (step, args.steps,

loop: schedule one step ahead
? test_loop.py -k each_loss
- lr = learning_rate(step, args
+ lr = learning_rate(step + 1, args

loop: no clipping
? test_loop.py -k each_loss
- args.grad_clip if args.grad_clip > 0 else math.inf
+ math.inf

loop: no weight decay
? test_loop.py -k each_loss
- lr, weight_decay=args.weight_decay)
+ lr)

loop: beta2 of 0.95
? test_loop.py -k each_loss
- beta2=0.999, eps=1e-8
+ beta2=0.95, eps=1e-8

loop: seed ignored
? test_loop.py -k each_loss
- init_weights(config, args.seed)
+ init_weights(config, 1337)

loop: validates on what it trains on
? test_loop.py -k validation_losses
- evaluate(params, config, val, B
+ evaluate(params, config, train, B

loop: validation on the first batch alone
? test_loop.py -k validation_losses
- pairs = (get_batch(tokens, i, B, T)
+ pairs = (get_batch(tokens, 0, B, T)

loop: no validation after the last step
? test_loop.py -k validation_losses
- if args.val_every and (last or step % args.val_every == 0)
+ if args.val_every and step % args.val_every == 0

loop: all batches of a validation but one
? test_loop.py -k validation_losses
- batches if batches > 0 else (len(tokens) - 1) // (B * T)
+ batches if batches > 0 else len(tokens) // (B * T) - 1

loop: microseconds
? test_loop.py -k time_and_speed
- {ms:f} ms
+ {ms * 1000:f} ms

loop: sequences per second
? test_loop.py -k time_and_speed
- {B * T / ms * 1000:.0f} tokens/s
+ {B / ms * 1000:.0f} tokens/s

loop: a loss that is not finite goes on
? test_loop.py -k "loss_that_is"
- if not math.isfinite(loss + norm):
+ if False:

loop: a gradient that is not finite goes on
? test_loop.py -k a_gradient
- if not math.isfinite(loss + norm):
+ if not math.isfinite(loss):

loop: only the first weights have to be finite
? test_loop.py -k a_weight
- np.isfinite(flat).all()
+ np.isfinite(flat[:9]).all()

loop: samples of one seed
? test_loop.py -k test_samples
- default_rng((args.seed, step))
+ default_rng((1337, step))

loop: the same draws in every sample
? test_loop.py -k test_samples
- default_rng((args.seed, step))
+ default_rng((args.seed, 0))

loop: samples begin with token 0
? test_loop.py -k test_samples
- [end], np
+ [0], np

loop: samples of 63 tokens
? test_loop.py -k test_samples
- "tiny_shakespeare", 64
+ "tiny_shakespeare", 63

loop: saves in spite of --no-save
? test_loop.py -k no_save
- if not args.no_save:$        write
+ if True:$        write

defaults: 50 steps
? test_loop.py -k defaults
- "--steps", type=int, default=40
+ "--steps", type=int, default=50

defaults: a learning rate of 3e-4
? test_loop.py -k defaults
- default=1e-4
+ default=3e-4

defaults: a batch of 8
? test_loop.py -k defaults
- "--batch-size", type=int, default=4
+ "--batch-size", type=int, default=8

prepare: what it prints is lost
? test_train.py -k offline_fallback
- sys.argv[1:1] = subprocess
+ _ = subprocess

prepare: its flags before the user's
? test_train.py -k offline_fallback
- sys.argv[1:1] = subprocess
+ sys.argv += subprocess

prepare: data that are given are made, too
? test_train.py -k what_is_missing
@ tools/prepare.py
- if data is None and not
+ if not
"""
BY_PARITY, BY_TESTS = 104, 129  # how many there are

# A process that runs mutants, one after the other, in children of itself, so that NumPy, pytest and
# hypothesis are imported once. A line of its input is a JSON list: where its output goes; nothing,
# for test_gpt2.py --quick up to the first row that failed, or else pytest's arguments
WORKER = """
import json, os, sys
import hypothesis, numpy, pytest
sys.path[:0] = [os.getcwd()]

def run(arguments):
    if arguments:
        return pytest.main(arguments)
    import test_gpt2
    class Report(test_gpt2.Report):
        def row(self, *row):
            super().row(*row)
            if self.failed:
                print("FAILED " + self.failed[0])
                raise SystemExit(1)
    test_gpt2.Report = Report
    test_gpt2.main(["--quick"])

for line in sys.stdin:
    output, *arguments = json.loads(line)
    if not (child := os.fork()):
        status = 99
        try:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            status = run(arguments)
        except SystemExit as stop:
            status = stop.code
        finally:
            sys.stdout.flush()
            os._exit(int(status))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def mutants():
    """Return of each mutant the name: its file, healthy code, its code, and the tests or None."""
    broken = {}
    for text in MUTANTS.strip().split("\n\n"):
        name, *parts = re.split(r"\n(?=[-+?@] )", text)
        tests = parts.pop(0)[2:] if parts[0].startswith("? ") else None
        file = parts.pop(0)[2:] if parts[0].startswith("@ ") else "train_gpt2.py"
        code = mutated = (PROJECT / file).read_text(encoding="utf-8")
        edits = [part[2:].replace("$", "\n") for part in parts]
        assert name not in broken, name
        for old, new in zip(edits[::2], edits[1::2], strict=True):
            assert code.count(old) == 1, f"{name}: {code.count(old)} times in {file}: {old}"
            mutated = mutated.replace(old, new)
        assert mutated != code, name
        broken[name] = file, code, mutated, tests
    return broken


class Worker:
    """A folder with what the tests take, and a process in it that runs them with mutants."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "tests").mkdir(parents=True)
        make_project(folder)
        for path in SMALL_WEIGHTS, SMALL_STATE, *(PROJECT / "tests").glob("*.py"):
            shutil.copy(path, folder / "tests")
        settings = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER],
            cwd=folder,
            env=os.environ | settings,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, file, healthy, code, tests):
        """Return the first row, or test, that failed with this code in file; "" for none."""
        self.write(file, code)
        try:
            return self.failure(tests)
        finally:
            self.write(file, healthy)

    def write(self, file, code):
        path = self.folder / file
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()  # it knows the time of the file to a second only
        path.write_text(code, encoding="utf-8")

    def failure(self, tests):
        arguments = []
        if tests:
            file, *flags = shlex.split(tests)
            arguments = "-x -q -rf --tb=no -W ignore -p no:cacheprovider".split()
            arguments += [f"tests/{file}", *flags]
        self.process.stdin.write(json.dumps(["output", *arguments]) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        said = (self.folder / "output").read_text(encoding="utf-8", errors="replace")
        failed = [line[7:] for line in said.splitlines() if line.startswith("FAILED ")]
        if status == bool(failed):
            return failed[0] if failed else ""
        return f"CRASHED {status} {said[-300:]}"

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def caught(tmp_path_factory):
    """Return a function of (file, healthy, code, tests) in lists -> what caught each of them."""
    if not hasattr(os, "fork"):
        pytest.skip("mutants run in forked processes, which Windows does not have")
    workers = [Worker(tmp_path_factory.mktemp("mutants") / "project") for _ in range(WORKERS)]
    idle = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(mutant):
        worker = idle.get()
        try:
            return worker.run(*mutant)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(WORKERS) as pool:
        yield lambda broken: list(pool.map(run, broken))
    for worker in workers:
        worker.close()


def test_healthy_code_passes(caught):
    """Or what fails with a mutant fails without it, too."""
    code = (PROJECT / "train_gpt2.py").read_text(encoding="utf-8")
    selected = {}
    for *_, tests in mutants().values():
        if tests:
            file, _, words = shlex.split(tests)
            selected.setdefault(file, {})[f"({words})"] = None
    runs = [None, *(f"{file} -k '{' or '.join(words)}'" for file, words in selected.items())]
    assert caught([("train_gpt2.py", code, code, tests) for tests in runs]) == [""] * len(runs)


# of the names, what is before the colon: `pytest -k adamw` runs these alone
GROUPS = list(dict.fromkeys(re.findall(r"(?:\A|\n\n)([^:\n]+): ", MUTANTS)))


@pytest.mark.parametrize("group", GROUPS)
def test_each_mutant_is_caught(group, caught):
    broken = {name: how for name, how in mutants().items() if name.startswith(f"{group}: ")}
    rows = dict(zip(broken, caught(broken.values()), strict=True))
    print("", *(f"{name:<52}{row or 'SURVIVED'}" for name, row in rows.items()), sep="\n")
    assert [name for name, row in rows.items() if not row or row.startswith("CRASHED")] == []


def test_there_are_as_many_as_we_say():
    by_tests = [tests is not None for *_, tests in mutants().values()]
    assert (by_tests.count(False), by_tests.count(True)) == (BY_PARITY, BY_TESTS)
    assert all(any(name.startswith(f"{g}: ") for g in GROUPS) for name in mutants())
