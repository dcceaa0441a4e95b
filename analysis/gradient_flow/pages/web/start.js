// Each figure is drawn when it comes near the window, the first one at once.

const FIGURES = {
  norms: drawNorms, map: drawMap, detours: drawDetours, "gate-paths": drawGatePaths, gates: drawGates,
  spectrum: drawSpectrum, credit: drawCredit, cell: drawCell, training: drawTraining, autodiff: drawAutodiff,
};

const waiting = new Set(document.querySelectorAll("section[data-figure]"));

function begin(section) {
  if (!waiting.delete(section)) return undefined;
  const place = section.querySelector(".figure");
  try {
    return FIGURES[section.dataset.figure](place);
  } catch (error) {
    place.replaceChildren(element("p", { class: "missing" },
      `This figure cannot be drawn from the run's numbers (${error.message}).`));
    return undefined;
  }
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    begin(entry.target);
  }
}, { rootMargin: "300px" });

const [first, ...others] = waiting;
if (first) Promise.resolve(begin(first)).then(() => performance.mark("first-picture"));
// After the first picture has been shown.
setTimeout(() => others.forEach((section) => near.observe(section)), 100);

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const button = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
function showTheme() {
  button.textContent = isDark() ? "Light" : "Dark";
  button.setAttribute("aria-pressed", String(isDark()));
  button.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
}
button.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
  redrawAll();
});
dark.addEventListener("change", () => { showTheme(); redrawAll(); });
showTheme();

let before;
window.addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  for (const section of [...waiting]) begin(section);
  redrawAll();
});
window.addEventListener("afterprint", () => {
  if (before === undefined) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = before;
  redrawAll();
});

let wide = !narrow();
window.addEventListener("resize", () => {
  if (wide === !narrow()) return;
  wide = !narrow();
  redrawAll();
});
