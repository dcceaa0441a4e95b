"""Recurrent layers on top of each other and in both directions.

Start with `stack`: how a network is described (`stack`, `bidirectional`, `backward`) and its parameters.
`unroll_stack` runs it over a sequence.

May import: every room above and the files at the root.
"""
