"""
Errors put into the code: each turns `test_gpt2.py --quick` red, or else the test it names.

An error is one small edit, made in a copy. It counts as caught by the parity test only if a row of
its table says so; a crash does not count. What the parity test can't see (sampling, batches, files,
the training loop, numbers far from 1) is caught by the pytest file behind the question mark.
`pytest -s tests/test_mutants.py` prints the table: mutant, what caught it. It takes minutes;
`-k adamw` runs those below the heading adamw alone.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import PROJECT, SMALL_STATE, SMALL_WEIGHTS, make_project
from variant_mutants import MUTANTS as VARIANT_MUTANTS

WORKERS = 2

# -: a piece of the code, which is in it once; $ stands for the end of a line
# +: what that becomes, and the mutant's name. Without a name, the next - and + belong to it, too
# ?: the tests to run, instead of test_gpt2.py --quick, down to the next ? or heading
# @: the file, instead of train_gpt2.py, down to the next heading
MUTANTS = r"""
== embedding
- out = wte[tokens] + wpe[:T]
+ out = wte[tokens] + 0 * wpe[:T]  # no positions
+ out = wte[tokens] + wpe[1 : T + 1]  # positions off by one
- np.add.at(dwte, tokens, dout)
+ dwte[tokens] += dout  # a repeated token counts once

== tied wte
- np.add.at(dwte, tokens, dout)
+ dwte[:] = 0; np.add.at(dwte, tokens, dout)  # = for +=
- matmul(dlogits.T, x, out=dwte)
+ dwte[:] = 0  # head's gradient missing
+ dwte += dlogits.T @ x  # left from the step before

== wpe
- dwpe[:T] = dout.sum(0)
+ dwpe[:T] = dout.mean(0)  # mean over B, not sum
- dwpe[T:] = 0
+ pass  # rows beyond T stale

== layernorm
- centered = x - x.mean(-1, keepdims=True)
+ centered = x - 0  # x not centered
- x - x.mean(-1, keepdims=True)
+ x - x.mean(0, keepdims=True)  # mean over rows
- LAYERNORM_EPS = 1e-5
+ LAYERNORM_EPS = 1e-6  # eps 1e-6
- np.sqrt(np.square(centered).mean(-1, keepdims=True) + LAYERNORM_EPS)
+ (np.sqrt(np.square(centered).mean(-1, keepdims=True)) + LAYERNORM_EPS)  # eps outside the root
- np.square(centered).mean(-1, keepdims=True)
+ np.square(centered).sum(-1, keepdims=True) / (x.shape[-1] - 1)  # unbiased variance
- norm * w + b, (norm
+ norm * w, (norm  # no bias
- normalize_backward(dout * w, norm
+ normalize_backward(dout, norm  # no w in dx
- (dnorm - dnorm.mean(-1, keepdims=True) - norm * along_norm)
+ (-dnorm.mean(-1, keepdims=True) - norm * along_norm)  # first term dropped
+ (dnorm - norm * along_norm)  # mean term dropped
+ (dnorm - dnorm.mean(-1, keepdims=True))  # variance term dropped
- - norm * along_norm) * rstd
+ - norm * along_norm)  # no rstd in dx
- dw[:] = (dout * norm).sum(0)
+ dw[:] = dout.sum(0)  # dw of dout alone
- db[:] = dout.sum(0)$    return normalize
+ db[:] = dout.mean(0)$    return normalize  # db a mean
? test_layers.py -k layernorm_far_from_0
- np.square(centered).mean(-1, keepdims=True)
+ np.square(x).mean(-1, keepdims=True) - np.square(x.mean(-1, keepdims=True))  # E[x^2] - mean^2

== linear
- matmul(x, w.T) + b, (x, w)
+ matmul(x, w.T), (x, w)  # no bias
- return matmul(dout, w)$
+ return 0.5 * matmul(dout, w)$  # dx of x
- db[:] = dout.sum(0)$    return matmul
+ db[:] = np.resize(dout.sum(1), db.shape)$    return matmul  # db summed over channels
+ db[:] = dout[0]$    return matmul  # db of the first row
- matmul(dout.T, x, out=dw)
+ dw += dout.T @ x  # dw added to what was there

== attention
- q @ k.mT / math.sqrt(HS)
+ q @ k.mT  # no 1/sqrt(HS) forward
+ q @ k.mT / math.sqrt(len(q) * HS)  # sqrt(C)
- dpreatt /= math.sqrt(q.shape[-1])
+ pass  # no 1/sqrt(HS) backward
- q @ k.mT / math.sqrt(HS)
+ q @ k.mT
- dpreatt /= math.sqrt(q.shape[-1])
+ pass  # no 1/sqrt(HS) in both
- -np.inf, q.dtype), 1)
+ -np.inf, q.dtype), 2)  # mask off by one
+ 0, q.dtype), 1)  # no mask
+ -1, q.dtype), 1)  # -1 for -inf
- q @ k.mT / math
+ q @ np.roll(k, 1, 2).mT / math  # keys shifted
- return att @ v, att
+ return att @ np.roll(v, 1, 2), att  # values shifted
- q, k, v = qkv.transpose
+ k, q, v = qkv.transpose  # q and k swapped forward
- return dq, dk, dv$
+ return dk, dq, dv$  # dq and dk swapped
+ return dq, dv, dk$  # dk and dv swapped
- (datt - (datt * att).sum(-1, keepdims=True))
+ datt  # softmax's mean term dropped
- (datt * att).sum(-1, keepdims=True)
+ datt.mean(-1, keepdims=True)  # plain mean in softmax
+ (datt * att).sum(-2, keepdims=True)  # mean over queries
- dpreatt = att * (datt
+ dpreatt = 1 * (datt  # dpreatt without att
- dv[seen] += dv_tile
+ dv[seen] = dv_tile  # dv of the last tile only
- dk[seen] += dk_tile
+ dk[seen] = dk_tile  # dk of the last tile only
- end - TILE : end], np.s_[:, :, :end]
+ end - TILE : end], np.s_[:, :, -end:]  # gradients of the newest keys alone
- np.zeros_like(k), np.zeros_like(v)
+ np.zeros_like(k), np.ones_like(v)  # dv begins at 1
- qkv.reshape(B, -1, 3, NH, qkv.shape[1] // (3 * NH))
+ qkv.reshape(B, -1, 3, qkv.shape[1] // (3 * NH), NH).swapaxes(3, 4)  # heads and channels mixed
- dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
+ dout.reshape(NH, B, T, HS)  # heads and tokens mixed in dout
? test_layers.py -k scores_are
- q @ k.mT / math.sqrt(HS)
+ q @ k.mT / np.sqrt(HS)  # scores in float64
? test_layers.py -k newest
- preatt[..., -t:] +=
+ preatt[..., :t] +=  # the first columns are masked
? test_layers.py -k "gradient and attention"
- k[:, :, :end], v[:, :, :end])
+ k[:, :, : end + 1], v[:, :, : end + 1])
- end - TILE : end], np.s_[:, :, :end]
+ end - TILE : end], np.s_[:, :, : end + 1]  # a tile sees the key after it
? test_layers.py -k future
- -np.inf, q.dtype), 1)
+ -50, q.dtype), 1)  # -50 for -inf
+ -10000, q.dtype), 1)  # -10,000 for -inf
+ -1e9, q.dtype), 1)  # -1e9 for -inf

== softmax
- return weights / weights.sum(-1, keepdims=True)
+ return weights / weights.sum(-2, keepdims=True)  # sum over the wrong axis
? test_layers.py -k future
- np.exp(x - x.max(-1, keepdims=True))
+ np.exp(x)  # no maximum subtracted

== gelu
- return 0.5 * x * (1 + gelu_tanh(x))
+ return 0.5 * x * (1 + np.vectorize(math.erf, [x.dtype])(x / 2**0.5))  # erf
- return np.tanh(GELU_SCALE * (x + GELU_CUBIC * (x * x * x)))
+ return np.vectorize(math.erf, [x.dtype])(x / 2**0.5)  # erf in both
- math.pi), 0.044715
+ math.pi), 0.04475  # a constant a little off
- = math.sqrt(2 / math.pi), 0
+ = 0.798, 0  # sqrt(2 / pi) rounded
- GELU_CUBIC * (x * x * x)
+ GELU_CUBIC * (x * x)  # x squared for cubed
- (1 - tanh * tanh)
+ (1 + tanh * tanh)  # 1 + tanh^2
- (1 + 3 * GELU_CUBIC * (x * x))
+ (1 + GELU_CUBIC * (x * x))  # no 3
- dout * (0.5 * (1 + tanh) + 0.5 * x * slope)
+ dout * (0.5 * (1 + tanh))  # second term dropped
- + 0.5 * x * slope
+ - 0.5 * x * slope  # sign of the second term
? test_layers.py -k published_formula
- math.pi), 0.044715
+ math.pi), 0.044716  # 0.044716

