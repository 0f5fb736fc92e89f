"""The hardware units: one file a unit, which says when it can start and what it occupies."""
