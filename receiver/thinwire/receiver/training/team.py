"""Processes that train one model together by torch.distributed; one process alone is plain torch.

Each step takes the same batch as one process would: every process draws it whole, with the same randomness, and
computes its own rows. Their losses are divided by the counts of the whole batch, so that the mean of the gradients
(DistributedDataParallel) is the gradient of the batch.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Team:
    """One process of `size`; the process group exists where there are several."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def rows(self, count: int) -> NDArray[np.int64]:
        """int64: this process's rows of a batch, none of a batch that is smaller than the team."""
        return np.arange(self.rank, count, self.size)

    def together(self, module: nn.Module) -> nn.Module:
        """The module, whose gradients are from now on the mean over the team."""
        if self.size == 1:
            return module
        # Not every loss reaches every parameter in every batch.
        return DistributedDataParallel(module, find_unused_parameters=True)

    @contextlib.contextmanager
    def own_randomness(self, step: tuple[int, ...]) -> Iterator[None]:
        """In a team, what torch draws within, such as dropout, is another in each process, and what it draws after it
        is the same in all of them."""
        if self.size == 1:
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.default_rng((*step, self.rank)).integers(1 << 32)))
            yield

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each value (a scalar) over the team, in each process the same."""
        if self.size == 1 or not values:
            return dict(values)
        names = sorted(values)
        stacked = torch.stack([values[name].float() for name in names])
        distributed.all_reduce(stacked)
        return dict(zip(names, stacked / self.size, strict=True))

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Team()