== loss
- dlogits *= dloss / N
+ dlogits *= dloss  # no 1/(B*T)
+ dlogits *= dloss / (N // 3)  # 1/T for 1/(B*T)
- dlogits[np.arange(N), targets] -= 1
+ dlogits[np.arange(N), targets] -= N  # no 1/(B*T) at the target
+ pass  # target not subtracted
+ dlogits[np.arange(N), targets - 1] -= 1  # subtracted from the token before the target
+ dlogits[:, targets] -= 1  # subtracted from each row's other targets
- return losses.mean(), (probs
+ return losses.sum(), (probs  # sum for mean
- return np.log(total[:, 0]) - target_logits
+ return target_logits - np.log(total[:, 0])  # wrong sign
- np.log(total[:, 0])
+ total[:, 0]  # no logarithm of the sum
- logits -= logits.max(-1, keepdims=True)
+ logits -= logits.max(0, keepdims=True, initial=-99)  # maximum over rows

== head
- dlogits *= dloss / N
+ dlogits *= 1 / N  # not scaled by dloss
- dlogits *= dloss / N
+ matmul(dlogits.T, x, out=dwte); dlogits *= dloss / N
- matmul(dlogits.T, x, out=dwte)
+ pass  # dwte not scaled
- logits /= total
+ pass  # probabilities that do not sum to 1
- len(targets)), targets]
+ len(targets)), np.minimum(targets, logits.shape[1] - 2)]  # targets end before the last token
? test_layers.py -k loss_of_large_logits
- logits -= logits.max(-1, keepdims=True)
+ pass  # no maximum subtracted
? test_layers.py -k no_chance
- return losses.mean(), (probs
+ return np.minimum(losses, 100).mean(), (probs  # a loss of no more than 100

== block
- mid = x + attproj$
+ mid = attproj$  # first residual dropped
- out = mid + fcproj$
+ out = fcproj$  # second residual dropped
+ out = ln2 + fcproj$  # residual around norm
- return dmid + layernorm_backward(dln1
+ return layernorm_backward(dln1  # first residual's gradient
+ return dout + layernorm_backward(dln1  # residual past the middle
- dmid = dout + layernorm_backward
+ dmid = layernorm_backward  # second residual's gradient
- layernorm_forward(mid, p["ln2w"]
+ layernorm_forward(x, p["ln2w"]  # second layernorm reads x
- linear_forward(gelu, p["fcprojw"]
+ linear_forward(fc, p["fcprojw"]  # no gelu
- linear_backward(dfc, fc_cache
+ linear_backward(dgelu, fc_cache  # fc's gradient without gelu's

== model
- for l in reversed(range(len(block_caches))):
+ for l in range(len(block_caches)):  # blocks backward in order
- x, lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])
+ lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])[1]  # no last layernorm
- lnf_cache, grads["lnfw"], grads["lnfb"])
+ lnf_cache, grads["lnfb"], grads["lnfw"])  # lnf's gradients swapped
? test_layers.py -k "pytorch and ids"
- embedding_cache = embedding_forward(tokens,
+ embedding_cache = embedding_forward(tokens % 2**15,  # token ids wrapped at 2**15
- targets.reshape(-1))$    return loss
+ targets.reshape(-1) % 2**15)$    return loss  # targets wrapped at 2**15
? test_layers.py -k "pytorch and 12"
- for l in range(config.L):
+ for l in range(min(config.L, 8)):  # blocks above the eighth skipped
- for l in reversed(range(len(block_caches))):
+ for l in reversed(range(min(len(block_caches), 8))):  # blocks above the eighth have no gradient

== table
- "wpe": ("maxT C", MATRIX)
+ "wpe": ("maxT C", SHIFT)  # wpe is no matrix
- "fcprojw": ("L C 4C", PROJECTION)
+ "fcprojw": ("L C 4C", SHIFT)  # fcprojw is no matrix
- "lnfw": ("C", SCALE)
+ "lnfw": ("C", MATRIX)  # lnfw decays

== adamw
- m / ((1 - beta1**step) / (1 - beta1))
+ m * (1 - beta1)  # m's weights don't add up to 1 in the first steps
+ m / ((1 - beta1 ** (step + 1)) / (1 - beta1))  # step off by one
- v / ((1 - beta2**step) / (1 - beta2))
+ v * (1 - beta2)  # v's weights don't add up to 1 in the first steps
- (np.sqrt(v_hat) + eps)
+ np.sqrt(v_hat + eps)  # eps inside the root
+ (np.sqrt(v_hat) + eps / math.sqrt((1 - beta2**step) / (1 - beta2)))  # eps before the correction
- m *= beta1
+ g = g + weight_decay * p; m *= beta1
- p *= 1 - lr * weight_decay
+ pass  # decay coupled (L2)
- weight_decay if name in DECAYING else 0.0
+ weight_decay  # decay on everything
- p *= 1 - lr * weight_decay
+ pass  # no decay
+ p *= 1 - weight_decay  # decay not scaled by lr
- if weight_decay:$        p *= 1 - lr * weight_decay$    p -= lr * m_hat / (np.sqrt(v_hat) + eps)
+ p -= lr * m_hat / (np.sqrt(v_hat) + eps)$    p *= 1 - lr * weight_decay  # decay after the step
- lr * m_hat / (np.sqrt(v_hat) + eps)
+ lr * v_hat / (np.sqrt(abs(m_hat)) + eps)  # m and v swapped
- v *= beta2
+ v *= beta1  # beta1 for beta2
- v += g * g
+ v += abs(g)  # g for g squared
- p -= lr
+ p += lr  # uphill
? test_layers.py -k constant_gradient
- m += g
+ m += np.clip(g, -1e4, 1e4)  # gradients above 10,000 clipped
- (np.sqrt(v_hat) + eps)
+ np.maximum(np.sqrt(v_hat), eps)  # eps on v only where it is small
- beta2=0.999, eps=1e-8, weight_decay=0.0)
+ beta2=0.999, eps=1e-7, weight_decay=0.0)  # eps of 1e-7 by default
- m / ((1 - beta1**step)
+ m / ((1 - beta1 ** min(step, 100))  # m's correction ends at step 100
- v / ((1 - beta2**step)
+ v / ((1 - beta2 ** min(step, 1000))  # v's correction ends at step 1,000

== chunks
- rows = slice(start, start + size)
+ rows = slice(start, start + max(1, size - 1))  # the last row of a chunk
- POOL.map(work, range(1, THREADS))
+ POOL.map(work, range(2, THREADS))  # one thread's share
- work(0)
+ pass  # the share of the thread that calls
- out.shape[1:]), out.dtype)
+ out.shape[1:]))  # outputs of float64
? test_layers.py -k by_rows
- f(*(a[rows] for a in arrays)
+ f(arrays[0][rows], *(a[rows].copy() for a in arrays[1:])  # only the first changes in place
- for a in arrays), **options)$        return found
+ for a in arrays))$        return found  # options are lost
- return outs[0] if len(outs) == 1 else tuple(outs)
+ return outs[0]  # the first output alone
? test_layers.py -k "pytorch and chunk"
- (thread * size, n, THREADS
+ (thread * size, n - size * (arrays[0].size > 2**18), THREADS  # the last one of a large array
? test_layers.py -k raises_what_was_raised
- POOL.map(work, range(1, THREADS))
+ [POOL.submit(work, thread).exception() for thread in range(1, THREADS)]  # one's error is lost

== matmul
? test_layers.py -k keeps_dtype
- b.shape[1]), a.dtype)
+ b.shape[1]))  # float64
? test_layers.py -k test_matmul
- [b] * len(parts)
+ [b] * (len(parts) - 1)  # the last part is missing
- np.matmul(a_part, b, part)
+ pass  # the part of the thread that calls

