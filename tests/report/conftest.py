import hashlib
import math

import pytest
from filled_reports import filled

from edgekd.report import compare
from edgekd.report.compared import Comparison
from edgekd.report.html import html
from edgekd.report.schema import parse

DROPS = {
    "host": 0.31,
    "x86-onnx": 0.36,
    "android-cpu": 0.31,
    "raspberry-pi-4": 0.33,
    "arm64-onnx": 0.36,
    "raspberry-pi-5": 0.30,
    "android-gpu": 0.11,
    "edge-npu": 0.52,
}
ONNX = ("x86-onnx", "arm64-onnx")
FP16 = ("android-gpu",)
ALL_TARGETS = tuple(DROPS)
TEACHER = 94.63
TEACHER_SIZE = 44_731_392
FLOAT_SIZE = 1_098_240
DISCORDANCE = 0.03


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def metric(value, drop=None, n=10_000, margin=None):
    half = 164.5 * math.sqrt(DISCORDANCE / n)
    return {
        "name": "accuracy",
        "direction": "higher",
        "unit": "percent",
        "value": round(value, 4),
        "drop": drop,
        "drop_interval": None if drop is None else [round(drop - half, 4), round(drop + half, 4)],
        "margin": margin,
    }


def predictions(name):
    return {"path": f"predictions/{name}.npz", "sha256": sha(f"predictions {name}")}


def stage(id_, parent, name, targets, params, macs, drop, n, seconds):
    return {
        "id": id_,
        "parent_id": parent,
        "name": name,
        "targets": list(targets),
        "params": params,
        "macs": macs,
        "metrics": [metric(TEACHER - (drop or 0), drop, n)],
        "robust_accuracy": None,
        "head_accuracy": {},
        "predicted_latency": None,
        "sensitivity": [],
        "float_layers": [],
        "float_costs_ms": {},
        "removed_blocks": [],
        "nonzero_weights": None,
        "seconds": seconds,
        "predictions": predictions(id_),
    }


