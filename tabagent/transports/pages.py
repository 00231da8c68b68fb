"""What a person opens in a browser: the front page, Swagger UI, problem pages. No file of ours is
loaded from elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tabagent import __version__
from tabagent.errors import CATALOGUE, NotFound
from tabagent.transports.http import ProblemResponse

ASSETS: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
# Swagger UI sets style attributes and draws its icons from data: addresses.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { padding: 0.8rem 1rem; border: 1px solid #8885; border-radius: 6px; overflow-x: auto; }
h1 { margin-bottom: 0; } h1 small { font-weight: 400; opacity: 0.7; font-size: 0.5em; }
table { border-collapse: collapse; width: 100%; } td, th { padding: 0.3rem 0.8rem 0.3rem 0; text-align: left; vertical-align: top; }
tr + tr { border-top: 1px solid #8883; }
"""
SWAGGER: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>TabAgent API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="swagger-ui.css"><link rel="icon" href="data:,"></head>
<body><div id="swagger-ui"></div>
<script src="swagger-ui-bundle.js"></script><script src="start.js"></script></body></html>
"""
START: Final = """window.ui = SwaggerUIBundle({
  url: "/api-doc/openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true,
  validatorUrl: null, persistAuthorization: true, displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
});
"""


def page_routes(api: dict[str, Any], selected: Callable[[], str]) -> list[BaseRoute]:
    """Raw routes, none of which is an operation."""
    description = json.dumps(api, ensure_ascii=False).encode()

    async def front(request: Request) -> Response:
        return _page("TabAgent", _front(str(request.base_url).rstrip("/"), selected()))

    async def openapi(request: Request) -> Response:
        return Response(description, media_type="application/json", headers=HEADERS)

    async def swagger(request: Request) -> Response:
        return Response(SWAGGER, media_type="text/html", headers=HEADERS)

    async def start(request: Request) -> Response:
        return Response(START, media_type="text/javascript", headers=HEADERS)

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            return ProblemResponse(NotFound())
        return FileResponse(_swagger_dir() / name, media_type=ASSETS[name], headers=HEADERS)

    async def redirect(request: Request) -> Response:
        return RedirectResponse("/swagger-ui/")

    async def problems(request: Request) -> Response:
        rows = "".join(
            f'<tr><td>{e.status}</td><td><a href="/problems/{s}">{s}</a></td>'
            f"<td>{escape(e.title)}</td></tr>"
            for s, e in sorted(CATALOGUE.items(), key=lambda item: (item[1].status, item[0]))
        )
        return _page("Problems", f"<h1>Problems</h1><table>{rows}</table>")

    async def problem(request: Request) -> Response:
        error = CATALOGUE.get(request.path_params["slug"])
        if error is None:
            return ProblemResponse(NotFound("no problem has this name; see /problems/"))
        retry = "can help" if error.retryable else "does not help"
        body = (
            f"<h1>{escape(error.title)}</h1><p><code>{error.slug}</code>, HTTP {error.status}; "
            f"sending the same request again {retry}.</p><p>{escape(error.advice)}</p>"
            '<p><a href="/problems/">All problems</a></p>'
        )
        return _page(error.title, body)

    return [
        Route("/", front),
        Route("/api-doc/openapi.json", openapi),
        Route("/swagger-ui", redirect),
        Route("/swagger-ui/", swagger),
        Route("/swagger-ui/start.js", start),
        Route("/swagger-ui/{name}", asset),
        Route("/problems/", problems),
        Route("/problems/{slug}", problem),
    ]


def _page(title: str, body: str) -> Response:
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"</head><body>{body}</body></html>"
    )
    return Response(text, media_type="text/html", headers=HEADERS)


def _front(base: str, model: str) -> str:
    curl = (
        f"curl -N {base}/v1/chat/completions -H 'content-type: application/json' \\\n"
        '  -d \'{"messages":[{"role":"user","content":"How do I pull a model?"}],"stream":true}\''
    )
    python = (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base}/v1", api_key="local")\n'
        "answer = client.chat.completions.create(\n"
        f'    model="{model}", messages=[{{"role": "user", "content": "Hello"}}]\n'
        ")\nprint(answer.choices[0].message.content)"
    )
    return (
        f"<h1>TabAgent <small>{__version__}</small></h1>"
        f"<p>This server is running and answers with <code>{escape(model)}</code>.</p>"
        '<p><a href="/swagger-ui/">Try the API</a> · '
        '<a href="/api-doc/openapi.json">OpenAPI description</a> · '
        '<a href="/problems/">Problems</a> · <a href="/health">Health</a></p>'
        f"<p>From a shell:</p><pre>{escape(curl)}</pre>"
        f"<p>From Python:</p><pre>{escape(python)}</pre>"
    )


def _swagger_dir() -> Path:
    """Where the installed package keeps Swagger UI's files; the package is not imported."""
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "static"
