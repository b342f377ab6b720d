// Slice viewer: three planes through one session's images, with lesions and labels over them.
// Axes are RAS: x to the patient's right, y forward, z up. Left is left.
const PLANES = [
  { name: "axial", normal: 2, across: 0, up: 1, sides: ["L", "R"] },
  { name: "coronal", normal: 1, across: 0, up: 2, sides: ["L", "R"] },
  { name: "sagittal", normal: 0, across: 1, up: 2, sides: ["P", "A"] },
];
const AXES = ["x", "y", "z"];

/** Read the pixels of a picture of joined slices into one array, x fastest. */
async function decode(source, { shape: [nx, ny, nz], columns }) {
  const picture = new Image();
  picture.src = source;
  await picture.decode();
  const canvas = el("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data, volume = new Uint8Array(nx * ny * nz);
  for (let z = 0; z < nz; z += 1) {
    const left = (z % columns) * nx, top = Math.floor(z / columns) * ny;
    for (let y = 0; y < ny; y += 1) {
      const from = ((top + ny - 1 - y) * canvas.width + left) * 4, to = (z * ny + y) * nx;
      for (let x = 0; x < nx; x += 1) volume[to + x] = pixels[from + 4 * x];
    }
  }
  return volume;
}

const rgb = (color, index) => {
  if (color) return [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  const hue = (index * 137.5) % 360, part = (shift) => Math.round(255 * (0.55 + 0.4 * Math.cos(((hue + shift) * Math.PI) / 180)));
  return [part(0), part(-120), part(120)];
};

class Viewer {
  constructor(host, content) {
    Object.assign(this, content);
    this.cursor = this.shape.map((size) => Math.round(size / 2));
    this.cache = new Map();
    const choice = (entries, first) => el("select", { onchange: () => this.load() }, ...first, ...entries.map((entry, index) => el("option", { value: index }, entry.name)));
    this.image = choice(this.images, []);
    this.overlay = choice(this.overlays, [el("option", { value: "" }, "nothing")]);
    const first = this.overlays.findIndex((entry) => entry.name.startsWith("lesions"));
    if (first >= 0) this.overlay.value = String(first);
    this.opacity = el("input", { type: "range", min: 0, max: 100, value: 55, oninput: () => this.draw() });
    this.bright = el("input", { type: "range", min: 40, max: 250, value: 100, oninput: () => this.draw() });
    this.said = el("output");
    this.views = PLANES.map((plane) => this.view(plane));
    host.append(el("div", { class: "controls" }, el("label", {}, "Image ", this.image), el("label", {}, "Over it ", this.overlay), el("label", {}, "Opacity ", this.opacity), el("label", {}, "Brightness ", this.bright)),
      el("div", { class: "views" }, ...this.views.map((view) => view.node)), this.said);
  }

  view(plane) {
    const canvas = el("canvas", { width: this.shape[plane.across] * 3, height: this.shape[plane.up] * 3, role: "img", "aria-label": `${plane.name} slice` });
    const slider = el("input", { type: "range", min: 0, max: this.shape[plane.normal] - 1, value: this.cursor[plane.normal], "aria-label": `${plane.name} slice`, oninput: () => { this.cursor[plane.normal] = Number(slider.value); this.draw(); } });
    const where = el("span"), small = el("canvas", { width: this.shape[plane.across], height: this.shape[plane.up] });
    const pick = (event) => {
      const box = canvas.getBoundingClientRect(), last = (axis, part) => Math.max(0, Math.min(this.shape[axis] - 1, Math.floor(part * this.shape[axis])));
      this.cursor[plane.across] = last(plane.across, (event.clientX - box.left) / box.width);
      this.cursor[plane.up] = last(plane.up, 1 - (event.clientY - box.top) / box.height);
      this.draw();
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pick(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) pick(event); });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.cursor[plane.normal] = Math.max(0, Math.min(this.shape[plane.normal] - 1, this.cursor[plane.normal] - Math.sign(event.deltaY)));
      this.draw();
    }, { passive: false });
    const node = el("div", { class: "view" }, canvas, el("label", {}, where, slider)), width = this.shape[plane.across];
    node.style.flex = `${width} 1 ${width * 2}px`; // all planes at the same scale
    return { plane, canvas, slider, where, small, node };
  }

  async volume(entry) {
    if (!this.cache.has(entry)) this.cache.set(entry, await decode(entry.src, this));
    return this.cache.get(entry);
  }

  async load() {
    const image = this.images[Number(this.image.value)], over = this.overlay.value === "" ? null : this.overlays[Number(this.overlay.value)];
    const [gray, labels] = await Promise.all([this.volume(image), over ? this.volume(over) : null]);
    Object.assign(this, { gray, labels, over, colours: over ? over.labels.map(({ color }, index) => rgb(color, index)) : [] });
    if (labels && !this.moved) this.findMost(labels);
    this.moved = true;
    this.draw();
  }

  /** Start where most of the overlay is. */
  findMost(labels) {
    const [nx, ny, nz] = this.shape, sums = [0, 0, 0];
    const areas = Array.from({ length: nz }, (_, z) => { let n = 0; for (let i = z * nx * ny; i < (z + 1) * nx * ny; i += 1) n += labels[i] ? 1 : 0; return n; });
    const z = areas.indexOf(Math.max(...areas));
    for (let y = 0; y < ny; y += 1) for (let x = 0; x < nx; x += 1) if (labels[(z * ny + y) * nx + x]) { sums[0] += x; sums[1] += y; sums[2] += 1; }
    if (sums[2]) this.cursor = [Math.round(sums[0] / sums[2]), Math.round(sums[1] / sums[2]), z];
  }

  /** Where the cursor is in the world: slices of an oblique scan are oblique, so that all three axes count. */
  millimetres() {
    const [i, j, k] = this.cursor;
    return this.affine.map(([x, y, z, shift]) => Math.round(x * i + y * j + z * k + shift));
  }

  draw() {
    if (this.gray) this.views.forEach((view) => this.drawView(view));
    const [x, y, z] = this.cursor, [nx, ny] = this.shape, at = (z * ny + y) * nx + x, label = this.labels ? this.labels[at] : 0;
    const mm = this.millimetres();
    this.said.textContent = `${AXES.map((axis, index) => `${axis} ${mm[index]}`).join(", ")} mm${label ? `: ${this.over.labels[label - 1].name}` : ""}`;
  }

  drawView({ plane: { normal, across, up, sides }, canvas, slider, where, small }) {
    const [nx, ny] = this.shape, strides = [1, nx, nx * ny], width = this.shape[across], height = this.shape[up];
    const bright = Number(this.bright.value) / 100, opacity = Number(this.opacity.value) / 100, context = small.getContext("2d");
    const picture = context.createImageData(width, height), start = this.cursor[normal] * strides[normal];
    for (let row = 0; row < height; row += 1) {
      for (let column = 0; column < width; column += 1) {
        const at = start + column * strides[across] + (height - 1 - row) * strides[up], to = (row * width + column) * 4;
        const value = Math.min(255, this.gray[at] * bright), colour = this.labels && this.labels[at] ? this.colours[this.labels[at] - 1] : null;
        for (let part = 0; part < 3; part += 1) picture.data[to + part] = colour ? value * (1 - opacity) + colour[part] * opacity : value;
        picture.data[to + 3] = 255;
      }
    }
    context.putImageData(picture, 0, 0);
    const large = canvas.getContext("2d"), scale = canvas.width / width;
    large.imageSmoothingQuality = "high";
    large.drawImage(small, 0, 0, canvas.width, canvas.height);
    large.strokeStyle = "rgba(255,212,121,.65)";
    large.lineWidth = 1;
    const x = (this.cursor[across] + 0.5) * scale, y = (height - this.cursor[up] - 0.5) * scale;
    large.beginPath();
    [[x, 0, x, y - 8], [x, y + 8, x, canvas.height], [0, y, x - 8, y], [x + 8, y, canvas.width, y]].forEach(([a, b, c, d]) => { large.moveTo(a, b); large.lineTo(c, d); });
    large.stroke();
    large.fillStyle = "#ffd479";
    large.font = 'bold 15px system-ui, "DejaVu Sans", sans-serif';
    large.fillText(sides[0], 5, canvas.height / 2);
    large.fillText(sides[1], canvas.width - 17, canvas.height / 2);
    slider.value = this.cursor[normal];
    where.textContent = `${AXES[normal]} ${this.millimetres()[normal]} mm`;
  }
}

document.querySelectorAll("[data-viewer]").forEach((host) => {
  const viewer = new Viewer(host, data.viewers[Number(host.dataset.viewer)]);
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    viewer.load().then(() => { host.dataset.drawn = "yes"; });
  }, { rootMargin: "400px" }).observe(host);
});
