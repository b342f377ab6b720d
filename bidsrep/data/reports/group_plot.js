// A drawing of scans as points on a canvas: each is a link to its subject's page, by pointer and by keyboard.
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const tip = byId("tip"), live = byId("live");
const plots = [];
const PALETTE = 10;
let theme = {};

function readTheme() {
  theme = Object.fromEntries(["ink", "muted", "line", "soft", "warn", "bad", "card", "other", "T1w", "T2w", "FLAIR", "PDw"].map((name) => [name, css(`--${name}`)]));
  theme.palette = Array.from({ length: PALETTE }, (_, index) => css(`--p${index}`));
}

/** The colour of every scan by a column: words by the palette, numbers along a ramp, grey where not known. */
function colouring(column) {
  if (!column.levels) {
    const known = data.scans.map((_, scan) => column.of(scan)).filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known), stops = [[38, 110, 214], [176, 92, 170], [233, 118, 30]];
    const at = (value) => {
      const where = high > low ? ((value - low) / (high - low)) * 2 : 1, from = Math.min(Math.floor(where), 1);
      return `rgb(${stops[from].map((part, index) => Math.round(part + (stops[from + 1][index] - part) * (where - from))).join()})`;
    };
    return { of: (scan) => (column.of(scan) === null ? theme.other : at(column.of(scan))), legend: [low, (low + high) / 2, high].map((value) => [`${Number(value.toPrecision(3))}`, at(value)]) };
  }
  const fixed = { pass: css("--ok"), unsure: theme.warn, fail: theme.bad, failed: theme.bad, incomplete: theme.warn, warning: css("--p4"), complete: css("--ok"), mixed: css("--p3") };
  const own = (level, index) => (column.name === "Contrast" ? theme[level] || theme.other
    : ["Status", "Rating"].includes(column.name) ? fixed[level] || theme.other
      : index < PALETTE - 1 || column.levels.length <= PALETTE ? theme.palette[index] : theme.other);
  const colours = column.levels.map(own), used = new Set(data.scans.map((_, scan) => column.of(scan)));
  const legend = column.levels.map((level, index) => [level || "no scan", colours[index], index]).filter(([, , index]) => used.has(index)).slice(0, PALETTE);
  if (column.levels.length > PALETTE) legend[legend.length - 1] = ["others", theme.other];
  if (used.has(null)) legend.push(["not known", theme.other]);
  return { of: (scan) => (column.of(scan) === null ? theme.other : colours[column.of(scan)]), legend };
}

function legendOf(host, colours, extra = []) {
  host.replaceChildren(...colours.legend.map(([text, colour]) => {
    const dot = el("i", { class: "dot" });
    dot.style.background = colour;
    return el("span", {}, dot, text);
  }), ...extra);
}

class Plot {
  /** `layout(width)` gives {height, draw(context)}; draw calls `this.point` for every point. */
  constructor(label, layout) {
    this.layout = layout;
    this.base = el("canvas", { "aria-hidden": "true" });
    this.top = el("canvas", { class: "over", tabindex: 0, role: "application", "aria-roledescription": "plot", "aria-label": `${label}. Arrow keys go from point to point, Enter opens the page.` });
    this.node = el("div", { class: "plot" }, this.base, this.top);
    this.inView = false;
    this.dirty = true;
    this.points = [];
    this.chosen = -1;
    new IntersectionObserver(([entry]) => { this.inView = entry.isIntersecting; if (this.inView && this.dirty) this.paint(); }, { rootMargin: "300px" }).observe(this.node);
    this.top.addEventListener("pointermove", (event) => this.hover(event));
    this.top.addEventListener("pointerleave", () => point(null));
    this.top.addEventListener("blur", () => point(null));
    this.top.addEventListener("click", (event) => { this.hover(event); this.open(event); });
    this.top.addEventListener("auxclick", (event) => { if (event.button === 1) this.open(event); });
    this.top.addEventListener("keydown", (event) => this.key(event));
    plots.push(this);
  }

  refresh() { this.dirty = true; if (this.inView) this.paint(); }

