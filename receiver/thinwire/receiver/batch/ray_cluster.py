"""Work on a Ray cluster: the only module that imports Ray.

A task is one chunk of payloads; its results come back to the process that asked, which alone writes. Ray runs a task
again whose machine or process died. Nothing of the hub but payloads and bundles goes there: no name, no key, no URL.
"""

import contextlib
import os
import pickle
import secrets
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from thinwire.receiver.batch.engine import Make, Results, Worker, cores
from thinwire.shared.errors import BadConfiguration, LinkLost, ThinwireError

LOCAL = "local"
"""The address that starts a cluster on this machine, for as long as the command runs."""
RETRIES = 1
"""Further attempts of a task whose process or machine died. A payload that kills its process is then tried alone."""
RESTARTS = 2
"""Of a training in which a process died; each goes on after its last epoch."""
LEAST_STORE = 80 << 20
"""Bytes of Ray's object store: the least that Ray takes."""
CAPACITY_SECONDS = 5.0
"""Seconds between two looks at how many CPUs the cluster has: machines join and leave."""
PROGRAM = metadata.version("thinwire")
Result = TypeVar("Result")
_LOST = "Nothing is lost: repeat the command, which goes on where it was."


@contextlib.contextmanager
def connected(address: str, workers: int | None = None, shipped: int = 0) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at an address as Ray takes it: HOST:PORT, ray://HOST:PORT, `auto`, or
    `local`. A connection that the program has already is used, and stays.

    workers: CPUs of a local cluster. shipped: bytes that go to every machine of a local one. Raises BadConfiguration.
    """
    # No report to Ray's makers; before the import, which reads it.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise BadConfiguration("Ray is not installed", "Install thinwire[cluster].") from None
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address, "logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        options |= _local(workers, shipped)
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadConfiguration(
            f"no Ray cluster can be used at this address ({type(error).__name__})",
            "Give --ray HOST:PORT of a running one with the same versions of Ray and Python, or --ray local.",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _local(workers: int | None, shipped: int) -> dict[str, Any]:
    """Options of a cluster on this machine that runs in a container too: no dashboard, a token that no one else has, a
    small object store, in /tmp where /dev/shm is smaller still."""
    # Ray listens on the machine's address and asks for a token from 2.59 on; else it would keep one in the home folder.
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    store = LEAST_STORE + 2 * shipped
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < 2 * store:
        os.environ["RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"] = "1"
    return {
        "num_cpus": workers or cores(),
        "include_dashboard": False,
        "object_store_memory": store,
    }


def spread_calls(address: str, workers: int, calls: Sequence[Callable[[], Result]]) -> Iterator[Result]:
    """The results of calls, in order, of which as many run at once as the cluster has CPUs. A call and its result are
    pickled. Raises BadConfiguration, LinkLost, and what a call raises."""
    size = sum(len(pickle.dumps(each)) for each in calls)
    with connected(address, workers, size) as ray, _translated():
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        for ref in [task.remote(PROGRAM, each) for each in calls]:
            yield ray.get(ref)


def train_together(address: str, workers: int, work: Callable[[Any], None], given: Any, folder: Path) -> None:
    """Run work(given) in so many processes of one torch process group, by Ray Train: nccl where each has a GPU of its
    own, else gloo. After the death of one all begin again. folder: Ray Train's own notes, seen by all machines.

    Raises BadConfiguration, LinkLost, and what `work` raises of ours.
    """
    with connected(address, workers) as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer

        has = ray.cluster_resources()
        gpu = has.get("GPU", 0) >= workers
        each = {"CPU": max(1, int(has.get("CPU", 1) // workers)), **({"GPU": 1} if gpu else {})}
        if has.get("CPU", 0) < workers:
            raise BadConfiguration(f"the Ray cluster has fewer than {workers} CPUs", "Give fewer --workers.")
        trainer = TorchTrainer(
            _together,
            train_loop_config={"program": PROGRAM, "work": work, "given": given},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=each),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            run_config=RunConfig(
                name="training",
                storage_path=str(folder.absolute()),
                failure_config=FailureConfig(max_failures=RESTARTS),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            for cause in getattr(error, "worker_failures", {}).values():
                if isinstance(cause, ThinwireError):
                    raise cause from None
            raise LinkLost(f"the training failed on the Ray cluster ({type(error).__name__})", _LOST) from error


class RayTasks:
    """An `Engine`. make, folder, names: as of `Processes`; the named folders are copied to the machines."""

    def __init__(
        self, make: Make, folder: Path, names: Sequence[str], address: str, workers: int | None = None
    ) -> None:
        """workers: chunks at once, of one CPU each; None is as many as the cluster has CPUs."""
        files = {name: _files(folder / name) for name in names}
        size = sum(len(data) for each in files.values() for data in each.values())
        self._workers = workers
        self._exit = contextlib.ExitStack()
        self._ray = self._exit.enter_context(connected(address, workers, size))
        shipped = {name: {file: self._ray.put(data) for file, data in each.items()} for name, each in files.items()}
        self._given = (uuid.uuid4().hex, make, shipped)
        self._task = self._ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
        self._under_way: list[Any] = []
        self._capacity = (-CAPACITY_SECONDS, 1)

    @property
    def room(self) -> int:
        """Two chunks for each CPU, so that none waits for the next."""
        seen, count = self._capacity
        if time.monotonic() - seen >= CAPACITY_SECONDS:
            count = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
            self._capacity = (time.monotonic(), count)
        return 2 * count if self._workers is None else min(self._workers, 2 * count)

    def submit(self, payloads: Sequence[bytes]) -> object:
        ref = self._task.remote(PROGRAM, self._given, list(payloads))
        self._under_way.append(ref)
        return ref

    def done(self) -> list[tuple[object, Results | None]]:
        ready, self._under_way = self._ray.wait(self._under_way, num_returns=1)
        return [(ref, self._result(ref)) for ref in ready]

    def _result(self, ref: Any) -> Results | None:
        from ray import exceptions

        try:
            with _translated():
                results: Results = self._ray.get(ref)
        except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError):
            return None
        return results

    def __enter__(self) -> "RayTasks":
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Ray's errors as ours; the death of a process stays Ray's own error where it tells of one payload."""
    from ray import exceptions

    try:
        yield
    except (exceptions.WorkerCrashedError, exceptions.NodeDiedError, exceptions.OutOfMemoryError):
        raise
    except exceptions.RayTaskError as error:
        if isinstance(error.cause, ThinwireError):
            raise error.cause from None
        raise
    except exceptions.RaySystemError as error:
        raise (_other_program() if "No module named" in str(error) else LinkLost("Ray failed", _LOST)) from error
    except exceptions.RayError as error:
        raise LinkLost(f"the Ray cluster is lost ({type(error).__name__})", _LOST) from error


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _other_program() -> BadConfiguration:
    return BadConfiguration(
        "the machines of the Ray cluster have another version of thinwire, or none",
        f"Install thinwire[receiver,cluster] {PROGRAM} on each of them.",
    )


# In a process of the cluster.


def _call(program: str, call: Callable[[], Result]) -> Result:
    if program != PROGRAM:
        raise _other_program()
    return call()


def _together(config: dict[str, Any]) -> None:
    if config["program"] != PROGRAM:
        raise _other_program()
    config["work"](config["given"])


_workers: dict[str, Worker] = {}
"""The worker of the present batch, by its number: its models are loaded once in a process."""


def _run(program: str, given: tuple[str, Make, dict[str, dict[str, Any]]], payloads: list[bytes]) -> Results:
    if program != PROGRAM:
        raise _other_program()
    number, make, shipped = given
    if number not in _workers:
        import ray

        _workers.clear()
        with tempfile.TemporaryDirectory() as folder:
            for name, files in shipped.items():
                (Path(folder) / name).mkdir()
                for file, ref in files.items():
                    (Path(folder) / name / file).write_bytes(ray.get(ref))
            _workers[number] = make(Path(folder))
    return _workers[number](payloads)
