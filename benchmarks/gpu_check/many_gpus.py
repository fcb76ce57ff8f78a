"""Several GPUs: images, equal weights and bits, one GPU's loss, throughput, a worker that dies."""

from collections.abc import Sequence

from benchmarks.gpu_check import exactness
from benchmarks.gpu_check.children import Case, Outcome, run
from benchmarks.gpu_check.plan import TRAININGS, Plan
from benchmarks.gpu_check.report import Section

_TOLERANCE = 1e-3  # relative, of the losses on all devices to those on one
_IMAGES_A_DEVICE = 256
_LOSS_SECONDS = 30  # in which a worker's loss ends the others; then launch.local kills them


def fill(section: Section, plan: Plan, kinds: Sequence[str], nets: Sequence[str]) -> None:
    """Compare all devices with one; on a single GPU there is nothing to compare."""
    if plan.gpus == 1:
        section.lines += ["This machine has one GPU.", ""]
        return
    batches = [(net, size * plan.devices) for net in nets for size in plan.batch_sizes[-2:]]
    found = [
        run(
            [_steps_case(plan, net, devices) for net in nets]
            + [_rate_case(plan, net, batch_size, devices) for net, batch_size in batches],
            plan.budget,
            environment=environment,
        )
        for devices, environment in ((plan.devices, {}), (1, plan.one_gpu()))
    ]
    on_all, on_one = found
    count = len(nets)
    _fill_equality(section, plan, nets, on_all[:count], on_one[:count])
    if plan.gpus:
        _fill_kinds(section, plan, kinds, nets)
    _fill_rates(section, plan, batches, on_all[count:], on_one[count:])
    if plan.gpus and not plan.small:
        _fill_lost_worker(section, plan)


def _fill_equality(
    section: Section,
    plan: Plan,
    nets: Sequence[str],
    on_all: Sequence[Outcome],
    on_one: Sequence[Outcome],
) -> None:
    rows = []
    for net, all_, one in zip(nets, on_all, on_one, strict=True):
        name = f"{net} on {plan.devices} devices"
        if not section.succeeded(name, all_):
            continue
        devices = [device.rpartition("device:")[2] for device in all_.value["images"]]
        section.require(
            len(set(devices)) == plan.devices,
            f"{name}: the images lie on {', '.join(devices)}",
        )
        differing = all_.value["differing"]
        section.require(
            not differing, f"{name}: {len(differing)} variables differ between the replicas"
        )
        difference = section.difference(
            f"{net} on one device", one, all_.value["losses"], _TOLERANCE
        )
        equal = "differ" if differing else "equal"
        rows.append((net, ", ".join(devices), equal, difference))
    section.lines += [
        f"{plan.steps} steps with {_IMAGES_A_DEVICE} images a device and step. The difference is "
        "the largest of the losses to those of one device with the same batches, relative.",
        "",
    ]
    section.table(("net", "images lie on", "weights of the replicas", "difference"), rows)


def _steps_case(plan: Plan, net: str, devices: int) -> Case:
    arguments = {
        "net": net,
        "batch_size": _IMAGES_A_DEVICE * plan.devices,
        "steps": plan.steps,
        "cpu_devices": devices,
    }
    return Case(f"{net} on {devices} devices", f"{TRAININGS}:replicas", arguments)


def _fill_kinds(section: Section, plan: Plan, kinds: Sequence[str], nets: Sequence[str]) -> None:
    # 128 images do not divide among every number of GPUs.
    batch_size = 32 * plan.devices
    again = [kind for kind in kinds if kind in nets]
    first, second = (
        run(
            [plan.train_case(kind, "float32", label, batch_size=batch_size) for kind in trained],
            plan.budget,
        )
        for label, trained in (("all", kinds), ("all-again", again))
    )
    trained = [
        kind
        for kind, outcome in zip(kinds, first, strict=True)
        if section.succeeded(f"{kind} on all GPUs", outcome)
    ]
    section.lines += [f"Trained on all GPUs in one process: {', '.join(trained) or 'none'}.", ""]
    found = [
        {(kind, "float32"): outcome for kind, outcome in zip(of, outcomes, strict=True)}
        for of, outcomes in ((kinds, first), (again, second))
    ]
    exactness.fill_bits(section, plan, again, found)


def _fill_lost_worker(section: Section, plan: Plan) -> None:
    name = "the loss of a worker"
    call = "benchmarks.gpu_check.workers:seconds_to_end"
    arguments = {"folder": str(plan.folder / "workers"), "changes": {}}
    (outcome,) = run([Case(name, call, arguments)], plan.budget, environment=plan.first_gpus(2))
    if not section.succeeded(name, outcome):
        return
    seconds = outcome.value
    section.require(
        seconds < _LOSS_SECONDS, f"{name}: another one ended only after {seconds:.0f} s"
    )
    section.lines += [
        f"Of two workers with a GPU each, one was killed: the other ended {seconds:.1f} s later.",
        "",
    ]


def _fill_rates(
    section: Section,
    plan: Plan,
    batches: Sequence[tuple[str, int]],
    on_all: Sequence[Outcome],
    on_one: Sequence[Outcome],
) -> None:
    rows = []
    for (net, batch_size), one, all_ in zip(batches, on_one, on_all, strict=True):
        cells = [section.rate(f"{net} at {batch_size}", outcome) for outcome in (one, all_)]
        ratio = f"{all_.value / one.value:.2f}" if one.value and all_.value else ""
        rows.append((f"{net}, {batch_size}", *cells, ratio))
    section.lines += ["Images per second while training:", ""]
    section.table(("net, batch", "1 device", f"{plan.devices} devices", "ratio"), rows)


def _rate_case(plan: Plan, net: str, batch_size: int, devices: int) -> Case:
    arguments = {
        "net": net,
        "batch_size": batch_size,
        "seconds": plan.seconds,
        "cpu_devices": devices,
    }
    name = f"rate of {net} at {batch_size} on {devices} devices"
    return Case(name, f"{TRAININGS}:rate", arguments)
