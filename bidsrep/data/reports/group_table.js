// The table of scans: sorted, filtered, a page at a time, and as a file.
const PAGE = 100;
const table = { column: null, down: false, page: 0, order: [] };
const heads = [
  { title: "Participant", name: "participant_id", of: (scan) => subjectOf(scan).id },
  { title: "Session", name: "session_id", of: (scan) => sessionOf(scan)[1] },
  { title: "Scan", name: "scan", of: (scan) => data.scans[scan][1] || "n/a" },
  { title: "Status", name: "status", of: (scan) => sessionOf(scan)[2] },
  { title: "Rating", name: "rating", of: (scan) => { const verdict = verdictOf(scan); return verdict === "not rated" ? null : verdict; } },
  ...data.columns.map((column) => ({
    title: column.name, name: column.name, text: column.text, number: !column.levels,
    of: (scan) => { const value = column.values[scan]; return value === null || !column.levels ? value : column.levels[value]; },
  })),
  ...data.measures.map((measure) => ({
    title: measure.short, sub: measure.model, text: `${measure.title}. ${measure.text}`, number: true, measure,
    name: [measure.model, measure.name].filter(Boolean).join("_"), of: (scan) => measure.byScan[scan],
  })),
];

function sortRows() {
  const scans = Array.from({ length: COUNT }, (_, scan) => scan);
  if (table.column !== null) {
    const { of } = heads[table.column], keys = scans.map(of), collator = new Intl.Collator(undefined, { numeric: true });
    scans.sort((a, b) => {
      const x = keys[a], y = keys[b];
      if (x === null || y === null) return (x === null) - (y === null) || a - b; // nothing goes last, either way
      const order = typeof x === "number" && typeof y === "number" ? x - y : collator.compare(x, y);
      return (table.down ? -order : order) || a - b;
    });
  }
  table.order = scans;
}

const shownRows = () => table.order.filter((scan) => filter.visible[scan]);

function ratingCell(scan) {
  const verdict = verdictOf(scan);
  if (verdict === "not rated") return el("td", {}, "–");
  const said = ratings[scan].map((entry) => `${entry.rater}: ${entry.rating}${entry.note ? ` (${entry.note})` : ""}`).join("; ");
  const notes = ratings[scan].map((entry) => entry.note).filter(Boolean).join("; ");
  return el("td", { title: said, class: notes ? "noted" : null }, el("span", { class: `chip ${verdict}` }, verdict), notes ? el("small", {}, ` ${notes}`) : null);
}

function cellOf(head, scan) {
  if (head.name === "participant_id") {
    const href = hrefOf(scan);
    return el("th", { scope: "row" }, href ? el("a", { href }, subjectOf(scan).id) : subjectOf(scan).id);
  }
  if (head.name === "rating") return ratingCell(scan);
  const value = head.of(scan);
  if (head.name === "status") return el("td", {}, el("span", { class: `chip ${value === "warning" ? "warn" : value}` }, value));
  const text = value === null ? "–" : head.measure ? number(value, head.measure.digits) : String(value);
  return el("td", head.number ? { class: "n" } : {}, text);
}

function fillTable() {
  const rows = shownRows(), pages = Math.max(Math.ceil(rows.length / PAGE), 1);
  table.page = Math.min(table.page, pages - 1);
  const part = rows.slice(table.page * PAGE, (table.page + 1) * PAGE);
  byId("table").tBodies[0].replaceChildren(...part.map((scan) => el("tr", {}, ...heads.map((head) => cellOf(head, scan)))));
  byId("pager").hidden = pages === 1;
  byId("page").textContent = `rows ${table.page * PAGE + 1} to ${table.page * PAGE + part.length} of ${rows.length.toLocaleString("en")}`;
  byId("back").disabled = table.page === 0;
  byId("next").disabled = table.page === pages - 1;
  byId("rows").textContent = rows.length ? "" : "No scan is left by the filter.";
}

function sortBy(column) {
  table.down = table.column === column && !table.down;
  table.column = column;
  [...byId("table").tHead.rows[0].cells].forEach((cell, index) => {
    if (index === column) cell.setAttribute("aria-sort", table.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
  sortRows();
  fillTable();
}

function setUpTable() {
  byId("table").tHead.rows[0].replaceChildren(...heads.map((head, column) => el("th", { scope: "col", class: head.number ? "n" : null },
    el("button", { type: "button", title: head.text || null, onclick: () => sortBy(column) }, head.title, head.sub ? el("small", {}, head.sub) : null))));
  byId("back").addEventListener("click", () => { table.page -= 1; fillTable(); });
  byId("next").addEventListener("click", () => { table.page += 1; fillTable(); });
  byId("as-tsv").addEventListener("click", () => download("bidsrep_scans.tsv", tsv(heads.map((head) => head.name), shownRows().map((scan) => heads.map((head) => head.of(scan)))), "text/tab-separated-values"));
  byId("as-json").addEventListener("click", () => download("bidsrep_scans.json", `${JSON.stringify(shownRows().map((scan) => ({
    ...Object.fromEntries(heads.map((head) => [head.name, head.of(scan)])), ratings: ratings[scan],
  })), null, 1)}\n`, "application/json"));
  sortRows();
  filter.listeners.push(() => { table.page = 0; fillTable(); });
}
