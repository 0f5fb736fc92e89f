from kpusim.machine.spec import Machine
def draw(machine: Machine) -> str:
    return machine.name
