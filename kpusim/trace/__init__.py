"""The cycle trace: a NeXus-conforming HDF5 file that is written while a program runs and read afterwards."""
