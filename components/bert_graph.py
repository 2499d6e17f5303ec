"""BERT-family weights -> an ONNX graph for the CPU, written node by node so that building it needs no torch.

Linear layers whose weights are `Quantised` multiply int8 by int8, their input quantised as it comes, token by token
(`DynamicQuantizeMatMul`); attention, LayerNorm, GELU and the head stay float32. The fused nodes are ONNX Runtime's own
(domain com.microsoft, documented in its ContribOperators.md).

Input   input_ids, token_type_ids (B, L) int32; lengths (B,) int32, the tokens of each row that are not padding.
Output  logits (2, B, L) float32: start logits, end logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from needle.components.weights import BERT_FAMILY, Quantised, Weights

FUSED = "com.microsoft"


def bert_graph(weights: Weights, config: dict[str, Any], linear_inputs: bool = False) -> onnx.ModelProto:
    """Write the graph of a BERT-family span reader (Devlin et al. 2019, arXiv 1810.04805).

    :param linear_inputs: give the input of every linear layer as a further output, named `layer name + ".input"`.
    """
    g = _Graph(weights, BERT_FAMILY[config["model_type"]], config["layer_norm_eps"])
    x = _embeddings(g, first_position=0 if config["model_type"] == "bert" else config["pad_token_id"] + 1)
    for i in range(config["num_hidden_layers"]):
        x = _layer(g, f"encoder.layer.{i}.", x, heads=config["num_attention_heads"])
    head, bias = g.array("qa_outputs.weight", prefixed=False), g.array("qa_outputs.bias", prefixed=False)
    logits = g.node("Add", g.node("MatMul", x, g.constant(head.T)), g.constant(bias))  # (B, L, 2)
    g.node("Transpose", logits, perm=[2, 0, 1], output="logits")
    return g.model(linear_inputs)


def _embeddings(g: _Graph, first_position: int) -> str:
    """input_ids, token_type_ids -> (B, L, H). Int8 rows are looked up first and scaled after: a quarter of the memory."""
    words = g.weight("embeddings.word_embeddings.weight")
    if isinstance(words, Quantised):
        values = g.node("Cast", g.node("Gather", g.constant(words.values), "input_ids"), to=TensorProto.FLOAT)
        word = g.node("Mul", values, g.node("Gather", g.constant(words.scale), "input_ids"))
    else:
        word = g.node("Gather", g.constant(words), "input_ids")
    kinds = g.array("embeddings.token_type_embeddings.weight")
    # RoBERTa has one kind of token, whatever its tokenizer says.
    kind = g.constant(kinds[:1]) if len(kinds) == 1 else g.node("Gather", g.constant(kinds), "token_type_ids")
    positions = g.constant(g.array("embeddings.position_embeddings.weight")[first_position:])
    length = g.node("Slice", g.node("Shape", "input_ids"), *(g.constant(np.array([i], np.int64)) for i in (1, 2)))
    zero = g.constant(np.array([0], np.int64))
    position = g.node("Slice", positions, zero, length, zero)  # (L, H)
    return g.skip_layer_norm(word, g.node("Add", kind, position), "embeddings.LayerNorm")


def _layer(g: _Graph, name: str, x: str, heads: int) -> str:
    """One encoder layer, (B, L, H) -> (B, L, H)."""
    qkv = g.linear(x, *(f"{name}attention.self.{part}" for part in ("query", "key", "value")))  # (B, L, 3H)
    q, k, v = g.nodes("Split", qkv, n_outputs=3, axis=2, num_outputs=3)
    attention = g.node("MultiHeadAttention", q, k, v, "", "lengths", domain=FUSED, num_heads=heads)
    x = g.skip_layer_norm(g.linear(attention, f"{name}attention.output.dense"), x, f"{name}attention.output.LayerNorm")
    inner = g.node("Gelu", g.linear(x, f"{name}intermediate.dense"), domain=FUSED)
    return g.skip_layer_norm(g.linear(inner, f"{name}output.dense"), x, f"{name}output.LayerNorm")


class _Graph:
    """Nodes and constants under construction; every method that adds a node returns its output's name."""

    def __init__(self, weights: Weights, prefix: str, layer_norm_eps: float):
        self._weights, self._prefix, self._eps = weights, prefix, layer_norm_eps
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.linear_inputs: dict[str, str] = {}

    def weight(self, name: str) -> NDArray[np.float32] | Quantised:
        return self._weights[self._prefix + name]

    def array(self, name: str, prefixed: bool = True) -> NDArray[np.float32]:
        weight = self.weight(name) if prefixed else self._weights[name]
        return weight.dequantised() if isinstance(weight, Quantised) else weight

    def constant(self, array: NDArray[Any]) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def nodes(self, kind: str, *inputs: str, n_outputs: int, domain: str = "", **attributes: Any) -> list[str]:
        outputs = [f"n{len(self._nodes)}.{i}" for i in range(n_outputs)]
        self._nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return outputs

    def node(self, kind: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        name = output or f"n{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], domain=domain, **attributes))
        return name

    def linear(self, x: str, *layers: str) -> str:
        """x times the weights of one or several layers side by side, plus their biases."""
        self.linear_inputs.update(dict.fromkeys(layers, x))
        weights = [self.weight(f"{layer}.weight") for layer in layers]
        bias = self.constant(np.concatenate([self.array(f"{layer}.bias") for layer in layers]))
        quantised = [w for w in weights if isinstance(w, Quantised)]
        if not quantised:
            matrix = np.concatenate([w for w in weights if not isinstance(w, Quantised)])  # (outputs, inputs)
            return self.node("Add", self.node("MatMul", x, self.constant(matrix.T)), bias)
        values = self.constant(np.concatenate([w.values for w in quantised]).T)
        scale = self.constant(np.concatenate([w.scale[:, 0] for w in quantised]))
        if (smooth := quantised[0].smooth) is not None:
            x = self.node("Mul", x, self.constant(1 / smooth))
        # One int8 range serves the whole batch, so each token's row is brought to the same largest magnitude before.
        largest = self.node("ReduceMax", self.node("Abs", x), self.constant(np.array([-1], np.int64)))  # (B, L, 1)
        largest = self.node("Max", largest, self.constant(np.array(1e-9, np.float32)))
        y = self.node("DynamicQuantizeMatMul", self.node("Div", x, largest), values, scale, domain=FUSED)
        return self.node("Add", self.node("Mul", y, largest), bias)

    def skip_layer_norm(self, x: str, skip: str, name: str) -> str:
        gamma, beta = (self.constant(self.array(f"{name}.{part}")) for part in ("weight", "bias"))
        return self.node("SkipLayerNormalization", x, skip, gamma, beta, domain=FUSED, epsilon=self._eps)

    def model(self, linear_inputs: bool) -> onnx.ModelProto:
        int32, float32 = TensorProto.INT32, TensorProto.FLOAT
        outputs = [helper.make_tensor_value_info("logits", float32, [2, "B", "L"])]
        if linear_inputs:
            for layer, x in self.linear_inputs.items():
                name = self.node("Identity", x, output=f"{self._prefix}{layer}.input")
                outputs.append(helper.make_tensor_value_info(name, float32, None))
        graph = helper.make_graph(
            self._nodes,
            "span_reader",
            inputs=[
                helper.make_tensor_value_info("input_ids", int32, ["B", "L"]),
                helper.make_tensor_value_info("token_type_ids", int32, ["B", "L"]),
                helper.make_tensor_value_info("lengths", int32, ["B"]),
            ],
            outputs=outputs,
            initializer=self._constants,
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)