  paint() {
    const width = this.node.clientWidth;
    if (!width) return;
    this.dirty = false;
    this.points = [];
    const { height, draw } = this.layout(width), scale = window.devicePixelRatio || 1;
    this.node.style.height = `${height}px`;
    [this.base, this.top].forEach((canvas) => {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.getContext("2d").scale(scale, scale);
    });
    const context = this.base.getContext("2d");
    context.font = '12px system-ui, "DejaVu Sans", sans-serif';
    draw(context);
    context.globalAlpha = 1;
  }

  /** Draw one point, and remember where it is; those that are filtered out are shadows. */
  point(context, x, y, radius, scan, colour, text, ring = false) {
    const visible = filter.visible[scan];
    context.globalAlpha = visible ? 0.68 : 0.07;
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.fill();
    if (!visible) return;
    if (ring) {
      context.globalAlpha = 0.9;
      context.strokeStyle = theme.bad;
      context.lineWidth = 1.5;
      context.beginPath();
      context.arc(x, y, radius + 2.5, 0, 7);
      context.stroke();
    }
    this.points.push({ x, y, scan, text });
  }

  hover(event) {
    const box = this.top.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = 100, found = -1;
    this.points.forEach((other, index) => {
      const far = (other.x - x) ** 2 + (other.y - y) ** 2;
      if (far < best) { best = far; found = index; }
    });
    this.choose(found);
  }

  choose(index) {
    this.chosen = index;
    this.top.classList.toggle("link", index >= 0 && Boolean(hrefOf(this.points[index].scan)));
    point(index < 0 ? null : this.points[index], this);
  }

  open(event) {
    const href = this.chosen >= 0 && this.points[this.chosen] ? hrefOf(this.points[this.chosen].scan) : "";
    if (!href) return;
    if (event.ctrlKey || event.metaKey || event.button === 1) window.open(href, "_blank", "noopener");
    else location.href = href;
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter") this.open(event);
    else if (event.key === "Escape") this.choose(-1);
    else if (step && this.points.length) {
      event.preventDefault();
      const order = this.points.map((_, index) => index).sort((a, b) => this.points[a].x - this.points[b].x || this.points[a].y - this.points[b].y);
      const at = order.indexOf(this.chosen);
      this.choose(order[at < 0 ? (step > 0 ? 0 : order.length - 1) : (at + step + order.length) % order.length]);
      live.textContent = this.points[this.chosen].text;
    }
  }

  ring(session) {
    const context = this.top.getContext("2d");
    context.clearRect(0, 0, this.top.width, this.top.height);
    if (session === null) return;
    context.strokeStyle = theme.ink;
    context.lineWidth = 2;
    this.points.forEach((other) => {
      if (data.scans[other.scan][0] !== session) return;
      context.beginPath();
      context.arc(other.x, other.y, 6.5, 0, 7);
      context.stroke();
    });
  }
}

/** Say what is under the pointer, and mark the same session wherever it is drawn. */
function point(found, plot = null) {
  const session = found ? data.scans[found.scan][0] : null;
  plots.forEach((other) => { if (other.inView && !other.dirty) other.ring(session); });
  tip.hidden = !found;
  if (!found) return;
  tip.textContent = found.text;
  const box = plot.node.getBoundingClientRect(), { width } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(box.left + found.x - width / 2, document.documentElement.clientWidth - width - 6)) + window.scrollX}px`;
  tip.style.top = `${box.top + found.y + window.scrollY + 14}px`;
}

/** Round numbers around values: {low, high, step}. */
function axisOf(values) {
  let low = Infinity, high = -Infinity, whole = true;
  values.forEach((value) => { low = Math.min(low, value); high = Math.max(high, value); whole = whole && Number.isInteger(value); });
  if (low === high) { const room = whole ? 1 : Math.abs(low) * 0.05 + 1e-9; low -= room; high += room; }
  const rough = (high - low) / 4.5, power = 10 ** Math.floor(Math.log10(rough));
  let step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  if (whole) step = Math.max(step, 1);
  const tidy = (value) => Number(value.toPrecision(9));
  const [from, to] = [tidy(Math.floor(low / step + 1e-9) * step), tidy(Math.ceil(high / step - 1e-9) * step)];
  const ticks = Array.from({ length: Math.round((to - from) / step) + 1 }, (_, index) => tidy(from + index * step));
  return { low: from, high: to, ticks };
}

const tick = (value) => (Math.abs(value) < 1e6 ? value.toLocaleString("en", { maximumSignificantDigits: 6 }) : value.toPrecision(3)).replace("-", "−");
