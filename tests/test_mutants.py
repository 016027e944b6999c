"""
The test of the test: each of these errors in train_gpt2.py must turn `test_gpt2.py --quick` red.

An error is one small edit, made in a copy. It counts as caught only if a row of the table says so;
a crash does not. `pytest -s tests/test_mutants.py` prints the table: mutant, what caught it.
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).parent.parent

# What is wrong; a piece of train_gpt2.py that stands there once; what it becomes. $: end of line
MUTANTS = r"""
embedding: no positions
- out = wte[tokens] + wpe[start : start + T]
+ out = wte[tokens] + 0 * wpe[:T]

embedding: positions off by one
- wpe[start : start + T]
+ wpe[start + 1 : start + T + 1]

embedding: a repeated token counts once
- np.add.at(dwte, tokens, dout)
+ dwte[tokens] += dout

tied wte: = for +=
- np.add.at(dwte, tokens, dout)
+ dwte[:] = 0; np.add.at(dwte, tokens, dout)

tied wte: head's gradient missing
- matmul(dlogits.T, x * dloss, out=dwte)
+ 0 * matmul(dlogits.T, x, out=dwte)

tied wte: left from the step before
- dx, grads["wte"][:] = head_backward(dloss, head_cache, grads["wte"])
+ dx, dw = head_backward(dloss, head_cache); grads["wte"] += dw

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
- 1 / np.sqrt(variance + LAYERNORM_EPS)
+ 1 / (np.sqrt(variance) + LAYERNORM_EPS)

layernorm: unbiased variance
- np.square(centered).mean(-1, keepdims=True)
+ np.square(centered).sum(-1, keepdims=True) / (x.shape[-1] - 1)

layernorm: no bias
- out[:] = norm * w + b
+ out[:] = norm * w

layernorm: no w in dx
- dnorm = dout * w
+ dnorm = dout * 1

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
- np.einsum("nc,nc->c", dout, norm)
+ dout.sum(0)

layernorm: db a mean
- np.einsum("nc,nc->c", dout, norm), dout.sum(0)
+ np.einsum("nc,nc->c", dout, norm), dout.mean(0)

linear: no bias
- out += b
+ out += 0 * b

linear: dx of x
- return matmul(dout, w),
+ return 0.5 * matmul(dout, w),

linear: db summed over channels
- out=dw), dout.sum(0)
+ out=dw), np.resize(dout.sum(1), dout.shape[1])

linear: db of the first row
- out=dw), dout.sum(0)
+ out=dw), dout[0].copy()

linear: dw added to what was there
- matmul(dout.T, x, out=dw)
+ (matmul(dout.T, x) if dw is None else np.add(dw, dout.T @ x, out=dw))

attention: no 1/sqrt(HS) forward
- @ k[:, :, :S].mT / math.sqrt(HS)
+ @ k[:, :, :S].mT

attention: no 1/sqrt(HS) backward
- dpreatt /= math.sqrt(HS)
+ pass

attention: no 1/sqrt(HS) in both
- @ k[:, :, :S].mT / math.sqrt(HS)
+ @ k[:, :, :S].mT
- dpreatt /= math.sqrt(HS)
+ pass

attention: sqrt(C)
- @ k[:, :, :S].mT / math.sqrt(HS)
+ @ k[:, :, :S].mT / math.sqrt(NH * HS)

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
- @ k[:, :, :S].mT / math
+ @ np.roll(k[:, :, :S], 1, 2).mT / math

attention: values shifted
- = att @ v[:, :, :S]
+ = att @ np.roll(v[:, :, :S], 1, 2)

attention: q and k swapped forward
- q, k, v = split_heads(qkv, B, 3, NH)
+ k, q, v = split_heads(qkv, B, 3, NH)

attention: dq and dk swapped
- dq, dk, dv = split_heads(dqkv
+ dk, dq, dv = split_heads(dqkv

attention: dk and dv swapped
- dq, dk, dv = split_heads(dqkv
+ dq, dv, dk = split_heads(dqkv

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
- dv[:, :, :S] += att.mT
+ dv[:, :, :S] = att.mT

attention: dk of the last tile only
- dk[:, :, :S] += dpreatt.mT
+ dk[:, :, :S] = dpreatt.mT

attention: heads and channels mixed
- n, NH, -1).transpose(2, 3, 0, 1, 4)
+ n, -1, NH).transpose(2, 4, 0, 1, 3)

softmax: sum over the wrong axis
- return weights / weights.sum(-1, keepdims=True)
+ return weights / weights.sum(-2, keepdims=True)

gelu: erf
- out[:] = 0.5 * x * (1 + gelu_tanh(x))
+ out[:] = 0.5 * x * (1 + np.vectorize(math.erf)(x / 2**0.5))

gelu: erf in both
- return np.tanh(GELU_SCALE * (x + GELU_CUBIC * (x * x * x)))
+ return np.vectorize(math.erf)(x / 2**0.5).astype(x.dtype)

gelu: a constant a little off
- GELU_CUBIC = 0.044715
+ GELU_CUBIC = 0.04475

gelu: sqrt(2 / pi) rounded
- GELU_SCALE = math.sqrt(2 / math.pi)
+ GELU_SCALE = 0.798

gelu: x squared for cubed
- (x * x * x)))
+ (x * x)))

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
- np.multiply(logits, 1 / (N * total), out=logits)
+ np.multiply(logits, 1 / total, out=logits)

