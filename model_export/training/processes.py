"""The processes of one training: one, or as many as `torchrun` started."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

EVALUATION_LIMIT = timedelta(hours=2)
"""How long processes wait for the first one, which evaluates alone."""


@dataclass(frozen=True)
class Processes:
    """This process among all of a training, and its device."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process evaluates, reports and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must ask."""
        if self.count == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(votes)
        return bool(votes.item())

    def shared(self, network: nn.Module) -> nn.Module:
        """The network, whose gradients are averaged over all processes."""
        if self.count == 1:
            return network
        return DistributedDataParallel(network)

    def exchanging(self, network: nn.Module, exchanges: bool) -> AbstractContextManager[None]:
        """Whether a backward pass averages the gradients of a `shared` network, or only adds."""
        if exchanges or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        return network.no_sync()


def is_first_process() -> bool:
    """Whether this process is the only one, or the first that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started, if it did."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if count == 1:
        yield Processes(device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=EVALUATION_LIMIT)
    try:
        yield Processes(device, rank, count)
    finally:
        distributed.destroy_process_group()


def synchronised_norms(network: nn.Module, processes: Processes) -> nn.Module:
    """BatchNorm over the images of all GPUs; on CPUs, PyTorch has none."""
    if processes.count == 1 or processes.device.type != "cuda":
        return network
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted
