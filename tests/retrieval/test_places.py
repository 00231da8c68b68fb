"""Where the index may lie: LanceDB takes a folder, a URL of files, or an object store's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live import LiveServer


@pytest.mark.parametrize("uri", ["file://{place}/elsewhere", "memory://index"])
def test_an_index_elsewhere_is_made_and_made_again(tmp_path: Path, uri: str) -> None:
    """What is in memory alone is gone with the server, as an emptied bucket would be."""
    document = {"source": "soup", "text": "Boil two carrots for an hour."}
    asked = {"query": "carrots", "answer": False}
    place = uri.format(place=tmp_path)
    with LiveServer(tmp_path, index_uri=place) as server:
        added = server.owner.post("/v1/rag/documents", json={"documents": [document]})
        assert added.json()["counts"] == {"added": 1}
    with LiveServer(tmp_path, index_uri=place) as server:
        found = server.owner.post("/v1/rag/query", json=asked)
        assert [source["source"] for source in found.json()["sources"]] == ["soup"]
    assert not (tmp_path / "index").exists()
