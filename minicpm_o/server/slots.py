"""Places for live sessions: so many at once, others in line, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Slots:
    """One server's places. For use in one event loop."""

    count: int
    usual_s: float = 120.0
    """How long a session is thought to last, before any has ended."""
    taken: set[object] = field(default_factory=set)
    line: deque[object] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _since: dict[object, float] = field(default_factory=dict)

    def take(self, who: object) -> bool:
        """Take a place, or the last one in line; whether `who` has one now. Asking again keeps the place in line."""
        if who in self.taken:
            return True
        ahead = self.position(who) - 1 if who in self.line else len(self.line)
        if len(self.taken) < self.count and ahead == 0:
            if who in self.line:
                self.line.remove(who)
            self.taken.add(who)
            self._since[who] = asyncio.get_running_loop().time()
            return True
        if who not in self.line:
            self.line.append(who)
        return False

    def leave(self, who: object) -> None:
        """Give a place, or one in line, up; the next in line is woken."""
        if who in self.taken:
            self.taken.discard(who)
            spent = asyncio.get_running_loop().time() - self._since.pop(who)
            self.usual_s += 0.2 * (spent - self.usual_s)
        elif who in self.line:
            self.line.remove(who)
        self._changed.set()
        self._changed = asyncio.Event()

    def position(self, who: object) -> int:
        """1 for the next; 0 for who has a place or is not there."""
        return self.line.index(who) + 1 if who in self.line else 0

    def eta_s(self, who: object) -> float:
        return self.usual_s * self.position(who) / self.count

    async def wait(self, who: object, told: Callable[[int, float], object] | None = None) -> None:
        """Until `who` has a place; `told` is called with position and ETA whenever the line moves."""
        while not self.take(who):
            changed = self._changed
            if told is not None:
                result = told(self.position(who), self.eta_s(who))
                if asyncio.iscoroutine(result):
                    await result
            await changed.wait()
