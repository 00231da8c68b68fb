"""`models`, `ps`, `load`, `unload`: what the server says of models, as tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from tabagent.commands.client import call, client_of, connect, running_server
from tabagent.commands.failure import CommandFailed
from tabagent.config import Settings
from tabagent.stores.unusable import DatabaseUnusable

console = Console()
WHERE: Final = {
    "built-in": "TabAgent itself",
    "named": "the command line",
    "models-directory": "the models directory",
    "added-path": "an added path",
    "hugging-face-cache": "Hugging Face's cache",
}

FITS: Final = {
    "yes": "[green]yes[/green]",
    "smaller": "[yellow]less context[/yellow]",
    "no": "[red]no[/red]",
    "unknown": "?",
    None: "-",
}


def show_models(settings: Settings) -> None:
    """The models on this machine, from the running server, else from the disk."""
    rows = _listed(settings)
    others = ("task", "format", "size", "context", "fits", "state")
    table = Table(
        Column("model", overflow="fold"),  # a long name goes on below, the rest stays in line
        *(Column(name, no_wrap=True) for name in others),
        box=None,
        pad_edge=False,
    )
    for model in rows:
        state = f"[red]{model['problem']['code']}[/red]" if model["problem"] else model["state"]
        name = f"[bold]{model['id']}[/bold]" if model["selected"] else model["id"]
        table.add_row(
            name,
            model["task"],
            f"{model['format']} {model['quantization']}".strip(),
            size_text(model["size_bytes"]),
            str(model["context_length"] or "-"),
            FITS[model["fits"]],
            state or "-",
        )
    console.print(table)
    console.print(f"\n[dim]models directory: {settings.models_path}[/dim]", highlight=False)


def show_model(settings: Settings, name: str) -> None:
    """Everything that is known of one model, and what it would take."""
    from tabagent.commands.client import server

    with server(settings) as client:
        model = call(client, "GET", f"/v1/models/{quote(name, safe='')}")
        fit = None
        if not model["problem"] and model["task"] != "adapter":
            fit = call(client, "POST", "/v1/hardware/feasibility", {"model": model["id"]})
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    able = [ability for ability, has in model["capabilities"].items() if has]
    for label, value in (
        ("model", model["id"]),
        ("task", model["task"]),
        ("can", ", ".join(able)),
        ("format", f"{model['format']} {model['quantization']}".strip()),
        ("architecture", model["architecture"]),
        ("parameters", _short(model["parameters"])),
        ("size", _size_of(model)),
        ("found in", WHERE[model["location"]]),
        ("context", f"{model['context_length']:,} tokens" if model["context_length"] else ""),
        ("licence", model["license"] or ""),
        ("state", model["state"] or "not loaded"),
    ):
        if value:
            table.add_row(label, value)
    if model["problem"]:
        table.add_row("problem", f"[red]{escape(model['problem']['detail'])}[/red]")
    elif fit is not None:
        table.add_row("memory", _fit_text(fit))
    console.print(table)


def _size_of(model: dict[str, Any]) -> str:
    files = f" in {model['files']} files" if model["files"] > 1 else ""
    return size_text(model["size_bytes"]) + files


def _fit_text(fit: dict[str, Any]) -> str:
    """Whether it fits, how, and what that is made of."""
    if not fit["fits"]:
        others = fit["fitting_variants"]
        return f"[red]{escape(fit['reason'])}[/red]" + (
            f"; {others[0]} would fit" if others else ""
        )
    layout = fit["layout"]
    text = (
        f"{size_text(fit['required_bytes'])} with {layout['slots']} sequences of "
        f"{layout['n_ctx']:,} tokens; {size_text(fit['available_bytes'])} are free"
    )
    if (memory := layout["memory"]) is not None:
        text += (
            f"\nweights {size_text(memory['weights_bytes'])}, "
            f"KV cache {size_text(memory['kv_cache_bytes'])}, "
            f"prompts kept {size_text(memory['prompt_cache_bytes'])}"
        )
    return "\n".join([text, *fit["notes"]])


def _listed(settings: Settings) -> list[dict[str, Any]]:
    running = running_server(settings)
    if running is not None:
        with client_of(running, settings) as client:
            return list(call(client, "GET", "/v1/models?fits=true")["data"])
    import asyncio

    from tabagent.app import offline_models

    try:
        models = asyncio.run(offline_models(settings))
    except DatabaseUnusable as error:
        raise CommandFailed(str(error), error.fix) from error
    return [model.model_dump(mode="json") for model in models]


def show_loaded(settings: Settings) -> None:
    """The loaded models."""
    with connect(settings) as client:
        rows = call(client, "GET", "/v1/models/loaded")["data"]
    if not rows:
        console.print("No model is loaded; naming one in a request loads it.")
        return
    table = Table(
        "model",
        "state",
        "memory",
        "context",
        "slots",
        "queue",
        "device",
        "pid",
        "since",
        box=None,
        pad_edge=False,
    )
    for row in rows:
        since = datetime.fromisoformat(row["loaded_at"]).astimezone() if row["loaded_at"] else None
        table.add_row(
            row["model"],
            row["state"],
            size_text(row["resident_bytes"]),
            str(row["n_ctx"]),
            f"{row['slots_used']}/{row['slots']}",
            str(row["queue"]),
            row["device"],
            str(row["pid"] or "-"),
            since.strftime("%H:%M:%S") if since else "-",
        )
    console.print(table)


def load_model(settings: Settings, request: dict[str, Any]) -> None:
    with connect(settings) as client, console.status(f"loading {request['model']}"):
        loaded = call(client, "POST", "/v1/models/load", request)
    console.print(
        f"{loaded['model']} is loaded: context {loaded['n_ctx']}, {loaded['slots']} slots, "
        f"{loaded['threads']} threads, in {loaded['load_seconds']:.2f} s"
    )


def unload_model(settings: Settings, request: dict[str, Any]) -> None:
    with connect(settings) as client:
        gone = call(client, "POST", "/v1/models/unload", request)
    console.print(f"{gone['model']} is unloaded")


def size_text(count: int) -> str:
    """Bytes for people."""
    value, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):  # noqa: B007  # the last one is what is shown
        if value < 1000:
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def _short(count: int) -> str:
    value, unit = float(count), ""
    for unit in ("", "k", "M", "B"):  # noqa: B007
        if value < 1000:
            break
        value /= 1000
    return f"{value:.3g}{unit}" if count else "-"