loss: no 1/(B*T) at the target
- dlogits[target] -= 1 / N
+ dlogits[target] -= 1

loss: target not subtracted
- dlogits[target] -= 1 / N
+ pass

loss: 1/T for 1/(B*T)
- N = len(x)$
+ N = len(x) // 3$

loss: sum for mean
- return losses.mean(), (logits
+ return losses.sum(), (logits

loss: wrong sign
- losses[:] = -logits[target]
+ losses[:] = logits[target]

loss: no logarithm of the sum
- losses += np.log(total[:, 0])
+ losses += total[:, 0]

loss: maximum over rows
- logits -= logits.max(-1, keepdims=True)
+ logits -= logits.max(0, keepdims=True)

head: dx not scaled by dloss
- return matmul(dlogits, wte) * dloss,
+ return matmul(dlogits, wte),

head: dwte not scaled by dloss
- matmul(dlogits.T, x * dloss, out=dwte)
+ matmul(dlogits.T, x, out=dwte)

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
- dx += dmid
+ pass

block: second residual's gradient
- dmid += dout
+ pass

block: residual past the middle
- dx += dmid
+ dx += dout

model: blocks backward in order
- for l in reversed(range(len(block_caches))):
+ for l in range(len(block_caches)):

model: no last layernorm
- x, lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])
+ lnf_cache = layernorm_forward(x, params["lnfw"], params["lnfb"])[1]

model: lnf's gradients swapped
- dx, grads["lnfw"][:], grads["lnfb"][:] =
+ dx, grads["lnfb"][:], grads["lnfw"][:] =

adamw: no bias correction of m
- m_scale = 1 / (1 - beta1**step)
+ m_scale = 1

adamw: no bias correction of v
- v_scale = 1 / (1 - beta2**step)
+ v_scale = 1

adamw: step off by one
- m_scale = 1 / (1 - beta1**step)
+ m_scale = 1 / (1 - beta1 ** (step + 1))

adamw: eps inside the root
- (np.sqrt(v_scale * v) + eps)
+ np.sqrt(v_scale * v + eps)

adamw: eps before the correction
- (np.sqrt(v_scale * v) + eps)
+ (np.sqrt(v_scale) * (np.sqrt(v) + eps))

adamw: decay coupled (L2)
- p *= 1 - decay
+ g = g + weight_decay * p

adamw: decay on everything
- if name in MATRICES else 0.0
+ if True else 0.0

adamw: no decay
- decay = lr * weight_decay if
+ decay = 0.0 if

adamw: decay not scaled by lr
- decay = lr * weight_decay if
+ decay = weight_decay if

adamw: m and v swapped
- (lr * m_scale) * m / (np.sqrt(v_scale * v) + eps)
+ (lr * m_scale) * v / (np.sqrt(v_scale * abs(m)) + eps)

adamw: beta1 for beta2
- v *= beta2
+ v *= beta1

adamw: g for g squared
- (1 - beta2) * (g * g)
+ (1 - beta2) * abs(g)

adamw: uphill
- p -= (lr
+ p += (lr

chunks: the last row of a chunk
- f(*(a[i : i + size] for a in arrays))
+ f(*(a[i : i + max(1, size - 1)] for a in arrays))

chunks: one thread's share
- range(1, min(THREADS, chunks))
+ range(1, min(THREADS - 1, chunks))
"""


def mutants():
    """train_gpt2.py, and of each mutant the name and the code."""
    code = (PROJECT / "train_gpt2.py").read_text(encoding="utf-8")
    broken = {}
    for text in MUTANTS.strip().split("\n\n"):
        name, *edits = (part.replace("$", "\n") for part in re.split(r"\n[-+] ", text))
        broken[name] = code
        for old, new in zip(edits[::2], edits[1::2], strict=True):
            assert code.count(old) == 1, f"{name}: {code.count(old)} times in the file: {old}"
            broken[name] = broken[name].replace(old, new)
    return code, broken


def run_mutant(folder, code):
    """The rows that test_gpt2.py says failed with this train_gpt2.py; None if it crashed."""
    (folder / "tests").mkdir(parents=True)
    (folder / "train_gpt2.py").write_text(code, encoding="utf-8")
    for name in "test_gpt2.py", "common.py":
        shutil.copy(PROJECT / name, folder)
    for name in "small_weights.bin", "small_state.bin":
        shutil.copy(PROJECT / "tests" / name, folder / "tests")
    command = [sys.executable, "test_gpt2.py", "--quick"]
    env = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    failed = [line[8:] for line in done.stdout.splitlines() if line.startswith("failed: ")]
    return failed if done.returncode == bool(failed) else None


def test_each_mutant_is_caught(tmp_path):
    healthy, broken = mutants()
    assert run_mutant(tmp_path / "healthy", healthy) == []
    with ThreadPoolExecutor(2) as pool:
        folders = (tmp_path / str(i) for i in range(len(broken)))
        caught = dict(zip(broken, pool.map(run_mutant, folders, broken.values()), strict=True))
    print(f"\n{'mutant':<44}rows  the first row that caught it")
    for name, rows in caught.items():
        verdict = rows[0] if rows else "SURVIVED" if rows == [] else "CRASHED"
        print(f"{name:<44}{len(rows or []):>4}  {verdict}")
    assert all(caught.values())
    assert len(caught) >= 40
