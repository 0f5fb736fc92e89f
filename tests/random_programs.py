"""Random programs that cannot deadlock, and random small machines to run them on, each from a seed.

A program is drawn as one global order of operations, each on all places of one section. An operation may only take
tokens that earlier ones have given, so the order is topological. Tokens travel in channels from one section to another:
place to place, or from all places to all (a join of as many producers), or to each destination tile of a transfer. A
channel may have credits, which its source takes before it sends and its target gives back; joins always have a single
one, so that no producer is a round ahead. What is still under way at a barrier or at the end is drained.

Operations come in blocks; a block may be a hardware loop, which is checked by playing all its iterations.
"""

from random import Random

from attrs import Factory, define
from random_work import BUFFERS, MAPS, SIZES, TABLES, Work, tensors

from kpusim.fuzz.machines import CHOICES, FAST
from kpusim.isa.expr import Const, Lookup, Name
from kpusim.isa.program import Instruction, Loop, Program, Section, Semaphore, SemaphoreRef, Signal, TileSet
from kpusim.machine import load_machine

__all__ = ["random_case"]

TAKE, SEND, RECEIVE, GIVE = range(4)  # source waits for a credit, signals; target waits, gives the credit back
WAITS, SIGNALS = (TAKE, RECEIVE), (SEND, GIVE)
UNDER_WAY = 3  # tokens of a channel without credits, at most


def random_case(seed, sets=()):
    """(program, machine, bytes of a chunk). The machine is a variant of kpu-tiny: odd rates, or costs so small and
    equal that many events fall into one cycle; then with `sets`. The program ends, with every semaphore back at its
    initial count."""
    random = Random(f"machine {seed}")
    changes = " ".join(random.choice(options) for options in CHOICES.values()).split()
    machine = load_machine("kpu-tiny", [*changes, *FAST * (random.random() < 0.5), *sets])
    return _Generator(seed, machine).program(), machine, random.choice([32, 48, 64, 64, 16384])


@define(eq=False)
class Queue:
    """A section under construction; `me` is a place's number among its places."""

    unit: str
    places: range
    number: int = 0
    body: list = Factory(list)

    @property
    def count(self):
        return len(self.places)

    @property
    def tiles(self):
        return TileSet(Const(self.places[0]), Const(self.count), self.places.step)

    def section(self):
        name, places = Name("engine" if self.unit == "dma" else "tile"), self.places
        me = (name - places.start) // places.step
        return Section(self.unit, places.start, places.stop, places.step, self.number, (("me", me),), tuple(self.body))


@define(eq=False)
class Channel:
    """Semaphores from one queue to another, one a slot. `kind`: pair, all, or dst (of a transfer)."""

    name: str
    source: Queue
    target: Queue
    kind: str
    slots: int
    full: int
    credit: int | None
    sends: str  # the instants of its signals
    gives: str

    def start(self):
        """For each slot: credits, credits taken and not used, tokens under way, tokens taken without giving back."""
        return [[self.credit or 0, 0, self.full, 0] for _ in range(self.slots)]

    def semaphores(self, tiles):
        source, target = self.source.count, self.target.count
        instances, join = {"pair": (source, 1), "all": (target, source), "dst": (tiles, source)}[self.kind]
        yield Semaphore(f"{self.name}_full", instances, self.slots, self.full, join)
        if self.credit is not None:
            yield Semaphore(f"{self.name}_free", source, self.slots, self.credit, 1 if self.kind == "pair" else target)

    def reference(self, move, slot, index=None):
        """The semaphore that a move waits for or signals; `index` for the loop over all of the other side."""
        if move in (SEND, RECEIVE):
            name, own = f"{self.name}_full", {"pair": Name("me"), "all": Name("me"), "dst": Name("tile")}[self.kind]
            other = Name("dst") if self.kind == "dst" else index
        else:
            name, own, other = f"{self.name}_free", Name("me"), index
        everyone = move in SIGNALS and self.kind != "pair"
        return SemaphoreRef(name, other if everyone else own, slot)

    def fan(self, move):
        """How many semaphores the move waits for or signals one by one."""
        if move in WAITS or self.kind == "pair" or (self.kind == "dst" and move == SEND):
            return 1
        return self.target.count if move == SEND else self.source.count

    def moves(self, queue):
        """What an operation of `queue` can do to this channel."""
        credits = self.credit is not None
        if self.source is queue:
            yield from (TAKE, SEND) if credits else (SEND,)
        if self.target is queue:
            yield from (RECEIVE, GIVE) if credits else (RECEIVE,)


