"""Training over several machines: Ray Train over torch's DDP for the report model, a task for each member of the graph
model. All else, such as the rendering and the calibration, runs where the command does.

The machines see the data and the folder of the run at the same paths, as on a shared file system: that is where the
state of every epoch is, and from where the training goes on after the death of a machine.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import distributed

from thinwire.receiver.batch.ray_cluster import spread_calls, train_together
from thinwire.receiver.training.corpus import unheard
from thinwire.receiver.training.graph_stage import Weights
from thinwire.receiver.training.team import Team
from thinwire.receiver.training.train import TrainOptions, join_report_model


@dataclass(frozen=True)
class RaySpread:
    """Implements `Spread`."""

    address: str
    workers: int

    def report_model(self, options: TrainOptions) -> None:
        train_together(self.address, self.workers, _join, options, options.work / "ray")

    def members(self, works: Sequence[Callable[[], Weights]]) -> Iterator[Weights]:
        return spread_calls(self.address, self.workers, works)


def _join(options: TrainOptions) -> None:
    """In a process of the cluster, whose process group Ray Train has made."""
    join_report_model(options, unheard, Team(distributed.get_rank(), distributed.get_world_size()))
