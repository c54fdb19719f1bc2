"""The successor failed: what it had taken over is served here again, and its process is reaped."""

from __future__ import annotations

from functools import partial

from endless_py._handoff.child import Child
from endless_py._reload.base import BaseProcess
from endless_py._reload.machine import Event
from endless_py._reload.report import Report
from endless_py._support import log


class Resume:
    """What follows a failure of step 5 or 6."""

    def __init__(self, process: BaseProcess, report: Report) -> None:
        self._process = process
        self._report = report

    def check(self) -> None:
        """See whether the successor was given up since, for the reason that it has."""
        process, successor = self._process, self._process.successor
        if successor is None or successor.failure is None or successor.failure_noted:
            return
        successor.failure_noted = True
        if successor.child is not None:
            process.children.leave(successor.child)
            process.children.soon()
            process.fire(Event.FAILED, str(successor.failure))
        else:
            why = f"pid {successor.pid} did not become the new code: {successor.failure}"
            process.fire(Event.FAILED, why)
        process.wake_all()

    def reap(self) -> None:
        """See which of the children have ended, and what that means."""
        process = self._process
        for child in process.children.reap(process.predecessors.pids()):
            self._reaped(child)

    def _reaped(self, child: Child) -> None:
        process, successor = self._process, self._process.successor
        end = f"{child} {child.status}"
        process.listeners.never_wait()
        if process.machine.aborts and successor is not None and successor.child is child:
            why = f"{end} before it was ready ({successor.failure})"
            process.fire(Event.REAPED, f"reload failed: {why}; this one goes on serving")
        else:
            template = "%(child)s %(status)s"
            process.log(log.DEBUG, template, "child_ended", child=child, status=child.status)
        if process.machine.at_peace and self._report.again():
            process.owed["reload"] = "a reload asked for meanwhile"
            process.machine.go_on()

    # -- actions ----------------------------------------------------------

    def keep_listeners(self, *_: object) -> None:
        """It had said ready for some of them."""
        self._process.listeners.accept_again()
        self._process.wake_all()

    def accept_again(self, why: str) -> None:
        """It died without a word, and nobody else accepts."""
        process, successor = self._process, self._process.successor
        assert successor is not None
        template = "%(successor)s died without a word: %(reason)s; this one accepts again"
        process.log(log.ERROR, template, "successor_died", successor=successor, reason=why)
        process.listeners.resume()
        process.listeners.accept_again()
        process.tell_workers("resume")
        if successor.reload_passed_on:
            process.owed["reload"] = "a reload asked for meanwhile"
        for listener in process.listeners.foreign():
            listener.done = False
            if listener.on_resume is None:
                template = "%(listener)s has no on_resume; a new successor takes it"
                process.log(log.WARNING, template, "no_on_resume", listener=listener)
                process.owed["reload"] = "a reload asked for meanwhile"
            else:
                kind = f"on_resume of {listener}"
                process.driver.later(partial(process.hooks.run, [listener.on_resume], kind))

    def serve_again(self, *_: object) -> None:
        """In a worker: the leader accepts again."""
        self._process.listeners.resume()
        self._process.listeners.accept_again()
        self._process.wake_all()
