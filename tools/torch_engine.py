"""
A step of training in PyTorch, on any device, in as many processes as torchrun starts: one of the
two engines of tools/train.py, which has the loop (tools/numpy_engine.py is the other).

The model is that of reference_gpt2.py. Batches, files, messages and the decision to stop are
tools/train.py's.
"""

import contextlib
import gc
import itertools
import math
import os

import reference_gpt2 as reference
from tools.console import UserError
from tools.numpy_engine import counted

import torch
from torch import distributed, nn
from torch.nn import functional as F

# ----------------------------------------------------------------------------
# Devices and processes


# Which process this is, which of its host, and of how many: torchrun says it
RANK, LOCAL_RANK = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
WORLD = int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def open_device(args):
    """
    Yield the device of the flags, under torchrun this process's own, the processes being connected.

    Turns PyTorch's own errors into a UserError: no such device, no compiler, no memory, a process
    that has ended.
    """
    try:
        device = torch.device(args.device)
        if not torch.get_device_module(device).is_available():
            raise RuntimeError("PyTorch finds none on this machine")
        if device.type == "cuda":
            device = torch.device("cuda", LOCAL_RANK if WORLD > 1 else device.index or 0)
            torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high" if args.tensorcores else "highest")
        if WORLD > 1:
            connect("nccl" if device.type == "cuda" else "gloo")
        yield device
        if device.type == "cuda":
            print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB")
        if WORLD > 1:
            gc.collect()  # what DistributedDataParallel left, or threads outlive the group
            distributed.destroy_process_group()
    except RuntimeError as error:
        which = f" (rank {RANK})" if WORLD > 1 else ""
        text = str(error).strip().splitlines()[0]
        why, hint = text.split(". ")[0], "try --device cpu"
        if args.device == "cpu":
            hint = "see what the others say" if WORLD > 1 else "leave PyTorch's flags out"
        if args.compile and "ompiler" in why:
            hint = "get one, or leave --compile out"
        elif "memory" in text:
            hint = "lower --batch-size or --seq-len"
        raise UserError(f"--device {args.device}{which}: {why}; {hint}") from error


def connect(backend):
    """Connect this process with the others that torchrun started. RuntimeError, UserError."""
    if not distributed.is_available():
        raise UserError("this PyTorch has no torch.distributed; train in one process")
    try:
        distributed.init_process_group(backend)
    except ValueError as error:  # a variable is missing that torchrun sets
        raise UserError(f"{error}; have torchrun start the processes") from error


def barrier():
    """Wait until each process has come here."""
    if WORLD > 1:
        distributed.barrier()


# ----------------------------------------------------------------------------
# The engine


MOMENTS = "exp_avg", "exp_avg_sq"  # m and v, by PyTorch's names


def prepared_model(flat, config, device, args):
    """Return reference_gpt2.py's model with the parameters, to run as the flags say."""
    model = reference.model_from_flat(flat, config, device, sdpa=args.flash)
    if args.dtype == "bfloat16":  # in products; parameters, layernorms and the loss stay float32
        model.forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
    if args.compile:
        model.compile()
    return model


def load_moments(model, optimizer, m, v, step):
    """Have AdamW go on after that many steps, with its moments m and v, flat; None: zeros."""
    for p in model.parameters():
        zeros = {key: torch.zeros_like(p) for key in MOMENTS}
        optimizer.state[p] = {"step": torch.tensor(float(step), device=p.device), **zeros}
    for key, moment in zip(MOMENTS, (m, v), strict=True):
        if moment is not None:
            for p, part in reference.pairs(model, moment):
                optimizer.state[p][key].copy_(part)


def summed_loss(model, x, y, mask):
    """Return the sum of the losses of those targets y that count, where the mask is not 0."""
    logits, _ = model(x)
    return F.cross_entropy(
        logits.flatten(0, 1).float()[mask.flatten() != 0], y[mask != 0], reduction="sum"
    )


class TorchEngine:
    """
    A model and its AdamW in PyTorch: each process has its own, and all of them stay the same,
    because DistributedDataParallel averages the gradients.

    flat, m and v are flat float32 vectors, which are copied; without m and v, these begin as zeros.
    step is the number of steps taken before; args has the flags of tools/train.py.
    """

    means = True  # m and v are 1 - beta times the lesson's sums

    def __init__(self, args, flat, config, m=None, v=None, step=0, *, device):
        self.rank, self.world = RANK, WORLD
        self.args, self.device, self.learn = args, device, not args.inference_only
        self.model = prepared_model(flat, config, device, args)
        self.optimizer = reference.adamw(self.model, args.lr, args.weight_decay, fused=True)
        load_moments(self.model, self.optimizer, m, v, step)
        several = self.world > 1
        self.parallel = nn.parallel.DistributedDataParallel(self.model) if several else self.model

    def step(self, batches, lr, step):
        """
        Take a step of AdamW on a list of batches, x and y (B, T) each, this process's own.

        With masks behind x and y, the mean is that over all targets that count. Returns the mean
        loss and the norm of the mean gradient, before clipping, over the batches
        of all processes. If one of the two is not finite, the parameters stay as they are. AdamW
        has counted the steps itself, from the one that the engine began with: step, from 0.
        """
        self.optimizer.zero_grad()
        losses, norm = [], 0.0
        masked = len(batches[0]) > 2
        total = len(batches)
        if masked:  # DistributedDataParallel takes the mean of the processes' gradients
            total = max(1, self.sums(counted(batches))[0]) / self.world
        for i, batch in enumerate(batches):
            x, y, *mask = reference.to_device(self.model, *batch)
            # gradients are averaged over the processes only once they are complete
            self.parallel.require_backward_grad_sync = i == len(batches) - 1
            with torch.set_grad_enabled(self.learn):
                loss = summed_loss(self.parallel, x, y, *mask) if mask else self.parallel(x, y)[1]
                loss = loss / total
            if self.learn:
                loss.backward()
            losses.append(loss.detach())
        loss = self.sums(sum(loss.item() for loss in losses))[0] / self.world
        if self.learn:  # PyTorch divides by norm + 1e-6; AdamW hardly sees a factor common to all
            limit = self.args.grad_clip or math.inf
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit).item()
        if math.isfinite(loss + norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()  # nothing without gradients
        torch.get_device_module(self.device).synchronize()  # so that a clock sees all of the step
        return loss, norm

    @torch.no_grad()
    def evaluate(self, batches):
        """Return the mean loss of batches, which the processes share; of targets that count."""
        losses, counts = [], []
        for batch in itertools.islice(batches, self.rank, None, self.world):
            x, y, *mask = reference.to_device(self.model, *batch)
            loss = summed_loss(self.model, x, y, *mask) if mask else self.model(x, y)[1]
            losses.append(loss.item())
            counts.append(int(mask[0].sum()) if mask else 1)
        total, count = self.sums(sum(losses), sum(counts))
        return total / max(1, count)

    def parameters(self):
        """Return the parameters as a flat float32 vector."""
        return reference.flat_from_model(self.model)

    def moments(self):
        """Return AdamW's m and v as flat float32 vectors."""
        state = self.optimizer.state
        return tuple(
            reference.flatten(self.model, lambda p, key=key: state[p][key]) for key in MOMENTS
        )

    def agree(self, flag):
        """Return True in every process if the flag is true in any, so that all of them stop."""
        return self.sums(float(flag))[0] > 0

    def sums(self, *numbers):
        """Return the sum over all processes of each number."""
        if self.world == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()
