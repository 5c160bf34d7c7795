"""Two processes under torchrun, each running the same training: what they agree on, and what they share."""

import json
import subprocess
import sys

import numpy as np
import pytest
from runs import ROOT

SCRIPT = """
import json, math, os, sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.nn.functional import cross_entropy
from nets import TABLE, quiet, split, train_config
from edgekd import checkpoints, processes
from edgekd.batches import TrainingSet
from edgekd.config import LossConfig
from edgekd.errors import TrainingError
from edgekd.losses import Shapes
from edgekd.objective import Objective
from edgekd.training import fit

rank, folder = processes.rank(), Path(sys.argv[1])
rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
teacher = np.random.default_rng(1).normal(size=(1, 40, 5)).astype(np.float16)

def net(dropout=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Dropout(dropout), nn.Linear(7, 5))

def train(name, terms, module=None, wrong=None, weighting="fixed", **more):
    module, where = module or net(), folder / name
    where.mkdir(exist_ok=True)
    torch.manual_seed(2)
    shapes = Shapes((5,), (5,), {{}}, {{}}, 40, 0)
    objective = Objective([LossConfig.model_validate(t) for t in terms], weighting, shapes)
    before = {{k: v.clone() for k, v in objective.state_dict().items()}}
    if wrong is not None:
        objective.functions[0] = wrong
    data = TrainingSet(split(rows), TABLE, teacher, 1, 3, val=split(rows[:20]))
    config = train_config(**{{"batch_size": 8 // processes.count(), "epochs": 3, **more}})
    try:
        history = fit(module, data, objective, config, what="s", display=quiet(), checkpoint=where)
    except TrainingError as error:
        return {{"error": str(error)}}
    return {{
        "history": history,
        "weights": [p.flatten().tolist() for p in module.parameters()],
        "learned": [p.flatten().tolist() for p in objective.parameters()],
        "scales": [v.item() for k, v in objective.state_dict().items() if k.endswith("scale")],
        "norms": objective.norms.tolist() if weighting == "gradient_norm" else [],
        "moved": {{k: int((before[k] != v).reshape(len(v), -1).any(dim=1).sum()) if v.dim() else 0
                  for k, v in objective.state_dict().items()}},
    }}

slowly = checkpoints.save_tensors
def save_tensors(tensors, path):  # a large network on a slow disk
    time.sleep(0.5)
    slowly(tensors, path)
checkpoints.save_tensors = save_tensors

calls = 0
def nan_on_one(batch, *_):
    global calls
    calls += 1
    bad = rank == processes.count() - 1 and calls == 7
    return cross_entropy(batch.student, batch.labels) * (math.nan if bad else 1.0)

CE = {{"kind": "cross_entropy"}}
RAMP = {{"kind": "cosine", "projection": True, "weight": {{"start": 0.0, "end": 1.0}}}}
found = {{
    "learned": train("learned", [{{"kind": "mse", "projection": True, "weight": 0.1}}, RAMP]),
    "crd": train("crd", [{{"kind": "crd", "width": 4, "negatives": 6}}]),
    "patience": train("patience", [CE], patience=1, ema_decay=0.5),
    "once": train("once", [CE], patience=1, epochs=1),
    "balanced": train("balanced", [CE, {{"kind": "huber"}}], weighting="gradient_norm"),
    "calm": train("calm", [CE, {{"kind": "huber"}}]),
    "attacked": train("attacked", [CE, {{"kind": "huber"}}], adversarial={{"epsilon": 0.1, "steps": 2}}),
}}
found["nan"] = train("nan", [CE], wrong=nan_on_one, on_nan="halve_lr")
calls = 0
found["stop"] = train("stop", [CE], wrong=nan_on_one)
drawn = []
train("drawn", [CE], wrong=lambda batch, *_: (drawn.append(torch.rand(()).item()),
                                              cross_entropy(batch.student, batch.labels))[1])
found["drawn"] = drawn
found["said"] = processes.tell({{"rank": rank}})
found["count"] = processes.count()
(folder / f"rank-{{rank}}.json").write_text(json.dumps(found))
"""


def outcome(folder, processes):
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(SCRIPT.format(tests=str(ROOT / "tests"), root=str(ROOT)))
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank-{i}.json").read_text()) for i in range(processes)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    base = tmp_path_factory.mktemp("processes")
    return outcome(base / "one", 1)[0], outcome(base / "two", 2)


def test_all_end_with_the_same_weights(found):
    _, (first, second) = found
    for name in ("learned", "crd", "patience", "once", "balanced", "attacked", "nan"):
        assert first[name]["norms"] == second[name]["norms"]
        assert first[name]["weights"] == second[name]["weights"]
        assert first[name]["learned"] == second[name]["learned"]
        assert first[name]["history"] == second[name]["history"]


@pytest.mark.parametrize("name", ["learned", "patience"])
def test_they_are_those_of_one_process_with_the_doubled_batch(found, name):
    """Also of what the losses learn, and where one of them comes in later."""
    one, (first, _) = found
    for kind in ("weights", "learned"):
        for a, b in zip(one[name][kind], first[name][kind], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(one[name]["history"]) == len(first[name]["history"])


def test_a_memory_is_kept_by_all(found):
    """Each sample was seen once an epoch: all rows have moved, whichever process has seen it."""
    one, (first, second) = found
    rows = {k: v for k, v in one["crd"]["moved"].items() if k.endswith("memory")}
    assert rows == {"states.0.student_memory": 40, "states.0.teacher_memory": 40}
    for rank in (first, second):
        assert {k: v for k, v in rank["crd"]["moved"].items() if k.endswith("memory")} == rows
    assert first["crd"]["scales"] == second["crd"]["scales"] != []


def test_attacked_samples_teach_the_same_in_two_processes(found):
    """Random starts differ between processes, and what is learnt from them by little beside the attack."""
    one, (first, _) = found
    calm, alone, shared = (
        np.array([epoch["huber"] for epoch in each["history"]])
        for each in (first["calm"], one["attacked"], first["attacked"])
    )
    assert (shared > calm).all()
    assert abs(shared - alone).max() < (shared - calm).min() / 3


def test_a_nan_in_one_is_a_nan_in_all(found):
    one, (first, second) = found
    assert one["nan"]["history"][-1]["lr"] == pytest.approx(first["nan"]["history"][-1]["lr"])
    assert "the loss is nan at epoch 2, step 2" in first["stop"]["error"]
    assert first["stop"]["error"] == second["stop"]["error"]


def test_each_draws_its_own_and_the_first_is_heard_by_all(found):
    one, (first, second) = found
    assert not set(first["drawn"]) & set(second["drawn"]) and first["drawn"] == one["drawn"]
    assert first["said"] == second["said"] == {"rank": 0} and (one["count"], first["count"]) == (1, 2)
