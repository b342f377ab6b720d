(function () {
  "use strict";
  var table = document.getElementById("table"), body = table.tBodies[0];
  var rows = Array.prototype.slice.call(body.rows), heads = table.tHead.rows[0].cells;
  var words = document.getElementById("words"), status = document.getElementById("status");
  var shown = document.getElementById("shown");
  var points = Array.prototype.slice.call(document.querySelectorAll(".strip [data-k]"));
  var bySession = {};
  rows.concat(points).forEach(function (node) { (bySession[node.dataset.k] = bySession[node.dataset.k] || []).push(node); });
  rows.forEach(function (row) { row.words = row.textContent.toLowerCase(); });

  function filter() {
    var wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean), visible = {}, count = 0;
    rows.forEach(function (row) {
      var hit = (!status.value || row.dataset.status === status.value) &&
        wanted.every(function (word) { return row.words.indexOf(word) >= 0; });
      row.hidden = !hit;
      if (hit) { visible[row.dataset.k] = true; count += 1; }
    });
    points.forEach(function (point) { point.classList.toggle("off", !visible[point.dataset.k]); });
    shown.textContent = count + " of " + rows.length + (rows.length === 1 ? " row" : " rows");
  }

  function key(row, column) {
    var cell = row.cells[column], value = cell.dataset.v;
    return value === undefined ? cell.textContent.trim() : (value === "" ? null : Number(value));
  }

  function sort(column) {
    var head = heads[column], down = head.getAttribute("aria-sort") === "ascending";
    Array.prototype.forEach.call(heads, function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.slice().sort(function (a, b) {
      var x = key(a, column), y = key(b, column);
      if (x === null || y === null) { return (x === null) - (y === null); }  // nothing goes last, either way
      var order = typeof x === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return down ? -order : order;
    }).forEach(function (row) { body.appendChild(row); });
  }

  function mark(event) {
    var node = event.target.closest ? event.target.closest("[data-k]") : null;
    document.querySelectorAll(".hot").forEach(function (other) { other.classList.remove("hot"); });
    if (node) { bySession[node.dataset.k].forEach(function (other) { other.classList.add("hot"); }); }
  }

  Array.prototype.forEach.call(heads, function (head, column) {
    head.querySelector("button").addEventListener("click", function () { sort(column); });
  });
  words.addEventListener("input", filter);
  status.addEventListener("change", filter);
  document.querySelector("main").addEventListener("mouseover", mark);
  filter();
})();
