"""Why a unit waits, and what releases it: the names that accounts, spans and traces share."""

CAUSES = ("dma", "matrix", "vector", "barrier", "engine", "memory")
"""What a unit waits for: a semaphore that a DMA queue, a matrix or a vector engine signals; a barrier; a DMA
queue's turn at its engine; the engine's limit of outstanding bytes (HBM or NoC behind it)."""

UNIT_CAUSES = {unit: CAUSES.index(unit) for unit in ("dma", "matrix", "vector")}
BARRIER, ENGINE, MEMORY = (CAUSES.index(cause) for cause in ("barrier", "engine", "memory"))

NO_SPAN = 2**64 - 1
"""`released_by` of a span that waited for no other."""
