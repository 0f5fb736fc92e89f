"""A program on random data, with every hazard checked; compared with an operator's reference where there is one."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from kpusim.dtypes import Array
from kpusim.errors import UserError
from kpusim.function import Executor, Verdict, compare, random_inputs
from kpusim.isa.program import Program
from kpusim.machine import Machine
from kpusim.operators import Operator, origin_of
from kpusim.plan import Plan, Step
from kpusim.simulate.run import simulate
from kpusim.simulate.workload import lowered_for

__all__ = ["Verification", "execute", "judge", "verdicts", "verify_step"]


@frozen
class Verification:
    """The verdict on one output of one operator."""

    operator: str
    output: str
    verdict: Verdict


def execute(
    program: Program, machine: Machine, seeds: dict[str, int], addresses: list[int] | None = None
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(inputs, outputs) by tensor of an execution in plain mode on random inputs; seeds: by tensor, 0 where none.

    Raises HazardError for what hardware would get wrong, and UserError for outputs that are not complete.
    """
    taken = [tensor.name for tensor in program.tensors if tensor.role != "out"]
    drawn = {seed: random_inputs(program, seed) for seed in {seeds.get(name, 0) for name in taken}}
    inputs = {name: drawn[seeds.get(name, 0)][name] for name in taken}
    executor = Executor(program, machine, inputs)
    simulate(program, machine, addresses, plain=True, watcher=executor)
    return inputs, executor.outputs()


def judge(
    program: Program, name: str, operator: Operator, inputs: dict[str, Array], outputs: dict[str, Array]
) -> list[Verification]:
    """A verdict for each output of `operator`. Raises UserError where the program's tensors are not the operator's."""
    _check_tensors(program, operator)
    return verdicts(name, operator, inputs, outputs)


def verdicts(
    name: str, operator: Operator, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> list[Verification]:
    """A verdict for each output of `operator`, by port."""
    reference, bound = operator.reference(inputs), operator.error_bound(inputs)
    return [
        Verification(name, port.name, compare(
            outputs[port.name], reference[port.name], port.dtype, bound=bound[port.name],
            origin=origin_of(operator, port.name),
        ))
        for port in operator.ports
        if port.role != "in"
    ]  # fmt: skip


def _check_tensors(program: Program, operator: Operator) -> None:
    tensors = {tensor.name: tensor for tensor in program.tensors}
    for port in operator.ports:
        tensor, wanted = tensors.pop(port.name, None), f"{port.dtype} {list(port.shape)} {port.role}"
        if tensor is None:
            raise UserError(f"{operator.family} has a tensor {port.name}, the program has none", allowed=wanted)
        role = "out" if tensor.role == "inout" and port.role == "out" else tensor.role  # it may read what it wrote
        found = f"{tensor.dtype} {list(tensor.shape)} {role}"
        if found != wanted:
            raise UserError(f"{operator.family} has another {port.name}", found=found, allowed=wanted)
    unknown = [tensor.name for tensor in tensors.values() if tensor.role == "in"]
    if unknown:
        raise UserError(f"the program reads what {operator.family} does not have", found=", ".join(unknown))


def verify_step(step: Step, plan: Plan) -> list[Verification]:
    """Executes a step on inputs of its tensors' seeds; a verdict for each output. Raises as `execute`."""
    program = lowered_for(step, plan).program
    seeds = {port: standing.seed for port, standing in step.ports.items()}
    addresses = [step.ports[tensor.name].address for tensor in program.tensors]
    return judge(program, step.label, step.operator, *execute(program, plan.machine, seeds, addresses))
