// Before and after training, and every look between them where a run was watched.

function drawTraining(node) {
  let ready;
  if (severalStages(data.curves)) ready = drawStages(node);
  if (data.watch) ready = drawWatch(node) ?? ready;
  return ready;
}

function horizonOf(part) {
  for (let n = 1; n < part.lags.length; n++) {
    const value = part.middle[n];
    if (value === "-inf" || (typeof value === "number" && value < -3)) return part.lags[n];
  }
  return null;
}

function drawStages(node) {
  const places = unique(data.curves.map((part) => JSON.stringify([part.network, part.block]))).map(JSON.parse);
  const [space, said] = [element("div"), readout()];
  const of = ([network, block]) => data.curves.filter((part) => part.network === network && part.block === block);
  const picked = choice("Network and block", places.map(([network, block]) => `${networkName(network)}, ${block}`), () => redraw(space));
  const make = () => {
    const shown = of(places[picked.at()]);
    said.textContent = shown.map((part) => {
      const far = horizonOf(part);
      if (part.middle.every((value) => value === "nan")) return `${stageName(part.stage)}: no number`;
      return `${stageName(part.stage)}: ${far === null ? "above a thousandth at every lag" : `below a thousandth from lag ${far} on`}`;
    }).join("; ") + ".";
    return {
      traces: shown.map((part, n) => ({
        x: part.lags, y: numbers(part.middle), mode: "lines", name: plain(stageName(part.stage)),
        line: { color: colour(n), dash: dash(shown.length - 1 - n), width: 2.4 },
        hovertemplate: `${plain(stageName(part.stage))}<br>lag %{x}: 10^%{y:.1f}<extra></extra>`,
      })),
      layout: {
        xaxis: lagAxis(false, Math.max(1, ...shown.map((part) => part.lags[part.lags.length - 1]))),
        yaxis: tens("norm", { range: normRange(shown.map((part) => numbers(part.middle))) }), shapes: [thousandth()],
        showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 14, t: 40, b: 48 },
      },
    };
  };
  node.append(bar(picked.node), said, space, download("before_and_after", ["stage", "network", "block", "lag", "log10_median"], () =>
    data.curves.flatMap((part) => part.lags.map((lag, n) => [part.stage, networkName(part.network), part.block, lag, part.middle[n]]))));
  return plot(space, make, "The norm against the lag before and after training.");
}

