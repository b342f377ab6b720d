// Distributions: a strip of dots per group, with median and quartiles.
const TOP = 6, AXIS = 24, MOST = 14, NOT_KNOWN = "not known";

/** Put the points of some measures into rows; largest groups only where there are too many. */
function grouped(measures, by) {
  const groups = new Map();
  measures.forEach((measure) => measure.rows.forEach((scan, index) => {
    let name, order;
    if (by === "model") { name = measure.model || "the scan"; order = 0; } else {
      const value = by.of(scan), reference = measure.references[measure.reference[index]];
      name = value === null ? NOT_KNOWN : by.levels[value];
      order = value === null ? 1e6 : value;
      if (by.name === "Contrast" && reference) name = `${name} → ${reference}`;
    }
    if (!groups.has(name)) groups.set(name, { name: name || "no scan", order, points: [] });
    groups.get(name).points.push({ scan, measure, index, value: measure.values[index] });
  }));
  let found = [...groups.values()];
  if (found.length > MOST) {
    found.sort((a, b) => b.points.length - a.points.length);
    const rest = found.splice(MOST - 1);
    found.push({ name: `${rest.length} others`, order: 2e6, points: rest.flatMap((group) => group.points) });
  }
  return found.sort((a, b) => a.order - b.order || (a.name < b.name ? -1 : 1));
}

function quartiles(values) {
  const sorted = Float64Array.from(values).sort();
  return [0.25, 0.5, 0.75].map((part) => {
    const at = part * (sorted.length - 1), low = Math.floor(at);
    return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (at - low);
  });
}

/** Shift dots apart that would lie on each other: stacked around the middle, closer where there is no room. */
function beeswarm(xs, radius, room) {
  const bins = new Map(), order = xs.map((_, index) => index).sort((a, b) => xs[a] - xs[b] || a - b);
  order.forEach((index) => {
    const bin = Math.floor(xs[index] / (2 * radius));
    if (!bins.has(bin)) bins.set(bin, []);
    bins.get(bin).push(index);
  });
  const tallest = Math.max(1, ...[...bins.values()].map((bin) => bin.length));
  const spacing = Math.min(2 * radius + 0.4, room / Math.max(tallest - 1, 1)), shifts = new Float64Array(xs.length);
  bins.forEach((bin) => bin.forEach((index, place) => { shifts[index] = Math.floor((place + 1) / 2) * (place % 2 ? 1 : -1) * spacing; }));
  return shifts;
}

function fit(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let short = text;
  while (short.length > 1 && context.measureText(`${short}…`).width > room) short = short.slice(0, -1);
  return `${short}…`;
}

