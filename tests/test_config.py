import tomllib

import pytest

from edgekd import config, terminal
from edgekd.config import (
    CalibrationPolicy,
    Recipe,
    Target,
    available,
    build,
    find,
    load_calibration,
    load_target,
    override,
    parse_override,
    read_toml,
)
from edgekd.errors import UsageError
from edgekd.pipeline import resolve

RECIPE = """\
name = "small"
targets = ["host"]
required_targets = ["host"]

[task]
kind = "digits"

[teacher.model]
kind = "resnet"
width = 32

[teacher.train]  # a comment behind a header
epochs = 3

[student.model]
kind = "resnet"

[distill]
epochs = 4
lr = 0.1

[quantize]
method = "qat"

[gate]
max_drop_pp = 3.0
"""

TARGET = """\
name = "mine"
description = "d"

[processor]
isa = "any"

[runtime]
name = "litert"
delegate = "cpu"

[artifact]
format = "tflite"
scheme = "fp16"
layout = "NHWC"
"""


def load_recipe(name, overrides=None):
    return resolve(name, {}, overrides or {}, None, None)[0]


def recipe_file(tmp_path, text=RECIPE):
    path = tmp_path / "small.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_recipe_read_whole(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path))
    assert recipe.targets == ("host",)
    assert recipe.task.kind == "digits"
    assert recipe.teacher.model.options == {"width": 32}
    assert recipe.distill.lr == 0.1
    assert recipe.quantize.optimizer == "adamw"  # its own default, not TrainConfig's
    assert recipe.student.checkpoint is None
    with pytest.raises(Exception, match="frozen"):
        recipe.seed = 3


# What is wrong, and what the message must hold: place and key, then the remedy.
BAD = {
    "unknown key at the top": (("seed_ = 1\n", "at 1"), [":1:", "unknown key 'seed_'", "'seed'"]),
    "unknown key in a table": (("lr = 0.1", "learning_rate = 0.1"), [":20:", "'distill.learning_rate'"]),
    "unknown key with a near one": (("epochs = 4", "epoch = 4"), [":19:", "'distill.epoch'", "'epochs'"]),
    "unknown key two tables deep": (("epochs = 3", "epoks = 3"), [":13:", "teacher.train.epoks", "'epochs'"]),
    "unknown table": (("[quantize]", "[quantise]"), [":22:", "unknown key 'quantise'", "'quantize'"]),
    "key with nothing near": (
        ('method = "qat"', 'method = "qat"\nzzzzzz = 1'),
        [":24:", "'quantize.zzzzzz'", "valid keys here:", "grad_clip"],
    ),
    "text for a number": (("lr = 0.1", 'lr = "0.1"'), [":20:", "distill.lr = '0.1'", "valid number"]),
    "fraction for a count": (("epochs = 4", "epochs = 4.5"), [":19:", "distill.epochs = 4.5", "integer"]),
    "truth for a count": (("epochs = 4", "epochs = true"), [":19:", "distill.epochs = True", "integer"]),
    "value for a table": (("[distill]", "[other]"), ["'other'"]),
    "text for a list": (('targets = ["host"]', 'targets = "host"'), [":2:", "targets = 'host'", "tuple"]),
    "number in a list": (('targets = ["host"]', "targets = [3]"), [":2:", "targets.0 = 3", "string"]),
    "missing key in a table": (('method = "qat"\n', ""), [":22:", "'quantize.method' is missing"]),
    "missing key behind a comment": (("epochs = 3\n", ""), [":12:", "'teacher.train.epochs' is missing"]),
    "missing table": (("[gate]\nmax_drop_pp = 3.0\n", ""), ["small.toml: ", "'gate' is missing"]),
    "out of range": (("lr = 0.1", "lr = -0.1"), [":20:", "distill.lr = -0.1", "greater than 0"]),
    "infinite margin": (("= 3.0", "= inf"), [":26:", "gate.max_drop_pp = inf", "finite number"]),
    "not a number": (("= 3.0", "= nan"), [":26:", "gate.max_drop_pp = nan"]),
    "no such choice": (('"qat"', '"qta"'), [":23:", "quantize.method = 'qta'", "did you mean 'qat'?"]),
    "a name unfit for a folder": (('"small"', '"../x"'), [":1:", "name = '../x'"]),
    "required beyond targets": (
        ('required_targets = ["host"]', 'required_targets = ["hosts"]'),
        ["'hosts', which is not among targets (host)"],
    ),
    "a target twice": (('targets = ["host"]\nr', 'targets = ["host", "host"]\nr'), ["same target twice"]),
    "no targets": (('targets = ["host"]\nr', "targets = []\nr"), [":2:", "targets = []", "at least 1"]),
    "a teacher without weights": (
        ("[teacher.train]  # a comment behind a header\nepochs = 3\n", ""),
        ["checkpoint"],
    ),
    "both student.model and onnx": (
        ("[distill]", '[student]\nonnx = "a.onnx"\n[distill]'),
        ["exactly one of student.model and student.onnx"],
    ),
    "two goals of pruning": (
        ("[gate]", '[prune]\nepochs = 1\ngoal = "macs"\nkeep = 0.5\nlimit = 3\n[gate]'),
        [":25:", "prune: ", "exactly one of prune.keep and prune.limit"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipe(tmp_path, case):
    (old, new), fragments = BAD[case]
    text = old + RECIPE if new == "at 1" else RECIPE.replace(old, new, 1)
    assert text != RECIPE
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe_file(tmp_path, text))
    for fragment in ("small.toml", *fragments):
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('delegate = "cpu"', 'delegate = "npu"', r"mine.toml:9: runtime.delegate = 'npu'"),
        ('delegate = "cpu"', 'delegate = "cuda"', r"delegate cuda is one of onnxruntime's, not of litert's"),
        (
            'name = "litert"\ndelegate = "cpu"',
            'name = "onnxruntime"\ndelegate = "gpu-fp32"',
            "one of litert's",
        ),
        ('"tflite"', '"onnx"', r"mine.toml: runtime litert reads tflite files, artifact.format is onnx"),
        ('"fp16"', '"static_wi8_ai"', r"artifact.scheme = .*did you mean 'static_wi8_ai8'"),
        ("[artifact]", "[budgets]\nsize_bytes = 0\n[artifact]", r"mine.toml:12: budgets.size_bytes = 0"),
        ("[artifact]", "[protocol]\nmin_runs = 9\n[artifact]", r"protocol.min_runs = 9: .* equal to 10"),
        ('isa = "any"', "", r"mine.toml:4: key 'processor.isa' is missing"),
        (
            "[artifact]",
            "[peak]\nfp32_gflops = 1\n[artifact]",
            r"mine.toml:11: key 'peak.int8_gops' is missing",
        ),
    ],
)
def test_bad_target(tmp_path, old, new, message):
    (tmp_path / "mine.toml").write_text(TARGET.replace(old, new, 1))
    with pytest.raises(UsageError, match=message):
        load_target(str(tmp_path / "mine.toml"))


