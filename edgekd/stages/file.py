"""Stage: a file, folder or function that the user brings; only its outputs are used, or the file itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.nodes import Node
from edgekd.runtimes import open_session
from edgekd.stages.context import Context
from edgekd.stages.teacher import of_source, prove

ONNX = "model.onnx"


def run(folder: Path, node: Node, context: Context) -> Mapping[str, Any]:
    """Keeps a copy and the outputs on test; returns its size where it is a file."""
    config = node.config
    context = context.seen_as(config.get("modality"))
    result = {"params": None, "macs": None, "function": config.get("function"), "outputs": config["outputs"]}
    if "path" in config:
        source = Path(config["path"])
        copy = folder / f"model{source.suffix if source.is_file() else ''}"
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copyfile(source, copy)
        files = [path for path in copy.rglob("*") if path.is_file()] or [copy]
        result |= {"file": copy.name, "size_bytes": sum(path.stat().st_size for path in files)}
        if copy.name == ONNX:
            result["input_name"] = open_session("onnxruntime", copy).inputs[0].name
    teacher = of_source(folder, result, context)
    shown = f"{config['role']} {config['path']}" if "path" in config else config["role"]
    return {**result, **prove(folder, shown, teacher, context, config["outputs"])}
