"""
An answer to each exercise, in small steps: what mistakes_by_rule.py makes mistakes in.

DON'T READ ON while you solve the exercises. The letters are those of the pages in doc/.
"""

import math

from train_gpt2 import (
    DECAYING,
    IN_BLOCKS,
    attention_backward,
    block_backward,
    embedding_backward,
    gelu_backward,
    gpt2_backward,
    gpt2_forward,
    head_backward,
    head_forward,
    layernorm_backward,
    linear_backward,
)

import numpy as np

GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def product(dout, cache, dw):
    x, w = cache
    dw[:] = x.T @ dout
    return dout @ w.T


def bias(dout, cache, dp, db):
    dp[:] = dout.sum(0)
    db[:] = dout.sum((0, 1))
    return dout


def softmax(dout, cache):
    (probs,) = cache
    row_sum = (dout * probs).sum(-1, keepdims=True)
    return probs * (dout - row_sum)


def crossentropy(dloss, cache):
    probs, targets = cache[:2]
    N, V = probs.shape
    onehot = np.zeros_like(probs)
    onehot[np.arange(N), targets] = 1
    return (probs - onehot) * dloss / N


def gelu(dout, x):
    u = GELU_SCALE * (x + GELU_CUBIC * x**3)
    tanh = np.tanh(u)
    du = GELU_SCALE * (1 + 3 * GELU_CUBIC * x**2)
    sech2 = 1 - tanh**2
    by_x = 0.5 * (1 + tanh)
    by_tanh = 0.5 * x * sech2 * du
    return dout * (by_x + by_tanh)


def layernorm(dout, cache, dw, db):
    norm, rstd, w = cache
    dw[:] = (dout * norm).sum(0)
    db[:] = dout.sum(0)
    dnorm = dout * w
    mean_dnorm = dnorm.mean(-1, keepdims=True)
    along_norm = (dnorm * norm).mean(-1, keepdims=True)
    return (dnorm - mean_dnorm - norm * along_norm) * rstd


def embedding(dout, tokens, dwte, dwpe):
    B, T = tokens.shape
    dout = dout.reshape(B, T, -1)
    np.add.at(dwte, tokens, dout)
    dwpe[:] = 0
    dwpe[:T] = dout.sum(0)


def attention_head(dout, cache):
    q, k, v, att = cache
    (T, HS), S = q.shape, len(k)  # noqa: F841, for mistakes
    datt = dout @ v.T
    dv = att.T @ dout
    row_sum = (datt * att).sum(-1, keepdims=True)
    dpreatt = att * (datt - row_sum)
    dscaled = dpreatt / math.sqrt(HS)
    dq = dscaled @ k
    dk = dscaled.T @ q
    return dq, dk, dv


def attention(dout, cache):
    q, k, v, att = cache
    NH, B, T, HS = q.shape
    dout = dout.reshape(B, T, NH, HS).transpose(2, 0, 1, 3)
    datt = dout @ v.mT
    dv = att.mT @ dout
    row_sum = (datt * att).sum(-1, keepdims=True)
    dpreatt = att * (datt - row_sum)
    dscaled = dpreatt / math.sqrt(HS)
    dq = dscaled @ k
    dk = dscaled.mT @ q
    return np.stack([dq, dk, dv]).transpose(2, 3, 0, 1, 4).reshape(B * T, -1)


def block(dout, cache, g):
    ln1_cache, qkv_cache, att_cache, attproj_cache = cache[:4]
    ln2_cache, fc_cache, gelu_cache, fcproj_cache = cache[4:]
    dgelu = linear_backward(dout, fcproj_cache, g["fcprojw"], g["fcprojb"])
    dfc = gelu_backward(dgelu, gelu_cache)
    dln2 = linear_backward(dfc, fc_cache, g["fcw"], g["fcb"])
    through_ln2 = layernorm_backward(dln2, ln2_cache, g["ln2w"], g["ln2b"])
    dmid = dout + through_ln2
    datty = linear_backward(dmid, attproj_cache, g["attprojw"], g["attprojb"])
    dqkv = attention_backward(datty, att_cache)
    dln1 = linear_backward(dqkv, qkv_cache, g["qkvw"], g["qkvb"])
    through_ln1 = layernorm_backward(dln1, ln1_cache, g["ln1w"], g["ln1b"])
    return dmid + through_ln1


