"""Turn measurements into sentences.

Start with `diagnose`: what happens to a network's gradient, and why. `reach` measures how far back a loss
sees; `stability` and the findings on inputs, units and layers say what is wrong; `advice` tries out the
`changes` that may help. `audit` compares a derivation of your own with autodiff, parameter by parameter and
lag by lag, by `step_contributions`; `usual_faults` recognises a common factor or another order of gates, and
`audit_report` says what was found.

May import: `step_jacobians` and `measurements`.
"""
