// The map over all pairs (t, k), with the row and the column through one pair.

const CIVIDIS = [[0, "#00224e"], [0.25, "#434e6c"], [0.5, "#7d7c78"], [0.75, "#bcae6c"], [1, "#fee838"]];

function drawMap(node) {
  const parts = data.maps;
  const grids = parts.map((part) => unpack(part.log10));
  const [space, row, column, said] = [element("div"), element("div"), element("div"), readout()];
  let [t, k] = [0, 0];
  const part = () => parts[picked.at()];
  const grid = () => grids[picked.at()];
  const picked = choice("Map", parts.map((one) => partName(one, parts)), () => { begin(); all(); });
  const ofT = slider("later step t", parts[0].times.length, 0, (n) => String(part().times[n]), (n) => { t = n; moved(); });
  const ofK = slider("earlier step k", parts[0].starts.length, 0, (n) => String(part().starts[n]), (n) => { k = n; moved(); });

  function begin() {
    t = part().times.length - 1;
    k = Math.floor(part().starts.length / 2);
    ofT.resize(part().times.length, t);
    ofK.resize(part().starts.length, k);
  }
  const bounds = () => {
    let [low, high] = [0, -Infinity];
    for (const line of grid()) {
      for (const value of line) {
        if (typeof value !== "number") continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    return [Math.max(low, -40), Math.max(high, 0)];
  };
  const cross = () => {
    const [x, y] = [part().starts[k], part().times[t]];
    const line = { color: style("vermillion"), width: 1.5 };
    return [
      { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line },
      { type: "line", yref: "paper", y0: 0, y1: 1, x0: x, x1: x, line },
    ];
  };
  const say = () => {
    const [late, early, value] = [part().times[t], part().starts[k], grid()[t][k]];
    said.textContent = early > late
      ? `t = ${late}, k = ${early}: k comes after t, so nothing depends on it.`
      : `t = ${late}, k = ${early}, lag ${late - early}: ${power(value)}`;
  };
  const ranged = () => { const [low, high] = bounds(); return [low - 1, high + 1]; };
  const makeMap = () => {
    const [low, high] = bounds();
    return {
      traces: [{
        type: "heatmap", x: part().starts, y: part().times, z: grid().map(numbers), zmin: low, zmax: high,
        colorscale: CIVIDIS, hoverongaps: false,
        hovertemplate: "t = %{y}, k = %{x}: 10^%{z:.1f}<extra></extra>",
        colorbar: { tickprefix: "10<sup>", ticksuffix: "</sup>", thickness: 12, outlinewidth: 0 },
      }],
      layout: {
        xaxis: axis("earlier step k", { constrain: "domain" }), yaxis: axis("later step t"),
        shapes: cross(), height: narrow() ? 340 : 470,
      },
    };
  };
  const side = (x, y, at, title) => ({
    traces: [
      { x, y: numbers(y), mode: "lines", line: { color: colour(0), width: 2 }, hovertemplate: "%{x}: 10^%{y:.1f}<extra></extra>" },
      { x: [x[at]], y: [number(y[at])], mode: "markers", marker: { color: colour(1), size: 9 }, hoverinfo: "skip" },
    ],
    layout: { xaxis: axis(title), yaxis: tens("", { range: ranged() }), height: narrow() ? 200 : 230, margin: { l: 56, r: 14, t: 8, b: 44 } },
  });
  const makeRow = () => side(part().starts, grid()[t], k, `earlier step k, at t = ${part().times[t]}`);
  const makeColumn = () => side(part().times, grid().map((line) => line[k]), t, `later step t, at k = ${part().starts[k]}`);

  let waiting = false;
  function moved() {
    say();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      Plotly.relayout(space, { shapes: cross() });
      redraw(row);
      redraw(column);
    });
  }
  function all() {
    say();
    for (const one of [space, row, column]) redraw(one);
  }
  const pointed = (event) => {
    const point = event.points.find((one) => one.data.type === "heatmap");
    if (!point) return;
    [t, k] = point.pointIndex;
    ofT.move(t);
    ofK.move(k);
    moved();
  };
  begin();
  node.append(bar(picked.node, ofT.node, ofK.node), said,
    element("div", { class: "beside" }, space, element("div", {}, row, column)),
    download("pair_map", ["stage", "network", "block", "t", "k", "log10_norm"], () =>
      parts.flatMap((one, n) => one.times.flatMap((late, i) => one.starts.flatMap((early, j) =>
        early > late ? [] : [[one.stage, networkName(one.network), one.block, late, early, grids[n][i][j]]])))));
  say();
  const ready = plot(space, makeMap, "Map of the norm over all pairs of steps.");
  plot(row, makeRow, "The row of the map through the pair.");
  plot(column, makeColumn, "The column of the map through the pair.");
  space.on("plotly_hover", pointed);
  space.on("plotly_click", pointed);
  return ready;
}