def test_a_target_with_what_is_left_out(tmp_path):
    (tmp_path / "mine.toml").write_text(TARGET)
    target = load_target(str(tmp_path / "mine.toml"))
    assert target.budgets.latency_ms_p90 is None
    assert target.peak is None
    assert (target.runtime.num_threads, target.artifact.channel_multiple) == (1, 8)
    assert (target.protocol.min_runs, target.protocol.num_processes) == (100, 3)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"strategy": "per_class", "num_samples": 3}, "takes per_class, not num_samples"),
        ({"strategy": "random", "per_class": 3}, "takes num_samples, not per_class"),
        ({"strategy": "stratified"}, "takes num_samples, not per_class"),
        ({"strategy": "stratified", "num_samples": 3, "per_class": 3}, "takes num_samples, not per_class"),
        ({"strategy": "random", "num_samples": 0}, "num_samples = 0"),
        ({"strategy": "random", "num_samples": 1, "percentile": 50}, "percentile = 50"),
    ],
)
def test_bad_calibration(counts, message):
    data = {"name": "p", "description": "d", "observer": "min_max", **counts}
    with pytest.raises(UsageError, match=f"here: .*{message}"):
        build(CalibrationPolicy, data, "here")


class TestFiles:
    def test_not_toml(self, tmp_path):
        with pytest.raises(UsageError, match=r"small.toml: not valid TOML: .*line 2"):
            load_recipe(recipe_file(tmp_path, 'name = "a"\ntargets = x\n'))

    def test_not_utf8(self, tmp_path):
        (tmp_path / "a.toml").write_bytes(b'name = "\xe9"')
        with pytest.raises(UsageError, match=r"a.toml: cannot be read"):
            read_toml(tmp_path / "a.toml")

    def test_a_folder(self, tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read_toml(tmp_path)

    @pytest.mark.parametrize("load", [load_recipe, load_target, load_calibration])
    def test_missing(self, tmp_path, load):
        with pytest.raises(UsageError, match=r"none.toml: no such file"):
            load(str(tmp_path / "none.toml"))

    def test_unknown_name(self):
        with pytest.raises(UsageError, match=r"unknown target 'rasberry-pi-4' .*'raspberry-pi-4'"):
            load_target("rasberry-pi-4")
        with pytest.raises(UsageError, match=r"unknown calibration 'zzz' \(known: per-class-32, random-512"):
            load_calibration("zzz")

    def test_a_users_own_hides_the_shipped_one(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shipped = find("target", "host")
        (tmp_path / "targets").mkdir()
        for name in ("host", "mine"):
            (tmp_path / "targets" / f"{name}.toml").write_text(TARGET)
        assert find("target", "host") == tmp_path / "targets" / "host.toml" != shipped
        assert set(available("target")) > {"mine", "host", "x86-onnx"}


class TestOverrides:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("seed=3", ("seed", 3)),
            ("distill.lr = 0.5", ("distill.lr", 0.5)),
            ("task.path=${EDGEKD_DATA}/x", ("task.path", "${EDGEKD_DATA}/x")),
            ('targets=["a", "b"]', ("targets", ["a", "b"])),
            ("smoke=true", ("smoke", True)),
            ("a=b=c", ("a", "b=c")),
            ("a=", ("a", "")),
        ],
    )
    def test_parse(self, text, expected):
        assert parse_override(text) == expected

    @pytest.mark.parametrize("text", ["seed", "=3", ""])
    def test_not_of_the_form(self, text):
        with pytest.raises(UsageError, match="not of the form key=value"):
            parse_override(text)

    def test_set_in_a_recipe(self, tmp_path):
        recipe = load_recipe(
            recipe_file(tmp_path),
            {"distill.lr": 0.5, "prune.goal": "macs", "seed": 4}
            | {
                "prune.keep": 0.5,
                "prune.epochs": 1,
            },
        )
        assert (recipe.distill.lr, recipe.seed, recipe.prune.keep) == (0.5, 4, 0.5)
        assert recipe.distill.epochs == 4  # its neighbours stay

    def test_through_a_value(self):
        with pytest.raises(UsageError, match="'name' is a value, not a table"):
            override({"name": "x"}, "name.first", 3)

    @pytest.mark.parametrize("gallery", [-1, 201, 2.5, True])
    def test_a_gallery_is_a_number_of_samples(self, tmp_path, gallery):
        path = tmp_path / "r.toml"
        path.write_text(RECIPE + f"[report]\ngallery = {str(gallery).lower()}\n")
        with pytest.raises(UsageError, match=r"report\.gallery"):
            load_recipe(str(path))

    def test_a_bad_value_is_an_error_of_the_recipe(self, tmp_path):
        with pytest.raises(UsageError, match=r"distill.lr = 'high'"):
            load_recipe(recipe_file(tmp_path), {"distill.lr": "high"})


