"""The chain: recipe and targets in; artifacts, report and verdict out."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from edgekd import config as configs
from edgekd import processes, run_file, tasks
from edgekd.assemble import assemble
from edgekd.config import CalibrationPolicy, Recipe, Target
from edgekd.devices import places
from edgekd.devices.machine import host_info
from edgekd.errors import UsageError
from edgekd.nodes import STAGES, Node, Plan
from edgekd.plan import make_plan
from edgekd.progress import QUIET, Display, chatter_to
from edgekd.report.files import write
from edgekd.report.schema import Report
from edgekd.running import run_stages
from edgekd.stages.context import Context
from edgekd.store import Store, lock_workdir
from edgekd.tracking import Tracker

if TYPE_CHECKING:
    from torch import nn

    from edgekd.types import Task

SECONDS_PER_SAMPLE = 0.002  # a small residual network on two cores


def compress(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    task: Task | None = None,
    targets: Sequence[str | Target] | None = None,
    calibration: CalibrationPolicy | None = None,
    workdir: str | Path | None = None,
    store: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    max_drop_pp: float | None = None,
    until: str | None = None,
    log_to: Sequence[str] = (),
    devices: Mapping[str, str] | None = None,
    show: bool = False,
) -> Report | None:
    """Runs the whole chain and returns the report, verdict included.

    In processes that were started together (torchrun) all train; the first alone does the rest, and
    the others return None.

    Args:
        recipe: name or path of a recipe, its keys as a mapping, or a `Recipe`.
        teacher: a trained module, in place of `[teacher]`.
        student: a module, in place of `[student.model]`; trained where the recipe has `[distill]`.
        task: data, in place of `[task]`.
        targets: names or profiles, in place of the recipe's.
        calibration: a policy, in place of the recipe's.
        workdir: where artifacts and report go; `default_workdir` if left out.
        store: where finished stages are kept; the user's cache if left out.
        overrides: dotted recipe keys to values.
        max_drop_pp: another margin for the gate.
        until: name of the last stage to run; then nothing is judged and None is returned.
        log_to: "tensorboard", "mlflow" or both: where losses and metrics go beside workdir/logs/*.csv.
        devices: target -> name of the device (`edgekd devices`) that its file is judged and timed on.
        show: whether to show progress on the terminal.

    Raises:
        EdgeKDError: anything a user can mend; see `edgekd.errors`.
    """
    objects = {
        k: v for k, v in {"teacher": teacher, "student": student, "task": task}.items() if v is not None
    }
    chosen, profiles = resolve(recipe, objects, overrides or {}, max_drop_pp, targets)
    policy = calibration or configs.load_calibration(chosen.calibration, beside=_folder_of(recipe))
    folder = Path(workdir or default_workdir(chosen.name, chosen.smoke))
    kept = Store(Path(store or Store.default_root()))
    fingerprints = {role: fingerprint(role, value) for role, value in objects.items()}
    processes.join()
    host = processes.tell(host_info())
    found = places.ask(devices or {}, profiles, _warn) if processes.rank() == 0 else None
    plan = make_plan(chosen, profiles, policy, kept, host, fingerprints, processes.tell(found))
    if processes.rank() > 0:
        with kept.in_use(), chatter_to(folder / f"run-{processes.rank()}.log"):
            run_stages(Context(plan, kept, QUIET, objects), until)
        return None
    with lock_workdir(folder), kept.in_use(), ExitStack() as stack:
        with chatter_to(folder / "run.log") as screen:
            tracker = stack.enter_context(Tracker(folder, chosen.model_dump(mode="json"), log_to))
            with Display(screen) if show else QUIET as display:
                context = Context(plan, kept, display, objects, watch=tracker.epochs)
                run_stages(context, until)
        if until is not None:
            return None
        run_file.write(folder, plan, host, kept)
        report = assemble(context, folder, host, run_file.versions())
        write(report, folder)
        tracker.verdict(report)
    return report


def _warn(text: str) -> None:
    print(text, file=sys.stderr)


def default_workdir(recipe: str, smoke: bool) -> Path:
    """`runs/<recipe>`, or `runs/<recipe>-smoke`: a try-out must not stand where a real report stood."""
    return Path("runs") / (f"{recipe}-smoke" if smoke else recipe)


def resolve(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    objects: Mapping[str, Any],
    overrides: Mapping[str, Any],
    max_drop_pp: float | None,
    targets: Sequence[str | Target] | None,
) -> tuple[Recipe, tuple[Target, ...]]:
    """The recipe that runs, overridden and with objects from Python in their places, and its targets.

    Raises:
        UsageError: what the recipe says cannot be run; names file, key and value.
    """
    if isinstance(recipe, Recipe):
        data, where, text = recipe.model_dump(), "recipe", ""
    elif isinstance(recipe, str | Path):
        path = configs.find("recipe", str(recipe))
        (data, text), where = configs.read_toml(path), str(path)
    else:
        data, where, text = copy.deepcopy(dict(recipe)), "recipe", ""
    for role in objects:
        # All that the recipe says of this role stood for another network or other data.
        if role == "task":
            said = data.get("task", {})
            data[role] = {"kind": "object", **{k: said[k] for k in tasks.BESIDE if k in said}}
        else:
            data[role] = {"model": {"kind": "object"}}
    for key, value in overrides.items():
        configs.override(data, key, value)
    if targets is not None:
        names = [t.name if isinstance(t, Target) else t for t in targets]
        asked = data.get("required_targets")
        data["targets"] = names
        if asked is None or isinstance(asked, list | tuple):
            data["required_targets"] = [t for t in asked or () if t in names] or names
    if max_drop_pp is not None:
        configs.override(data, "gate.max_drop_pp", float(max_drop_pp))
        configs.override(data, "gate.why", "")  # the reason was given for the recipe's own margin
    chosen = configs.build(Recipe, data, where, text)
    _refuse_absent_objects(chosen, objects, where)
    chosen, profiles = _load_targets(chosen, targets or chosen.targets, _folder_of(recipe))
    if max_drop_pp is not None:
        profiles = tuple(p.model_copy(update={"gate": p.gate.without_margin()}) for p in profiles)
    return (chosen.smoked() if chosen.smoke else chosen), profiles


def _folder_of(recipe: Any) -> Path | None:
    """The folder that a recipe's file lies in: its targets and calibration policies may lie beside it."""
    return Path(recipe).parent if isinstance(recipe, str | Path) and str(recipe).endswith(".toml") else None


def _refuse_absent_objects(recipe: Recipe, objects: Mapping[str, Any], where: str) -> None:
    kinds = {"task": recipe.task.kind}
    for role, section in (("teacher", recipe.teacher), ("student", recipe.student)):
        if section is not None and section.model is not None:
            kinds[role] = section.model.kind
    for role, kind in kinds.items():
        if kind == "object" and role not in objects:
            raise UsageError(
                f"{where}: {role} of kind 'object' is one that is passed from Python, and none was",
                hint=f"edgekd.compress(..., {role}=...)",
            )


def _load_targets(
    recipe: Recipe, targets: Sequence[str | Target], beside: Path | None
) -> tuple[Recipe, tuple[Target, ...]]:
    """The profiles, and the recipe with their names where it had given paths."""
    profiles = tuple(t if isinstance(t, Target) else configs.load_target(t, beside=beside) for t in targets)
    names = [p.name for p in profiles]
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise UsageError(f"two targets are called {twice!r}", hint="name each target once")
    for profile in profiles:
        try:
            recipe.gate.on(profile.gate)
        except ValidationError as error:
            raise UsageError(f"target {profile.name}: gate: {error.errors()[0]['msg']}") from None
    called = dict(zip(recipe.targets, names, strict=True))
    required = tuple(called[t] for t in recipe.required_targets)
    return recipe.model_copy(update={"targets": tuple(names), "required_targets": required}), profiles


def fingerprint(role: str, value: Any) -> str:
    """Identity of an object passed from Python: its classes, their source, and its content."""
    import hashlib

    digest = hashlib.sha256()
    if role == "task":
        for name in sorted(value.splits):
            digest.update(tasks.split_sha256(value.splits[name]).encode())
            for column, texts in sorted(value.splits[name].columns.items()):
                digest.update(repr((name, column, list(texts))).encode())
        said = (value.name, value.class_names, value.metrics, value.input_spec)
        beside = (value.vector, value.table, sorted(value.files.items()))
        digest.update(repr((*said, dict(value.modalities), dict(value.heads), beside)).encode())
    else:
        for kind in sorted({type(module) for module in value.modules()}, key=str):
            digest.update(f"{kind.__module__}.{kind.__qualname__} {_source_of(kind)}".encode())
        digest.update(repr(value).encode())
        for name, tensor in sorted(value.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _source_of(kind: type) -> str:
    import inspect

    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""  # a class made at a prompt has no source; its tensors still tell it apart


def rebuild(workdir: Path) -> Report:
    """Writes report.{json,md,html} of a finished run again, from the store.

    Raises:
        UsageError: `workdir` holds no finished run, or the store no longer has its results.
    """
    plan, host, versions, store = run_file.read(workdir)
    context = Context(plan, store, QUIET)
    with lock_workdir(workdir), store.in_use():
        for node in plan.nodes:
            entry = store.get(node.stage, node.key)
            if entry is None:
                raise UsageError(
                    f"{workdir}: the store no longer has the result of {node.label!r}",
                    hint=f"run it again: edgekd run {plan.recipe.name} --workdir {workdir}",
                )
            context.entries[node.label] = entry
        report = assemble(context, workdir, host, versions)
        write(report, workdir)
    return report


def plan_of(
    recipe: str,
    overrides: Mapping[str, Any],
    targets: Sequence[str] | None,
    max_drop_pp: float | None,
    devices: Mapping[str, str],
) -> tuple[Plan, Store]:
    """The plan of a run that is not started, and the store that it would use."""
    chosen, profiles = resolve(recipe, {}, overrides, max_drop_pp, targets)
    store = Store(Store.default_root())
    policy = configs.load_calibration(chosen.calibration, beside=_folder_of(recipe))
    found = places.ask(devices, profiles, _warn)
    return make_plan(chosen, profiles, policy, store, host_info(), places=found), store


def describe(plan: Plan, store: Store) -> list[tuple[Node, bool, float | None, int]]:
    """(node, cached, estimated seconds or None, estimated bytes) of every stage, for `--dry-run`."""
    data = store.get("data", plan.node("data").key)
    # Before the data was read once, nobody has counted it.
    num_train = data.result["splits"]["train"]["n"] if data else plan.recipe.task.limit
    rows = []
    for node in plan.nodes:
        cached = store.get(node.stage, node.key) is not None
        rows.append((node, cached, 0.0 if cached else estimate_seconds(node, num_train), _disk(node)))
    return rows


def estimate_seconds(node: Node, num_train: int | None) -> float | None:
    """A rough guess: the stage's fixed cost, and each sample of each epoch of training, if they are known."""
    epochs = sum(float(settings["epochs"]) for settings in node.trainings)
    if epochs and num_train is None:
        return None
    return STAGES[node.stage].seconds + epochs * (num_train or 0) * SECONDS_PER_SAMPLE


def _disk(node: Node) -> int:
    return {"data": 200_000_000, "outputs": 20_000_000}.get(node.stage, 4_000_000)


def free_bytes(folder: Path) -> int:
    """Bytes free where a folder is or would be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
