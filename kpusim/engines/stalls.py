"""Why a unit waits, and what releases it: the names that accounts, spans and traces share."""

MEANINGS = {
    "dma": "a semaphore that a DMA queue signals: data that is not there yet, or a buffer that is still being stored",
    "matrix": "a semaphore that a matrix engine signals: its results, or a buffer that it still reads",
    "vector": "a semaphore that a vector engine signals: its results, or a buffer that it still reads",
    "barrier": "a barrier: the other units have not arrived, or its release is on the way",
    "engine": "a turn at the DMA engine: the engine serves its other queues, or is itself the narrowest part",
    "memory": "outstanding bytes: the DMA engine holds its limit of them, and HBM, NoC or an SRAM port is behind",
    "port": "its SRAM port: operands and results take longer to pass it, or the shared banks behind it, "
    "than the array or the lanes take to compute",
}
"""What a unit waits for, by cause, to be read after "waits for"; up to the colon it says so in short."""

CAUSES = tuple(MEANINGS)

UNIT_CAUSES = {unit: CAUSES.index(unit) for unit in ("dma", "matrix", "vector")}
BARRIER, ENGINE, MEMORY, PORT = (CAUSES.index(cause) for cause in ("barrier", "engine", "memory", "port"))

NO_SPAN = 2**64 - 1
"""`released_by` of a span that waited for no other."""
