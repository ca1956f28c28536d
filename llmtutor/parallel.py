"""Data parallelism on the CPU: several processes train one model, each on its rows of every batch, and add up their gradients.

Two processes with one thread each get more out of two cores than one process with two threads (10 to 60 % more, depending on the
machine: `docs/models.md`), because the many small steps of a small model leave a second thread idle (compare Li et al., "PyTorch
Distributed: Experiences on accelerating data parallel training", 2020).
"""
import tempfile
import time
from pathlib import Path

import torch
from torch import distributed


def place():
    """Number of this process among those that train together, and how many they are: (0, 1) for one that is alone."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_available() and distributed.is_initialized() else (0, 1)


@torch.no_grad()
def add_up(tensors):
    """Replace tensors of any shapes, in place, by their sums over the processes; alone, they stay as they are."""
    if place()[1] == 1:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view_as(tensor))


def gather(value):
    """The values (any that can be pickled) of all the processes, in their order; alone, a list of the one."""
    if place()[1] == 1:
        return [value]
    values = [None] * place()[1]
    distributed.all_gather_object(values, value)
    return values


def launch(function, arguments, processes):
    """Call `function(*arguments)` in several processes that train together, one CPU thread each; wait for all of them.

    Args:
        function: A function of a module (it is sent by its name).
        arguments: Tuple; everything in it can be pickled.
        processes: How many; 1 calls the function here, as does a PyTorch that was built without `torch.distributed`.

    Raises:
        torch.multiprocessing.ProcessRaisedException: If one of them fails, with the error of the first that did; the others are stopped.
    """
    if processes == 1 or not distributed.is_available():
        function(*arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (processes, Path(folder), function, arguments), processes)


def _work(rank, world, folder, function, arguments):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=world)
    try:
        function(*arguments)
    except Exception:
        try:
            (folder / "failed").touch(exist_ok=False)
        except FileExistsError:     # another failed before, and this one only for want of it: its error is not the one to report,
            time.sleep(60)          # and `launch` is about to stop us
        raise
    distributed.destroy_process_group()
