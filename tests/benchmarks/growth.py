"""What 10 million, 100 million and a billion passages need: arithmetic on measured figures, checked by a simulation.

usage: python tests/benchmarks/growth.py
Inputs are figures of RESULTS.md, by section, three that were measured by hand (embedding, the store's size), prices with
their year, and a guess of the network's time. A question goes to all shards of the passages at
once, each on a core of the machine that holds the shard; when the slowest has answered, its ten best passages go to the
reader machine with the least to do, whose cores read them. The simulation lets questions arrive at random (a Poisson
process) and every search take a random time with the measured mean and spread, and tells how long questions take and how
busy machines are; it does not know of failing machines, a network that is slow, or indexes that are being changed.
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from results import record, table

# --- Measured ("section": figure), on one core where not said otherwise -------------------------------------------------
READ_MS = 7.26  # "Reader speed on cpu", needle numba: ms a question, times 2 cores, over 10 passages; a core with AMX
PASSAGES_READ = 10
BM25_MS = 1.917  # "BM25 speed, 1,000,000 passages": a question, median; it grows with the number of passages
BM25_P95 = 4.946
GRAPH_MS = 1.046  # "Vector search, 1,000,000 vectors", faiss HNSW32 fp16; it grows with the logarithm of their number
EMBED_QUESTION_MS = 9.8  # all-MiniLM-L6-v2, a question of SQuAD by itself, 2026-11-24
BM25_GIB = 0.734  # resident, of a million passages
GRAPH_GIB = 0.969
VECTORS_GIB = 1.084  # float16 and int8
STORE_GIB = 2.26  # on disk, of a million passages of 128 words with their tokens
BM25_DISK_GIB = 0.551
BUILD_S = {"BM25": 74.0, "graph": 2 * 133.5}  # core seconds a million
EMBED_PASSAGE_MS = 11.5  # 200 passages of 91 words on average, 2026-11-24

# --- Prices: AWS, us-east-1, on demand, Linux, list prices of 2025 in US dollars -----------------------------------------
CORES, READER_HOUR = 8, 0.714  # c7i.4xlarge, 16 virtual cores, 32 GiB: reads
SEARCH_GIB, SEARCH_HOUR = 128, 1.0584  # r7i.4xlarge, 16 virtual cores: holds shards
GIB_MONTH = 0.08  # gp3
HOURS = 730

NETWORK_MS = 1.0  # there and back, twice; a guess
LOAD = 0.6  # how busy reader machines may be
QUESTIONS = 20_000  # simulated


#: How questions' search times spread: lognormal by the measured median and 95th percentile; and their mean.
SIGMA = math.log(BM25_P95 / BM25_MS) / 1.645
MEAN = math.exp(SIGMA**2 / 2)


class Plan(NamedTuple):
    passages: float
    rate: float  # questions a second
    hybrid: bool
    shards: int  # of the passages, one a core
    replicas: int  # of all shards
    readers: int  # machines

    @property
    def shard_ms(self) -> float:
        """A middling question's time on one shard."""
        millions = self.passages / self.shards / 1e6
        return BM25_MS * millions + (GRAPH_MS * math.log(millions * 1e6) / math.log(1e6) if self.hybrid else 0.0)

    @property
    def memory_gib(self) -> float:
        return self.passages / 1e6 * (BM25_GIB + (GRAPH_GIB + VECTORS_GIB if self.hybrid else 0.0))

    @property
    def disk_gib(self) -> float:
        return self.passages / 1e6 * (STORE_GIB + BM25_DISK_GIB + (GRAPH_GIB + VECTORS_GIB if self.hybrid else 0.0))

    @property
    def searchers(self) -> int:
        return self.shards // CORES * self.replicas

    @property
    def month(self) -> float:
        machines = self.searchers * SEARCH_HOUR + self.readers * READER_HOUR
        return HOURS * machines + self.replicas * self.disk_gib * GIB_MONTH

    @property
    def build_core_hours(self) -> float:
        seconds = BUILD_S["BM25"] + (BUILD_S["graph"] + EMBED_PASSAGE_MS * 1000 if self.hybrid else 0.0)
        return self.passages / 1e6 * seconds / 3600


