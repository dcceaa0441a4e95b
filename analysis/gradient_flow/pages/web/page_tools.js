// What every figure uses: the numbers of the page, elements, plots in the colours of the page, files of numbers.

const data = JSON.parse(document.getElementById("numbers").textContent);

// The colours of lines are the style's; the last one is the ink, black or white.
const COLOURS = 7;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const STROKES = { solid: "", dash: "8 4", dot: "2 3", dashdot: "8 3 2 3", longdash: "12 4", longdashdot: "12 3 2 3" };
const BLOCKS = {
  hh: "hh: ∂h by ∂h", hc: "hc: ∂h by ∂C", ch: "ch: ∂C by ∂h", cc: "cc: ∂C by ∂C",
  total_c: "total_c: dC by dC, h follows", chain_c: "chain_c: product of one-step ∂C by ∂C",
  carousel: "carousel: product of forget gates",
};
const LOWEST = -160;

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A number that is not finite comes as a text; a plot leaves a gap there.
const number = (value) => (typeof value === "number" ? value : null);
const numbers = (values) => values.map(number);
const unpack = (packed) =>
  packed.values.map((row) => row.map((value) => (typeof value === "number" ? value / packed.per : value)));

function power(value) {
  if (value === "-inf") return "exactly 0";
  return typeof value === "number" ? `10^${value.toFixed(1)}` : "no number";
}

function short(value) {
  if (value === "inf") return "∞";
  if (typeof value !== "number") return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e4 ? String(Number(value.toPrecision(3))) : value.toExponential(2);
}

// Plotly reads some HTML in its texts.
const plain = (text) =>
  String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const colour = (n) => style(`line-${n % COLOURS}`);
const dash = (n) => DASHES[n % DASHES.length];
const faded = (hex, share) => {
  const at = (n) => parseInt(hex.slice(n, n + 2), 16);
  return `rgba(${at(1)}, ${at(3)}, ${at(5)}, ${share})`;
};

const narrow = () => window.innerWidth < 640;
const coarse = () => window.matchMedia("(pointer: coarse)").matches;

function axis(title, more) {
  return {
    title: { text: title, standoff: 8 },
    gridcolor: style("grid"), zerolinecolor: style("grid"), linecolor: style("rule"), automargin: true,
    ...more,
  };
}
const tens = (title, more) =>
  axis(title, { tickprefix: "10<sup>", ticksuffix: "</sup>", exponentformat: "none", ...more });

// What has been drawn, by the node: it is drawn again when the colours change.
const drawn = new Map();

// What stands in a plot without a point.
function nothing(traces) {
  const drawn = (values) => (values ?? []).flat().some((value) => Number.isFinite(value));
  if (traces.some((trace) => drawn(trace.z ?? trace.y))) return [];
  const text = traces.length ? "No finite number to draw; what is exactly 0 has no power of ten." : "Nothing is switched on.";
  return [{ text, xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false, font: { color: style("quiet") } }];
}

function plot(node, make, label) {
  const show = () => {
    const { traces, layout } = make();
    const whole = {
      height: narrow() ? 330 : 420, showlegend: false, hovermode: "closest",
      dragmode: coarse() ? false : "zoom",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style("quiet"), activecolor: style("accent") },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: style("ink"), size: narrow() ? 11 : 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: style("panel"), font: { color: style("ink") } },
      margin: { l: 56, r: 14, t: 14, b: 48 },
      annotations: nothing(traces),
      ...layout,
    };
    return Plotly.react(node, traces, whole, {
      responsive: true, displaylogo: false, displayModeBar: coarse() ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
  };
  node.classList.add("plot");
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", label);
  drawn.set(node, show);
  return show();
}

const redraw = (node) => drawn.get(node)();

function redrawAll() {
  for (const show of drawn.values()) show();
}

// Pictures without plotly draw themselves again by the same way.
function drawAlso(node, show) {
  drawn.set(node, show);
  show();
}

const thousandth = () => ({
  type: "line", xref: "paper", x0: 0, x1: 1, y0: -3, y1: -3,
  line: { color: style("quiet"), width: 1, dash: "dot" },
});

function download(name, heads, rows, label) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    // A spreadsheet takes a text that begins like this for a formula.
    if (typeof value === "string" && /^[=+@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  const button = element("button", { type: "button", class: "download" }, label ?? "Numbers as CSV");
  button.addEventListener("click", () => {
    const lines = [heads, ...rows()].map((row) => row.map(cell).join(","));
    const link = element("a", { download: `${name}.csv` });
    link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  return button;
}

const networkName = (name) => data.networks[name] ?? name;
const stageName = (name) => data.stages[name] ?? name;
const severalStages = (parts) => new Set(parts.map((part) => part.stage)).size > 1;
const unique = (values) => [...new Set(values)];

function partName(part, parts) {
  const words = [networkName(part.network)];
  if (part.block && new Set(parts.map((one) => one.block)).size > 1) words.push(part.block);
  if (severalStages(parts)) words.push(stageName(part.stage));
  return words.join(", ");
}

const sameNetwork = (a, b) => a.stage === b.stage && a.network === b.network;
