"""Work in several processes that form a group: torch.distributed over gloo, on the CPU."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _in_group(rank, world, folder, work):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    try:
        torch.save(work(rank, world), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def in_processes(work, folder, world=2):
    """What work(rank, world) returned in each process. A function of a test module, so that a spawned process finds it."""
    mp.spawn(_in_group, (world, str(folder), work), nprocs=world)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(world)]
