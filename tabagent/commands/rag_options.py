"""`tabagent rag`: its commands and what they take. Each imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from tabagent.commands.failure import USAGE, CommandFailed
from tabagent.commands.options import DataDir, load_settings

DEFAULT = "default"

rag = typer.Typer(help="Documents: take in, search, ask.")
Collection = Annotated[str, typer.Option("--collection", "-c", help="Made if it is `default`.")]
Collections = Annotated[
    list[str] | None,
    typer.Option("--collection", "-c", help="Where to look; several may be given."),
]


@rag.command()
def add(
    places: Annotated[
        list[str], typer.Argument(metavar="PATH|URL|-...", help="Files, folders, pages, stdin.")
    ],
    collection: Collection = DEFAULT,
    title: Annotated[str | None, typer.Option(help="Found in the document if unset.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Its name; what comes under it again takes its place.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="To filter by; may be repeated.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look a folder over from now on.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Take documents in: text, Markdown, HTML, PDF and DOCX."""
    from tabagent.commands.rag import add

    settings = load_settings(data_dir=data_dir)
    add(settings, places, collection, title=title, source=source, tags=tag or [], watch=watch)


@rag.command()
def search(
    query: str,
    collection: Collections = None,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Passages.")] = 5,
    mode: Annotated[str, typer.Option(help="hybrid, vector or words.")] = "hybrid",
    data_dir: DataDir = None,
) -> None:
    """Find passages by what they mean and what they say."""
    from tabagent.commands.rag import search

    if mode not in ("hybrid", "vector", "words"):
        raise CommandFailed(f"there is no mode {mode}", "hybrid, vector or words", USAGE)
    search(load_settings(data_dir=data_dir), query, collection or [DEFAULT], top_k, mode)


@rag.command()
def ask(
    question: str,
    collection: Collections = None,
    top_k: Annotated[int, typer.Option(min=1, max=100, help="Passages to answer from.")] = 5,
    model: Annotated[
        str | None, typer.Option(help="Who answers; the selected one if unset.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="A session to go on in.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Least likeness of a passage.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Answer a question from the documents, and say where it is from."""
    from tabagent.commands.rag import ask

    ask(
        load_settings(data_dir=data_dir), question, collection or [DEFAULT], top_k,
        model=model, session=session, min_score=min_score,
    )  # fmt: skip


@rag.command("list")
def list_documents(
    collection: Annotated[str | None, typer.Option("--collection", "-c")] = None,
    search: Annotated[str | None, typer.Option(help="In titles and sources.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Documents at most.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """List documents, the last changed first."""
    from tabagent.commands.rag import show_list

    show_list(load_settings(data_dir=data_dir), collection, search, limit)


@rag.command()
def collections(data_dir: DataDir = None) -> None:
    """List collections with what is in them."""
    from tabagent.commands.rag import show_collections

    show_collections(load_settings(data_dir=data_dir))


@rag.command("rm")
def remove(
    documents: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids, ends of them, or sources.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete documents with all that was made of them."""
    from tabagent.commands.rag import remove

    remove(load_settings(data_dir=data_dir), documents, sure=yes)