class TestSmoke:
    def test_few_epochs_and_few_samples_everywhere(self, tmp_path):
        long = {"teacher.train.epochs": 90, "distill.epochs": 90}
        recipe = load_recipe(recipe_file(tmp_path), {"smoke": True, **long})
        assert recipe.task.limit == 192
        trains = (recipe.teacher.train, recipe.distill, recipe.quantize)
        assert [train.epochs for train in trains] == [4, 4, 1]  # fake quantizers are slow: one is enough
        assert [train.batch_size for train in trains] == [16, 16, 64]
        assert {train.warmup_epochs for train in trains} == {0.0}
        whole = load_recipe(recipe_file(tmp_path), long)  # the rate shrinks with the batch
        assert recipe.distill.lr == pytest.approx(whole.distill.lr * 16 / whole.distill.batch_size)
        assert recipe.gate == load_recipe(recipe_file(tmp_path)).gate
        assert recipe.teacher.model.options == {"width": 32}  # a plug-in's keys survive
        assert recipe.task.kind == "digits"

    def test_a_smaller_limit_stays(self, tmp_path):
        assert load_recipe(recipe_file(tmp_path), {"smoke": True, "task.limit": 50}).task.limit == 50


class TestShipped:
    @pytest.mark.parametrize("name", available("target"))
    def test_target(self, name):
        target = load_target(name)
        assert target.name == name
        assert target.description
        assert target.artifact.channel_multiple == 8  # all share one pruned network
        if target.artifact.format == "tflite":
            assert target.artifact.layout == "NHWC"
            assert target.artifact.activation_signedness == "signed"
        else:
            unsigned = target.processor.isa == "x86_64"
            assert target.artifact.activation_signedness == ("unsigned" if unsigned else "signed")
        assert target.runtime.on_gpu == (name in ("android-gpu", "cuda"))
        if target.runtime.on_gpu:
            assert target.artifact.scheme == "fp16"

    def test_all_of_them_are_there(self):
        assert set(available("target")) == {
            *("host", "x86-onnx", "arm64-onnx", "android-cpu", "android-gpu", "cuda"),
            *("raspberry-pi-4", "raspberry-pi-5"),
        }
        assert set(available("calibration")) == {"random-512", "stratified-512", "per-class-32"}

    @pytest.mark.parametrize("name", ["host", "x86-onnx", "cuda"])
    def test_what_any_machine_can_be_has_no_latency_budget(self, name):
        assert load_target(name).budgets.latency_ms_p90 is None

    @pytest.mark.parametrize("name", ["raspberry-pi-4", "raspberry-pi-5", "android-cpu"])
    def test_devices_have_one_and_cannot_be_taken_for_another_machine(self, name):
        target = load_target(name)
        assert target.budgets.latency_ms_p90 > 0
        assert target.processor.isa == "aarch64"
        assert target.processor.board

    # Cycles a second times lanes times units times 2 (multiply and add), worked out here again.
    @pytest.mark.parametrize(
        ("name", "ghz", "fp32_lanes", "int8_lanes", "units"),
        [
            ("raspberry-pi-4", 1.8, 4, 8, 1),
            ("raspberry-pi-5", 2.4, 4, 16, 2),
            ("android-cpu", 2.4, 4, 16, 2),
        ],
    )
    def test_peak_rates(self, name, ghz, fp32_lanes, int8_lanes, units):
        peak = load_target(name).peak
        assert peak.fp32_gflops == pytest.approx(ghz * fp32_lanes * units * 2)
        assert peak.int8_gops == pytest.approx(ghz * int8_lanes * units * 2)

    def test_only_the_pi_5_has_the_dot_product(self):
        assert "asimddp" in load_target("raspberry-pi-5").processor.features
        assert "asimddp" not in load_target("raspberry-pi-4").processor.features

    @pytest.mark.parametrize("name", available("calibration"))
    def test_calibration(self, name):
        policy = load_calibration(name)
        assert policy.name == name
        assert str(policy.num_samples or policy.per_class) in name

    @pytest.mark.parametrize("name", available("recipe"))
    def test_recipe_and_all_that_it_names(self, name):
        recipe = load_recipe(name)
        assert recipe.name == name
        assert all(load_target(target) for target in recipe.targets)
        assert load_calibration(recipe.calibration)

    @pytest.mark.parametrize("kind", config.SCHEMAS)
    def test_files_end_with_a_line_break_and_hold_no_tabs(self, kind):
        for path in available(kind).values():
            text = path.read_text(encoding="utf-8")
            assert text.endswith("\n") and "\t" not in text
            tomllib.loads(text)


