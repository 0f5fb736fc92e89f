import operator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isa_programs import INT64, SMALL, expressions, programs

from kpusim.errors import UserError
from kpusim.isa import assemble, disassemble
from kpusim.isa.arrays import from_arrays, to_arrays
from kpusim.isa.check import Limits, check_program
from kpusim.isa.expr import Binary, Call, Const, Lookup, Name, bounds, compiled, fold, show
from kpusim.isa.grammar import Grammar
from kpusim.isa.lexer import Cursor
from kpusim.isa.program import Instruction, Loop, Table
from kpusim.isa.walk import section_codes

PROGRAMS = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
TABLES = (Table("t0", (3, -1, 4, 1)), Table("t1", (5,)))
LIMITS = Limits(tiles=8, engines=8, queues=4, sram_bytes=1 << 16)
HEAD = "kasm 1\nprogram p\nsection vector tiles 0..1\n"
NAMES = ("tile", "i", "j")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod}


def naive(expr, names, tables):
    """The value of an expression, as its definition says."""
    match expr:
        case Const(value):
            return value
        case Name(name):
            return names[name]
        case Lookup(table, index):
            at = naive(index, names, tables)
            assert 0 <= at < len(tables[table])
            return tables[table][at]
        case Call("cdiv", (a, b)):
            quotient, rest = divmod(naive(a, names, tables), naive(b, names, tables))
            return quotient + (rest != 0)
        case Call(function, args):
            return {"min": min, "max": max}[function](naive(arg, names, tables) for arg in args)
        case Binary(op, left, right):
            return OPERATORS[op](naive(left, names, tables), naive(right, names, tables))


def executed(body, names, tables, pc):
    """(pc, names) of what a body executes, one by one."""
    steps = []
    for node in body:
        if isinstance(node, Instruction):
            steps.append((pc, names))
        else:
            for counter in range(naive(node.low, names, tables), naive(node.high, names, tables)):
                steps += executed(node.body, {**names, node.counter: counter}, tables, pc + 1)
        pc += pcs((node,))
    return steps


def pcs(body):
    return sum(2 + pcs(node.body) if isinstance(node, Loop) else 1 for node in body)


# --- forms ------------------------------------------------------------------------------------------------------------


@PROGRAMS
@given(programs())
def test_text_and_arrays_are_exact_inverses(program):
    text = disassemble(program)
    again = assemble(text)
    assert again == program
    assert disassemble(again) == text
    back = from_arrays(to_arrays(again))
    assert back == program
    assert lines(back) == lines(again)


def lines(program):
    nodes = [node.line for _, node, _ in program.instructions() if node is not None]
    return nodes, [section.line for section in program.sections]


@PROGRAMS
@given(programs(), st.data())
def test_broken_text_is_one_message(program, data):
    text = disassemble(program)
    start = data.draw(st.integers(0, len(text)), "start")
    length = data.draw(st.integers(0, 8) | st.just(len(text)), "length")
    inserted = data.draw(st.text("abkt019 .,:+-*/%()[]=@#\n_é٣", max_size=6) | st.just(""), "inserted")
    broken = text[:start] + inserted + text[start + length :]
    try:
        check_program(assemble(broken), LIMITS)
    except UserError as error:
        assert str(error)


@PROGRAMS
@given(programs(), st.data())
def test_broken_arrays_are_one_message(program, data):
    arrays = {name: array.copy() for name, array in to_arrays(program).items()}
    name = data.draw(st.sampled_from([*arrays]), "array")
    raw = bytearray(arrays[name].tobytes())
    for at in data.draw(st.lists(st.integers(0, max(len(raw) - 1, 0)), max_size=3), "bytes"):
        if raw:
            raw[at] = data.draw(st.integers(0, 255), "value")
    array = np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)
    arrays[name] = array[: data.draw(st.integers(0, len(array)), "cut")] if array.ndim else array
    try:
        assert assemble(disassemble(from_arrays(arrays))) == from_arrays(arrays)
    except UserError as error:
        assert str(error)


@PROGRAMS
@given(programs())
def test_the_check_ends_with_a_message_or_none(program):
    try:
        check_program(program, LIMITS)
    except UserError as error:
        assert str(error)


# --- meaning ----------------------------------------------------------------------------------------------------------


@given(expressions(NAMES, TABLES, INT64))
def test_expressions_come_back_from_their_text(expr):
    grammar = Grammar(Cursor(show(expr), "x"))
    grammar.scope = [*NAMES]
    grammar.tables = {table.name: table for table in TABLES}
    assert grammar.expression() == expr


@given(expressions(NAMES, TABLES, INT64), st.tuples(SMALL, SMALL, SMALL))
def test_compiled_and_folded_expressions_mean_the_same(expr, values):
    names, tables = dict(zip(NAMES, values, strict=True)), {table.name: table.values for table in TABLES}
    expected = naive(expr, names, tables)
    assert compiled(expr, tables)(names) == expected
    assert compiled(fold(expr), tables)(names) == expected


@given(expressions(NAMES, TABLES, SMALL), st.tuples(*[st.tuples(SMALL, st.integers(0, 4))] * 3), st.data())
def test_bounds_contain_every_value(expr, spans, data):
    ranges = {name: (low, low + size) for name, (low, size) in zip(NAMES, spans, strict=True)}
    tables = {table.name: table.values for table in TABLES}
    low, high = bounds(expr, ranges, tables)
    names = {name: data.draw(st.integers(*span), name) for name, span in ranges.items()}
    assert low <= naive(expr, names, tables) <= high


@PROGRAMS
@given(programs(st.integers(0, 3)))
def test_the_walk_executes_what_the_program_says(program):
    tables = {table.name: table.values for table in program.tables}
    first = 0
    for section, code in zip(program.sections, section_codes(program), strict=True):
        for place in section.places:
            names = {section.place_name: place}
            for name, value in section.lets:
                names[name] = naive(value, names, tables)
            steps = list(code.steps(place))
            assert [(step.code.pc, step.names) for step in steps] == executed(section.body, names, tables, first)
            for step in steps[:20]:
                for name, value in step.code.node.options:
                    assert step.option(name) == naive(value, step.names, tables)
        first += pcs(section.body)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}sync {'(' * 5000}",
        f"{HEAD}{''.join(f'for i{n} = 0 .. 1 {chr(10)}' for n in range(500))}",
        f"{HEAD}sync {'1 + ' * 500}",
    ],
)
def test_deep_text_is_one_message(text):
    with pytest.raises(UserError):
        assemble(text)
