// What needs a look, what columns explain, and what raters said.
const KINDS = { failed: ["failed", "bad"], missing: ["missing", "warn"], warning: ["warning", "warn"], lesions: ["lesion load", "warn"], outlier: ["outlier", "other"] };
const MORE = 12;
const problems = { hidden: new Set(), most: MORE };

/** One entry per session, with all that is to be said of it, the worst first. */
function problemCards() {
  const cards = new Map(), kinds = Object.keys(KINDS), open = new Set();
  data.scans.forEach(([session], scan) => { if (filter.visible[scan]) open.add(session); });
  data.problems.forEach((problem) => {
    if (problems.hidden.has(problem.kind) || (problem.session === null ? filter.active : !open.has(problem.session))) return;
    if (!cards.has(problem.who)) cards.set(problem.who, { who: problem.who, session: problem.session, lines: [] });
    const card = cards.get(problem.who);
    if (card.session === null) card.session = problem.session;
    problem.texts.forEach((text) => card.lines.push([problem.kind, text]));
  });
  const rank = (card) => Math.min(...card.lines.map(([kind]) => kinds.indexOf(kind)));
  return [...cards.values()].sort((a, b) => rank(a) - rank(b));
}

function fillProblems() {
  const host = byId("problems");
  if (!host) return;
  const cards = problemCards();
  host.replaceChildren(...cards.slice(0, problems.most).map((card) => {
    const href = card.session === null ? "" : data.subjects[data.sessions[card.session][0]].href;
    const who = href ? el("a", { href: encodeURIComponent(href) }, card.who) : card.who;
    return el("div", { class: `note ${KINDS[card.lines[0][0]][1]}` }, el("p", {}, el("b", {}, who)),
      ...card.lines.map(([kind, text]) => el("p", {}, el("span", { class: `chip ${KINDS[kind][1]}` }, KINDS[kind][0]), ` ${text}`)));
  }));
  if (!cards.length) host.append(el("p", { class: "muted" }, "Nothing of what is chosen."));
  byId("more").hidden = cards.length <= problems.most;
  byId("more").textContent = `Show ${Math.min(cards.length - problems.most, 50)} more of ${cards.length - problems.most}`;
}

function setUpProblems() {
  if (!byId("problems")) return;
  const counts = {};
  data.problems.forEach((problem) => { counts[problem.kind] = (counts[problem.kind] || 0) + 1; });
  byId("kinds").append(...Object.keys(KINDS).filter((kind) => counts[kind]).map((kind) => el("label", {},
    el("input", { type: "checkbox", checked: true, onchange: (event) => { problems.hidden[event.target.checked ? "delete" : "add"](kind); fillProblems(); } }),
    ` ${KINDS[kind][0]} (${counts[kind].toLocaleString("en")})`)));
  byId("more").addEventListener("click", () => { problems.most += 50; fillProblems(); });
  filter.listeners.push(() => { problems.most = MORE; fillProblems(); });
}

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);

/** A share as a bar, with a mark where chance is. */
function bar(share, chance) {
  if (share === null || share === undefined) return el("td", { class: "n" }, "–");
  const full = el("i", { class: "full" }), mark = el("i", { class: "mark" });
  full.style.width = `${share * 100}%`;
  mark.style.left = `${chance * 100}%`;
  return el("td", { class: "n" }, el("span", { class: "bar", "aria-hidden": "true" }, full, mark), el("span", { class: "share" }, percent(share)), el("small", { class: "chance" }, `chance ${percent(chance)}`));
}

const rowsOf = (id, rows) => byId(id).replaceChildren(...rows.map((cells) => el("tr", {}, ...cells.map((cell, index) => (cell instanceof Node ? cell
  : el(index ? "td" : "th", index ? (typeof cell === "number" ? { class: "n" } : {}) : { scope: "row" }, String(cell)))))));

function setUpEffects() {
  if (byId("effect-rows")) {
    const select = byId("effect"), likely = data.effects.findIndex(({ column }) => /scanner|site|cent|manufact|institut|field/i.test(column));
    options(select, data.effects.map(({ column }, index) => [index, column]));
    select.value = String(Math.max(likely, 0));
    const fill = () => rowsOf("effect-rows", data.effects[Number(select.value)].rows.map((row) => [row.what, row.contrast, row.scans, row.groups, bar(row.eta, row.eta_chance), bar(row.accuracy, row.chance)]));
    select.addEventListener("change", fill);
    fill();
  }
  if (byId("repeat-rows")) {
    rowsOf("repeat-rows", data.repeats.map((row) => [row.what, row.contrast, row.people, el("td", { class: "n" }, number(row.icc, 2)),
      el("td", { class: "n" }, row.lower === null ? "–" : `${number(row.lower, 2)} to ${number(row.upper, 2)}`)]));
  }
}

function setUpRatings() {
  const { raters, pairs, common, fleiss, elsewhere } = data.ratings;
  const here = Object.keys(store.all()).length, waiting = store.waiting();
  byId("raters").hidden = !raters.length;
  rowsOf("rater-rows", raters.map((row) => [row.rater, row.count, row.pass, row.unsure, row.fail]));
  byId("pairs").hidden = !pairs.length;
  rowsOf("pair-rows", pairs.map((row) => [row.raters.join(" and "), row.count, el("td", { class: "n" }, percent(row.same)), el("td", { class: "n" }, row.kappa === null ? "–" : number(row.kappa, 2))]));
  const lines = [];
  if (raters.length > 2) lines.push(common ? `All raters together: ${common} scans, Fleiss' kappa ${fleiss === null ? "not defined" : number(fleiss, 2)}.` : "There is no scan that all raters have rated.");
  if (elsewhere) lines.push(`${elsewhere} rating${elsewhere === 1 ? " is" : "s are"} of scans that are not here.`);
  if (here) lines.push(`${here} scan${here === 1 ? " was" : "s were"} rated in this browser${waiting ? `, ${waiting} of them not exported yet` : ""}.`);
  byId("rating-lines").replaceChildren(...lines.map((line) => el("p", {}, line)));
  byId("rating-help").hidden = Boolean(raters.length || here);
  byId("rating-export").hidden = !here;
  byId("rating-tsv").addEventListener("click", () => exportRatings("tsv", data.version));
  byId("rating-json").addEventListener("click", () => exportRatings("json", data.version));
}
