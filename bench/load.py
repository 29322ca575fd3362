"""Many clients at once over loopback, next to a bare endpoint with one SELECT: `python -m bench.load`.

Prints responses and times for 1, 32, 200 and 1,000 clients, then for 500 streams and 200 long polls, and how long
`/healthz` took meanwhile.
"""

import argparse
import asyncio
import json
import resource
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.http_load import Connection, Sample, probe, send_requests
from bench.served_api import ServedApi, Server, serve_api
from bench.tables import format_table
from soul_core.spec import JobSpec
from soul_store import jobs
from soul_store.database import transaction
from soul_store.job_queries import get
from soul_store.tables import ApiKey, Model

NUM_CLIENTS = (1, 32, 200, 1000)


def main(arguments: list[str] | None = None) -> None:
    """Run every phase and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="requests of each phase (default: 4000)")
    parser.add_argument("--streams", type=int, default=500, help="streams at once (default: 500)")
    parser.add_argument("--polls", type=int, default=200, help="long polls at once (default: 200)")
    parser.add_argument("--queued", type=int, default=10_000, help="queued jobs in the list (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="unused: nothing here is random")
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in the last line")
    args = parser.parse_args(arguments)
    if args.quick:
        args.requests, args.streams, args.polls, args.queued = 400, 50, 20, 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    with tempfile.TemporaryDirectory(prefix="soul-load-") as folder, serve_api(Path(folder)) as served:
        figures = asyncio.run(measure(served, args))
    if args.json:
        print(json.dumps(figures))


async def measure(served: ServedApi, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of every phase, printing each table as it is complete."""
    job_id = add_jobs(1)[0]
    figures: dict[str, Any] = {"requests": await _measure_requests(served, f"/v1/jobs/{job_id}", args.requests)}
    print(
        format_table(tuple(figures["requests"][0]), [[_show(v) for v in row.values()] for row in figures["requests"]])
    )
    figures["streams"] = await _measure_streams(served, job_id, args.streams)
    figures["long polls"] = await _measure_polls(served, job_id, args.polls)
    add_jobs(args.queued)
    figures["list of queued jobs"] = await _measure_list(served, args.queued)
    for name in ("streams", "long polls", "list of queued jobs"):
        print(f"{name}: " + ", ".join(f"{key} {_show(value)}" for key, value in figures[name].items()))
    return figures


def add_jobs(number: int) -> list[str]:
    """Queue jobs that no worker takes; return their ids."""
    with transaction() as session:
        key = session.query(ApiKey).first()
        assert key is not None
        model = session.get(Model, "mdl_load") or Model(
            id="mdl_load", tenant_id=key.tenant_id, name="m", source="local", location="/nowhere"
        )
        session.add(model)
        session.flush()
        spec = JobSpec()
        return [
            jobs.insert(
                session,
                tenant_id=key.tenant_id,
                created_by=key.id,
                name=f"load {index}",
                model_id=model.id,
                datasets={},
                spec=spec.model_dump(mode="json"),
                spec_sha256=spec.compute_sha256(),
            ).id
            for index in range(number)
        ]


async def _measure_requests(served: ServedApi, path: str, num_requests: int) -> list[dict[str, Any]]:
    rows = []
    await send_requests(served.api.port, served.key, path, num_clients=8, num_requests=100)
    await send_requests(served.bare.port, None, "/row", num_clients=8, num_requests=100)
    for num_clients in NUM_CLIENTS:
        bare, bare_ms, _ = await _measure_phase(served.bare, served, None, "/row", num_clients, num_requests)
        sample, ms, health = await _measure_phase(served.api, served, served.key, path, num_clients, num_requests)
        rows.append(
            {
                "clients": num_clients,
                "errors": sample.num_errors,
                "requests/s": num_requests / max(sum(sample.seconds) / num_clients, 1e-9),
                "p50 ms": sample.compute_percentile(50),
                "p99 ms": sample.compute_percentile(99),
                "CPU ms": ms,
                "bare errors": bare.num_errors,
                "bare p99 ms": bare.compute_percentile(99),
                "bare CPU ms": bare_ms,
                "CPU ratio": ms / bare_ms,
                "healthz max ms": health.compute_percentile(100),
                "healthz errors": health.num_errors,
            }
        )
    return rows