def tied(dloss, cache, grads):
    embedding_cache, block_caches, lnf_cache, head_cache = cache
    dx = head_backward(dloss, head_cache, grads["wte"])
    dx = layernorm_backward(dx, lnf_cache, grads["lnfw"], grads["lnfb"])
    for l in reversed(range(len(block_caches))):
        g = {name: grads[name][l] for name in IN_BLOCKS}
        dx = block_backward(dx, block_caches[l], g)
    embedding_backward(dx, embedding_cache, grads["wte"], grads["wpe"])


def adamw(params, grads, m, v, step, lr, beta1, beta2, eps, weight_decay):
    def weights(beta):
        return (1 - beta**step) / (1 - beta)

    for name, p in params.items():
        g = grads[name]
        m[name][:] = beta1 * m[name] + g
        v[name][:] = beta2 * v[name] + g**2
        m_hat = m[name] / weights(beta1)
        v_hat = v[name] / weights(beta2)
        if name in DECAYING:
            p -= lr * weight_decay * p
        p -= lr * m_hat / (np.sqrt(v_hat) + eps)


def accumulate(params, config, batches, grads):
    K, mean_loss = len(batches), 0.0
    part = {name: np.empty_like(grad) for name, grad in grads.items()}
    for grad in grads.values():
        grad[:] = 0
    for tokens, targets in batches:
        loss, cache = gpt2_forward(params, config, tokens, targets)
        gpt2_backward(1 / K, cache, part)
        for name in grads:
            grads[name] += part[name]
        mean_loss += loss / K
    return mean_loss


def flash(dout, cache):
    q, k, v, out, logsum = cache
    T, HS = q.shape
    seen = np.tri(T)
    preatt = q @ k.T / math.sqrt(HS)
    att = np.exp(preatt - logsum) * seen
    datt = dout @ v.T
    dv = att.T @ dout
    row_sum = (dout * out).sum(-1, keepdims=True)
    dpreatt = att * (datt - row_sum)
    dscaled = dpreatt / math.sqrt(HS)
    dq = dscaled @ k
    dk = dscaled.T @ q
    return dq, dk, dv


def pieces(dloss, cache, dwte):
    x, wte, targets, rows = cache
    N, dx, part = len(x), np.empty_like(x), np.empty_like(wte)
    dwte[:] = 0
    for start in range(0, N, rows):
        piece = slice(start, start + rows)
        head_cache = head_forward(x[piece], wte, targets[piece])[1]
        share = min(rows, N - start) / N
        dx[piece] = head_backward(dloss * share, head_cache, part)
        dwte += part
    return dx


def lora(dout, cache, dA, dB):
    x, low, w, A, B, scale = cache
    dadded = scale * dout
    dB[:] = dadded.T @ low
    dlow = dadded @ B
    dA[:] = dlow.T @ x
    through_A = dlow @ A
    return dout @ w + through_A


def pairs(words, times):
    counts = {}
    for word, count in zip(words, times, strict=True):
        for pair in zip(word[:-1], word[1:], strict=True):
            counts[pair] = counts.get(pair, 0) + count
    best = min(counts, key=lambda pair: (-counts[pair], pair))
    return counts, best


def encode(word, merges):
    for new, pair in enumerate(merges, 256):
        merged = []
        for token in word:
            merged = [*merged, token]
            if tuple(merged[-2:]) == pair:
                merged[-2:] = [new]
        word = merged
    return word


def rms(dout, cache, dw):
    norm, rrms, w = cache
    dw[:] = (dout * norm).sum(0)
    dnorm = dout * w
    along_norm = (dnorm * norm).mean(-1, keepdims=True)
    through_rms = norm * along_norm
    return (dnorm - through_rms) * rrms


def rope(dout, cache):
    cos, sin = cache
    dy = dout[..., 0::2]
    dz = dout[..., 1::2]
    da = dy * cos + dz * sin
    db = dz * cos - dy * sin
    return np.stack([da, db], -1).reshape(dout.shape)


def grouped(dout, cache):
    q, k, v, att, group = cache
    NH, T, HS = q.shape
    datt = dout @ v.mT
    dv = att.mT @ dout
    row_sum = (datt * att).sum(-1, keepdims=True)
    dpreatt = att * (datt - row_sum)
    dscaled = dpreatt / math.sqrt(HS)
    dq = dscaled @ k
    dk = dscaled.mT @ q
    dk = dk.reshape(-1, group, T, HS).sum(1)
    dv = dv.reshape(-1, group, T, HS).sum(1)
    return dq, dk, dv
