"""Where benchmarks write their tables: a section of RESULTS.md, made anew by each run."""

import importlib.metadata
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """Processor, cores and memory, and the GPU if torch sees one."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = f"{len(os.sched_getaffinity(0))} cores of {cpu[1] if cpu else platform.processor()}, {memory:.0f} GiB"
    import torch

    return told + "".join(f", {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))


def record(section: str, command: str, text: str, packages: tuple[str, ...] = ()) -> None:
    """Replace a section of RESULTS.md, or add it, and print it.

    :param packages: whose versions matter here, beside numba's, onnxruntime's and torch's.
    """
    names = ("numba", "onnxruntime", "torch", *packages)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    stamp = f"{machine()}; Python {platform.python_version()}, {versions}; {datetime.now(UTC):%Y-%m-%d}."
    new = f"## {section}\n`{command}`\n\n{stamp}\n\n{text.strip()}\n"
    print(new)
    old = RESULTS.read_text(encoding="utf-8")
    parts = [part for part in re.split(r"(?m)^(?=## )", old) if part.strip()]
    at = next((i for i, part in enumerate(parts) if part.startswith(f"## {section}\n")), len(parts))
    parts[at : at + 1] = [new]
    RESULTS.write_text("\n".join(part.rstrip() + "\n" for part in parts), encoding="utf-8")


def table(header: list[str], rows: list[list[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
