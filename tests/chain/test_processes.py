"""Two processes that train together do what one does with the doubled batch."""

import json
import subprocess
import sys

import pytest
from runs import TINY, Commands

FULL = TINY.replace("smoke = true\n", "").replace('kind = "digits"\n', 'kind = "digits"\nlimit = 600\n')


def results(commands):
    found = {}
    for path in commands.store.glob("*-*/result.json"):
        record = json.loads(path.read_text())
        if "history" in record["result"]:
            found[record["stage"]] = record["result"]
    return found


def together(commands, recipe, *arguments, program=("-m", "edgekd")):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    return subprocess.run(
        [*torchrun, *program, "run", str(recipe), *arguments],
        cwd=commands.folder,
        env=commands.environment(),
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )


def test_two_processes_are_one_with_the_doubled_batch(tmp_path):
    """Without batch norms the losses are the same but for rounding, which pruning and QAT let grow."""
    one, two = (Commands(tmp_path / name, tmp_path / name / "store") for name in ("one", "two"))
    for commands in (one, two):
        commands.folder.mkdir()
    hint = '[distill]\nlosses = [{ kind = "cross_entropy" }, { kind = "cosine", projection = true }]\n'
    hint += 'weighting = "gradient_norm"\n'
    text = FULL.replace("[distill]\n", hint).replace('method = "qat"', 'method = "qat"\nbatch_size = 32')
    for section in ("[teacher.train]", "[distill]", "[prune]", 'method = "qat"'):  # bf16 rounds by the batch
        text = text.replace(f"{section}\n", f'{section}\nprecision = "32-true"\n')
    doubled = text.replace("batch_size = 32", "batch_size = 64").replace("batch_size = 16", "batch_size = 32")
    done = one("run", one.write(doubled), "--until", "quantize")
    assert done.returncode == 0, done.stderr
    done = together(two, two.write(text), "--until", "quantize")
    assert done.returncode == 0, done.stderr
    expected, found = results(one), results(two)
    assert set(found) == set(expected) == {"network", "distill", "prune", "quantize"}
    for stage in ("network", "distill"):
        for epoch, reference in zip(found[stage]["history"], expected[stage]["history"], strict=True):
            assert epoch == pytest.approx(reference, rel=1e-3)
    for stage in expected:  # of 60 samples on val, so that one is 1.7 points
        assert found[stage]["val_accuracy"] == pytest.approx(expected[stage]["val_accuracy"], abs=5.1)
    # The second has kept a log of its own and nothing else.
    assert (two.folder / "runs/tiny/run-1.log").is_file()
    assert "done in" in done.stdout and done.stdout.count("[") == done.stdout.count("]")


# A network of whose second layer nothing is left in 8 bits, on a computer where every turn of a clock counts.
SPOILED = """
import runpy
from edgekd.latency import timing
from edgekd.quantize import qat
timing.FULL_SPEED, timing.MAX_ROUNDS, real = 1e9, 3, qat.prepare
def prepare(*arguments):
    net = real(*arguments)
    net.body.get_submodule("__nncf_hooks.pre_hooks.body/2/linear/0__1.0").scale.data.mul_(400)
    return net
qat.prepare = prepare
runpy.run_module("edgekd", run_name="__main__")
"""


@pytest.mark.parametrize("method", ["ptq", "qat"])
def test_what_goes_back_to_float_is_found_by_the_first_process(edgekd, method):
    """With PTQ it alone is at work, with QAT both have trained."""
    settings = f'method = "{method}"\nlr = 1e-9\nmax_val_drop_pp = 10.0'
    text = FULL.replace('method = "qat"', settings)
    script = edgekd.folder / "spoiled.py"
    script.write_text(SPOILED)
    done = together(edgekd, edgekd.write(text), "--until", "quantize", program=(str(script),))
    assert done.returncode == 0, done.stderr
    (found,) = edgekd.store.glob("quantize-*/result.json")
    result = json.loads(found.read_text())["result"]
    assert "body.2" in result["float_layers"]
    assert {clock.split()[0] for clock in result["float_costs_ms"]} == {"litert", "onnxruntime"}


def test_a_mistake_ends_both(edgekd):
    recipe = edgekd.write(FULL.replace("hidden = [32, 32]", "hiden = [32, 32]"))
    done = together(edgekd, recipe)
    assert done.returncode != 0 and "hiden" in done.stderr
