// The cohort's data as the sections use it, and the filter they share.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const COUNT = data.scans.length;

const sessionOf = (scan) => data.sessions[data.scans[scan][0]];
const subjectOf = (scan) => data.subjects[sessionOf(scan)[0]];
const nameOf = (scan) => {
  const [, session] = sessionOf(scan);
  return [subjectOf(scan).id, session === "n/a" ? "" : session, data.scans[scan][1]].filter(Boolean).join(" ");
};
/** The scan's place on its subject's page; empty without a page. */
const hrefOf = (scan) => {
  const [, session] = sessionOf(scan), { href } = subjectOf(scan);
  return href && `${encodeURIComponent(href)}#scan=${encodeURIComponent(session)}/${encodeURIComponent(data.scans[scan][1])}`;
};

// Ratings: those of the files, and over them what was rated in this browser.
const ratings = data.scans.map(() => []);
data.ratings.rows.forEach(([scan, rater, rating, note]) => ratings[scan].push({ rater, rating, note }));
(() => {
  const here = store.all(), rater = store.rater || "unnamed";
  data.scans.forEach(([, key], scan) => {
    const entry = here[store.keyOf(subjectOf(scan).id, sessionOf(scan)[1], key)];
    if (!entry) return;
    ratings[scan] = ratings[scan].filter((other) => other.rater !== rater);
    ratings[scan].push({ rater, rating: entry.rating, note: entry.note });
  });
})();
const VERDICTS = ["pass", "unsure", "fail", "mixed", "not rated"];
const verdictOf = (scan) => {
  const kinds = new Set(ratings[scan].map((entry) => entry.rating));
  return kinds.size === 0 ? "not rated" : kinds.size === 1 ? [...kinds][0] : "mixed";
};

const BUILT_IN = ["Contrast", "Status", "Rating"];
const STATES = ["failed", "incomplete", "warning", "complete"];
/** What scans can be grouped, coloured and filtered by: {name, text, levels, of(scan)}; numbers have no levels. */
const columns = [
  { name: "Contrast", text: "", levels: data.contrasts.levels, of: (scan) => data.contrasts.values[scan] },
  ...data.columns.map((column) => ({
    ...column, name: BUILT_IN.includes(column.name) ? `${column.name} (participants)` : column.name, of: (scan) => column.values[scan],
  })),
  { name: "Status", text: "", levels: STATES, of: (scan) => STATES.indexOf(sessionOf(scan)[2]) },
  { name: "Rating", text: "", levels: VERDICTS, of: (scan) => VERDICTS.indexOf(verdictOf(scan)) },
];

/** Values of every measure by scan: the mean where a scan was compared with several. */
data.measures.forEach((measure) => {
  const sums = new Float64Array(COUNT), counts = new Uint16Array(COUNT);
  measure.rows.forEach((scan, index) => { sums[scan] += measure.values[index]; counts[scan] += 1; });
  measure.byScan = Array.from(sums, (sum, scan) => (counts[scan] ? sum / counts[scan] : null));
  measure.odd = new Map(measure.outliers.map(([index, score]) => [index, score]));
});
const number = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
const show = (measure, value) => `${number(value, measure.digits)}${measure.unit && measure.unit.length <= 6 ? ` ${measure.unit === "degree" ? "°" : measure.unit}` : ""}`;

const words = data.scans.map((_, scan) => [nameOf(scan), ...data.columns.map((column) => {
  const value = column.values[scan];
  return value === null ? "" : column.levels ? column.levels[value] : value;
}), ...ratings[scan].map((entry) => entry.note)].join(" ").toLowerCase());

const filter = { visible: new Uint8Array(COUNT).fill(1), active: false, listeners: [] };

/** Which scans are wanted: all words, and the chosen level of every select. */
function applyFilter() {
  const wanted = byId("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const choices = [...document.querySelectorAll("#filters select[data-column]")].filter((select) => select.value !== "")
    .map((select) => [columns.find((column) => column.name === select.dataset.column), Number(select.value)]);
  const which = byId("column").value;
  if (which !== "" && byId("level").value !== "") choices.push([columns[Number(which)], Number(byId("level").value)]);
  let count = 0;
  for (let scan = 0; scan < COUNT; scan += 1) {
    const hit = wanted.every((word) => words[scan].includes(word)) && choices.every(([column, level]) => column.of(scan) === level);
    filter.visible[scan] = hit ? 1 : 0;
    count += hit ? 1 : 0;
  }
  filter.active = wanted.length > 0 || choices.length > 0;
  byId("shown").textContent = `${count.toLocaleString("en")} of ${COUNT.toLocaleString("en")} ${COUNT === 1 ? "row" : "rows"}`;
  byId("show-all").hidden = !filter.active;
  filter.listeners.forEach((listener) => listener());
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
}

function setUpFilter() {
  const select = (name) => document.querySelector(`#filters select[data-column="${name}"]`);
  BUILT_IN.forEach((name) => {
    const column = columns.find((other) => other.name === name);
    options(select(name), [["", "any"], ...column.levels.map((level, index) => [index, level || "none"])]);
  });
  const named = columns.map((column, index) => [index, column]).filter(([, column]) => column.levels && !BUILT_IN.includes(column.name));
  byId("by-column").hidden = !named.length;
  options(byId("column"), [["", "any column"], ...named.map(([index, column]) => [index, column.name])]);
  byId("column").addEventListener("change", () => {
    const which = byId("column").value;
    options(byId("level"), [["", "any"], ...(which === "" ? [] : columns[Number(which)].levels.map((level, index) => [index, level]))]);
    byId("level").disabled = which === "";
    applyFilter();
  });
  byId("words").addEventListener("input", applyFilter);
  document.querySelectorAll("#filters select[data-column], #level").forEach((node) => node.addEventListener("change", applyFilter));
  byId("show-all").addEventListener("click", () => { byId("filters").reset(); byId("level").disabled = true; applyFilter(); });
}
