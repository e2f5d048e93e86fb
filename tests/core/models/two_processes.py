"""One of two processes that share a batch; arguments: RANK STORE OUT MODEL COMPILE."""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from cmaev.engine.compilation import compile_training
from cmaev.models import create_pretraining_model


def make_batch():
    """A batch of eight: views (B, C, T, H, W) and mask (B, N), True = hidden."""
    generator = torch.Generator().manual_seed(0)
    online, target = torch.randn(2, 8, 3, 8, 32, 32, generator=generator)
    order = torch.rand(8, 16, generator=generator).argsort(1)
    return online, target, (order >= 4).repeat(1, 4)


def make_model(name):
    torch.manual_seed(0)
    return create_pretraining_model(name)


def main():
    rank, store, out, name, how = int(sys.argv[1]), *sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = make_model(name)
    part = slice(4 * rank, 4 * rank + 4)
    training = compile_training(model, how, whole=False, backend="aot_eager")
    wrapped = DistributedDataParallel(training)  # gradients are averaged while this lives
    losses = wrapped(*(x[part] for x in make_batch()))
    losses["loss"].backward()
    mean = losses["loss"].detach().clone()
    dist.all_reduce(mean)
    if rank == 0:
        gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        torch.save({"loss": mean / 2, "gradients": gradients}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # its group's threads, which live on, could abort the usual way out
