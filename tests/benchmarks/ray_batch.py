"""Batch asking on Ray with two workers of one core each, against one process on one core; and 20 kills.

usage: python tests/benchmarks/ray_batch.py SQUAD.json[.gz] FOLDER one|two|ray|kills|record [QUESTIONS]
All questions are over all of the file's paragraphs. Each stage leaves its figures in FOLDER; `record` writes them down.
one: a process on one core, without Ray. two: two such processes at once, what the machine has to give. Where others work on
the machine, `RAY_worker_niceness=0 nice -n -20` before it lets the figures tell of Ray and not of them.
"""

import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from haystack import Document
from results import record, table

from needle.data.squad import read_squad
from needle.pipelines import QA, batch

sys.path.insert(0, str(Path(__file__).parents[1] / "batch"))
from ray_nodes import Nodes, kill_a_worker

SHARD, KILLS = 20, 20
path, folder, stage = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
count = int(sys.argv[4]) if len(sys.argv) > 4 else 600
store, asked = folder / "store", folder / f"{count}.jsonl"


def prepare() -> None:
    questions = read_squad(path)
    step = len(questions) // count
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"id": q.id, "question": q.question} for q in questions[::step][:count]]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not store.exists():
        qa = QA.open(store)
        contexts = dict.fromkeys((q.context, q.title) for q in questions)
        qa.index_documents(Document(content=context, meta={"title": title}) for context, title in contexts)
        qa.update()


def keep(**figures: float) -> None:
    file = folder / "figures.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | figures))
    print(figures)


def one(core: int, start_at: float = 0.0) -> float:
    """Questions a second in a process on a core."""
    os.sched_setaffinity(0, {core})
    qa = QA.open(store)
    queries = [json.loads(line)["question"] for line in asked.read_text().splitlines()]
    qa.ask_many(queries[:SHARD])
    time.sleep(max(0.0, start_at - time.time()))
    started = time.perf_counter()
    for first in range(0, len(queries), SHARD):
        qa.ask_many(queries[first : first + SHARD])
    return len(queries) / (time.perf_counter() - started)


def two() -> float:
    command = [sys.executable, __file__, str(path), str(folder)]
    start_at = str(time.time() + 15)
    both = [
        subprocess.Popen([*command, f"core{core}", str(count), start_at], stdout=subprocess.PIPE, text=True)
        for core in (0, 1)
    ]
    return sum(float(process.communicate()[0]) for process in both)


def on_ray() -> tuple[float, float]:
    """Questions a second once both workers are at it, and with all that comes before and after."""
    out = folder / f"out-{time.time_ns()}"
    told: list[tuple[float, int]] = []
    started = time.perf_counter()
    batch.ask(
        asked, store, out, shard_size=SHARD, readers=2, progress=lambda _, done, __: told.append((time.perf_counter(), done))
    )
    whole = count / (time.perf_counter() - started)
    (first, before), (last, after) = told[1], told[-1]  # each has answered a shard
    return (after - before) / (last - first), whole


def kills() -> dict[str, int]:
    """Workers, a node and the driver are killed, each when something was answered since the kill before."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "."}
    chance, out = random.Random(7), folder / f"kills-{time.time_ns()}"
    nodes = Nodes()
    command = [
        str(Path(sys.executable).with_name("needle")),
        "batch",
        "ask",
        str(asked),
        "--store",
        str(store),
        "--out",
        str(out),
        "--shard-size",
        "5",
    ]
    run = partial(
        subprocess.Popen,
        [*command, "--address", nodes.address],
    )
    done = dict.fromkeys(("worker", "node", "driver"), 0)

    def there() -> int:
        return len(list(out.glob("part-*.jsonl")))

    driver, before = run(), 0
    while sum(done.values()) < KILLS:
        while there() <= before:
            assert driver.poll() is None, "the driver has ended"
            time.sleep(0.1)
        time.sleep(chance.uniform(0, 2))
        before, kind = there(), chance.choice(("worker", "worker", "worker", "node", "driver"))
        print(sum(done.values()) + 1, "kill:", kind, "after", before, "shards", flush=True)
        if kind == "worker":
            done[kind] += kill_a_worker(chance.randrange(2))
        elif kind == "node":
            nodes.kill()
            done[kind] += 1
            time.sleep(2)
            nodes.start()
        else:
            driver.kill()
            driver.wait()
            done[kind] += 1
            driver = run()
    left = count // 5 - there()
    assert driver.wait() == 0
    nodes.stop()
    lines = [json.loads(line) for file in sorted(out.glob("part-*")) for line in file.read_text().splitlines()]
    ids, queries = zip(*(json.loads(line).values() for line in asked.read_text().splitlines()), strict=True)
    expected = [{"id": id_, **r.as_json()} for id_, r in zip(ids, QA.open(store).ask_many(queries), strict=True)]
    assert left > 0
    assert [line["id"] for line in lines] == list(ids), "a question was lost, or answered twice"
    assert lines == expected, "an answer is not the one that QA.ask_many gives"
    return done | {"killed_questions": count}


if stage.startswith("core"):
    print(one(int(stage[4:]), float(sys.argv[5])))
elif stage == "record":
    figures = json.loads((folder / "figures.json").read_text())
    single, both, steady, whole = (figures[name] for name in ("one", "two", "steady", "whole"))
    rows = [
        ["one process, one core", f"{single:.2f}", ""],
        ["two such processes at once", f"{both:.2f}", f"{both / single / 2:.1%}"],
        ["needle batch ask, two workers of one core: steady state", f"{steady:.2f}", f"{steady / single / 2:.1%}"],
        ["the same with the start of Ray and of its workers, and their end", f"{whole:.2f}", f"{whole / single / 2:.1%}"],
    ]
    told = ", ".join(f"{figures[kind]} of a {kind}" for kind in ("worker", "node", "driver"))
    record(
        "Batch asking on Ray",
        f"python tests/benchmarks/ray_batch.py {path} {folder} one|two|ray|kills|record {count}",
        f"{count} questions over the paragraphs of SQuAD 2.0 dev, {SHARD} in a shard:\n\n"
        + table(["", "questions/s", "of 2 x one process"], rows)
        + f"\n\n{KILLS} kills on two nodes of one core each ({told}) while {figures['killed_questions']} questions were "
        "answered, 5 in a shard: each has one line, with the answers of QA.ask_many.",
        ("ray",),
    )
else:
    prepare()
    if stage == "one":
        keep(one=one(0))
    elif stage == "two":
        keep(two=two())
    elif stage == "ray":
        steady, whole = on_ray()
        keep(steady=steady, whole=whole)
    else:
        keep(**kills())