function stripPlot(measures, title) {
  const first = measures[0];
  const plot = new Plot(title, (width) => {
    const by = groupBy(), groups = grouped(measures, by), axis = axisOf(groups.flatMap((group) => group.points.map((p) => p.value)));
    const row = groups.length > 6 ? 34 : 46, bottom = TOP + row * groups.length;
    const draw = (context) => {
      const wanted = Math.max(...groups.map((group) => context.measureText(group.name).width));
      const left = Math.min(wanted, width * 0.32) + 12, x = (value) => left + ((value - axis.low) / (axis.high - axis.low)) * (width - left - 16);
      context.textAlign = "center";
      axis.ticks.forEach((value) => {
        context.strokeStyle = theme.line;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(Math.round(x(value)) + 0.5, TOP);
        context.lineTo(Math.round(x(value)) + 0.5, bottom);
        context.stroke();
      });
      const every = Math.ceil((axis.ticks.length * 1.15 * Math.max(...axis.ticks.map((value) => context.measureText(tick(value)).width))) / (width - left));
      context.fillStyle = theme.muted;
      axis.ticks.forEach((value, index) => { if (index % every === 0) context.fillText(tick(value), x(value), bottom + 16); });
      [first.low, first.high].forEach((limit) => {
        if (limit === null || limit <= axis.low || limit >= axis.high) return;
        context.strokeStyle = theme.warn;
        context.setLineDash([4, 3]);
        context.beginPath();
        context.moveTo(x(limit), TOP);
        context.lineTo(x(limit), bottom);
        context.stroke();
        context.setLineDash([]);
      });
      groups.forEach((group, place) => {
        const middle = TOP + row * (place + 0.5), radius = group.points.length > 300 ? 2.4 : group.points.length > 100 ? 3 : 4;
        context.globalAlpha = 1;
        context.textAlign = "right";
        context.fillStyle = theme.ink;
        context.fillText(fit(context, group.name, left - 12), left - 10, middle + 4);
        const shown = group.points.filter((p) => filter.visible[p.scan]).map((p) => p.value), marks = shown.length >= 5 ? quartiles(shown) : null;
        if (marks) {
          context.fillStyle = theme.soft;
          context.fillRect(x(marks[0]), middle - row / 2 + 4, Math.max(x(marks[2]) - x(marks[0]), 1), row - 8);
        }
        const xs = group.points.map((p) => x(p.value)), shifts = beeswarm(xs, radius, row - 14);
        group.points.forEach((p, index) => {
          const score = p.measure.odd.get(p.index), reference = p.measure.references[p.measure.reference[p.index]];
          const text = `${nameOf(p.scan)}${p.measure.model ? `, ${p.measure.model}` : ""}: ${show(p.measure, p.value)}${reference ? ` (with ${reference})` : ""}${score ? `, outlier, z = ${score}` : ""}`;
          plot.point(context, xs[index], middle + shifts[index], radius, p.scan, colours.of(p.scan), text, score !== undefined);
        });
        if (marks) {
          context.globalAlpha = 1;
          context.strokeStyle = theme.ink;
          context.lineWidth = 1.6;
          context.beginPath();
          context.moveTo(x(marks[1]), middle - row / 2 + 4);
          context.lineTo(x(marks[1]), middle + row / 2 - 4);
          context.stroke();
        }
      });
    };
    return { height: bottom + AXIS, draw };
  });
  return plot;
}

const groupBy = () => (byId("group-by").value === "model" ? "model" : columns[Number(byId("group-by").value)]);
let colours = null;

/** Lay the panels out: one per measure and model, or per measure where the models are the rows. */
function buildStrips() {
  const host = byId("strips"), panels = new Map();
  if (!host) return;
  plots.splice(0, plots.length, ...plots.filter((plot) => !host.contains(plot.node)));
  data.measures.forEach((measure) => {
    const key = groupBy() === "model" ? measure.name : `${measure.name} ${measure.model}`;
    panels.set(key, [...(panels.get(key) || []), measure]);
  });
  host.replaceChildren(...[...panels.values()].map((measures) => {
    const [first] = measures, title = groupBy() === "model" || !first.model ? first.title : `${first.title}, ${first.model}`;
    const plot = stripPlot(measures, title);
    return el("figure", { class: "card" }, el("figcaption", {}, el("b", {}, title), first.unit ? ` (${first.unit})` : "", el("span", {}, first.text)), plot.node);
  }));
}

function recolour() {
  colours = colouring(columns[Number(byId("colour-by").value)]);
  document.querySelectorAll(".colours").forEach((node) => legendOf(node, colours));
}

function setUpStrips() {
  const grouping = columns.map((column, index) => [index, column]).filter(([, column]) => column.levels);
  options(byId("group-by"), [...grouping.map(([index, column]) => [index, column.name]), ["model", "Model"]]);
  options(byId("colour-by"), columns.map((column, index) => [index, column.name]));
  options(byId("map-colour"), columns.map((column, index) => [index, column.name]));
  byId("group-by").addEventListener("change", buildStrips);
  ["colour-by", "map-colour"].forEach((id) => byId(id).addEventListener("change", () => {
    byId("colour-by").value = byId(id).value;
    byId("map-colour").value = byId(id).value;
    recolour();
    plots.forEach((plot) => plot.refresh());
  }));
}
