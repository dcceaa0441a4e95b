// Paths of the gradient by detours through the recurrent weights, and by the gates that they may pass.

const GATES = { i: "input gate", f: "forget gate", g: "candidate", o: "output gate", r: "reset gate", u: "update gate", n: "candidate", h: "the state" };

function linesFigure(node, lines, name, label) {
  // `lines` are {label, lags, values}; each has a switch, and the first is all paths together.
  const space = element("div");
  const update = () => redraw(space);
  for (const line of lines) {
    const gone = line.values.filter((_, n) => line.lags[n] > 0).every((value) => value === "-inf");
    if (gone) line.label += " (exactly 0)";
  }
  const ofLines = switches("Paths", lines.map((line, n) => ({
    value: String(n), label: line.label, on: line.on, mark: swatch(line.look, line.dash, line.width),
  })), update);
  const scale = radios("Lag", ["linear", "logarithmic"], update);
  const make = () => {
    const shown = lines.filter((line, n) => ofLines.chosen.has(String(n)));
    const longest = Math.max(1, ...lines.map((line) => line.lags[line.lags.length - 1]));
    return {
      traces: shown.map((line) => ({
        x: line.lags, y: numbers(line.values), mode: line.lags.length < 40 ? "lines+markers" : "lines", meta: plain(line.label),
        line: { color: colour(line.look), dash: line.dash, width: line.width }, marker: { size: 4 },
        hovertemplate: "%{meta}<br>lag %{x}: 10^%{y:.1f}<extra></extra>",
      })),
      layout: {
        xaxis: lagAxis(scale.at() === 1, longest), shapes: [thousandth()],
        yaxis: tens("norm", { range: normRange(shown.map((line) => numbers(line.values))) }),
      },
    };
  };
  node.append(bar(ofLines.node, scale.node), space);
  return plot(space, make, label);
}

// A figure that is made anew for each part that is chosen.
function byPart(node, parts, draw) {
  const place = element("div");
  const show = (n) => {
    for (const old of place.querySelectorAll(".plot")) { Plotly.purge(old); drawn.delete(old); }
    place.replaceChildren();
    return draw(place, parts[n]);
  };
  const picked = choice("Network", parts.map((part) => partName(part, parts)), show);
  node.append(bar(picked.node), place);
  return show(0);
}

const INK = COLOURS - 1;

// Of the same sample as the groups.
function wholeLine({ whole }) {
  return whole ? [{ label: "all paths together", lags: whole.lags, values: whole.log10, look: INK, dash: "solid", width: 3.2 }] : [];
}

function drawDetours(node) {
  const parts = data.detours;
  const words = (m, last) => (m === last ? `more than ${last - 1} detours` : m === 1 ? "1 detour" : `${m === 0 ? "no" : m} detour${m === 1 ? "" : "s"}`);
  const ready = byPart(node, parts, (place, part) => linesFigure(place, [
    ...wholeLine(part),
    ...part.terms.map((values, m) => ({
      label: words(m, part.terms.length - 1), lags: part.lags, values, look: m % INK, dash: dash(Math.floor(m / INK) + (m % 2)), width: 2,
    })),
  ], "detours", "Norm against the lag of the paths with each number of detours."));
  node.append(download("paths_by_detours", ["stage", "network", "block", "detours", "lag", "log10_norm"], () =>
    parts.flatMap((part) => part.terms.flatMap((values, m) => part.lags.map((lag, n) =>
      [part.stage, networkName(part.network), part.block, m, lag, values[n]])))));
  return ready;
}

function drawGatePaths(node) {
  const parts = data.gate_paths;
  const ready = byPart(node, parts, (place, part) => {
    const kept = (name) => (name === "none" ? [] : name.split("+"));
    const names = Object.keys(part.curves).sort((a, b) => kept(a).length - kept(b).length);
    const most = Math.max(...names.map((name) => kept(name).length));
    const label = (name) => {
      const gates = kept(name);
      if (!gates.length) return "no gate";
      if (gates.length === most && most > 1) return `all gates (${gates.join(", ")})`;
      return gates.length === 1 ? `only ${gates[0]}, the ${GATES[gates[0]] ?? "gate"}` : `only ${gates.join(", ")}`;
    };
    return linesFigure(place, names.map((name, n) => {
      const all = kept(name).length === most && most > 1;
      return {
        label: label(name), lags: part.lags, values: part.curves[name], width: all ? 3.2 : 2,
        on: names.length < 9 || kept(name).length < 2 || kept(name).length >= most,
        look: all ? INK : n % INK, dash: all ? "solid" : dash(Math.floor(n / INK) + (n % 2)),
      };
    }), "gate paths", "Norm against the lag where only some gates pass the gradient on.");
  });
  node.append(download("paths_by_gate", ["stage", "network", "kept_gates", "lag", "log10_norm"], () =>
    parts.flatMap((part) => Object.entries(part.curves).flatMap(([name, values]) => part.lags.map((lag, n) =>
      [part.stage, networkName(part.network), name, lag, values[n]])))));
  return ready;
}
