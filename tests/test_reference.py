"""reference_gpt2.py: PyTorch's side of the parity test, its files, and its command line."""

import http.server
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import test_gpt2
import train_gpt2 as gpt2
from tools import encoding, formats
from tools.console import NoNetwork, UserError

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import reference_gpt2 as reference  # noqa: E402

from test_safetensors import TINY, hf_tensors, random_flat, write_safetensors  # noqa: E402

TESTS = Path(__file__).parent
SMALL = reference.SMALL
SCRIPTS = "train_gpt2.py", "reference_gpt2.py"


def error(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# The model


@pytest.mark.parametrize("config", [SMALL, TINY])
def test_flat_to_module_and_back(config):
    flat = random_flat(config)
    model = reference.model_from_flat(flat, config)
    assert np.array_equal(reference.flat_from_model(model), flat)
    assert sum(p.numel() for p in model.parameters()) == flat.size
    assert model.blocks[1].qkv.weight.shape == (3 * config.C, config.C)
    assert np.array_equal(
        model.blocks[1].fcproj.bias.detach().numpy(), gpt2.named_views(flat, config)["fcprojb"][1]
    )


def test_module_has_memory_of_its_own():
    flat = random_flat(SMALL)
    model = reference.model_from_flat(flat, SMALL)
    flat[:] = 0
    assert reference.flat_from_model(model).all()


def test_sdpa_and_plain_attention_agree():
    flat, config = formats.load_weights(TESTS / "small_weights.bin")
    x, y = (torch.from_numpy(a) for a in reference.random_batch(config, 3, 13))
    results = []
    for sdpa in False, True:
        model = reference.model_from_flat(flat, config, sdpa=sdpa)
        logits, loss = model(x, y)
        loss.backward()
        grads = reference.flat_from_model(model, gradients=True)
        results.append((logits.detach().numpy(), loss.item(), grads))
    for plain, fused in zip(*results, strict=True):
        assert error(np.asarray(fused), np.asarray(plain)) < 5e-6  # measured: 5e-7


def test_attention_sees_no_future():
    model = reference.model_from_flat(random_flat(TINY), TINY)
    x = torch.tensor([[1, 2, 3, 4, 5]])
    z = torch.tensor([[1, 2, 3, 9, 9]])
    assert torch.allclose(model(x)[0][:, :3], model(z)[0][:, :3])
    assert not torch.allclose(model(x)[0][:, 3:], model(z)[0][:, 3:])
    assert model(x)[1] is None


def test_only_matrices_decay():
    model = reference.model_from_flat(random_flat(SMALL), SMALL)
    before = reference.flat_from_model(model)
    optimizer = reference.adamw(model, 0.5, 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = gpt2.named_views(reference.flat_from_model(model), SMALL)
    for name, view in gpt2.named_views(before, SMALL).items():
        kept = 0.95 if name in gpt2.DECAYING else 1
        assert np.allclose(after[name], kept * view), name


# The small state


def read_state(path, config):
    """Read a debug state from its description alone."""
    data, at = Path(path).read_bytes(), 1024
    header = struct.unpack("<256i", data[:1024])

    def take(kind, count):
        nonlocal at
        values = np.frombuffer(data, kind, count, at)
        at += values.nbytes
        return values

    def take_tensors():
        parts = []
        for name, shape in gpt2.tensor_shapes(config).items():
            parts.append(take("<f4", int(np.prod(shape))))
            if name == "wte":
                assert not take("<f4", -config.V % 128 * config.C).any()
        return np.concatenate(parts)

    B, T, steps, with_params = header[2:6]
    state = {"header": header, "x": take("<i4", B * T), "y": take("<i4", B * T)}
    state["logits"], state["loss"] = take("<f4", B * T * config.V), take("<f4", 1)
    state["grads"] = take_tensors()
    state["settings"], state["losses"] = take("<f8", 5), take("<f4", steps)
    if with_params:
        state["params"] = take_tensors()
    assert at == len(data)
    return state


def test_state_as_described():
    state = read_state(TESTS / "small_state.bin", SMALL)
    assert state["header"] == (20240327, 2, 3, 13, 10, 1, *[0] * 250)
    assert state["settings"].tolist() == [1e-2, 0.9, 0.999, 1e-4, 0.1]
    assert np.array_equal(state["x"][1:], state["y"][:-1])
    assert 0 <= state["x"].min() and state["x"].max() < SMALL.V
    assert len(set(state["x"].tolist())) < state["x"].size  # some tokens are repeated
    assert state["loss"][0] == state["losses"][0]
    assert (np.diff(state["losses"]) < -0.1).all()  # and AdamW shows


def test_small_weights_hide_nothing():
    flat, config = formats.load_weights(TESTS / "small_weights.bin")
    assert config == SMALL
    for name, view in gpt2.named_views(flat, config).items():
        assert view.std() > 0.1, name
        assert not np.isin(view, (0, 1)).any(), name


def test_fixture_is_reproduced(tmp_path, capsys):
    reference.main(["--small", str(tmp_path)])
    assert "step 9: loss 1.82" in capsys.readouterr().out
    files = [folder / "small_weights.bin" for folder in (tmp_path, TESTS)]
    assert files[0].read_bytes() == files[1].read_bytes()
    new, old = (read_state(folder / "small_state.bin", SMALL) for folder in (tmp_path, TESTS))
    assert new["header"] == old["header"]
    for key in "x", "y", "settings":
        assert np.array_equal(new[key], old[key]), key
    for key in "logits", "loss", "losses":
        assert error(new[key], old[key]) < 1e-5, key
    grads = [gpt2.named_views(state["grads"], SMALL) for state in (new, old)]
    for name in grads[1]:
        assert error(grads[0][name], grads[1][name]) < 1e-5, name
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "small_state.bin",
        "small_weights.bin",
    ]


def test_first_batch_of_a_token_file(tmp_path):
    path, tokens = tmp_path / "val.bin", np.arange(50)
    header = struct.pack("<256i", gpt2.TOKENS_MAGIC, 1, 50, SMALL.V, *[0] * 252)
    path.write_bytes(header + tokens.astype("<u2").tobytes())
    x, y = reference.first_batch(SMALL, 2, 3, path)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]] and y.tolist() == [[1, 2, 3], [4, 5, 6]]
    other, _ = reference.first_batch(TINY, 2, 3, path)  # of another vocabulary: random instead
    again, _ = reference.first_batch(TINY, 2, 3, tmp_path / "none")
    assert np.array_equal(other, again) and other.max() < TINY.V


