"""What the neighbours say and what their ends mean; `handoff` lists the words.

A generation has its successor on one side and predecessors on the other, and talks to
nobody else. What is said is checked here; the room that it concerns does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from endless_py._handoff.channel import Channel, Message
from endless_py._handoff.handoff import Predecessor, Successor, is_number
from endless_py._reload import migration
from endless_py._reload.driver import Stumbles
from endless_py._reload.inherit import Estate
from endless_py._reload.life import Life
from endless_py._reload.machine import Phase
from endless_py._reload.manager import Manager
from endless_py._reload.migration import Migration
from endless_py._reload.predecessors import Predecessors
from endless_py._reload.reexec import Replacement
from endless_py._reload.report import Reports
from endless_py._reload.servers import Servers
from endless_py._reload.signals import HAMMER, RELOAD, Signals
from endless_py._reload.stopping import Stopping
from endless_py._reload.succession import Succession
from endless_py._support import log
from endless_py._support.sigmask import left_by
from endless_py.exceptions import ChannelError


class Neighbours:
    """The one place where both channels are listened to. It remembers nothing."""

    def __init__(
        self,
        life: Life,
        stumbles: Stumbles,
        servers: Servers,
        predecessors: Predecessors,
        estate: Estate,
        succession: Succession,
        replacement: Replacement,
        stopping: Stopping,
        migration: Migration,
        manager: Manager,
        reports: Reports,
        signals: Signals,
    ) -> None:
        self._life = life
        self._signals = signals
        self._stumbles = stumbles
        self._servers = servers
        self._predecessors = predecessors
        self._estate = estate
        self._succession = succession
        self._replacement = replacement
        self._stopping = stopping
        self._migration = migration
        self._manager = manager
        self._reports = reports

    @contextmanager
    def _kept_for_later(self, channel: Channel, messages: list[Message]) -> Iterator[None]:
        """The first message is being heard; if this process fails to, it is heard again soon.

        What has been taken of it is no longer in it then. A message that is not whole is dropped.
        """
        try:
            yield
        except Exception as error:
            nonsense = isinstance(error, (LookupError, TypeError, ValueError))
            if nonsense or self._stumbles.last_try():
                messages.pop(0).close()
            channel.unread(messages)
            raise

    # -- the successor ----------------------------------------------------

    def hear_successor(self) -> None:
        """Hear what it has said since."""
        successor = self._succession.living
        if successor is None:
            return
        messages = successor.listen()
        while messages:
            with self._kept_for_later(successor.channel, messages):
                if successor.failure is None:  # what was given up has no say any more
                    self._heard_from_successor(successor, messages[0])
            messages.pop(0).close()
        if successor.failure is not None:
            self.successor_failed(successor)

    def _heard_from_successor(self, successor: Successor, message: Message) -> None:
        word, index = message.body.get("type"), message.body.get("index")
        if word == "return":
            self._replacement.hear_way_back(message)
        message.close()
        known = isinstance(index, int) and 0 <= index < len(successor.bindings)
        if word == "adopted" and known:
            self._succession.adopted(successor, index)  # type: ignore[arg-type]
        elif word == "ready" and (known or index is None):
            self._succession.ready(successor, index)
        elif word == "stopping":
            successor.word_given = True
            self._replacement.drop_spare()
            self._servers.close_listeners()
            if successor.bridge:
                self._stopping.bridge_stops()
        elif word == "superseded":
            successor.word_given = True
        elif word == "hammer":
            self._stopping.hammer(str(successor))
        elif word == "return":
            pass
        elif word in ("taken", "refused"):
            numbers = message.body.get("ids")
            if not isinstance(numbers, list) or not all(map(is_number, numbers)):
                successor.fail(f"it said {word!r} over the channel without saying of what")
                return
            self._migration.answered(numbers, word == "taken")
        elif word == "heir":
            pid, generation = message.body.get("pid"), message.body.get("generation")
            if not is_number(pid, 1) or not is_number(generation):
                successor.fail(f"it said {word!r} over the channel without saying whose")
                return
            self._succession.replaced(successor, pid, generation)
        else:
            successor.fail(f"it said {str(word)[:40]!r} over the channel, which is no word of ours")

    def check_successor(self) -> None:
        """Whether it is ready, or has said nothing for too long."""
        successor = self._succession.living
        if self._life.phase is Phase.RELOADING and successor is not None:
            self._succession.check()
            if successor.failure is not None:
                self.successor_failed(successor)

    def successor_failed(self, successor: Successor) -> None:
        """It was given up, for the reason that it has."""
        if successor.child is not None:
            self._succession.failed(successor, successor.child)
            return
        if not successor.word_given or self._life.phase is Phase.RELOADING:
            self._stopping.not_handed_back(
                f"pid {successor.pid} is not replaced: {successor.failure}"
            )
        self._servers.wake()

    # -- predecessors -----------------------------------------------------

    def hear_predecessors(self) -> None:
        """Hear what they have said since, and which of them have ended."""
        for predecessor in list(self._predecessors.living):
            messages = predecessor.listen()
            if messages is None:
                self._predecessor_ended(predecessor)
                continue
            while messages:
                with self._kept_for_later(predecessor.channel, messages):
                    try:
                        self._heard_from_predecessor(predecessor, messages[0])
                    except ChannelError as error:
                        self._life.log(
                            log.WARNING,
                            f"{predecessor} said nonsense over the channel, "
                            f"which is ignored: {error}",
                        )
                messages.pop(0).close()

    def _heard_from_predecessor(self, predecessor: Predecessor, message: Message) -> None:
        word = message.body.get("type")
        if word == "reload":
            self._life.order(RELOAD, f"a reload passed on by {predecessor}")
        elif word == "reloaded":
            report = message.body.get("report")
            if report is not None and not isinstance(report, dict):
                raise ChannelError("a report that is none")
            self._reports.last = report
        elif word == "charge":
            path = message.body.get("pid_file")
            if path is not None and (not isinstance(path, str) or "\0" in path):
                raise ChannelError("a pid file's path that is none")
            self._manager.take_charge(path)
            self._servers.wake()
            self._manager.hand_over(self._succession.successor)
        elif word == "stop":
            self._stopping.passed_on(predecessor)
        elif word == "hammer":
            self._life.order(HAMMER, f"a hammer passed on by {predecessor}")
        elif word == "ancestor_gone":
            predecessor.ancestor = False
        elif word == "predecessor":
            self._predecessors.take_over(message, self._life.number)
        elif word == "replace":
            predecessor.waits = True
        elif word == "replacing":
            self._succession.started_anew(predecessor.pid)
        elif word == "connections":
            servers = self._servers.by_number(predecessor.numbers)
            migration.receive(predecessor, message, servers)

    def _predecessor_ended(self, predecessor: Predecessor) -> None:
        self._predecessors.forget(predecessor)
        self._estate.inheritance.close()
        self._estate.restore_error_output()  # nobody reads it any more
        successor = self._succession.living
        if successor is not None and successor.pid == predecessor.pid:
            return  # its program has ended, and the process starts it anew
        if predecessor.nonsense is None:
            self._life.log(log.INFO, f"{predecessor} has ended")
        else:
            self._life.log(
                log.ERROR,
                f"{predecessor} said nonsense over the channel, which is closed: "
                f"{predecessor.nonsense}",
            )
        if self._signals.ours(RELOAD) & left_by(predecessor.pid):
            self._life.order(RELOAD, f"a reload that {predecessor} was told at its very end")
        if predecessor.kept:
            self._stopping.not_handed_back(
                f"pid {predecessor.pid} has ended instead of starting anew"
            )
            if self._life.phase is Phase.DRAINING and successor is not None:
                successor.channel.send({"type": "stop"})
        successor = self._succession.living  # it may have been given up just now
        if successor is not None and not self._predecessors.living:
            successor.channel.send({"type": "ancestor_gone"})
        manager = self._manager
        if (
            predecessor is self._predecessors.parent
            and not manager.was_in_charge
            and not self._life.bridge
        ):
            manager.in_charge = True  # it was killed before it could hand over
            if manager.serves():
                self._estate.say_unused()
            if self._life.phase is Phase.STOPPING:
                manager.stopping()
            manager.hand_over(self._succession.successor)
