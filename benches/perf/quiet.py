"""How far a measurement can be trusted: what else the machine did meanwhile. Reads /proc; judges, repeats nothing."""

import os
import time
from pathlib import Path

# A pair is measured again when the hypervisor took more than this share of the cores' time,
MAX_STEAL = 0.02
# when programs other than those of the run used more than this share of it,
MAX_FOREIGN = 0.10
# or when one program's two turns, seconds apart, differ by more than this.
MAX_DRIFT = 0.10

TICKS = os.sysconf("SC_CLK_TCK")


def cores(which):
    """Seconds that these cores together were busy with programs, and that the hypervisor took, since the start."""
    rows = dict(line.split(" ", 1) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu"))
    each = [[int(word) for word in rows[f"cpu{core}"].split()[:8]] for core in which]
    return sum(sum(row[:3]) for row in each) / TICKS, sum(row[7] for row in each) / TICKS


def spent(pids):
    """Seconds of processor time of these processes, all their threads, and of children of ours that have ended."""
    def of(pid):
        try:
            return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
        except OSError:
            return 0.0
    own = os.times()
    return sum(map(of, pids)) + own.user + own.system + own.children_user + own.children_system


class Watch:
    """Looks at the cores of the run around one turn. `pids` are the run's own programs that live on."""

    def __init__(self, pids, which):
        self.pids, self.which = pids, which
        self.began, self.busy, self.steal, self.own = time.monotonic(), *cores(which), spent(pids)

    def end(self):
        """Shares of the cores' time."""
        whole = (time.monotonic() - self.began) * len(self.which)
        busy, steal = cores(self.which)
        foreign = busy - self.busy - (spent(self.pids) - self.own)
        return {"steal": round((steal - self.steal) / whole, 4), "foreign": round(max(foreign, 0) / whole, 4)}


def drift(values):
    """By how much the first and last of a program's turns differ."""
    return max(values) / min(values) - 1 if len(values) > 1 and min(values) > 0 else 0.0


def why_not(turns, unit):
    """Why a block of turns should be measured again; empty when it need not."""
    reasons = []
    for what, most in (("steal", MAX_STEAL), ("foreign", MAX_FOREIGN)):
        worst = max(turn[what] for turn in turns)
        if worst > most:
            reasons.append(f"{what} {worst:.0%}")
    for side in ("floor", "own") if unit else ():
        apart = drift([turn[unit] for turn in turns if turn["side"] == side])
        if apart > MAX_DRIFT:
            reasons.append(f"{side} drifts {apart:.0%}")
    return reasons
