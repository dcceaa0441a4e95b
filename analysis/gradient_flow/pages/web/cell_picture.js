// One step of an LSTM as a graph: what flows forward along each arrow, and the cotangent that comes back.
//
// The run has the activations, the pre-activations and the total cotangents δh, δC, δz of each step; what an
// arrow carries follows from them by the product rule, as in the derivation:
//   δC_t = δC_{t+1} ⊙ f_{t+1} + δh_t ⊙ o_t ⊙ (1 − tanh² C_t),   δz_f = δC_t ⊙ C_{t−1} ⊙ f (1 − f), …

const ARROWS = [
  // name, from, to, where its number stands, what is forward, what is backward, the ways it belongs to
  ["c_before", [52, 70], [214, 70], [132, 58], (v) => v.c_before, (v) => v.d_c * v.f, ["memory"], "Cₜ₋₁", "δCₜ · f"],
  ["f", [230, 200], [230, 88], [236, 148], (v) => v.f, (v) => v.d_c * v.c_before, ["f"], "f", "δCₜ · Cₜ₋₁"],
  ["kept", [246, 70], [384, 70], [315, 58], (v) => v.f * v.c_before, (v) => v.d_c, ["memory", "f"], "f · Cₜ₋₁", "δCₜ"],
  ["i", [340, 200], [392, 150], [318, 172], (v) => v.i, (v) => v.d_c * v.g, ["i"], "i", "δCₜ · g"],
  ["g", [460, 200], [408, 150], [456, 172], (v) => v.g, (v) => v.d_c * v.i, ["g"], "g", "δCₜ · i"],
  ["new", [400, 124], [400, 88], [408, 110], (v) => v.i * v.g, (v) => v.d_c, ["i", "g"], "i · g", "δCₜ"],
  ["c", [416, 70], [808, 70], [720, 58], (v) => v.c, (v) => v.d_c_later, ["memory", "f", "i", "g"], "Cₜ", "δCₜ from later steps"],
  ["to_tanh", [640, 70], [640, 112], [648, 100], (v) => v.c, (v) => v.d_h * v.o * (1 - v.tanh_c ** 2), ["h"], "Cₜ", "δhₜ · o · (1 − tanh² Cₜ)"],
  ["tanh_c", [640, 144], [640, 184], [648, 170], (v) => v.tanh_c, (v) => v.d_h * v.o, ["h"], "tanh Cₜ", "δhₜ · o"],
  ["o", [592, 200], [624, 200], [609, 240], (v) => v.o, (v) => v.d_h * v.tanh_c, ["o"], "o", "δhₜ · tanh Cₜ"],
  ["h", [656, 200], [808, 200], [730, 188], (v) => v.h, (v) => v.d_h, ["h", "o"], "hₜ", "δhₜ"],
  ["z_f", [230, 330], [230, 234], [236, 290], (v) => v.z_f, (v) => v.d_z_f, ["f"], "z_f", "δz_f = δCₜ · Cₜ₋₁ · f (1 − f)"],
  ["z_i", [340, 330], [340, 234], [346, 290], (v) => v.z_i, (v) => v.d_z_i, ["i"], "z_i", "δz_i = δCₜ · g · i (1 − i)"],
  ["z_g", [460, 330], [460, 234], [466, 290], (v) => v.z_g, (v) => v.d_z_g, ["g"], "z_g", "δz_g = δCₜ · i · (1 − g²)"],
  ["z_o", [560, 330], [560, 217], [566, 290], (v) => v.z_o, (v) => v.d_z_o, ["o"], "z_o", "δz_o = δhₜ · tanh Cₜ · o (1 − o)"],
].map(([name, from, to, at, forward, backward, ways, what, how]) => ({ name, from, to, at, forward, backward, ways, what, how }));

const PARTS = [
  ["×", 230, 70], ["+", 400, 70], ["×", 400, 137], ["tanh", 640, 128], ["×", 640, 200],
  ["σ  f", 230, 217], ["σ  i", 340, 217], ["tanh  g", 460, 217], ["σ  o", 560, 200],
];
const ENDS = [["C", "t−1", 30, 70], ["C", "t", 836, 70], ["h", "t", 836, 200], ["h", "t−1", 30, 345], ["x", "t", 30, 372]];

const WAYS = [
  ["all", "all paths", "", []],
  ["memory", "along the memory", "Straight back along the memory: each step multiplies the cotangent by f alone.", ["c", "kept", "c_before"]],
  ["f", "through the forget gate", "From the memory into the forget gate, and on to h and x of this step.", ["c", "kept", "f", "z_f"]],
  ["i", "through the input gate", "From the memory into the input gate, and on to h and x of this step.", ["c", "new", "i", "z_i"]],
  ["g", "through the candidate", "From the memory into the candidate, and on to h and x of this step.", ["c", "new", "g", "z_g"]],
  ["o", "through the output gate", "From the output into the output gate, and on to h and x of this step.", ["h", "o", "z_o"]],
  ["h", "from the output into the memory", "From hₜ through the tanh: how a loss that reads h reaches the memory.", ["h", "tanh_c", "to_tanh"]],
];

