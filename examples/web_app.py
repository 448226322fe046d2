"""Workflows behind a web application (Starlette; FastAPI is the same): submit and ask later, or wait in the handler.

Run it directly and it serves itself for a moment and makes the requests. Or serve it: ``uvicorn web_app:app``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from egregore_dist import LocalCluster, Run, RunFailed, node, parallel
from egregore_dist.errors import RunNotFound

try:
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
except ModuleNotFoundError as missing:
    sys.exit(f"this example needs {missing.name}: pip install starlette uvicorn httpx")


@node("words")
def words(text: str) -> int:
    return len(text.split())


@node("longest")
def longest(text: str) -> str:
    return max(text.split(), key=len)


@node("slow_check")
async def slow_check(text: str) -> bool:
    await asyncio.sleep(0.5)
    return text.isascii()


quick = parallel(words, longest, name="quick")
thorough = parallel(words, longest, slow_check, timeout=30.0, name="thorough")


async def submit(request: Request) -> JSONResponse:
    """POST /reports: start a run and answer at once. The client's own id makes a repeated POST harmless."""
    body = await request.json()
    # Submitting writes to the cluster, so it is done beside the event loop.
    run = await asyncio.to_thread(thorough.submit, {"text": body["text"]}, id=body.get("id"))
    return JSONResponse({"id": run.id, "href": f"/reports/{run.id}"}, status_code=202)


async def show(request: Request) -> JSONResponse:
    """GET /reports/{id}: how it stands; any process of the application can answer, since the id is all it needs."""
    run = Run(request.path_params["id"])
    try:
        status = await asyncio.to_thread(lambda: run.status)
        result = await run if status == "succeeded" else None
    except RunNotFound as error:
        return JSONResponse({"error": str(error)}, status_code=404)
    return JSONResponse({"status": status, "result": result})


async def analyse(request: Request) -> JSONResponse:
    """GET /analysis?text=...: for what is quick enough, wait; other requests are served meanwhile."""
    try:
        return JSONResponse(await quick.arun({"text": request.query_params["text"]}))
    except RunFailed as error:
        return JSONResponse({"error": str(error), "run": error.run_id}, status_code=500)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """One cluster for the application: that of EGREGORE_BROKER_URL, or workers on this machine."""
    cluster: Any = nullcontext() if "EGREGORE_BROKER_URL" in os.environ else LocalCluster()
    await asyncio.to_thread(cluster.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(cluster.__exit__, None, None, None)


routes = [Route("/reports", submit, methods=["POST"]), Route("/reports/{id}", show), Route("/analysis", analyse)]
app = Starlette(routes=routes, lifespan=lifespan)


async def main() -> None:
    """Serve on a free port of this machine, make some requests, stop."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:
        accepted = (await client.post("/reports", json={"id": "report-1", "text": "a web app starts a run"})).json()
        print(f"POST /reports            202 {accepted}")
        report = {"status": ""}
        while report["status"] not in ("succeeded", "failed", "cancelled"):
            last, report = report, (await client.get(accepted["href"])).json()
            if report != last:
                print(f"GET  {accepted['href']}   200 {report}")
            await asyncio.sleep(0.05)
        again = await client.post("/reports", json={"id": "report-1", "text": "a web app starts a run"})
        print(f"POST /reports again      {again.status_code} the same run: {again.json()['id']}")
        print(
            f"GET  /analysis           200 {(await client.get('/analysis', params={'text': 'short and long'})).json()}"
        )
        unknown = await client.get("/reports/none")
        print(f"GET  /reports/none       {unknown.status_code} {unknown.json()['error']}")
    server.should_exit = True
    await serving


if __name__ == "__main__":
    asyncio.run(main())