== learning rate
? test_layers.py -k test_learning_rate
- return lr * (step + 1) / warmup
+ return lr * step / warmup  # begins at 0
- if step < warmup:
+ if step <= warmup:  # one step more of warm-up
- progress = (step - warmup) / max(1, steps - warmup)
+ progress = step / max(1, steps)  # cosine from the start of the warm-up
+ progress = (step - warmup) / max(1, steps - warmup - 1)  # the last step has the last rate
- 0.5 * (1 + math.cos(math.pi * progress))
+ (1 - progress)  # a straight line
- lr * (min_lr_frac + (1 - min_lr_frac) * 0.5
+ lr * (0.5  # down to 0

== clipping
? test_layers.py -k clipping
- norm = math.sqrt(sum(
+ norm = (sum(  # no root
- by_rows(np.vecdot)(x, x)
+ 2 * by_rows(np.vecdot)(x[:, ::2], x[:, ::2])  # half of the numbers
+ by_rows(np.vecdot)(x, x)[: max(1, len(x) // 2 * 2)]  # the odd row of a tensor
- for x in rows)
+ for x in rows if len(x) > 1)  # biases and layernorms left out
- grad *= max_norm / norm
+ grad *= max_norm / np.linalg.norm(grad)  # to the norm of each tensor
- if max_norm < norm < math.inf:
+ if 0 < max_norm < math.inf:  # small gradients grow
+ if max_norm < norm:  # infinity divided away
- grad *= max_norm / norm$    return norm
+ grad *= max_norm / norm$    return min(norm, max_norm)  # returns the norm after it

== random weights
? test_layers.py -k initial_weights
- 0.02 if TENSORS[name][1] == MATRIX else 0.02 / math.sqrt(2 * config.L)
+ 0.02  # projections as large as matrices
- / math.sqrt(2 * config.L)
+ / math.sqrt(config.L)  # the root of L
- view[:] = 1
+ view[:] = 0  # layernorms of 0
- rng.standard_normal(out=view, dtype=np.float32)
+ view[:] = rng.uniform(-(3**0.5), 3**0.5, view.shape)  # uniform
- rng = np.random.default_rng(seed)$    flat
+ rng = np.random.default_rng(1337)$    flat  # one seed for all
? test_layers.py -k named_sizes
- len(name) < 5
+ len(name) < 4  # no more than 99 layers
- 24: (16, 1024)
+ 24: (32, 1024)  # d24 has 24 heads of fewer channels
- 48: (25, 1600)
+ 48: (50, 1600)  # d48 has 50 heads

== generate
? test_layers.py -k test_generate
- tokens[-config.maxT :]
+ tokens[-max(1, config.maxT - 1) :]  # sees a token less than maxT
+ tokens[: config.maxT]  # sees the oldest tokens
- cache[-1][0][-1].astype
+ cache[-1][0][0].astype  # what follows the first token
- int(rng.choice(len(probs), p=probs / probs.sum()))
+ int(probs.argmax())  # the likeliest token
- p=probs / probs.sum()
+ p=probs**2 / (probs**2).sum()  # a temperature of 0.5
- tokens = [*tokens, int(
+ tokens += [int(  # the given list grows

== kept keys
@ tools/sampling.py
? test_sampling.py -k whole_forward
- past[l][:, :, :, start : start + T] = k, v
+ past[l][:, :, :, :T] = k, v  # always written at the beginning
- *past[l][:, :, :, : start + T]
+ *past[l][::-1, :, :, : start + T]  # k and v swapped
- transpose(1, 2, 0, 3).reshape
+ transpose(1, 2, 3, 0).reshape  # heads and channels mixed
- params["wpe"][start:]
+ params["wpe"]  # all positions are the first
- past[l][:, :, :, start : start + T] = k, v
+ past[0][:, :, :, start : start + T] = k, v
- *past[l]
+ *past[0]  # those of one block for all
- maxT, HS), params["wte"].dtype)
+ maxT, HS))  # of float64
- for l in range(L):
+ for l in range(min(L, 8)):  # blocks above the eighth skipped
- x.reshape(B, T, C)[:, -1]
+ x[-B:]  # another row than the last
- newest, _ = layernorm_forward(x.reshape(B, T, C)[:, -1], params["lnfw"], params["lnfb"])
+ newest = x.reshape(B, T, C)[:, -1]  # no last layernorm
- -max(1, maxT // 2) :]
+ -max(1, maxT // 2 - 1) :]  # forgets one token more
- maxT // 2) :], 0
+ maxT // 2) :], max(1, maxT // 2) - 1  # forgets with the old keys and values
? test_sampling.py -k only_new
- start, new = tokens.shape[1], pick(
+ start, new = 0, pick(  # not used
- if tokens.shape[1] > maxT:
+ if tokens.shape[1] >= maxT:  # forgets before it has to
? test_sampling.py -k products
- w[whole:] @ x.T
+ 0  # the last rows of a product

== samples
@ tools/sampling.py
? test_sampling.py -k not_finite
- if not np.isfinite(logits.max()):
+ if False:  # of logits that are not finite
+ if not np.isfinite(logits.min()):  # of logits of which one is infinite

== batches
? test_formats.py -k batches
- % ((len(tokens) - 1) // T)
+ % (len(tokens) // T)  # one too many
? test_formats.py -k batches_in_order
- % ((len(tokens) - 1) // T)
+ + 0 * T  # no wrapping around
+ % ((len(tokens) - 1) // (B * T) * B)  # what makes no whole batch is dropped
- windows[:, None] * T + np
+ windows[:, None] * (T - 1) + np  # overlapping
- tokens[places + 1]
+ tokens[places]  # y is x
? test_formats.py -k batches_in_order
- tokens[places].astype(np.int64)
+ tokens[places].astype(np.int16).astype(np.int64)  # token ids wrapped at 2**15

== lesson's files
? test_formats.py -k lesson_reads
- np.fromfile(path, "<u2"
+ np.fromfile(path, "<i2"  # token ids wrapped at 2**15
- V or GPT2_VOCAB_SIZE
+ V  # 0 is no vocabulary
- np.zeros(padding, "<f4")
+ np.ones(padding, "<f4")  # padding of ones
- *config, config.V + -config.V % 128
+ *config, config.V  # no padded vocabulary in the header
- slice(wte, wte + padding)
+ slice(len(flat) - padding, len(flat))  # padding kept by the reader
- TOKENIZER_MAGIC, 2)[3]
+ TOKENIZER_MAGIC, 2)[2]  # end of text is the last token
? test_formats.py -k lesson_refuses
- tokens.max() >= V:
+ tokens.max() > V:  # a token too high
- if not 0 < len(tokens) == count or
+ if not 0 < len(tokens) or  # count of tokens not compared
- or have < 4 * count:
+ or have < 0:  # length of weights not compared
- header[:2] != [magic, version]
+ header[0] != magic  # version not compared
? test_formats.py -k lesson_leaves
- with open(f"{path}.part", "wb") as f:
+ with open(path, "wb") as f:
- os.replace(f"{path}.part", path)
+ pass  # written in place

== token files
@ tools/formats.py
? test_formats.py -k read_token_file
- np.memmap(f, "<u2", "r"
+ np.memmap(f, "<i2", "r"  # ids wrapped at 2**15
- header[3] or GPT2_VOCAB_SIZE
+ header[3]  # 0 is no vocabulary
? test_formats.py -k damaged_tokens
- tokens.max() < V:
+ tokens.max() <= V:  # a token too high

== files
@ tools/formats.py
? test_formats.py -k "damaged_weights or damaged_state"
- if size_of and found != (size := size_of(header)):
+ if size_of and found < (size := size_of(header)):  # length not compared
- header[0] != magic or header[1] not in versions
+ header[0] != magic  # version not compared
? test_formats.py -k whole_on_disk
- part = Path(f"{target}.{os.getpid()}.part")$    try
+ part = Path(f"{target}.part")$    try
- os.replace(part, target)
+ target.write_bytes(part.read_bytes())  # written in place
? test_formats.py -k whole_on_disk
- os.fsync(f.fileno())
+ pass  # not on the disk before they take their place

== weights
@ tools/formats.py
? test_formats.py -k written_weights
- np.zeros(padding, "<f4")
+ np.ones(padding, "<f4")  # padding of ones
- *config, config.V + -config.V % 128
+ *config, config.V  # no padded vocabulary in the header
? test_formats.py -k read_float32_weights
- f.seek(padding * flat.itemsize, os.SEEK_CUR)
+ pass  # padding kept by the reader
? test_formats.py -k bfloat16
- << 16)
+ << 0)  # bfloat16 as the lower half
? test_formats.py -k checkpoint_byte_by_byte
- *moments, about)
+ *moments[::-1], about)  # v before m
- len(about), len(moments)
+ len(moments), len(about)  # moments and text of the header swapped

== tokenizer
@ tools/formats.py
? test_formats.py -k damaged_tokenizer
- 0 <= end_of_text < count
+ 0 <= end_of_text <= count  # end of text may be one too high
- if at != len(data) or len(vocabulary)
+ if len(vocabulary)  # what follows is not looked at

== loop
? test_loop.py -k each_loss
- get_batch(train, step, B, T)
+ get_batch(train, 0, B, T)  # always the first batch
- adamw_update(params, grads, m, v, step + 1
+ adamw_update(params, grads, m, v, step + 2  # AdamW counts from 0
- lr = learning_rate(step, args.steps,
+ lr = args.lr or (step, args.steps,  # no schedule
- lr = learning_rate(step, args
+ lr = learning_rate(step + 1, args  # schedule one step ahead
- args.grad_clip if args.grad_clip > 0 else math.inf
+ math.inf  # no clipping
- lr, weight_decay=args.weight_decay)
+ lr)  # no weight decay
- beta2=0.999, eps=1e-8
+ beta2=0.95, eps=1e-8  # beta2 of 0.95
- init_weights(config, args.seed)
+ init_weights(config, 1337)  # seed ignored
? test_loop.py -k validation_losses
- loss = evaluate(params, config, val, B
+ loss = evaluate(params, config, train, B  # validates on what it trains on
- pairs = (get_batch(tokens, i, B, T)
+ pairs = (get_batch(tokens, 0, B, T)  # validation on the first batch alone
- validate = args.val_every and (last or step % args.val_every == 0)
+ validate = args.val_every and step % args.val_every == 0  # no validation after the last step
- math.inf, (len(tokens) - 1) // (B * T)
+ math.inf, (len(tokens) - 1) // (B * T) - 1  # all batches of a validation but one
+ math.inf, len(tokens) // (B * T)  # the first batch once more
- min(batches if batches > 0 else math.inf, (len(tokens) - 1) // (B * T))
+ batches if batches > 0 else (len(tokens) - 1) // (B * T)  # the first batches count twice
? test_loop.py -k time_and_speed
- {ms:f} ms
+ {ms * 1000:f} ms  # microseconds
- {B * T / ms * 1000:.0f} tokens/s
+ {B / ms * 1000:.0f} tokens/s  # sequences per second
? test_loop.py -k a_loss_that
- (loss < 10 * math.log(V) and norm < math.inf)
+ (norm < math.inf)  # any loss goes on
+ (math.isfinite(loss) and norm < math.inf)  # a loss of 4e7 goes on
? test_loop.py -k a_gradient
- (loss < 10 * math.log(V) and norm < math.inf)
+ loss < 10 * math.log(V)  # a gradient that is not finite goes on
? test_loop.py -k a_weight
- math.isfinite(val_loss)
+ math.isfinite(loss)  # the loss before the last step has to be finite
? test_loop.py -k test_samples
- default_rng((args.seed, step))
+ default_rng((1337, step))  # samples of one seed
+ default_rng((args.seed, 0))  # the same draws in every sample
- [end], np
+ [0], np  # samples begin with token 0
- "tiny_shakespeare", 64
+ "tiny_shakespeare", 63  # samples of 63 tokens
? test_loop.py -k no_save
- if not args.no_save:$        write
+ if True:$        write  # saves in spite of --no-save

== defaults
? test_loop.py -k defaults
- "--steps", type=int, default=40
+ "--steps", type=int, default=50  # 50 steps
- default=1e-4
+ default=3e-4  # a learning rate of 3e-4
- "--batch-size", type=int, default=4
+ "--batch-size", type=int, default=8  # a batch of 8

== prepare
? test_train.py -k offline_fallback
- sys.argv += made.stdout
+ _ = made.stdout  # what it prints is lost
@ tools/prepare.py
? test_train.py -k what_is_missing
- if data is None and not
+ if not  # data that are given are made, too
"""
MUTANTS += VARIANT_MUTANTS.removeprefix("\n")
GROUPS = re.findall("^== (.*)", MUTANTS, re.MULTILINE)

# A process that runs mutants, one after the other, in children of itself, so that what they import
# is there, PyTorch above all. A line of its input is a JSON list of pytest's arguments; an empty
# one is for test_gpt2.py --quick, up to the first row that failed: of its two parts the quicker
# one, the small state, comes first. Hypothesis does not look for simpler examples of what has
# failed. It answers with the exit status
WORKER = """
import contextlib, importlib, json, os, sys
import hypothesis, numpy, pytest
for name in "torch._dynamo", "tiktoken", "regex", "requests", "tqdm":
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
from hypothesis import Phase
hypothesis.settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate])
hypothesis.settings.load_profile("mutants")
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
    pieces, state = test_gpt2.check_in_pieces, test_gpt2.check_state
    test_gpt2.check_in_pieces = lambda report: state(report, *test_gpt2.SMALL)
    test_gpt2.check_state = lambda report, *_: pieces(report)
    test_gpt2.Report = Report
    test_gpt2.main(["--quick"])

for line in sys.stdin:
    if not (child := os.fork()):
        status = 99
        try:
            file = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1), os.dup2(file, 2)
            status = run(json.loads(line))
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
    for group, *lines in map(str.splitlines, MUTANTS.split("\n== ")[1:]):
        file, tests, edits = "train_gpt2.py", None, []
        for mark, text in (line.split(" ", 1) for line in lines if line):
            if mark == "@":
                file = text
            elif mark == "?":
                tests = text
            elif mark == "-":
                old = text.replace("$", "\n")
            else:
                new, _, name = text.partition("  # ")
                edits.append((old, new.replace("$", "\n")))
                if name:
                    assert f"{group}: {name}" not in broken, name
                    broken[f"{group}: {name}"] = file, *edited(file, edits), tests
                    edits = []
    return broken


def edited(file, edits):
    """Return the code of a file, and what it becomes."""
    code = mutated = (PROJECT / file).read_text(encoding="utf-8")
    for old, new in edits:
        assert code.count(old) == 1, f"{code.count(old)} times in {file}: {old}"
        mutated = mutated.replace(old, new)
    assert mutated != code, edits
    return code, mutated


class Worker:
    """A folder with what the tests take, and a process in it that runs them with mutants."""

    def __init__(self, folder):
        self.folder = make_project(folder)
        (folder / "tests").mkdir()
        for path in SMALL_WEIGHTS, SMALL_STATE, *(PROJECT / "tests").glob("*.py"):
            shutil.copy(path, folder / "tests")
        settings = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}
        settings["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
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
        arguments = []
        if tests:
            arguments = "-x -q -rf --tb=no -W ignore -p no:cacheprovider".split()
            arguments += shlex.split(f"tests/{tests}")
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        self.write(file, healthy)
        said = (self.folder / "output").read_text(encoding="utf-8", errors="replace")
        failed = [line[7:] for line in said.splitlines() if line.startswith("FAILED ")]
        if status == bool(failed):
            return failed[0] if failed else ""
        return f"CRASHED {status} {said[-300:]}"

    def write(self, file, code):
        path = self.folder / file
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()  # it knows the time of the file to a second only
        path.write_text(code, encoding="utf-8")


@pytest.fixture(scope="module")
def caught(tmp_path_factory):
    """Return a function of name: (file, healthy, code, tests) -> name: what caught it."""
    if not hasattr(os, "fork"):
        pytest.skip("mutants run in forked processes, which Windows does not have")
    workers = [Worker(tmp_path_factory.mktemp("mutants")) for _ in range(WORKERS)]

    def run(broken):
        def share(i):  # of one worker: every second mutant, or so
            return {name: workers[i].run(*broken[name]) for name in [*broken][i::WORKERS]}

        found = {}
        for rows in pool.map(share, range(WORKERS)):
            found |= rows
        return {name: found[name] for name in broken}

    with ThreadPoolExecutor(WORKERS) as pool:
        yield run
    for worker in workers:
        worker.process.communicate()


def test_healthy_code_passes(caught):
    """Or what fails with a mutant fails without it, too."""
    selected = {}
    for *_, tests in mutants().values():
        if tests:
            file, _, words = shlex.split(tests)
            selected.setdefault(file, {})[f"({words})"] = None
    code = (PROJECT / "train_gpt2.py").read_text(encoding="utf-8")
    runs = [None, *(f"{file} -k '{' or '.join(words)}'" for file, words in selected.items())]
    rows = caught({tests: ("train_gpt2.py", code, code, tests) for tests in runs})
    assert rows == dict.fromkeys(runs, "")


@pytest.mark.parametrize("group", GROUPS)
def test_each_mutant_is_caught(group, caught):
    rows = caught({name: how for name, how in mutants().items() if name.startswith(f"{group}: ")})
    print("", *(f"{name:<52}{row or 'SURVIVED'}" for name, row in rows.items()), sep="\n")
    assert [name for name, row in rows.items() if not row or row.startswith("CRASHED")] == []


def test_the_page_of_proofs_counts_them():
    page = (PROJECT / "doc" / "proof.md").read_text(encoding="utf-8")
    counts = r"makes (\d+) small errors.*?For (\d+) of them.*?the other (\d+),"
    by_tests = [tests is not None for *_, tests in mutants().values()]
    found = len(by_tests), by_tests.count(False), by_tests.count(True)
    assert found == tuple(map(int, re.search(counts, page, re.DOTALL).groups()))