@define(eq=False)
class Operation:
    """One operation of a block: `uses` are (channel, move, offset of the slot); `times`: in a loop of its own."""

    queue: Queue
    uses: list
    times: int | None = None

    def can(self, channel, move):
        """Whether one more use fits into its fields."""
        fields = WAITS if move in WAITS else SIGNALS
        direct = [use for use in self.uses if use[1] in fields and use[0].fan(use[1]) == 1]
        transfers = [use for use in self.uses if use[0].kind == "dst" and use[1] == SEND]
        return len(direct) < 2 and not (transfers and channel.kind == "dst" and move == SEND)


class _Generator:
    def __init__(self, seed, machine):
        self.random = Random(f"program {seed}")
        self.tiles, self.engines, self.queues_an_engine = machine.tiles.count, machine.dma_engines, machine.dma.queues
        self.work = Work(self.random, self.tiles)
        self.queues = self.make_queues()
        self.channels = [self.make_channel(f"c{number}") for number in range(self.random.randint(2, 9))]
        self.state = {channel: channel.start() for channel in self.channels}
        self.blocks = 0

    # --- queues and channels --------------------------------------------------------------------------------------

    def groups(self, count):
        """A few disjoint sets of places."""
        step = self.random.choice([1, 1, 2]) if count > 1 else 1
        if step == 2:
            return [range(0, count, 2), range(1, count, 2)]
        cuts = sorted(self.random.sample(range(1, count), self.random.randint(0, count - 1)))
        return [range(low, high) for low, high in zip([0, *cuts], [*cuts, count], strict=True)]

    def make_queues(self):
        random = self.random
        queues = [Queue(unit, places) for unit in ("matrix", "vector") for places in self.groups(self.tiles)]
        engines = self.groups(self.engines)[: random.choice([1, 1, 2])]  # whose queues take turns
        dma = [Queue("dma", places, number) for number in range(self.queues_an_engine) for places in engines]
        some = random.sample(queues, random.randint(1, min(len(queues), 4)))
        return [*some, *random.sample(dma, random.randint(1, min(len(dma), 4)))]

    def make_channel(self, name):
        random = self.random
        source, target = random.choice(self.queues), random.choice(self.queues)
        kinds = ["all"] + ["pair"] * 2 * (source.count == target.count)
        kinds += ["dst"] * 2 * (source.unit == "dma" and target.unit != "dma")
        kind, slots = random.choice(kinds), random.choice([1, 1, 2, 3])
        sends, gives = random.choice(["read", "done"]), random.choice(["read", "done"])
        sends = "done" if kind == "dst" else sends
        full, credit = 0, 1
        if kind == "pair":
            full, credit = random.choice([(0, 1), (0, 2), (0, 3), (0, None), (1, None), (2, None)])
        return Channel(name, source, target, kind, slots, full, credit, sends, gives)

    # --- the tokens -----------------------------------------------------------------------------------------------

    def play(self, operations, trips):
        """The state behind a block, or None where a token is missing."""
        state = {channel: [slot[:] for slot in slots] for channel, slots in self.state.items()}
        for trip in range(trips):
            for operation in operations:
                for time in range(1 if operation.times is None else operation.times):
                    for channel, move, offset in sorted(operation.uses, key=lambda use: use[1] in SIGNALS):
                        slot = state[channel][(trip + time + offset) % channel.slots]
                        if not _move(slot, move, channel.credit is not None):
                            return None
        return state

    def block(self):
        """One more block: some operations, in a loop or not."""
        random = self.random
        trips = random.choice([1, 1, 2, 3, 5])
        counter = f"i{self.blocks}" if trips > 1 or random.random() < 0.2 else None
        operations = [self.operation(random.choice(self.queues)) for _ in range(random.randint(1, 6))]
        for channel in random.sample(self.channels, random.randint(0, len(self.channels))):
            self.exchange(channel, operations, trips)
        for operation in random.sample(operations, random.randint(0, len(operations))):
            for channel in self.channels:
                for move in channel.moves(operation.queue):
                    if random.random() < 0.5:
                        self.attempt(operations, trips, [(operation, channel, move, random.randrange(channel.slots))])
        self.add(operations, trips, counter)

    def operation(self, queue):
        return Operation(queue, [], self.random.choice([None, None, None, None, 0, 2, 3]))

    def exchange(self, channel, operations, trips):
        """A token from the source of a channel to its target, and its credit back, within one block."""
        random, offset = self.random, self.random.randrange(channel.slots)
        pair = []
        for queue in (channel.source, channel.target):
            there = [operation for operation in operations if operation.queue is queue]
            if not there or random.random() < 0.3:
                there = [self.operation(queue)]
                operations.insert(random.randint(0, len(operations)), there[0])
            pair.append(random.choice(there))
        source, target = pair
        if not target.uses:
            target.times = source.times
        moves = [(source if move in (TAKE, SEND) else target, move) for move in (TAKE, SEND, RECEIVE, GIVE)]
        moves = [(operation, move) for operation, move in moves if move in channel.moves(operation.queue)]
        self.attempt(operations, trips, [(operation, channel, move, offset) for operation, move in moves])

    def attempt(self, operations, trips, uses):
        """Adds (operation, channel, move, offset) uses if they fit and the block can still be played."""
        before = [(operation, operation.uses[:]) for operation in operations]
        for operation, *use in uses:
            if operation.can(*use[:2]):
                operation.uses.append(tuple(use))
        if self.play(operations, trips) is None:
            for operation, kept in before:
                operation.uses = kept

    def add(self, operations, trips=1, counter=None):
        """Appends a block to the bodies of its queues."""
        state = self.play(operations, trips)
        assert state is not None
        self.state, self.blocks = state, self.blocks + 1
        for queue in self.queues:
            scope = ["me"] if counter is None else ["me", counter]
            nodes = [node for op in operations if op.queue is queue for node in self.nodes(op, scope)]
            if nodes and counter is not None:
                nodes = [Loop(counter, *self.bounds(trips), tuple(nodes))]
            queue.body += nodes

    def drain(self):
        """Everything back to where it started, by operations of one move each."""
        for channel in self.channels:
            for offset in range(channel.slots):
                while (moves := self.missing(channel, self.state[channel][offset])) is not None:
                    queue = channel.source if moves == SEND else channel.target
                    self.add([Operation(queue, [(channel, moves, offset)])])

    @staticmethod
    def missing(channel, slot):
        """The next move that brings a slot back to its initial state; None where it is."""
        _, taken, full, owed = slot
        if taken or full < channel.full:
            return SEND
        if full > channel.full:
            return RECEIVE
        return GIVE if owed else None

    def barrier(self):
        """Everybody meets; the last tokens may be taken by the barrier itself."""
        waits = {queue: [] for queue in self.queues}
        for channel in self.channels:
            for offset, slot in enumerate(self.state[channel]):
                due = channel.credit is None and slot[2] > channel.full and self.random.random() < 0.5
                if due and len(waits[channel.target]) < 2:
                    slot[2] -= 1
                    waits[channel.target].append(channel.reference(RECEIVE, Const(offset)))
        self.drain()
        for queue in self.queues:
            queue.body.append(Instruction("barrier", waits=tuple(waits[queue])))

    # --- instructions ---------------------------------------------------------------------------------------------

    def nodes(self, operation, scope):
        """The instructions of an operation."""
        if operation.times is not None:
            scope = [*scope, "j"]
        counters = [Name(name) for name in scope if name != "me"]
        queue, waits, signals, transfer, fans = operation.queue, [], [], None, []
        for channel, move, offset in operation.uses:
            slot = sum(counters, Const(offset)) % channel.slots
            instant = channel.sends if move == SEND else channel.gives
            if move in WAITS:
                waits.append(channel.reference(move, slot))
            elif (count := channel.fan(move)) == 1:
                signals.append(Signal(channel.reference(move, slot, Const(0)), instant))
            else:
                signal = Signal(channel.reference(move, slot, Name("g")), instant)
                fans.append(Loop("g", Const(0), Const(count), (Instruction("sync", signals=(signal,)),)))
            if channel.kind == "dst" and move == SEND:
                transfer = channel.target.tiles
        op, operands, options = self.work.instruction(queue.unit, scope, transfer)
        body = [Instruction(op, operands, options, tuple(waits), tuple(signals)), *fans]
        if operation.times is None:
            return body
        if queue.unit != "dma" and self.random.random() < 0.5:
            body.append(self.work.burst(queue.unit, scope))
        return [Loop("j", *self.bounds(operation.times), tuple(body))]

    def bounds(self, trips):
        """0 .. trips, said directly or by a table."""
        if trips in SIZES and self.random.random() < 0.3:
            return Const(0), Lookup("sizes", Const(SIZES.index(trips)))
        return Const(0), Const(trips)

    def program(self):
        for _ in range(self.random.randint(2, 7)):
            self.block()
            if self.random.random() < 0.12:
                self.barrier()
        self.drain()
        for queue in self.queues:
            if self.random.random() < 0.2:
                queue.body.append(Instruction("halt"))
        semaphores = [sem for channel in self.channels for sem in channel.semaphores(self.tiles)]
        sections = tuple(queue.section() for queue in self.queues)
        return Program("random", tensors(self.random), MAPS, BUFFERS, tuple(semaphores), TABLES, sections)


def _move(slot, move, credits):
    """Moves a token, in place; False where there is none to move."""
    before, after = {TAKE: (0, 1), SEND: (1, 2), RECEIVE: (2, 3), GIVE: (3, 0)}[move]
    if credits or move == RECEIVE:
        if not slot[before]:
            return False
        slot[before] -= 1
    elif slot[2] >= UNDER_WAY:
        return False
    if credits or move == SEND:
        slot[after] += 1
    return True
