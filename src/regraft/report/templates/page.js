"use strict";
// Tables whose headings are buttons sort by them; the gallery of mistakes shows what its filters ask for,
// a screenful at a time. Without this script the page shows everything.
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
  const contents = document.querySelector("nav.contents details");
  if (contents && innerWidth < 1120) contents.open = false;

  const form = document.querySelector(".filters");
  if (!form) return;
  const STEP = 24;
  const cards = [...document.querySelectorAll("#mistakes .gallery li")];
  const chosen = [...form.querySelectorAll("select")];
  const told = form.querySelector("output");
  const more = document.querySelector("#mistakes button.more");
  let room = STEP;
  const filter = () => {
    let found = 0;
    for (const card of cards) {
      const fits = chosen.every((select) => select.value === "" || card.dataset[select.name] === select.value);
      found += fits ? 1 : 0;
      card.hidden = !fits || found > room;
    }
    more.hidden = found <= room;
    told.textContent = `${Math.min(found, room)} of ${found} shown`;
  };
  chosen.forEach((select) => select.addEventListener("change", () => { room = STEP; filter(); }));
  form.querySelector("button").addEventListener("click", () => {
    chosen.forEach((select) => { select.value = ""; });
    room = STEP;
    filter();
  });
  more.addEventListener("click", () => { room += 2 * STEP; filter(); });
  addEventListener("beforeprint", () => { room = 4 * STEP; filter(); });
  filter();
})();