function drawWatch(node) {
  const watch = data.watch;
  const steps = watch.steps;
  const grids = watch.curves.map((one) => unpack(one.log10));
  const [curves, over, losses, gates, said] = [element("div"), element("div"), element("div"), element("div"), readout()];
  const title = (one) => `layer ${one.layer}, ${one.block ?? one.gate}`;
  const shown = [];
  const all = () => shown.forEach(redraw);
  const picked = choice("Layer and block", watch.curves.map(title), all);
  const gate = choice("Gate", watch.gates.map(title), all);
  const look = slider("training step", steps.length, steps.length - 1, (n) => String(steps[n]), all);
  const room = 0.02 * Math.max(steps[steps.length - 1] - steps[0], 1);
  const span = [steps[0] - room, steps[steps.length - 1] + room];
  const here = () => ({
    type: "line", yref: "paper", y0: 0, y1: 1, x0: steps[look.at()], x1: steps[look.at()],
    line: { color: style("vermillion"), width: 1.5 },
  });
  const makeCurves = () => {
    const grid = grids[picked.at()];
    const ghost = style("quiet");
    // All looks in one line with gaps.
    const [x, y] = [[], []];
    for (const row of grid) { x.push(...watch.lags, null); y.push(...numbers(row), null); }
    const now = numbers(grid[look.at()]);
    return {
      traces: [
        { x, y, mode: "lines", opacity: 0.45, line: { color: ghost, width: 0.8 }, hoverinfo: "skip", connectgaps: false },
        {
          x: watch.lags, y: now, mode: "lines", line: { color: colour(0), width: 3 },
          hovertemplate: "lag %{x}: 10^%{y:.1f}<extra></extra>",
        },
      ],
      layout: {
        xaxis: lagAxis(false, watch.lags[watch.lags.length - 1]),
        yaxis: tens("norm", { range: normRange(grid.map(numbers)) }), shapes: [thousandth()],
      },
    };
  };
  const makeHorizons = () => {
    const beyond = watch.lags.length ? watch.lags[watch.lags.length - 1] : 1;
    const one = watch.horizons.find((part) => watch.curves.length && title(part) === title(watch.curves[picked.at()])) ?? watch.horizons[0];
    const now = one.steps[look.at()];
    said.textContent = `Training step ${steps[look.at()]}, ${title(one)}: ` + (now === "inf"
      ? "above a thousandth at every lag." : typeof now === "number" ? `a thousandth after ${short(now)} steps.` : "no horizon, its states overflowed.");
    return {
      traces: watch.horizons.flatMap((part, n) => [
        {
          x: steps, y: part.steps.map((value) => (value === "inf" ? beyond : number(value))), mode: "lines+markers", name: plain(title(part)),
          line: { color: colour(n), dash: dash(Math.floor(n / COLOURS)), width: 2 },
          marker: { size: 6, symbol: part.steps.map((value) => (value === "inf" ? "triangle-up" : "circle")) },
          text: part.steps.map((value) => (value === "inf" ? `beyond ${beyond}` : short(value))), hovertemplate: "step %{x}: %{text}<extra>%{fullData.name}</extra>",
        },
      ]),
      layout: {
        xaxis: axis("training step", { range: span }), yaxis: axis("horizon (steps)", { rangemode: "tozero" }), shapes: [here()], height: 300,
        showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 14, t: 48, b: 48 },
      },
    };
  };
  const makeLosses = () => ({
    traces: [{ x: watch.losses.map((row) => row[0]), y: watch.losses.map((row) => number(row[1])), mode: "lines", line: { color: colour(6), width: 1.8 } }],
    layout: { xaxis: axis("training step", { range: span }), yaxis: axis("training loss"), shapes: [here()], height: 240 },
  });
  const makeGates = () => {
    const one = watch.gates[gate.at()];
    const rows = unpack(one.quantiles);
    const names = ["5 %", "25 %", "median", "75 %", "95 %"];
    return {
      traces: rows[0].map((_, n) => ({
        x: steps, y: rows.map((row) => number(row[n])), mode: "lines", name: names[n] ?? String(n),
        line: { color: colour(0), width: n === 2 ? 3 : 1.3, dash: ["dot", "dash", "solid", "dash", "dot"][n] ?? "solid" },
      })),
      layout: {
        xaxis: axis("training step", { range: span }), yaxis: axis(`gate ${plain(one.gate)}: ${GATES[one.gate] ?? ""}`), shapes: [here()], height: 280,
        showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 14, t: 48, b: 48 },
      },
    };
  };
  node.append(bar(picked.node, watch.gates.length > 1 ? gate.node : null, look.node), said, curves, over, losses, gates);
  let ready;
  const begin = (space, make, label) => { shown.push(space); ready = plot(space, make, label); };
  if (watch.curves.length) begin(curves, makeCurves, "The norm against the lag at one training step, all others in grey.");
  if (watch.horizons.length) begin(over, makeHorizons, "The horizon over training.");
  if (watch.losses.length) begin(losses, makeLosses, "The training loss.");
  if (watch.gates.length) begin(gates, makeGates, "Quantiles of a gate over training.");
  node.append(
    download("norms_over_training", ["training_step", "layer", "block", "lag", "log10_median"], () =>
      watch.curves.flatMap((one, n) => grids[n].flatMap((row, m) => row.map((value, lag) => [steps[m], one.layer, one.block, watch.lags[lag], value]))), "Norms as CSV"),
    " ",
    download("horizons_over_training", ["training_step", "layer", "block", "horizon"], () =>
      watch.horizons.flatMap((one) => one.steps.map((value, n) => [steps[n], one.layer, one.block, value])), "Horizons as CSV"),
  );
  return ready;
}
