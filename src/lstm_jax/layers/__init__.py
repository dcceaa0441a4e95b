"""Recurrent layers on top of each other and in both directions.

Start with `stack`: how a network is described (`stack`, `bidirectional`, `backward`) and its parameters.
`unroll_stack` runs it over a sequence. `description` is a network as values for JSON.

May import: every room above and the files at the root.
"""
