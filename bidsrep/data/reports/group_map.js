// The map of the cohort: embeddings of all scans in the two dimensions they differ most in.
function buildMaps() {
  const host = byId("maps");
  if (!host) return;
  host.replaceChildren(...data.maps.map((map) => {
    const caption = el("span"), plot = new Plot(`Map of the embeddings of ${map.model}`, (width) => {
      const view = byId("centred").checked ? map.centred : map.plain;
      caption.textContent = `First two principal components: ${view.explained.map((part) => `${Math.round(part * 100)} %`).join(" and ")} of the variance`;
      const height = Math.round(Math.min(width * 0.7, 420)), room = 14;
      const range = (values) => { let low = Infinity, high = -Infinity; values.forEach((v) => { low = Math.min(low, v); high = Math.max(high, v); }); return [low, Math.max(high, low + 1e-9)]; };
      const [left, right] = range(view.x), [bottom, top] = range(view.y);
      const scale = Math.min((width - 2 * room) / (right - left), (height - 2 * room) / (top - bottom)); // equal: distances count
      const x = (v) => width / 2 + (v - (left + right) / 2) * scale, y = (v) => height / 2 - (v - (bottom + top) / 2) * scale;
      const draw = (context) => {
        const radius = map.rows.length > 800 ? 2.6 : map.rows.length > 200 ? 3.4 : 5, column = columns[Number(byId("map-colour").value)];
        map.rows.forEach((scan, index) => {
          const value = column.of(scan), shown = value === null ? "not known" : column.levels ? column.levels[value] : value;
          plot.point(context, x(view.x[index]), y(view.y[index]), radius, scan, colours.of(scan), `${nameOf(scan)}, ${column.name}: ${shown}`);
        });
      };
      return { height, draw };
    });
    return el("figure", { class: "card" }, el("figcaption", {}, el("b", {}, map.model), caption), plot.node);
  }));
  byId("centred").addEventListener("change", () => plots.forEach((plot) => { if (host.contains(plot.node)) plot.refresh(); }));
}
