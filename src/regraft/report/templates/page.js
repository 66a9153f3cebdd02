"use strict";
// Tables whose headings are buttons sort by them; the gallery of mistakes shows what its filters ask for.
(() => {
  const value = (row, at) => {
    const cell = row.cells[at];
    const given = cell.dataset.value;
    return given === undefined ? cell.textContent.trim() : given === "" ? -Infinity : Number(given);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, at) => head.querySelector("button")?.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending"
        || (head.getAttribute("aria-sort") === null && !head.classList.contains("n"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const x = value(a, at), y = value(b, at);
        const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    }));
  }
  const form = document.querySelector(".filters");
  if (!form) return;
  const cards = [...document.querySelectorAll("#mistakes .gallery li")];
  const chosen = [...form.querySelectorAll("select")];
  const told = form.querySelector("output");
  const filter = () => {
    let shown = 0;
    for (const card of cards) {
      card.hidden = chosen.some((select) => select.value !== "" && card.dataset[select.name] !== select.value);
      shown += card.hidden ? 0 : 1;
    }
    told.textContent = `${shown} of ${cards.length} shown`;
  };
  chosen.forEach((select) => select.addEventListener("change", filter));
  form.querySelector("button").addEventListener("click", () => {
    chosen.forEach((select) => { select.value = ""; });
    filter();
  });
  filter();
})();
