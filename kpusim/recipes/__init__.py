"""How a measured row ran: which kernels of a vendor's library, lowered how, told in one table.

A recipe knows what is public of a library (its kernels' block sizes, passes and switch points), never a row's time.
"""
