// Norm against lag: a line for each network, layer and block; and what plain autodiff would have said.

function lagAxis(log, longest) {
  return log
    ? axis("lag T − k (steps), logarithmic", { type: "log", range: [0, Math.log10(Math.max(longest, 2))], dtick: 1 })
    : axis("lag T − k (steps)", { range: [0, Math.max(longest, 1)] });
}

function normRange(lines) {
  const values = lines.flat().filter((value) => value !== null);
  if (!values.length) return [-1, 1];
  const low = Math.max(Math.min(...values), LOWEST);
  const high = Math.max(...values);
  const room = 0.05 * Math.max(high - low, 1);
  return [low - room, high + room];
}

function drawNorms(node) {
  const parts = data.curves;
  const networks = unique(parts.map((part) => part.network));
  const blocks = unique(parts.map((part) => part.block));
  const stages = unique(parts.map((part) => part.stage));
  const many = networks.length > 1;
  const look = (part) => {
    const [network, block, stage] = [networks.indexOf(part.network), blocks.indexOf(part.block), stages.indexOf(part.stage)];
    return {
      colour: many ? network : block,
      dash: many ? dash(block + Math.floor(network / COLOURS)) : dash(stage),
      width: stages.length > 1 && stage === 0 ? 1.2 : 2.4,
    };
  };
  const space = element("div");
  const update = () => redraw(space);
  const ofNetworks = switches("Networks and layers", networks.map((name, n) => ({
    value: name, label: networkName(name),
    mark: many ? swatch(n, dash(Math.floor(n / COLOURS))) : null,
  })), update);
  const ofBlocks = switches("Blocks", blocks.map((name, n) => ({
    value: name, label: BLOCKS[name] ?? name, on: n === 0 || (!many && ["cc", "carousel"].includes(name)),
    mark: many ? swatch(-1, dash(n)) : swatch(n, "solid"),
  })), update);
  const ofStages = switches("Stages", stages.map((name, n) => ({
    value: name, label: stageName(name),
    on: n === stages.length - 1,
    mark: many ? swatch(-1, "solid", n ? 3 : 1.2) : swatch(-1, dash(n), n ? 3 : 1.2),
  })), update);
  ofStages.node.hidden = stages.length < 2;
  const scale = radios("Lag", ["linear", "logarithmic"], update);
  const make = () => {
    const log = scale.at() === 1;
    const shown = parts.filter((part) =>
      ofNetworks.chosen.has(part.network) && ofBlocks.chosen.has(part.block) && ofStages.chosen.has(part.stage));
    const traces = [];
    for (const part of shown) {
      const { colour: n, dash: dashes, width } = look(part);
      const name = plain(`${networkName(part.network)}, ${part.block}${stages.length > 1 ? `, ${stageName(part.stage)}` : ""}`);
      if (part.low && shown.length < 7) {
        traces.push({
          x: [...part.lags, ...part.lags.slice().reverse()], y: numbers([...part.high, ...part.low.slice().reverse()]),
          mode: "lines", fill: "toself", fillcolor: faded(colour(n), 0.16), line: { width: 0 }, hoverinfo: "skip",
        });
      }
      traces.push({
        x: part.lags, y: numbers(part.middle), mode: "lines", name, meta: name,
        line: { color: colour(n), dash: dashes, width },
        hovertemplate: "%{meta}<br>lag %{x}: 10^%{y:.1f}<extra></extra>",
      });
    }
    const longest = Math.max(1, ...shown.map((part) => part.lags[part.lags.length - 1]));
    const bands = shown.length < 7 ? shown.filter((part) => part.low).flatMap((part) => [part.low, part.high]) : [];
    const range = normRange([...shown.map((part) => part.middle), ...bands].map(numbers));
    return {
      traces,
      layout: { xaxis: lagAxis(log, longest), yaxis: tens("norm", { range }), shapes: [thousandth()] },
    };
  };
  node.append(
    bar(ofNetworks.node, ofBlocks.node, ofStages.node, scale.node), space,
    download("norm_against_lag", ["stage", "network", "block", "lag", "log10_median", "log10_10_percent", "log10_90_percent"],
      () => parts.flatMap((part) => part.lags.map((lag, n) => [
        part.stage, networkName(part.network), part.block, lag, part.middle[n],
        (part.low ?? part.middle)[n], (part.high ?? part.middle)[n],
      ]))),
  );
  return plot(space, make, "Norm of the transition against the lag, a line for each network and block.");
}

function drawAutodiff(node) {
  const parts = data.autodiff;
  const space = element("div");
  const said = readout();
  const picked = choice("Network", parts.map((part) => partName(part, parts)), () => redraw(space));
  const make = () => {
    const part = parts[picked.at()];
    const exact = data.curves.find((one) => sameNetwork(one, part) && one.block === "hh");
    const lags = part.lags.filter((lag, n) => number(part.log10[n]) !== null);
    const logs = numbers(part.log10).filter((value) => value !== null);
    const traces = [];
    if (exact) {
      traces.push({
        x: exact.lags, y: numbers(exact.middle), mode: "lines", name: "exact", line: { color: faded(colour(0), 0.5), width: 7 },
        hovertemplate: "exact, lag %{x}: 10^%{y:.1f}<extra></extra>",
      });
    }
    traces.push({
      x: lags, y: logs, mode: "lines", name: "plain autodiff", line: { color: colour(1), width: 2.4, dash: "dash" },
      hovertemplate: "plain autodiff, lag %{x}: 10^%{y:.1f}<extra></extra>",
    });
    if (part.zero_from !== null && lags.length) {
      traces.push({
        x: lags.slice(-1), y: logs.slice(-1), mode: "markers", name: "becomes 0",
        marker: { symbol: "x", size: 12, color: colour(1) }, hovertemplate: "here it becomes exactly 0<extra></extra>",
      });
    }
    const last = exact ? exact.middle[exact.middle.length - 1] : null;
    said.textContent = part.zero_from === null && !logs.length
      ? "Plain autodiff returns no finite number."
      : part.zero_from === null
      ? "Plain autodiff returns a number other than 0 at every lag of this run."
      : `Plain autodiff returns exactly 0 from lag ${part.zero_from} on.` +
        (exact ? ` The norm at lag ${exact.lags[exact.lags.length - 1]} is ${power(last)}.` : "");
    const longest = Math.max(1, part.lags[part.lags.length - 1], exact ? exact.lags[exact.lags.length - 1] : 1);
    const range = normRange([logs, exact ? numbers(exact.middle) : []]);
    return {
      traces,
      layout: {
        xaxis: lagAxis(false, longest), yaxis: tens("norm of ∂h<sub>T</sub>/∂h<sub>k</sub>", { range }),
        showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 14, t: 40, b: 48 },
      },
    };
  };
  node.append(bar(picked.node), said, space,
    download("autodiff", ["stage", "network", "lag", "log10_autodiff"], () =>
      parts.flatMap((part) => part.lags.map((lag, n) => [part.stage, networkName(part.network), lag, part.log10[n]]))));
  return plot(space, make, "The norm as plain autodiff computes it, beside the exact one.");
}
