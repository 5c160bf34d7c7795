"""The stages of a chain for benchmarks that look inside, where `edgekd.compress` gives the report."""

from typing import Any

from edgekd import pipeline
from edgekd.config import load_calibration
from edgekd.devices.machine import host_info
from edgekd.plan import make_plan
from edgekd.progress import Display, chatter_to
from edgekd.running import run_stages
from edgekd.stages.context import Context
from edgekd.store import Store


def stages_until(label: str, recipe: dict[str, Any], **objects: Any) -> Context:
    """The context of a run up to a stage; `objects` as `edgekd.compress` takes them."""
    chosen, targets = pipeline.resolve(recipe, objects, {}, None, None)
    store, policy = Store(Store.default_root()), load_calibration(chosen.calibration)
    known = {role: pipeline.fingerprint(role, value) for role, value in objects.items()}
    plan = make_plan(chosen, targets, policy, store, host_info(), known)
    with store.in_use(), chatter_to(store.root / f"{chosen.name}.log") as screen, Display(screen) as display:
        context = Context(plan, store, display, objects)
        run_stages(context, until=label)
    return context
