// Credit over the input: a line over the steps, and character by character where the input is text.

function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  const of = (hex, n) => parseInt(hex.slice(1 + 2 * n, 3 + 2 * n), 16);
  const mixed = [0, 1, 2].map((n) => {
    const [a, b] = [of(CIVIDIS[low][1], n), of(CIVIDIS[low + 1][1], n)];
    return Math.round(a + (b - a) * (at - low));
  });
  const light = (0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2]) / 255;
  return { ground: `rgb(${mixed.join(",")})`, ink: light > 0.5 ? "#000" : "#fff" };
}

const DECADES = 12;

function drawCredit(node) {
  const parts = data.credit;
  const ready = byPart(node, parts, (place, part) => {
    const [space, said] = [element("div"), readout()];
    const steps = part.log10.map((_, n) => part.first + n);
    const known = numbers(part.log10).filter((value) => value !== null);
    const high = known.length ? Math.max(...known) : 0;
    const low = Math.max(known.length ? Math.min(...known) : -1, high - DECADES);
    const letter = (n) => characters?.[steps[n] - 1];
    let at = steps.length - 1;
    const say = () => {
      const one = letter(at) === undefined ? "" : `, “${shownCharacter(letter(at))}”`;
      said.textContent = `Step ${steps[at]}${one}: ${power(part.log10[at])}`;
    };
    const make = () => ({
      traces: [
        {
          x: steps, y: numbers(part.log10), mode: "lines", line: { color: colour(0), width: 1.8 },
          text: steps.map((step, n) => (letter(n) === undefined ? "" : ` (${plain(shownCharacter(letter(n)))})`)),
          hovertemplate: "step %{x}%{text}: 10^%{y:.1f}<extra></extra>",
        },
        { x: [steps[at]], y: [number(part.log10[at])], mode: "markers", marker: { color: colour(1), size: 10 }, hoverinfo: "skip" },
      ],
      layout: {
        xaxis: axis("step k of the input"), yaxis: tens("size of the gradient by x<sub>k</sub>"), height: narrow() ? 280 : 320,
      },
    });
    place.append(said);
    let spans = [];
    const move = (n) => {
      spans[at]?.classList.remove("at");
      at = Math.min(Math.max(n, 0), steps.length - 1);
      spans[at]?.classList.add("at");
      spans[at]?.scrollIntoView({ block: "nearest" });
      say();
      redraw(space);
    };
    if (characters !== null && letter(0) !== undefined) {
      const strip = element("div", {
        class: "characters", tabindex: 0, role: "application",
        "aria-label": "The text, coloured by credit. The arrow keys go from character to character.",
      });
      spans = steps.map((_, n) => {
        const value = part.log10[n];
        const looks = shade(typeof value === "number" ? (value - low) / Math.max(high - low, 1e-9) : 0);
        const span = element("span", {}, shownCharacter(letter(n) ?? "·"));
        span.style.backgroundColor = looks.ground;
        span.style.color = looks.ink;
        span.addEventListener("click", () => move(n));
        return span;
      });
      // A line may break after each character.
      for (const span of spans) strip.append(span, "\u200b");
      strip.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        move(to);
      });
      place.append(strip, element("p", { class: "note" },
        `Brightest: ${power(high)}. Darkest: ${power(low)} and less.`));
    }
    place.append(space);
    say();
    const done = plot(space, make, "Credit of each input against its step.");
    spans[at]?.classList.add("at");
    space.on("plotly_click", (event) => move(event.points[0].pointIndex));
    return done;
  });
  node.append(download("credit", ["stage", "network", "step", "character", "log10_credit"], () =>
    parts.flatMap((part) => part.log10.map((value, n) =>
      [part.stage, networkName(part.network), part.first + n, characters?.[part.first + n - 1] ?? "", value]))));
  return ready;
}
