"""The `tabagent` command. What a command needs is imported when it runs, so each starts fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tabagent.commands.clients_options import clients
from tabagent.commands.failure import CommandFailed
from tabagent.commands.native_options import native
from tabagent.commands.options import DataDir, load_settings
from tabagent.commands.rag_options import rag
from tabagent.commands.service_options import service
from tabagent.commands.sessions_options import sessions

app = typer.Typer(
    help="A local AI gateway: chat, generation and more on models that run on your own hardware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(clients, name="clients")
app.add_typer(sessions, name="sessions", no_args_is_help=True)
app.add_typer(rag, name="rag", no_args_is_help=True)
app.add_typer(native, name="native", no_args_is_help=True)
app.add_typer(service, name="service", no_args_is_help=True)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="What listens: http, native (the browser's host) or both.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A .gguf file to serve, or the id of a model. The first is the default."),
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Where models are looked for.")] = None,
    data_dir: DataDir = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json.")] = None,
    owned: Annotated[bool, typer.Option(hidden=True, help="Stop when stdin ends.")] = False,
) -> None:
    """Serve on port 8080 until Ctrl-C."""
    import gc

    gc.disable()  # all that is made until it listens stays: looking through it takes a tenth
    from tabagent.commands.serve import run

    flags = {
        "host": host,
        "port": port,
        "mode": mode,
        "models_dir": models_dir,
        "data_dir": data_dir,
        "log_level": log_level,
        "log_format": log_format,
    }
    run(flags, model or [], owned=owned)


@app.command()
def stop(
    now: Annotated[bool, typer.Option("--now", help="Running answers get no time.")] = False,
    data_dir: DataDir = None,
) -> None:
    """End the running server, also one that a browser has started."""
    from tabagent.commands.stop import stop as run

    run(load_settings(data_dir=data_dir), now=now)


@app.command()
def chat(
    model: Annotated[str | None, typer.Option(help="Model id; the selected one if unset.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Chat in the terminal. Starts a server when none runs."""
    from tabagent.commands.chat import run

    run(load_settings(data_dir=data_dir), model, system)


@app.command()
def models(data_dir: DataDir = None) -> None:
    """List the models on this machine."""
    from tabagent.commands.models import show_models

    show_models(load_settings(data_dir=data_dir))


@app.command()
def show(model: str, data_dir: DataDir = None) -> None:
    """Show everything about one model: what it can do, what it takes, whether it fits."""
    from tabagent.commands.models import show_model

    show_model(load_settings(data_dir=data_dir), model)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="owner/repo, or owner/repo:VARIANT; `best` fits.")],
    variants: Annotated[bool, typer.Option(help="List what there is instead.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Get a model from the hub. What was cut off goes on where it was."""
    from tabagent.commands import pull

    settings = load_settings(data_dir=data_dir)
    if variants:
        pull.variants(settings, model)
    else:
        pull.pull(settings, model)


@app.command()
def rm(
    model: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete a model that was pulled."""
    from tabagent.commands.pull import remove

    remove(load_settings(data_dir=data_dir), model, sure=yes)


@app.command()
def recommend(
    task: Annotated[
        str | None, typer.Option(help="chat, completion, embedding or rerank; all if unset.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is too large or too slow here.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """List public models that would run well on this machine."""
    from tabagent.commands.recommend import recommend as run

    run(load_settings(data_dir=data_dir), task, everything=everything)


@app.command()
def doctor(
    browser: Annotated[
        bool, typer.Option("--browser", help="Look at the way from a browser to here instead.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Look over this installation: hardware, engines, port, disk, token; each with a fix."""
    from tabagent.commands.doctor import doctor as run

    if not run(load_settings(data_dir=data_dir), browser=browser):
        raise typer.Exit(1)


@app.command("hf-token")
def hf_token(
    clear: Annotated[bool, typer.Option(help="Forget it.")] = False,
    status: Annotated[bool, typer.Option(help="Say whether there is one, and where.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Keep the hub's token, for private and gated repositories; read from stdin."""
    from tabagent.commands.pull import hub_token

    hub_token(load_settings(data_dir=data_dir), clear=clear, status=status)


@app.command()
def ps(data_dir: DataDir = None) -> None:
    """List the loaded models: memory, slots, queue."""
    from tabagent.commands.models import show_loaded

    show_loaded(load_settings(data_dir=data_dir))


@app.command()
def load(
    model: str,
    n_ctx: Annotated[int | None, typer.Option(help="Context of one sequence in tokens.")] = None,
    slots: Annotated[int | None, typer.Option(help="Sequences decoded together.")] = None,
    force_reload: Annotated[bool, typer.Option(help="Unload it first.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Load a model into the running server."""
    from tabagent.commands.models import load_model

    request = {"model": model, "n_ctx": n_ctx, "slots": slots, "force_reload": force_reload}
    load_model(load_settings(data_dir=data_dir), request)


@app.command()
def unload(
    model: str,
    force: Annotated[bool, typer.Option(help="Also while it answers.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Let a loaded model go."""
    from tabagent.commands.models import unload_model

    unload_model(load_settings(data_dir=data_dir), {"model": model, "force": force})


@app.command()
def token(data_dir: DataDir = None) -> None:
    """Print the owner's token, which ADMIN operations need."""
    from tabagent.commands.client import owner_token

    typer.echo(owner_token(load_settings(data_dir=data_dir)))


@app.command()
def config() -> None:
    """Print every setting, its value, and where that came from."""
    from tabagent.commands.settings import show

    show(load_settings())


@app.command()
def openapi(
    output: Annotated[Path | None, typer.Option(help="Write to this file instead.")] = None,
    check: Annotated[Path | None, typer.Option(help="Fail when this file is not current.")] = None,
    messages: Annotated[
        bool, typer.Option("--messages", help="The schema of messages instead.")
    ] = False,
) -> None:
    """Print the OpenAPI description, or the JSON Schema of messages."""
    import json

    from tabagent.app import api_description, message_schema

    document = message_schema() if messages else api_description()
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if check is not None:
        if not check.is_file() or check.read_text() != text:
            flag = "--messages " if messages else ""
            raise CommandFailed(
                f"{check} is stale", f"run: tabagent openapi {flag}--output {check}"
            )
    elif output is not None:
        output.write_text(text)
    else:
        sys.stdout.write(text)


@app.command()
def version() -> None:
    """Print the version."""
    from tabagent import __version__

    typer.echo(f"tabagent {__version__}")


def main() -> None:
    """Run a command; an error is one line and a hint, never a traceback."""
    try:
        app()
    except CommandFailed as failed:
        typer.secho(f"Error: {failed}", fg="red", err=True)
        if failed.hint:
            typer.echo(f"  {failed.hint}", err=True)
        sys.exit(failed.code)
