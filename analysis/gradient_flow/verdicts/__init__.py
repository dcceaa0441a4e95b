"""Numbers become sentences.

Start with `diagnose`: what happens to a network's gradient, why, and what would change it. `audit` compares a
derivation of your own with the right one, term by term, with `step_contributions` as its measure.

May import: `measurements` and the rooms above it.
"""
