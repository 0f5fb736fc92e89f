"""A memory controller written straight from the rules, one tick after the other and one request after the other.

The rules are those of tests/data/ramulator2_params.toml, in its words; slow, and written without a look at kpusim.dram.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

# (first command, second command, within what, gap); a second command waits for every first one.
RULES = [
    ("RD", "RD", "rank", "rd_rd"),
    ("RD", "RD", "other rank", "rd_rd_othersid"),
    ("RD", "RD", "group", "rd_rd_bg"),
    ("WR", "WR", "pc", "wr_wr"),
    ("WR", "WR", "group", "wr_wr_bg"),
    ("RD", "WR", "pc", "rd_wr"),
    ("WR", "RD", "pc", "wr_rd"),
    ("WR", "RD", "group", "wr_rd_bg"),
    ("ACT", "ACT", "pc", "act_act"),
    ("ACT", "ACT", "group", "act_act_bg"),
    ("ACT", "ACT", "bank", "act_act_bank"),
    ("ACT", "RD", "bank", "act_rd"),
    ("ACT", "WR", "bank", "act_wr"),
    ("ACT", "PRE", "bank", "act_pre"),
    ("ACT", "PREA", "pc", "act_pre"),
    ("RD", "PRE", "bank", "rd_pre"),
    ("RD", "PREA", "pc", "rd_pre"),
    ("WR", "PRE", "bank", "wr_pre"),
    ("WR", "PREA", "pc", "wr_pre"),
    *((first, second, "pc", "pre_pre") for first in ("PRE", "PREA") for second in ("PRE", "PREA")),
    ("PRE", "ACT", "bank", "pre_act"),
    ("PREA", "ACT", "pc", "pre_act"),
    ("ACT", "REF", "pc", "act_ref"),
    ("PRE", "REF", "pc", "pre_ref"),
    ("PREA", "REF", "pc", "pre_ref"),
    ("REF", "ACT", "pc", "ref_act"),
    ("REF", "PREA", "pc", "ref_prea"),
    *(("ACT", second, "channel", "act_rowbus") for second in ("ACT", "PRE", "PREA", "REF")),
    *((first, second, "channel", "col_colbus") for first in ("RD", "WR") for second in ("RD", "WR")),
]

Place = tuple[int, ...]  # (pc, sid, bg, bank), or its first parts
DEPTH = {"channel": 0, "pc": 1, "rank": 2, "group": 3, "bank": 4}


@dataclass
class Request:
    """One burst. `first`: its first command."""

    number: int
    bank: Place
    row: int
    write: bool
    address: int
    arrival: int = -1
    issued: int = -1
    departure: int = -1
    first: str = ""


@dataclass
class Reference:
    """The channel. gap: the table of gaps in ticks. edges: whether HBM3's rules of edges hold."""

    gap: dict[str, int]
    refi: int
    latency: int
    edges: bool
    pseudochannels: int
    stack_ids: int
    size: int
    clock: int = 0
    read_buffer: list[Request] = field(default_factory=list)
    write_buffer: list[Request] = field(default_factory=list)
    active: list[Request] = field(default_factory=list)
    priority: list[int] = field(default_factory=list)
    write_mode: bool = False
    rows: dict[Place, int] = field(default_factory=dict)
    latest: dict[tuple[str, Place], int] = field(default_factory=dict)
    activates: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    odd_row: tuple[int, str, Place] | None = None  # latest row command of an odd tick
    merges: bool = True

    def send(self, request: Request) -> bool:
        """Offers a request between two ticks."""
        request.arrival = self.clock
        buffered = self.merges and any(each.address == request.address for each in self.write_buffer)
        if buffered and not request.write:
            request.departure = self.clock + 1
            return True
        if buffered:
            return True
        buffer = self.write_buffer if request.write else self.read_buffer
        if len(buffer) >= self.size:
            return False
        buffer.append(request)
        return True

    def tick(self) -> None:
        self.clock += 1
        if self.clock % self.refi == 0:
            self.priority += range(self.pseudochannels)
        self.column_slot()
        self.row_slot()

    def column_slot(self) -> None:
        ready = [each for each in self.active if self.allowed(column(each), each.bank)]
        if ready:
            request = min(ready, key=lambda each: each.arrival)  # the first of equals is the earlier activated
            self.active.remove(request)
            self.serve(request)
            return
        if self.priority:
            return
        self.choose_mode()
        for request in self.buffer():
            if self.needs(request) == column(request) and self.allowed(column(request), request.bank):
                self.buffer().remove(request)
                self.serve(request)
                return

    def row_slot(self) -> None:
        if self.priority:
            self.refresh(self.priority[0])
            return
        self.choose_mode()
        for request in self.buffer():
            command = self.needs(request)
            if command not in ("ACT", "PRE") or not self.allowed(command, request.bank):
                continue
            if command == "PRE" and any(each.bank == request.bank for each in self.active):
                continue
            request.first = request.first or command
            self.issue(command, request.bank)
            if command == "ACT":
                self.rows[request.bank] = request.row
                self.buffer().remove(request)
                self.active.append(request)
            else:
                del self.rows[request.bank]
            return

    def refresh(self, pc: int) -> None:
        """What the first refresh entry needs."""
        if any(bank[0] == pc for bank in self.rows):
            if not any(each.bank[0] == pc for each in self.active) and self.allowed("PREA", (pc,)):
                self.issue("PREA", (pc,))
                self.rows = {bank: row for bank, row in self.rows.items() if bank[0] != pc}
        elif self.allowed("REF", (pc,)):
            self.issue("REF", (pc,))
            self.priority.pop(0)

    def choose_mode(self) -> None:
        writes, reads = len(self.write_buffer), len(self.read_buffer)
        if not self.write_mode and (writes > Fraction(8, 10) * self.size or not reads):
            self.write_mode = True
        elif self.write_mode and writes < Fraction(2, 10) * self.size and reads:
            self.write_mode = False

    def buffer(self) -> list[Request]:
        return self.write_buffer if self.write_mode else self.read_buffer

    def needs(self, request: Request) -> str:
        if request.bank not in self.rows:
            return "ACT"
        return column(request) if self.rows[request.bank] == request.row else "PRE"

    def serve(self, request: Request) -> None:
        request.first = request.first or "column"
        request.issued = self.clock
        if not request.write:
            request.departure = self.clock + self.latency
        self.issue(column(request), request.bank)

    def allowed(self, command: str, place: Place) -> bool:
        for first, second, scope, gap in RULES:
            if second == command and self.clock < self.last(first, scope, place) + self.gap[gap]:
                return False
        if command == "ACT":
            four = self.activates[place[0]][-4:]
            if len(four) == 4 and self.clock < four[0] + self.gap["act_faw"]:
                return False
        return not self.edges or self.edge_allows(command, place)

    def edge_allows(self, command: str, place: Place) -> bool:
        if command not in ("PRE", "PREA"):
            return self.clock % 2 == 1
        if self.odd_row is None:
            return True
        tick, first, there = self.odd_row
        pairing = tick + (3 if first == "ACT" else 1)
        if self.clock != pairing or there[0] != place[0]:
            return True
        return command == "PRE" and first in ("ACT", "PRE") and there != place

    def last(self, command: str, scope: str, place: Place) -> int:
        """Tick of the last such command around a place."""
        never = -(10**9)
        if scope == "other rank":
            others = ((place[0], sid) for sid in range(self.stack_ids) if sid != place[1])
            return max((self.latest.get((command, other), never) for other in others), default=never)
        return self.latest.get((command, place[: DEPTH[scope]]), never)

    def issue(self, command: str, place: Place) -> None:
        for depth in range(len(place) + 1):
            self.latest[command, place[:depth]] = self.clock
        if command == "ACT":
            self.activates[place[0]].append(self.clock)
        if command not in ("RD", "WR") and self.clock % 2 == 1:
            self.odd_row = self.clock, command, place


