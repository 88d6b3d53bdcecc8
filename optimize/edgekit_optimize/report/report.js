"use strict";
// What the page can do without this: everything but sorting, other axes and the row beside the plot.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const points = all(".point[data-c]");
  const chosen = (group) => document.querySelector(`input[name="${group}"]:checked`)?.value;

  for (const one of all(".needs-script")) one.hidden = false;

  // the horizontal axis
  function show() {
    const axis = chosen("axis");
    const key = axis === "size" ? axis : `${axis}-${chosen("place") ?? 0}`;
    for (const view of all(".view")) {
      if (view.dataset.view === key) view.removeAttribute("display");
      else view.setAttribute("display", "none");
    }
    for (const one of all("[data-missing]")) one.hidden = one.dataset.missing !== key || !one.textContent;
    for (const point of points) {
      const spots = Object.fromEntries(point.dataset.x.split(" ").map((spot) => spot.split("=")));
      if (key in spots) {
        point.removeAttribute("display");
        point.style.transform = `translate(${spots[key]}px, ${point.dataset.y}px)`;
      } else point.setAttribute("display", "none");
    }
  }
  for (const one of all('.side input[type="radio"]')) one.addEventListener("change", show);

  // the row of a point, beside the plot
  const card = document.getElementById("row-card");
  function tell(point) {
    const lines = (point.dataset.words ?? "").split("\n");
    const title = document.createElement("code");
    title.textContent = lines[0];
    const list = document.createElement("dl");
    for (const line of lines.slice(1)) {
      const [term, ...rest] = line.split(": ");
      for (const [kind, words] of [["dt", term], ["dd", rest.join(": ")]]) {
        list.append(Object.assign(document.createElement(kind), { textContent: words }));
      }
    }
    card.replaceChildren(title, list);
    light(point.dataset.c, true);
  }
  function light(candidate, on) {
    for (const one of all(`[data-c="${candidate}"]`)) one.classList.toggle("lit", on);
  }
  for (const point of points) {
    const title = point.querySelector("title");
    point.dataset.words = title.textContent;
    point.setAttribute("aria-label", title.textContent.replaceAll("\n", ", "));
    title.remove(); // the card tells it; the browser's own tip would lie over the plot
    for (const event of ["pointerenter", "focus"]) point.addEventListener(event, () => tell(point));
    for (const event of ["pointerleave", "blur"]) {
      point.addEventListener(event, () => light(point.dataset.c, false));
    }
  }
  const first = points.find((one) => one.matches(".chosen:not([display])")) ?? points[0];
  if (first) {
    tell(first);
    light(first.dataset.c, false);
  }
  for (const row of all("tr[data-c]")) {
    row.addEventListener("pointerenter", () => light(row.dataset.c, true));
    row.addEventListener("pointerleave", () => light(row.dataset.c, false));
  }

  // sorting: numbers by data-v, texts as a person would; what has no value stays last
  const words = new Intl.Collator("en", { numeric: true });
  const said = (cell) => (cell.tagName === "TH" ? cell.querySelector("code") ?? cell : cell).textContent.trim();
  function compare(one, other, up) {
    const [a, b] = [one.dataset.v, other.dataset.v];
    if (a === undefined || b === undefined) {
      return up * words.compare(said(one), said(other));
    }
    if (a === "" || b === "") return (a === "") - (b === "");
    return up * (Number(a) - Number(b));
  }
  for (const table of all("table.sorts")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
      const rows = all("tbody tr", table);
      rows.sort((one, other) => compare(one.cells[column], other.cells[column], up));
      table.tBodies[0].append(...rows);
    }));
  }

  // on paper everything is unfolded
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    for (const one of folded) one.open = true;
  });
  addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
})();
