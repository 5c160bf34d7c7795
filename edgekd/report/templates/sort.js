"use strict";
// Columns of numbers become sortable; without this script every table keeps the order it was written in.
(() => {
  const units = { k: 1e3, M: 1e6, G: 1e9 };
  const shown = /^([+-]?\d*\.?\d+(?:e[+-]?\d+)?)\s*([kMG]\b)?/i;

  // The first number of a cell as it is shown: 1,234, −0.12, 2.1×, 11.2 M; null for a dash or words.
  const valueOf = (cell) => {
    if (!cell) return null;
    const text = (cell.querySelector(":scope > span") || cell).textContent;
    const plain = text.trim().replaceAll("\u2212", "-").replaceAll(",", "").replace(/^\[\s*/, "");
    const found = shown.exec(plain);
    return found ? Number(found[1]) * (units[found[2]] || 1) : null;
  };

  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null); // dashes last, whichever way
    return sign * (a - b);
  };

  const sort = (table, column, sign) => {
    for (const body of table.tBodies) {
      const rows = written.get(body);
      const fixed = rows.filter((row) => row.classList.contains("divider"));
      const moved = rows.filter((row) => !row.classList.contains("divider"));
      if (sign) {
        const values = new Map(moved.map((row) => [row, valueOf(row.cells[column])]));
        moved.sort((a, b) => compare(values.get(a), values.get(b), sign));
      }
      body.append(...fixed, ...moved);
    }
  };

  const written = new WeakMap();
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    if ([...table.tBodies].every((body) => body.rows.length < 2)) continue;
    for (const body of table.tBodies) written.set(body, [...body.rows]);
    table.classList.add("can-sort");
    heads.forEach((head, column) => {
      if (!head.classList.contains("n")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const way = next[head.getAttribute("aria-sort")];
        for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", way);
        sort(table, column, { none: 0, ascending: 1, descending: -1 }[way]);
      });
    });
  }
})();