def column(request: Request) -> str:
    return "WR" if request.write else "RD"


def as_fast_as_taken(channel: Reference, requests: list[Request]) -> None:
    """The front end of tests/data/ramulator2.csv: until the last request is accepted."""
    waiting = list(requests)
    chances = 1
    while True:
        for _ in range(chances):
            if waiting and channel.send(waiting[0]):
                waiting.pop(0)
        if not waiting:
            return
        channel.tick()
        chances = 4


def at_arrivals(channel: Reference, requests: list[Request], arrivals: list[int]) -> None:
    """Requests that arrive at given ticks and wait in order, until all are issued."""
    waiting = list(zip(arrivals, requests, strict=True))
    while any(each.issued < 0 for each in requests):
        while waiting and waiting[0][0] <= channel.clock and channel.send(waiting[0][1]):
            waiting.pop(0)
        channel.tick()


def figures(channel: Reference, requests: list[Request]) -> dict[str, Any]:
    """The columns of the csv that count ticks and requests; latency as (sum, reads issued)."""
    reads = [each for each in requests if not each.write and 0 <= each.departure <= channel.clock]
    firsts = [each.first for each in requests]
    return {
        "dram_cycles": channel.clock,
        "row_hits": firsts.count("column"),
        "row_misses": firsts.count("ACT"),
        "row_conflicts": firsts.count("PRE"),
        "latency": sum(each.departure - each.arrival for each in reads),
        "reads_issued": sum(1 for each in requests if not each.write and each.issued >= 0),
    }