# The command


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts, with nothing prepared."""
    for name in SCRIPTS:
        shutil.copy(TESTS.parent / name, tmp_path)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TESTS.parent / "tools", tmp_path / "tools", ignore=ignore)
    return tmp_path


def command(project, *flags, **environment):
    return subprocess.run(
        [sys.executable, project / "reference_gpt2.py", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "TIKTOKEN_CACHE_DIR": str(project / "no_cache"), **environment},
    )


def test_local_safetensors_to_weights_and_state(tmp_path, capsys):
    flat = random_flat(TINY)
    path = write_safetensors(tmp_path / "tiny.safetensors", hf_tensors(flat, TINY))
    out = tmp_path / "new" / "tiny.bin"
    flags = ["--out", str(out), "--batch-size", "2", "--seq-len", "5", "--steps", "3"]
    reference.main(["--model", str(path), *flags])
    read, config = formats.load_weights(out)
    assert config == TINY and np.array_equal(read, flat)
    state = read_state(tmp_path / "new" / "tiny_debug_state.bin", TINY)
    assert state["header"][:6] == (20240327, 2, 2, 5, 3, 0)
    assert state["settings"].tolist() == [1e-4, 0.9, 0.999, 1e-8, 0.01]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "loss" in line] == [
        "step 0",
        "step 1",
        "step 2",
    ]
    assert not list(tmp_path.rglob("*.part"))

    (tmp_path / "new" / "tiny_debug_state.bin").unlink()
    reference.main(["--model", str(path), "--weights-only", *flags])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["tiny.bin"]
    with pytest.raises(UserError, match="--seq-len 8: .* 7 at most"):
        reference.main(["--model", str(path), *flags, "--seq-len", "8"])


@pytest.mark.parametrize(
    "flags",
    [["--model", "x"], ["--model", "d0"], ["--steps", "0"], ["--train"], ["--device", "cpu"]],
)
def test_bad_flag(flags, capsys):
    with pytest.raises(SystemExit) as caught:
        reference.main(flags)
    assert caught.value.code == 2 and flags[0] in capsys.readouterr().err


def test_defaults():
    args = reference.parse_args([])
    names = "model batch_size seq_len steps seed lr weight_decay".split()
    expected = ["gpt2", 4, 64, 10, 1337, 1e-4, 0.01]
    assert [getattr(args, name) for name in names] == expected


def test_state_beside_the_weights(tmp_path, capsys):
    """test_gpt2.py finds by itself what --model d1 wrote."""
    out = tmp_path / "gpt2_d1.bin"
    path = write_safetensors(tmp_path / "tiny.safetensors", hf_tensors(random_flat(TINY), TINY))
    flags = ["--batch-size", "2", "--seq-len", "5", "--steps", "2"]
    reference.main(["--model", str(path), "--out", str(out), *flags])
    assert test_gpt2.state_of(out) == tmp_path / "gpt2_d1_debug_state.bin"
    assert len(test_gpt2.load_state(test_gpt2.state_of(out), TINY).losses) == 2
    test_gpt2.state_of(out).unlink()
    with pytest.raises(UserError, match="gpt2_d1_debug_state.bin: there is no file"):
        test_gpt2.main(["--weights", str(out)])


def test_missing_file_is_one_line(project):
    result = command(project, "--model", "none.safetensors")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "none.safetensors" in result.stderr


def test_without_torch(project):
    (project / "torch.py").write_text("raise ImportError('no torch here')")
    result = command(project, "--help")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "pip install -r requirements.txt" in result.stderr


def test_another_model_safetensors_is_not_taken_for_gpt2(project):
    (project / "model.safetensors").write_bytes(b"x")
    result = command(project, "--weights-only")
    assert result.returncode == 1
    assert "model.safetensors" in result.stderr and "548,105,171" in result.stderr


def test_download_of_the_wrong_size(project):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}/"
    result = command(project, "--weights-only", HF_ENDPOINT=endpoint)
    server.shutdown()
    server.server_close()
    assert set(asked) == {"/openai-community/gpt2/resolve/main/model.safetensors"}
    assert result.returncode == 1, result.stderr
    assert "548,105,171" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    left = {p.name for p in project.iterdir()} - {"__pycache__", "tools"}
    assert left == set(SCRIPTS)


def test_no_network(project):
    start = time.monotonic()
    result = command(project, "--weights-only", HF_ENDPOINT="http://127.0.0.1:9")
    assert time.monotonic() - start < 10
    assert result.returncode == 3
    assert len(result.stderr.splitlines()) == 1 and "127.0.0.1" in result.stderr
    left = {p.name for p in project.iterdir()} - {"__pycache__", "tools"}
    assert left == set(SCRIPTS)


def test_random_model_without_the_tokenizer(project, monkeypatch, capsys):
    def no_network(path):
        raise NoNetwork("no.where can't be reached")

    monkeypatch.setattr(encoding, "write_gpt2_tokenizer", no_network)
    monkeypatch.setattr(gpt2, "HERE", project)
    out = project / "d1.bin"
    flags = ["--model", "d1", "--batch-size", "1", "--seq-len", "4", "--steps", "1"]
    reference.main([*flags, "--out", str(out)])
    assert formats.load_weights(out)[1] == gpt2.named_config("d1", 50257)
    assert (project / "d1_debug_state.bin").exists()
    lines = [line for line in capsys.readouterr().out.splitlines() if "gpt2_tokenizer.bin" in line]
    assert len(lines) == 1 and "no.where" in lines[0]
