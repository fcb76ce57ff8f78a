"""Checks several GPUs: equal weights and bits, one GPU's losses, throughput, a dying worker."""

from collections.abc import Sequence

from benchmarks.gpu_check import exactness
from benchmarks.gpu_check.children import Case, Outcome
from benchmarks.gpu_check.plan import TRAININGS, Plan
from benchmarks.gpu_check.report import Section

_TOLERANCE = 1e-3  # relative, of the losses on all devices to the losses on one
_IMAGES_PER_DEVICE = 256
_LOST_WORKER_SECONDS = 30  # for the other workers to end; after that, launch.local kills them


def fill(section: Section, plan: Plan, kinds: Sequence[str], nets: Sequence[str]) -> None:
    """Compares all devices with one, unless the machine has a single GPU."""
    if plan.gpus == 1:
        section.say("This machine has one GPU.")
        return
    batches = [(net, size * plan.devices) for net in nets for size in plan.batch_sizes[-2:]]
    on_all, on_one = (
        plan.run(
            [_steps_case(plan, net, devices) for net in nets]
            + [plan.rate_case(net, batch_size, devices=devices) for net, batch_size in batches],
            environment,
        )
        for devices, environment in ((plan.devices, {}), (1, None))
    )
    count = len(nets)
    _fill_equality(section, plan, nets, on_all[:count], on_one[:count])
    if plan.gpus:
        _fill_kinds(section, plan, kinds, nets)
    rows = []
    for (net, batch_size), all_, one in zip(batches, on_all[count:], on_one[count:], strict=True):
        ratio = f"{all_.value / one.value:.2f}" if one.value and all_.value else ""
        rows.append((f"{net}, {batch_size}", section.rate(one), section.rate(all_), ratio))
    section.say("Images per second while training:")
    section.table(("net, batch", "1 device", f"{plan.devices} devices", "ratio"), rows)
    if plan.gpus and not plan.small:
        _fill_lost_worker(section, plan)


def _steps_case(plan: Plan, net: str, devices: int) -> Case:
    arguments = {
        "net": net,
        "batch_size": _IMAGES_PER_DEVICE * plan.devices,
        "steps": plan.steps,
        "devices": devices,
    }
    words = "one device" if devices == 1 else f"{devices} devices"
    return Case(f"{net} on {words}", f"{TRAININGS}:replicas", arguments)


def _fill_equality(
    section: Section,
    plan: Plan,
    nets: Sequence[str],
    on_all: Sequence[Outcome],
    on_one: Sequence[Outcome],
) -> None:
    rows = []
    for net, all_, one in zip(nets, on_all, on_one, strict=True):
        if not section.succeeded(all_):
            continue
        devices = [device.rpartition("device:")[2] for device in all_.value["images"]]
        section.require(
            len(set(devices)) == plan.devices,
            f"{all_.name}: the images lie on {', '.join(devices)}",
        )
        differing = all_.value["differing"]
        section.require(
            not differing, f"{all_.name}: {len(differing)} variables differ between the replicas"
        )
        difference = section.difference(one, all_.value["losses"], _TOLERANCE)
        rows.append((net, ", ".join(devices), "differ" if differing else "equal", difference))
    section.say(
        f"{plan.steps} steps with {_IMAGES_PER_DEVICE} images per device. The difference is the "
        "largest relative one between the losses on all devices and on one, with the same batches."
    )
    section.table(("net", "images lie on", "weights of the replicas", "difference"), rows)


def _fill_kinds(section: Section, plan: Plan, kinds: Sequence[str], nets: Sequence[str]) -> None:
    batch_size = 32 * plan.devices  # 128 is not a multiple of every number of GPUs
    again = [kind for kind in kinds if kind in nets]
    first, second = (
        plan.run(
            [plan.train_case(kind, "float32", label, batch_size=batch_size) for kind in trained], {}
        )
        for label, trained in (("on all GPUs", kinds), ("on all GPUs again", again))
    )
    by_kind = dict(zip(kinds, first, strict=True))
    trained = [kind for kind, outcome in by_kind.items() if section.succeeded(outcome)]
    section.say(f"Trained on all GPUs in one process: {', '.join(trained) or 'none'}.")
    pairs = zip(again, second, strict=True)
    exactness.fill_bits(section, [(kind, by_kind[kind], outcome) for kind, outcome in pairs])


def _fill_lost_worker(section: Section, plan: Plan) -> None:
    call = "benchmarks.gpu_check.workers:seconds_to_end"
    arguments = {"workdir": str(plan.folder / "workers"), "changes": {}}
    case = Case("the loss of a worker", call, arguments)
    (outcome,) = plan.run([case], plan.gpus_visible(2))
    if section.succeeded(outcome):
        seconds = outcome.value
        section.require(
            seconds < _LOST_WORKER_SECONDS,
            f"{case.name}: the other worker ended after {seconds:.0f} s",
        )
        section.say(
            f"Of two workers with a GPU each one was killed; the other ended {seconds:.1f} s later."
        )
