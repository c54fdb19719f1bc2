"""What health checks are answered: /livez, /readyz, and /metrics in Prometheus's text format."""

from __future__ import annotations

import importlib
import os
import sys

TYPE_CHECKING = False  # true for checkers: typing takes long to import
if TYPE_CHECKING:
    from typing import Any, Optional

    from endless_py._reload.process import ServerProcess

    Page = tuple[int, str, bytes]
    Samples = list[tuple[dict[str, str], float]]

TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
# Of state()["counters"]: the key, the metric's name, its text (where it is the first), its labels.
_COUNTERS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("requests", "requests", "Requests that were begun.", {}),
    ("connections_accepted", "connections_accepted", "Connections that were accepted.", {}),
    (
        "connections_migrated_out",
        "connections_migrated",
        "Idle connections that have moved from one generation to the next.",
        {"direction": "out"},
    ),
    ("connections_migrated_in", "connections_migrated", "", {"direction": "in"}),
    ("connections_cut", "connections_cut", "Requests that were ended before their answer.", {}),
    ("reloads_done", "reloads", "Reloads, by what came of them.", {"result": "done"}),
    ("reloads_failed", "reloads", "", {"result": "failed"}),
)


def why_not_ready(process: ServerProcess) -> str:
    """Return why a load balancer should send its clients elsewhere; "" where it should not.

    While a reload is under way it should not: one of the two generations serves, and whichever is
    asked answers for both.
    """
    machine, listeners = process.machine, process.listeners.all
    if process.stop.ordered or machine.stops:
        return "it was told to stop"
    if machine.drains or (machine.over and process.living_successor is not None):
        return ""
    if machine.over:
        return "it ends"
    own = [listener for listener in listeners if not listener.beside]
    if own and all(listener.ready for listener in own):
        return ""
    return "" if process.predecessors.living_parent() is not None else "it starts"


def page(process: ServerProcess, path: str) -> Optional[Page]:
    """Return status, content type and body of what a GET of this path is answered.

    None for every path but the three.
    """
    if path == "/livez":
        return 200, TEXT, b"alive\n"
    if path == "/readyz":
        why = why_not_ready(process)
        return (503, TEXT, f"not ready: {why}\n".encode()) if why else (200, TEXT, b"ready\n")
    if path == "/metrics":
        try:
            return 200, METRICS, metrics(process).encode()
        except Exception as error:  # of a collector of the program's
            return 500, TEXT, f"{type(error).__name__}: {error}\n".encode(errors="replace")
    return None


def metrics(process: ServerProcess) -> str:
    """Return ours, then those of the program's prometheus_client, if it has imported that."""
    return ours(process) + _of_the_program()


def ours(process: ServerProcess) -> str:
    """Return the metrics of this package, as text."""
    state, machine = process.answers.state(), process.machine
    drains = (machine.migrates or machine.over) and process.living_successor is not None
    has_parent = process.predecessors.living_parent() is not None
    counted = process.counters.scraped(drains, has_parent)
    last = state["last_reload"] or {}
    servers = _servers(process, state)
    gauges: list[tuple[str, str, Samples]] = [
        ("generation", "Number of this process: 0, and 1 more with each reload.", []),
        ("ready", "Whether load balancers should send clients here.", []),
        ("phase", "What the process is doing.", [({"phase": state["phase"]}, 1)]),
        ("phase_start_time_seconds", "Since when, in seconds since the epoch.", []),
        ("draining_generations", "Older processes that still finish requests.", []),
    ]
    values = (
        state["generation"],
        int(not why_not_ready(process)),
        None,
        state["since"],
        len(state["predecessors"]),
    )
    for (_, _, samples), value in zip(gauges, values):
        if value is not None:
            samples.append(({}, value))
    for key, text in (
        ("active", "Handlers at work."),
        ("idle", "Connections that wait for their client's next message."),
    ):
        labelled: Samples = [({"server": address}, s[key]) for address, s in servers]
        gauges.append((f"connections_{key}", text, labelled))
    if last:
        gauges += [
            ("last_reload_success", "Whether the last reload came to an end.", [({}, last["ok"])]),
            ("last_reload_time_seconds", "When, in seconds since the epoch.", [({}, last["at"])]),
        ]
    lines = []
    for name, text, samples in gauges:
        lines += _family(f"endless_py_{name}", "gauge", text)
        lines += [_sample(f"endless_py_{name}", labels, value) for labels, value in samples]
    for key, name, text, labels in _COUNTERS:
        name = f"endless_py_{name}_total"
        if text:
            lines += _family(name, "counter", f"{text} Since the first generation's start.")
        lines.append(_sample(name, labels, counted[key]))
    return "\n".join(lines) + "\n"


def _servers(process: ServerProcess, state: dict[str, Any]) -> list[tuple[str, dict[str, int]]]:
    """Return each server's address and connections, those of the other workers included."""
    found, group = [], process.group
    for listener, server in zip(process.listeners.all, state["servers"]):
        counts = {key: server[key] for key in ("active", "idle")}
        for worker in state["workers"]:
            if group is not None and group.listener is listener and worker["pid"] != os.getpid():
                counts = {key: counts[key] + worker[key] for key in counts}
        found.append((str(server["address"]), counts))
    return found


def _family(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    def escaped(label: str) -> str:
        return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inside = ",".join(f'{key}="{escaped(label)}"' for key, label in labels.items())
    number = int(value) if isinstance(value, bool) else value
    return f"{name}{'{' * bool(inside)}{inside}{'}' * bool(inside)} {number}"


def _of_the_program() -> str:
    client: Any = sys.modules.get("prometheus_client")
    if not hasattr(client, "generate_latest"):
        return ""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):  # its files have what every process counts
        multiprocess: Any = importlib.import_module("prometheus_client.multiprocess")

        registry = client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return str(client.generate_latest(registry).decode())
    return str(client.generate_latest().decode())