@pytest.mark.parametrize("model", [Recipe, Target, CalibrationPolicy])
def test_every_field_is_described(model):
    def check(schema):
        for name, entry in schema.get("properties", {}).items():
            assert "description" in entry or "$ref" in entry, name
        assert schema.get("additionalProperties") is False or "kind" in schema["properties"]

    schema = model.model_json_schema()
    check(schema)
    for part in schema.get("$defs", {}).values():
        check(part)


def test_a_targets_gate_stands_in_place_of_the_recipes():
    from edgekd.config import GateConfig, SliceConfig, TargetGateConfig

    recipe = GateConfig(
        max_relative_drop=0.02, alpha=0.1, slices={"a": SliceConfig(max_drop_pp=3.0, mandatory=False)}
    )
    own = recipe.on(
        TargetGateConfig(max_drop_pp=0.5, slices={"b": SliceConfig(max_drop_pp=2.0, mandatory=False)})
    )
    assert (own.max_drop_pp, own.max_relative_drop, own.alpha) == (0.5, None, 0.1)
    assert {name: each.max_drop_pp for name, each in own.slices.items()} == {"a": 3.0, "b": 2.0}
    assert recipe.on(TargetGateConfig()) == recipe
    assert TargetGateConfig(max_drop_pp=0.5, min_int8_share=0.5).without_margin() == TargetGateConfig(
        min_int8_share=0.5
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("max_drop_p = 1.0", "p.toml:2: unknown key 'gate.max_drop_p' (did you mean 'max_drop_pp'?)"),
        (
            "[gate.slices.label]\nmin_slices_n = 9",
            "p.toml:3: unknown key 'gate.slices.label.min_slices_n' (did you mean 'min_slice_n'?)",
        ),
        (
            "[gate.budgets.host]\nzzz = 9",
            "p.toml:3: unknown key 'gate.budgets.host.zzz' "
            "(valid keys here: size_bytes, latency_ms_p90, peak_memory_bytes)",
        ),
    ],
)
def test_unknown_keys_of_a_policy(tmp_path, lines, said):
    (tmp_path / "p.toml").write_text(f"[gate]\n{lines}\n")
    with pytest.raises(UsageError) as told:
        config.load_policy(tmp_path / "p.toml")
    assert str(told.value) == f"{tmp_path}/{said}"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("image_fold", "did you mean 'image_folder'?"), ("kdd", "did you mean 'kd'?"), ("xyz", "known: recipe")],
)
def test_unknown_schemas(name, hint):
    with pytest.raises(UsageError, match=f"no schema '{name}'") as told:
        terminal.schema_of(name)
    assert told.value.hint.startswith(hint)
