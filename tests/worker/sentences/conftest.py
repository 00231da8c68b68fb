"""The same small encoders, in the library's own format."""

from tests.worker.onnx.conftest import minilm, tiny, torch_peer

__all__ = ["minilm", "tiny", "torch_peer"]
