"""A runner that sums the ranks over a real process group."""

import sys

import torch
import torch.distributed as dist

from cmaev_spec.rundir import RunDir


def main(argv):
    dist.init_process_group("gloo")
    total = torch.tensor([dist.get_rank() + 1])
    dist.all_reduce(total)
    if dist.get_rank() == 0:
        (RunDir(argv[1]).path / "total.txt").write_text(
            f"{total.item()} of {dist.get_world_size()}"
        )
    dist.destroy_process_group()
    sys.stdout.flush()
    return 0
