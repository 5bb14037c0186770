"""The routes: the page and its files, its events, targets for Prometheus, health and metrics."""

from __future__ import annotations

from importlib import resources

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from cluster_page.swarm import SwarmError
from cluster_page.watch import TooManyViewers, Watch

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def create_app(watch: Watch) -> Starlette:
    async def events(request: Request) -> Response:
        stream = watch.events()
        try:
            first = await stream.__anext__()
        except TooManyViewers:
            return PlainTextResponse("too many browsers look at this page\n", 503, {"Retry-After": "30"})

        async def body():
            try:
                yield first
                async for event in stream:
                    yield event
            finally:
                await stream.aclose()

        headers = {**HEADERS, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(body(), headers=headers, media_type="text/event-stream")

    async def prometheus(request: Request) -> Response:
        port = request.query_params.get("port", "")
        if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
            return PlainTextResponse(f"port is {port!r}; add the port of the metrics, such as ?port=8501\n", 400)
        try:
            found = await watch.targets(request.path_params["service"], int(port))
        except SwarmError as error:
            # Prometheus keeps the targets that it has.
            return PlainTextResponse(f"{error}\n", 503)
        return JSONResponse(found)

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def metrics(request: Request) -> Response:
        await watch.look()
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    routes = [Route(path, _file(*of)) for path, of in FILES.items()]
    routes += [
        Route("/events", events),
        Route("/prometheus/{service}", prometheus),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes)


def _file(name: str, media_type: str):
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)

    return answer
