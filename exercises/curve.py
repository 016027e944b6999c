"""
The loss of a train_gpt2.py at every tenth step of a short run: hunt.py puts this beside a sick one.

The text is sums, such as 85+63=148, a token is a character. What it should be is in healthy.json.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np

STEPS = 40


def losses(lesson):
    """Return losses in training and in validation, and norms of the gradient, of a short run."""
    numbers = np.random.default_rng(0).integers(100, size=(3000, 2))
    text = "".join(f"{a}+{b}={a + b}\n" for a, b in numbers)
    tokens = np.frombuffer(text.encode(), np.uint8) - ord("\n")
    config = lesson.GPT2Config(maxT=24, V=64, L=2, NH=2, C=32)
    flat = lesson.init_weights(config)
    flat += 0.02 * np.random.default_rng(1).standard_normal(len(flat), np.float32)  # biases, too
    params = lesson.named_views(flat, config)
    grads, m, v = (lesson.named_views(np.zeros_like(flat), config) for _ in range(3))
    rows = []
    for step in range(STEPS + 1):
        x, y = lesson.get_batch(tokens[:-2000], step, 8, 24)
        loss, cache = lesson.gpt2_forward(params, config, x, y)
        if step % 10 == 0:
            rows.append([loss, lesson.evaluate(params, config, tokens[-2000:], 8, 24, 0)])
        lesson.gpt2_backward(1.0, cache, grads)
        norm = lesson.clip_gradients(grads, 1.0)
        if step % 10 == 0:
            rows[-1].append(norm)
        lr = lesson.learning_rate(step, STEPS, 1e-2, 5, 0.1)
        lesson.adamw_update(params, grads, m, v, step + 1, lr, weight_decay=0.1)
    return np.transpose(rows).astype(float).tolist()


def alike(ours, healthy):
    """Return whether a run is like a healthy one: its first step to rounding, the others nearly."""
    first, other = np.array(ours)[:, 0], np.array(healthy)[:, 0]
    return np.allclose(first, other, 2e-6, 0) and np.allclose(ours, healthy, 1e-3)


def main():
    here = Path(__file__).resolve().parent
    if not (here / "healthy.json").exists():
        sys.exit("curve.py: only a hunt's copy of this can be run; python exercises/hunt.py --help")
    sys.path.insert(0, str(here))
    ours, healthy = (
        losses(importlib.import_module("train_gpt2")),
        json.loads((here / "healthy.json").read_text(encoding="utf-8")),
    )
    print("     training       validation     norm of the gradient")
    print("step here   healthy here   healthy here   healthy")
    for i, row in enumerate(np.transpose([ours, healthy], (2, 1, 0)).reshape(-1, 6)):
        print(f"{10 * i:4} " + " ".join(f"{value:7.4f}" for value in row))
    same = alike(ours, healthy)
    print("as it should be" if same else "not as it should be")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
