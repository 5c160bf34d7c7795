"""Stage: emit a network in a target's convention, prove that the file computes the same, list operators."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekd import exporters, table_rows, traceable
from edgekd.errors import ExportError, MeasurementError
from edgekd.exporters import locate, onnx_static
from edgekd.folding import fold_batch_norm
from edgekd.layouts import Layout, to_layout
from edgekd.measure.inventory import inventory_of
from edgekd.measure.parity import NUDGE, check_parity, complaint_of, output_range, steps_between
from edgekd.measure.parity import parity as parity_of
from edgekd.nodes import STATIC, Node
from edgekd.quantize import schemes
from edgekd.runtimes import Session, open_session
from edgekd.stages import ensemble, saved
from edgekd.stages.context import Context
from edgekd.stages.file import ONNX
from edgekd.stages.quantize import calibration_inputs
from edgekd.store import sha256_file
from edgekd.types import InputSpec, Operator, Parity, Task

PARITY_SAMPLES = 256
SECOND_BATCH = 3
_WITH_WEIGHTS = re.compile("conv|gemm|matmul|fully_connected", re.IGNORECASE)
RUNTIME_OF = {"onnx": "onnxruntime", "tflite": "litert"}


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Writes the artifact; returns its files, parity and inventory, or why there is none."""
    try:
        return _run(folder, node, context)
    except (ExportError, MeasurementError) as error:
        if not node.config["may_fail"]:
            raise
        for path in folder.iterdir():
            path.unlink()
        return {"absent": str(error)}


def _run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    config, task = node.config, context.task
    source = context.parent(node, "model")
    path = folder / f"model{exporters.SUFFIXES[config['format']]}"
    spec, parity, num_float = _spec_in_file(task.input_spec, config["format"]), None, 0
    if ONNX in source.files:
        spec["name"] = source.result["input_name"]
        onnx_static.emit(
            source.file(ONNX),
            path,
            scheme=config["scheme"],
            activations=config["activations"],
            samples=calibration_inputs(node, context) if config["scheme"] == STATIC else None,
            policy=context.plan.policy,
            metadata=_metadata(node, context, spec),
        )
    else:
        label = node.parents["model"]
        several = context.plan.node(label).stage == "ensemble"
        module = ensemble.load(label, context) if several else saved.load(source, context)
        if isinstance(module, schemes.QuantizedNet):
            example, activations = saved.example_input(task), config["activations"]
            module = lowered = schemes.lower(module, example, activations, config["format"])
            num_float = lowered.num_float
        else:
            module = fold_batch_norm(module)
        exporters.export(
            module,
            saved.example_input(task),
            path,
            format=config["format"],
            scheme=config["scheme"],
            input_name=task.input_spec.name,
            metadata=_metadata(node, context, spec),
            halves=source.result.get("float_weights") == "fp16" and config["scheme"] == STATIC,
        )
        parity = _prove(module, path, config, task)
    beside = _beside(folder, task)
    found = inventory_of(path, config["format"])
    _check_operators(found.operators, config["unavailable_ops"], path)
    _check_floats(found.operators, num_float, path)
    return {
        "format": config["format"],
        "scheme": config["scheme"],
        "files": [
            {"name": file.name, "sha256": sha256_file(file), "size_bytes": file.stat().st_size}
            for file in (path, *beside)
        ],
        "parity": parity,
        "inventory": {
            "ops": _counted(found.operators),
            "int8_ops": found.int8_ops,
            "float_ops": found.float_ops,
        },
        "input_spec": spec,
    }


def _beside(folder: Path, task: Task) -> list[Path]:
    """What an app needs to make an input from a row, a text, a name: files beside the model."""
    texts = dict(task.files)
    if task.table is not None:
        texts[table_rows.FILE] = table_rows.document(task) + "\n"
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def check(context: Context, left: Sequence[Node]) -> None:
    """Nothing where the exporters can follow the networks that are still to be trained; before they are.

    Args:
        context: the run.
        left: the nodes without a result.

    Raises:
        ExportError: with the place in a network's forward that they cannot follow.
    """
    waiting = {node.label for node in left}
    exported = [node for node in left if node.stage == "export" and not node.config["may_fail"]]
    formats: dict[str, set[str]] = {}
    for node in exported:
        formats.setdefault(_origin(node, context), set()).add(node.config["format"])
    for label, of in formats.items():
        node = context.plan.node(label)
        if label in waiting and node.stage in ("network", "distill"):
            module = fold_batch_norm(saved.fresh(dict(node.config), context))
            traceable.check(module, saved.example_input(context.task), any_batch="onnx" in of)


def _origin(node: Node, context: Context) -> str:
    """The label of the network that a file comes from, before it was pruned and quantized."""
    label = node.parents["model"]
    while "network" in (parents := context.plan.node(label).parents):
        label = parents["network"]
    return label


