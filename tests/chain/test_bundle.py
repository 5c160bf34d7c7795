"""A finished run as a signed bundle: the same bytes each time, and every change of them told."""

import hashlib
import io
import json
import shutil
import tomllib
import zipfile

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from huggingface_hub import ModelCard

from edgekd import config
from edgekd.bundle import archive, pack, signing
from edgekd.bundle.verify import manifest_text, verify
from edgekd.config import Recipe
from edgekd.errors import EvidenceError, UsageError


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder, key = tmp_path_factory.mktemp("keys"), Ed25519PrivateKey.generate()
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "pub.pem").write_bytes(public)
    return folder / "key.pem", folder / "pub.pem"


@pytest.fixture(scope="module")
def release(finished, keys, tmp_path_factory):
    """The bundle of a finished run, signed."""
    path = tmp_path_factory.mktemp("release") / "release.zip"
    pack.bundle(
        finished.folder / "runs/tiny-smoke", path, license_="Apache-2.0", signer=signing.private_key(keys[0])
    )
    return path


def contents(path):
    with zipfile.ZipFile(path) as found:
        return {name: found.read(name) for name in found.namelist()}


def sign_again(files, keys):
    """What somebody with the key can do: list and sign files that were changed."""
    digests = {
        n: hashlib.sha256(c).hexdigest() for n, c in files.items() if n not in ("manifest.json", "model.sig")
    }
    sizes = {n: len(files[n]) for n in digests}
    files["manifest.json"] = manifest_text("tiny", "Apache-2.0", digests, sizes).encode()
    digests["manifest.json"] = hashlib.sha256(files["manifest.json"]).hexdigest()
    files["model.sig"] = signing.sign(signing.statement("tiny", digests), signing.private_key(keys[0]))
    return files


def test_the_command_and_its_answer(finished, keys, release, tmp_path):
    report = finished.report()
    again = finished.light(
        *(
            "bundle",
            "runs/tiny-smoke",
            "-o",
            tmp_path / "r.zip",
            "--license",
            "Apache-2.0",
            "--key",
            keys[0],
            "--json",
        )
    )
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "r.zip").read_bytes() == release.read_bytes()
    found = finished.light("verify", release, "--key", keys[1], "--json")
    assert found.returncode == report["verdict"]["exit_code"], found.stderr
    told = json.loads(found.stdout)
    assert told["verdict"]["status"] == report["verdict"]["status"] and told["license"] == "Apache-2.0"
    assert told["key_id"] == json.loads(again.stdout)["key_id"] and told["num_files"] == len(
        contents(release)
    )
    shown = finished.light("verify", release, "--key", keys[1])
    assert "signed by key" in shown.stdout and shown.returncode == found.returncode


def test_it_holds_all_that_the_verdict_rests_on(finished, release):
    files, report = contents(release), finished.report()
    named = {f["path"]: f["sha256"] for a in report["artifacts"] for f in a["files"]}
    named |= {m["raw_path"]: m["raw_sha256"] for m in report["measurements"]}
    for each in (
        report["teacher"],
        *report["stages"],
        *report["artifacts"],
        {"predictions": report["judgement_log"]},
    ):
        named[each["predictions"]["path"]] = each["predictions"]["sha256"]
    assert len(named) > 12
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in named} == named
    assert {"report.json", "report.html", "report.md", "README.md", "environment.json"} <= files.keys()
    assert (
        json.loads(files["environment.json"])["versions"]["onnxruntime"] == report["versions"]["onnxruntime"]
    )
    recipe = config.build(Recipe, tomllib.loads(files["recipe.toml"].decode()), "recipe.toml")
    assert recipe.model_dump(mode="json") == report["recipe"]
    for name in ("targets/host.toml", "targets/x86-onnx.toml"):
        target = config.build(config.Target, tomllib.loads(files[name].decode()), name)
        assert target == config.load_target(target.name)
    policy = tomllib.loads(files[f"calibration/{recipe.calibration}.toml"].decode())
    assert config.build(config.CalibrationPolicy, policy, "") == config.load_calibration(recipe.calibration)
    # Whose samples they are and where they lay is nobody's business.
    assert not any(name.startswith("inputs") for name in files)
    assert not any(str(finished.folder).encode() in content for content in files.values())


