"""The model as an ONNX graph, built node by node with its Q8_0 weights left in 8 bits.

Inputs and outputs are those of a transformers.js decoder. Matrices use `MatMulNBits` (8 bits,
blocks of 32); a stored byte is the signed Q8_0 byte plus 128, the default zero point.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scripts.guide.export_gguf import tensors
from scripts.guide.model import Guide, rotary_tables
from scripts.guide.quantise import BLOCK, Floats, quantise

OPSET = 18
CONTRIB = "com.microsoft"
F32, I64 = TensorProto.FLOAT, TensorProto.INT64


class GraphBuilder:
    """Collects nodes and constants; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        """A named initialiser; asking for the same name again gives the same one."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def ints(self, *values: int) -> str:
        """A 1-d int64 constant."""
        name = "ints_" + "_".join(map(str, values))
        return self.constant(name, np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        """A float constant without dimensions."""
        return self.constant(f"number_{value}", np.array(value, dtype=np.float32))

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        """Add one node with one output."""
        out = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def linear(self, x: str, name: str, weight: Floats, out: str = "") -> str:
        """Multiply x by the transposed, quantised [rows, columns] weight."""
        packed, scales = self.quantised(name, weight)
        rows, columns = weight.shape
        return self.op(
            "MatMulNBits",
            x,
            packed,
            scales,
            out=out,
            domain=CONTRIB,
            K=columns,
            N=rows,
            bits=8,
            block_size=BLOCK,
            accuracy_level=1,
        )

    def quantised(self, name: str, weight: Floats) -> tuple[str, str]:
        """The constants of a quantised matrix: bytes [rows, blocks, 32], scales [rows, blocks]."""
        quantised = quantise(weight)
        packed = (quantised.values.astype(np.int16) + 128).astype(np.uint8)
        return (
            self.constant(f"{name}.q8", packed),
            self.constant(f"{name}.scale", quantised.scales.astype(np.float32)),
        )

    def norm(self, x: str, name: str, weight: Floats, epsilon: float) -> str:
        """RMSNorm over the last axis."""
        square = self.op("Mul", x, x)
        mean = self.op("ReduceMean", square, self.ints(-1), keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.number(epsilon)))
        return self.op("Mul", self.op("Div", x, root), self.constant(name, weight))

    def split_heads(self, x: str, heads: int) -> str:
        """[batch, length, width] -> [batch, heads, length, head]."""
        parts = self.op("Reshape", x, self.ints(0, 0, heads, -1))
        return self.op("Transpose", parts, perm=[0, 2, 1, 3])

    def rotate(self, x: str, cos: str, sin: str, half: int) -> str:
        """Rotary positions in the rotate-half layout."""
        first = self.op("Slice", x, self.ints(0), self.ints(half), self.ints(-1))
        second = self.op("Slice", x, self.ints(half), self.ints(2 * half), self.ints(-1))
        turned = self.op("Concat", self.op("Neg", second), first, axis=-1)
        return self.op("Add", self.op("Mul", x, cos), self.op("Mul", turned, sin))


def _mask(g: GraphBuilder) -> str:
    """[batch, 1, length, total]: 0 where a token may look, a large negative number elsewhere."""
    length = g.op("Gather", g.op("Shape", "input_ids"), g.ints(1))
    total = g.op("Gather", g.op("Shape", "attention_mask"), g.ints(1))
    one = g.constant("one", np.array(1, dtype=np.int64))
    zero = g.constant("zero", np.array(0, dtype=np.int64))
    last = g.op("Squeeze", total)
    first = g.op("Squeeze", g.op("Sub", total, length))
    queries = g.op("Unsqueeze", g.op("Range", first, last, one), g.ints(1))
    keys = g.op("Unsqueeze", g.op("Range", zero, last, one), g.ints(0))
    causal = g.op("LessOrEqual", keys, queries)
    present = g.op("Cast", g.op("Unsqueeze", "attention_mask", g.ints(1, 2)), to=TensorProto.BOOL)
    allowed = g.op("And", g.op("Unsqueeze", causal, g.ints(0, 1)), present)
    return g.op("Where", allowed, g.number(0.0), g.number(-1e9))


def _embed(g: GraphBuilder, weight: Floats) -> str:
    """Rows of the embedding, made floats only after they are picked."""
    packed, scales = g.quantised("embed", weight)
    rows = g.op("Cast", g.op("Gather", packed, "input_ids"), to=F32)
    centred = g.op("Sub", rows, g.number(128.0))
    picked = g.op("Unsqueeze", g.op("Gather", scales, "input_ids"), g.ints(-1))
    return g.op("Reshape", g.op("Mul", centred, picked), g.ints(0, 0, weight.shape[1]))


def _rotary(g: GraphBuilder, model: Guide) -> tuple[str, str]:
    cos, sin = (table.numpy() for table in rotary_tables(model.shape))
    picked = (
        g.op("Gather", g.constant("cos", cos), "position_ids"),
        g.op("Gather", g.constant("sin", sin), "position_ids"),
    )
    return g.op("Unsqueeze", picked[0], g.ints(1)), g.op("Unsqueeze", picked[1], g.ints(1))


def build(model: Guide) -> onnx.ModelProto:
    """The whole decoder."""
    shape, weights, g = model.shape, tensors(model), GraphBuilder()
    mask = _mask(g)
    cos, sin = _rotary(g, model)
    x = _embed(g, weights["token_embd.weight"])
    cache = ["batch_size", shape.heads, "past_sequence_length", shape.head]
    grown = ["batch_size", shape.heads, "total_sequence_length", shape.head]
    inputs = [
        helper.make_tensor_value_info("input_ids", I64, ["batch_size", "sequence_length"]),
        helper.make_tensor_value_info(
            "attention_mask", I64, ["batch_size", "total_sequence_length"]
        ),
        helper.make_tensor_value_info("position_ids", I64, ["batch_size", "sequence_length"]),
    ]
    outputs = [
        helper.make_tensor_value_info(
            "logits", F32, ["batch_size", "sequence_length", shape.vocabulary]
        )
    ]
    for i in range(shape.layers):

        def part(name: str, layer: int = i) -> tuple[str, Floats]:
            full = f"blk.{layer}.{name}.weight"
            return full, weights[full]

        normed = g.norm(x, *part("attn_norm"), shape.epsilon)
        q, k, v = (g.split_heads(g.linear(normed, *part(f"attn_{n}")), shape.heads) for n in "qkv")
        q, k = g.rotate(q, cos, sin, shape.head // 2), g.rotate(k, cos, sin, shape.head // 2)
        for name, value in (("key", k), ("value", v)):
            past, present = f"past_key_values.{i}.{name}", f"present.{i}.{name}"
            inputs.append(helper.make_tensor_value_info(past, F32, cache))
            outputs.append(helper.make_tensor_value_info(present, F32, grown))
            g.op("Concat", past, value, axis=2, out=present)
        keys = g.op("Transpose", f"present.{i}.key", perm=[0, 1, 3, 2])
        scores = g.op("Mul", g.op("MatMul", q, keys), g.number(shape.head**-0.5))
        shares = g.op("Softmax", g.op("Add", scores, mask), axis=-1)
        mixed = g.op("Transpose", g.op("MatMul", shares, f"present.{i}.value"), perm=[0, 2, 1, 3])
        joined = g.op("Reshape", mixed, g.ints(0, 0, shape.width))
        x = g.op("Add", x, g.linear(joined, *part("attn_output")))
        normed = g.norm(x, *part("ffn_norm"), shape.epsilon)
        gate = g.linear(normed, *part("ffn_gate"))
        active = g.op("Mul", gate, g.op("Sigmoid", gate))
        product = g.op("Mul", active, g.linear(normed, *part("ffn_up")))
        x = g.op("Add", x, g.linear(product, *part("ffn_down")))
    normed = g.norm(x, "output_norm.weight", weights["output_norm.weight"], shape.epsilon)
    g.linear(normed, "output", weights["output.weight"], out="logits")
    graph = helper.make_graph(
        g.nodes, "tabagent-guide", inputs, outputs, initializer=list(g.constants.values())
    )
    proto = helper.make_model(
        graph,
        producer_name="scripts.guide",
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
    )
    proto.ir_version = 10
    return proto
