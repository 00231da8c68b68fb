"""What a person opens in a browser: the front page, Swagger UI, problem pages. No file of ours is
loaded from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from functools import cache
from html import escape
from http import HTTPStatus
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from tabagent import __version__
from tabagent.errors import CATALOGUE, NotFound, TabAgentError, problem
from tabagent.transports.http import ProblemResponse

ASSETS: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

FRAME: Final = """
:root {
  color-scheme: light dark;
  --ink: light-dark(#1c2024, #e6e8ea); --soft: light-dark(#5b636b, #9aa3ac);
  --line: light-dark(#dfe3e8, #2e343a); --paper: light-dark(#fff, #14171a);
  --box: light-dark(#f6f7f9, #1c2024); --link: light-dark(#0b57d0, #8ab4ff);
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, sans-serif; }
header, main { max-width: 48rem; margin: 0 auto; padding: 0 1.25rem; }
header { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; padding-top: 1.25rem; }
header a { color: var(--soft); text-decoration: none; }
header a:first-child { margin-right: auto; color: var(--ink); font-weight: 600; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 3px; }
"""
STYLE: Final = (
    FRAME
    + """
main { padding-top: 2rem; padding-bottom: 4rem; }
main a { color: var(--link); text-underline-offset: 0.2em; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 0.75rem; text-wrap: balance; }
h2 { font-size: 1rem; margin: 2rem 0 0.5rem; }
p { margin: 0 0 1rem; }
.soft { color: var(--soft); }
code { font: 0.875em/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
p code, td code { background: var(--box); border-radius: 4px; padding: 0.15em 0.35em; }
pre { margin: 0; padding: 0.875rem 1rem; background: var(--box); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto; line-height: 1.5; }
pre code { line-height: inherit; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 0.4rem 1rem 0.4rem 0; text-align: left; vertical-align: top; }
th { padding-top: 1.75rem; font-weight: 600; }
td { border-top: 1px solid var(--line); }
td:first-child { white-space: nowrap; }
@media (max-width: 36rem) {
  td { display: block; border: 0; padding: 0 0 0.4rem; }
  td:first-child { border-top: 1px solid var(--line); padding: 0.4rem 0 0; }
}
"""
)
# Swagger UI has no dark colours of its own, and shows the same example for every declared error.
SWAGGER_STYLE: Final = (
    FRAME
    + """
header { max-width: 1460px; }
.swagger-ui { color-scheme: light; }
.swagger-ui .info { margin: 2rem 0; }
.swagger-ui .info a { text-decoration: underline; }
.swagger-ui .opblock .opblock-summary-method { color: #111; text-shadow: none; }
.swagger-ui .scheme-container { background: none; box-shadow: none; padding: 0; margin: 0; }
.swagger-ui .response[data-code]:not([data-code^="2"]) .response-col_description > :not(.response-col_description__inner),
.swagger-ui .response-col_links { display: none; }
@media (prefers-color-scheme: dark) {
  .swagger-ui { filter: invert(0.9) hue-rotate(180deg); }
  .swagger-ui .microlight, .swagger-ui .authorize { filter: invert(1) hue-rotate(180deg); }
}
"""
)
LINKS: Final = (
    '<header><a href="/">TabAgent</a><a href="/swagger-ui/">API</a>'
    '<a href="/problems/">Problems</a><a href="/health">Health</a></header>'
)
ICON: Final = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath "
    "fill='%230b57d0' d='M1 5a3 3 0 0 1 3-3h3l2 3h3a3 3 0 0 1 3 3v3a3 3 0 0 1-3 3H4a3 3 0 0 1-3-3z'/%3E"
    "%3C/svg%3E"
)
HEAD: Final = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<link rel="icon" href="{ICON}">'
)
SWAGGER: Final = f"""{HEAD}<title>API · TabAgent</title>
<link rel="stylesheet" href="swagger-ui.css"><link rel="stylesheet" href="style.css"></head>
<body>{LINKS}<div id="swagger-ui"></div>
<noscript><main>This page needs JavaScript; <a href="/api-doc/openapi.json">the description</a>
does not.</main></noscript>
<script src="swagger-ui-bundle.js"></script><script src="start.js"></script></body></html>
"""
# The token stays in the page's memory: storage would outlive the server, and whoever listens on
# this port next could read it.
START: Final = """window.ui = SwaggerUIBundle({
  url: "/api-doc/openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true,
  validatorUrl: null, persistAuthorization: false, displayRequestDuration: true,
  displayOperationId: true, defaultModelsExpandDepth: 0,
});
"""

NOTHING: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "img-src 'self' data:"  # icons are data: addresses
)
STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
PAGE_POLICY: Final = f"{NOTHING}; style-src 'sha256-{STYLE_HASH}'"
# Swagger UI sets style attributes.
SWAGGER_POLICY: Final = (
    f"{NOTHING}; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'"
)


def page_routes(api: Callable[[], dict[str, Any]], selected: Callable[[], str]) -> list[BaseRoute]:
    """Raw routes, none of which is an operation. `api` gives the description when it is wanted."""

    @cache
    def description() -> bytes:
        return json.dumps(api(), ensure_ascii=False).encode()

    async def front(request: Request) -> Response:
        return _page("TabAgent", _front(str(request.base_url).rstrip("/"), selected()))

    async def openapi(request: Request) -> Response:
        return Response(description(), media_type="application/json", headers=_headers(NOTHING))

    async def swagger(request: Request) -> Response:
        return Response(SWAGGER, media_type="text/html", headers=_headers(SWAGGER_POLICY))

    async def start(request: Request) -> Response:
        return Response(START, media_type="text/javascript", headers=_headers(NOTHING))

    async def style(request: Request) -> Response:
        return Response(SWAGGER_STYLE, media_type="text/css", headers=_headers(NOTHING))

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            return ProblemResponse(NotFound())
        path = _swagger_dir() / name
        return FileResponse(path, media_type=ASSETS[name], headers=_headers(NOTHING))

    async def redirect(request: Request) -> Response:
        return RedirectResponse("/swagger-ui/")

    async def problems(request: Request) -> Response:
        return _page("Problems", _problems())

    async def one_problem(request: Request) -> Response:
        error = CATALOGUE.get(request.path_params["slug"])
        if error is None:
            return ProblemResponse(NotFound("no problem has this name; see /problems/"))
        return _page(error.title, _problem(error))

    return [
        Route("/", front),
        Route("/api-doc/openapi.json", openapi),
        Route("/swagger-ui", redirect),
        Route("/swagger-ui/", swagger),
        Route("/swagger-ui/start.js", start),
        Route("/swagger-ui/style.css", style),
        Route("/swagger-ui/{name}", asset),
        Route("/problems/", problems),
        Route("/problems/{slug}", one_problem),
    ]


def _headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",  # the next version is served at the same address
    }


def _page(title: str, body: str) -> Response:
    name = title if title == "TabAgent" else f"{title} · TabAgent"
    text = (
        f"{HEAD}<title>{escape(name)}</title><style>{STYLE}</style></head>"
        f"<body>{LINKS}<main>{body}</main></body></html>\n"
    )
    return Response(text, media_type="text/html", headers=_headers(PAGE_POLICY))


def _front(base: str, model: str) -> str:
    curl = (
        f"curl -N {base}/v1/chat/completions \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        """  -d '{"stream": true, "messages": [{"role": "user", "content": "Who are you?"}]}'"""
    )
    python = (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base}/v1", api_key="local")\n'
        "answer = client.chat.completions.create(\n"
        f"    model={json.dumps(model)},\n"
        '    messages=[{"role": "user", "content": "Who are you?"}],\n'
        ")\nprint(answer.choices[0].message.content)"
    )
    return (
        "<h1>TabAgent is running</h1>"
        f'<p><code>{escape(model)}</code> answers requests that name no model. <span class="soft">'
        f"Version {__version__}.</span></p>"
        '<p><a href="/swagger-ui/">Try the API</a> in this browser, or read its '
        '<a href="/api-doc/openapi.json">OpenAPI description</a>.</p>'
        f"<h2>In a terminal</h2>{_code('tabagent chat')}"
        f"<h2>From a shell</h2>{_code(curl)}"
        f"<h2>From Python</h2>{_code(python)}"
    )


def _problems() -> str:
    body = ""
    ordered = sorted(CATALOGUE.values(), key=lambda error: (error.status, error.slug))
    for status, errors in groupby(ordered, key=lambda error: error.status):
        body += f'<tr><th colspan="2" scope="rowgroup">{_status(status)}</th></tr>'
        body += "".join(
            f'<tr><td><a href="/problems/{e.slug}">{e.slug}</a></td><td>{_text(e.title)}</td></tr>'
            for e in errors
        )
    return (
        "<h1>Problems</h1><p>Every error is a problem document (RFC 9457) with OpenAI’s "
        "<code>error</code> member beside it. Its <code>type</code> leads to one of these pages.</p>"
        f"<table>{body}</table>"
    )


def _problem(error: type[TabAgentError]) -> str:
    retry = "may succeed" if error.retryable else "will not help"
    members = re.search(r"Members: (.+)", inspect.cleandoc(error.__dict__.get("__doc__") or ""))
    example = json.dumps(problem(error(), "<request id>"), indent=2)
    return (
        f"<h1>{_text(error.title)}</h1>"
        f'<p class="soft">{_status(error.status)} · <code>{error.slug}</code></p>'
        f"<p>{_text(error.advice)}</p>"
        f"<p>Sending the same request again {retry}.</p>"
        + (f"<p>It also carries {_text(members[1])}</p>" if members else "")
        + f"<h2>As it is sent</h2>{_code(example)}"
    )


def _status(status: int) -> str:
    return f"{status} {HTTPStatus(status).phrase}"


def _text(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _code(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text, quote=False)}</code></pre>'


def _swagger_dir() -> Path:
    """Where the installed package keeps Swagger UI's files; the package is not imported."""
    spec = importlib.util.find_spec("swagger_ui")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "static"
