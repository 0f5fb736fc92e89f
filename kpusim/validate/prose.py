"""What the page `docs/trust.md` says in words; its numbers are in `page`."""

__all__ = [
    "CALIBRATION",
    "HEAD",
    "HELD",
    "LEFT_OUT",
    "LEVEL",
    "MEMORY",
    "MODELLED",
    "ORIGINS",
    "RECIPES",
    "SCORES",
    "SECOND",
    "SYSTOLIC",
    "WORST",
]

HEAD = """\
# How far to trust it

What the simulator says, held against what was measured, and against other simulators.
`python -m kpusim.validate.page` makes this page and its plots, from a checkout;
`kpusim validate tests/data/h200_public.csv` prints the scores of measured rows by itself.
"""

HELD = """\
## What it is held against

[tests/data/h200_public.csv](../tests/data/h200_public.csv): {rows} rows measured on one NVIDIA H200 (PyTorch 2.11,
CUDA 13): GEMMs, attention by two libraries and without fusion, norms, elementwise operators, gathers, launches, and
whole decoders. Every operator was captured many times in one CUDA graph, over inputs of 256 MB and more by turns, so
that they come from HBM; the median of nine bursts is what counts.

A row goes to a recipe by its family and its parameters; the recipe names the kernels that a library launches, each an
operator with a mapping; every kernel is lowered and simulated on [the machine](../kpusim/machines/h200.toml), which
is written in the same terms as any KPU. No recipe knows a row's time: one rule holds for all sizes.

Of long kernels not all is simulated:

- a slice of the machine, a quarter as a rule, with its share of the work stands for all, where every tile has some;
- two shorter runs stand for a long one, which takes as much more for each further round (steps along K, waves of
  thread blocks, blocks of keys, bands of queries, rows) as the longer of the two for one;
- of very many equal thread blocks, some tell how long all take.

Whole runs are held to that in the tests of recipes: to 2 % in GEMMs, 2 to 10 % in attention, 5 % in norms and
elementwise operators, and 6 % in gathers.
"""

SCORES = """\
## The H200

Absolute errors in percent of what was measured; the rank correlation is Spearman's.
"""

CALIBRATION = """\
## Calibration

What no public source gives is fitted to these rows, and to nothing else: {count} constants, each a quantity of the
machine file with a meaning of its own ([machine.md](machine.md)). `python -m kpusim.validate.calibrate
tests/data/h200_public.csv -o docs/calibration.json` does it: each constant is simulated at a few values, and the mean
over families of their mean error is brought to its least, decoders not among them. *Public* is what specifications
alone would give; *fitted* what that procedure finds; *in the file* what predictions use: that in round numbers where it
moves the mean, but for `front_end.load`, which is set to decoders, where kernels alternate most.
"""

LEFT_OUT = """
Mean errors with none of them (all constants as public), with those of the machine file, and of rows left out: the
constants are fitted to all other families, or to all rows of other lengths. A constant that only the family left out
tells of is then as public. Decoders are in no fit (but see `front_end.load` above); neither are they
among the rows by length.
"""

ORIGINS = """\
## Where the error comes from

Mean error with its sign, by measured time (rows): above 0 the prediction is too long. Short rows are launches and
latencies; long ones are what engines and memory sustain.
"""

WORST = """\
## The worst rows

With what the cycles of the longest kernel go to, in the mean over the units of a kind.
"""

MODELLED = """\
## What is modelled, and what is not

Modelled, as [model.md](model.md) says: matrix engines that are fed from SRAM or registers and the pace they sustain,
older instructions that wait for each other, vector engines by lane-cycles an element and class of instruction, thread
blocks that are dealt to SMs, the last wave of them too, DMA engines with so many bytes under way, the crossbar's
ports, an L2 that is looked up line by line, HBM by channels, banks, rows and refresh; and for every kernel a launch,
and where another stands before it the loading of its program. The last two are added to what is simulated.

Not modelled:

- **Clocks under power.** The chip's clock is constant. Long GEMMs draw more power than there is: the prefill of Llama
  3.1 8B was measured at 1890 MHz instead of 1980 (`sm_mhz` of the rows).
- **What one kernel leaves in L2.** Each begins with an empty one. Inputs of the measured operators come from HBM by
  construction; in decoders activations may come from L2, which is quicker than predicted.
- **The two halves of L2**, and any replacement but of the least recently used line of a hashed set.
- **Warps.** A thread block is a stream of transfers, matrix and vector instructions; an SM's schedulers, register
  banks and instruction cache are in the lane-cycles of an element, or nowhere. L1 does not cache.
- **TLBs that forget.** The first walk to each page of a gathered table is waited for; translations are then there for
  good.
- **Overlap of kernels.** The next begins when the one before has ended; what a launch takes, and a program's loading,
  is one constant each.
- **What is left of a long kernel.** The linear step from two short runs knows nothing that begins later, as L2 that
  fills up, or the last wave's tail beside those that were simulated.
- **Choices of libraries.** They pick one of hundreds of kernels by heuristics of their own. A recipe has the switch
  points that are published or follow from a kernel's source, and no others.
"""

RECIPES = """\
## Recipes

The first of its family that applies to a row is what it runs as (`kpusim validate --recipes`).
"""

SECOND = """\
## A second machine

[{name}](../kpusim/machines/{name}.toml) is {description}. It has the lowering, the recipes and the calibration
constants of the H200; nothing was fitted to it. Predictions in fp16, launches included:
"""

SYSTOLIC = """\
## Systolic arrays against SCALE-Sim

Cycles of one matmul on the machine `scale-sim`, whose memory takes no time; by the closed form of Samajdar et al.
([arXiv:1811.02883](https://arxiv.org/abs/1811.02883)); and as SCALE-Sim 3.0.0 reports, which gives the number of the
last cycle, counted from 0. [tests/test_dataflows.py](../tests/test_dataflows.py) has a thousand random ones more.
"""

MEMORY = """\
## Memory against Ramulator 2

One channel under 100,000 reads of 32 bytes, as fast as its queue takes them: cycles of `kpusim hbm` and of Ramulator
2.1 ([tests/data](../tests/data)).
"""

LEVEL = """\
The simulator's own model of HBM is one level above that reference, and is held to it on the same requests: over
sequential, strided, random and mixed streams of 64 B to 16 KiB it is off by 3 % in bandwidth in the mean, and by up
to 12 % in the latency of reads ([model.md](model.md#the-dram-reference); `kpusim hbm --sweep --reference`):

![Latency against load, and bandwidth against the size of accesses, of kpu-datacenter](hbm-sweep.svg)
"""
