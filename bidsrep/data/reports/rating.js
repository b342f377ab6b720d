// Rating on a subject's page: p, u, f, notes, arrow keys; kept in the browser, exported as TSV or JSON.
const data = JSON.parse(document.getElementById("data").textContent);
const KEYS = { p: "pass", u: "unsure", f: "fail" };

const rating = (() => {
  const scans = data.scans.map(({ session, scan }) => ({
    key: store.keyOf(data.participant, session, scan), place: `${session}/${scan}`, label: [session === "n/a" ? "" : session, scan].filter(Boolean).join(" "),
    figures: [],
  }));
  document.querySelectorAll(".of-scan").forEach((node) => {
    const scan = scans.find((other) => other.place === node.dataset.scan);
    if (scan) scan.figures.push(node);
  });
  let current = 0;
  const here = location.pathname.split("/").pop(), pages = store.order, at = pages.findIndex(({ href }) => href === decodeURIComponent(here));

  const buttons = Object.entries(KEYS).map(([key, kind]) => el("button", { type: "button", class: kind, "aria-pressed": "false", onclick: () => rate(kind) }, `${kind[0].toUpperCase()}${kind.slice(1)} `, el("kbd", {}, key)));
  const name = el("b", {}), said = el("output", { "aria-live": "polite" });
  const note = el("input", { type: "text", class: "note-field", placeholder: "note (n)", "aria-label": "Note", autocomplete: "off", maxlength: 500, onchange: () => { store.set(scans[current].key, { note: note.value.replace(/\s+/g, " ").trim() }); show(); } });
  const rater = el("input", { type: "text", placeholder: "your name or initials", autocomplete: "off", maxlength: 60, value: store.rater, onchange: () => { store.rater = rater.value.replace(/\s+/g, " ").trim(); } });
  const goOn = el("input", { type: "checkbox", onchange: () => { store.goOn = goOn.checked; } });
  goOn.checked = store.goOn;
  const only = el("input", { type: "checkbox", onchange: () => { document.body.classList.toggle("only", only.checked); if (only.checked) look(); } });
  const marks = el("span", { id: "marks", class: "wide", role: "group", "aria-label": "Scans" }, ...scans.map((scan, index) => el("button", { type: "button", title: scan.label, "aria-label": scan.label, onclick: () => { go(index); } })));
  const arrow = (step, text, label) => el("button", { type: "button", "aria-label": label, title: label, onclick: () => move(step) }, text);

  function rate(kind) {
    store.set(scans[current].key, { rating: kind });
    if (store.goOn && current < scans.length - 1) go(current + 1); else show();
  }

  function show() {
    const entry = store.get(scans[current].key);
    name.textContent = scans[current].label;
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.classList.contains(entry.rating))));
    if (document.activeElement !== note) note.value = entry.note;
    scans.forEach((scan, index) => {
      const mark = marks.children[index], own = store.get(scan.key).rating;
      mark.className = own;
      mark.setAttribute("aria-label", `${scan.label}${own ? `, ${own}` : ""}`);
      if (index === current) mark.setAttribute("aria-current", "true"); else mark.removeAttribute("aria-current");
      scan.figures.forEach((figure) => figure.classList.toggle("current", index === current));
    });
    const rated = scans.filter((scan) => store.get(scan.key).rating).length, waiting = store.waiting();
    said.textContent = `${rated} of ${scans.length} rated${waiting ? `, ${waiting} not exported` : ""}${store.kept ? "" : ". This browser keeps nothing: export before you leave."}`;
  }

  /** Bring the scan's figures into sight. */
  function look() {
    const [first] = scans[current].figures;
    if (first) first.scrollIntoView({ block: "start", behavior: "instant" });
  }

  function go(index) {
    if (document.activeElement === note) note.blur(); // what was typed belongs to the scan that was shown
    current = index;
    show();
    look();
  }

  function move(step) {
    const next = current + step;
    if (next >= 0 && next < scans.length) { go(next); return; }
    const page = at < 0 ? null : pages[at + step];
    if (page) location.href = `${encodeURIComponent(page.href)}#${step > 0 ? "first" : "last"}`;
    else said.textContent = at < 0 ? "Open group.html once: then the arrows go on to the other subjects." : `This is the ${step > 0 ? "last" : "first"} subject.`;
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target === note) {
      if (event.key === "Enter" || event.key === "Escape") note.blur();
      return;
    }
    if (event.target.matches("input[type=text], input[type=range], input[type=search], select, textarea")) return;
    if (KEYS[event.key]) rate(KEYS[event.key]);
    else if (event.key === "n") { event.preventDefault(); note.focus(); }
    else if (event.key === "o") only.click();
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") { event.preventDefault(); move(event.key === "ArrowRight" ? 1 : -1); }
  }

  function fromHash() {
    const [, place] = location.hash.match(/^#scan=(.*)$/) || [];
    if (location.hash === "#last") current = scans.length - 1;
    const wanted = place === undefined ? -1 : scans.findIndex((scan) => scan.place === place.split("/").map(decodeURIComponent).join("/"));
    if (wanted >= 0) current = wanted;
    show();
    if (wanted >= 0 || location.hash === "#last" || location.hash === "#first") look();
  }

  function start() {
    const legend = [["p", "pass"], ["u", "unsure"], ["f", "fail"], ["n", "note"], ["←", "previous scan or subject"], ["→", "next scan or subject"], ["o", "only this scan's figures"]];
    const exporting = (kind) => el("button", { type: "button", onclick: () => { exportRatings(kind, data.version); show(); } }, `Export ${kind.toUpperCase()}`);
    const panel = el("div", { id: "rating-more", hidden: true },
      el("p", {}, ...legend.map(([sign, text]) => el("span", {}, el("kbd", {}, sign), ` ${text}`))),
      el("p", {}, el("label", {}, "Rater ", rater), el("label", {}, goOn, " go on after a rating"), el("label", {}, only, " only this scan's figures")),
      el("p", {}, exporting("tsv"), exporting("json"), el("button", { type: "button", onclick: () => { store.set(scans[current].key, { rating: "", note: "" }); note.value = ""; show(); } }, "Clear this rating")),
      el("p", { class: "muted" }, "Ratings stay in this browser until you export them: those of all subjects of this folder in one file, for the folder \"ratings\" beside the pages."));
    const more = el("button", { type: "button", "aria-expanded": "false", "aria-controls": "rating-more", onclick: () => { panel.hidden = !panel.hidden; more.setAttribute("aria-expanded", String(!panel.hidden)); } }, "Keys, export");
    document.body.append(el("aside", { id: "rating", "aria-label": "Rating" },
      el("div", { class: "bar" }, arrow(-1, "←", "Previous scan or subject (left arrow)"), name, arrow(1, "→", "Next scan or subject (right arrow)"), ...buttons, note, marks, said, more), panel));
    document.addEventListener("keydown", key);
    addEventListener("hashchange", fromHash);
    addEventListener("storage", show); // rated in another tab
    // A click into a figure moves the keyboard into the figure's own document; take it back.
    addEventListener("blur", () => setTimeout(() => {
      const figure = document.activeElement;
      if (figure && figure.tagName === "OBJECT" && figure.matches(":hover")) { figure.blur(); window.focus(); }
    }));
    fromHash();
  }

  return { start, scans };
})();
if (rating.scans.length) rating.start();
