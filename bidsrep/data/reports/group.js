// Start the cohort's page.
readTheme();
setUpFilter();
setUpStrips();
setUpTable();
setUpProblems();
setUpEffects();
setUpRatings();
recolour();
buildStrips();
buildMaps();
filter.listeners.push(() => plots.forEach((plot) => plot.refresh()));
store.order = data.subjects.filter(({ href }) => href); // the subjects' pages go on to each other by this
applyFilter();

let waiting = 0;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => plots.forEach((plot) => plot.refresh()), 120); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); recolour(); plots.forEach((plot) => plot.refresh()); });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); }); // ratings may have changed
document.documentElement.dataset.ready = "yes";
