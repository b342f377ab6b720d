// Ratings, as this browser keeps them for the folder the page lies in. Both pages use this.
const RATINGS = ["pass", "unsure", "fail"];
const COLUMNS = ["participant_id", "session_id", "scan", "rating", "note", "rater", "bidsrep_version"];

const store = (() => {
  const folder = location.href.replace(/[?#].*$/, "").replace(/[^/]*$/, "");
  const memory = new Map(); // where the browser keeps nothing (private windows, policies)
  let kept = true;

  function read(name, fallback) {
    try {
      const text = localStorage.getItem(`bidsrep ${name}`);
      if (text !== null) return JSON.parse(text);
    } catch { kept = false; }
    return memory.has(name) ? memory.get(name) : fallback;
  }
  function write(name, value) {
    memory.set(name, value);
    try { localStorage.setItem(`bidsrep ${name}`, JSON.stringify(value)); } catch { kept = false; }
  }

  const place = `ratings ${folder}`, order = `order ${folder}`;
  const keyOf = (participant, session, scan) => [participant, session, scan].join("\t");

  return {
    keyOf,
    get kept() { return kept; },
    get rater() { return read("rater", ""); },
    set rater(name) { write("rater", name); },
    get goOn() { return read("go on", false); },
    set goOn(on) { write("go on", on); },
    get order() { return read(order, []); },
    set order(pages) { write(order, pages); },
    /** {key: {rating, note, exported}} of the whole cohort. */
    all() { return read(place, {}); },
    get(key) { return read(place, {})[key] || { rating: "", note: "" }; },
    set(key, change) {
      const all = read(place, {}); // read again: other tabs write, too
      const entry = { ...(all[key] || { rating: "", note: "" }), ...change, exported: false };
      if (entry.note && !entry.rating) entry.rating = "unsure"; // a note alone says that something is odd
      if (entry.rating) all[key] = entry; else delete all[key];
      write(place, all);
    },
    clear() { write(place, {}); },
    waiting() { return Object.values(this.all()).filter((entry) => !entry.exported).length; },
    /** Rows in the columns of COLUMNS, sorted. */
    rows(version) {
      const rater = this.rater || "unnamed";
      return Object.entries(this.all()).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, entry]) =>
        [...key.split("\t"), entry.rating, entry.note, rater, version]);
    },
    exported() {
      const all = this.all();
      Object.values(all).forEach((entry) => { entry.exported = true; });
      write(place, all);
    },
  };
})();

/** Make an element; texts become text nodes, so nothing in them is ever markup. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  });
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function tsv(header, rows) {
  const cell = (value) => (value === null || value === undefined || value === "" ? "n/a" : String(value).replace(/\s+/g, " ").trim() || "n/a");
  return `${[header, ...rows].map((row) => row.map(cell).join("\t")).join("\n")}\n`;
}

function download(name, text, type) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Write all ratings of the folder to a file, which goes into the folder "ratings" of the derivatives. */
function exportRatings(kind, version) {
  const rows = store.rows(version);
  const when = new Date().toISOString().replace(/[-:]|\.\d+Z$/g, ""); // the last file by name is the newest
  const name = `ratings_${(store.rater || "unnamed").replace(/[^0-9a-zA-Z]+/g, "")}_${when}`;
  if (kind === "tsv") {
    download(`${name}.tsv`, tsv(COLUMNS, rows), "text/tab-separated-values");
  } else {
    const content = {
      Description: "Ratings of scans, made on the pages of bidsrep",
      Columns: {
        rating: { Description: "What the rater said", Levels: { pass: "good to use", unsure: "to be looked at again", fail: "not to be used" } },
        scan: { Description: "The scan that was rated, without participant and session" },
      },
      Ratings: rows.map((row) => Object.fromEntries(row.map((value, index) => [COLUMNS[index], value]))),
    };
    download(`${name}.json`, `${JSON.stringify(content, null, 2)}\n`, "application/json");
  }
  store.exported();
}
