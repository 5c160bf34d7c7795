"""The constants that are printed are those of the file, as its own runtime and format tell them."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as tfl
from ai_edge_litert.interpreter import Interpreter
from model_files import linear_onnx
from snippet_files import CASES, NAMES, above_the_call

from edgekd.errors import EdgeKDError, UsageError
from edgekd.snippets import snippet
from edgekd.snippets.render import texts

LANGUAGES = ("cpp", "kotlin")


def inside(path):
    """A file's metadata, by the libraries of its format."""
    if path.suffix == ".onnx":
        return {p.key: p.value for p in onnx.load(path).metadata_props}
    model = tfl.Model.GetRootAs(path.read_bytes(), 0)
    (entry,) = [e for i in range(model.MetadataLength()) if (e := model.Metadata(i)).Name() == b"edgekd"]
    return json.loads(bytes(model.Buffers(entry.Buffer()).DataAsNumpy()))


def constant(text, *names):
    """The numbers behind a name in either language, as float32."""
    for name in names:
        found = re.search(rf"\b{name}(?:\[\])? = (?:\{{|floatArrayOf\()?([-+.\dea-zA-Z,\s]*?)[;)}}\n/]", text)
        if found:
            return [np.float32(x.strip().removesuffix("f")) for x in found[1].split(",")]
    return None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_constants_are_the_files(case, language, made):
    path = made(*case).path
    text, metadata = snippet(path, language), inside(path)
    spec = json.loads(metadata["edgekd.input"])
    if case[0] == "ids":
        for names in (("kScale", "SCALE"), ("kMean", "MEAN"), ("kStd", "STD")):
            assert constant(text, *names) is None
    else:
        assert constant(text, "kScale", "SCALE") == [np.float32(spec["scale"])]
        assert constant(text, "kMean", "MEAN") == [np.float32(x) for x in spec["mean"]]
        assert constant(text, "kStd", "STD") == [np.float32(x) for x in spec["std"]]
    if case[0] == "image":
        axes = dict(zip("HWC" if case[1] == "tflite" else "CHW", spec["shape"], strict=True))
        for axis, names in (
            ("H", ("kHeight", "HEIGHT")),
            ("W", ("kWidth", "WIDTH")),
            ("C", ("kChannels", "CHANNELS")),
        ):
            found = re.search(rf"\b(?:{'|'.join(names)}) = (\d+)", text)
            assert int(found[1]) == axes[axis]
    else:
        assert re.search(r"\b(?:kInputSize|INPUT_SIZE) = (\d+)", text)[1] == str(spec["shape"][0])
    assert re.search(r"\b(?:kOutputSize|OUTPUT_SIZE) = (\d+)", text)[1] == "5"
    assert f"({metadata['edgekd.scheme']})" in (first := text.splitlines()[0]) and path.name in first
    if case == ("image", "tflite", "static_wi8_ai8"):
        interpreter = Interpreter(str(path))
        for details, which in (
            (interpreter.get_input_details(), "Input"),
            (interpreter.get_output_details(), "Output"),
        ):
            scale, zero = details[0]["quantization"]
            assert (
                constant(text, f"k{which}Step", f"{which.upper()}_STEP") == [np.float32(scale)] and scale > 0
            )
            assert constant(text, f"k{which}Zero", f"{which.upper()}_ZERO") == [zero]
    else:
        assert "Step" not in text and "STEP" not in text


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_kotlin_is_balanced_and_names_what_it_uses(case, made):
    """No compiler of Kotlin is at hand in CI: docs/decisions/018 says when it was compiled."""
    text = snippet(made(*case).path, "kotlin")
    code = re.sub(r'"(?:\\.|[^"\\])*"|/\*.*?\*/|//[^\n]*', "", text, flags=re.DOTALL)
    for left, right in ("()", "{}", "[]"):
        assert code.count(left) == code.count(right) > 0
    declared = set(re.findall(r"(?:const val|val|fun|class) (\w+)", code))
    assert {name for name in re.findall(r"\b[A-Z][A-Z_]{2,}\b", code)} - declared <= {"FLOAT", "INT"}
    assert {"preprocess", "postprocess", "softmax", "best", "NAMES_OF_TWO_OR_MORE"} <= declared
    assert "subList(3, 5), NAMES_OF_TWO_OR_MORE" in text and "take(3), CLASS_NAMES" in text
    assert max(map(len, text.splitlines())) <= 120


def test_names_with_characters_that_languages_take_for_others(compiled):
    names = (*NAMES, "\x07" + "7", "\u2028", "??/", "\t\b\f\r", "a" * 200, "${x}", "日本 語")
    main = "int main() { for (const char* n : names) std::fwrite(n, 1, std::strlen(n) + 1, stdout); }"
    run = compiled(f"#include <cstring>\nconst char* const names[] = {{{texts(names, 'cpp')}}};", main)
    assert tuple(run(b"").decode().split("\0")[:-1]) == names
    kotlin = texts(names, "kotlin")
    # Kotlin knows JSON's escapes but \f, and takes $ for a template.
    back = re.sub(r"\\\$", "$", kotlin)
    assert re.findall(r"(?<!\\)\$", kotlin) == [] and "\\f" not in kotlin
    assert tuple(json.loads(f"[{back}]")) == names


