"""Ray: a cluster joined or started, and items spread over workers on it, whatever of these dies."""

from __future__ import annotations

import logging
import os
import pickle
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from filelock import FileLock, Timeout

from needle.components.cores import available_cores
from needle.data.errors import NeedleError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

#: Locks on cores, held until this process ends.
_HELD: list[FileLock] = []


class Share(NamedTuple):
    """What workers get. workers: how many, None for as many as there is room for. cpus: cores for each. gpu: whether each
    gets a GPU, where there are any."""

    workers: int | None = None
    cpus: int = 1
    gpu: bool = False


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Join a cluster (HOST:PORT, or "auto" for the one on this machine); None starts one on this machine's cores and ends it
    afterwards. A cluster that this process has joined before is used and left as it is.

    :raises NeedleError: if Ray is not installed, or there is no such cluster, or it fails.
    """
    # Ray reports usage unless told otherwise, and prints what its workers die of, over and over.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what is worse is raised
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise NeedleError(f"Batch work needs Ray: pip install needle-qa[ray] ({error})") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    joined = ray.is_initialized()
    try:
        if not joined:
            local: dict[str, Any] = {"num_cpus": available_cores(), "include_dashboard": False} if address is None else {}
            with _silence():  # it tells the log level that it was told
                ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **local)
        yield
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise NeedleError(f"The Ray cluster '{address or 'on this machine'}' failed: {error}") from error
    finally:
        if not joined:
            ray.shutdown()


@contextmanager
def _silence() -> Iterator[None]:
    """What C++ code prints to the standard error is dropped."""
    with open(os.devnull, "wb") as nothing:
        stderr = os.dup(2)
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def room(share: Share) -> tuple[int, int]:
    """How many workers there are to be, and how many GPUs, 0 or 1, each gets."""
    import ray

    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(there.get("GPU", 0)) if share.gpu else 0
    return share.workers or max(1, gpus or int(there.get("CPU", 1)) // share.cpus), min(1, gpus)


def each(
    make: Callable[[], Callable[[Item], Outcome]], items: Sequence[Item], share: Share, tries: int
) -> Iterator[tuple[Item, Outcome | None]]:
    """Have workers handle items, and give each with what came of it, as soon as it is there, in no order.

    Ray Data keeps a pool of workers, gives each an item while another one waits for it, and holds back when what comes of
    them is not taken. An item whose worker dies is handled again, by another.

    :param make: makes, in a worker, what handles an item. It and the items are pickled.
    :param tries: how often an item is begun. One that outlives no worker comes out with None.
    :raises NeedleError: as `make` and what it makes do; whatever else they raise comes out as one, too.
    """
    import ray

    workers, gpus = room(share)
    begun = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries).remote()
    worker: Any = _Worker
    left = dict(enumerate(items))
    while left:
        rows = [{"n": n, "item": pickle.dumps(item)} for n, item in left.items()]
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            worker,
            fn_constructor_args=(make, 0 if gpus else share.cpus, begun, tries),
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=share.cpus,
            num_gpus=gpus,
        )
        data.context.enable_progress_bars = False
        data.context.print_on_execution_start = False
        data.context.max_errored_blocks = -1  # what Ray loses is handled again, by the next round
        for row in data.iter_rows():
            outcome = pickle.loads(row["outcome"])
            if isinstance(outcome, Exception):
                raise outcome
            if row["n"] in left:
                yield left.pop(row["n"]), outcome
        if len(left) == len(rows):
            raise NeedleError(f"Ray lost all work, {len(rows)} pieces of it, and did not say why; its logs may.")


class _Tries:
    """How often each item was begun, kept where no worker's death reaches it."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, n: int) -> int:
        self._begun[n] += 1
        return self._begun[n]


class _Worker(Generic[Item, Outcome]):
    """A process on a node. What it raises is sent as an outcome: Ray would take it for a block that is lost."""

    def __init__(self, make: Callable[[], Callable[[Item], Outcome]], cores: int, tries: Any, most: int):
        """:param cores: that it may use; 0 for all. tries: the handle of `_Tries`."""
        if cores:
            take_cores(cores)
        self._make, self._tries, self._most = make, tries, most

    @cached_property
    def _handle(self) -> Callable[[Item], Outcome]:
        return self._make()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        outcome: Outcome | Exception | None = None
        try:
            handle = self._handle
            if ray.get(self._tries.begin.remote(row["n"])) <= self._most:
                outcome = handle(pickle.loads(row["item"]))
        except NeedleError as error:
            outcome = error
        except Exception as error:  # others may not survive pickling
            outcome = NeedleError(f"A worker failed: {type(error).__name__}: {error}")
        return {"n": row["n"], "outcome": pickle.dumps(outcome)}


def take_cores(n: int) -> None:
    """Keep this process to n cores until it ends, each used by no other process that has called this, as far as there are
    enough. It does nothing where the system can't."""
    if not hasattr(os, "sched_setaffinity"):
        return
    folder = Path(tempfile.gettempdir(), f"needle-cores-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    cores = list(os.sched_getaffinity(0))
    random.shuffle(cores)  # where there are not enough, not all on the same
    own: list[int] = []
    for core in cores:
        lock = FileLock(folder / str(core))
        try:
            if len(own) < n:
                lock.acquire(timeout=0)
                own.append(core)
                _HELD.append(lock)
        except Timeout:
            continue
    os.sched_setaffinity(0, (own + [core for core in cores if core not in own])[:n])


def absolute(name: str) -> str:
    """A file's or folder's path as workers find it, wherever they are started; other names as they are."""
    return os.path.abspath(name) if os.path.exists(name) else name
