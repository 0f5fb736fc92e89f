"""Workload files and the planner: what runs in which order, on which addresses."""

from kpusim.plan.load import WorkloadFile, load_workload, parse_workload, workload_names
from kpusim.plan.memory import Memory
from kpusim.plan.planner import Plan, Standing, Step, operator_plan, plan_workload
from kpusim.plan.spec import Workload

__all__ = [
    "Memory",
    "Plan",
    "Standing",
    "Step",
    "Workload",
    "WorkloadFile",
    "load_workload",
    "operator_plan",
    "parse_workload",
    "plan_workload",
    "workload_names",
]
