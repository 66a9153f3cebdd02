"""The server against a bare loop on the same files: read, decode, infer.

    python -m benchmarks.serving --model FILE.onnx --data FOLDER [--requests 2000] [--concurrency 8]

The loop is what a careful person writes in five lines, in one process. The server gets the same files, one a
request, from client threads in a process of its own, over connections that stay open. Where client and server share
the cores, the client's processor time is told apart: ``share_without_client`` compares with the wall time less the
client's part of the cores. ``--slow N`` holds N connections open beside them that never finish a body; a
concurrency far above the server's queue shows how it refuses. Writes ``results/NAME.json`` and ``NAME.md``, NAME being
``serving`` unless ``--name`` says otherwise.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks.machine import RESULTS, conditions, footer
from regraft.data.listing import Seen, pictures
from regraft.runtime import load_onnx

#: Requests before the clock runs.
_WARM_UP = 50


@dataclass(frozen=True)
class Measured:
    """What came out: rates in images a second, latencies in milliseconds, processor time in seconds.

    ``refused`` requests got 503; ``memory_growth`` is that of the server's resident memory after the first tenth.
    """

    requests: int
    concurrency: int
    slow: int
    loop_rate: float
    server_rate: float
    share: float
    share_without_client: float
    latency_median: float
    latency_p99: float
    latency_max: float
    refused: int
    refusal_p99: float
    client_cpu: float
    server_cpu: float
    memory_growth: float


def loop_rate(model: Path, files: list[Path], count: int) -> float:
    """Images a second of the bare loop."""
    opened = load_onnx(model)
    for file in files[:_WARM_UP]:
        opened.run(opened.pixels(file)[None])
    started = time.perf_counter()
    for file in itertools.islice(itertools.cycle(files), count):
        opened.run(opened.pixels(file)[None])
    return count / (time.perf_counter() - started)


def client(address: str, files: list[Path], count: int, concurrency: int) -> dict[str, object]:
    """Send so many requests; latencies in seconds of answers and refusals, wall and processor time."""
    where = urlsplit(address).netloc
    numbers = itertools.count()

    def send(share: int) -> list[tuple[float, int]]:
        connection = http.client.HTTPConnection(where, timeout=60)
        answered = []
        for _ in range(share):
            started = time.perf_counter()
            connection.request("POST", "/predict", files[next(numbers) % len(files)].read_bytes())
            answer = connection.getresponse()
            answer.read()
            answered.append((time.perf_counter() - started, answer.status))
        connection.close()
        return answered

    shares = [count // concurrency + (number < count % concurrency) for number in range(concurrency)]
    send(_WARM_UP)
    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(concurrency) as threads:
        answered = [one for part in threads.map(send, shares) for one in part]
    return {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu,
            "latencies": [seconds for seconds, status in answered if status == 200],
            "refusals": [seconds for seconds, status in answered if status == 503],
            "failed": sum(status not in (200, 503) for _, status in answered)}


@contextmanager
def slow_connections(address: str, count: int) -> Iterator[None]:
    """Connections that begin a body and never end it."""
    where = urlsplit(address)
    start = f"POST /predict HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: 1000\r\n\r\nx".encode()
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection((where.hostname, where.port))).sendall(start)
        yield


@contextmanager
def server_of(model: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Address and process of a server on a free port."""
    server = subprocess.Popen([sys.executable, "-m", "regraft.cli", "serve", str(model), "--port", "0"],
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert server.stderr is not None
        found = re.search(r"http://[^;\s]+", server.stderr.readline())
        assert found is not None, server.stderr.read()
        yield found.group(), psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait()


def measure(model: Path, data: Path, requests: int, concurrency: int, slow: int) -> Measured:
    """Run the loop, then the server with a client in another process."""

    def send(count: int) -> dict[str, Any]:
        done = subprocess.run([sys.executable, "-m", "benchmarks.serving", "--client", address, "--data", str(data),
                               "--requests", str(count), "--concurrency", str(concurrency)],
                              stdout=subprocess.PIPE, text=True, check=True)
        told: dict[str, Any] = json.loads(done.stdout)
        assert not told["failed"]
        return told

    alone = loop_rate(model, _files(data), min(requests, 2_000))
    with server_of(model) as (address, process), slow_connections(address, slow):
        send(max(concurrency, requests // 10))
        memory, cpu = process.memory_info().rss, sum(process.cpu_times()[:2])
        told = send(requests)
        server_cpu, growth = sum(process.cpu_times()[:2]) - cpu, process.memory_info().rss / memory - 1
    latencies, refusals = np.array(told["latencies"]) * 1000, np.array(told["refusals"]) * 1000
    answered, wall, cores = len(latencies), told["wall"], len(os.sched_getaffinity(0))
    return Measured(
        requests=requests, concurrency=concurrency, slow=slow, loop_rate=alone, server_rate=answered / wall,
        share=answered / wall / alone, share_without_client=answered / (wall - told["cpu"] / cores) / alone,
        latency_median=float(np.median(latencies)), latency_p99=float(np.percentile(latencies, 99)),
        latency_max=float(latencies.max()), refused=len(refusals),
        refusal_p99=float(np.percentile(refusals, 99)) if len(refusals) else 0.0,
        client_cpu=told["cpu"], server_cpu=server_cpu, memory_growth=growth)


def _files(data: Path) -> list[Path]:
    return [data / name for name in pictures(data, data, Seen(), False)]


def table(found: Measured, about: dict[str, str]) -> str:
    """The result as a page."""
    rows = "\n".join(f"| {name} | {value:,.2f} |" if isinstance(value, float) else f"| {name} | {value:,} |"
                     for name, value in asdict(found).items())
    return (f"# Serving\n\nRates in images a second, latencies in milliseconds, processor time in seconds.\n\n"
            f"| figure | value |\n| --- | --- |\n{rows}\n\n{footer(about)}\n")


def main() -> None:
    """Measure and write ``results/NAME.json`` and ``NAME.md``; with ``--client`` only send requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--slow", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="serving")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        print(json.dumps(client(given.client, _files(given.data), given.requests, given.concurrency)))
        return
    if given.model is None:
        parser.error("--model is needed")
    found = measure(given.model, given.data, given.requests, given.concurrency, given.slow)
    about = conditions(f"python -m benchmarks.serving --model {given.model.name} --requests {given.requests} "
                       f"--concurrency {given.concurrency} --slow {given.slow}")
    given.results.mkdir(exist_ok=True, parents=True)
    document = json.dumps({"conditions": about, "result": asdict(found)}, indent=2)
    (given.results / f"{given.name}.json").write_text(document + "\n")
    (given.results / f"{given.name}.md").write_text(table(found, about))
    print(table(found, about))


if __name__ == "__main__":
    main()
