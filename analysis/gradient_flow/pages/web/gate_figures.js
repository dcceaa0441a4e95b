// The gates over time, unit by unit, and the singular values at a lag.

const shownCharacter = (character) => ({ "\n": "↵", "\t": "→", " ": "␣" })[character] ?? character;
const characters = data.text === null ? null : [...data.text];

function drawGates(node) {
  const parts = data.gates;
  const ready = byPart(node, parts, (place, part) => {
    const [space, lines, said] = [element("div"), element("div"), readout()];
    const names = Object.keys(part.gates);
    const grids = Object.fromEntries(names.map((name) => [name, unpack(part.gates[name])]));
    const title = (name) => `${name}: ${GATES[name] ?? "gate"}`;
    const first = Math.max(0, names.findIndex((name) => name === "f" || name === "u"));
    const gate = choice("Gate", names.map(title), () => { redraw(space); }, first);
    const count = part.units.length;
    const unit = slider("unit, by time constant", count, 0,
      (n) => `${part.units[n]} (${n + 1} of ${count})${number(part.constants[n]) === null ? "" : `, time constant ${short(part.constants[n])}`}`, () => { redraw(space); redraw(lines); });
    const steps = grids[names[0]][0].map((_, n) => n + 1);
    const letters = steps.map((step) => plain(shownCharacter(characters?.[step - 1] ?? "")));
    const spelled = characters !== null && steps.length <= 100 && !narrow();
    const time = (more) => axis(spelled ? "character read" : "step", spelled
      ? { tickvals: steps, ticktext: letters, tickangle: 0, showgrid: false, ticks: "", tickfont: { size: 10, family: "monospace" }, ...more } : more);
    const finite = numbers(part.constants).filter((value) => value > 0).map(Math.log10);
    const [shortest, longest] = [Math.min(0, ...finite), Math.max(...finite, 0.7)];
    const reach = [shortest - 0.1, longest + 0.1];
    const makeMap = () => {
      const name = names[gate.at()];
      const signed = name === "g" || name === "n";
      const split = !finite.length ? 1 : narrow() ? 0.66 : 0.78;
      return {
        traces: [
          {
            type: "heatmap", z: grids[name], x: steps, y: part.units.map((_, n) => n), zmin: signed ? -1 : 0, zmax: 1,
            colorscale: signed ? [[0, "#E69F00"], [0.5, style("panel")], [1, "#0072B2"]] : CIVIDIS,
            customdata: part.units.map((one) => steps.map((_, n) => `unit ${one}, step ${n + 1}${letters[n] ? ` (${letters[n]})` : ""}`)),
            hovertemplate: "%{customdata}: %{z:.2f}<extra></extra>",
            colorbar: { thickness: 10, outlinewidth: 0, x: -0.02, xanchor: "right", ticklabelposition: "outside left", tickvals: signed ? [-1, 0, 1] : [0, 0.5, 1] },
          },
          ...(finite.length ? [{
            x: numbers(part.constants), y: part.units.map((_, n) => n), xaxis: "x2", mode: "markers",
            marker: { size: 5, color: colour(0) }, text: part.units.map((one, n) => `unit ${one}: ${short(part.constants[n])} steps`),
            hoverinfo: "text",
          }] : []),
        ],
        layout: {
          xaxis: time({ domain: [0.03, split] }),
          xaxis2: axis(narrow() ? "steps" : "time constant (steps)", { visible: finite.length > 0, domain: [Math.min(split + 0.05, 0.99), 1], type: "log", range: reach, nticks: 3, tickangle: 0 }),
          yaxis: axis("", { autorange: "reversed", ticks: "", showticklabels: false, showgrid: false, zeroline: false, automargin: false }),
          shapes: [{
            type: "rect", xref: "paper", x0: 0.03, x1: 1, y0: unit.at() - 0.5, y1: unit.at() + 0.5,
            line: { color: style("vermillion"), width: 2 },
          }],
          margin: { l: 44, r: 14, t: 10, b: 48 }, height: narrow() ? 360 : 440,
        },
      };
    };
    const makeLines = () => ({
      traces: names.map((name, n) => ({
        x: steps, y: grids[name][unit.at()], mode: "lines", name: plain(title(name)),
        line: { color: colour(n), dash: dash(n), width: 1.8 },
        hovertemplate: "step %{x}: %{y:.2f}<extra>" + plain(name) + "</extra>",
      })),
      layout: {
        xaxis: time({}), yaxis: axis("gate"), showlegend: true, height: 280,
        legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 14, t: narrow() ? 70 : 40, b: 48 },
      },
    });
    said.textContent = part.how
      ? `Time constants in steps, ${part.how}; the longest is ${short(part.constants[0])}.`
      : "This network has no gate that keeps a memory, so its units stand in their own order.";
    place.append(bar(gate.node, unit.node), said, space, lines);
    plot(lines, makeLines, "The gates of one unit over time.");
    const done = plot(space, makeMap, "A gate of every unit over time, units sorted by their time constants.");
    space.on("plotly_click", (event) => {
      const at = event.points[0].pointIndex;
      unit.move(Array.isArray(at) ? at[0] : at);
      redraw(space);
      redraw(lines);
    });
    return done;
  });
  node.append(download("gates", ["stage", "network", "gate", "unit", "time_constant", "step", "activation"], () =>
    parts.flatMap((part) => Object.entries(part.gates).flatMap(([name, packed]) => unpack(packed).flatMap((line, n) =>
      line.map((value, step) => [part.stage, networkName(part.network), name, part.units[n], part.constants[n], step + 1, value]))))));
  return ready;
}

function drawSpectrum(node) {
  const parts = data.spectra;
  const ready = byPart(node, parts, (place, part) => {
    const [space, said] = [element("div"), readout()];
    const logs = unpack(part.log10);
    const all = normRange(logs.map(numbers));
    const begin = Math.floor(part.lags.length / 2);
    const lag = slider("lag", part.lags.length, begin, (n) => `${part.lags[n]} steps`, () => redraw(space));
    const make = () => {
      const line = logs[lag.at()];
      const zero = line.filter((value) => value === "-inf").length;
      said.textContent = `At lag ${part.lags[lag.at()]}, ${part.survivors[lag.at()]} of ${part.count} directions keep a ` +
        `thousandth or more; the largest is ${power(line[0])}.` + (zero ? ` ${zero} of those drawn are exactly 0.` : "");
      return {
        traces: [{
          x: part.numbers, y: numbers(line), mode: "lines+markers", line: { color: colour(0), width: 1.2 },
          marker: { size: 6, symbol: line.map((value) => (value >= -3 ? "circle" : "circle-open")), color: colour(0) },
          hovertemplate: "direction %{x}: 10^%{y:.1f}<extra></extra>",
        }],
        layout: {
          xaxis: axis("direction, the strongest first", { range: [0, part.count + 1] }),
          yaxis: tens("singular value", { range: all }), shapes: [thousandth()],
        },
      };
    };
    place.append(bar(lag.node), said, space);
    return plot(space, make, "Singular values of the transition at one lag.");
  });
  node.append(download("singular_values", ["stage", "network", "lag", "direction", "log10_singular_value"], () =>
    parts.flatMap((part) => unpack(part.log10).flatMap((line, n) => line.map((value, m) =>
      [part.stage, networkName(part.network), part.lags[n], part.numbers[m], value])))));
  return ready;
}