def artifact(id_, stage_id, target, role, fmt, scheme, size, drop, n, margin, **more):
    int8 = scheme == "static_wi8_ai8"
    name = f"artifacts/{id_}/model.{fmt}"
    return {
        "id": id_,
        "stage_id": stage_id,
        "target": target,
        "required": target in ("host", "x86-onnx"),
        "role": role,
        "format": fmt,
        "scheme": scheme,
        "files": [{"path": name, "sha256": sha(name), "size_bytes": size, "deflated_bytes": size // 2}],
        "size_bytes": size,
        "metrics": [metric(TEACHER - drop, drop, n, margin)],
        "head_accuracy": {},
        "agreement": 0.9712,
        "kl_divergence": 0.0123,
        "negative_flip_rate": 0.0167,
        "parity": {
            "num_samples": 256,
            "batch_sizes": [1, 64],
            "max_abs": 0.1421 if int8 else 3.1e-06,
            "mean_abs": 0.0131 if int8 else 4.0e-07,
            "mean_steps": 0.231 if int8 else None,
            "argmax_agreement": 0.9961 if int8 else 1.0,
            "own_steps": None,
        },
        "inventory": {
            "ops": {"CONV_2D/int8": 19, "ADD/int8": 9, "MEAN/int8": 1, "FULLY_CONNECTED/int8": 1}
            if int8
            else {"CONV_2D/float32": 19, "ADD/float32": 9, "MEAN/float32": 1, "FULLY_CONNECTED/float32": 1},
            "int8_ops": 30 if int8 else 0,
            "float_ops": 0 if int8 else 30,
        },
        "input_spec": {
            "name": "image",
            "shape": [1, 28, 28],
            "layout": "NCHW",
            "raw_dtype": "uint8",
            "raw_range": [0, 255],
            "scale": 255.0,
            "mean": [0.286],
            "std": [0.353],
        },
        "speedup_over_teacher": None,
        "speedup_over_float": None,
        "size_ratio_to_teacher": TEACHER_SIZE / size,
        "predictions": predictions(id_),
        "outputs_from": None,
        "slices": [],
        "class_drops": None,
        "flips": None,
        "contents": None,
        "contents_unread": "",
        "roofline": None,
        "roofline_absent": "",
        **more,
    }


def measurement(artifact_id, target, fmt, median, kind="measured"):
    return {
        "artifact_id": artifact_id,
        "target": target,
        "device": "local",
        "runtime": "onnxruntime" if fmt == "onnx" else "litert",
        "runtime_version": "1.31.0" if fmt == "onnx" else "2.3.0",
        "delegate": "cpu" if fmt == "onnx" else "xnnpack",
        "kind": kind,
        "num_threads": 1,
        "num_runs": 2400,
        "num_processes": 3,
        "median_ms": median,
        "p90_ms": round(median * 1.07, 5),
        "p99_ms": round(median * 1.31, 5),
        "first_ms": round(median * 2.2, 5),
        "init_ms": 14.2,
        "process_medians_ms": [median, round(median * 1.01, 5), round(median * 0.99, 5)],
        "peak_memory_bytes": 38_412_288,
        "warmup_runs": 10,
        "min_runs": 100,
        "min_seconds": 1.0,
        "gpu": None,
        "operators_delegated": None,
        "operators_total": None,
        "partitions": None,
        "cooldown_s": 1.0,
        "conditions": [],
        "raw_path": f"measurements/{target}--{artifact_id}.npz",
        "raw_sha256": "f" * 64,
        "distribution": None,
    }


def check(name, target, observed, limit, unit, status="PASS", detail=""):
    keys = ("name", "target", "observed", "limit", "unit", "status", "detail", "slice")
    return dict(zip(keys, (name, target, observed, limit, unit, status, detail, None), strict=True))


def stages_of(targets, n, branches):
    student = "student-7f2c"
    found = [
        stage("teacher-90ab", None, "teacher", targets, 11_173_962, 457_728_000, None, n, 1804.2),
        stage(student, "teacher-90ab", "distill", targets, 272_186, 31_021_952, 0.05, n, 912.7),
    ]
    groups = {"a": tuple(targets)}
    if branches == 2:
        wide = tuple(t for t in targets if t in ("android-gpu", "edge-npu"))
        groups = {"a": tuple(t for t in targets if t not in wide), "b": wide}
    for i, (key, members) in enumerate(groups.items()):
        pruned = 0.27 - 0.17 * i
        params, macs = (158_402, 17_800_192) if i == 0 else (201_866, 22_913_024)
        found.append(stage(f"prune-{key}", student, "prune", members, params, macs, pruned, n, 655.0))
        drop = 0.22 if i == 0 else 0.41
        members = [t for t in members if t not in FP16]
        found.append(
            stage(f"quantize-{key}", f"prune-{key}", "quantize", members, params, macs, drop, n, 388.1)
        )
    return found, {t: key for key, members in groups.items() for t in members}


def files_of(targets, groups, drops, n, margin):
    files, timings, checks = [], [], []
    for fmt in ("onnx", "tflite"):
        files.append(
            artifact(
                f"teacher-{fmt}-fp32",
                "teacher-90ab",
                None,
                "teacher_float",
                fmt,
                "fp32",
                TEACHER_SIZE,
                0.0,
                n,
                None,
                size_ratio_to_teacher=1.0,
            )
        )
        files.append(
            artifact(
                f"student-{fmt}-fp32",
                "prune-a",
                None,
                "student_float",
                fmt,
                "fp32",
                FLOAT_SIZE,
                0.27,
                n,
                None,
            )
        )
    for i, target in enumerate(targets):
        fmt = "onnx" if target in ONNX else "tflite"
        scheme = "fp16" if target in FP16 else "static_wi8_ai8"
        key = groups[target]
        own = f"prune-{key}" if scheme == "fp16" else f"quantize-{key}"
        median = round(0.3712 + 0.0413 * i, 4)
        kind = "measured" if target in ("host", "x86-onnx") else "host"
        files.append(
            artifact(
                target,
                own,
                target,
                "target",
                fmt,
                scheme,
                196_608 + 4096 * i,
                drops[target],
                n,
                margin,
                speedup_over_teacher={"value": 24.13, "lower": 23.6, "upper": 24.7},
                speedup_over_float={"value": 2.41, "lower": 2.33, "upper": 2.48},
            )
        )
        timings += [
            measurement(f"teacher-{fmt}-fp32", target, fmt, round(median * 24.13, 4), kind),
            measurement(f"student-{fmt}-fp32", target, fmt, round(median * 2.41, 4), kind),
            measurement(target, target, fmt, median, kind),
        ]
        checks += checks_of(target, drops[target], margin, n, i, kind, scheme)
    return files, timings, checks


def checks_of(target, drop, margin, n, i, kind, scheme):
    half = 164.5 * math.sqrt(DISCORDANCE / n)
    status = "PASS" if drop + half < margin else "FAIL" if drop - half >= margin else "INCONCLUSIVE"
    detail = f"95% upper bound {drop + half:.2f} pp on {n:,} samples, b 167, c 136"
    if status == "INCONCLUSIVE":
        detail = f"{n:,} samples leave the drop between {drop - half:.2f} and {drop + half:.2f} pp; "
        detail += "about 2,610 would decide"
    return [
        check("accuracy", target, drop, margin, "pp", status, detail),
        check("size", target, 196_608 + 4096 * i, 400_000, "bytes"),
        check("latency", target, 0.41, 2.0, "ms")
        if kind == "measured"
        else check(
            "latency",
            target,
            0.41,
            2.0,
            "ms",
            "INCONCLUSIVE",
            "measured on this computer, which is not the device",
        ),
        check("int8_beats_float", target, 2.41, 1.0, "ratio", "PASS", "95% lower bound 2.33")
        if scheme == "static_wi8_ai8"
        else check("int8_beats_float", target, None, None, "", "NOT_APPLICABLE", "a float file"),
    ]


def build(verdict="PASS", targets=ALL_TARGETS[:4], branches=1):
    """A report of the chain on Fashion-MNIST, as keys and values."""
    n = 360 if verdict == "INCONCLUSIVE" else 10_000
    drops = {**DROPS, "x86-onnx": 1.62 if verdict == "FAIL" else DROPS["x86-onnx"]}
    margin = 1.0
    stages, groups = stages_of(targets, n, branches)
    files, timings, checks = files_of(targets, groups, drops, n, margin)
    ids = [f"train-{i:05d}" for i in range(0, 512 * 97, 97)]
    split = {s: {"n": k, "sha256": sha(s), "duplicates": 0} for s, k in (("train", 54_957), ("val", 5_000))}
    return {
        "schema_version": 1,
        "recipe": {
            "name": "fashion-mnist",
            "description": "ResNet-18 to a pruned int8 ResNet-20",
            "seed": 7,
            "targets": list(targets),
            "required_targets": ["host", "x86-onnx"],
            "calibration": "stratified-512",
            "smoke": False,
            "task": {"kind": "idx", "limit": None, "on_overlap": "drop_from_train"},
            "teacher": {
                "model": {"kind": "resnet18"},
                "checkpoint": None,
                "train": {"epochs": 30, "lr": 0.1},
            },
            "student": {"model": {"kind": "resnet20"}},
            "distill": {"epochs": 40, "temperature": 4.0, "alpha": 0.1},
            "gate": {"max_drop_pp": 1.0},
        },
        "seed": 7,
        "versions": {"edgekd": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "onnxruntime": "1.31.0"},
        "host": {
            "cpu": "an x86-64 processor",
            "cores": 2,
            "memory_bytes": 8_589_934_592,
            "features": ["avx2"],
        },
        "devices": {},
        "data": {
            "splits": {**split, "test": {"n": n, "sha256": sha("test"), "duplicates": 2}, "unlabelled": None},
            "calibration": {
                "policy": "stratified-512",
                "n": 512,
                "ids_sha256": sha("\n".join(ids)),
                "ids": ids,
            },
            "notes": {"dropped_from_train": 43},
        },
        "class_names": ["T-shirt", "Trouser", "Pullover", "Dress", "Coat"],
        "teacher": {
            "params": 11_173_962,
            "macs": 457_728_000,
            "metrics": [metric(TEACHER)],
            "size_bytes": TEACHER_SIZE,
            "artifact_ids": ["teacher-onnx-fp32", "teacher-tflite-fp32"],
            "not_exported": None,
            "predictions": predictions("teacher"),
            "members": [],
        },
        "stages": stages,
        "artifacts": files,
        "measurements": timings,
        "gate": {
            "policy": {"max_drop_pp": margin, "alpha": 0.05, "why": f"what {n:,} test samples can support"},
            "budgets": {t: {"size_bytes": 400_000, "latency_ms_p90": 2.0} for t in targets},
        },
        "judgements": 3,
        "judgements_not_passed": 1,
        "judgement_log": {"path": "judgements.json", "sha256": "9" * 64},
        "verdict": {
            "status": verdict,
            "exit_code": {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[verdict],
            "checks": checks,
        },
        "gallery": None,
    }


@pytest.fixture
def make():
    """Builds a sample report as keys and values: make(verdict, targets, branches)."""
    return build


@pytest.fixture
def sample():
    """A passing report with four targets, as keys and values."""
    return build()


@pytest.fixture
def many():
    """Eight targets on two branches, valid."""
    return parse(build("PASS", ALL_TARGETS, 2))


@pytest.fixture
def show(browser, tmp_path):
    """Opens a report (keys and values, or parsed) or a comparison at a width.

    page.asked are the URLs it asked for.
    """
    opened = []

    def show(found, width=1200, **options):
        path = tmp_path / f"page-{len(opened)}.html"
        found = parse(found) if isinstance(found, dict) else found
        text = compare.html(found) if isinstance(found, Comparison) else html(found)
        path.write_text(text, encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        opened.append(page)
        page.asked, page.dialogs, page.errors = [], [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield show
    for page in opened:
        page.close()


@pytest.fixture
def full(make):
    """A report of four targets with everything that plots are drawn from, as keys and values."""
    return filled(make())
