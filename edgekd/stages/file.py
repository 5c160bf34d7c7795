"""Stage: a file, folder or function that the user brings; only its outputs are used, or the file itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import MeasurementError, UsageError
from edgekd.nodes import Node
from edgekd.onnx_parts import copy_whole, external_files
from edgekd.runtimes import open_session
from edgekd.stages import saved
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
        _refuse_changed(source, config, context)
        copy = folder / f"model{source.suffix if source.is_file() else ''}"
        if source.is_dir():
            shutil.copytree(source, copy)
        elif copy.name == ONNX:
            copy_whole(source, copy)
        else:
            shutil.copyfile(source, copy)
        _refuse_changed(source, config, context)
        files = [path for path in copy.rglob("*") if path.is_file()] or [copy]
        result |= {"file": copy.name, "size_bytes": sum(path.stat().st_size for path in files)}
    shown = f"{config['role']} {config['path']}" if "path" in config else config["role"]
    try:
        if result.get("file") == ONNX:
            result["input_name"] = open_session("onnxruntime", folder / ONNX).inputs[0].name
        teacher = of_source(folder, result, context)
    except MeasurementError as error:  # of the user's file, which has another name than the copy
        raise UsageError(f"{shown}: {error.message}", hint=error.hint) from None
    return {**result, **prove(folder, shown, teacher, context, config["outputs"])}


def _refuse_changed(source: Path, config: Mapping[str, Any], context: Context) -> None:
    saved.refuse_changed(source, config["sha256"], context)
    if "beside_sha256" in config:
        for path, sha256 in zip(external_files(source), config["beside_sha256"], strict=True):
            saved.refuse_changed(path, sha256, context)