def plan(passages: float, rate: float, hybrid: bool) -> Plan:
    """As many shards as fill the machines' memory but for a quarter, and as many copies and readers as keep `LOAD`."""
    one = Plan(passages, rate, hybrid, CORES, 1, 1)
    one = one._replace(shards=CORES * math.ceil(one.memory_gib / (0.75 * SEARCH_GIB)))
    replicas = math.ceil(rate * one.shard_ms * MEAN / 1000 / LOAD)
    readers = math.ceil(rate * PASSAGES_READ * READ_MS / 1000 / CORES / LOAD)
    return one._replace(replicas=replicas, readers=readers)


def queued(arrivals: NDArray[np.float64], service: NDArray[np.float64]) -> NDArray[np.float64]:
    """When a single server, first come first served, has done each: Lindley's recursion (1952) as a running maximum."""
    total = np.cumsum(service)
    return np.asarray(total + np.maximum.accumulate(arrivals - np.append(0, total[:-1])))


def simulated(one: Plan) -> tuple[float, float, float]:
    """Median and 95th percentile of a question's ms, and how busy the readers are."""
    random = np.random.default_rng(7)
    arrivals = np.cumsum(random.exponential(1000 / one.rate, QUESTIONS))
    # A question that is long for one shard is long for all: its terms are frequent everywhere.
    difficulty = random.lognormal(0, SIGMA, QUESTIONS)
    ready = np.zeros(QUESTIONS)
    for replica in range(one.replicas):  # they take turns
        own = slice(replica, None, one.replicas)
        for _ in range(one.shards):
            service = one.shard_ms * difficulty[own] * random.uniform(0.8, 1.2, len(arrivals[own]))
            ready[own] = np.maximum(ready[own], queued(arrivals[own], service))
    ready += NETWORK_MS + (EMBED_QUESTION_MS if one.hybrid else 0.0)
    free = [0.0] * one.readers
    busy, done = 0.0, np.empty(QUESTIONS)
    for i in np.argsort(ready):
        service = PASSAGES_READ * READ_MS / CORES * random.uniform(0.7, 1.3)
        start = max(ready[i], heapq.heappop(free))
        heapq.heappush(free, start + service)
        busy, done[i] = busy + service, start + service
    took = done - arrivals
    return float(np.median(took)), float(np.quantile(took, 0.95)), float(busy / (done.max() * one.readers))


def main() -> None:
    rows: list[list[object]] = []
    for passages in (1e7, 1e8, 1e9):
        for rate in (10.0, 1000.0):
            for hybrid in (False, True):
                one = plan(passages, rate, hybrid)
                median, p95, busy = simulated(one)
                asked = rate * HOURS * 3600 / 1e6
                rows.append(
                    [
                        f"{passages / 1e6:,.0f} million",
                        f"{rate:,.0f}",
                        "hybrid" if hybrid else "BM25",
                        f"{one.memory_gib:,.0f}",
                        f"{one.disk_gib:,.0f}",
                        f"{one.build_core_hours:,.0f}",
                        f"{one.shards // CORES} x {one.replicas}",
                        f"{one.readers}",
                        f"{one.shard_ms:,.1f}",
                        f"{median:,.0f}",
                        f"{p95:,.0f}",
                        f"{100 * busy:.0f}",
                        f"{one.month:,.0f}",
                        f"{one.month / asked:,.1f}",
                    ]
                )
    header = [
        "passages",
        "questions/s",
        "retrieval",
        "memory GiB",
        "disk GiB",
        "core hours to build",
        "search machines x copies",
    ]
    header += [
        "reader machines",
        "ms a shard",
        "median ms",
        "p95 ms",
        "readers busy %",
        "$ a month",
        "$ a million questions",
    ]
    told = "\n".join((__doc__ or "").splitlines()[3:])
    record("How it grows", "python tests/benchmarks/growth.py", f"{told}\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()
