"""reference_gpt2.py: PyTorch's side of the parity test, and the files that it makes."""

import test_gpt2
import train_gpt2 as gpt2
from tools import formats
from tools.console import UserError

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
import reference_gpt2 as reference  # noqa: E402

from helpers import PROJECT, assert_close, write_tokens  # noqa: E402
from test_safetensors import TINY, hf_tensors, random_flat, write_safetensors  # noqa: E402

TESTS, SMALL = PROJECT / "tests", reference.SMALL

# ----------------------------------------------------------------------------
# The model


@pytest.mark.parametrize("config", [SMALL, TINY])
def test_flat_to_module_and_back(config):
    flat = random_flat(config)
    model = reference.model_from_flat(flat, config)
    assert np.array_equal(reference.flat_from_model(model), flat)
    assert sum(p.numel() for p in model.parameters()) == flat.size
    assert model.blocks[1].qkv.weight.shape == (3 * config.C, config.C)
    bias = gpt2.named_views(flat, config)["fcprojb"][1]
    assert np.array_equal(model.blocks[1].fcproj.bias.detach().numpy(), bias)
    flat[:] = 0
    assert reference.flat_from_model(model).all()  # it has memory of its own


def test_sdpa_and_plain_attention_agree():
    flat, config = formats.load_weights(TESTS / "small_weights.bin")
    x, y = (torch.from_numpy(a) for a in reference.random_batch(config, 3, 13))
    results = []
    for sdpa in False, True:
        model = reference.model_from_flat(flat, config, sdpa=sdpa)
        logits, loss = model(x, y)
        loss.backward()
        grads = reference.flat_from_model(model, gradients=True)
        results.append((logits.detach().numpy(), loss.detach().numpy(), grads))
    for plain, fused in zip(*results, strict=True):
        assert_close(fused, plain, 5e-6)  # measured: 5e-7


# ----------------------------------------------------------------------------
# The small weights and their state


def test_small_files_hide_nothing():
    flat, config = formats.load_weights(TESTS / "small_weights.bin")
    assert config == SMALL
    for name, view in gpt2.named_views(flat, config).items():
        assert view.std() > 0.1 and not np.isin(view, (0, 1)).any(), name
    state = test_gpt2.load_state(TESTS / "small_state.bin", SMALL)
    assert list(state.settings.values()) == [1e-2, 0.9, 0.999, 1e-4, 0.1]
    assert state.x.shape == (3, 13) and len(np.unique(state.x)) < state.x.size  # some repeated
    assert np.array_equal(state.x.ravel()[1:], state.y.ravel()[:-1])
    assert state.loss == state.losses[0] and len(state.losses) == 10
    assert (np.diff(state.losses) < -0.1).all() and state.params is not None


def test_small_files_are_reproduced(tmp_path, capsys):
    reference.main(["--small", str(tmp_path)])
    assert "step 9: loss 1.82" in capsys.readouterr().out
    names = "small_state.bin", "small_weights.bin"
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names]
    states, weights = ([folder / name for folder in (tmp_path, TESTS)] for name in names)
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert states[0].read_bytes()[:1024] == states[1].read_bytes()[:1024]
    new, old = (test_gpt2.load_state(path, SMALL) for path in states)
    assert np.array_equal((new.x, new.y), (old.x, old.y)) and new.settings == old.settings
    for ours, theirs in (new.logits, old.logits), (new.losses, old.losses):
        assert_close(ours, theirs, 1e-5)
    grads, expected = (gpt2.named_views(state.grads, SMALL) for state in (new, old))
    for name in expected:
        assert_close(grads[name], expected[name], 1e-5, name=name)


def test_first_batch_of_a_token_file(tmp_path):
    path = write_tokens(tmp_path / "val.bin", range(50), SMALL.V)
    x, y = reference.first_batch(SMALL, 2, 3, path)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]] and y.tolist() == [[1, 2, 3], [4, 5, 6]]
    other, _ = reference.first_batch(TINY, 2, 3, path)  # of another vocabulary: random instead
    again, _ = reference.first_batch(TINY, 2, 3, tmp_path / "none")
    assert np.array_equal(other, again) and other.max() < TINY.V


# ----------------------------------------------------------------------------
# The files of a model


def test_defaults():
    args = reference.parse_args([])
    names = "model batch_size seq_len steps seed lr weight_decay".split()
    expected = ["gpt2", 4, 64, 10, 1337, 1e-4, 0.01]
    assert [getattr(args, name) for name in names] == expected


def test_local_safetensors_to_weights_and_state(tmp_path, capsys):
    """test_gpt2.py finds by itself the state that belongs to the weights."""
    flat, out = random_flat(TINY), tmp_path / "new" / "tiny.bin"
    path = write_safetensors(tmp_path / "tiny.safetensors", hf_tensors(flat, TINY))
    flags = ["--model", str(path), "--out", str(out), "--batch-size", "2", "--steps", "3"]
    reference.main([*flags, "--seq-len", "5"])
    read, config = formats.load_weights(out)
    assert config == TINY and np.array_equal(read, flat)
    state_file = out.with_name("tiny_debug_state.bin")
    assert test_gpt2.state_of(out) == state_file
    state = test_gpt2.load_state(state_file, TINY)
    assert state.x.shape == (2, 5) and len(state.losses) == 3 and state.params is None
    assert list(state.settings.values()) == [1e-4, 0.9, 0.999, 1e-8, 0.01]
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert [line.split(":")[0] for line in lines] == ["step 0", "step 1", "step 2"]
    assert not list(tmp_path.rglob("*.part"))

    state_file.unlink()
    reference.main([*flags, "--weights-only"])  # the default --seq-len is for a debug state
    assert [p.name for p in out.parent.iterdir()] == ["tiny.bin"]
    with pytest.raises(UserError, match="tiny_debug_state.bin: there is no file"):
        test_gpt2.main(["--weights", str(out)])
    with pytest.raises(UserError, match="--seq-len 8: .* 7 at most"):
        reference.main([*flags, "--seq-len", "8"])
