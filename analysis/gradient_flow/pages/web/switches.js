// Controls: switches, a choice, a slider. All are the browser's own, so keys and screen readers work them.

let controls = 0;

function swatch(colourNumber, dashName, width) {
  const space = "http://www.w3.org/2000/svg";
  const image = document.createElementNS(space, "svg");
  image.setAttribute("class", "swatch");
  image.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "line");
  const looks = {
    x1: 0, x2: 30, y1: 6, y2: 6, "stroke-width": width ?? 3,
    style: `stroke: ${colourNumber < 0 ? "currentColor" : `var(--line-${colourNumber % COLOURS})`}`,
    "stroke-dasharray": STROKES[dashName] ?? "",
  };
  for (const [name, value] of Object.entries(looks)) line.setAttribute(name, value);
  image.append(line);
  return image;
}

// Options are {value, label, mark?, on?}; `chosen` is the set of values that are switched on.
function switches(title, options, changed) {
  const chosen = new Set(options.filter((option) => option.on !== false).map((option) => option.value));
  const node = element("fieldset", {}, element("legend", {}, title));
  for (const option of options) {
    const box = element("input", { type: "checkbox", checked: chosen.has(option.value), value: option.value });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(option.value);
      else chosen.delete(option.value);
      changed();
    });
    node.append(element("label", {}, box, option.mark ?? null, option.label));
  }
  return { node, chosen };
}

// One of several; there is nothing to see where there is but one.
function choice(title, options, changed, start) {
  const id = `choice-${++controls}`;
  const list = element("select", { id });
  options.forEach((option, n) => list.append(element("option", { value: n }, option)));
  list.value = String(start ?? 0);
  list.addEventListener("change", () => changed(Number(list.value)));
  const node = element("div", { class: "picked" }, element("label", { class: "label", for: id }, title), list);
  node.hidden = options.length < 2;
  return { node, at: () => Number(list.value), list };
}

function radios(title, options, changed) {
  const name = `radios-${++controls}`;
  const node = element("fieldset", {}, element("legend", {}, title));
  let at = 0;
  options.forEach((option, n) => {
    const dot = element("input", { type: "radio", name, value: n, checked: n === 0 });
    dot.addEventListener("change", () => { at = n; changed(n); });
    node.append(element("label", {}, dot, option));
  });
  return { node, at: () => at };
}

// A slider over the positions of a list; `say` tells what stands there.
function slider(title, count, start, say, changed) {
  const id = `slider-${++controls}`;
  const range = element("input", { id, type: "range", min: 0, max: Math.max(count - 1, 0), step: 1 });
  range.value = String(start);
  const told = element("output", { for: id, class: "label" });
  const show = () => {
    told.textContent = `${title}: ${say(Number(range.value))}`;
    range.setAttribute("aria-valuetext", say(Number(range.value)));
  };
  range.addEventListener("input", () => { show(); changed(Number(range.value)); });
  range.setAttribute("aria-label", title);
  const node = element("div", { class: "slid" }, told, range);
  node.hidden = count < 2;
  show();
  return {
    node, range,
    at: () => Number(range.value),
    move: (n) => { range.value = String(n); show(); },
    resize: (size, n) => { range.max = String(Math.max(size - 1, 0)); range.value = String(n); node.hidden = size < 2; show(); },
  };
}

const bar = (...controlsOfIt) => element("div", { class: "controls" }, ...controlsOfIt);
const readout = () => element("output", { class: "readout", "aria-live": "polite" });
