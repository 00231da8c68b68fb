"""`python -m scripts.guide STEP...`: tokenizer, train, export, evaluate, or all of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.guide.evaluate import REQUIRED, evaluate
from scripts.guide.export_gguf import export_gguf
from scripts.guide.export_onnx import export_onnx
from scripts.guide.train import Plan, load_model, make_tokenizer, train

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("tokenizer", "train", "export", "evaluate")


def main() -> int:
    """Run the named steps in their order; 1 when the model is not good enough."""
    parser = argparse.ArgumentParser(prog="python -m scripts.guide", description=__doc__)
    parser.add_argument("steps", nargs="+", choices=(*STEPS, "all"))
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build" / "guide",
        help="where the tokenizer and the checkpoint are kept",
    )
    parser.add_argument("--gguf", type=Path, default=ROOT / "tabagent/builtin/guide.gguf")
    parser.add_argument("--onnx", type=Path, default=ROOT / "tests/models/guide-onnx")
    parser.add_argument("--steps-of-training", type=int, default=Plan.steps)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    steps = STEPS if "all" in given.steps else given.steps
    given.work.mkdir(parents=True, exist_ok=True)
    tokenizer, checkpoint = given.work / "tokenizer.json", given.work / "guide.pt"
    if "tokenizer" in steps:
        make_tokenizer(tokenizer)
    if "train" in steps:
        train(tokenizer, checkpoint, Plan(steps=given.steps_of_training), given.threads)
    if "export" in steps:
        model = load_model(checkpoint)
        export_gguf(model, tokenizer, given.gguf)
        export_onnx(model, tokenizer, given.onnx)
        print(
            f"{given.gguf.name}: {given.gguf.stat().st_size:,} bytes, "
            f"{model.parameter_count():,} parameters"
        )
    if "evaluate" in steps:
        reached = evaluate(given.gguf, given.onnx, checkpoint, tokenizer)
        return 0 if reached >= REQUIRED else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
