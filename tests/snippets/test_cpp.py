"""The C++ that is printed is compiled and run: the same bytes as Python's preparation and the session's."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from snippet_files import CASES, NAMES, above_the_call

from edgekd.runtimes import TensorInfo, open_session
from edgekd.snippets import Facts, snippet
from edgekd.snippets.facts import Input
from edgekd.snippets.render import render

FEED = """
int main() {{
  std::vector<{raw}> sample(kInputSize);
  std::vector<{fed}> input(kInputSize);
  while (std::fread(sample.data(), sizeof({raw}), kInputSize, stdin) == kInputSize) {{
    Preprocess(sample.data(), input.data());
    std::fwrite(input.data(), sizeof({fed}), kInputSize, stdout);
  }}
}}
"""
READ = """
int main() {{
  std::vector<{read}> output(kOutputSize);
  while (std::fread(output.data(), sizeof({read}), kOutputSize, stdin) == kOutputSize) {{
    const std::vector<float> values = Postprocess(output.data());
    std::fwrite(values.data(), sizeof(float), kOutputSize, stdout);
    const Answer first = BestOf(values.data(), values.data() + 3, kClassNames);
    const Answer second = BestOf(values.data() + 3, values.data() + 5, kNamesOf_two_or_more);
    std::fwrite(&first.probability, sizeof(float), 1, stdout);
    std::fwrite(&second.probability, sizeof(float), 1, stdout);
    std::printf("%s|%s;", first.name, second.name);
  }}
}}
"""
TYPES = {"float32": "float"} | {name: f"std::{name}_t" for name in ("int8", "uint8", "int32", "int64")}


def side_by_side(raw):
    """Samples as an app has them: of images the channels of a pixel side by side."""
    return raw.transpose(0, 2, 3, 1) if raw.ndim == 4 else raw


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_it_feeds_the_bytes_that_the_chain_feeds(case, made, compiled):
    file = made(*case)
    info = open_session({"onnx": "onnxruntime", "tflite": "litert"}[case[1]], file.path).inputs[0]
    raw = file.raw(300)
    wanted = info.encode(file.prepared(raw))
    main = FEED.format(raw=TYPES[file.spec.raw_dtype], fed=TYPES[info.dtype])
    run = compiled(above_the_call(snippet(file.path, "cpp")), main)
    found = np.frombuffer(run(np.ascontiguousarray(side_by_side(raw)).tobytes()), info.dtype)
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
    assert len(np.unique(wanted)) > 20


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids="-".join)
def test_it_reads_what_the_session_reads(case, made, compiled):
    file = made(*case)
    session = open_session({"onnx": "onnxruntime", "tflite": "litert"}[case[1]], file.path)
    fed, out = session.inputs[0].encode(file.prepared(file.raw(20))), session.outputs[0]
    given = [session.invoke(session.prepare([fed[i : i + 1]]))[0] for i in range(20)]
    given += [np.roll(each, k) for k, each in enumerate(given)]  # other answers too
    run = compiled(above_the_call(snippet(file.path, "cpp")), READ.format(read=TYPES[out.dtype]))
    said = []
    for each in given:
        bytes_ = run(each.tobytes())
        values, names = np.frombuffer(bytes_[:28], np.float32), bytes_[28:].decode()
        np.testing.assert_array_equal(values[:5], out.decode(each)[0])
        for probability, logits in ((values[5], values[:3]), (values[6], values[3:5])):
            powers = np.exp(logits.astype(float))
            assert probability == pytest.approx(powers.max() / powers.sum(), rel=1e-5)
        wanted = NAMES[values[:3].argmax()], ("no", "yes")[values[3:5].argmax()]
        assert names == "|".join(wanted) + ";"
        said.append(names)
    assert len(set(said)) > 1


def crafted(raw_dtype, taken, given=None, shape=(4, 3)):
    """Facts of no file: a step of a half, so that values fall between two integers."""
    scaling = () if raw_dtype == "int32" else (0.5,) * shape[0]
    spec = Input(
        name="x", shape=shape, layout="NC", raw_dtype=raw_dtype, scale=1.0, mean=scaling, std=scaling
    )
    given = given or TensorInfo("y", (1, 3), "float32")
    taken = taken._replace(name="x", shape=(None, *shape))
    return Facts("any.onnx", "onnx", "any", spec, (), {}, taken, given)


@pytest.mark.parametrize("dtype, zero", [("int8", -3), ("uint8", 120)])
def test_halves_go_to_the_even_integer_and_what_is_beyond_to_the_last(dtype, zero, compiled):
    info = TensorInfo("x", (1, 4, 3), dtype, 0.5, zero)
    run = compiled(
        above_the_call(render(crafted("float32", info), "cpp")), FEED.format(raw="float", fed=TYPES[dtype])
    )
    raw = np.array([0.5 + k / 8 for k in range(-7, 5)], np.float32)  # steps of a quarter: halves among them
    beyond = np.where(raw < 0, -1e4, 1e4).astype(np.float32)
    found = np.frombuffer(run(raw.tobytes() + beyond.tobytes()), dtype)
    by_hand = [round((float(x) - 0.5) / 0.5 / 0.5) + zero for x in raw]  # Python rounds halves to even
    assert found[:12].tolist() == by_hand
    limits = np.iinfo(dtype)
    assert set(found[12:].tolist()) == {limits.min, limits.max}
    wanted = info.encode((raw.reshape(1, 4, 3) - np.float32(0.5)) / np.float32(0.5))
    np.testing.assert_array_equal(found[:12], wanted.ravel())


NEAR = """
int main() {
  std::vector<float> output(2 * kOutputSize);
  while (std::fread(output.data(), sizeof(float), output.size(), stdin) == output.size()) {
    const float near = Nearness(Postprocess(output.data()), Postprocess(output.data() + kOutputSize));
    std::fwrite(&near, sizeof(float), 1, stdout);
  }
}
"""


def test_two_vectors_are_as_near_as_their_cosine(compiled):
    facts = replace(
        crafted("float32", TensorInfo("x", (), "float32"), TensorInfo("y", (1, 7), "float32")),
        class_names=("a", "b"),
        heads={"more": ("c", "d")},
        vector=3,
    )
    text = render(facts, "cpp")
    given = np.random.default_rng(2).normal(size=(30, 2, 7)).astype(np.float32)
    found = np.frombuffer(compiled(above_the_call(text), NEAR)(given.tobytes()), np.float32)
    one, other = given[:, 0, 2:5], given[:, 1, 2:5]
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    np.testing.assert_allclose(found, cosine, rtol=1e-5)
    # and the head begins behind the vector
    assert "values.data() + 5, values.data() + 7, kNamesOf_more" in text
    kotlin = render(facts, "kotlin")
    assert "VECTOR_START = 2 " in kotlin and "VECTOR_SIZE = 3\n" in kotlin
    assert "import kotlin.math.sqrt\n" in kotlin and "subList(5, 7), NAMES_OF_MORE" in kotlin


def test_ids_of_64_bits(compiled):
    run = compiled(
        above_the_call(render(crafted("int32", TensorInfo("x", (), "int64")), "cpp")),
        FEED.format(raw="std::int32_t", fed="std::int64_t"),
    )
    ids = np.array([0, -1, 2**31 - 1, -(2**31), *range(8)], np.int32)
    assert np.frombuffer(run(ids.tobytes()), np.int64).tolist() == ids.tolist()


# What the calls need of the runtimes' headers, which no package has that CI installs: these declarations
# show that the calls are C++, not that the runtimes have these names.
TFLITE = """
#include <memory>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
namespace tflite {
struct FlatBufferModel { static std::unique_ptr<FlatBufferModel> BuildFromFile(const char*); };
struct Interpreter {
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  template <class T> T* typed_input_tensor(int);
  template <class T> T* typed_output_tensor(int);
};
namespace ops { namespace builtin { struct BuiltinOpResolver {}; } }
struct InterpreterBuilder {
  InterpreterBuilder(const FlatBufferModel&, const ops::builtin::BuiltinOpResolver&);
  TfLiteStatus operator()(std::unique_ptr<Interpreter>*);
};
}
"""
ONNXRUNTIME = """
#include <cstddef>
#include <cstdint>
#include <vector>
#define ORTCHAR_T char
enum OrtAllocatorType { OrtArenaAllocator };
enum OrtMemType { OrtMemTypeDefault };
enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING };
namespace Ort {
struct Env { Env(OrtLoggingLevel, const char*); };
struct SessionOptions {};
struct RunOptions { explicit RunOptions(std::nullptr_t); };
struct MemoryInfo { static MemoryInfo CreateCpu(OrtAllocatorType, OrtMemType); };
struct Value {
  template <class T>
  static Value CreateTensor(const MemoryInfo&, T*, std::size_t, const std::int64_t*, std::size_t);
  template <class T> const T* GetTensorData() const;
};
struct Session {
  Session(const Env&, const ORTCHAR_T*, const SessionOptions&);
  std::vector<Value> Run(const RunOptions&, const char* const*, const Value*, std::size_t,
                         const char* const*, std::size_t);
};
}
"""


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_call_is_cpp(case, made, tmp_path):
    (tmp_path / "tensorflow/lite/kernels").mkdir(parents=True)
    for name in ("interpreter.h", "kernels/register.h", "model.h"):
        (tmp_path / "tensorflow/lite" / name).write_text("#pragma once\n" + TFLITE)
    for name in ("kernels/register.h", "model.h"):
        (tmp_path / "tensorflow/lite" / name).write_text('#include "tensorflow/lite/interpreter.h"\n')
    (tmp_path / "onnxruntime_cxx_api.h").write_text("#pragma once\n" + ONNXRUNTIME)
    file = made(*case)
    text = snippet(file.path, "cpp")
    # The lines of use at its end are code too.
    above, _, use = text.rpartition("};\n")
    lines = [line.removeprefix("// ") for line in use.splitlines() if line.startswith("// ")]
    lines = [line for line in lines if not line.startswith("(")]
    assert any("BestOf" in line for line in lines) and len(lines) == 4
    raw = TYPES[file.spec.raw_dtype]
    sample = {"image": "pixels", "table": "features", "ids": "ids"}[case[0]]
    used = [f"const {raw} {sample}[kInputSize] = {{}};", *lines]
    shown = ["std::puts(answer.name);", "std::puts(two_or_more.name);"]
    body = "\n".join([f"{above}}};", "#include <cstdio>", "int main() {", *used, *shown, "}", ""])
    (tmp_path / "whole.cpp").write_text(body)
    done = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I", ".", "whole.cpp"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