def _spec_in_file(spec: InputSpec, format: str) -> dict[str, Any]:
    """What to feed the file itself: shape and layout as they stand in it."""
    found = asdict(spec)
    if len(spec.shape) == 3 and layout_of(format) == "NHWC":
        channels, height, width = spec.shape
        found.update(shape=(height, width, channels), layout="NHWC")
    return found


def _counted(operators: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for operator in operators:
        name = f"{operator.op_type}/{operator.dtype}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _check_operators(operators: Any, unavailable: list[str], path: Path) -> None:
    for operator in operators:
        if operator.op_type in unavailable:
            raise ExportError(
                f"{path.name}: operator {operator.op_type} is not available on the target",
                hint="replace it in the network, or correct artifact.unavailable_ops of the target",
            )


def _check_floats(operators: Sequence[Operator], num_float: int, path: Path) -> None:
    """A runtime that rounds weights by itself would ship another network than was judged."""
    found = [o for o in operators if o.dtype == "float32" and _WITH_WEIGHTS.search(o.op_type)]
    if len(found) < num_float:
        raise ExportError(
            f"{path.name}: {num_float} layers were left in float, and the runtime computes {len(found)} so",
            hint="another version of the runtime or the converter may be at fault: see edgekd doctor",
        )


def _metadata(node: Node, context: Context, spec: Mapping[str, Any]) -> dict[str, str]:
    """What a user of the file needs: how to prepare inputs, what outputs mean, where it comes from."""
    lineage, label = [], node.parents["model"]
    while label is not None:
        ancestor = context.plan.node(label)
        lineage.append({"stage": ancestor.stage, "id": ancestor.label, "key": ancestor.key})
        label = ancestor.parents.get("network")  # type: ignore[assignment]
    return {
        "edgekd.input": json.dumps(spec),
        "edgekd.class_names": json.dumps(list(context.task.class_names)),
        **({"edgekd.heads": json.dumps(context.task.heads)} if context.task.heads else {}),
        **({"edgekd.vector": json.dumps(context.task.vector)} if context.task.vector else {}),
        **(
            {table_rows.METADATA: table_rows.document(context.task)} if context.task.table is not None else {}
        ),
        "edgekd.scheme": node.config["scheme"],
        "edgekd.lineage": json.dumps(lineage[::-1]),
    }


def layout_of(format: str) -> Layout:
    """Layout of image inputs in a file: the exporters write TFLite as NHWC and ONNX as NCHW."""
    return "NHWC" if format == "tflite" else "NCHW"


@torch.no_grad()
def _prove(module: nn.Module, path: Path, config: Mapping[str, Any], task: Task) -> dict[str, Any]:
    x = task.input_spec.preprocess(_samples(task))
    reference = module(torch.from_numpy(x)).numpy()
    session = open_session(RUNTIME_OF[config["format"]], path)
    fed = to_layout(x, layout_of(config["format"]))
    # The same samples twice: in large batches, and in batches of another size, where the file takes any.
    fixed = session.inputs[0].shape[0]
    sizes = (len(fed), SECOND_BATCH) if fixed is None else (fixed,)
    outputs = {size: _in_batches(session, fed, size) for size in sizes}
    found = compared(module, x, reference, outputs, config["scheme"], tuple(task.columns.values()))
    check_parity(
        found,
        config["scheme"],
        output_range(reference),
        locate=lambda: locate.first_departure(module, path, config["format"], x[:1]),
    )
    return {**asdict(found), "batch_sizes": list(found.batch_sizes)}


@torch.no_grad()
def compared(
    module: nn.Module,
    x: NDArray[Any],
    reference: NDArray[Any],
    outputs: Mapping[int, NDArray[Any]],
    scheme: str,
    columns: Sequence[slice],
) -> Parity:
    """A file's outputs beside its model's, `reference`, on inputs `x`; the model is nudged where they differ.

    Norms of sums with outliers make much of one step: what a model does not keep, no file can.
    """
    found = parity_of(reference, outputs, scheme, columns)
    if scheme != STATIC or not complaint_of(found, scheme, output_range(reference)):
        return found
    with schemes.nudged(module, NUDGE, seed=0):
        own, spread = steps_between(reference, module(torch.from_numpy(x)).numpy())
    return parity_of(reference, outputs, scheme, columns, own, spread)


def _samples(task: Task) -> NDArray[Any]:
    """Raw samples to compare on: of val, and where it has too few, of train."""
    val, train = task.splits["val"].inputs, task.splits["train"].inputs
    rest = max(0, PARITY_SAMPLES - len(val))
    return np.concatenate([np.asarray(val[:PARITY_SAMPLES]), np.asarray(train[:rest])])


def _in_batches(session: Session, fed: NDArray[Any], size: int) -> NDArray[np.float32]:
    return np.concatenate([session.run(fed[i : i + size]) for i in range(0, len(fed), size)])
