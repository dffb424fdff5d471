"""Interleaved timing of named callables, the table they are printed in and the targets they are held to.

All callables of a group run in turn in one process, so that a slow moment of the machine hits each of them alike; a
line is the median over the rounds. With one thread the clock is that thread's CPU time, else wall time.
"""

import ctypes
import dataclasses
import datetime
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata

import torch

__all__ = ["Target", "at_least", "at_most", "measure", "saved_bytes", "kept_memory", "Report"]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a line must reach: `bound` times faster than the line `other` (kind "faster"), or at most `bound` times
    its time (kind "within")."""

    kind: str
    bound: float
    other: str

    def ratio(self, times: Mapping[str, float], name: str) -> float:
        if self.kind == "faster":
            return times[self.other] / times[name]
        return times[name] / times[self.other]

    def met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.kind == "faster" else ratio <= self.bound

    def text(self, ratio: float) -> str:
        verdict = "ok" if self.met(ratio) else "MISSED"
        if self.kind == "faster":
            return f"{ratio:.2f}x faster than {self.other} (target >= {self.bound:g}) {verdict}"
        return f"{ratio:.2f}x of {self.other} (target <= {self.bound:g}) {verdict}"


def at_least(bound: float, faster_than: str) -> Target:
    """Target: at least `bound` times faster than the line named `faster_than`."""
    return Target("faster", bound, faster_than)


def at_most(bound: float, of: str) -> Target:
    """Target: at most `bound` times the time of the line named `of`."""
    return Target("within", bound, of)


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """torch.set_num_threads for the length of a with block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _clock_sample(now: Callable[[], float], call: Callable[[], object], count: int) -> float:
    begin = now()
    for _ in range(count):
        call()
    return now() - begin


def _event_sample(call: Callable[[], object], count: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    threads: int = 1,
    clock: str = "auto",
    seconds: float = 2.0,
    min_rounds: int = 5,
    max_rounds: int = 400,
    sample_seconds: float = 0.002,
) -> dict[str, float]:
    """Median seconds per call of each callable, measured round robin.

    On a GPU (clock "cuda") a sample lies between two CUDA events on the current stream.

    Args:
        calls: name -> callable without arguments.
        threads: torch threads during the measurement.
        clock: "cpu" (this thread's CPU time), "wall", "cuda" (events), or "auto": cpu for one thread, else wall.
        seconds: measuring time for the whole group, exceeded only to reach min_rounds.
        sample_seconds: short calls are repeated until one sample takes about this long.

    Raises:
        ValueError: for an unknown clock, or no callables.
    """
    if clock not in ("auto", "cpu", "wall", "cuda"):
        raise ValueError(f"measure: clock must be 'auto', 'cpu', 'wall' or 'cuda', got {clock!r}")
    if not calls:
        raise ValueError("measure: calls must name at least one callable, got none")
    now = time.thread_time if clock == "cpu" or (clock == "auto" and threads == 1) else time.perf_counter
    sample = _event_sample if clock == "cuda" else lambda call, count: _clock_sample(now, call, count)
    first = _event_sample if clock == "cuda" else lambda call, count: _clock_sample(time.perf_counter, call, count)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with num_threads(threads):
        repeats = {}
        for name, call in calls.items():
            call()
            repeats[name] = max(1, round(sample_seconds / max(first(call, 1), 1e-7)))
        collecting = gc.isenabled()
        gc.collect()
        gc.disable()
        try:
            deadline = time.perf_counter() + seconds
            for done in range(max_rounds):
                if done >= min_rounds and time.perf_counter() > deadline:
                    break
                for name, call in calls.items():
                    samples[name].append(sample(call, repeats[name]) / repeats[name])
        finally:
            if collecting:
                gc.enable()
    return {name: statistics.median(values) for name, values in samples.items()}


def saved_bytes(forward: Callable[[], object]) -> int:
    """Bytes of distinct storages that one forward call keeps for its backward (whole storages, the input included
    where it is kept)."""
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(kept.values())