function vector(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function arrow(from, to) {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const size = Math.hypot(dx, dy);
  const [ux, uy] = [dx / size, dy / size];
  const foot = [to[0] - 10 * ux, to[1] - 10 * uy];
  const tip = [to, [foot[0] - 5 * uy, foot[1] + 5 * ux], [foot[0] + 5 * uy, foot[1] - 5 * ux]];
  return [
    vector("line", { class: "flow", x1: from[0], y1: from[1], x2: foot[0], y2: foot[1] }),
    vector("polygon", { class: "tip", points: tip.map((point) => point.join(",")).join(" ") }),
  ];
}

const subscripted = (symbol, index) => {
  const sub = vector("tspan", { dy: 4, "font-size": 10 });
  sub.textContent = index;
  return [symbol, sub];
};

function cellImage(values, back, way) {
  const lit = (ways) => way === "all" || ways.includes(way);
  const picture = vector("g", { class: back ? "backward" : "forward" });
  const rail = vector("g", {});
  for (const [y, end] of [[345, 560], [372, 560]]) rail.append(vector("line", { class: "flow", x1: 48, y1: y, x2: end, y2: y }));
  for (const [gate, x] of [["f", 230], ["i", 340], ["g", 460], ["o", 560]]) {
    picture.append(vector("line", { class: lit([gate]) ? "flow" : "flow off", x1: x, y1: 330, x2: x, y2: 372 }));
  }
  if (!["all", "f", "i", "g", "o"].includes(way)) rail.setAttribute("class", "off");
  picture.append(rail);
  for (const one of ARROWS) {
    const [from, to] = back ? [one.to, one.from] : [one.from, one.to];
    const group = vector("g", lit(one.ways) ? {} : { class: "off" });
    const told = vector("text", { class: "value", x: one.at[0], y: one.at[1], "text-anchor": one.from[1] === one.to[1] ? "middle" : "start" });
    told.textContent = short((back ? one.backward : one.forward)(values));
    const title = vector("title", {});
    title.textContent = back ? one.how : one.what;
    group.append(...arrow(from, to), told, title);
    picture.append(group);
  }
  for (const [symbol, x, y] of PARTS) {
    const wide = symbol.length > 1;
    picture.append(wide
      ? vector("rect", { class: "part", x: x - 32, y: y - 16, width: 64, height: 32, rx: 5 })
      : vector("circle", { class: "part", cx: x, cy: y, r: 15 }));
    const word = vector("text", { x, y: y + 5, "text-anchor": "middle" });
    word.textContent = symbol;
    picture.append(word);
  }
  for (const [symbol, index, x, y] of ENDS) {
    picture.append(vector("text", { x, y: y + 5, "text-anchor": "middle" }, ...subscripted(symbol, index)));
  }
  const image = vector("svg", { viewBox: "0 38 866 354", role: "img", "aria-label": `One step of the LSTM, ${back ? "backward" : "forward"}; its numbers are in the table below.` });
  image.append(picture);
  return image;
}

function drawCell(node) {
  const parts = data.cells;
  return byPart(node, parts, (place, part) => {
    const image = element("div", { class: "cell wide", tabindex: 0, role: "region", "aria-label": "Picture of one step" });
    const [said, body] = [readout(), element("tbody")];
    const last = part.steps.length - 1;
    const update = () => redraw(image);
    const time = slider("step t", part.steps.length, last, (n) => String(part.steps[n]), update);
    const unit = choice("Unit", part.units.map((one) => `unit ${one}`), update);
    const way = choice("Path", WAYS.map(([, label]) => label), update);
    const direction = radios("Direction", ["forward", "backward"], update);
    const at = (n) => Object.fromEntries(Object.entries(part.values).map(([name, rows]) => {
      const value = rows[n][unit.at()];
      return [name, typeof value === "number" ? value : Number.NaN];
    }));
    const show = () => {
      const values = at(time.at());
      const back = direction.at() === 1;
      const [chosen, , words, chain] = WAYS[way.at()];
      image.replaceChildren(cellImage(values, back, chosen));
      const told = chain.map((name) => ARROWS.find((one) => one.name === name)).map((one) => (back
        ? `${one.how} = ${short(one.backward(values))}` : `${one.what} = ${short(one.forward(values))}`));
      if (!back) told.reverse();
      said.textContent = chosen === "all"
        ? (back ? "Each arrow carries the change of the loss with what flows there; the δz go on to h and x through the weights." : "Each arrow carries what flows there.")
        : `${words} ${told.join("; ")}.`;
      body.replaceChildren(...ARROWS.map((one) => element("tr", {},
        element("td", {}, one.what), element("td", {}, short(one.forward(values))),
        element("td", {}, one.how), element("td", {}, short(one.backward(values))))));
    };
    const table = element("details", {}, element("summary", {}, "The same as a table"),
      element("div", { class: "wide" }, element("table", {}, element("thead", {}, element("tr", {},
        ...["forward", "value", "backward, the cotangent", "value"].map((head) => element("th", { scope: "col" }, head)))), body)));
    place.append(bar(direction.node, way.node, unit.node, time.node), image, said, table,
      download("cell", ["stage", "network", "step", "unit", ...Object.keys(part.values)], () =>
        part.steps.flatMap((step, n) => part.units.map((one, m) =>
          [part.stage, networkName(part.network), step, one, ...Object.values(part.values).map((rows) => rows[n][m])]))));
    drawAlso(image, show);
  });
}
