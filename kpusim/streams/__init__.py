"""Streams of requests to HBM, without a program: both levels of its model side by side, and sweeps of them."""
