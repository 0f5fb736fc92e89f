"""The header of a trace: what it is, and what its run was made from."""

from typing import Any

import h5py
import numpy as np

from kpusim.errors import UserError
from kpusim.trace.nexus import by_key, field, group, named_fields, text, texts
from kpusim.trace.schema import SCHEMA, SCHEMA_VERSION, TraceMeta


def write_meta(root: h5py.File, meta: TraceMeta, file_name: str) -> h5py.Group:
    """Write the header into an empty file; returns /entry."""
    root.attrs.update(
        NX_class="NXroot", default="entry", creator=meta.program_name, creator_version=meta.version,
        file_name=file_name, file_time=meta.start_time, HDF5_Version=h5py.version.hdf5_version,
        h5py_version=h5py.version.version,
    )  # fmt: skip
    entry = group(root, "entry", "NXentry", {"default": "utilization"})
    field(entry, "title", meta.title)
    field(entry, "start_time", meta.start_time)
    field(entry, "program_name", meta.program_name).attrs["version"] = meta.version
    machine = group(entry, "machine", "NXcollection")
    field(machine, "description", meta.machine_text, "", "Machine file")
    field(machine, "clock", np.uint64(meta.clock_hz), "Hz", "Core clock")
    field(machine, "peak_hbm", np.float64(meta.peak_hbm_bytes_per_cycle), "byte/cycle", "Attainable HBM bandwidth")
    field(machine, "peak_flops", np.float64(meta.peak_flops_per_cycle), "flop/cycle", "Peak of the matrix engines")
    field(machine, "unit_name", meta.unit_names, "", "Unit")
    field(machine, "opcode", np.array(sorted(meta.opcode_names), np.uint8), "", "Opcode")
    field(machine, "opcode_name", [meta.opcode_names[code] for code in sorted(meta.opcode_names)], "", "Opcode")
    field(machine, "hbm_opcode", np.array(sorted(meta.hbm_opcodes), np.uint8), "", "Opcodes that move HBM bytes")
    field(machine, "memory", meta.memory, "", "What the DMA engines read and write")
    run = group(entry, "kpusim", "NXcollection", {"schema": SCHEMA, "schema_version": SCHEMA_VERSION})
    field(run, "workload", meta.workload_text, "", "Workload file")
    named_fields(run, "options", meta.options)
    return entry


def read_meta(root: h5py.File) -> TraceMeta:
    """The header of a trace. Raises UserError if the file is not a trace or its schema is newer."""
    found = root["entry/kpusim"].attrs if "entry/kpusim" in root else {}
    if found.get("schema") != SCHEMA:
        raise UserError("is an HDF5 file, but not a kpusim trace")
    if found["schema_version"] != SCHEMA_VERSION:
        raise UserError(
            f"has trace schema {found['schema_version']}, this kpusim reads {SCHEMA_VERSION}",
            hint="use the kpusim that wrote it, or run again",
        )
    entry: Any = root["entry"]
    machine, run = entry["machine"], entry["kpusim"]
    names = zip(machine["opcode"][()].tolist(), texts(machine["opcode_name"]), strict=True)
    return TraceMeta(
        title=text(entry["title"]),
        program_name=text(entry["program_name"]),
        version=str(entry["program_name"].attrs["version"]),
        unit_names=texts(machine["unit_name"]),
        clock_hz=int(machine["clock"][()]),
        opcode_names=dict(names),
        hbm_opcodes=frozenset(machine["hbm_opcode"][()].tolist()),
        memory=text(machine["memory"]) if "memory" in machine else "HBM",
        machine_text=text(machine["description"]),
        workload_text=text(run["workload"]),
        options={key: text(value) for key, value in by_key(run["options"]).items()},
        peak_hbm_bytes_per_cycle=float(machine["peak_hbm"][()]),
        peak_flops_per_cycle=float(machine["peak_flops"][()]),
        start_time=text(entry["start_time"]),
    )