@contextmanager
def kept_memory(reserve: int = 768 << 20) -> Iterator[bool]:
    """Within the block the C allocator keeps freed memory instead of returning it to the system, and `reserve` bytes
    of its heap are faulted in, so that large outputs find no fresh pages. Yields False where the C library cannot be
    told so."""
    trim_threshold, top_pad, mmap_threshold, mmap_max = -1, -2, -3, -4  # malloc.h
    try:
        libc = ctypes.CDLL(None)
        told = bool(libc.mallopt(mmap_max, 0)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
        told = told and bool(libc.mallopt(top_pad, 64 << 20))
        if told:
            libc.malloc.restype = ctypes.c_void_p
            libc.malloc.argtypes = [ctypes.c_size_t]
            libc.free.argtypes = [ctypes.c_void_p]
            block = libc.malloc(reserve)
            if block:
                ctypes.memset(block, 1, reserve)
                libc.free(block)
    except (OSError, AttributeError):
        yield False
        return
    try:
        yield told
    finally:  # where glibc's own adaptive thresholds arrive in a process that frees large blocks
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 64 << 20)
        libc.mallopt(top_pad, 128 << 10)
        libc.malloc_trim(0)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict:
    """Hardware and versions that a figure depends on."""
    peers = {name: _version(name) for name in ("torchao", "nncf", "onnxruntime", "openvino", "brevitas")}
    found = {
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "isa": torch.ops.torchqat._cpu_isa(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found | {name: version for name, version in peers.items() if version}


def _time_text(seconds: float) -> str:
    micro = seconds * 1e6
    return f"{micro:,.1f} us" if micro < 1000 else f"{micro / 1000:,.2f} ms"


class Report:
    """Collects and prints the lines of one bench run.

    Args:
        threads: thread counts every group is measured with.
        seconds: measuring time per group and thread count.
        options: what the command line asked for (`quick`, `compiled`), for suites to read.
        clock: of every group, as `measure` takes it.
    """

    def __init__(self, suite: str, *, threads: tuple[int, ...] | None = None, seconds: float = 2.0, options=None, clock: str = "auto"):
        self.suite = suite
        self.clock = clock
        self.threads = threads or tuple(sorted({1, torch.get_num_threads()}))
        self.seconds = seconds
        self.options = options
        self.rows: list[dict] = []
        self.environment = environment()

    def header(self) -> None:
        shown = ", ".join(f"{key} {value}" for key, value in self.environment.items())
        print(f"torchqat bench, suite {self.suite}: {shown}", flush=True)

    def note(self, text: str) -> None:
        """A line of prose in the output."""
        print(f"  {text}", flush=True)

    def group(
        self,
        title: str,
        calls: Mapping[str, Callable[[], object]],
        *,
        baseline: str,
        targets: Mapping[str, list[Target] | Target] | None = None,
        threads: tuple[int, ...] | None = None,
        clock: str | None = None,
        sample_seconds: float = 0.002,
    ) -> dict[int, dict[str, float]]:
        """Measure `calls` against each other, print a table with ratios to `baseline` and every target beside what
        was measured.

        Args:
            targets: line name -> one Target or a list of them.
            threads: thread counts instead of the report's own.
            clock: as measure's, instead of the report's own.
            sample_seconds: as measure's.

        Returns:
            thread count -> line name -> median seconds.

        Raises:
            ValueError: if a baseline or target names no line of the group.
        """
        targets = {name: [t] if isinstance(t, Target) else list(t) for name, t in (targets or {}).items()}
        for name in [baseline, *targets, *(t.other for ts in targets.values() for t in ts)]:
            if name not in calls:
                raise ValueError(f"Report.group: {title!r} has no line {name!r}; lines: {', '.join(calls)}")
        result, clock = {}, clock or self.clock
        for count in threads or self.threads:
            times = measure(calls, threads=count, clock=clock, seconds=self.seconds, sample_seconds=sample_seconds)
            result[count] = times
            print(f"\n{title}  [{'GPU' if clock == 'cuda' else f'{count} thread' + 's' * (count > 1)}]")
            width = max(len(name) for name in calls)
            for name, value in times.items():
                ratio = times[baseline] / value
                checks = [(t, t.ratio(times, name)) for t in targets.get(name, [])]
                shown = "".join(f"   {t.text(r)}" for t, r in checks)
                print(f"  {name:<{width}}  {_time_text(value):>12}  {ratio:7.2f}x{shown}", flush=True)
                self.rows.append({
                    "group": title, "line": name, "threads": count, "seconds": value, "baseline": baseline,
                    "speed_vs_baseline": ratio,
                    "targets": [dataclasses.asdict(t) | {"measured": r, "met": t.met(r)} for t, r in checks],
                })  # fmt: skip
        return result

    def values(self, title: str, values: Mapping[str, float], unit: str, limits: Mapping[str, float] | None = None) -> None:
        """Print figures that are not times (bytes per element, errors), with an upper limit where there is one."""
        limits = limits or {}
        print(f"\n{title}")
        width = max(len(name) for name in values)
        for name, value in values.items():
            limit = limits.get(name)
            verdict = "" if limit is None else f"   (target <= {limit:g}) {'ok' if value <= limit else 'MISSED'}"
            print(f"  {name:<{width}}  {value:10.4g} {unit}{verdict}", flush=True)
            targets = [] if limit is None else [{"bound": limit, "measured": value, "met": value <= limit}]
            self.rows.append({"group": title, "line": name, "value": value, "unit": unit, "targets": targets})

    def finish(self, json_path: str | None = None) -> int:
        """Print how many targets were met; write the rows as JSON if asked. Returns the number missed."""
        checks = [(row, t) for row in self.rows for t in row["targets"]]
        missed = [(row, t) for row, t in checks if not t["met"]]
        print(f"\n{len(checks) - len(missed)} of {len(checks)} targets met")
        for row, t in missed:
            threads = f" [{row['threads']} threads]" if "threads" in row else ""
            print(f"  missed: {row['group']} / {row['line']}{threads}: {t['measured']:.3g} against {t['bound']:g}")
        if json_path:
            with open(json_path, "w") as out:
                json.dump({"suite": self.suite, "environment": self.environment, "rows": self.rows}, out, indent=1)
        return len(missed)