def test_inputs_go_along_where_asked(finished, tmp_path):
    report = finished.report()
    pack.bundle(finished.folder / "runs/tiny-smoke", tmp_path / "r.zip", license_="MIT", inputs=True)
    with np.load(io.BytesIO(contents(tmp_path / "r.zip")["inputs/test.npz"])) as found:
        ids, inputs = found["sample_ids"], found["inputs"]
    with np.load(finished.folder / "runs/tiny-smoke" / report["teacher"]["predictions"]["path"]) as found:
        assert found["sample_ids"].tolist() == ids.tolist()
    from sklearn.datasets import load_digits

    shown = {image.astype(np.uint8).tobytes() for image in load_digits().images}
    assert len(inputs) == report["data"]["splits"]["test"]["n"]
    assert all(np.asarray(one).astype(np.uint8).tobytes() in shown for one in inputs)


def test_the_card_is_one_that_the_hub_reads(finished, release):
    report = finished.report()
    card = ModelCard(contents(release)["README.md"].decode())
    data = card.data
    assert (data.license, data.pipeline_tag) == ("apache-2.0", "image-classification")
    values = {a["target"]: a["metrics"][0]["value"] for a in report["artifacts"] if a["role"] == "target"}
    assert {r.metric_name.rpartition(" ")[2]: r.metric_value for r in data.eval_results} == values
    assert report["verdict"]["status"] in card.text and "x86-onnx.onnx" in card.text


