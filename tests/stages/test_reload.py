"""What chains left in the store, in a process that never saw the networks: the same outputs, bit by bit."""

import json

import pytest
from nets import run_python
from runs import TINY

import edgekd
from edgekd.latency import timing

NETS = """
import torch
from torch import nn

class Joined(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return torch.cat([x, self.inner(x)], dim=1)

def bare(shape, classes):
    grown = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1), nn.ReLU(), Joined(grown), nn.BatchNorm2d(24), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes),
    )
"""

RELOADED = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from edgekd import config, tasks
from edgekd.devices.machine import host_info
from edgekd.pipeline import resolve
from edgekd.plan import make_plan
from edgekd.stages import saved
from edgekd.store import Store
from edgekd.training import predict
recipe, store = sys.argv[1], Store(Path(sys.argv[2]))
sys.path.insert(0, str(Path(recipe).parent))
chosen, targets = resolve(recipe, {}, {}, None, ["host"])
plan = make_plan(chosen, targets, config.load_calibration(chosen.calibration), store, host_info())
task = tasks.read(chosen.task, chosen.seed)
found = {}
for node in plan.nodes:
    entry = store.get(node.stage, node.key)
    if entry is not None and saved.ARCHITECTURE in entry.files:
        net = saved.load(entry, SimpleNamespace(task=task, seed=chosen.seed, plan=plan))
        scores = predict(net, task.splits["test"].inputs, task.input_spec)
        found[node.stage] = bool((scores == saved.test_scores(entry)).all())
print(json.dumps(found))
"""

RESNET = 'kind = "resnet"\nblocks = [2]\nwidth = 32'
BARE = 'kind = "reload_nets:bare"'
BY_CLOCK = 'goal = "latency_ms"\nkeep = 0.8\nremove_blocks = true'
ZEROS = 'goal = "nonzero_weights"\npattern = "2:4"\nignored_layers = ["2"]'
HALVES = 'method = "qat"\nfloat_weights = "fp16"\nfloat_layers = ["stem"]'


@pytest.mark.parametrize(
    ("student", "prune", "quantize"),
    [
        (RESNET, BY_CLOCK, HALVES),
        (RESNET, 'goal = "params"\nkeep = 0.6\nrounds = 2', 'method = "ptq"'),
        (BARE, 'goal = "macs"\nkeep = 0.8', 'method = "qat"'),
        (BARE, ZEROS, 'method = "qat"\nfloat_layers = ["2.inner.2"]'),
    ],
    ids=["clock", "rounds", "joined", "zeros"],
)
def test_every_network_of_a_chain_is_the_same_in_a_fresh_process(
    tmp_path, monkeypatch, student, prune, quantize
):
    monkeypatch.setattr(timing, "FULL_SPEED", 1e9)  # other tests run meanwhile
    monkeypatch.setattr(timing, "MAX_ROUNDS", 3)
    (tmp_path / "reload_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    text = TINY.replace('kind = "mlp"\nhidden = [32, 32]', student).replace(
        'goal = "macs"\nkeep = 0.7', prune
    )
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(text.replace('method = "qat"', quantize))
    edgekd.compress(
        recipe, targets=["host"], until="quantize", store=tmp_path / "store", workdir=tmp_path / "work"
    )
    found = json.loads(run_python(RELOADED, recipe, tmp_path / "store").splitlines()[-1])
    assert found == dict.fromkeys(["network", "distill", "prune", "quantize"], True)