def test_outputs_that_are_no_classes_are_read_as_values(tmp_path):
    path = described(tmp_path, class_names=[])
    for language in LANGUAGES:
        text = snippet(path, language)
        assert "oftmax" not in text and "logits" not in text and "onst val values" not in text
        assert "al values = model.run(" in text or "values = model.Run(" in text


def described(folder, weight=None, **changed):
    """y = x @ weight with metadata; what is None is left out, and texts are written as they are."""
    path = linear_onnx(folder / "y.onnx", np.ones((2, 3)) if weight is None else weight, [0.0] * 3)
    spec = {
        "name": "x",
        "shape": [2],
        "layout": "NC",
        "raw_dtype": "float32",
        "raw_range": [0, 1],
        "scale": 1.0,
        "mean": [0.0, 0.0],
        "std": [1.0, 1.0],
    }
    given = {"scheme": "fp32", "class_names": ["a", "b", "c"], "input": spec} | {
        k: v for k, v in changed.items() if k not in spec
    }
    if isinstance(given["input"], dict):
        given["input"] = {**given["input"], **{k: v for k, v in changed.items() if k in spec}}
        given["input"] = {k: v for k, v in given["input"].items() if v is not None}
    model = onnx.load(path)
    for key, value in given.items():
        if value is not None:
            model.metadata_props.add(
                key=f"edgekd.{key}", value=value if isinstance(value, str) else json.dumps(value)
            )
    onnx.save(model, path)
    return path


WRONG = [
    (
        {"input": None},
        r"y\.onnx: metadata 'edgekd\.input' is missing \(there is: edgekd\.class_names, edgekd\.scheme\)",
    ),
    ({"class_names": None}, r"'edgekd\.class_names' is missing"),
    ({"scheme": None}, r"'edgekd\.scheme' is missing"),
    ({"input": "{"}, r"'edgekd\.input' is no JSON"),
    ({"input": "[1]"}, r"metadata 'edgekd\.input': .*dictionary"),
    ({"mean": None}, r"'edgekd\.input\.mean': Field required"),
    ({"mean": [0.0]}, r"'edgekd\.input\.mean': 1 values, not 2"),
    ({"std": [1.0, 0.0]}, r"'edgekd\.input\.std': holds 0"),
    ({"scale": 0.0}, r"'edgekd\.input\.scale': .*greater than 0"),
    ({"raw_dtype": "bool"}, r"'edgekd\.input\.raw_dtype': 'bool' \(known: uint8, float32, int32\)"),
    ({"raw_dtype": "int32"}, r"its input is float32, scale 0\.0; raw samples are int32"),
    ({"shape": [2, 1]}, r"takes \(None, 2\), and its metadata says one sample is \(2, 1\)"),
    ({"class_names": ["a", "b"]}, r"3 outputs, and its metadata names 2"),
    ({"heads": {"a-b": ["x"]}}, r"3 outputs, and its metadata names 4"),
    ({"vector": 2}, r"3 outputs, and its metadata names 5"),
    ({"vector": "wide"}, r"'edgekd\.vector' is no JSON"),
]


@pytest.mark.parametrize(
    "changed, message", WRONG, ids=[str(sorted(c)) + str(i) for i, (c, _) in enumerate(WRONG)]
)
def test_a_file_that_does_not_tell_is_refused_with_what_is_missing(changed, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        snippet(described(tmp_path, **changed), "cpp")


def test_a_language_that_is_not_known(tmp_path):
    with pytest.raises(UsageError, match=r"--language kotln: .*did you mean 'kotlin'"):
        snippet(described(tmp_path), "kotln")


def test_heads_whose_names_code_cannot_tell_apart(tmp_path):
    path = described(tmp_path, class_names=["a"], heads={"a b": ["x"], "a-b": ["y"]})
    with pytest.raises(UsageError, match="names that code cannot tell apart"):
        snippet(path, "kotlin")


def test_the_command(tmp_path, made):
    path = made("image", "tflite", "static_wi8_ai8").path

    def run(*arguments):
        command = [sys.executable, "-m", "edgekd", "snippet", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(path, "--language", "cpp")
    assert (done.returncode, done.stdout) == (0, snippet(path, "cpp"))
    assert above_the_call(done.stdout)
    plain = linear_onnx(tmp_path / "plain.onnx", np.ones((2, 3)), [0.0] * 3)
    done = run(plain, "--language", "kotlin")
    assert done.returncode == EdgeKDError.exit_code and done.stdout == ""
    assert "plain.onnx: metadata 'edgekd.scheme' is missing (there is: none at all)" in done.stderr
    assert "only files that `edgekd run` exported have it" in done.stderr