def test_each_file_in_turn_with_one_bit_flipped(release, keys, tmp_path):
    """Packed again as it should be, so that no checksum of the archive tells."""
    good, key = contents(release), signing.public_key(keys[1])
    rng = np.random.default_rng(5)
    for name, content in good.items():
        spoiled = bytearray(content)
        spoiled[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        archive.write(tmp_path / "bad.zip", {**good, name: bytes(spoiled)})
        with pytest.raises(EvidenceError) as told:
            verify(tmp_path / "bad.zip", key)
        assert name in str(told.value), (name, str(told.value))


def test_files_that_are_gone_or_were_added(release, keys, tmp_path):
    good, key = contents(release), signing.public_key(keys[1])
    for name in good:
        archive.write(tmp_path / "bad.zip", {n: c for n, c in good.items() if n != name})
        with pytest.raises(
            EvidenceError, match="nobody signed" if name == "model.sig" else name.replace(".", r"\.")
        ):
            verify(tmp_path / "bad.zip", key)
    archive.write(tmp_path / "bad.zip", {**good, "more.txt": b""})
    with pytest.raises(EvidenceError, match=r"more\.txt: not signed"):
        verify(tmp_path / "bad.zip", key)


def edited(files, change):
    report = json.loads(files["report.json"])
    change(report)
    return {**files, "report.json": json.dumps(report).encode()}


def first(report, what, **where):
    return next(x for x in report[what] if all(x[key] == value for key, value in where.items()))


def host(report):
    return first(report, "artifacts", target="host")


# What somebody with the key could write into a report, and what is told.
LIES = {
    "a better verdict": (lambda r: r["verdict"].update(status="PASS", exit_code=0), "verdict.exit_code is 0"),
    "a smaller drop in a check": (
        lambda r: r["verdict"]["checks"][0].update(observed=-50.0),
        "observed is -50",
    ),
    "a check left out": (lambda r: r["verdict"]["checks"].pop(), "verdict.checks has 13 entries"),
    "a better accuracy": (lambda r: host(r)["metrics"][0].update(value=99.99), r"value is 99\.99"),
    "a smaller drop": (lambda r: host(r)["metrics"][0].update(drop=0.0), r"metrics\[0\]\.drop is 0"),
    "a wider margin shown": (lambda r: host(r)["metrics"][0].update(margin=99.0), r"margin is 99"),
    "an accuracy of another name": (lambda r: host(r)["metrics"][0].update(name="Accuracy"), "'Accuracy'"),
    "two accuracies": (lambda r: host(r)["metrics"].append(host(r)["metrics"][0]), "metrics has 2 entries"),
    "a worse teacher": (lambda r: r["teacher"]["metrics"][0].update(value=1.0), "teacher.metrics.* is 1"),
    "a better stage": (lambda r: r["stages"][-1]["metrics"][0].update(value=99.99), r"value is 99\.99"),
    "a stage without predictions": (
        lambda r: r["stages"][-1].update(predictions=None),
        "no stored predictions",
    ),
    "more agreement": (lambda r: host(r).update(agreement=1.0), "agreement is 1"),
    "a smaller file": (
        lambda r: (host(r).update(size_bytes=10), host(r)["files"][0].update(size_bytes=10)),
        "size_bytes is 10",
    ),
    "a faster file": (lambda r: r["measurements"][0].update(median_ms=1e-6), "median_ms is 1e-06"),
    "more runs": (lambda r: r["measurements"][0].update(num_runs=10**6), "num_runs is 1000000"),
    "a shorter tail": (
        lambda r: r["measurements"][0]["distribution"].update(above=0, below=0, counts=[1] * 40),
        "distribution",
    ),
    "classes that lost nothing": (lambda r: host(r).update(class_drops=None), "class_drops"),
    "a reason of its own": (lambda r: host(r).update(roofline_absent="too fast to tell"), "roofline_absent"),
    "no flips": (lambda r: host(r).update(flips=None), "flips"),
    "a slice that held": (lambda r: host(r)["slices"][0].update(n=10_000), "n is 10000"),
    "more test samples": (lambda r: r["data"]["splits"]["test"].update(n=10**6), "n is 1000000"),
    "a first judgement": (lambda r: r.update(judgements=7), "judgements is 7"),
    "no log": (lambda r: r.update(judgement_log=None), "its last judgement is not the one"),
    "another file": (lambda r: host(r)["files"][0].update(sha256="0" * 64), "not the file that"),
    "no policy": (lambda r: r["gate"].pop("policy"), "gate.policy is None"),
    "a looser policy": (lambda r: r["gate"]["policy"].update(max_drop_pp=50.0), "max_drop_pp is 50"),
    "a looser recipe": (lambda r: r["recipe"]["gate"].update(max_drop_pp=50.0), "its last judgement is not"),
    "no budgets": (lambda r: r["gate"]["budgets"].update(host={}), "last judgement is not"),
    "a looser target": (
        lambda r: r["gate"]["targets"]["host"].update(max_drop_pp=50.0),
        "last judgement is not",
    ),
    "a target that need not pass": (
        lambda r: first(r, "artifacts", target="x86-onnx").update(required=False),
        "last judgement is not",
    ),
    "a target left out": (lambda r: r["artifacts"].remove(host(r)), "names no artifact"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_signed_lie_is_one_still(release, keys, tmp_path, case):
    change, said = LIES[case]
    archive.write(tmp_path / "bad.zip", sign_again(edited(contents(release), change), keys))
    with pytest.raises(EvidenceError, match=said):
        verify(tmp_path / "bad.zip", signing.public_key(keys[1]))


def test_other_predictions_under_a_new_signature(release, keys, tmp_path):
    """Whoever has the key can sign other predictions, but not with the verdict of these."""
    files = contents(release)
    report = json.loads(files["report.json"])
    (mine,) = [a for a in report["artifacts"] if a["target"] == "x86-onnx"]
    with np.load(io.BytesIO(files[mine["predictions"]["path"]])) as found:
        parts = {n: found[n] for n in found.files}
    parts["scores"] = np.roll(parts["scores"], 1, axis=1)
    packed = io.BytesIO()
    np.savez_compressed(packed, **parts)
    files[mine["predictions"]["path"]] = packed.getvalue()

    def change(report):
        of = next(a for a in report["artifacts"] if a["target"] == "x86-onnx")["predictions"]
        of["sha256"] = hashlib.sha256(packed.getvalue()).hexdigest()

    archive.write(tmp_path / "bad.zip", sign_again(edited(files, change), keys))
    with pytest.raises(EvidenceError, match=r"agreement is .* the evidence says"):
        verify(tmp_path / "bad.zip", signing.public_key(keys[1]))


def test_a_key_that_stands_twice_is_no_report(release, keys, tmp_path):
    files = contents(release)
    text = files["report.json"].decode()
    assert text.startswith("{\n  ")
    files["report.json"] = text.replace("{", '{"seed": 99,', 1).encode()
    archive.write(tmp_path / "bad.zip", sign_again(files, keys))
    with pytest.raises(EvidenceError, match="key 'seed' stands there twice"):
        verify(tmp_path / "bad.zip", signing.public_key(keys[1]))


@pytest.mark.parametrize(
    "name",
    [
        *("report.html", "report.md", "report.junit.xml", "README.md", "environment.json", "recipe.toml"),
        *("targets/host.toml", "calibration/stratified-512.toml"),
    ],
)
def test_what_is_made_from_the_report_says_what_it_says(release, keys, tmp_path, name):
    good = contents(release)
    assert name in good
    for change in (lambda c: c + b"\n", lambda c: None):
        files = {**good, name: change(good[name])}
        archive.write(
            tmp_path / "bad.zip", sign_again({n: c for n, c in files.items() if c is not None}, keys)
        )
        with pytest.raises(EvidenceError, match=name.replace(".", r"\.")):
            verify(tmp_path / "bad.zip", signing.public_key(keys[1]))


def test_files_that_no_report_names_do_not_ship(release, keys, tmp_path):
    files = {**contents(release), "artifacts/evil.tflite": b"TFL3"}
    archive.write(tmp_path / "bad.zip", sign_again(files, keys))
    with pytest.raises(EvidenceError, match=r"artifacts/evil\.tflite: no report names it"):
        verify(tmp_path / "bad.zip", signing.public_key(keys[1]))


def test_one_that_nobody_signed(finished, keys, release, tmp_path):
    pack.bundle(finished.folder / "runs/tiny-smoke", tmp_path / "r.zip", license_="licenseref-A OR gpl-2.0+")
    with pytest.raises(EvidenceError, match="nobody signed it"):
        verify(tmp_path / "r.zip", signing.public_key(keys[1]))
    assert verify(tmp_path / "r.zip", None).key_id is None
    files = contents(tmp_path / "r.zip")
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.license_name) == ("other", "licenseref-a-or-gpl-2.0-or-later")
    assert "License of the files: LicenseRef-A OR GPL-2.0+." in card.text
    assert json.loads(files["manifest.json"])["license"] == "LicenseRef-A OR GPL-2.0+"
    files["report.md"] += b" "
    archive.write(tmp_path / "bad.zip", files)
    with pytest.raises(EvidenceError, match=r"report\.md: changed"):
        verify(tmp_path / "bad.zip", None)
    with pytest.raises(EvidenceError, match="somebody signed it"):
        verify(release, None)


def test_a_folder_that_was_changed_is_not_packed(finished, tmp_path):
    folder = shutil.copytree(finished.folder / "runs/tiny-smoke", tmp_path / "run")
    report = json.loads((folder / "report.json").read_text())
    report["verdict"].update(status="PASS", exit_code=0)
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(EvidenceError, match="exit_code is 0"):
        pack.bundle(folder, tmp_path / "r.zip", license_="MIT")
    (folder / "report.json").write_text(json.dumps(finished.report()))
    (folder / "report.html").write_text("<h1>PASS</h1>")  # drawn again from report.json
    pack.bundle(folder, tmp_path / "r.zip", license_="MIT")
    assert contents(tmp_path / "r.zip")["report.html"] != b"<h1>PASS</h1>"
    (tmp_path / "r.zip").unlink()
    (folder / host(report)["files"][0]["path"]).unlink()
    with pytest.raises(UsageError, match=r"host\.tflite: missing"):
        pack.bundle(folder, tmp_path / "r.zip", license_="MIT")
    assert not [p for p in tmp_path.iterdir() if "r.zip" in p.name]


def test_mistakes_are_told_in_one_line(finished, keys, release, tmp_path):
    for command, code, said in (
        (("verify", release), 2, "--key pub.pem, or --unsigned"),
        (("verify", release, "--key", keys[1], "--unsigned"), 2, "--key pub.pem, or --unsigned"),
        (("verify", release, "--key", keys[0]), 2, "no public key"),
        (("verify", tmp_path / "none.zip", "--key", keys[1]), 2, "none.zip: no such file"),
        (("verify", tmp_path / "none.zip"), 2, "none.zip: no such file"),
        (("verify", tmp_path / "none.zip", "--key", tmp_path / "none.pem"), 2, "none.zip: no such file"),
        (("verify", finished.folder / "recipe.toml", "--key", keys[1]), 4, "no sound archive"),
        (("bundle", tmp_path, "-o", tmp_path / "r.zip", "--license", "MIT"), 2, "holds no finished run"),
        (("bundle", "runs/tiny-smoke", "-o", tmp_path, "--license", "MIT"), 2, "no plain file"),
        (
            ("bundle", "runs/tiny-smoke", "-o", tmp_path / "out/r.zip", "--license", "MIT"),
            2,
            f"{tmp_path / 'out'}: no such folder",
        ),
        (("bundle", "runs/tiny-smoke", "-o", release, "--license", "MIT"), 2, "is there already (--force"),
    ):
        found = finished.light(*command)
        assert (found.returncode, len(found.stderr.strip().splitlines())) == (code, 1), found.stderr
        assert said in found.stderr


def test_an_archive_that_is_there_is_replaced_where_asked(finished, tmp_path):
    command = ("bundle", "runs/tiny-smoke", "-o", tmp_path / "r.zip", "--license")
    assert finished.light(*command, "MIT").returncode == 0
    assert finished.light(*command, "0BSD").returncode == 2
    assert verify(tmp_path / "r.zip", None).license_ == "MIT"
    assert finished.light(*command, "0BSD", "--force").returncode == 0
    assert verify(tmp_path / "r.zip", None).license_ == "0BSD"
    # What is no bundle is kept: it was meant otherwise.
    (tmp_path / "r.zip").write_bytes(b"old")
    refused = finished.light(*command, "MIT", "--force")
    assert refused.returncode == 2 and "no bundle, and not replaced" in refused.stderr
    assert (tmp_path / "r.zip").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Apache 2.0", "did you mean 'apache-2.0'?"),
        ("MIT License", "did you mean 'mit'?"),
        ("proprietary", "LicenseRef-my-terms"),
        ("MIT AND", "did you mean 'mit'?"),
        ("openrail", "LicenseRef-my-terms"),  # of the hub, not of SPDX
        (" ", "LicenseRef-my-terms"),
        ("x\ny", "LicenseRef-my-terms"),
    ],
)
def test_a_license_is_an_spdx_expression(tmp_path, text, hint):
    with pytest.raises(UsageError, match="is no SPDX expression") as told:
        pack.bundle(tmp_path, tmp_path / "r.zip", license_=text)
    assert hint in told.value.hint and "\n" not in str(told.value)
