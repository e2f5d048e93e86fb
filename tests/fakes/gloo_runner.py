"""A runner that sums the ranks over a real process group, still at work when it returns."""

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
    late = dist.all_reduce(torch.ones(20_000_000), async_op=True)
    late.get_future().then(lambda _: None)  # asks for the interpreter in the group's own thread
    sys.stdout.write("all but done\n")
    return 0