async def _measure_phase(
    server: Server, served: ServedApi, key: str | None, path: str, num_clients: int, num_requests: int
) -> tuple[Sample, float, Sample]:
    async with _probing(served) as health:
        before = server.read_cpu_seconds()
        sample = await send_requests(server.port, key, path, num_clients=num_clients, num_requests=num_requests)
        cpu = server.read_cpu_seconds() - before
    return sample, 1000 * cpu / num_requests, health


async def _measure_streams(served: ServedApi, job_id: str, number: int) -> dict[str, Any]:
    """Open streams, measure their cost while nothing happens, then how soon all receive an event."""
    connections = [Connection(served.api.port, served.key) for _ in range(number)]
    async with _probing(served) as health:
        readers = await asyncio.gather(*(c.send(f"/v1/jobs/{job_id}/events/stream") for c in connections))
        for reader in readers:
            await reader.readuntil(b"event: status")
        num_threads = served.api.process.num_threads()
        await asyncio.sleep(1)
        before, started = served.api.read_cpu_seconds(), time.perf_counter()
        await asyncio.sleep(10)
        # the probes' share is measured in a further phase without streams
        idle = (served.api.read_cpu_seconds() - before) / (time.perf_counter() - started)
        sample = await send_requests(served.api.port, served.key, f"/v1/jobs/{job_id}", num_clients=8, num_requests=400)
        started = time.perf_counter()
        await asyncio.to_thread(_cancel, job_id)
        await asyncio.gather(*(reader.readuntil(b"cancelled") for reader in readers))
        seconds = time.perf_counter() - started
    for connection in connections:
        connection.close()
    await asyncio.sleep(1)
    async with _probing(served):
        before, started = served.api.read_cpu_seconds(), time.perf_counter()
        await asyncio.sleep(5)
        probes = (served.api.read_cpu_seconds() - before) / (time.perf_counter() - started)
    return {
        "streams": number,
        "threads": num_threads,
        "idle core % per stream": 100 * max(idle - probes, 0) / number,
        "GET p99 ms": sample.compute_percentile(99),
        "GET errors": sample.num_errors,
        "all received after ms": 1000 * seconds,
        "healthz max ms": health.compute_percentile(100),
    }


async def _measure_polls(served: ServedApi, _: str, number: int) -> dict[str, Any]:
    """Let requests wait for a job to change, then how soon all of them answer."""
    (job_id,) = add_jobs(1)
    path = f"/v1/jobs/{job_id}?wait=50"
    async with _probing(served) as health:
        polls = [asyncio.create_task(Connection(served.api.port, served.key).get(path)) for _ in range(number)]
        await asyncio.sleep(3)
        sample = await send_requests(served.api.port, served.key, f"/v1/jobs/{job_id}", num_clients=8, num_requests=400)
        started = time.perf_counter()
        await asyncio.to_thread(_cancel, job_id)
        statuses = [status for status, _ in await asyncio.gather(*polls)]
        seconds = time.perf_counter() - started
    return {
        "polls": number,
        "errors": sum(status != 200 for status in statuses),
        "GET p99 ms": sample.compute_percentile(99),
        "all answered after ms": 1000 * seconds,
        "healthz max ms": health.compute_percentile(100),
    }


async def _measure_list(served: ServedApi, number: int) -> dict[str, Any]:
    path = "/v1/jobs?status=queued&limit=100"
    sample = await send_requests(served.api.port, served.key, path, num_clients=1, num_requests=20)
    return {"queued": number, "errors": sample.num_errors, "p50 ms": sample.compute_percentile(50)}


def _cancel(job_id: str) -> None:
    with transaction() as session:
        key = session.query(ApiKey).first()
        assert key is not None
        job = get(session, key.tenant_id, job_id)
        assert job is not None
        jobs.request_cancel(session, job, key.id)


@asynccontextmanager
async def _probing(served: ServedApi) -> AsyncIterator[Sample]:
    sample = Sample()
    task = asyncio.create_task(probe(served.api.port, "/healthz", sample))
    try:
        yield sample
    finally:
        task.cancel()


def _show(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3g}"


if __name__ == "__main__":
    main()
