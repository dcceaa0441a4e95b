// Search without a mouse. "/" goes to the field (Sphinx has that key, but leaves the drawer of a narrow window
// closed), Enter lists the results, arrow keys go up and down in them, Enter opens one, Escape goes back.
(() => {
  const field = () => document.querySelector("input[name=q]");
  const typing = () => /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);

  const search = () => {
    const drawer = document.getElementById("__navigation");
    if (drawer && field().getBoundingClientRect().right <= 0) {
      drawer.checked = true;
      drawer.dispatchEvent(new Event("change"));
    }
    field().focus();
    field().select();
  };

  document.addEventListener(
    "keydown",
    (event) => {
      if (!field() || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
      const results = [...document.querySelectorAll("#search-results li > a")];
      const at = results.indexOf(document.activeElement);
      let next = null;
      if (event.key === "/" && !typing()) next = search;
      else if (results.length && event.key === "Escape") next = search;
      else if (results.length && event.key === "ArrowDown" && (at >= 0 || !typing() || document.activeElement === field()))
        next = () => results[Math.min(at + 1, results.length - 1)].focus();
      else if (at === 0 && event.key === "ArrowUp") next = search;
      else if (at > 0 && event.key === "ArrowUp") next = () => results[at - 1].focus();
      if (next === null) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      next();
    },
    true,
  );

  document.addEventListener("DOMContentLoaded", () => {
    if (field()) field().placeholder += "  ( / )";
    // After a search the next Tab is the first result, not the first link of the side bar.
    const list = document.getElementById("search-results");
    if (list && new URLSearchParams(location.search).get("q")) {
      list.tabIndex = -1;
      list.focus({ preventScroll: true });
    }
  });
})();
