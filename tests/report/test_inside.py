"""What the files hold, looked into when a run's report is assembled."""

import folders
from model_files import linear_onnx

from edgekd.config import GateConfig
from edgekd.figures import with_figures
from edgekd.report.html import html
from edgekd.report.schema import parse


def looked_into(data, folder, write):
    """The report after its files were looked into; `write` makes each of them at its path."""
    for artifact in data["artifacts"]:
        for file in artifact["files"]:
            path = folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, artifact["format"])
            file |= {"size_bytes": path.stat().st_size, "sha256": folders.sha256(path)}
        artifact["size_bytes"] = sum(file["size_bytes"] for file in artifact["files"])
    folders.fill(data, folder)
    return with_figures(parse(data), folder, GateConfig(max_drop_pp=1.0))


def test_a_file_that_cannot_be_read_loses_its_plot_and_not_the_report(make, tmp_path):
    def write(path, form):
        if form == "onnx":
            linear_onnx(path, [[1.0], [2.0]], [0.5])
        else:
            path.write_bytes(b"no model at all")

    report = looked_into(make("PASS", targets=("host", "x86-onnx")), tmp_path, write)
    assert {a.format for a in report.artifacts} == {"onnx", "tflite"}
    for artifact in report.artifacts:
        if artifact.format == "onnx":
            assert artifact.contents.by_dtype == {"float32": 3 * 4} and artifact.contents_unread == ""
        else:
            assert artifact.contents is None
            assert (
                "model.tflite: constants cannot be read as tflite: no TFLite file" in artifact.contents_unread
            )
    assert all(a.flips is not None for a in report.artifacts if a.role == "target")
    assert "constants cannot be read as tflite: no TFLite file" in html(report)


def test_all_files_of_an_artifact_are_counted(make, tmp_path):
    data = make("PASS", targets=("x86-onnx",))
    shipped = next(a for a in data["artifacts"] if a["target"] == "x86-onnx")
    more = {**shipped["files"][0], "path": "artifacts/x86-onnx/second.onnx"}
    shipped["files"].append(more)

    def write(path, form):
        if path.suffix == ".onnx":
            linear_onnx(path, [[1.0]] * (10 if path.name == "second.onnx" else 2), [0.5])
        else:
            path.write_bytes(b"")

    found = looked_into(data, tmp_path, write).artifacts
    shipped = next(a for a in found if a.target == "x86-onnx")
    # Weights of 2 and 10 inputs, a bias each.
    assert shipped.contents.by_dtype == {"float32": 4 * (2 + 1 + 10 + 1)}
    assert shipped.contents.graph_bytes == shipped.size_bytes - 4 * 14
